"""What cuDNN is asked for one geometry, and which of its algorithms may run: pure data, no cuDNN in it.

cuDNN pads both ends of an axis alike, has two or three spatial axes, and finds the small side's size by its own formula. Where a geometry
wants something else, the large side is computed on a window: an array of its own, into which the caller's is laid (zeros around it, or
ends cut off), or out of which the result is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

from preimage.geometry import ConvGeometry
from preimage.records import record

__all__ = ["DEFAULT_MATH", "FMA_MATH", "Shapes", "choose_algorithm", "refused", "shapes_of"]

DEFAULT_MATH, FMA_MATH = 0, 3  # cudnnMathType_t; the default takes TF32 for float32
MOST_ELEMENTS = (1 << 31) - 1
_DETERMINISTIC = 1
#: Algorithms that transform (Winograd, Fourier), by contraction: they sum in orders of their own, which accuracy="fast" allows.
_TRANSFORMS = {"conv": (4, 5, 6, 7), "conv_transpose": (2, 3, 4, 5), "conv_weight_grad": (2, 4, 5, 6)}
ALGORITHM_NAMES = {
    "conv": (
        "implicit gemm",
        "implicit precomputed gemm",
        "gemm",
        "direct",
        "fft",
        "tiled fft",
        "winograd",
        "non-fused winograd",
    ),
    "conv_transpose": ("0", "1", "fft", "tiled fft", "winograd", "non-fused winograd"),
    "conv_weight_grad": ("0", "1", "fft", "3", "winograd", "non-fused winograd", "tiled fft"),
}


@record
class Shapes:
    """A geometry as cuDNN sees it; sizes without batch and channels. shift: where the caller's large side begins in the window (negative:
    so much is cut off); plain: the window is the caller's large side itself.
    """

    window: tuple[int, ...]
    caller: tuple[int, ...]
    small: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    shift: tuple[int, ...]

    @property
    def plain(self) -> bool:
        return self.window == self.caller and not any(self.shift)

    def overlap(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Where window and caller's large side meet: its beginning in the window, in the caller's, its sizes."""
        here = tuple([max(0, s) for s in self.shift])
        there = tuple([max(0, -s) for s in self.shift])
        sizes = tuple([max(0, min(w - h, c - t)) for w, h, c, t in zip(self.window, here, self.caller, there, strict=True)])
        return here, there, sizes


def shapes_of(g: ConvGeometry) -> Shapes:
    """The shapes of a geometry of at most three spatial axes; missing axes have size 1."""
    rows = [
        _axis(*axis) for axis in zip(g.input_size, g.output_size, g.kernel_size, g.stride, g.dilation, g.padding, strict=True)
    ]
    rows = [(1, 1, 1, 1, 1, 1, 0, 0)] * (2 - len(rows)) + rows
    return Shapes(*(tuple(column) for column in zip(*rows, strict=True)))


def _axis(
    large: int, small: int, kernel: int, stride: int, dilation: int, padding: tuple[int, int]
) -> tuple[int, int, int, int, int, int, int, int]:
    lo, hi = padding
    extent = dilation * (kernel - 1) + 1
    both = max(0, min(lo, hi))
    if lo == hi == both and (large + 2 * both - extent) // stride + 1 == small:
        return large, large, small, kernel, stride, dilation, both, 0
    reach = (small - 1) * stride + extent  # cells that the small side reaches, padding included
    return reach, large, small, kernel, stride, dilation, 0, lo


def refused(g: ConvGeometry, dtype: str) -> str | None:
    """Why cuDNN is not asked, or None."""
    if g.ndim > 3:
        return f"it has {g.ndim} spatial axes, and cuDNN at most 3"
    shapes = shapes_of(g)
    most = max(
        g.batch * g.in_channels * prod(shapes.window), g.batch * g.in_channels * prod(shapes.caller),
        g.batch * g.out_channels * prod(shapes.small), prod(g.weight_shape),
    )  # fmt: skip
    if most > MOST_ELEMENTS:
        return f"an array of {most:,} elements, and cuDNN's classic calls take at most {MOST_ELEMENTS:,}"
    return None


def choose_algorithm(contraction: str, found: Iterable[Any], limit_bytes: int, fast: bool) -> tuple[Any | None, dict[str, str]]:
    """The first of cuDNN's proposals that may run, and why those before it may not, by name.

    A proposal has number, status, memory, determinism and math. Deterministic ones alone; unless `fast` with multiply-adds of the arrays'
    own type, and none that transforms; within the workspace.
    """
    reasons: dict[str, str] = {}
    names: Sequence[str] = ALGORITHM_NAMES[contraction]
    for one in found:
        name = names[one.number] if one.number < len(names) else str(one.number)
        if one.status:
            reasons.setdefault(name, f"not for this geometry (status {one.status})")
        elif one.determinism != _DETERMINISTIC:
            reasons.setdefault(name, "not deterministic")
        elif not fast and one.number in _TRANSFORMS[contraction]:
            reasons.setdefault(name, "sums in an order of its own, which accuracy='fast' allows")
        elif not fast and one.math != FMA_MATH:
            reasons.setdefault(name, "rounds factors to TF32, which accuracy='fast' allows")
        elif one.memory > limit_bytes:
            reasons.setdefault(name, f"wants {one.memory} bytes of workspace, {limit_bytes} are allowed")
        else:
            return one, reasons
    return None, reasons
