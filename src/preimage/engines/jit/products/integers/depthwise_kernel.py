"""Depthwise convolutions of 8-bit integers, channels last, sums exact:

    for a task: some lines of a plane of the result, some channels
        the lines that their taps meet, in the thread's memory, the zero point where they lie outside
        for block of channels
            for line, for `pixels` positions of it
                sums = - zero point x sum of the weights
                for tap, or four taps whose bytes are made words (`quads`)
                    sums += values x (weights - their zero points), in registers
                stored as `finish_kernel.py` says

Weights lie by blocks: for each tap, or four, the words of all channels (`quads`: in the order that `words_of` makes); behind them the sums.
"""

from __future__ import annotations

from preimage.engines.ir.builder import Int, Kernel, Num, Ptr
from preimage.engines.jit.products.integers.depthwise_arguments import DepthwiseArguments, DepthwiseSpec
from preimage.engines.jit.products.integers.finish_kernel import Finishing
from preimage.engines.jit.products.integers.rows_kernel import Bytes
from preimage.engines.jit.products.integers.words_kernel import (
    BLOCK,
    ahead,
    extended,
    flipped,
    minus,
    plus,
    sum_of_products,
    times,
    words_of,
)

__all__ = ["build"]


def build(spec: DepthwiseSpec) -> str:
    """The kernel's IR text. Tasks: images x planes x shares of lines x shares of channels."""
    f = Kernel()
    args = DepthwiseArguments.read(f, spec)
    rest, channels = f.task // args.channel_tasks, f.task % args.channel_tasks * args.channel_share
    line, rest = rest % args.line_tasks * args.line_share, rest // args.line_tasks
    plane, image = rest % args.out_z, rest // args.out_z
    count, lines = args.channel_share.minimum(args.channels - channels), args.line_share.minimum(args.out_y - line)
    own = args.scratch.at_bytes(f.thread * args.thread_bytes)
    source = args.a.at_bytes(image * args.a_image + channels)
    _take_lines(f, spec, args, source, own, (plane, line), lines, count)
    to = args.output.at_bytes(image * args.out_image + plane * args.out_step_z + line * args.out_step_y)
    finishing = Finishing(f, spec, args.here)
    with f.loop(0, count, spec.width, once=True) as block:
        weights = args.weight.at((channels + block.index) * (args.steps + 1))
        start = _start(f, spec, args, weights.at(args.steps * spec.width))
        with f.loop(0, lines, once=True) as y:
            values = own.at_bytes(y.index * args.step_y * args.room_x * args.channel_share + block.index)
            out = to.at_bytes(y.index * args.out_step_y)
            with f.loop(0, args.out_x, spec.pixels, once=True) as x:
                first = values.at_bytes(x.index * args.step_x * args.channel_share)
                sums = _sums(f, spec, args, first, weights, start)
                to = out.at_bytes(x.index * args.out_step_x)
                _store(f, spec, args, finishing, to, args.out_x - x.index, sums, channels + block.index)
    return f.ir()


class _Unsigned(Bytes):
    """Bytes with a sign as bytes without: 128 more."""

    def __init__(self, f: Kernel, zero: Num) -> None:
        super().__init__(f, flipped(f, zero))

    def terms(self, bytes_: Num) -> Num:
        return flipped(self.f, bytes_)


def _take_lines(
    f: Kernel, spec: DepthwiseSpec, args: DepthwiseArguments, source: Ptr, own: Ptr, output: tuple[Int, Int], lines: Int, count: Int
) -> None:  # fmt: skip
    """Copy what the taps of some lines of a plane meet. output: that plane and the first line; count: channels."""
    moves = _Unsigned(f, args.a_zero.load()) if spec.way == "quads" and spec.signed else Bytes(f, args.a_zero.load())
    front, top = output[0] * args.step_z + args.base_z, output[1] * args.step_y + args.base_y
    dense = (args.stride_x <= count) & (count >= args.channel_share)
    with f.loop(0, args.runs_z, once=True) as z, f.loop(0, (lines - 1) * args.step_y + args.reach_y + 1, once=True) as y:
        at_z, at_y = front + z.index * args.tap_z, top + y.index
        inside = at_z.below(args.size_z) & at_y.below(args.size_y)
        begin = (f.i64(0) - args.base_x).maximum(0).minimum(args.room_x)
        end = (args.size_x - args.base_x).maximum(0).minimum(args.room_x)
        begin, end = inside.pick(begin, args.room_x), inside.pick(end.maximum(begin), args.room_x)
        line = own.at_bytes((z.index * args.room_y + y.index) * args.room_x * args.channel_share)
        given = source.at_bytes(at_z * args.stride_z + at_y * args.stride_y + args.base_x * args.stride_x)
        moves.fill(line, f.i64(0), begin * args.channel_share)
        moves.fill(line, end * args.channel_share, args.room_x * args.channel_share)
        with f.when(dense):
            moves.copy(given.at_bytes(begin * args.stride_x), line.at_bytes(begin * args.channel_share), (end - begin) * count)
        with f.when(dense.negated()), f.loop(begin, end) as x:
            moves.copy(given.at_bytes(x.index * args.stride_x), line.at_bytes(x.index * args.channel_share), count)


