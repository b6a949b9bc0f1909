"""Depthwise convolution of channels-first arrays, vectors across the pixels of a line: forward and transposed.

A channel's plane is small, so a task first copies a band of its rows to scratch of its thread (where it stays in the cache):
widened, with margins of zeros, and each row split by the stride (column s*i + q goes to place i of part q). Then every load
is one of neighbouring elements:

    for unit in this task's units                        # a unit: a plane (n, c) and a band of its rows
        scratch <- rows of the band
        for tile of `rows` output rows
            for ow in vectors of the line
                for every part of the result (stride phases of a transposed convolution; else one)
                    sum[r] = +0
                    for kh, kw:  sum[r] = fma(scratch[row(r, kh), part(kw), place(kw) + ow], weight[c, kh, kw], sum[r])
                output[r, ow] = epilogue(sums, the parts interleaved)

An input row is loaded once for all output rows of the tile that read it. Kernels of many rows run kh as a loop. Weights are
single numbers, read as they lie: [c][kh][kw].
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from preimage.engines.ir.builder import ELEMENT_BYTES, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import Finish, finish
from preimage.engines.ir.shuffles import apart, together

__all__ = [
    "BAND_WORDS",
    "TILE_WORDS",
    "Arg",
    "PlaneSpec",
    "RowPattern",
    "WeightArg",
    "WeightCopySpec",
    "build",
    "build_weights",
]


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
    N_BANDS = 10
    CHANNELS = 11
    X_IMAGE = 12
    X_CHANNEL = 13
    X_ROW = 14
    OUT_IMAGE = 15
    OUT_CHANNEL = 16
    BANDS = 17  # first input row, rows, first tile, last + 1
    TILES = 18  # pattern, lowest input row after the band's first, output offset, weight offset
    ROW_PITCH = 19  # of the scratch
    PART_PITCH = 20
    IN_ROWS = 21
    IN_COLUMNS = 22
    OUT_COLUMNS = 23
    OUT_STEP = 24  # from an output row of a tile to the next
    WEIGHT_BYTES = 25  # of a channel


BAND_WORDS = 4
TILE_WORDS = 4


@dataclass(frozen=True, slots=True)
class RowPattern:
    """The taps of the row axis for one kind of output row: scratch rows from the lowest, and rows of weights from tap to tap."""

    offsets: tuple[int, ...]
    tap_stride: int


@dataclass(frozen=True, slots=True)
class PlaneSpec:
    """What the code depends on.

    rows: output rows of a tile; row_step: scratch rows from one to the next; split: parts of an input row; columns: for
    every part of the result its taps (number, part, place); width: taps of a kernel row; margin: places before column 0;
    looped: kh is a loop (one pattern, evenly spaced).
    """

    arguments: ClassVar[type[IntEnum]] = Arg

    element: str
    out: str
    inner: str
    lanes: int
    rows: int
    row_step: int
    split: int
    columns: tuple[tuple[tuple[int, int, int], ...], ...]
    patterns: tuple[RowPattern, ...]
    width: int
    margin: int
    vectors: int
    looped: bool
    finish: Finish

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: PlaneSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    arg = {slot: f.int_arg(slot) for slot in Arg}
    item, out_item = ELEMENT_BYTES[spec.inner], ELEMENT_BYTES[spec.out]
    scratch = f.ptr_arg(Arg.SCRATCH, spec.inner).at_bytes(f.thread * arg[Arg.SCRATCH_BYTES])
    zero = f.zeros(spec.inner, spec.lanes)
    with f.loop(0, arg[Arg.SCRATCH_BYTES], spec.lanes * item) as at:
        scratch.at_bytes(at.index).store(zero)
    with f.share(arg[Arg.UNITS], arg[Arg.UNITS_PER_TASK]) as unit:
        plane, band_number = unit.index // arg[Arg.N_BANDS], unit.index % arg[Arg.N_BANDS]
        n, c = plane // arg[Arg.CHANNELS], plane % arg[Arg.CHANNELS]
        x = f.ptr_arg(Arg.INPUT, spec.element).at_bytes(n * arg[Arg.X_IMAGE] + c * arg[Arg.X_CHANNEL])
        w = f.ptr_arg(Arg.WEIGHT, spec.inner).at_bytes(c * arg[Arg.WEIGHT_BYTES])
        out = n * arg[Arg.OUT_IMAGE] + c * arg[Arg.OUT_CHANNEL]
        band = f.ptr_arg(Arg.BANDS, "i64").at(band_number * BAND_WORDS)
        _fill(f, spec, arg, scratch, x, band.load_int(), band.at(1).load_int())
        with f.loop(band.at(2).load_int(), band.at(3).load_int()) as tile:
            entry = f.ptr_arg(Arg.TILES, "i64").at(tile.index * TILE_WORDS)
            pattern, base = entry.load_int(), scratch.at_bytes(entry.at(1).load_int() * arg[Arg.ROW_PITCH])
            out_tile, w_tile = out + entry.at(2).load_int(), w.at_bytes(entry.at(3).load_int())
            step = spec.lanes * spec.vectors
            for number, rows in enumerate(spec.patterns):
                with f.when(pattern.equals(number)):
                    parts = len(spec.columns)
                    with f.loop(0, (arg[Arg.OUT_COLUMNS] + (parts - 1)) // parts, step) as t:
                        sums = _looped(f, spec, rows, base.at(t.index), w_tile) if spec.looped else None
                        if sums is None:
                            sums = _unrolled(f, spec, rows, base.at(t.index), w_tile)
                        left = arg[Arg.OUT_COLUMNS] - t.index * parts
                        _store(f, spec, arg, sums, out_tile + t.index * (parts * out_item), c, left)
    return f.ir()


# -------------------------------------------------------------------------------------------------------- the scratch


def _fill(f: Kernel, spec: PlaneSpec, arg: dict[Arg, Int], scratch: Ptr, x: Ptr, first: Int, rows: Int) -> None:
    """The band's input rows, split; rows outside the input are zeros."""
    columns, lanes, item = arg[Arg.IN_COLUMNS], spec.lanes, ELEMENT_BYTES[spec.inner]
    wide = lanes * spec.split
    with f.loop(0, rows) as slot:
        row = first + slot.index
        to = scratch.at_bytes(slot.index * arg[Arg.ROW_PITCH]).at(spec.margin)
        whole = row.below(arg[Arg.IN_ROWS]).select(columns // wide * wide, f.i64(0))
        source = x.at_bytes(row * arg[Arg.X_ROW])
        with f.loop(0, whole, wide) as at:
            start = source.at(at.index)
            _split(
                f, spec, to.at_bytes(at.index // spec.split * item), [start.at(v * lanes).load(lanes) for v in range(spec.split)]
            )
        rest = row.below(arg[Arg.IN_ROWS]).select(columns, f.i64(0))
        with f.loop(whole, columns, wide) as at:  # the tail; or all of a row outside, as zeros
            start, left = source.at(at.index), rest - at.index
            values = [start.at(v * lanes).load(lanes, f.lane_mask(lanes, left - v * lanes)) for v in range(spec.split)]
            _split(f, spec, to.at_bytes(at.index // spec.split * item), values)


def _split(f: Kernel, spec: PlaneSpec, to: Ptr, values: list[Num]) -> None:
    for part, value in enumerate(apart(values)):
        to.at_bytes(f.int_arg(Arg.PART_PITCH) * part if part else 0).store(value)


# ------------------------------------------------------------------------------------------------------------ the sums

Sums = list[list[list[Num]]]  # [part of the result][row][vector]


def _place(f: Kernel, spec: PlaneSpec, row: Ptr, part: int, place: int, v: int) -> Num:
    """A vector of the scratch."""
    at = row.at_bytes(f.int_arg(Arg.PART_PITCH) * part) if part else row
    return at.at(spec.margin + place + v * spec.lanes).load(spec.lanes)


def _unrolled(f: Kernel, spec: PlaneSpec, pattern: RowPattern, base: Ptr, w: Ptr) -> Sums:
    """Scratch rows in the order in which every output row wants them; each loaded vector serves all output rows."""
    pitch, zero = f.int_arg(Arg.ROW_PITCH), f.zeros(spec.inner, spec.lanes)
    users: dict[int, list[tuple[int, int]]] = {}
    for r in range(spec.rows):
        for j, offset in enumerate(pattern.offsets):
            users.setdefault(r * spec.row_step + offset, []).append((r, j))
    falling = len(pattern.offsets) > 1 and pattern.offsets[0] > pattern.offsets[-1]
    numbers: dict[tuple[int, int], Num] = {}

    def weight(j: int, k: int) -> Num:
        if (j, k) not in numbers:
            numbers[j, k] = w.at(j * pattern.tap_stride * spec.width + k).splat(spec.lanes)
        return numbers[j, k]

    if len(pattern.offsets) * sum(map(len, spec.columns)) <= 9:  # few enough to stay in registers
        for j in range(len(pattern.offsets)):
            for taps in spec.columns:
                for k, _, _ in taps:
                    weight(j, k)
    result = []
    for taps in spec.columns:
        sums = [[zero] * spec.vectors for _ in range(spec.rows)]
        for slot in sorted(users, reverse=falling):
            row = base.at_bytes(pitch * slot) if slot else base
            for k, part, place in taps:
                values = [_place(f, spec, row, part, place, v) for v in range(spec.vectors)]
                for r, j in users[slot]:
                    number = (
                        weight(j, k) if (j, k) in numbers else w.at(j * pattern.tap_stride * spec.width + k).splat(spec.lanes)
                    )
                    sums[r] = [value.fma(number, total) for value, total in zip(values, sums[r], strict=True)]
        result.append(sums)
    return result


def _looped(f: Kernel, spec: PlaneSpec, pattern: RowPattern, base: Ptr, w: Ptr) -> Sums:
    """Kernel rows as turns of a loop."""
    pitch, zero = f.int_arg(Arg.ROW_PITCH), f.zeros(spec.inner, spec.lanes)
    count = len(pattern.offsets)
    step = pattern.offsets[1] - pattern.offsets[0] if count > 1 else 0
    carry = [zero] * (len(spec.columns) * spec.rows * spec.vectors)
    top = base.at_bytes(pitch * pattern.offsets[0])
    with f.loop(0, count, carry=carry) as tap:
        line = top.at_bytes(pitch * step * tap.index)
        here = w.at(tap.index * (pattern.tap_stride * spec.width))
        sums = list(tap.carry)
        for q, taps in enumerate(spec.columns):
            for k, part, place in taps:
                number = here.at(k).splat(spec.lanes)
                for r in range(spec.rows):
                    row = line.at_bytes(pitch * (r * spec.row_step)) if r else line
                    for v in range(spec.vectors):
                        at = (q * spec.rows + r) * spec.vectors + v
                        sums[at] = _place(f, spec, row, part, place, v).fma(number, sums[at])
        tap.carry = sums
    whole = iter(tap.result)
    return [[[next(whole) for _ in range(spec.vectors)] for _ in range(spec.rows)] for _ in spec.columns]


def _store(f: Kernel, spec: PlaneSpec, arg: dict[Arg, Int], sums: Sums, out: Int, channel: Int, left: Int) -> None:
    """The tile's sums to memory; of the line's last vectors only the lanes that exist."""
    lanes, parts, item = spec.lanes, len(spec.columns), ELEMENT_BYTES[spec.out]
    full = left >= lanes * parts * spec.vectors
    for whole in (True, False):
        with f.when(full if whole else left < lanes * parts * spec.vectors):
            for r in range(spec.rows):
                for v in range(spec.vectors):
                    for q, value in enumerate(together([sums[part][r][v] for part in range(parts)])):
                        place = (v * parts + q) * lanes
                        mask = None if whole else f.lane_mask(lanes, left - place)
                        at = out + arg[Arg.OUT_STEP] * r + place * item
                        finish(f, spec.finish, value, spec.out, at, channel, mask, True)


# --------------------------------------------------------------------------------------------------------- the weights


class WeightArg(IntEnum):
    """Arguments of the copy of the weights."""

    SOURCE = 0
    RESULT = 1
    FLAG = 2  # set to 1 if a weight is not finite
    COUNT = 3


@dataclass(frozen=True, slots=True)
class WeightCopySpec:
    """Weights widened, in their order, and looked at: are all finite?"""

    arguments: ClassVar[type[IntEnum]] = WeightArg

    element: str
    inner: str
    lanes: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build_weights(self)


def build_weights(spec: WeightCopySpec) -> str:
    f = Kernel()
    source, result = f.ptr_arg(WeightArg.SOURCE, spec.element), f.ptr_arg(WeightArg.RESULT, spec.inner)
    count, lanes = f.int_arg(WeightArg.COUNT), spec.lanes
    zero = f.zeros(spec.inner, lanes)
    with f.loop(0, count, lanes, carry=[zero]) as at:
        mask = f.lane_mask(lanes, count - at.index)
        value = source.at(at.index).load(lanes, mask)
        result.at(at.index).store(value, mask)
        at.carry = [value.fma(zero, at.carry[0])]  # becomes NaN with the first that is not finite
    total = at.result[0].lane(0)
    for lane in range(1, lanes):
        total = total + at.result[0].lane(lane)
    with f.when(total.is_nan()):
        f.ptr_arg(WeightArg.FLAG, "i64").store_int(1)
    return f.ir()
