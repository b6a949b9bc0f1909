"""Tensor: an array that remembers how it was made.

A Tensor that an operation gave holds an edge to the Node that made it; a leaf holds none. Nodes hold edges to nodes and
leaves, never to the Tensors of results, so the graph has no reference cycle: memory goes when the last name goes.

The methods and operators (`t + 1`, `t.sum()`) are operations; preimage.ops installs them with `install_methods`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from preimage.autograd.arrays import as_array, fitted
from preimage.autograd.device_arrays import DeviceArray, given_back, place_of
from preimage.autograd.traced import TracedArray
from preimage.display import Shown
from preimage.errors import DomainError, DTypeError, GraphError, OptionError, ShapeError, SharingError

if TYPE_CHECKING:
    from preimage.autograd.primitive import Node
    from preimage.typing import ArrayLike, Axes, Condition, DTypeLike, Index, Operand, Reduction, Shape, SpreadReduction, Value

__all__ = ["Tensor", "array_of", "install_methods", "is_tensor", "method"]

Array = NDArray[Any]
T = TypeVar("T")
FLOATS = ("float32", "float64", "float16", "bfloat16")

_methods: dict[str, Callable[..., Any]] = {}


def install_methods(table: Mapping[str, Callable[..., Any]]) -> None:
    """Give Tensor the methods and operators of `table`: name -> function whose first argument is the Tensor."""
    for name, function in table.items():
        _methods[name] = function
        setattr(Tensor, name, function)


def method(name: str) -> Callable[..., Any]:
    """An installed method; the machine itself needs "add" to sum cotangents."""
    try:
        return _methods[name]
    except KeyError:
        raise GraphError(f"Tensor has no operation {name!r} yet: import preimage.ops") from None


#: What needs no conversion; a foreign byte order is not equal.
_PLAIN = frozenset(np.dtype(t) for t in (np.float32, np.float64, np.float16))


def _float_array(data: Operand) -> Array:
    if type(data) is np.ndarray and data.dtype in _PLAIN and data.flags.aligned:
        return data
    if isinstance(data, Tensor):
        data = data.data
    array = as_array(data, "data")
    if isinstance(array, DeviceArray) and array.dtype.name in FLOATS:
        return array.kept()
    if array.dtype == object or array.dtype.name not in FLOATS:
        if isinstance(data, (float, int)) and not isinstance(data, bool):
            return np.asarray(data, np.float64)
        raise DTypeError(
            f"a Tensor holds float32, float64, float16 or bfloat16, got {array.dtype}; convert with array.astype(np.float32)"
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array if array.flags.aligned else array.copy()


class Tensor(Shown):
    """An array with a place in a computation DAG.

    `data` is the ndarray (not copied). Operations on Tensors give Tensors; those that depend on a leaf with
    `requires_grad=True` record how they were made, and `backward()` or `preimage.grad` runs the record in reverse.
    The result of a recorded operation is read-only: its gradient may need it unchanged.

    Raises: DTypeError for data that is not float.
    """

    __slots__ = ("__weakref__", "_data", "_grad", "_node", "_version", "name", "requires_grad")

    #: NumPy's own operators give way: `array * tensor` calls Tensor.__rmul__.
    __array_ufunc__ = None

    #: == compares elements, as in NumPy; sets and dictionaries tell Tensors apart by identity.
    __hash__ = object.__hash__

    def __init__(self, data: Operand, requires_grad: bool = False, name: str | None = None) -> None:
        self._data = _float_array(data)
        self._node: Node | None = None
        self._version = 0
        if not isinstance(requires_grad, (bool, np.bool_, int)):
            raise OptionError(f"requires_grad must be True or False, got {requires_grad!r}")
        self.requires_grad = bool(requires_grad)
        self._grad: Tensor | None = None
        self.name = name

    @classmethod
    def _result(cls, data: Array, node: Node | None) -> Tensor:
        tensor = cls.__new__(cls)
        tensor._data, tensor._node, tensor._version = data, node, 0
        tensor.requires_grad, tensor._grad, tensor.name = node is not None, None, None
        return tensor

    # -- the array -------------------------------------------------------------------------------------------------

    @property
    def data(self) -> Array:
        """The array itself, of NumPy or, on a GPU, of the library that it came from. Assigning replaces it (same shape and dtype) and marks
        the Tensor as changed.
        """
        return given_back(self._data)  # type: ignore[no-any-return]

    @data.setter
    def data(self, value: Operand) -> None:
        self.assign(value)

    def assign(self, value: Operand) -> None:
        """Replace the values of a leaf: same shape, dtype kept; earlier records that need the old ones will say so."""
        if self._node is not None:
            raise GraphError(f"only a leaf can be assigned to; this Tensor is the result of {self._node.op.name}")
        array = as_array(array_of(value), "the value to assign", values_only=True)
        if array.shape != self._data.shape:
            raise ShapeError(f"cannot assign shape {array.shape} to a Tensor of shape {self._data.shape}")
        self._data = fitted(array, self._data.dtype, self._data.shape, "the value to assign")
        self._version += 1

    @property
    def grad(self) -> Tensor | None:
        """What `backward` added up here; None before. Assign None, a Tensor, or an array of the same shape.

        An array is rounded to the Tensor's dtype. Raises: ShapeError for another shape; DTypeError for what holds no real numbers.
        """
        return self._grad

    @grad.setter
    def grad(self, value: Operand | None) -> None:
        if isinstance(value, Tensor):
            if value.shape != self.shape:
                raise ShapeError(f"the gradient of a Tensor of shape {self.shape} has that shape too, got {value.shape}")
        elif value is not None:
            value = Tensor(fitted(value, self.dtype, self.shape, "the gradient"))
        self._grad = value

    def numpy(self) -> Array:
        """The values as an array (not copied; read-only where an operation recorded it)."""
        return self._data

    def detach(self) -> Tensor:
        """A leaf with the same data that records nothing."""
        return Tensor(self._data)

    def tolist(self) -> Any:
        """The values as nested lists of Python floats; one float for a Tensor without axes."""
        return self._data.tolist()

    def item(self) -> float:
        """The value of a Tensor with one element, as a Python float."""
        if self._data.size != 1:
            raise ShapeError(f"item() needs one element, this Tensor has shape {self.shape}")
        return float(self._data.reshape(()))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._data.dtype

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def size(self) -> int:
        return self._data.size

    @property
    def is_leaf(self) -> bool:
        """Whether no operation made it."""
        return self._node is None

    def numel(self) -> int:
        """How many elements there are: `size` under PyTorch's name."""
        return self._data.size

    def dim(self) -> int:
        """How many axes there are: `ndim` under PyTorch's name."""
        return self._data.ndim

    # -- one number ------------------------------------------------------------------------------------------------

    def __float__(self) -> float:
        return self.item()

    def __int__(self) -> int:
        value = self.item()
        if not math.isfinite(value):
            raise DomainError(f"{value} is no integer")
        return int(value)

    def __complex__(self) -> complex:
        return complex(self.item())

    def __round__(self, digits: int | None = None) -> float:
        return round(self.item(), digits) if digits is not None else int(self)

    def __bool__(self) -> bool:
        if self._data.size != 1:
            raise ShapeError(f"a Tensor of shape {self.shape} has not one truth; ask (t != 0).any() or (t != 0).all()")
        return bool(self._data if type(self._data) is TracedArray else self.item())

    def __index__(self) -> int:
        raise DTypeError(f"a Tensor holds {self.dtype} and is no index; int(t) makes an integer of one element")

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __len__(self) -> int:
        if not self._data.ndim:
            raise ShapeError("a Tensor without axes has no length")
        return len(self._data)

    # -- copies ----------------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A copy with the record that led to it, and the leaves at its start."""
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        for slot in ("_data", "_grad", "_node", "_version", "name", "requires_grad"):
            setattr(made, slot, copy.deepcopy(getattr(self, slot), memo))
        return made

    def __copy__(self) -> Tensor:
        made = type(self).__new__(type(self))
        for slot in ("_data", "_grad", "_node", "_version", "name", "requires_grad"):
            setattr(made, slot, getattr(self, slot))
        return made

    def _leaf(self) -> tuple[Any, ...]:
        return self._data, self.requires_grad and self._node is None, None if self._grad is None else self._grad.data, self.name

    def __reduce__(self) -> tuple[Any, ...]:
        """A file holds the values: the result of a recorded operation comes back as a leaf that records nothing."""
        return _restored, (type(self), *self._leaf())

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is None:  # as needed: NumPy 1 has no copy=None
            return np.asarray(self._data, dtype)
        return np.array(self._data, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> object:
        """The values for another library, not copied: `torch.from_dlpack(t)`, `np.from_dlpack(t)`. Options are DLPack's own.

        Raises: SharingError for a Tensor that requires gradients, whose record would be lost, and for what DLPack or the other library cannot
            take as it is (bfloat16; read-only values, before DLPack 1.0).
        """
        if self.requires_grad:
            raise SharingError("a Tensor that requires gradients cannot be shared, its record would be lost: share t.detach()")
        try:
            return self.data.__dlpack__(**options)
        except BufferError as error:
            raise SharingError(f"{self.dtype} values cannot be shared as they lie ({error}); share a copy: np.array(t)") from None

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the values lie, in DLPack's numbers: (1, 0) is the CPU."""
        kind, number = self.data.__dlpack_device__()
        return int(kind), int(number)

    def __repr__(self) -> str:
        made = f", from={self._node.op.name}" if self._node is not None else ", requires_grad=True" if self.requires_grad else ""
        if isinstance(self._data, DeviceArray):
            return f"Tensor(shape={self.shape}, dtype={self.dtype}, on {place_of(self._data)}{made})"
        text = np.array2string(self._data, separator=", ", prefix="Tensor(", threshold=100)
        return f"Tensor({text}, shape={self.shape}, dtype={self.dtype}{made})"

    # -- the graph -------------------------------------------------------------------------------------------------

    def backward(
        self, grad_output: Operand | None = None, *, create_graph: bool = False, retain_graph: bool | None = None
    ) -> None:
        """Add d(self)/d(leaf), contracted with `grad_output`, to `leaf.grad` of every leaf that requires it.

        grad_output may be left out where self has one element (it is 1 then).
        """
        from preimage.autograd.backward import backward  # the machine is built on Tensor: import when run

        backward(self, grad_output, create_graph=create_graph, retain_graph=retain_graph)

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    if TYPE_CHECKING:  # installed by preimage.ops

        def __add__(self, other: Operand) -> Tensor: ...
        def __radd__(self, other: ArrayLike) -> Tensor: ...
        def __sub__(self, other: Operand) -> Tensor: ...
        def __rsub__(self, other: ArrayLike) -> Tensor: ...
        def __mul__(self, other: Operand) -> Tensor: ...
        def __rmul__(self, other: ArrayLike) -> Tensor: ...
        def __truediv__(self, other: Operand) -> Tensor: ...
        def __rtruediv__(self, other: ArrayLike) -> Tensor: ...
        def __pow__(self, other: Operand) -> Tensor: ...
        def __rpow__(self, other: ArrayLike) -> Tensor: ...
        def __matmul__(self, other: Operand) -> Tensor: ...
        def __rmatmul__(self, other: ArrayLike) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __pos__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...

        # arrays of booleans; a type checker wants what `object` gives, a bool, for == and !=
        def __eq__(self, other: object) -> Any: ...
        def __ne__(self, other: object) -> Any: ...
        def __lt__(self, other: Operand) -> Array: ...
        def __le__(self, other: Operand) -> Array: ...
        def __gt__(self, other: Operand) -> Array: ...
        def __ge__(self, other: Operand) -> Array: ...

        def __getitem__(self, key: Index) -> Tensor: ...
        def __setitem__(self, key: Index, value: Operand) -> None: ...
        def __iter__(self) -> Iterator[Tensor]: ...
        def __contains__(self, value: float) -> bool: ...

        sum: Reduction[Tensor]
        mean: Reduction[Tensor]
        prod: Reduction[Tensor]
        max: Reduction[Tensor]
        min: Reduction[Tensor]
        var: SpreadReduction
        std: SpreadReduction
        argmax: Reduction[Array]
        argmin: Reduction[Array]
        logsumexp: Reduction[Tensor]

        def softmax(self, axis: int = -1, *, dim: int | None = None) -> Tensor: ...
        def log_softmax(self, axis: int = -1, *, dim: int | None = None) -> Tensor: ...
        def chunk(self, chunks: int, dim: int = 0) -> list[Tensor]: ...
        def split(self, split_size: Shape, dim: int = 0) -> list[Tensor]: ...
        def unbind(self, dim: int = 0) -> list[Tensor]: ...
        def clamp(self, min: float | None = None, max: float | None = None) -> Tensor: ...
        def pow(self, exponent: Operand) -> Tensor: ...
        def masked_fill(self, mask: Condition, value: float) -> Tensor: ...
        def expand(self, *sizes: Shape) -> Tensor: ...
        def contiguous(self) -> Tensor: ...
        def clone(self) -> Tensor: ...
        def repeat(self, *sizes: Shape, axis: int | None = None) -> Tensor: ...
        def tile(self, *sizes: Shape) -> Tensor: ...
        def flip(self, *dims: Axes) -> Tensor: ...
        def roll(self, shifts: Shape, dims: Axes = None) -> Tensor: ...
        def narrow(self, dim: int, start: int, length: int) -> Tensor: ...
        def unflatten(self, dim: int, sizes: Shape) -> Tensor: ...
        def expand_as(self, other: Value) -> Tensor: ...
        def view_as(self, other: Value) -> Tensor: ...
        def reshape_as(self, other: Value) -> Tensor: ...
        def movedim(self, source: Shape, destination: Shape) -> Tensor: ...
        def amax(self, dim: Axes = None, keepdim: bool = False) -> Tensor: ...
        def amin(self, dim: Axes = None, keepdim: bool = False) -> Tensor: ...
        def add(self, other: Operand, *, alpha: float = 1) -> Tensor: ...
        def sub(self, other: Operand, *, alpha: float = 1) -> Tensor: ...
        def mul(self, other: Operand) -> Tensor: ...
        def div(self, other: Operand) -> Tensor: ...
        def neg(self) -> Tensor: ...
        def maximum(self, other: Operand) -> Tensor: ...
        def minimum(self, other: Operand) -> Tensor: ...
        def bmm(self, other: Operand) -> Tensor: ...
        def mm(self, other: Operand) -> Tensor: ...
        def cos(self) -> Tensor: ...
        def expm1(self) -> Tensor: ...
        def reciprocal(self) -> Tensor: ...
        def rsqrt(self) -> Tensor: ...
        def sign(self) -> Tensor: ...
        def sin(self) -> Tensor: ...
        def abs(self) -> Tensor: ...
        def clip(self, lo: float | None = None, hi: float | None = None) -> Tensor: ...
        def exp(self) -> Tensor: ...
        def log(self) -> Tensor: ...
        def log1p(self) -> Tensor: ...
        def sqrt(self) -> Tensor: ...
        def square(self) -> Tensor: ...
        def relu(self) -> Tensor: ...
        def sigmoid(self) -> Tensor: ...
        def tanh(self) -> Tensor: ...
        def matmul(self, other: Operand) -> Tensor: ...
        def reshape(self, *shape: Shape) -> Tensor: ...
        def view(self, *shape: Shape) -> Tensor: ...
        def ravel(self) -> Tensor: ...
        def flatten(self, start_axis: int = 0, end_axis: int = -1) -> Tensor: ...
        def squeeze(self, axis: Axes = None) -> Tensor: ...
        def expand_dims(self, axis: Shape) -> Tensor: ...
        def unsqueeze(self, axis: Shape) -> Tensor: ...
        def transpose(self, *axes: Axes) -> Tensor: ...
        def permute(self, *dims: Shape) -> Tensor: ...
        def moveaxis(self, source: Shape, destination: Shape) -> Tensor: ...
        def swapaxes(self, axis1: int, axis2: int) -> Tensor: ...
        def broadcast_to(self, shape: Shape) -> Tensor: ...
        def astype(self, dtype: DTypeLike) -> Tensor: ...
        @property
        def T(self) -> Tensor: ...  # noqa: N802 - the transpose, as in NumPy


def _restored(kind: type[Tensor], data: Array, requires_grad: bool, grad: Array | None, name: str | None) -> Tensor:
    tensor = kind.__new__(kind)
    Tensor.__init__(tensor, data, requires_grad, name)
    tensor.grad = grad  # as an array: it is made a Tensor there
    return tensor


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether `value` is a Tensor."""
    return isinstance(value, Tensor)


@overload
def array_of(value: Value) -> Array: ...
@overload
def array_of(value: T) -> T: ...
def array_of(value: Any) -> Any:
    """The array inside a Tensor; anything else as it is."""
    return value._data if isinstance(value, Tensor) else value
