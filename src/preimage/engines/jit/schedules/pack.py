"""Moving data into the order that a kernel reads: copied lines, transposed planes, packed weights.

    copy        line by line, contiguous to contiguous; a line without a source is filled with zeros (margins)
    swap        planes [a][b] -> [b][a] in blocks of lanes x lanes, transposed in registers; channels-first to
                channels-last and back, with the epilogue on the way back
    weight      weights (o, q) -> [block][q'][width] with q' from a table; notes whether all of them are finite

Every kernel widens f16 and bf16 as it loads. All sizes are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from preimage.engines.jit.emit import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.schedules.epilogue import Finish, finish

__all__ = [
    "LINE_WORDS",
    "NO_SOURCE",
    "CopySpec",
    "Move",
    "SwapSpec",
    "WeightSlot",
    "WeightSpec",
    "build_copy",
    "build_swap",
    "build_weight",
]

NO_SOURCE = -(1 << 62)  # a line of zeros


class Move(IntEnum):
    """Arguments of copy and swap. The first six are those of `tables.Slot`, as the epilogue reads them there."""

    INPUT = 0
    OUTPUT = 2
    BIAS = 3
    RESIDUAL = 4
    LIMITS = 5
    LINES = 6  # per line: source offset, destination offset, a, b, number of the first b (all offsets in bytes)
    TOTAL = 7  # how many lines
    PER_TASK = 8
    SOURCE_STRIDE = 9  # swap: bytes between the source's rows (a)
    RESULT_STRIDE = 10  # swap: bytes between the result's rows (b)


LINE_WORDS = 5


@dataclass(frozen=True, slots=True)
class CopySpec:
    """Lines of `a` elements, from one element type to another."""

    source: str
    result: str
    lanes: int


@dataclass(frozen=True, slots=True)
class SwapSpec:
    """Planes of a x b elements; the finish takes b as the channel."""

    source: str
    result: str
    lanes: int
    finish: Finish


def build_copy(spec: CopySpec) -> str:
    f = Kernel()
    kind = "f64" if spec.source == "f64" else "f32"
    source, result = f.ptr_arg(Move.INPUT, spec.source), f.ptr_arg(Move.OUTPUT, spec.result)
    lines, total, per_task = f.ptr_arg(Move.LINES, "i64"), f.int_arg(Move.TOTAL), f.int_arg(Move.PER_TASK)
    begin = f.task * per_task
    with f.loop(begin, (begin + per_task).minimum(total)) as turn:
        line = lines.at(turn.index * LINE_WORDS)
        origin, to, count = line.load_int(), result.at_bytes(line.at(1).load_int()), line.at(2).load_int()
        zero = f.zeros(kind, spec.lanes)
        whole = count // spec.lanes * spec.lanes
        with f.when(origin.equals(NO_SOURCE)):
            with f.loop(0, whole, spec.lanes) as i:
                to.at(i.index).store(zero)
            with f.loop(whole, count) as i:
                to.at(i.index).store(f.zeros(kind, 1))
        with f.when(origin > NO_SOURCE):
            start = source.at_bytes(origin)
            with f.loop(0, whole, spec.lanes) as i:
                to.at(i.index).store(start.at(i.index).load(spec.lanes))
            with f.loop(whole, count) as i:
                to.at(i.index).store(start.at(i.index).load())
    return f.ir()


def transposed(rows: list[Num]) -> list[Num]:
    """The transpose of a square block held as one vector a row: log2(lanes) steps that swap one bit of row and lane."""
    lanes, rows, distance = len(rows), list(rows), 1
    while distance < lanes:
        low = [(j ^ distance) + lanes if j & distance else j for j in range(lanes)]
        high = [j + lanes if j & distance else j | distance for j in range(lanes)]
        for i in range(lanes):
            if not i & distance:
                a, b = rows[i], rows[i | distance]
                rows[i], rows[i | distance] = a.shuffle(b, low), a.shuffle(b, high)
        distance *= 2
    return rows


def _block(start: Ptr, lanes: int, stride: Int, rows_left: Int | None, mask: Bit | None) -> list[Num]:
    """A lanes x lanes block, transposed; rows past the last are read as the last one again."""
    rows = []
    for j in range(lanes):
        row = j * stride if rows_left is None else (rows_left - 1).minimum(j) * stride
        rows.append(start.at_bytes(row).load(lanes, mask))
    return transposed(rows)


def build_swap(spec: SwapSpec) -> str:
    f = Kernel()
    lanes, size = spec.lanes, ELEMENT_BYTES[spec.source]
    source, lines = f.ptr_arg(Move.INPUT, spec.source), f.ptr_arg(Move.LINES, "i64")
    total, per_task = f.int_arg(Move.TOTAL), f.int_arg(Move.PER_TASK)
    stride, out_stride = f.int_arg(Move.SOURCE_STRIDE), f.int_arg(Move.RESULT_STRIDE)
    begin = f.task * per_task
    with f.loop(begin, (begin + per_task).minimum(total)) as turn:
        line = lines.at(turn.index * LINE_WORDS)
        start, to = source.at_bytes(line.load_int()), line.at(1).load_int()
        rows, columns, channel = line.at(2).load_int(), line.at(3).load_int(), line.at(4).load_int()
        with f.loop(0, rows, lanes) as a, f.loop(0, columns, lanes) as b:
            corner = start.at_bytes(a.index * stride + b.index * size)
            rows_left, columns_left = rows - a.index, columns - b.index
            at = to + a.index * ELEMENT_BYTES[spec.result] + b.index * out_stride
            square = _block(corner, lanes, stride, rows_left, f.lane_mask(lanes, columns_left))
            mask = f.lane_mask(lanes, rows_left)
            for j, value in enumerate(square):
                with f.when(columns_left > j):
                    finish(f, spec.finish, value, spec.result, at + j * out_stride, channel + b.index + j, mask, True)
    return f.ir()


class WeightSlot(IntEnum):
    """Arguments of the weight packing; one task packs one block of output channels. Offsets and strides in bytes."""

    SOURCE = 0
    RESULT = 1
    FLAG = 2  # set to 1 if a weight is not finite
    GROUP_BLOCKS = 3
    GROUP_CHANNELS = 4
    GROUP_STRIDE = 5  # from a group's weights to the next group's
    CHANNEL_STRIDE = 6  # between output channels
    OUTER = 7  # outer repeats (input channels, where they are not contiguous with the taps)
    OUTER_STRIDE = 8
    OUTER_RESULT = 9
    COLUMNS = 10  # contiguous elements of one output channel (straight: 1)
    TABLE = 11  # result offset of every column
    BLOCK_BYTES = 12


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """width: channels of a block; straight: the output channels are contiguous in memory (1x1, transposed)."""

    source: str
    result: str
    lanes: int
    width: int
    straight: bool


def build_weight(spec: WeightSpec) -> str:
    f = Kernel()
    lanes, size = spec.lanes, ELEMENT_BYTES[spec.source]
    arg = {slot: f.int_arg(slot) for slot in WeightSlot}
    group, block = f.task // arg[WeightSlot.GROUP_BLOCKS], f.task % arg[WeightSlot.GROUP_BLOCKS]
    stride, columns = arg[WeightSlot.CHANNEL_STRIDE], arg[WeightSlot.COLUMNS]
    first = block * spec.width
    source = f.ptr_arg(WeightSlot.SOURCE, spec.source).at_bytes(group * arg[WeightSlot.GROUP_STRIDE] + first * stride)
    result = f.ptr_arg(WeightSlot.RESULT, spec.result).at_bytes(f.task * arg[WeightSlot.BLOCK_BYTES])
    table = f.ptr_arg(WeightSlot.TABLE, "i64")
    left = arg[WeightSlot.GROUP_CHANNELS] - first
    zero = f.zeros(spec.result, lanes)
    # `seen` becomes NaN with the first weight that is not finite.
    with f.loop(0, spec.width, lanes, carry=[zero], once=True) as part:
        keep = f.lane_mask(lanes, spec.width - part.index) if spec.width % lanes else None
        rows = (left - part.index).maximum(1)
        # A vector that holds no channel at all repeats the last one: nothing outside the array is read.
        channel = source.at_bytes((left - 1).minimum(part.index) * stride)
        with f.loop(0, arg[WeightSlot.OUTER], carry=part.carry) as outer:
            here = channel.at_bytes(outer.index * arg[WeightSlot.OUTER_STRIDE])
            to = result.at(part.index).at_bytes(outer.index * arg[WeightSlot.OUTER_RESULT])
            if spec.straight:
                value = here.load(lanes, f.lane_mask(lanes, rows))
                to.store(value, keep)
                outer.carry = [value.fma(zero, outer.carry[0])]
            else:
                with f.loop(0, columns, lanes, carry=outer.carry) as q:
                    over = columns - q.index
                    square = _block(here.at_bytes(q.index * size), lanes, stride, rows, f.lane_mask(lanes, over))
                    seen = q.carry[0]
                    for j, value in enumerate(square):
                        with f.when(over > j):
                            to.at_bytes(table.at(q.index + j).load_int()).store(value, keep)
                        seen = value.fma(zero, seen)
                    q.carry = [seen]
                outer.carry = q.result
        part.carry = outer.result
    seen = part.result[0]
    total = seen.lane(0)
    for lane in range(1, lanes):
        total = total + seen.lane(lane)
    with f.when(total.is_nan()):
        f.ptr_arg(WeightSlot.FLAG, "i64").store_int(1)
    return f.ir()


@dataclass(frozen=True, slots=True)
class GatherWeightSpec:
    """Weights in any order: element by element, from a table of source offsets (folded phases: few channels)."""

    source: str
    result: str
    width: int


def build_gather_weight(spec: GatherWeightSpec) -> str:
    """COLUMNS rows of `width` source offsets (-1: zero), each repeated for OUTER input channels; one task a row."""
    f = Kernel()
    arg = {slot: f.int_arg(slot) for slot in WeightSlot}
    source, result = f.ptr_arg(WeightSlot.SOURCE, spec.source), f.ptr_arg(WeightSlot.RESULT, spec.result)
    table = f.ptr_arg(WeightSlot.TABLE, "i64").at(f.task * spec.width)
    to = result.at(f.task * arg[WeightSlot.OUTER] * spec.width)
    zero = f.zeros(spec.result, 1)
    with f.loop(0, spec.width, carry=[zero]) as lane:
        offset = table.at(lane.index).load_int()
        with f.when(offset < 0), f.loop(0, arg[WeightSlot.OUTER]) as i:
            to.at(i.index * spec.width + lane.index).store(zero)
        # A place without a weight reads none: its loop has no turns.
        turns = (offset >= 0).select(arg[WeightSlot.OUTER], f.i64(0))
        with f.loop(0, turns, carry=lane.carry) as i:
            value = source.at_bytes(offset + i.index * arg[WeightSlot.OUTER_STRIDE]).load()
            to.at(i.index * spec.width + lane.index).store(value)
            i.carry = [value.fma(zero, i.carry[0])]
        lane.carry = i.result
    with f.when(lane.result[0].is_nan()):
        f.ptr_arg(WeightSlot.FLAG, "i64").store_int(1)
    return f.ir()