def _start(f: Kernel, spec: DepthwiseSpec, args: DepthwiseArguments, sums: Ptr) -> list[Num]:
    """What the zero point takes off, of the vectors of a block."""
    given = args.a_zero.load()
    moved = spec.way == "quads" and spec.signed
    zero = extended(f, flipped(f, given) if moved else given, spec.signed and not moved).splat(spec.lanes)
    nothing = f.zeros("i32", spec.lanes)
    return [minus(f, nothing, times(f, sums.at(v * spec.lanes).load(spec.lanes), zero)) for v in range(spec.vectors)]


_Sums = list[list[Num]]


def _sums(f: Kernel, spec: DepthwiseSpec, args: DepthwiseArguments, first: Ptr, weights: Ptr, start: list[Num]) -> _Sums:
    """Of `pixels` neighbouring results, those behind the end of a line among them: the vectors of each."""
    step = args.step_x * args.channel_share
    pixels = [first.at_bytes(step * k) for k in range(spec.pixels)]
    if spec.way == "quads":
        return _sums_of_quads(f, spec, args, pixels, weights, start)
    with f.loop(0, args.steps, carry=start * spec.pixels, once=True) as tap:
        place, sums = args.tap_places.at(tap.index).load_int(), list(tap.carry)
        line = weights.at(tap.index * spec.width)
        for v in range(spec.vectors):
            weight = line.at(v * spec.lanes).load(spec.lanes)
            for k, pixel in enumerate(pixels):
                value = extended(f, pixel.at_bytes(place).at_bytes(v * spec.lanes).load(spec.lanes), spec.signed)
                at = k * spec.vectors + v
                if spec.way == "pairs":
                    sums[at] = sum_of_products(f, spec.way, sums[at], value, weight)
                else:
                    sums[at] = plus(f, sums[at], times(f, value, weight))
        tap.carry = sums
    return [tap.result[k * spec.vectors : (k + 1) * spec.vectors] for k in range(spec.pixels)]


def _sums_of_quads(
    f: Kernel, spec: DepthwiseSpec, args: DepthwiseArguments, pixels: list[Ptr], weights: Ptr, start: list[Num]
) -> _Sums:  # fmt: skip
    """As `_sums`, four taps at a time."""
    nothing = [f.zeros("i32", BLOCK // 4)] * (4 * spec.pixels)
    with f.loop(0, args.steps, carry=nothing, once=True) as step:
        places = [args.tap_places.at(step.index * 4 + t).load_int() for t in range(4)]
        line = weights.at(step.index * BLOCK)
        lines = [line.at(part * BLOCK // 4).load(BLOCK // 4) for part in range(4)]
        sums = list(step.carry)
        for k, pixel in enumerate(pixels):
            words = words_of(f, [pixel.at_bytes(place).load(BLOCK) for place in places])
            for part, word in enumerate(words):
                at = 4 * k + part
                sums[at] = sum_of_products(f, "quads", sums[at], word, lines[part])
        step.carry = sums
    found = [ahead(step.result[4 * k : 4 * k + 4], spec.lanes) for k in range(spec.pixels)]
    return [[plus(f, value, begin) for value, begin in zip(each, start, strict=True)] for each in found]


def _store(
    f: Kernel, spec: DepthwiseSpec, args: DepthwiseArguments, finishing: Finishing, out: Ptr, left: Int, sums: _Sums, channel: Int
) -> None:  # fmt: skip
    """The results of neighbouring positions, of which so many are left in the line. A whole block of bytes is stored at once."""
    whole = args.channels >= channel + spec.width
    with f.when(whole):
        for k, vectors in enumerate(sums):
            there = left > k
            with f.when(there):
                at = out.at_bytes(args.out_step_x * k).at(channel)
                values = [finishing.finished(value, channel + v * spec.lanes, None) for v, value in enumerate(vectors)]
                if spec.kind == "i8" and len(values) == 2:
                    values = [values[0].shuffle(values[1], range(spec.width))]
                for v, value in enumerate(values):
                    at.at(v * spec.lanes).store(finishing.stored(value))
    with f.when(whole.negated()):
        held = f.room("i32", spec.pixels * spec.width)
        for k, value in enumerate(value for vectors in sums for value in vectors):
            held.at(k * spec.lanes).store(value)
        with f.loop(0, left.minimum(spec.pixels), once=True) as pixel:
            line = out.at_bytes(pixel.index * args.out_step_x)
            for v in range(spec.vectors):
                at_channel = channel + v * spec.lanes
                mask = f.lane_mask(spec.lanes, args.channels - at_channel)
                value = held.at(pixel.index * spec.width + v * spec.lanes).load(spec.lanes)
                line.at(at_channel).store(finishing.stored(finishing.finished(value, at_channel, mask)), mask)
