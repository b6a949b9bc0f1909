"""The weights of a transposed convolution whose stride phases are folded into channels (see `taps.Folded`), in vectors.

Number q * channels + o of phase q and channel o is tap k = q + j*stride of a kernel line. Neighbouring taps lie together in
the weights, channels lie together in the result: so the taps of all channels are loaded as vectors and interleaved.

    for input channel i                  # next to one another in the result; kh: the kernel line of this task
        for j in taps of a phase
            for q in phases, `lanes` at a time
                vectors[o] = weight[i, o, kh, j*stride + q ..]    # zeros beyond the kernel and beyond the phases
                result[block.., tap kh, j, i] = the vectors, interleaved
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, Words, elements
from preimage.engines.ir.builder import Int, Kernel, Num, Ptr
from preimage.engines.ir.shuffles import interleave
from preimage.records import record

__all__ = ["FoldArguments", "FoldSpec", "build"]


class FoldArguments(Arguments):
    """One task packs one kernel line. Offsets and strides in bytes."""

    source: Elements = elements("source")
    result: Elements = elements("result")
    flag: Words  # set to 1 if a weight is not finite
    inputs: Integer  # input channels
    stride: Integer
    kernel: Integer  # taps of a line
    taps: Integer  # of a phase
    vectors: Integer  # of phases
    source_input: Integer  # from an input channel to the next
    source_channel: Integer
    source_line: Integer
    result_input: Integer
    result_tap: Integer
    table: Words  # place of every vector of the result, the same for all taps and input channels; -1: nowhere


@record
class FoldSpec:
    """channels: output channels, so many vectors are interleaved."""

    arguments: ClassVar = FoldArguments

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
    args = FoldArguments.read(f, spec, at_entry=True)
    line, zero = f.task, f.zeros(spec.result, spec.lanes)
    first = args.source.at_bytes(line * args.source_line)
    packed = args.result.at_bytes(line * args.taps * args.result_tap)
    with f.loop(0, args.inputs, carry=[zero]) as i:
        source = first.at_bytes(i.index * args.source_input)
        with f.loop(0, args.taps, carry=i.carry) as j:
            to = packed.at_bytes(j.index * args.result_tap + i.index * args.result_input)
            with f.loop(0, args.vectors, carry=j.carry) as v:
                v.carry = [_vector(f, spec, args, source, to, j.index, v.index, v.carry[0])]
            j.carry = v.result
        i.carry = j.result
    total = i.result[0].lane(0)
    for lane in range(1, spec.lanes):
        total = total + i.result[0].lane(lane)
    with f.when(total.is_nan()):
        args.flag.store_int(1)
    return f.ir()


def _vector(f: Kernel, spec: FoldSpec, args: FoldArguments, source: Ptr, to: Ptr, j: Int, number: Int, bad: Num) -> Num:
    """`lanes` phases of all channels; the pieces lie far from one another, so those of the next input channel are prefetched."""
    q = number * spec.lanes
    k = j * args.stride + q
    inside = f.lane_mask(spec.lanes, (args.kernel - k).minimum(args.stride - q))
    values = []
    for o in range(spec.channels):
        at = source.at(k).at_bytes(args.source_channel * o)
        f.prefetch(at.at_bytes(args.source_input))
        value = at.load(spec.lanes, inside)
        bad = value.fma(f.zeros(spec.result, spec.lanes), bad)  # NaN from the first weight on that is not finite
        values.append(value)
    places = args.table.at(number * spec.channels)
    for number_of_vector, value in enumerate(interleave(values)):
        place = places.at(number_of_vector).load_int()
        with f.when(place >= 0):
            there = to.at_bytes(place)
            f.prefetch(there.at_bytes(args.result_input), write=True)
            there.store(value)
    return bad
