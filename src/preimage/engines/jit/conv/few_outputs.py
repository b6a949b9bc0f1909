"""The program for few output channels: vectors across pixels, see `few_outputs_kernel`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod

from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.ir.shuffles import can_split
from preimage.engines.jit import branches
from preimage.engines.jit.conv.few_outputs_kernel import Arg, FewSpec, Part
from preimage.engines.jit.index.taps import Axis, Ints, Phase, as_ints
from preimage.engines.jit.packing.moves import weight_call
from preimage.engines.jit.program import Buffer, Program, ProgramBuilder, Value, kernel_call, operands
from preimage.engines.jit.request import ConvRequest

__all__ = ["FewPlan", "few_plan", "lower_few", "row_axis"]

MOST_CHANNELS = 8
MOST_PRODUCTS = 400  # multiply-adds in the code
LONG_LINE, LONG_TILE = 128, 32  # in long lines the tile depends on the channels alone: new sizes find their kernels made
SCRATCH_BYTES = 384 << 10  # of a thread; it should stay in the L2 cache
FILL_CYCLES = 0.5  # an element brought to the scratch
_LINE = Axis(1, 1, (Phase(0, 1, 1, 1, 1, ((0, 0),)),))


@dataclass(frozen=True, slots=True)
class _Window:
    """Lines that a tile's rows read (or columns that its phases read), in order: position after the tile's base, the
    number of the first member's tap, and the members with their taps after it.
    """

    at: int
    tap: int
    part: Part


@dataclass(frozen=True, slots=True)
class FewPlan:
    """Tile and modelled cost (cycles)."""

    lanes: int
    vectors: int
    rows: int
    cost: float


def few_plan(r: ConvRequest, axes: list[Axis]) -> FewPlan | str:
    """The best tile, or why there is none: the last axis needs step 1 in the input, and some length."""
    g = r.geometry
    forward = r.contraction == "conv"
    channels = (g.out_channels if forward else g.in_channels) // g.groups
    run = (g.in_channels if forward else g.out_channels) // g.groups
    item = 8 if r.element == "f64" else 4
    if channels > MOST_CHANNELS or r.single or len(axes) < 2:
        if channels > MOST_CHANNELS:
            return _refused("many_channels", f"{channels} output channels a group, more than {MOST_CHANNELS}")
        if r.single:
            return _refused("single_positions", "some weights are not finite, so positions are computed one by one")
        return _refused("no_axis", "there is no spatial axis")
    phases = axes[-1].phases
    count = len(phases)
    _, last_out = _last(r)
    parts = count * channels if last_out else count
    if any(p.in_step != 1 for p in phases):
        return _refused("stride", "the input is read with a stride along its last axis")
    if not can_split(parts) or (last_out and g.groups > 1):
        return _refused("store", f"vectors of {parts} interleaved parts cannot be stored")
    down = row_axis(axes)
    line = -(-axes[-1].out_size // count)
    outer = prod(a.out_size for a in axes[:-2])
    outer_taps = prod(sum(p.tap_total for p in a.phases) for a in axes[:-2])
    long = line >= LONG_LINE
    columns = _windows(phases, range(count), forward)
    if not columns:
        return _refused("no_taps", "no output meets a tap along the last axis")
    best: FewPlan | None = None
    for lanes in (r.target.vector_bytes // item, min(32, r.target.vector_bytes) // item):
        width = lanes * item / 64.0
        for rows, vectors in product((1, 2, 3, 4, 6, 8), range(1, 9)):
            sums = rows * vectors * count * channels
            if sums > r.target.vector_registers - 3 - vectors or rows > down.out_size:
                continue
            if len(down.phases) % rows and rows % len(down.phases):
                continue
            tile, products, kinds = 0.0, 0, set()
            patterns = range(0, len(down.phases), rows) if len(down.phases) > 1 else range(1)
            for start in patterns:
                for row, column in product(_windows(down.phases, range(start, start + rows), forward), columns):
                    work = len(row.part) * len(column.part) * channels
                    loads = vectors * width * (2.0 if len(columns) > 1 else 1.0) + 0.5 * work
                    tile += (max(work * vectors * width, 4.0, loads) + 0.4) / len(patterns)
                    if (row.part, column.part) not in kinds:
                        kinds.add((row.part, column.part))
                        products += work * vectors
            if products > MOST_PRODUCTS:
                continue
            if long and lanes * vectors > LONG_TILE:
                continue
            valid = sum(p.tap_total for p in down.phases) / max(1, sum(len(p.taps) * p.count for p in down.phases))
            tiles = line / (lanes * vectors) if long else -(-line // (lanes * vectors))
            tiles *= down.out_size / rows if down.out_size >= LONG_LINE else -(-down.out_size // rows)
            cost = outer_taps * tiles * tile * run * valid + outer * tiles * (100.0 + 8.0 * sums * width)
            cost *= 1.0 + products / 1000  # of two that do as well the one with less code
            if best is None or cost * g.groups < best.cost:
                best = FewPlan(lanes, vectors, rows, cost * g.groups)
    if best is None:
        return _refused("no_tile", "no tile of this kernel fits the registers and the code")
    return FewPlan(best.lanes, best.vectors, best.rows, best.cost + FILL_CYCLES * prod(a.in_size for a in axes) * run * g.groups)


def _refused(branch: str, words: str) -> str:
    branches.few_outputs(f"refused.{branch}")
    return words


def lower_few(r: ConvRequest, axes: list[Axis], plan: FewPlan) -> Program:
    """Steps of rows down blocks of columns; input lines that pass through a ring of scratch lines."""
    g, forward = r.geometry, r.contraction == "conv"
    inner = "f64" if r.element == "f64" else "f32"
    item = ELEMENT_BYTES[inner]
    in_channels, out_channels = (g.in_channels, g.out_channels) if forward else (g.out_channels, g.in_channels)
    run, channels = in_channels // g.groups, out_channels // g.groups
    column_axis = axes[-1]
    phases, tile = len(column_axis.phases), plan.lanes * plan.vectors
    line = -(-column_axis.out_size // phases)
    columns = _windows(column_axis.phases, range(phases), forward)
    lowest, highest = min((c.at for c in columns), default=0), max((c.at for c in columns), default=0)
    walk = _Walk(r, axes, plan.rows)
    channel_room = -(-run // 8) * 8  # transposing writes whole squares
    lead, highest = -(-max(0, -lowest) // plan.lanes) * plan.lanes, max(0, highest)  # column 0 of a block lies aligned
    most = max(1, SCRATCH_BYTES // (item * channel_room * walk.slots) - lead - highest) // tile
    units = g.batch * g.groups
    wanted = 1 if r.threads == 1 else -(-8 * r.threads // units)
    block = max(1, min(-(-line // tile), most)) * tile
    blocks = -(-line // block)
    block = (line - 1) // (blocks * tile) * tile + tile  # in whole tiles, and the last not much shorter
    pitch = (-(-(lead + block + highest + 16) * item // 64) | 1) * 64
    tap_bytes = run * channels * item
    # Behind the first block a line is filled from an aligned place as well, where that takes no vector more, or where it begins
    # before column 0 there too: no vector of a fill may hold columns on both sides of 0.
    vectors = [-(-(before + block + highest) // plan.lanes) for before in (lead, max(0, -lowest))]
    begin = -lead if vectors[0] == vectors[1] or block + lowest < 0 else min(0, lowest)
    bands, steps, fills, rows, row_parts = walk.tables(
        max(1, min(-(-wanted // blocks), walk.count)), channel_room * pitch, tap_bytes
    )
    column_parts = list(dict.fromkeys(c.part for c in columns))
    rows[:, 2] *= len(column_parts)
    column_table = as_ints([[(lead + c.at) * item, c.tap * tap_bytes, column_parts.index(c.part)] for c in columns])
    units *= blocks * len(bands)
    per_task = -(-units // (1 if r.threads == 1 else min(units, 8 * r.threads)))
    tasks = -(-units // per_task)
    scratch = walk.slots * channel_room * pitch

    program = ProgramBuilder("direct, vectors across pixels")
    weights, group_bytes = weight_call(r.contraction, g.weight_shape, g.groups, r.element, inner, plan.lanes, channels)
    program.packing, program.packed_bytes = weights, g.groups * group_bytes
    program.packed_key = (r.contraction, r.element, "pixels", channels, g.groups)
    if not r.prepared:
        program.pack_first()
    program.buffers.append(Buffer("scratch", scratch * r.threads + 64 * plan.vectors))
    last_in, last_out = _last(r)
    # A line of the next step is read ahead in as many turns of all channels as a line of this step has (columns, tiles), and
    # in as many steps as there are for one that brings new lines.
    phases_down = len(row_axis(axes).phases)
    turns = len(columns) * -(-min(block, line) // tile) * walk.parts(steps)
    ahead = -(-min(block, line) * r.in_strides[-1] // turns)
    news = plan.rows / max(1, phases_down) * min(block, line) * run * ELEMENT_BYTES[r.element]
    near = scratch + news > r.target.l2_bytes // 2
    spec = FewSpec(
        r.element, r.element, inner, plan.lanes, plan.vectors, plan.rows, phases, channels, run, g.kernel_size[-1],
        tuple(row_parts), tuple(column_parts), last_in, last_out, near, r.finish,
    )  # fmt: skip
    values: dict[int, Value] = {
        **operands(Arg), Arg.SCRATCH: "scratch", Arg.SCRATCH_BYTES: scratch, Arg.UNITS: units, Arg.UNITS_PER_TASK: per_task, Arg.BANDS: bands,
        Arg.N_BANDS: len(bands), Arg.BLOCKS: blocks, Arg.GROUPS: g.groups, Arg.STEPS: steps,
        Arg.FILLS: fills, Arg.ROWS: rows, Arg.COLUMNS: column_table,
        Arg.N_COLUMNS: len(columns), Arg.X_IMAGE: r.in_strides[0], Arg.X_CHANNEL: r.in_strides[1],
        Arg.X_COLUMN: r.in_strides[-1], Arg.LEAD: lead, Arg.BEGIN: begin, Arg.HIGHEST: highest, Arg.LINE: line, Arg.BLOCK: block,
        Arg.OUT_COLUMNS: column_axis.out_size, Arg.OUT_IMAGE: r.out_strides[0], Arg.OUT_CHANNEL: r.out_strides[1],
        Arg.AHEAD_CHANNEL: -(-ahead // run), Arg.AHEAD_COLUMN: ahead,
        Arg.AHEAD_PART: ahead * turns // walk.parts(steps),
        Arg.OUT_LINE: walk.out_line, Arg.PITCH: pitch, Arg.GROUP_WEIGHT_BYTES: group_bytes,
    }  # fmt: skip
    program.calls.append(kernel_call("direct", spec, values, tasks))
    program.skips_padding = any(axis.margins != (0, 0) for axis in axes) and not r.every_tap
    program.details = {
        "tile": f"{plan.rows} rows x {plan.vectors} vectors of {plan.lanes} pixels x {phases} stride phases x {channels} channels",
        "tasks": f"{tasks}, of {blocks} blocks of columns x {len(bands)} bands of rows",
        "input": f"{'transposed' if last_in else 'copied'} line by line, {scratch} bytes of scratch a thread",
        "result": "stored as vectors",
        "tables": f"{len(steps)} steps, {len(rows)} lines",
    }
    take = branches.few_outputs
    take("taken")
    take("input.transposed" if last_in else "input.copied")
    if last_in and near:
        take("input.asked_twice")
    take("result.channels_last" if last_out else "result.channels_first")
    take("phases.one" if phases == 1 else "phases.several")
    take("rows.one" if plan.rows == 1 else "rows.several")
    if len(axes) != 3:
        take("rows.no_axis" if len(axes) == 2 else "rows.outer_axes")
    take("lines.long" if line >= LONG_LINE else "lines.short")
    take("blocks.one" if blocks == 1 else "blocks.several")
    if blocks > 1:
        take("blocks.begin.aligned" if begin == -lead else "blocks.begin.first_read")
    take("bands.one" if len(bands) == 1 else "bands.several")
    take(f"padding.{'skipped' if program.skips_padding else 'every_tap' if r.every_tap else 'none'}")
    return program.done()


def _last(r: ConvRequest) -> tuple[bool, bool]:
    """Whether the input and the result are channels-last. (With one channel both orders are the same.)"""
    g = r.geometry
    counts = (g.in_channels, g.out_channels) if r.contraction == "conv" else (g.out_channels, g.in_channels)
    item = ELEMENT_BYTES[r.element]
    return r.in_strides[1] == item and counts[0] > 1, r.out_strides[1] == item and counts[1] > 1


def row_axis(axes: list[Axis]) -> Axis:
    """The axis that a tile's rows run along: the last but one."""
    return axes[-2] if len(axes) > 2 else _LINE


