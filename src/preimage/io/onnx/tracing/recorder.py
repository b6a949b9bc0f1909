"""Who writes a forward pass down: the names of values, and the nodes that make them.

The input's arrays are TracedArrays (`preimage.autograd.traced`). Every operation that is given one, or a parameter, is observed, and its
result becomes one too; layers of preimage.nn, and functions that are one thing, are written as such and compute with plain arrays.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from preimage import nn
from preimage.autograd import Primitive, Tensor, array_of, enable_grad, no_grad, observe
from preimage.autograd.traced import TracedArray, plain, writing
from preimage.errors import FileFormatError
from preimage.io.graph import Node
from preimage.io.onnx.tracing import compounds, numpy_calls, operations  # noqa: F401 - their rows register themselves
from preimage.io.onnx.tracing.indexing import written_index
from preimage.io.onnx.tracing.layers import layer_word
from preimage.io.onnx.tracing.rows import FUNCTIONS, OPERATIONS, cast_to
from preimage.nn.kept import KeptWeight

__all__ = ["Recorder", "flat"]

_lock = threading.Lock()
_signature = cache(inspect.signature)


def flat(result: Any) -> list[Any]:
    """What a layer gives, as a list: a result, or a tuple or list of them, which may hold others; the values of a dict."""
    if isinstance(result, Mapping):
        result = list(result.values())
    return [each for part in result for each in flat(part)] if isinstance(result, tuple | list) else [result]


def _place(array: np.ndarray) -> tuple[Any, ...]:
    """Where an array lies in memory, and how."""
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype


def _untraced(value: Any) -> Any:
    """A value with plain arrays in Tensors, too."""
    if isinstance(value, Tensor):
        return Tensor(plain(value._data)) if type(value._data) is TracedArray else value
    if type(value) in (tuple, list):
        return type(value)([_untraced(v) for v in value])
    return plain(value)


class Recorder:
    """Names of the values seen so far, the nodes written, and what could not be (`refused`)."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        parameters: dict[str, Any] = dict(module.named_parameters())
        self._stored: dict[str, Any] = dict(module.named_buffers()) | parameters
        self._stored_names = {id(value): key for key, value in self._stored.items()}
        self._stored_names |= {id(p._data): key for key, p in parameters.items()}
        self.layers = {id(m): key for key, m in module.named_modules()}
        self.used: dict[str, Any] = {}
        self.kept: list[Any] = []  # constants, so that no id is given away twice
        self.constants: dict[str, np.ndarray] = {}
        self.takers: dict[str, str] = {}  # of each constant, what took it first
        self._constant_names: dict[int, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.nodes: list[Node] = []
        self.refused: list[str] = []
        self.label = ""
        self._alive: WeakValueDictionary[Any, TracedArray] = WeakValueDictionary()
        self._owner = threading.get_ident()
        self._resting = False

    # -- names ---------------------------------------------------------------------------------------------------------

    def known(self, value: Any) -> str | None:
        """The name of a Tensor or array that is written down, or that the module stores."""
        array = array_of(value)
        if type(array) is TracedArray and array.writer is self:
            return array.name
        for held in (value, array):
            if (key := self._stored_names.get(id(held))) is not None:
                return self._use(key)
        if not isinstance(array, np.ndarray) or not array.size:
            return None
        alive = self._alive.get(_place(array))  # NumPy drops the class of an array without a copy (np.asarray)
        return None if alive is None or alive.writer is not self else alive.name

    def _use(self, key: str) -> str:
        if key not in self.used:
            self.used[key] = self._stored[key]
            self.shapes[key] = np.shape(array_of(self._stored[key]))
        return key

    def name(self, value: Any) -> str:
        """The name of a value: of one that is known, or of a new constant."""
        found = self.known(value)
        if found is not None:
            return found
        key = self._constant_names.get(id(value))
        if key is None:
            key = self.constant(array_of(value))
            self._constant_names[id(value)] = key
            self.kept.append(value)
        return key

    def constant(self, value: Any, dtype: Any = None) -> str:
        """The name of a new constant."""
        key = f"constant_{len(self.constants)}"
        self.constants[key] = np.array(plain(value), dtype)
        self.takers[key] = self.label
        self.shapes[key] = self.constants[key].shape
        return key

    def ints(self, *values: int) -> str:
        """The name of a new constant list of integers."""
        return self.constant(values, np.int64)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def put(self, op: str, *inputs: str, **attributes: Any) -> str:
        """One more node: the name of what it makes."""
        return self.put_all(op, *inputs, results=1, **attributes)[0]

    def put_all(self, op: str, *inputs: str, results: int, **attributes: Any) -> tuple[str, ...]:
        """One more node of several results: their names."""
        number = len(self.nodes)
        made = tuple([f"value_{number}" + (f"_{k}" if k else "") for k in range(results)])
        self.nodes.append(Node(f"{self.label}#{number}", op, tuple(inputs), made, attributes, layer=self.label))
        return made

    def refuse(self, what: str) -> str:
        """Something that has no word: named at the end. The name of what stands for it meanwhile."""
        self.refused.append(what)
        return self.constant(0.0)

    def traced(self, array: Any, name: str, written_to: bool = False) -> TracedArray:
        """What a node made, under its name; written_to: NumPy made it, and may go on with it in place."""
        values = np.asarray(array)
        self.shapes[name] = values.shape
        made = self._alive[_place(values)] = TracedArray.of(values, self, name)
        made.flags.writeable = written_to and values.flags.writeable
        return made

    def _adopt(self, made: Any, names: Any) -> Any:
        """The Tensors and arrays that a call gave, under their names."""
        listed = iter((names,) if isinstance(names, str) else names)

        def each(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple([each(v) for v in value])
            array = self.traced(array_of(value), next(listed))
            return Tensor(array, requires_grad=True) if isinstance(value, Tensor) else array

        return each(made)

    # -- what is called ------------------------------------------------------------------------------------------------

    def saw(self, op: Primitive, args: Sequence[Any], params: dict[str, Any], made: Tensor) -> None:
        """An operation ran."""
        if self._resting:
            return
        row = OPERATIONS.get(op.name)
        self.label = op.name
        name = None if row is None else row(self, *args, **params)
        made._data = self.traced(made._data, name if isinstance(name, str) else self.refuse(op.name))
        made._node = None  # what gradients would need is not kept; that it asks for them stays

    def whole(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """A function that is one thing is called: written by its own row, where that takes the arguments, or else by what it calls."""
        if self._resting or not any(self.known(v) for v in (*args, *options.values()) if isinstance(v, Tensor | np.ndarray)):
            return function(*args, **options)
        inner = inspect.unwrap(function)
        given = _signature(inner).bind(*args, **options)
        given.apply_defaults()
        self.label = inner.__name__
        names = FUNCTIONS[inner.__name__](self, **given.arguments)
        if names is None:
            return function(*args, **options)
        with self._rest():
            made = function(*_untraced(args), **{k: _untraced(v) for k, v in options.items()})
        return self._adopt(made, names)

    def layer(self, call: Callable[..., Any], module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """A Module is called: a layer of preimage.nn is written by its own row, or else by what it calls."""
        if self._resting or threading.get_ident() != self._owner:
            return call(module, *args, **options)
        self.label = label = self.layers.get(id(module), type(module).__name__)
        given = args[0] if len(args) == 1 and not options else None
        if isinstance(given, Tensor) and self.known(given):
            last = getattr(module, "layout", "channels_first") == "channels_last" and given.ndim > 2
            before, used = len(self.nodes), dict(self.used)
            value = self.name(given)
            built = layer_word(module, [self._moved(value, given.ndim, True) if last else value], self.name)
            if built is not None:
                with self._rest():
                    result = call(module, _untraced(given))
                op, inputs, attributes = built
                names = self.put_all(op, *inputs, results=len(flat(result)), **attributes)
                return self._adopt(result, [self._moved(names[0], result.ndim, False)] if last else names)
            del self.nodes[before:]
            self.used = used
        result = call(module, *args, **options)
        values = [v for v in flat((args, options)) if isinstance(v, Tensor | np.ndarray) and self.known(v)]
        made = [v for v in flat(result) if isinstance(v, Tensor)]
        if values and made and not any(self.known(v) for v in made):
            named = f" {label!r}" if label else ""  # it would be taken for a constant
            self.refused.append(f"{type(module).__name__}{named} (no operation made its result from its input)")
        return result

    def _moved(self, value: str, ndim: int, first: bool) -> str:
        """A value with its channels moved from the last axis to the first behind the batch, or back: words have them there."""
        axes = (0, ndim - 1, *range(1, ndim - 1)) if first else (0, *range(2, ndim), 1)
        return self.put("transpose", value, axes=axes)

    # -- what NumPy computes on arrays that are written down (`preimage.autograd.traced.Writer`) ----------------------------

    def _numpy(self, name: str | None, result: Any) -> Any:
        return result if name is None else self.traced(result, name, written_to=True)

    def ufunc(self, ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], options: dict[str, Any], result: Any) -> Any:
        """A universal function of NumPy."""
        if self._resting or isinstance(result, tuple):
            return result
        self.label = ufunc.__name__
        name = numpy_calls.written_ufunc(self, ufunc, method, inputs, options, np.asarray(result))
        made = self._numpy(name, result)
        for target in options.get("out") or ():
            if type(target) is TracedArray:  # it holds the result now
                target.writer, target.name = (None, "") if name is None else (self, name)
                return target
        return made

    def function(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], result: Any) -> Any:
        """Another function of NumPy."""
        row = None if self._resting else numpy_calls.FUNCTIONS.get(function)
        self.label = function.__name__
        if row is None or isinstance(result, tuple | list):
            return result
        return self._numpy(row(self, np.asarray(result), *args, **options), result)

    def index(self, array: TracedArray, key: Any, result: Any) -> Any:
        """array[key]."""
        if self._resting:
            return result
        self.label = "getitem"
        return self._numpy(written_index(self, array, key), result)

    def truth(self, array: TracedArray) -> None:
        """Python asks whether an array is true: the graph would have the branch of the example."""
        if not self._resting:
            self.refused.append("a branch on values")

    def cast(self, array: TracedArray, result: Any) -> Any:
        """An array in another dtype."""
        return result if self._resting else self._numpy(cast_to(self, array, result.dtype), result)

    # -- a whole forward pass ------------------------------------------------------------------------------------------

    @contextmanager
    def _rest(self) -> Iterator[None]:
        """Inside the block nothing is written, and nothing recorded."""
        self._resting = True
        try:
            with no_grad():
                yield
        finally:
            self._resting = False

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """The forward pass on these arrays: what it gives, as a list.

        Raises: FileFormatError that lists what has no word.
        """
        call = nn.Module.__call__
        of, fusible = KeptWeight.of, nn.Sequential._fusible
        given: list[Any] = [self.traced(array, name) for name, array in inputs.items()]
        given = [Tensor(a, requires_grad=True) if _is_float(a) else a for a in given]

        def module_called(module: Any, *args: Any, **options: Any) -> Any:
            return self.layer(call, module, args, options)

        with _lock:
            nn.Module.__call__ = module_called  # type: ignore[method-assign, assignment]
            KeptWeight.of = lambda _, weight: weight  # type: ignore[method-assign, assignment, return-value]
            nn.Sequential._fusible = lambda *_: None  # type: ignore[method-assign]  # a layer and its activation are two nodes
            try:
                with enable_grad(), observe(self.saw), writing(self.whole):
                    results = flat(self.module(*given))
            except ValueError as error:
                if "read-only" not in str(error):
                    raise
                raise FileFormatError(
                    "the module writes into an array of its own; choose between values with ops.where"
                ) from error
            finally:
                nn.Module.__call__ = call  # type: ignore[method-assign]
                KeptWeight.of, nn.Sequential._fusible = of, fusible  # type: ignore[method-assign]
        self._resting = True  # for good: arrays that the module keeps are told to nobody
        if self.refused:
            listed = ", ".join(dict.fromkeys(self.refused))
            raise FileFormatError(f"{len(self.refused)} operations of the module have no word in graphs: {listed}")
        return results


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"
