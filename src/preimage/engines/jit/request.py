"""What a recipe depends on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from preimage.engines.jit import llvm
from preimage.engines.jit.schedules.epilogue import Finish
from preimage.geometry import ConvGeometry

__all__ = ["Request", "is_little", "little_macs", "little_work"]

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
    try:
        yield
    finally:
        _little = before


def is_little(g: ConvGeometry) -> bool:
    """Whether a call takes the kernels of little work."""
    return g.inside_macs <= _little


@dataclass(frozen=True, slots=True)
class Request:
    """All that a recipe depends on. Strides are the arrays' own, in bytes; element is f32, f64, f16 or bf16."""

    geometry: ConvGeometry
    contraction: str
    element: str
    in_strides: tuple[int, ...]
    out_strides: tuple[int, ...]
    finish: Finish
    threads: int
    every_tap: bool  # taps over the padding take part
    single: bool  # no zeros from a margin may be multiplied (a transposed convolution whose weights are not finite)
    prepared: bool  # the weights come packed
    target: llvm.Target
    little: bool = False  # kernels whose sizes are all arguments
    tile: tuple[int, int, int] | None = None  # lanes, vectors, pixels, where the caller wants a certain tile
