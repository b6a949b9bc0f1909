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

from typing import ClassVar

from preimage.engines.ir.arguments import Column, Elements, Integer, Record, Records, elements
from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import EpilogueArguments, EpilogueSpec, finish
from preimage.engines.ir.ordered import Node, ordered_sum
from preimage.records import record

__all__ = ["Chunk", "Row", "Tap", "UpsampleArguments", "UpsampleSpec", "build"]


class Chunk(Record):
    """Some output rows of a plane, and the input rows that they read."""

    first: Column  # output row
    end: Column  # last output row + 1
    lowest: Column  # input row
    rows: Column  # input rows


class Row(Record):
    """An output row."""

    output: Column  # offset
    first: Column  # tap, or node where the sums have several blocks
    end: Column  # last + 1


class Tap(Record):
    """An input row and the kernel row that meets it in an output row."""

    row: Column
    weight: Column  # offset


class UpsampleArguments(EpilogueArguments):
    """Offsets and strides in bytes."""

    scratch: Elements = elements("inner")
    scratch_bytes: Integer  # of one thread
    units: Integer
    units_per_task: Integer
    n_chunks: Integer
    channels: Integer
    x_image: Integer
    x_channel: Integer
    x_row: Integer
    out_image: Integer
    out_channel: Integer
    chunks: Records[Chunk]
    rows: Records[Row]
    taps: Records[Tap]
    nodes: Records[Node]
    row_pitch: Integer  # of the scratch
    first: Integer  # input column of the scratch's first place
    in_columns: Integer
    out_columns: Integer
    positions: Integer  # input columns u that reach the output
    start: Integer  # output column of the first one's phase 0 (negative where padding cuts into it)
    weight_bytes: Integer  # of a channel


@record
class UpsampleSpec:
    """What the code depends on. taps: J; positions: of a tile; ragged: runs are cut by padding, or hang over the last vector; depth:
    levels of sums above the blocks; lone: every block is one kernel row.
    """

    arguments: ClassVar = UpsampleArguments

    element: str
    out: str
    inner: str
    lanes: int
    positions: int
    stride: int
    taps: int
    ragged: bool
    depth: int
    lone: bool
    finish: EpilogueSpec

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: UpsampleSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = UpsampleArguments.read(f, spec, at_entry=True)
    scratch = args.scratch.at_bytes(f.thread * args.scratch_bytes)
    with f.share(args.units, args.units_per_task) as unit:
        plane, chunk_number = unit.index // args.n_chunks, unit.index % args.n_chunks
        n, c = plane // args.channels, plane % args.channels
        chunk = args.chunks[chunk_number]
        lowest = chunk.lowest
        x = args.input.at_bytes(n * args.x_image + c * args.x_channel + lowest * args.x_row)
        w = args.weight.at_bytes(c * args.weight_bytes)
        out = n * args.out_image + c * args.out_channel
        _fill(f, spec, args, scratch, x, chunk.rows)
        with f.loop(chunk.first, chunk.end) as k:
            row = args.rows[k.index]
            out_row, first, end = out + row.output, row.first, row.end
            with f.loop(0, args.positions, spec.positions) as tile:
                u = tile.index.minimum(args.positions - spec.positions)  # the last tile may lie over the one before
                sums = _sums(f, spec, args, scratch.at(u), lowest, w, first, end)
                _store(f, spec, args, sums, out_row, u * spec.stride + args.start, c)
    return f.ir()


def _fill(f: Kernel, spec: UpsampleSpec, args: UpsampleArguments, scratch: Ptr, x: Ptr, rows: Int) -> None:
    """The unit's input rows; places before and behind them are zeros."""
    lanes, item = spec.lanes, ELEMENT_BYTES[spec.inner]
    with f.loop(0, rows) as row:
        source, to = x.at_bytes(row.index * args.x_row), scratch.at_bytes(row.index * args.row_pitch)
        with f.loop(0, args.row_pitch // item, lanes) as place:
            column = place.index + args.first
            inside = _inside(f, lanes, column, args.in_columns - column)
            to.at(place.index).store(source.at(column).load(lanes, inside))


def _sums(
    f: Kernel, spec: UpsampleSpec, args: UpsampleArguments, x: Ptr, lowest: Int, w: Ptr, first: Int, last: Int
) -> list[Num]:
    """The sums of a tile, numbered (position, vector)."""
    lanes, vectors = spec.lanes, -(-spec.stride // spec.lanes)

    def item(number: Int, chains: list[Num]) -> list[Num]:
        tap, sums = args.taps[number], list(chains)
        line, here = x.at_bytes((tap.row - lowest) * args.row_pitch), w.at_bytes(tap.weight)
        for j in range(spec.taps):
            weights = [here.at(j * spec.stride + v * lanes).load(lanes) for v in range(vectors)]
            for p in range(spec.positions):
                value = line.at(p + spec.taps - 1 - j).splat(lanes)
                for v in range(vectors):
                    sums[p * vectors + v] = sums[p * vectors + v].plus_product(weights[v], value)
        return sums

    zeros = [f.zeros(spec.inner, lanes)] * (spec.positions * vectors)
    return ordered_sum(f, spec.depth, (first, last), zeros, item, args.nodes.__getitem__, spec.lone)


def _store(f: Kernel, spec: UpsampleSpec, args: UpsampleArguments, sums: list[Num], out: Int, start: Int, channel: Int) -> None:
    """The tile's sums to memory, of the first and the last run only what lies inside the result."""
    lanes, vectors, item = spec.lanes, -(-spec.stride // spec.lanes), ELEMENT_BYTES[spec.out]
    for number, value in enumerate(sums):
        p, v = divmod(number, vectors)
        column, mask = start + (p * spec.stride + v * lanes), None
        if spec.ragged:
            mask = _inside(f, lanes, column, (args.out_columns - column).minimum(spec.stride - v * lanes))
        finish(f, spec.finish, value, spec.out, out + column * item, channel, mask, spread=True)


def _inside(f: Kernel, lanes: int, column: Int, count: Int) -> Bit:
    """The lanes whose column is not negative, of the first `count`."""
    return f.lane_mask(lanes, count).but_not(f.lane_mask(lanes, 0 - column))
