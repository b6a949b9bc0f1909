"""NetSpec: nets written in Python, as pycaffe's `layers as L, params as P`.

n = caffe.NetSpec()
n.data = L.Input(shape=dict(dim=[1, 3, 64, 64]))
n.conv1 = L.Convolution(n.data, num_output=8, kernel_size=3, weight_filler=dict(type="xavier"))
n.relu1 = L.ReLU(n.conv1, in_place=True)
n.to_proto()
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from preimage.caffe.errors import TopTypeError
from preimage.errors import FileFormatError, OptionError
from preimage.io.caffe.wire.message import Message
from preimage.io.caffe.wire.schema import ENUMS, Field, message_fields

__all__ = ["NetSpec", "Top", "layers", "params", "to_proto"]

_FALLBACK = {
    "Deconvolution": "convolution_param",
    "Im2col": "convolution_param",
    "SoftmaxWithLoss": "softmax_param",
    "Normalize": "norm_param",
}


def _param_field(type_name: str) -> str | None:
    """The field of LayerParameter that a layer type's own settings go to."""
    fields = message_fields("LayerParameter")
    if type_name in _FALLBACK:
        return _FALLBACK[type_name]
    return next((name for name, field in fields.items() if field.type == f"{type_name}Parameter"), None)


class Top:
    """One output of a layer that is being described."""

    def __init__(self, function: _Function, index: int) -> None:
        self.fn, self.n = function, index

    def to_proto(self) -> Message:
        """The net up to this top."""
        return to_proto(self)


class _Function:
    """One layer that is being described."""

    def __init__(self, type_name: str, bottoms: tuple[Any, ...], settings: dict[str, Any]) -> None:
        for index, bottom in enumerate(bottoms):
            if not isinstance(bottom, Top):
                raise TopTypeError(f"{type_name} input {index} is not a Top (type is {type(bottom)})")
        self.type_name, self.bottoms, self.settings = type_name, bottoms, dict(settings)
        self.in_place = self.settings.pop("in_place", False)
        self.tops = tuple(Top(self, k) for k in range(self.settings.pop("ntop", 1)))
        self.message = self._message()

    inputs = property(lambda self: self.bottoms, doc="pycaffe's name for the bottoms.")
    params = property(lambda self: self.settings, doc="pycaffe's name for the settings.")

    def _message(self) -> Message:
        layer = Message("LayerParameter", type=self.type_name)
        own = _param_field(self.type_name)
        for name, value in self.settings.items():
            if name in message_fields("LayerParameter"):
                _assign(layer, name, value)
            elif own is not None:
                _assign(layer.sub(own), name, value)
            else:
                raise OptionError(f"{self.type_name} has no parameter {name!r}")
        return layer


def _assign(message: Message, name: str, value: Any) -> None:
    try:
        field = message_fields(message.type_name)[name]
    except KeyError:
        raise OptionError(f"{message.type_name} has no field {name!r}") from None
    if not field.repeated:
        setattr(message, name, _converted(field, value))
    else:
        setattr(message, name, [_converted(field, item) for item in (value if isinstance(value, list | tuple) else [value])])


def _converted(field: Field, value: Any) -> Any:
    if field.kind == "message" and isinstance(value, dict):
        message = Message(field.type)
        for name, item in value.items():
            _assign(message, name, item)
        return message
    return value


class _Layers:
    """`L.AnyType(bottom, ..., field=value)`: one top, or a tuple where ntop says so."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def layer(*bottoms: Any, **settings: Any) -> Any:
            function = _Function(name, bottoms, settings)
            return function.tops[0] if len(function.tops) == 1 else function.tops or function

        return layer


class _Params:
    """`P.Pooling.MAX`: the numbers of enums by message and word."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _Words(f"{name}Parameter")


class _Words:
    def __init__(self, message: str) -> None:
        try:
            kinds = {field.type for field in message_fields(message).values() if field.kind == "enum"}
        except KeyError:
            raise FileFormatError(f"there are no parameters called {message}") from None
        for kind in kinds:
            self.__dict__.update(ENUMS[kind])


layers, params = _Layers(), _Params()


class NetSpec:
    """Tops by name, in the order in which they were assigned."""

    def __init__(self) -> None:
        object.__setattr__(self, "tops", OrderedDict())

    def __setattr__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "tops")[name]
        except KeyError:
            raise AttributeError(f"the net has no top {name!r}") from None

    __setitem__ = __setattr__
    __getitem__ = __getattr__

    def to_proto(self) -> Message:
        """The net as a NetParameter; `str` of it is a prototxt."""
        names: dict[Any, str] = {top: name for name, top in self.tops.items()}
        return _written([_function_of(top) for top in self.tops.values()], names)


def to_proto(*tops: Any) -> Message:
    """The net that leads to these tops, with names made up (Convolution1, ...)."""
    return _written([_function_of(top) for top in tops], {})


def _function_of(top: Any) -> _Function:
    if isinstance(top, Top):
        return top.fn
    if isinstance(top, _Function):
        return top
    raise OptionError(f"a top was expected, got {type(top).__name__}")


def _written(roots: list[_Function], names: dict[Any, str]) -> Message:
    net = Message("NetParameter")
    counts: dict[str, int] = {}
    blobs: dict[Top, str] = {}

    def blob_name(top: Top) -> str:
        if top not in blobs:
            if top.fn.in_place:
                blobs[top] = blob_name(top.fn.bottoms[top.n])
            elif top in names:
                blobs[top] = names[top]
            else:
                blobs[top] = made_up(top.fn)
        return blobs[top]

    def made_up(function: _Function) -> str:
        counts[function.type_name] = counts.get(function.type_name, 0) + 1
        return f"{function.type_name}{counts[function.type_name]}"

    for function in _in_order(roots):
        layer = function.message.copy()
        layer.bottom = [blob_name(bottom) for bottom in function.bottoms]
        layer.top = [blob_name(top) for top in function.tops]
        if not layer.has("name"):
            named = next((names[top] for top in function.tops if top in names), None) or names.get(function)
            own = layer.top and not function.in_place
            layer.name = named or (layer.top[0] if own else made_up(function))
        net.add("layer", layer)
    return net


def _in_order(roots: list[_Function]) -> Iterator[_Function]:
    """Every function once, after those it takes from. Iterative: depth costs no stack."""
    done: set[_Function] = set()
    for root in roots:
        stack = [(root, False)]
        while stack:
            function, ready = stack.pop()
            if function in done:
                continue
            if ready:
                done.add(function)
                yield function
            else:
                stack.append((function, True))
                stack += [(bottom.fn, False) for bottom in reversed(function.bottoms) if bottom.fn not in done]