def _windows(phases: tuple[Phase, ...], members: range, forward: bool) -> list[_Window]:
    """What the members (positions 0 .. of an axis, by number) read, in the order in which each of them reads."""
    found: dict[int, list[tuple[int, int]]] = {}
    for k, member in enumerate(members):
        phase, turn = phases[member % len(phases)], member // len(phases)
        for tap, offset in phase.taps:
            found.setdefault(turn * phase.in_step + offset, []).append((k, tap))
    order = sorted(found, reverse=not forward)
    return [_Window(at, found[at][0][1], tuple((k, tap - found[at][0][1]) for k, tap in found[at])) for at in order]


#: In place of an input offset, which may be negative: the line lies outside the input.
OUTSIDE = -(1 << 62)


class _Walk:
    """The steps down the outer axes and the rows, and the ring of scratch lines under them."""

    def __init__(self, r: ConvRequest, axes: list[Axis], rows: int) -> None:
        g, self.row_axis, self.rows = r.geometry, row_axis(axes), rows
        self.every_tap, self.forward = r.every_tap, r.contraction == "conv"
        strides = [(r.in_strides[k + 1], r.out_strides[k + 1]) for k in range(1, len(axes))]
        self.in_line, self.out_line = strides[-2] if len(axes) > 2 else (0, 0)
        self.columns = axes[-1].in_size
        self.outer, self.outer_strides = axes[1:-2], strides[:-2]
        self.kernel_rows, self.width = (g.kernel_size[-2] if len(axes) > 2 else 1), g.kernel_size[-1]
        self.patterns: dict[int, list[_Window]] = {}
        self.steps = list(self._steps())
        self.count = len(self.steps)
        self.slots = max(1, *(len({source for source, _, _ in lines}) for _, lines, _ in self.steps))

    @staticmethod
    def parts(steps: Ints) -> int:
        """Steps for one that brings new lines."""
        return max(1, len(steps) // max(1, int((steps[:, 1] > steps[:, 0]).sum())))

    def _steps(self) -> Iterator[tuple[int, list[tuple[int, int, Part]], int]]:
        """Output offset, lines (source offset, tap, part), and the lines of the result that exist."""
        phases, size = self.row_axis.phases, self.row_axis.out_size
        for position in product(*(range(a.out_size) for a in self.outer)):
            taps, out = [(0, 0)], 0  # input offset, number of the tap
            for p, axis, (in_stride, out_stride) in zip(position, self.outer, self.outer_strides, strict=True):
                phase, turn = axis.phases[p % len(axis.phases)], p // len(axis.phases)
                out += p * out_stride
                here = [(turn * phase.in_step + offset, k) for k, offset in phase.taps]
                here = [(at, k) for at, k in here if 0 <= at < axis.in_size or self.every_tap]
                taps = [
                    (
                        OUTSIDE if base == OUTSIDE or not 0 <= at < axis.in_size else base + at * in_stride,
                        number * axis.kernel + k,
                    )
                    for base, number in taps
                    for at, k in here
                ]
            for first in range(0, size, self.rows):
                start = first % len(phases)
                if start not in self.patterns:
                    self.patterns[start] = _windows(phases, range(start, start + self.rows), self.forward)
                base = first // len(phases) * phases[0].in_step
                lines = []
                for at_outer, number in taps:
                    for window in self.patterns[start]:
                        at = base + window.at
                        inside = 0 <= at < self.row_axis.in_size
                        if inside or self.every_tap:
                            source = at_outer + at * self.in_line if inside and at_outer != OUTSIDE else OUTSIDE
                            lines.append((source, (number * self.kernel_rows + window.tap) * self.width, window.part))
                yield out + first * self.out_line, lines, min(self.rows, size - first)

    def tables(self, bands: int, line_bytes: int, tap_bytes: int) -> tuple[Ints, Ints, Ints, Ints, list[Part]]:
        """Bands, steps, fills and rows as the kernel reads them, and the parts of rows."""
        parts: dict[Part, int] = {}
        edges = [self.count * band // bands for band in range(bands + 1)]
        steps: list[tuple[int, ...]] = []
        fills: list[tuple[int, int, int]] = []
        rows: list[tuple[int, int, int]] = []
        for begin, end in pairwise(edges):
            ring: dict[int, int] = {}
            for out, lines, exist in self.steps[begin:end]:
                wanted = dict.fromkeys(source for source, _, _ in lines)
                ring = {source: slot for source, slot in ring.items() if source in wanted}
                free = iter(sorted(set(range(self.slots)) - set(ring.values())))
                first_fill, first_row = len(fills), len(rows)
                for source in wanted:
                    if source not in ring:
                        ring[source] = next(free)
                        columns = self.columns if source != OUTSIDE else 0
                        fills.append((source if columns else 0, ring[source] * line_bytes, columns))
                for source, tap, part in lines:
                    rows.append((ring[source] * line_bytes, tap * tap_bytes, parts.setdefault(part, len(parts))))
                steps.append((first_fill, len(fills), first_row, len(rows), out, exist))
        bounds = as_ints(list(pairwise(edges)))
        steps = _looking_ahead(steps, edges)
        return bounds, as_ints(steps), _table(fills), _table(rows), list(parts) or [()]


def _looking_ahead(steps: list[tuple[int, ...]], edges: list[int]) -> list[tuple[int, ...]]:
    """Every step with the fills of the next step that has some, how many steps away it is, and whether it is the next unit's."""
    out = list(steps)
    bands = list(pairwise(edges))
    for band, (begin, end) in enumerate(bands):
        first = steps[bands[(band + 1) % len(bands)][0]]
        fills, far, beyond = first[:2], 0, 1
        for number in range(end - 1, begin - 1, -1):
            far += 1
            out[number] = (*steps[number], *fills, far, beyond)
            if steps[number][0] < steps[number][1]:
                fills, far, beyond = steps[number][:2], 0, 0
    return out


def _table(rows: list[tuple[int, int, int]]) -> Ints:
    return as_ints(rows).reshape(-1, 3)
