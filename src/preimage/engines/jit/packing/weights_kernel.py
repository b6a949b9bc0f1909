"""Packing weights: from the order of the array to [block of channels][tap][i][width], the order in which they are read.

    squares     rows of output channels, columns (taps, or input channels and taps) that lie one after another: squares of
                lanes x lanes, transposed in registers; a table says where each column goes
    split       few taps lie inside, the output channels next to them (transposed convolution): `taps` vectors hold those
                of `lanes` channels; they are deinterleaved into one vector for each tap
    gather      element by element, from a table (folded phases: few channels)

The loops of the first two, for one block of output channels:

    for outer in input channels                       # conv, where these are columns: one turn
        for part in the block's vectors
            for column in columns                     # squares; `lanes` at a time
                result[part, column, outer] = ...     # whole lines of the cache, written once

Reads are prefetched into the L2 cache: the pieces read together are short and lie far apart, often at strides that map them to the
same sets of the L1 cache. Every kernel checks whether all weights are finite, and widens f16 and bf16 as it loads.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, Words, elements, integer
from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.packing.copy_kernel import transposed
from preimage.records import record

__all__ = [
    "GatherWeightArguments",
    "GatherWeightSpec",
    "WeightArguments",
    "WeightSpec",
    "build_gather_weight",
    "build_weight",
    "deinterleaved",
]

CHAINS = 4  # independent sums that become NaN where a weight is not finite


class WeightArguments(Arguments):
    """One task packs one block of output channels. Strides in bytes."""

    source: Elements = elements("source")
    result: Elements = elements("result")
    flag: Words  # set to 1 if a weight is not finite
    group_blocks: Integer
    group_channels: Integer
    group_stride: Integer  # from a group's weights to the next group's
    channel_stride: Integer  # between output channels
    outer: Integer  # outer repeats (input channels, where they are not contiguous with the taps)
    outer_stride: Integer
    outer_result: Integer
    columns: Integer  # contiguous elements of one output channel
    table: Words  # result offset of every column
    block_bytes: Integer
    width: Integer  # channels of a block
    ahead: Integer  # from a load to what is prefetched meanwhile


@record
class WeightSpec:
    """lanes: side of the squares, or length of the vectors that are deinterleaved; taps: how many there are, 0: squares; ragged: the
    width of a block is no multiple of lanes; few: there are so few weights that every square takes the body with masks.
    """

    arguments: ClassVar = WeightArguments

    source: str
    result: str
    lanes: int
    taps: int
    ragged: bool
    few: bool = False

    def ir(self) -> str:
        """The text of the kernel."""
        return build_weight(self)


def deinterleaved(vectors: list[Num]) -> list[Num]:
    """n vectors of neighbouring elements to n vectors by element number modulo n, in radix steps (`shuffles.deinterleave` has other shuffles)."""
    n, lanes = len(vectors), vectors[0].lanes
    if n == 1:
        return vectors
    p = next(p for p in range(2, n + 1) if n % p == 0)
    parts = []  # p runs of n / p vectors each
    for s in range(p):
        part = []
        for k in range(n // p):
            wanted = [lane * p + s for lane in range(lanes)]  # in the vectors k*p .. k*p + p - 1
            value = vectors[k * p]
            for source in range(1, p):
                low = [w if w < lanes else lane for lane, w in enumerate(wanted)] if source == 1 else list(range(lanes))
                picked = [w - source * lanes + lanes if w // lanes == source else low[lane] for lane, w in enumerate(wanted)]
                value = value.shuffle(vectors[k * p + source], picked)
            part.append(value)
        parts.append(deinterleaved(part))
    return [parts[t % p][t // p] for t in range(n)]


def build_weight(spec: WeightSpec) -> str:
    f = Kernel()
    args = WeightArguments.read(f, spec, at_entry=True)
    group, block = f.task // args.group_blocks, f.task % args.group_blocks
    stride, width = args.channel_stride, args.width
    first = block * width
    source = args.source.at_bytes(group * args.group_stride + first * stride)
    result = args.result.at_bytes(f.task * args.block_bytes)
    channels = (args.group_channels - first).minimum(width)  # of this block: `seen` watches no others
    seen = [f.zeros(spec.result, spec.lanes)] * CHAINS
    with f.loop(0, args.outer, carry=seen) as outer:
        here, there = source.at_bytes(outer.index * args.outer_stride), result.at_bytes(outer.index * args.outer_result)
        outer.carry = _parts(f, spec, here, there, channels, outer.carry)
    total = outer.result[0]
    for chain in outer.result[1:]:
        total = total + chain
    with f.when(total.is_nan().anywhere()):
        args.flag.store_int(1)
    return f.ir()


def _parts(f: Kernel, spec: WeightSpec, source: Ptr, result: Ptr, channels: Int, seen: list[Num]) -> list[Num]:
    """The vectors of a block: those that are full, then the last one. Lanes without a channel hold any finite number."""
    lanes, stride = spec.lanes, WeightArguments.read(f, spec).channel_stride
    some = _split_part if spec.taps else _rows
    if spec.few:
        with f.loop(0, channels, lanes, carry=seen) as part:
            at, to = source.at_bytes(part.index * stride), result.at(part.index)
            part.carry = some(f, spec, at, to, channels - part.index, part.carry)
        return part.result
    full = channels // lanes * lanes
    with f.loop(0, full, lanes, carry=seen) as part:
        part.carry = some(f, spec, source.at_bytes(part.index * stride), result.at(part.index), None, part.carry)
    with f.loop(full, channels, lanes, carry=part.result) as part:
        at, to = source.at_bytes(part.index * stride), result.at(part.index)
        part.carry = some(f, spec, at, to, channels - part.index, part.carry)
    return part.result


def _watched(value: Num, number: int, seen: list[Num]) -> list[Num]:
    """The chains, each NaN from the first value on that is not finite; values go to them round robin.

    The values are those that are stored: keeping the loaded ones as well would take more registers than there are.
    """
    out, chain = list(seen), number % CHAINS
    out[chain] = value.fma(value.kernel.zeros(value.dtype, value.lanes), out[chain])
    return out


def _kept(f: Kernel, spec: WeightSpec, left: Int | None) -> Bit | None:
    """The lanes that a vector of the result may write: all, except of the last vector of a ragged block."""
    return f.lane_mask(spec.lanes, left) if spec.ragged and left is not None else None


def _split_part(f: Kernel, spec: WeightSpec, source: Ptr, to: Ptr, left: Int | None, seen: list[Num]) -> list[Num]:
    """`lanes` channels with their taps side by side; of the last ones only those that are `left`."""
    args = WeightArguments.read(f, spec)
    table, ahead, values = args.table, args.ahead, []
    for k in range(spec.taps):
        at = source.at(k * spec.lanes)
        f.prefetch(at.at_bytes(ahead), 2)
        values.append(at.load(spec.lanes, None if left is None else f.lane_mask(spec.lanes, left * spec.taps - k * spec.lanes)))
    keep = _kept(f, spec, left)
    for tap, value in enumerate(deinterleaved(values)):
        seen = _watched(value, tap, seen)
        to.at_bytes(table.at(tap).load_int()).store(value, keep)
    return seen


def _rows(f: Kernel, spec: WeightSpec, source: Ptr, to: Ptr, left: Int | None, seen: list[Num]) -> list[Num]:
    """`lanes` rows of columns, transposed square by square; rows that do not exist repeat the last one."""
    args = WeightArguments.read(f, spec)
    lanes, size, stride = spec.lanes, ELEMENT_BYTES[spec.source], args.channel_stride
    table, columns, ahead = args.table, args.columns, args.ahead
    lines = [source.at_bytes(stride * j if left is None else (left - 1).minimum(j) * stride) for j in range(lanes)]
    keep = _kept(f, spec, left)

    def square(q: Int, over: Int | None, seen: list[Num]) -> list[Num]:
        mask, values = None if over is None else f.lane_mask(lanes, over), []
        for line in lines:
            at = line.at_bytes(q * size)
            f.prefetch(at.at_bytes(ahead), 2)
            f.prefetch(at.at_bytes(ahead).at_bytes(size * lanes - 1), 2)  # a row may lie across two lines
            values.append(at.load(lanes, mask))
        for j, value in enumerate(transposed(values)):
            seen = _watched(value, j, seen)
            with nullcontext() if over is None else f.when(over > j):
                to.at_bytes(table.at(q + j).load_int()).store(value, keep)
        return seen

    whole = columns // lanes * lanes if left is None else f.i64(0)
    if left is None:
        with f.loop(0, whole, lanes, carry=seen) as q:
            q.carry = square(q.index, None, q.carry)
        seen = q.result
    with f.loop(whole, columns, lanes, carry=seen) as q:
        q.carry = square(q.index, columns - q.index, q.carry)
    return q.result


class GatherWeightArguments(WeightArguments):
    """One task packs one row of the table: the channels of one tap, for all `outer` input channels. It reads no more than is named here."""

    group_blocks: Integer = integer(default=0)
    group_channels: Integer = integer(default=0)
    group_stride: Integer = integer(default=0)
    channel_stride: Integer = integer(default=0)
    outer_result: Integer = integer(default=0)
    columns: Integer = integer(default=0)
    table: Words  # source offset of every channel, row by row; -1: zero
    block_bytes: Integer = integer(default=0)
    width: Integer = integer(default=0)
    ahead: Integer = integer(default=0)


@record
class GatherWeightSpec:
    """Weights in any order: element by element, from a table of source offsets (folded phases: few channels)."""

    arguments: ClassVar = GatherWeightArguments

    source: str
    result: str
    width: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build_gather_weight(self)


def build_gather_weight(spec: GatherWeightSpec) -> str:
    """Rows of `width` source offsets, each repeated for `outer` input channels."""
    f = Kernel()
    args = GatherWeightArguments.read(f, spec, at_entry=True)
    source, result = args.source, args.result
    table = args.table.at(f.task * spec.width)
    to = result.at(f.task * args.outer * spec.width)
    zero = f.zeros(spec.result, 1)
    with f.loop(0, spec.width, carry=[zero]) as lane:
        offset = table.at(lane.index).load_int()
        with f.when(offset < 0), f.loop(0, args.outer) as i:
            to.at(i.index * spec.width + lane.index).store(zero)
        # For a lane without a weight the loop has no iterations.
        turns = (offset >= 0).select(args.outer, f.i64(0))
        with f.loop(0, turns, carry=lane.carry) as i:
            value = source.at_bytes(offset + i.index * args.outer_stride).load()
            to.at(i.index * spec.width + lane.index).store(value)
            i.carry = [value.fma(zero, i.carry[0])]
        lane.carry = i.result
    with f.when(lane.result[0].is_nan()):
        args.flag.store_int(1)
    return f.ir()
