"""The recipe for few output channels: the input in planes, vectors across pixels (see `schedules.pixels`)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from preimage.engines.jit.emit import ELEMENT_BYTES
from preimage.engines.jit.moves import LINE_ELEMENTS, block_lanes, lines_step, pieces, positions, weight_step
from preimage.engines.jit.plan import Axis, Choice, as_ints, tile_phase
from preimage.engines.jit.recipe import Buffer, Recipe, Step, compiled, gather_tables, slots, split_rows
from preimage.engines.jit.request import Request
from preimage.engines.jit.schedules import pack
from preimage.engines.jit.schedules.epilogue import Finish
from preimage.engines.jit.schedules.pixels import PixelsSpec
from preimage.engines.jit.schedules.tables import Slot

__all__ = ["FewPlan", "few_plan", "few_recipe"]

MOST_CHANNELS = 8
HELD = 24  # sums of a tile


@dataclass(frozen=True, slots=True)
class FewPlan:
    """Tile and modelled cost (cycles)."""

    axis: int
    lanes: int
    vectors: int
    cost: float


def few_plan(r: Request, axes: list[Axis]) -> FewPlan | None:
    """The best tile, or None where the schedule does not fit: the pixels' axis needs step 1 in the input."""
    g = r.geometry
    forward = r.contraction == "conv"
    channels = (g.out_channels if forward else g.in_channels) // g.groups
    run = (g.in_channels if forward else g.out_channels) // g.groups
    item = 8 if r.element == "f64" else 4
    axis = max([k for k in range(1, len(axes)) if axes[k].out_size > 1], default=0)
    phases = [p for p in axes[axis].phases if p.count]
    if channels > MOST_CHANNELS or r.single or axis == 0 or any(p.in_step != 1 or p.reach for p in phases):
        return None
    shortest = min(p.count for p in phases)
    outer_taps = prod(sum(p.tap_total for p in a.phases) for k, a in enumerate(axes) if k != axis)
    rows = prod(a.out_size for k, a in enumerate(axes) if k != axis)
    best: FewPlan | None = None
    held = min(HELD, r.target.vector_registers - 4 - channels)
    for lanes in (r.target.vector_bytes // item, min(32, r.target.vector_bytes) // item):
        width = lanes * item / 64.0
        for vectors in range(1, max(1, held // channels) + 1):
            if lanes * vectors > shortest:
                break
            covers = [tile_phase(p, lanes * vectors) for p in phases]
            step = max(vectors * width * (channels + 3.0), 4.0) + 0.5  # vectors that straddle cache lines load slowly
            count = sum(len(c.starts) for c in covers)
            cost = outer_taps * sum(c.tap_total for c in covers) * run * step
            cost += rows * count * (100.0 + 3.0 * lanes * vectors * channels)
            if best is None or cost * g.groups < best.cost:
                best = FewPlan(axis, lanes, vectors, cost * g.groups)
    if best is None:
        return None
    size = prod(a.in_size for a in axes) * run * g.groups
    return FewPlan(best.axis, best.lanes, best.vectors, best.cost + 4.0 * size)


def few_recipe(r: Request, axes: list[Axis], plan: FewPlan) -> Recipe:
    """Planes with margins if they are needed, weights as they come, tiles of pixels."""
    g, forward = r.geometry, r.contraction == "conv"
    inner = "f64" if r.element == "f64" else "f32"
    item, own = ELEMENT_BYTES[inner], ELEMENT_BYTES[r.element]
    in_channels, out_channels = (g.in_channels, g.out_channels) if forward else (g.out_channels, g.in_channels)
    run, channels = in_channels // g.groups, out_channels // g.groups
    recipe = Recipe("direct, vectors across pixels")

    reach = [axis.margins for axis in axes]
    margins = [m if r.every_tap or k == plan.axis else (0, 0) for k, m in enumerate(reach)]
    in_strides, plane = [r.in_strides[0], *r.in_strides[2:]], r.in_strides[1]
    slab = r.element != inner or in_strides[plan.axis] != item or any(m != (0, 0) for m in margins)
    if slab:
        padded = [a.in_size + lo + hi for a, (lo, hi) in zip(axes, margins, strict=True)]
        # Rows begin on cache lines as far as that is cheap; planes an odd number of lines apart fall on different sets.
        line = prod(padded[1:]) * item
        plane = (-(-line // 64) | 1) * 64
        slab_strides = [in_channels * plane, *(prod(padded[k + 1 :]) * item for k in range(1, len(axes)))]
        _plane_steps(recipe, r, axes, margins, in_channels, inner, slab_strides, plane)
        recipe.buffers.append(Buffer("slab", padded[0] * in_channels * plane + 64))
        in_strides = slab_strides
    origin = sum(lo * s for (lo, _), s in zip(margins, in_strides, strict=True)) if slab else 0

    weights, block_bytes = weight_step(r.contraction, g.weight_shape, g.groups, r.element, inner, plan.lanes, channels)
    recipe.packing, recipe.packed_bytes = weights, g.groups * block_bytes
    recipe.packed_key = (r.contraction, r.element, "pixels", channels, g.groups)
    if not r.prepared:
        recipe.steps.insert(0, weights)
        recipe.buffers.append(Buffer("packed", recipe.packed_bytes))
    out_strides = [r.out_strides[0], *r.out_strides[2:]]
    choice = Choice(plan.axis, plan.lanes, channels, plan.lanes * plan.vectors, plan.cost)
    rows, tiles, lists, taps = gather_tables(axes, choice, in_strides, out_strides, run * channels * item)
    rows[:, 0] += origin
    count = int((rows[:, 4] - rows[:, 3]).sum())
    wanted = 1 if r.threads == 1 else min(count, -(-8 * r.threads // g.groups))
    rows = split_rows(rows, -(-wanted // len(rows)))
    chunks = min(wanted, len(rows))
    bounds = as_ints([len(rows) * c // chunks for c in range(chunks + 1)])
    step_out = axes[plan.axis].phases[0].step * out_strides[plan.axis]
    spec = PixelsSpec(inner, r.element, plan.lanes, plan.vectors, channels, run, step_out == own, r.finish)
    values = {
        Slot.ROWS: rows.ctypes.data, Slot.TILES: tiles.ctypes.data, Slot.LISTS: lists.ctypes.data, Slot.TAPS: taps.ctypes.data,
        Slot.CHUNK_ROWS: bounds.ctypes.data, Slot.CHUNKS: chunks, Slot.CHUNK_DIV: 1, Slot.BLOCKS: g.groups,
        Slot.BLOCK_DIV: chunks, Slot.BLOCK_BYTES: block_bytes, Slot.GROUP_INPUT_BYTES: run * plane,
        Slot.OUT_PIXEL_BYTES: step_out, Slot.CHANNEL_BYTES: r.out_strides[1], Slot.RUN_BYTES: plane,
    }  # fmt: skip
    patches = (
        (Slot.INPUT, "slab" if slab else "x"), (Slot.WEIGHT, "packed"), (Slot.OUTPUT, "out"),
        (Slot.BIAS, "bias"), (Slot.RESIDUAL, "residual"), (Slot.LIMITS, "limits"),
    )  # fmt: skip
    tables = (rows, tiles, lists, taps, bounds)
    recipe.steps.append(Step("direct", compiled(spec), tuple(slots(values)), patches, chunks * g.groups, tables))
    recipe.skips_padding = any(m != (0, 0) for m in reach) and not r.every_tap
    recipe.details = {
        "tile": f"{plan.vectors} vectors of {plan.lanes} pixels x {channels} channels",
        "tasks": f"{chunks} chunks of rows x {g.groups} groups",
        "input": "copied into planes" if slab else "read in place",
        "result": "stored as vectors" if step_out == own else "stored one by one",
        "tables": f"{len(rows)} rows, {len(tiles)} tiles",
    }
    recipe.refused = {"vectors across channels": f"{channels} output channels do not fill a vector"}
    return recipe


def _plane_steps(
    recipe: Recipe, r: Request, axes: list[Axis], margins: list[tuple[int, int]], channels: int, inner: str,
    to_strides: list[int], plane: int,
) -> None:  # fmt: skip
    """Copy (channels-first) or transpose (channels-last) the input into planes, with zeros around them where wanted."""
    item, own = ELEMENT_BYTES[inner], ELEMENT_BYTES[r.element]
    full = r.target.vector_bytes // item
    patches = ((pack.Move.INPUT, "x"), (pack.Move.OUTPUT, "slab"))
    from_strides = [r.in_strides[0], *r.in_strides[2:]]
    sizes, (left, right), width = [a.in_size for a in axes], margins[-1], axes[-1].in_size
    begin = sum(lo * s for (lo, _), s in zip(margins, to_strides, strict=True))
    sources, results = positions(sizes[:-1], from_strides[:-1]), positions(sizes[:-1], to_strides[:-1]) + begin
    every = range(channels)
    if any(m != (0, 0) for m in margins):
        all_lines = positions([s + lo + hi for s, (lo, hi) in zip(sizes[:-1], margins[:-1], strict=True)], to_strides[:-1])
        inside = set((results - left * item).tolist())
        zeros = [
            (pack.NO_SOURCE, at + c * plane, left + width + right, 0, 0)
            for at in all_lines.tolist()
            if at not in inside
            for c in every
        ]
        for at in results.tolist():
            for c in every if left or right else ():
                if left:
                    zeros.append((pack.NO_SOURCE, at - left * item + c * plane, left, 0, 0))
                if right:
                    zeros.append((pack.NO_SOURCE, at + width * item + c * plane, right, 0, 0))
        if zeros:
            recipe.steps.append(
                lines_step("zero margins", compiled(pack.CopySpec(r.element, inner, full)), as_ints(zeros), patches)
            )
    pairs = list(zip(sources.tolist(), results.tolist(), strict=True))
    if channels > 1 and r.in_strides[1] == own:
        lines = [
            (a + s * from_strides[-1], b + s * item, n, channels, 0)
            for a, b in pairs
            for s, n in pieces(width, max(64, LINE_ELEMENTS // channels))
        ]
        code = compiled(pack.SwapSpec(r.element, inner, block_lanes(full, item), Finish()))
        recipe.steps.append(lines_step("transpose input", code, as_ints(lines), patches, (from_strides[-1], plane)))
        return
    lines = [(a + c * r.in_strides[1], b + c * plane, width, 0, 0) for a, b in pairs for c in every]
    recipe.steps.append(lines_step("copy input", compiled(pack.CopySpec(r.element, inner, full)), as_ints(lines), patches))
