"""Margins, resizing, shuffles, and images read at positions."""

from __future__ import annotations

import math
from typing import Any

from preimage import ops
from preimage.errors import OptionError, ShapeError
from preimage.functional.checks import one_of
from preimage.geometry import per_axis
from preimage.ops import grids
from preimage.ops.operands import count_of, entries, operand
from preimage.typing import Operand, PerAxis, ScaleFactor, Shape, Value

__all__ = ["affine_grid", "channel_shuffle", "grid_sample", "interpolate", "pad", "pixel_shuffle", "pixel_unshuffle"]

#: torch's names of modes, ours, and the number of spatial axes that a name is of.
_RESIZING: dict[str, tuple[Any, int | None]] = {
    "nearest": ("nearest", None), "nearest-exact": ("nearest-exact", None), "linear": ("linear", 1), "bilinear": ("linear", 2),
    "trilinear": ("linear", 3), "bicubic": ("cubic", 2), "area": ("area", None),
}  # fmt: skip
_PADDING: dict[str, Any] = {"constant": "zeros", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def pad(input: Operand, pad: Shape, mode: str = "constant", value: float | None = None) -> Value:
    """The array extended by margins in torch's order: (left, right) of the last axis, then of the one before it, and so on; negative ones crop.

    mode: "constant" (value, 0 if None), "reflect", "replicate" or "circular".
    Raises: OptionError for another mode, and a value beside a mode that takes none; ShapeError for more margins than axes.
    """
    x, word = operand(input, "input"), one_of("pad", "mode", mode, tuple(_PADDING))
    sizes = entries(pad)
    if sizes is None or len(sizes) % 2 or len(sizes) > 2 * x.ndim:
        raise ShapeError(f"pad: wanted up to {x.ndim} pairs (lo, hi), last axis first, for shape {x.shape}; got {pad!r}")
    if value is not None and word != "constant":
        raise OptionError(f"pad: value is of mode 'constant', got mode {mode!r}")
    count = len(sizes) // 2
    pairs: Any = tuple((sizes[2 * k], sizes[2 * k + 1]) for k in reversed(range(count)))
    axes = tuple(range(x.ndim - count, x.ndim))
    return ops.pad(x, pairs, mode=_PADDING[word], value=value or 0.0, axes=axes) if count else x


def interpolate(
    input: Operand,
    size: PerAxis | None = None,
    scale_factor: ScaleFactor | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Value:
    """(N, C, *spatial) resized to `size`, or by `scale_factor`: "nearest", "nearest-exact", "linear" (N, C, L), "bilinear" and "bicubic"
    (N, C, H, W), "trilinear" (N, C, D, H, W), or "area", the means of equal parts.

    antialias: "bilinear" and "bicubic" alone: the filter widens where an axis shrinks.
    Raises: OptionError for another mode, and an option of other modes; ShapeError for a mode of another number of axes.
    """
    x = operand(input, "input")
    word, axes = _RESIZING[one_of("interpolate", "mode", mode, tuple(_RESIZING))]
    if x.ndim < 3 or (axes is not None and x.ndim != axes + 2):
        spatial = "at least one spatial axis" if axes is None else f"{axes} spatial {'axis' if axes == 1 else 'axes'}"
        raise ShapeError(f"interpolate: mode {mode!r} is of (N, C, ...) with {spatial}, got shape {x.shape}")
    if align_corners is not None and word not in ("linear", "cubic"):
        raise OptionError(f"interpolate: align_corners is an option of the linear and cubic modes, got mode {mode!r}")
    if antialias and axes != 2:
        raise OptionError(f"interpolate: antialias is an option of the modes 'bilinear' and 'bicubic', got mode {mode!r}")
    if word == "area":
        return _area(x, size, scale_factor)
    return ops.upsample(
        x, size=size, scale_factor=scale_factor, mode=word, align_corners=bool(align_corners),
        recompute_scale_factor=bool(recompute_scale_factor), antialias=bool(antialias),
    )  # fmt: skip


def _area(x: Value, size: PerAxis | None, scale_factor: ScaleFactor | None) -> Value:
    if (size is None) == (scale_factor is None):
        raise OptionError("interpolate: give either size or scale_factor")
    if size is None:
        listed = entries(scale_factor)
        factors: Any = [scale_factor] * (x.ndim - 2) if listed is None else listed
        if len(factors) != x.ndim - 2:
            raise ShapeError(f"interpolate: scale_factor has {len(factors)} values for {x.ndim - 2} spatial axes")
        size = tuple(math.floor(n * float(f)) for n, f in zip(x.shape[2:], factors, strict=True))
    return ops.adaptive_avg_pool(x, per_axis(size, x.ndim - 2, "size"))


def pixel_shuffle(input: Operand, upscale_factor: int) -> Value:
    """(*, C r^2, H, W) -> (*, C, H r, W r)."""
    x, r = operand(input, "input"), count_of(upscale_factor, "pixel_shuffle: upscale_factor", 1)
    y = ops.pixel_shuffle(_images(x, "pixel_shuffle"), r)
    return ops.reshape(y, (*x.shape[:-3], *y.shape[1:]))


def pixel_unshuffle(input: Operand, downscale_factor: int) -> Value:
    """(*, C, H r, W r) -> (*, C r^2, H, W), the inverse of pixel_shuffle."""
    x, r = operand(input, "input"), count_of(downscale_factor, "pixel_unshuffle: downscale_factor", 1)
    y = ops.pixel_unshuffle(_images(x, "pixel_unshuffle"), r)
    return ops.reshape(y, (*x.shape[:-3], *y.shape[1:]))


def _images(x: Value, name: str) -> Value:
    if x.ndim < 3:
        raise ShapeError(f"{name}: wanted (*, C, H, W), got shape {x.shape}")
    return ops.reshape(x, (math.prod(x.shape[:-3]), *x.shape[-3:]))


def channel_shuffle(input: Operand, groups: int) -> Value:
    """The channels (N, C, ...) in another order: those of equal place in every group side by side."""
    x, groups = operand(input, "input"), count_of(groups, "channel_shuffle: groups", 1)
    if x.ndim < 3 or x.shape[1] % groups:
        raise ShapeError(f"channel_shuffle: wanted (N, C, ...) with C a multiple of {groups}, got shape {x.shape}")
    rows = ops.reshape(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    return ops.reshape(ops.swapaxes(rows, 1, 2), x.shape)


_SAMPLING = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}


def grid_sample(
    input: Operand, grid: Operand, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Value:
    """input (N, C, *spatial) read at the positions of grid (N, *out, axes), in -1..1, x before y: "bilinear", "nearest" or "bicubic"; beyond the
    border padding_mode "zeros", "border" or "reflection".
    """
    word = _SAMPLING[one_of("grid_sample", "mode", mode, tuple(_SAMPLING))]
    x = operand(input, "input")
    if word == "cubic" and x.ndim != 4:
        raise ShapeError(f"grid_sample: mode 'bicubic' is of (N, C, H, W), got shape {x.shape}")
    how = one_of("grid_sample", "padding_mode", padding_mode, grids.GRID_PADDING)
    return grids.grid_sample(x, grid, mode=word, padding_mode=how, align_corners=bool(align_corners))


def affine_grid(theta: Operand, size: Shape, align_corners: bool | None = None) -> Value:
    """The positions of an image of this size (N, C, *out) under the maps theta (N, axes, axes + 1), for grid_sample."""
    return grids.affine_grid(theta, size, align_corners=bool(align_corners))
