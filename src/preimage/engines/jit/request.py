"""What a recipe depends on."""

from __future__ import annotations

from dataclasses import dataclass

from preimage.engines.jit import llvm
from preimage.engines.jit.schedules.epilogue import Finish
from preimage.geometry import ConvGeometry

__all__ = ["Request"]


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
    tile: tuple[int, int, int] | None = None  # lanes, vectors, pixels, where the caller wants a certain tile
