"""Packing weights: from the order of the array to [block of channels][tap][i][width], the order in which they are read.

    squares     rows of output channels, columns (taps, or input channels and taps) that lie one after another: squares of
                lanes x lanes, transposed in registers; a table says where each column goes
    dealt       few taps lie inside, the output channels next to them (transposed convolution): `taps` vectors hold those
                of `lanes` channels; they are dealt out, one vector to each tap
    gather      element by element, from a table (folded phases: few channels)

The loops of the first two, for one block of output channels:

    for outer in input channels                       # conv, where these are columns: one turn
        for part in the block's vectors
            for column in columns                     # squares; `lanes` at a time
                result[part, column, outer] = ...     # whole lines of the cache, written once

What is read next is asked for early, into the second cache: the pieces read in one go are short and lie far apart, often so
that they would push each other out of the first. Every kernel notes
whether all weights are finite, and widens f16 and bf16 as it loads.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.packing.copy_kernel import transposed

__all__ = ["GatherWeightSpec", "WeightSlot", "WeightSpec", "build_gather_weight", "build_weight", "dealt"]

CHAINS = 4  # sums that look for what is not finite, side by side


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
    COLUMNS = 10  # contiguous elements of one output channel
    TABLE = 11  # result offset of every column
    BLOCK_BYTES = 12
    WIDTH = 13  # channels of a block
    AHEAD = 14  # how far in front of a load its successor is asked for


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """lanes: side of the squares, or length of the vectors that are dealt; taps: how many there are, 0: squares; ragged: the
    width of a block is no multiple of lanes; few: the weights are so few that one body with masks does for every square.
    """

    arguments: ClassVar[type[IntEnum]] = WeightSlot

    source: str
    result: str
    lanes: int
    taps: int
    ragged: bool
    few: bool = False

    def ir(self) -> str:
        """The text of the kernel."""
        return build_weight(self)


def dealt(vectors: list[Num]) -> list[Num]:
    """n vectors, read as one run of numbers, dealt to n new ones in turn: number k goes to vector k % n."""
    n, lanes = len(vectors), vectors[0].lanes
    if n == 1:
        return vectors
    p = next(p for p in range(2, n + 1) if n % p == 0)
    hands = []  # p runs of n / p vectors each
    for s in range(p):
        hand = []
        for k in range(n // p):
            wanted = [lane * p + s for lane in range(lanes)]  # in the vectors k*p .. k*p + p - 1
            value = vectors[k * p]
            for source in range(1, p):
                low = [w if w < lanes else lane for lane, w in enumerate(wanted)] if source == 1 else list(range(lanes))
                picked = [w - source * lanes + lanes if w // lanes == source else low[lane] for lane, w in enumerate(wanted)]
                value = value.shuffle(vectors[k * p + source], picked)
            hand.append(value)
        hands.append(dealt(hand))
    return [hands[t % p][t // p] for t in range(n)]


def build_weight(spec: WeightSpec) -> str:
    f = Kernel()
    arg = {slot: f.int_arg(slot) for slot in WeightSlot}
    group, block = f.task // arg[WeightSlot.GROUP_BLOCKS], f.task % arg[WeightSlot.GROUP_BLOCKS]
    stride, width = arg[WeightSlot.CHANNEL_STRIDE], arg[WeightSlot.WIDTH]
    first = block * width
    source = f.ptr_arg(WeightSlot.SOURCE, spec.source).at_bytes(group * arg[WeightSlot.GROUP_STRIDE] + first * stride)
    result = f.ptr_arg(WeightSlot.RESULT, spec.result).at_bytes(f.task * arg[WeightSlot.BLOCK_BYTES])
    channels = (arg[WeightSlot.GROUP_CHANNELS] - first).minimum(width)  # of this block; `seen` finds NaN in what exists
    seen = [f.zeros(spec.result, spec.lanes)] * CHAINS
    with f.loop(0, arg[WeightSlot.OUTER], carry=seen) as outer:
        outer.carry = _parts(
            f,
            spec,
            source.at_bytes(outer.index * arg[WeightSlot.OUTER_STRIDE]),
            result.at_bytes(outer.index * arg[WeightSlot.OUTER_RESULT]),
            channels,
            outer.carry,
        )
    total = outer.result[0]
    for chain in outer.result[1:]:
        total = total + chain
    with f.when(total.is_nan().anywhere()):
        f.ptr_arg(WeightSlot.FLAG, "i64").store_int(1)
    return f.ir()


def _parts(f: Kernel, spec: WeightSpec, source: Ptr, result: Ptr, channels: Int, seen: list[Num]) -> list[Num]:
    """The vectors of a block: those that are full, then the last one. Lanes without a channel hold any finite number."""
    lanes, stride = spec.lanes, f.int_arg(WeightSlot.CHANNEL_STRIDE)
    some = _dealt_part if spec.taps else _rows
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
    """The chains, each NaN from the first value on that is not finite; values go to them in turn.

    Watched is what is stored: what was loaded would have to be kept beside it, in more registers than there are.
    """
    out, chain = list(seen), number % CHAINS
    out[chain] = value.fma(value.kernel.zeros(value.dtype, value.lanes), out[chain])
    return out


def _kept(f: Kernel, spec: WeightSpec, left: Int | None) -> Bit | None:
    """The lanes that a vector of the result may write: all of them, but where its last one hangs over the end."""
    return f.lane_mask(spec.lanes, left) if spec.ragged and left is not None else None


def _dealt_part(f: Kernel, spec: WeightSpec, source: Ptr, to: Ptr, left: Int | None, seen: list[Num]) -> list[Num]:
    """`lanes` channels with their taps side by side; of the last ones only those that are `left`."""
    table, ahead, values = f.ptr_arg(WeightSlot.TABLE, "i64"), f.int_arg(WeightSlot.AHEAD), []
    for k in range(spec.taps):
        at = source.at(k * spec.lanes)
        f.prefetch(at.at_bytes(ahead), 2)
        values.append(at.load(spec.lanes, None if left is None else f.lane_mask(spec.lanes, left * spec.taps - k * spec.lanes)))
    keep = _kept(f, spec, left)
    for tap, value in enumerate(dealt(values)):
        seen = _watched(value, tap, seen)
        to.at_bytes(table.at(tap).load_int()).store(value, keep)
    return seen


def _rows(f: Kernel, spec: WeightSpec, source: Ptr, to: Ptr, left: Int | None, seen: list[Num]) -> list[Num]:
    """`lanes` rows of columns, transposed square by square; rows that do not exist repeat the last one."""
    lanes, size, stride = spec.lanes, ELEMENT_BYTES[spec.source], f.int_arg(WeightSlot.CHANNEL_STRIDE)
    table, columns, ahead = f.ptr_arg(WeightSlot.TABLE, "i64"), f.int_arg(WeightSlot.COLUMNS), f.int_arg(WeightSlot.AHEAD)
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


@dataclass(frozen=True, slots=True)
class GatherWeightSpec:
    """Weights in any order: element by element, from a table of source offsets (folded phases: few channels)."""

    arguments: ClassVar[type[IntEnum]] = WeightSlot

    source: str
    result: str
    width: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build_gather_weight(self)


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
