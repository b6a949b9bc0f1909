"""The weights of a transposed convolution whose stride phases are folded into channels (see `plan.Folded`), in vectors.

Number q * channels + o of phase q and channel o is tap k = q + j*stride of a kernel line. Neighbouring taps lie together in
the weights, channels lie together in the result: so the taps of all channels are loaded as vectors and interleaved.

    for input channel i                  # next to one another in the result; kh: the kernel line of this task
        for j in taps of a phase
            for q in phases, `lanes` at a time
                vectors[o] = weight[i, o, kh, j*stride + q ..]    # zeros beyond the kernel and beyond the phases
                result[block.., tap kh, j, i] = the vectors, interleaved
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from preimage.engines.ir.builder import Int, Kernel, Num, Ptr
from preimage.engines.ir.shuffles import together

__all__ = ["FoldSlot", "FoldSpec", "build"]


class FoldSlot(IntEnum):
    """Where an argument lies in the vector. Offsets and strides are in bytes."""

    SOURCE = 0
    RESULT = 1
    FLAG = 2  # set to 1 if a weight is not finite
    INPUTS = 3  # input channels
    STRIDE = 4
    KERNEL = 5  # taps of a line
    TAPS = 6  # of a phase
    TURNS = 7  # vectors of phases
    SOURCE_INPUT = 8  # from an input channel to the next
    SOURCE_CHANNEL = 9
    SOURCE_LINE = 10
    RESULT_INPUT = 11
    RESULT_TAP = 12
    TABLE = 13  # place of every vector of the result, the same for all taps and input channels; -1: nowhere


@dataclass(frozen=True, slots=True)
class FoldSpec:
    """channels: output channels, so many vectors are interleaved."""

    arguments: ClassVar[type[IntEnum]] = FoldSlot

    source: str
    result: str
    lanes: int
    channels: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: FoldSpec) -> str:
    """The kernel's IR text; one task a kernel line."""
    f = Kernel()
    arg = {slot: f.int_arg(slot) for slot in FoldSlot}
    line, zero = f.task, f.zeros(spec.result, spec.lanes)
    first = f.ptr_arg(FoldSlot.SOURCE, spec.source).at_bytes(line * arg[FoldSlot.SOURCE_LINE])
    packed = f.ptr_arg(FoldSlot.RESULT, spec.result).at_bytes(line * arg[FoldSlot.TAPS] * arg[FoldSlot.RESULT_TAP])
    with f.loop(0, arg[FoldSlot.INPUTS], carry=[zero]) as i:
        source = first.at_bytes(i.index * arg[FoldSlot.SOURCE_INPUT])
        with f.loop(0, arg[FoldSlot.TAPS], carry=i.carry) as j:
            to = packed.at_bytes(j.index * arg[FoldSlot.RESULT_TAP] + i.index * arg[FoldSlot.RESULT_INPUT])
            with f.loop(0, arg[FoldSlot.TURNS], carry=j.carry) as turn:
                turn.carry = [_turn(f, spec, arg, source, to, j.index, turn.index, turn.carry[0])]
            j.carry = turn.result
        i.carry = j.result
    total = i.result[0].lane(0)
    for lane in range(1, spec.lanes):
        total = total + i.result[0].lane(lane)
    with f.when(total.is_nan()):
        f.ptr_arg(FoldSlot.FLAG, "i64").store_int(1)
    return f.ir()


def _turn(f: Kernel, spec: FoldSpec, arg: dict[FoldSlot, Int], source: Ptr, to: Ptr, j: Int, turn: Int, bad: Num) -> Num:
    """`lanes` phases of all channels; every piece lies far from the others, so those of the next input channel are asked for."""
    q = turn * spec.lanes
    k = j * arg[FoldSlot.STRIDE] + q
    inside = f.lane_mask(spec.lanes, (arg[FoldSlot.KERNEL] - k).minimum(arg[FoldSlot.STRIDE] - q))
    values = []
    for o in range(spec.channels):
        at = source.at(k).at_bytes(arg[FoldSlot.SOURCE_CHANNEL] * o)
        f.prefetch(at.at_bytes(arg[FoldSlot.SOURCE_INPUT]))
        value = at.load(spec.lanes, inside)
        bad = value.fma(f.zeros(spec.result, spec.lanes), bad)  # becomes NaN with the first that is not finite
        values.append(value)
    places = f.ptr_arg(FoldSlot.TABLE, "i64").at(turn * spec.channels)
    for number, value in enumerate(together(values)):
        place = places.at(number).load_int()
        with f.when(place >= 0):
            there = to.at_bytes(place)
            f.prefetch(there.at_bytes(arg[FoldSlot.RESULT_INPUT]), write=True)
            there.store(value)
    return bad
