"""What a program depends on: the keys under which programs are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import TypeAlias

from preimage.engines.base import Array
from preimage.engines.decisions import forget_shortcuts
from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.jit import branches
from preimage.engines.jit.compiler import kernels
from preimage.geometry import ConvGeometry
from preimage.records import record

__all__ = [
    "ELEMENTS",
    "SMALL_MACS",
    "ConvRequest",
    "Request",
    "WeightGradRequest",
    "dense_strides",
    "is_little",
    "is_readable",
    "little_macs",
    "little_work",
    "meaningful_strides",
    "take_epilogue",
    "take_request",
]

ELEMENTS = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}
SMALL_MACS = 500_000  # less work than this is not worth handing out to threads
_little = 1 << 16


def little_macs() -> int:
    """Up to so many multiply-adds a call takes kernels whose sizes are all arguments: there are a few dozen of them, so that
    small layers of any shape compile next to nothing. They take microseconds, whatever kernel computes them.
    """
    return _little


@contextmanager
def little_work(macs: int) -> Iterator[None]:
    """Another limit inside the block, in the whole process: 0 has every size computed as large ones are (tests)."""
    global _little
    before, _little = _little, macs
    forget_shortcuts()
    try:
        yield
    finally:
        _little = before
        forget_shortcuts()


def is_little(g: ConvGeometry) -> bool:
    """Whether a call takes the kernels of little work."""
    return g.inside_macs <= _little


def meaningful_strides(shape: tuple[int, ...], strides: tuple[int, ...], item: int) -> tuple[int, ...]:
    """Byte strides of an (N, C, *spatial) array, with those of axes of one position set to what they are in a dense array.

    NumPy leaves the stride of such an axis undefined: it may be anything, zero and negative numbers included, even in an array
    whose flags say "contiguous". Plans multiply strides by tap offsets that reach over the axis' ends and read the distance
    between neighbouring pixels off them, so none may see such a number.
    """
    order = list(range(len(shape)))
    if strides[1] == item:  # channels innermost
        order.append(order.pop(1))
    found, step = list(strides), item
    for axis in reversed(order):
        if shape[axis] == 1:
            found[axis] = step
        step = found[axis] * shape[axis]
    return tuple(found)


def is_readable(a: Array) -> bool:
    """Whether an array's elements lie whole numbers of elements apart and its channels, or its last axis, contiguously."""
    item, shape, strides = a.itemsize, a.shape, a.strides
    if any(stride % item for stride, n in zip(strides, shape, strict=True) if n > 1):
        return False
    if len(shape) > 2:
        if shape[1] == 1 or strides[1] == item:
            if shape[-1] == 1 or strides[-1] == shape[1] * item:
                return True
        elif strides[-1] == item:
            return True
    return a.flags.c_contiguous


@record
class ConvRequest:
    """All that the program of conv or conv_transpose depends on; element is f32, f64, f16 or bf16.

    Strides are in bytes: the arrays' own, but for axes of one position (`meaningful_strides`).
    """

    geometry: ConvGeometry
    contraction: str
    element: str
    in_strides: tuple[int, ...]
    out_strides: tuple[int, ...]
    finish: EpilogueSpec
    threads: int
    every_tap: bool  # taps over the padding take part
    single: bool  # no zeros from a margin may be multiplied (a transposed convolution whose weights are not finite)
    prepared: bool  # the weights come packed
    target: kernels.Target
    little: bool = False  # kernels whose sizes are all arguments
    fast: bool = False  # algorithms that sum in orders of their own may run
    tile: tuple[int, int, int] | None = None  # lanes, vectors, pixels, where the caller wants a certain tile

    def __post_init__(self) -> None:
        g, item = self.geometry, ELEMENT_BYTES[self.element]
        given, result = (g.input_shape, g.output_shape)[:: 1 if self.contraction == "conv" else -1]
        object.__setattr__(self, "in_strides", meaningful_strides(given, self.in_strides, item))
        object.__setattr__(self, "out_strides", meaningful_strides(result, self.out_strides, item))


@record
class WeightGradRequest:
    """All that the program of conv_weight_grad depends on. Strides in bytes as above; element: f32, f64, f16 or bf16."""

    geometry: ConvGeometry
    element: str
    x_strides: tuple[int, ...]
    y_strides: tuple[int, ...]
    out_strides: tuple[int, ...]
    threads: int
    target: kernels.Target
    little: bool = False  # kernels whose sizes are all arguments
    part: bool = False  # of a batch: the result is a node of the images' tree, in the type of the sums
    fast: bool = False  # algorithms that sum in orders of their own may run

    @property
    def contraction(self) -> str:
        return "conv_weight_grad"

    @property
    def sums(self) -> str:
        """The type in which is summed."""
        return "f64" if self.element == "f64" else "f32"

    @property
    def result(self) -> str:
        """The element type of the result."""
        return self.sums if self.part else self.element

    def __post_init__(self) -> None:
        g, own = self.geometry, self.element
        for name, shape, element in (("x", g.input_shape, own), ("y", g.output_shape, own), ("out", g.weight_shape, self.result)):
            field = f"{name}_strides"
            object.__setattr__(self, field, meaningful_strides(shape, getattr(self, field), ELEMENT_BYTES[element]))


Request: TypeAlias = "ConvRequest | WeightGradRequest"


def dense_strides(shape: tuple[int, ...], item: int, channels_last: bool) -> tuple[int, ...]:
    """The strides of an array that lies densely in C order or channels-last."""
    if channels_last:
        memory = (shape[0], *shape[2:], shape[1])
        steps = [item * prod(memory[k + 1 :]) for k in range(len(memory))]
        return (steps[0], item, *steps[1:-1])
    return tuple(item * prod(shape[k + 1 :]) for k in range(len(shape)))


def take_request(contraction: str, element: str, little: bool, threads: int) -> None:
    """The decisions that a request brings with it, of any contraction."""
    branches.request(f"{contraction}.{'little_work' if little else 'large_work'}")
    branches.request(f"{contraction}.{element}")
    branches.request(f"{contraction}.{'one_thread' if threads == 1 else 'several_threads'}")


def take_epilogue(finish: EpilogueSpec, prepared: bool) -> None:
    """Those of a request for conv or conv_transpose."""
    branches.request("weights.prepared" if prepared else "weights.given")
    parts = {
        "bias": finish.bias, "residual": finish.residual, "activation": finish.activation is not None, "chain": bool(finish.chain),
    }  # fmt: skip
    for name in [name for name, is_there in parts.items() if is_there] or ["none"]:
        branches.request(f"epilogue.{name}")
