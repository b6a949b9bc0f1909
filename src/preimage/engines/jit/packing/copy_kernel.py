"""Moving data into the order that a kernel reads: copied lines, transposed planes.

    copy        line by line, contiguous to contiguous; a line without a source is filled with zeros (margins)
    swap        planes [a][b] -> [b][a] in blocks of lanes x lanes, transposed in registers; channels-first to
                channels-last and back, with the epilogue on the way back

Every kernel widens f16 and bf16 as it loads. All sizes are arguments. Weights: see `weights`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import Finish, finish

__all__ = [
    "LINE_WORDS",
    "NO_SOURCE",
    "CopySpec",
    "Move",
    "SwapSpec",
    "build_copy",
    "build_swap",
    "transposed",
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

    arguments: ClassVar[type[IntEnum]] = Move

    source: str
    result: str
    lanes: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build_copy(self)


@dataclass(frozen=True, slots=True)
class SwapSpec:
    """Planes of a x b elements; the finish takes b as the channel."""

    arguments: ClassVar[type[IntEnum]] = Move

    source: str
    result: str
    lanes: int
    finish: Finish

    def ir(self) -> str:
        """The text of the kernel."""
        return build_swap(self)


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
    """The transpose of a square block held as one vector a row: log2(lanes) steps that swap one bit of row and lane.

    Rows of several times as many lanes are several squares side by side; each is transposed.
    """
    side, lanes, rows, distance = len(rows), rows[0].lanes, list(rows), 1
    while distance < side:
        low = [(j ^ distance) + lanes if j & distance else j for j in range(lanes)]
        high = [j + lanes if j & distance else j | distance for j in range(lanes)]
        for i in range(side):
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
