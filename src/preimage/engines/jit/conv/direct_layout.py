"""How a direct convolution lays out its work: what is copied first, which tile it takes, where the result goes, and what that costs.

`choose_layout` weighs the ways by the model and gives the cheapest; `direct.lower` makes the program of it.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.jit import branches
from preimage.engines.jit.conv.direct_kernel import transposed_side
from preimage.engines.jit.conv.halo import Edges, find_edges
from preimage.engines.jit.index.taps import Axis, Folded, fold_phases, gather_axes, join_taps, merge_axes
from preimage.engines.jit.index.terms import Terms
from preimage.engines.jit.index.tiling import Choice, Work, choose_tile, take_tiling
from preimage.engines.jit.request import ConvRequest
from preimage.records import record

__all__ = ["Layout", "Option", "choose_layout", "record_layout"]


@record
class Option:
    """One way to tile the work and to store the result, with its modelled cycles."""

    axes: list[Axis]
    in_strides: list[int]
    out_strides: list[int]
    choice: Choice
    channels: int  # of a group, phases included
    folded: Folded | None
    store: str  # "straight", "transposed" or "scratch"
    cost: float


@record
class Layout:
    """What was chosen, before any table is filled. Strides and sizes in bytes, along batch and spatial axes.

    axes: as the kernel walks them, before some are merged (`best.axes`); run: input channels under one tap, and under the taps of a
    line that are joined with them; joined: how many taps are (1: none); lasting: the input is channels-last; crowded: its pixels would
    fall on the same few cache lines.
    """

    axes: list[Axis]
    joined: int
    run: int
    best: Option
    edges: Edges | None
    slab: bool
    lasting: bool
    crowded: bool
    in_sizes: list[int]
    raw_strides: list[int]
    margins: list[tuple[int, int]]
    pitch: int  # bytes of a pixel of the slab
    slab_strides: list[int]
    cost: float

    @property
    def padded(self) -> list[int]:
        """Sizes of the slab."""
        return [n + lo + hi for n, (lo, hi) in zip(self.in_sizes, self.margins, strict=True)]

    @property
    def terms(self) -> Terms:
        """Of one output's sum."""
        taps = self.joined
        return Terms.of(self.run // taps, self.best.axes, taps)


def choose_layout(r: ConvRequest) -> Layout:
    """The cheapest way by the model: the input as it lies, with its ends apart, or as a channels-last slab with margins; the
    result in place, transposed in registers, or through a scratch.
    """
    g, forward = r.geometry, r.contraction == "conv"
    inner = "f64" if r.element == "f64" else "f32"
    item, own_item = ELEMENT_BYTES[inner], ELEMENT_BYTES[r.element]
    in_channels, out_channels = (g.in_channels, g.out_channels) if forward else (g.out_channels, g.in_channels)
    run, channels = in_channels // g.groups, out_channels // g.groups
    axes, joined = gather_axes(g, r.contraction, r.every_tap), 1
    if (
        forward
        and run < r.target.costs.packing.few_channels
        and g.ndim
        and g.dilation[-1] == 1
        and g.groups == 1
        and g.kernel_size[-1] > 1
    ):
        # The taps of a line and their few channels lie side by side: one longer run.
        axes[-1], run, joined = join_taps(g), run * g.kernel_size[-1], g.kernel_size[-1]
    raw_strides = _skip_lines(axes, [r.in_strides[0], *r.in_strides[2:]])
    in_sizes = [axis.in_size for axis in axes]
    lasting = r.in_strides[1] == own_item or in_channels == 1
    pixel_axis = max([k for k in range(1, len(axes)) if axes[k].out_size > 1], default=0)
    margins = _margins(r, axes, pixel_axis, joined > 1)
    # Neighbouring pixels a multiple of a page apart would all fall on the same few lines of the L1 cache.
    pitch = in_channels * item
    apart = (raw_strides[pixel_axis] if lasting else pitch) * axes[pixel_axis].phases[0].in_step
    crowded = (
        run >= r.target.costs.direct.crowded_run and apart % 4096 == 0 and axes[pixel_axis].out_size > 1 and own_item == item
    )
    if crowded and joined == 1:
        pitch += 64
    moved = crowded or r.element != inner or not lasting
    slab = moved or any(m != (0, 0) for m in margins)
    padded = [n + lo + hi for n, (lo, hi) in zip(in_sizes, margins, strict=True)]
    slab_strides = [prod(padded[k + 1 :]) * pitch for k in range(len(axes))]
    edges = best = None
    if slab and not (moved or joined > 1 or r.every_tap or r.single):
        best = min(_options(r, axes, raw_strides, channels, run, item), key=lambda option: option.cost)
        edges = find_edges(best.axes, best.choice, in_channels * item, r.target.costs.direct) if best.folded is None else None
    if edges is None:
        in_strides = slab_strides if slab else raw_strides
        best = min(_options(r, axes, in_strides, channels, run, item), key=lambda option: option.cost)
    assert best is not None
    costs = r.target.costs.direct
    copying = (
        (costs.copy_cycles if lasting else costs.transpose_cycles) * prod(in_sizes) * in_channels
        if slab and edges is None
        else 0.0
    )
    return Layout(
        axes, joined, run, best, edges, slab, lasting, crowded, in_sizes, raw_strides, margins, pitch, slab_strides,
        best.cost + copying,
    )  # fmt: skip


def _margins(r: ConvRequest, axes: list[Axis], pixel_axis: int, joined: bool) -> list[tuple[int, int]]:
    """Zeros around the input, low and high along each axis, that some tile reads."""
    reach = [axis.margins for axis in axes]
    if r.every_tap:
        margins = list(reach)
    else:
        margins = [(0, 0)] * len(axes)
        if not r.single:
            margins[pixel_axis] = reach[pixel_axis]
    if joined:
        margins[-1] = reach[-1]
    folded = _may_fold(r)
    if folded is not None:  # folded phases read one tap more at either end, for the phases that lack it
        far = folded.axis.margins
        margins[-1] = max(margins[-1][0], far[0]), max(margins[-1][1], far[1])
    return margins


def _skip_lines(axes: list[Axis], strides: list[int]) -> list[int]:
    """Outer axes of which one tap reads every so many lines (1x1 layers with strides), as plain ones: no copy moves the lines
    between. Changes `axes`; returns the strides in memory that go with them."""
    out = list(strides)
    for k in range(1, len(axes) - 1):
        axis, only = axes[k], axes[k].phases[0]
        inside = (only.count - 1) * only.in_step < axis.in_size
        if axis.kernel == 1 and len(axis.phases) == 1 and only.step == 1 and only.taps == ((0, 0),) and inside:
            if only.in_step > 1:
                branches.direct("lines.skipped")
            n = only.count
            axes[k] = Axis(n, n, (replace(only, in_step=1, in_size=n),))
            out[k] *= only.in_step
    return out


def _may_fold(r: ConvRequest) -> Folded | None:
    """The last axis with its stride phases folded into channels, where that is a choice."""
    g = r.geometry
    if r.contraction != "conv_transpose" or g.groups != 1 or not g.ndim or r.single or r.little or r.tile is not None:
        return None
    folded = fold_phases(g)
    return folded if folded is not None and folded.axis.phases[0].count > 1 else None


def _options(r: ConvRequest, axes: list[Axis], in_strides: list[int], channels: int, run: int, item: int) -> list[Option]:
    """The ways to lay out the work, with modelled costs."""
    costs, elements = r.target.costs.direct, prod(r.geometry.weight_shape)
    work = Work(channels, r.geometry.groups, run, item, r.target, r.little)
    out: list[Option] = []
    for store, out_strides, extra in _stores(r, axes, channels * r.geometry.groups, item):
        merged, a, b = merge_axes(axes, in_strides, out_strides)
        side = transposed_side(r.target.vector_bytes, item) if store == "transposed" else 1
        pixel_axes = _transposed_axes(r, merged, b, side) if store == "transposed" else _pixel_axes(merged)
        if not pixel_axes:
            continue
        given = _given_tile(r, merged[pixel_axes[0]], pixel_axes[0], item, side)
        if given is not None:
            if given.pixels:
                out.append(Option(merged, a, b, given, channels, None, store, 0.0))
            continue
        choice = choose_tile(merged, pixel_axes, work, side)
        out.append(Option(merged, a, b, choice, channels, None, store, choice.cost + extra + costs.pack_cycles * elements))
        last_bytes = ELEMENT_BYTES[r.element] if store == "straight" else item
        contiguous = store != "transposed" and out_strides[-1] == channels * last_bytes
        folded = _may_fold(r) if contiguous else None
        if folded is not None:
            wide, phased = channels * folded.stride, [*axes[:-1], folded.axis]
            choice = choose_tile(phased, [len(phased) - 1], replace(work, channels=wide, groups=1))
            cost = choice.cost + extra + costs.gather_cycles * elements
            out.append(Option(phased, in_strides, out_strides, choice, wide, folded, store, cost))
    return out


def _stores(r: ConvRequest, axes: list[Axis], all_channels: int, item: int) -> list[tuple[str, list[int], float]]:
    """The ways to store the result: each with the strides that its kernel writes by and the cycles it costs beside the tiles."""
    true_strides = [r.out_strides[0], *r.out_strides[2:]]
    if r.out_strides[1] == ELEMENT_BYTES[r.element] or all_channels == 1:
        return [("straight", true_strides, 0.0)]
    sizes = [axis.out_size for axis in axes]
    scratch = [prod(sizes[k + 1 :]) * all_channels * item for k in range(len(axes))]
    return [
        ("scratch", scratch, r.target.costs.direct.scratch_cycles * prod(sizes) * all_channels),
        ("transposed", true_strides, 0.0),
    ]


def _pixel_axes(merged: list[Axis]) -> list[int]:
    """The axes along which a tile may take its pixels: the last that has several, and the batch where nothing is padded along it."""
    last = max([k for k in range(1, len(merged)) if merged[k].out_size > 1], default=0)
    return [last, 0] if last and merged[0].out_size > 1 and not merged[0].margins[0] else [last]


def _transposed_axes(r: ConvRequest, merged: list[Axis], out_strides: list[int], side: int) -> list[int]:
    """Those of them along which squares of `side` pixels can be transposed in registers and stored side by side."""
    if r.single or r.little:
        return []
    own_item = ELEMENT_BYTES[r.element]
    return [
        k for k in _pixel_axes(merged) if len(merged[k].phases) == 1 and out_strides[k] == own_item and merged[k].out_size >= side
    ]


def _given_tile(r: ConvRequest, axis: Axis, index: int, item: int, side: int) -> Choice | None:
    """The tile that the request names (none of its pixels: it does not fit this store), or None where the model chooses."""
    if r.single:
        return Choice(index, r.target.vector_bytes // item, 1, 1, 0.0)
    if r.tile is None:
        return None
    lanes, vectors, pixels = r.tile
    pixels = min(pixels, *(phase.count for phase in axis.phases if phase.count))
    return Choice(index, lanes, vectors, pixels // side * side, 0.0)


def record_layout(r: ConvRequest, layout: Layout) -> None:
    """Name the decisions that were made above, each by what it changes in the program."""
    best, edges, inner = layout.best, layout.edges, "f64" if r.element == "f64" else "f32"
    take, choice, axis = branches.direct, best.choice, best.axes[best.choice.axis]
    take("taken")
    if len(best.axes) < len(layout.axes):
        take("axes.merged")
    if edges is not None:
        take("input.halo" if edges.tiles else "input.halo_unread")
    elif layout.slab:
        take("input.packed")
        reasons = {
            "channels_first": not layout.lasting, "widened": r.element != inner, "crowded": layout.crowded,
            "margins": any(m != (0, 0) for m in layout.margins),
        }  # fmt: skip
        for reason in [name for name, holds in reasons.items() if holds]:
            take(f"input.packed.{reason}")
    else:
        take("input.in_place")
    take(f"result.{best.store}")
    if best.folded is not None:
        take("phases.folded")
        if min(best.folded.phases_of_tap) < best.folded.stride:
            take("phases.folded.partial")
        if best.folded.first_cut or best.folded.last_end < best.folded.stride:
            take("phases.folded.cut")
    else:
        take("phases.one" if len(axis.phases) == 1 else "phases.several")
        if not all(phase.taps for phase in axis.phases):
            take("phases.empty")
    last = len(best.axes) - 1
    take("pixels.last_axis" if choice.axis == last else "pixels.batch" if choice.axis == 0 else "pixels.outer_axis")
    if r.single or r.tile is not None:
        take("tile.single" if r.single else "tile.given")
    full = r.target.vector_bytes // ELEMENT_BYTES[inner]
    take_tiling(axis, choice)
    take("tile.one_pixel" if choice.pixels == 1 else "tile.several_pixels")
    take("tile.one_vector" if choice.vectors == 1 else "tile.several_vectors")
    take("tile.full_vectors" if choice.lanes == full else "tile.half_vectors")
    take("channels.ragged" if best.channels % (choice.lanes * choice.vectors) else "channels.whole")
    take("groups.one" if r.geometry.groups == 1 else "groups.several")
