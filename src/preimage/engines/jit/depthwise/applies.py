"""Which depthwise layers there are, and which of the three ways takes each: channels last, channels first, or up by a long stride."""

from __future__ import annotations

from math import prod

from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.ir.shuffles import can_split
from preimage.engines.jit import branches
from preimage.engines.jit.index.taps import gather_axes
from preimage.engines.jit.index.terms import Terms
from preimage.engines.jit.request import ConvRequest

__all__ = ["cuts_rows", "is_depthwise", "lanes_of", "not_depthwise", "not_planes", "not_upsampling", "row_stride"]

MOST_VECTORS = 8  # of one run of stride phases
MOST_TAPS = 8  # of a run, all in the code


def is_depthwise(r: ConvRequest) -> bool:
    """Whether a depthwise strategy takes a request."""
    return not_depthwise(r) is None


def not_depthwise(r: ConvRequest) -> str | None:
    """None for one input channel a group and padding that may be left out, else why no depthwise strategy fits.

    With a multiplier (several output channels a group): a forward convolution of channels-last arrays whose vectors it divides.
    """
    g = r.geometry
    if not g.is_depthwise:
        return f"each group has {g.in_channels_per_group} input channels, not one"
    if g.ndim == 0:
        return "there is no spatial axis"
    if r.every_tap or r.single:
        return "some weights are not finite, so padding may not be left out or multiplied by zeros"
    if g.out_channels_per_group == 1:
        return None
    own = ELEMENT_BYTES[r.element]
    in_place = r.in_strides[1] == own and r.out_strides[1] == own
    if r.contraction == "conv" and in_place and lanes_of(r) % g.out_channels_per_group == 0:
        return None
    return f"{g.out_channels_per_group} output channels a group, other than in a convolution of channels-last arrays whose vectors they divide"


def lanes_of(r: ConvRequest) -> int:
    """Channels of a vector."""
    full = r.target.vector_bytes // ELEMENT_BYTES["f64" if r.element == "f64" else "f32"]
    return full if r.little else int(min(full, 1 << (r.geometry.out_channels - 1).bit_length()))


def not_planes(r: ConvRequest) -> str | None:
    """None for a depthwise request that is channels-first, of one or two axes, and light enough that transposing would show."""
    g = r.geometry
    if g.out_channels_per_group != 1 or r.little:
        return "little work: the kernels of any size take it" if r.little else "several output channels a group"
    own, (read, written) = ELEMENT_BYTES[r.element], _sizes(r)
    first = all(s[-1] == own or n == 1 for s, n in ((r.in_strides, read[-1]), (r.out_strides, written[-1])))
    take = branches.channels_first
    if not first or g.ndim > 2 or max(read[-1], written[-1]) < 4:
        take(f"refused.{'layout' if not first else 'axes' if g.ndim > 2 else 'short_rows'}")
        return "the arrays are not channels-first" if not first else "more than two axes" if g.ndim > 2 else "rows of less than 4"
    parts = g.stride[-1] if r.contraction == "conv" else min(g.stride[-1], g.input_size[-1])
    if not can_split(parts) and not_upsampling(r) is not None:
        take("refused.stride")
        return f"vectors cannot be split into {parts} stride phases"
    moved = prod(g.input_shape) + prod(g.output_shape)
    if cuts_rows(r) and prod(g.kernel_size) > r.target.costs.depthwise.most_unrolled:
        take("refused.long_rows")
        return f"blocks of a sum end within kernel rows of {g.kernel_size[-1]}"
    if g.inside_macs >= r.target.costs.depthwise.dense * moved:
        take("refused.much_work")
        return f"{g.inside_macs / moved:.0f} multiply-adds an element: transposing to channels-last costs little beside them"
    return None


def not_upsampling(r: ConvRequest) -> str | None:
    """None for a depthwise request on planes that is a transpose whose runs of stride phases fill vectors, with all their taps."""
    g = r.geometry
    if r.contraction != "conv_transpose":
        return "not a transposed convolution"
    if g.ndim > 2 or (g.dilation[-1] != 1 and g.kernel_size[-1] > 1):
        return "more than two axes" if g.ndim > 2 else "the kernel is dilated"
    stride, kernel = g.stride[-1], g.kernel_size[-1]
    full = r.target.vector_bytes // ELEMENT_BYTES["f64" if r.element == "f64" else "f32"]
    if not full // 2 <= stride <= MOST_VECTORS * full:
        return f"a stride of {stride} does not fill vectors of {full}"
    if kernel % stride or kernel // stride > MOST_TAPS:
        return f"a kernel of {kernel} is not up to {MOST_TAPS} times the stride of {stride}"
    return None


def cuts_rows(r: ConvRequest) -> bool:
    """Whether blocks of a sum's order end within a row of the kernel."""
    return Terms.of(1, gather_axes(r.geometry, r.contraction)[1:]).cuts(1)


def row_stride(strides: tuple[int, ...], ndim: int) -> int:
    """Bytes from a row of a plane to the next."""
    return strides[-2] if ndim == 2 else 0


def _sizes(r: ConvRequest) -> tuple[tuple[int, ...], tuple[int, ...]]:
    g = r.geometry
    return (g.input_size, g.output_size) if r.contraction == "conv" else (g.output_size, g.input_size)
