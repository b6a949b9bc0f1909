"""Module: parameters, buffers and other modules under names, and a forward function over them.

Names and shapes in `state_dict` are PyTorch's, so weights go from one library to the other as arrays under the same keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Self, overload

import numpy as np

from preimage.autograd import Tensor, array_of, as_array, fitted
from preimage.autograd.tensor import FLOATS
from preimage.display import Shown
from preimage.errors import DTypeError, OptionError, PreimageError, ShapeError
from preimage.floating_point import is_changed, standard
from preimage.nn.describe import text_of
from preimage.nn.weight_norm import with_weights
from preimage.ops.operands import float_dtype
from preimage.typing import Array, ArrayLike, DTypeLike, Operand, Value

__all__ = ["Layer", "LoadReport", "Module", "Parameter"]

Hook = Callable[["Module", tuple[Any, ...], Any], Any]


class Parameter(Tensor):
    """A leaf that a module owns and an optimiser changes; it requires a gradient unless requires_grad=False."""

    __slots__ = ()

    def __init__(self, data: Operand, requires_grad: bool = True, name: str | None = None) -> None:
        super().__init__(data, requires_grad=requires_grad, name=name)


class LoadReport(NamedTuple):
    """What load_state_dict(strict=False) left alone: keys that the module has and the dict has not, and the reverse."""

    missing_keys: list[str]
    unexpected_keys: list[str]


_inside: ContextVar[bool] = ContextVar("preimage_inside_module", default=False)


def _has_tensor(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_has_tensor(v) for v in value)
    if isinstance(value, dict):
        return any(_has_tensor(v) for v in value.values())
    return isinstance(value, Tensor)


def _as_tensor(value: Any) -> Any:
    """A float array as a Tensor that records nothing; anything else as it is, for the operations to judge."""
    return Tensor(value) if type(value) is np.ndarray and value.dtype.name in FLOATS else value


def _as_arrays(result: Any) -> Any:
    """A result with arrays in place of Tensors that record nothing, also inside tuples, lists and dicts."""
    if isinstance(result, Tensor):
        return result if result.requires_grad else result.data
    if type(result) in (tuple, list):
        return type(result)(_as_arrays(r) for r in result)
    return {k: _as_arrays(r) for k, r in result.items()} if type(result) is dict else result


def _buffer(value: Any, name: str) -> Array:
    return as_array(array_of(value), name, values_only=True)


class Module(Shown):
    """The base of all layers: assign Parameters and Modules as attributes and write `forward`."""

    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Array | None]
    _modules: dict[str, Module | None]
    training: bool

    def __init__(self) -> None:
        for table in ("_parameters", "_buffers", "_modules", "_hooks"):
            object.__setattr__(self, table, {})
        object.__setattr__(self, "training", True)

    # -- attributes ------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: object) -> None:
        tables = self.__dict__
        if "_parameters" not in tables:
            raise OptionError(f"{type(self).__name__}: call super().__init__() before setting attributes")
        kind = "_parameters" if isinstance(value, Parameter) else "_modules" if isinstance(value, Module) else None
        if kind is None:
            for table in ("_parameters", "_modules"):
                if name in tables[table]:
                    if value is not None:
                        raise DTypeError(
                            f"{name} is registered already; assign a Parameter, a Module or None, not {type(value).__name__}"
                        )
                    tables[table][name] = None
                    return
            if name in tables["_buffers"]:
                tables["_buffers"][name] = None if value is None else _buffer(value, name)
                return
            object.__setattr__(self, name, value)
            return
        for table in ("_parameters", "_buffers", "_modules"):
            if table != kind:
                tables[table].pop(name, None)
        tables.pop(name, None)
        tables[kind][name] = value
        if isinstance(value, Parameter) and value.name is None:
            value.name = name  # errors of the graph say which array they mean

    def __getattr__(self, name: str) -> Any:
        for table in ("_parameters", "_buffers", "_modules"):
            held = self.__dict__.get(table, {})
            if name in held:
                return held[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        for table in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__[table]:
                del self.__dict__[table][name]
                return
        object.__delattr__(self, name)

    def _check_name(self, name: str) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise OptionError(f"a name must not be empty or hold a dot, got {name!r}")
        if name in self.__dict__ or hasattr(type(self), name):
            raise OptionError(f"{type(self).__name__} has an attribute {name!r} already")

    def register_parameter(self, name: str, value: Parameter | None) -> None:
        """A parameter under a name; None says that there could be one (bias=False)."""
        self._check_name(name)
        self._parameters[name] = value

    def register_buffer(self, name: str, value: Operand | None) -> None:
        """An array that belongs to the state but is not learned, such as a running mean."""
        self._check_name(name)
        self._buffers[name] = None if value is None else _buffer(value, name)

    def add_module(self, name: str, module: Module | None) -> None:
        """A module under a name that need not be an identifier, such as "0"."""
        self._check_name(name)
        self._modules[name] = module

    # -- running ---------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; write it in a subclass."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result: Tensors where gradients are recorded or a Tensor was given, arrays of NumPy otherwise, whatever the layer."""
        if is_changed():
            with standard():
                return self(*args, **kwargs)
        if self._own_kinds or _inside.get() or _has_tensor(args) or _has_tensor(kwargs):
            return self._run_hooked(args, kwargs)
        # Inside, all is Tensors, so that a `forward` which calls their methods runs alike whether it records or not.
        token = _inside.set(True)
        try:
            result = self._run_hooked(tuple(_as_tensor(a) for a in args), {k: _as_tensor(v) for k, v in kwargs.items()})
        finally:
            _inside.reset(token)
        return _as_arrays(result)

    #: A module that itself gives arrays for arrays.
    _own_kinds = False

    def _run_hooked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = self.forward(*args, **kwargs)
        for hook in list(self._hooks.values()):
            changed = hook(self, args, result)
            result = result if changed is None else changed
        return result

    def register_forward_hook(self, hook: Hook) -> Callable[[], None]:
        """Call hook(module, args, result) after every forward; what it returns, unless None, replaces the result.

        Gives a function that takes the hook away again.
        """
        key = object()
        self._hooks[key] = hook
        return lambda: self._hooks.pop(key, None)

    # -- walking ---------------------------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules held directly."""
        for name, module in self._modules.items():
            if module is not None:
                yield name, module

    def children(self) -> Iterator[Module]:
        """The modules held directly, without their names."""
        for _, module in self.named_children():
            yield module

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, each once, parents first."""
        seen: set[int] = set()
        stack: list[tuple[str, Module]] = [(prefix, self)]
        while stack:
            path, module = stack.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield path, module
            held = reversed(module._modules.items())
            stack += [(f"{path}.{name}" if path else name, m) for name, m in held if m is not None]

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once, parents first."""
        seen: set[int] = set()
        stack = [self]
        while stack:
            module = stack.pop()
            if id(module) not in seen:
                seen.add(id(module))
                yield module
                stack += [m for m in reversed(module._modules.values()) if m is not None]

    def _entries(self, table: str) -> Iterator[tuple[str, Module, str, Any]]:
        """Every (full name, owner, name, value) of a table, with repeats where modules are shared."""
        stack: list[tuple[str, Module]] = [("", self)]
        while stack:
            path, module = stack.pop()
            for name, value in module.__dict__[table].items():
                yield f"{path}.{name}" if path else name, module, name, value
            held = reversed(module._modules.items())
            stack += [(f"{path}.{name}" if path else name, m) for name, m in held if m is not None]

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their full names; one that is shared comes once."""
        seen: set[int] = set()
        for full, _, _, value in self._entries("_parameters"):
            if value is not None and id(value) not in seen:
                seen.add(id(value))
                yield full, value

    def parameters(self) -> Iterator[Parameter]:
        """All parameters; one that is shared comes once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """All buffers with their full names."""
        for full, _, _, value in self._entries("_buffers"):
            if value is not None:
                yield full, value

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Call a function on every module, this one last; gives this module."""
        for module in reversed(list(self.modules())):
            function(module)
        return self

    # -- modes -----------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Training mode (dropout drops, batch normalisation uses the batch) for this module and all below."""
        for module in self.modules():
            object.__setattr__(module, "training", bool(mode))
        return self

    def eval(self) -> Self:
        """Evaluation mode."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Whether the parameters get gradients."""
        for parameter in self.parameters():
            parameter.requires_grad = bool(requires_grad)
        return self

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def astype(self, dtype: DTypeLike) -> Self:
        """All parameters and float buffers in another float dtype; gradients are forgotten."""
        wanted = float_dtype(dtype)
        for parameter in self.parameters():
            with np.errstate(all="ignore"):
                parameter._data = parameter._data.astype(wanted)
            parameter.grad = None
        for _, owner, name, value in self._entries("_buffers"):
            if value is not None and value.dtype.kind not in "iub":
                with np.errstate(all="ignore"):
                    owner._buffers[name] = value.astype(wanted)
        return self

    # -- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters and buffers under their full names, in PyTorch's order within a module."""
        state: dict[str, Array] = {}
        stack: list[tuple[str, Module]] = [("", self)]
        while stack:
            path, module = stack.pop()
            for table in (module._parameters, module._buffers):
                for name, value in table.items():
                    if value is not None:
                        state[f"{path}.{name}" if path else name] = np.array(array_of(value))
            stack += [(f"{path}.{name}" if path else name, m) for name, m in reversed(list(module.named_children()))]
        return state

    def load_state_dict(self, state: Mapping[str, Operand], strict: bool = True) -> LoadReport:
        """Set all parameters and buffers from arrays (of NumPy, Tensors, or anything numpy.asarray takes) under their names.

        All or nothing: where something does not fit, nothing is changed. A missing num_batches_tracked is forgiven: old
        files have none.

        Values are rounded to the dtypes that are there; torch's tensors and parameters may stand for arrays. A weight that torch
        trained under weight normalisation (`weight_g` and `weight_v`) is put together from the two.

        Raises: OptionError naming missing and unexpected keys (strict); ShapeError naming every array of another shape; DTypeError naming
            what would be lost: words, complex numbers, finite values that the dtype cannot hold.
        """
        if not isinstance(state, Mapping):
            raise OptionError(f"a state is a dict of names and arrays, got {type(state).__name__}")
        targets: dict[str, tuple[Module, str, Any]] = {}
        for table in ("_parameters", "_buffers"):
            for full, owner, name, value in self._entries(table):
                if value is not None:
                    targets[full] = (owner, name, value)
        state = with_weights(state, targets)
        missing = [k for k in targets if k not in state and not k.endswith("num_batches_tracked")]
        unexpected = [str(k) for k in state if k not in targets]
        if strict and (missing or unexpected):
            parts = [f"{what} {', '.join(keys)}" for what, keys in (("missing:", missing), ("unexpected:", unexpected)) if keys]
            raise OptionError(f"the state does not fit {type(self).__name__}: {'; '.join(parts)}")
        arrays: dict[str, Array] = {}
        wrong: dict[type[PreimageError], list[str]] = {}
        for k in (k for k in targets if k in state):
            try:
                arrays[k] = np.array(fitted(array_of(state[k]), targets[k][2].dtype, targets[k][2].shape, k))
            except (ShapeError, DTypeError) as error:
                wrong.setdefault(type(error), []).append(str(error))
        for kind in (ShapeError, DTypeError):
            if kind in wrong:
                raise kind(f"the state does not fit {type(self).__name__}: {'; '.join(wrong[kind])}")
        for k, array in arrays.items():
            owner, name, value = targets[k]
            if isinstance(value, Parameter):
                value.assign(array)
            else:
                owner._buffers[name] = array
        return LoadReport(missing, unexpected)

    # -- looking ---------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """The options, as they stand between the parentheses of the repr."""
        return ""

    def __repr__(self) -> str:
        return text_of(self)


class Layer(Module):
    """A module of one array: a Tensor gives a Tensor; an array gives an array, or a Tensor where gradients are recorded."""

    if TYPE_CHECKING:

        @overload
        def __call__(self, x: Tensor) -> Tensor: ...
        @overload
        def __call__(self, x: ArrayLike) -> Value: ...
        def __call__(self, x: Operand) -> Value: ...
