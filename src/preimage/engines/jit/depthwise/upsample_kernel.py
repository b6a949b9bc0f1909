"""Depthwise transposed convolution of channels-first arrays with a long stride: vectors across the stride phases.

One input number is spread over a run of `stride` output pixels, by as many neighbouring weights of a kernel row. So with a kernel
of J * stride columns (FCN's up-sampling) output pixels and weights are vectors as they lie, and nothing is interleaved:

    for unit in this task's units                    # a unit: a plane (n, c) and some of its output rows
        scratch <- input rows that they read, between margins of zeros
        for output row of the unit
            for tile of `positions` input columns u
                for (input row, kernel row kh) that meet in the output row
                    for j in 0 .. J - 1
                        for q in phases, a vector at a time
                            sum[u, q] = fma(scratch[row, u - j], weight[c, kh, j * stride + q], sum[u, q])
                output[row, u * stride + q - lo] = epilogue(sum[u, q])

Which rows meet stands in tables, so strides, dilation and padding of the rows are not in the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import Finish, finish

__all__ = ["CHUNK_WORDS", "ROW_WORDS", "TAP_WORDS", "Arg", "SpreadSpec", "build"]


class Arg(IntEnum):
    """Where an argument lies in the vector; the first six are those of `tables.Slot`. Offsets and strides are in bytes."""

    INPUT = 0
    WEIGHT = 1
    OUTPUT = 2
    BIAS = 3
    RESIDUAL = 4
    LIMITS = 5
    SCRATCH = 6
    SCRATCH_BYTES = 7  # of one thread
    UNITS = 8
    UNITS_PER_TASK = 9
    N_CHUNKS = 10
    CHANNELS = 11
    X_IMAGE = 12
    X_CHANNEL = 13
    X_ROW = 14
    OUT_IMAGE = 15
    OUT_CHANNEL = 16
    CHUNKS = 17  # first output row, last + 1, first input row, input rows
    ROWS = 18  # output offset, first tap, last + 1
    TAPS = 19  # input row, weight offset
    ROW_PITCH = 20  # of the scratch
    FIRST = 21  # input column of the scratch's first place
    IN_COLUMNS = 22
    OUT_COLUMNS = 23
    POSITIONS = 24  # input columns u that reach the output
    START = 25  # output column of the first one's phase 0 (negative where padding cuts into it)
    WEIGHT_BYTES = 26  # of a channel


CHUNK_WORDS = 4
ROW_WORDS = 3
TAP_WORDS = 2


@dataclass(frozen=True, slots=True)
class SpreadSpec:
    """What the code depends on. taps: J; positions: of a tile; ragged: runs are cut by padding, or hang over the last vector."""

    arguments: ClassVar[type[IntEnum]] = Arg

    element: str
    out: str
    inner: str
    lanes: int
    positions: int
    stride: int
    taps: int
    ragged: bool
    finish: Finish

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: SpreadSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    arg = {slot: f.int_arg(slot) for slot in Arg}
    scratch = f.ptr_arg(Arg.SCRATCH, spec.inner).at_bytes(f.thread * arg[Arg.SCRATCH_BYTES])
    with f.share(arg[Arg.UNITS], arg[Arg.UNITS_PER_TASK]) as unit:
        plane, chunk_number = unit.index // arg[Arg.N_CHUNKS], unit.index % arg[Arg.N_CHUNKS]
        n, c = plane // arg[Arg.CHANNELS], plane % arg[Arg.CHANNELS]
        chunk = f.ptr_arg(Arg.CHUNKS, "i64").at(chunk_number * CHUNK_WORDS)
        lowest = chunk.at(2).load_int()
        x = f.ptr_arg(Arg.INPUT, spec.element).at_bytes(n * arg[Arg.X_IMAGE] + c * arg[Arg.X_CHANNEL] + lowest * arg[Arg.X_ROW])
        w = f.ptr_arg(Arg.WEIGHT, spec.inner).at_bytes(c * arg[Arg.WEIGHT_BYTES])
        out = n * arg[Arg.OUT_IMAGE] + c * arg[Arg.OUT_CHANNEL]
        _fill(f, spec, arg, scratch, x, chunk.at(3).load_int())
        with f.loop(chunk.load_int(), chunk.at(1).load_int()) as row:
            entry = f.ptr_arg(Arg.ROWS, "i64").at(row.index * ROW_WORDS)
            out_row, first, last = out + entry.load_int(), entry.at(1).load_int(), entry.at(2).load_int()
            with f.loop(0, arg[Arg.POSITIONS], spec.positions) as tile:
                u = tile.index.minimum(arg[Arg.POSITIONS] - spec.positions)  # the last tile may lie over the one before
                sums = _sums(f, spec, arg, scratch.at(u), lowest, w, first, last)
                _store(f, spec, arg, sums, out_row, u * spec.stride + arg[Arg.START], c)
    return f.ir()


def _fill(f: Kernel, spec: SpreadSpec, arg: dict[Arg, Int], scratch: Ptr, x: Ptr, rows: Int) -> None:
    """The unit's input rows; places before and behind them are zeros."""
    lanes, item = spec.lanes, ELEMENT_BYTES[spec.inner]
    with f.loop(0, rows) as row:
        source, to = x.at_bytes(row.index * arg[Arg.X_ROW]), scratch.at_bytes(row.index * arg[Arg.ROW_PITCH])
        with f.loop(0, arg[Arg.ROW_PITCH] // item, lanes) as place:
            column = place.index + arg[Arg.FIRST]
            inside = _inside(f, lanes, column, arg[Arg.IN_COLUMNS] - column)
            to.at(place.index).store(source.at(column).load(lanes, inside))


def _sums(f: Kernel, spec: SpreadSpec, arg: dict[Arg, Int], x: Ptr, lowest: Int, w: Ptr, first: Int, last: Int) -> list[Num]:
    """The sums of a tile, numbered (position, vector)."""
    lanes, vectors = spec.lanes, -(-spec.stride // spec.lanes)
    zeros = [f.zeros(spec.inner, lanes)] * (spec.positions * vectors)
    with f.loop(first, last, carry=zeros) as tap:
        entry = f.ptr_arg(Arg.TAPS, "i64").at(tap.index * TAP_WORDS)
        line, here = x.at_bytes((entry.load_int() - lowest) * arg[Arg.ROW_PITCH]), w.at_bytes(entry.at(1).load_int())
        sums = list(tap.carry)
        for j in range(spec.taps):
            weights = [here.at(j * spec.stride + v * lanes).load(lanes) for v in range(vectors)]
            for p in range(spec.positions):
                number = line.at(p + spec.taps - 1 - j).splat(lanes)
                for v in range(vectors):
                    sums[p * vectors + v] = number.fma(weights[v], sums[p * vectors + v])
        tap.carry = sums
    return tap.result


def _store(f: Kernel, spec: SpreadSpec, arg: dict[Arg, Int], sums: list[Num], out: Int, start: Int, channel: Int) -> None:
    """The tile's sums to memory, of the first and the last run only what lies inside the result."""
    lanes, vectors, item = spec.lanes, -(-spec.stride // spec.lanes), ELEMENT_BYTES[spec.out]
    for number, value in enumerate(sums):
        p, v = divmod(number, vectors)
        column, mask = start + (p * spec.stride + v * lanes), None
        if spec.ragged:
            mask = _inside(f, lanes, column, (arg[Arg.OUT_COLUMNS] - column).minimum(spec.stride - v * lanes))
        finish(f, spec.finish, value, spec.out, out + column * item, channel, mask, spread=True)


def _inside(f: Kernel, lanes: int, column: Int, count: Int) -> Bit:
    """The lanes whose column is not negative, of the first `count`."""
    return f.lane_mask(lanes, count).but_not(f.lane_mask(lanes, 0 - column))
