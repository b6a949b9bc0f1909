"""Sums per channel over blocks of space, in an order that the sizes alone set:

    element i of a block goes to partial sum i % 16; the sixteen are added as a tree: j + (j + 8), then 4, 2, 1

Channels innermost (columns): a vector holds neighbouring channels, and there are sixteen of them. Space innermost (rows): the
sixteen partial sums are the lanes. So both give the same bits, for any vector width. What is summed:

    plain     x
    squares   x - m  and  (x - m)^2     products  g  and  g (x - m)        m: one number a channel

gate (of products): behind a relu or leaky relu of (x - m) scale + shift, g counts as 0, or times the slope, where that is not above 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

from preimage.engines.ir.arguments import Arguments, Elements, Integer, elements, integer
from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.order import PARTIALS
from preimage.records import record

__all__ = ["SumsArguments", "SumsSpec", "build"]


class SumsArguments(Arguments):
    """A task is `share` channels of an image: of one of its blocks (columns), or block by block (rows)."""

    x: Elements = elements("element")
    g: Elements = elements("element", default=0)  # the other factor
    m: Elements = elements("element", default=0)  # offsets
    scale: Elements = elements("element", default=0)  # of the gate; steps as those of m
    shift: Elements = elements("element", default=0)
    slope: Elements = elements("element", default=0)  # one number
    m_step: Integer = integer(default=0)  # elements from an image's offsets to the next image's
    first: Elements = elements("element")  # sums (images, blocks, channels): of x - m, or of g
    second: Elements = elements("element")  # of squares, or of products
    channels: Integer
    space: Integer
    block: Integer
    blocks: Integer
    share: Integer
    shares: Integer


@record
class SumsSpec:
    """mode: plain, squares or products; columns: whether channels lie innermost; group: accumulators held at a time (columns); gate: "", relu or
    leaky_relu."""

    arguments: ClassVar = SumsArguments

    element: str
    lanes: int
    mode: str
    columns: bool
    group: int
    gate: str = ""

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: SumsSpec) -> str:
    """The kernel's IR text. Tasks: images x (columns: blocks) x shares of the channels."""
    f = Kernel()
    args = SumsArguments.read(f, spec)
    channels, space, share = args.channels, args.space, args.share
    blocks, shares = args.blocks, args.shares
    each = args.block
    piece, rest = f.task % shares, f.task // shares
    first = piece * share
    last = (first + share).minimum(channels)
    block, image = (rest % blocks, rest // blocks) if spec.columns else (f.i64(0), rest)
    whole = image * (channels * space)
    x = args.x.at(whole)
    g = args.g.at(whole) if spec.mode == "products" else x
    at = image * args.m_step
    numbers = _Numbers(args.m.at(at), args.scale.at(at), args.shift.at(at), args.slope)
    line = (image * blocks + block) * channels
    results = [args.first.at(line)]
    if _sums(spec) == 2:
        results.append(args.second.at(line))
    if spec.columns:
        start = block * each
        count = (space - start).minimum(each)
        x, g = x.at(start * channels), g.at(start * channels)
        # All vectors are masked: a body without masks beside it would take as long to compile.
        with f.loop(first, last, spec.lanes) as c:
            _column(f, spec, x, g, numbers, results, channels, count, c.index, f.lane_mask(spec.lanes, last - c.index))
    else:
        with f.loop(first, last) as c, f.loop(0, blocks) as b:
            start = b.index * each
            at, line = c.index * space + start, b.index * channels + c.index
            _row(f, spec, x.at(at), g.at(at), numbers.at(c.index), [r.at(line) for r in results], (space - start).minimum(each))
    return f.ir()


class _Numbers(NamedTuple):
    """Where the numbers of channels lie: what is taken off, and the gate's."""

    m: Ptr
    scale: Ptr
    shift: Ptr
    slope: Ptr

    def at(self, channel: Int) -> _Numbers:
        return _Numbers(self.m.at(channel), self.scale.at(channel), self.shift.at(channel), self.slope)

    def read(self, spec: SumsSpec, read: Callable[[Ptr], Num], lanes: int) -> _Held | None:
        """Vectors of them, as far as the sums want them."""
        if spec.mode == "plain":
            return None
        m, nothing = read(self.m), self.m.kernel.zeros(spec.element, lanes)
        if not spec.gate:
            return _Held(m, nothing, nothing, nothing)
        slope = self.slope.splat(lanes) if spec.gate == "leaky_relu" else nothing
        return _Held(m, read(self.scale), read(self.shift), slope)


class _Held(NamedTuple):
    """The numbers of the channels at hand."""

    m: Num
    scale: Num
    shift: Num
    slope: Num

    def gated(self, spec: SumsSpec, apart: Num, g: Num) -> Num:
        """The cotangent behind the gate; apart: x - m."""
        if not spec.gate:
            return g
        zero = apart.kernel.zeros(apart.dtype, apart.lanes)
        opened: Num = (
            (apart * self.scale + self.shift).is_above(zero).select(g, g * self.slope if spec.gate == "leaky_relu" else zero)
        )
        return opened


def _sums(spec: SumsSpec) -> int:
    return 1 if spec.mode == "plain" else 2


def _add(spec: SumsSpec, sums: list[Num], x: Num, g: Num, numbers: _Held | None, keep: Bit | None) -> list[Num]:
    """The sums with one more term each; outside `keep` the terms are 0, and so is g."""
    if numbers is None:
        return [sums[0] + x]
    apart = x - numbers.m
    if keep is not None:
        apart = keep.select(apart, apart.kernel.zeros(apart.dtype, apart.lanes))
    if spec.mode == "squares":
        return [sums[0] + apart, apart.fma(apart, sums[1])]
    g = numbers.gated(spec, apart, g)
    return [sums[0] + g, g.fma(apart, sums[1])]


def _tree(values: list[Num]) -> Num:
    """j + (j + half) until one is left."""
    while len(values) > 1:
        half = len(values) // 2
        values = [a + b for a, b in zip(values[:half], values[half:], strict=True)]
    return values[0]


def _column(
    f: Kernel,
    spec: SumsSpec,
    x: Ptr,
    g: Ptr,
    numbers: _Numbers,
    results: list[Ptr],
    channels: Int,
    count: Int,
    at: Int,
    mask: Bit,
) -> None:
    lanes, group = spec.lanes, spec.group
    offset = numbers.at(at).read(spec, lambda array: array.load(lanes, mask), lanes)
    zeros = f.zeros(spec.element, lanes)
    whole = count - count % PARTIALS
    partials: list[list[Num]] = []
    for begin in range(0, PARTIALS, group):
        flat = [f.zeros(spec.element, lanes)] * (group * _sums(spec))
        with f.loop(0, whole, PARTIALS, carry=flat) as i:
            held = _grouped(spec, i.carry)
            for j in range(group):
                place = (i.index + (begin + j)) * channels + at
                value = x.at(place).load(lanes, mask)
                other = g.at(place).load(lanes, mask) if spec.mode == "products" else value
                held[j] = _add(spec, held[j], value, other, offset, None)
            i.carry = [value for sums in held for value in sums]
        held = _grouped(spec, i.result)
        for j in range(group):
            inside = whole + (begin + j) < count
            # a pixel behind the last one is read as the last one, and counts as nothing
            place = inside.select(whole + (begin + j), count - 1) * channels + at
            value = inside.select(x.at(place).load(lanes, mask), zeros)
            other = inside.select(g.at(place).load(lanes, mask), zeros) if spec.mode == "products" else value
            held[j] = _add(spec, held[j], value, other, offset, inside)
        partials += held
    for k, result in enumerate(results):
        result.at(at).store(_tree([sums[k] for sums in partials]), mask)


def _grouped(spec: SumsSpec, flat: list[Num]) -> list[list[Num]]:
    n = _sums(spec)
    return [flat[k : k + n] for k in range(0, len(flat), n)]


def _row(f: Kernel, spec: SumsSpec, x: Ptr, g: Ptr, numbers: _Numbers, results: list[Ptr], count: Int) -> None:
    lanes = min(spec.lanes, PARTIALS)
    vectors = PARTIALS // lanes
    offset = numbers.read(spec, lambda array: array.splat(lanes), lanes)
    whole = count - count % PARTIALS
    with f.loop(0, whole, PARTIALS, carry=[f.zeros(spec.element, lanes)] * (vectors * _sums(spec))) as i:
        held = _grouped(spec, i.carry)
        for j in range(vectors):
            place = i.index + j * lanes
            value = x.at(place).load(lanes)
            other = g.at(place).load(lanes) if spec.mode == "products" else value
            held[j] = _add(spec, held[j], value, other, offset, None)
        i.carry = [value for sums in held for value in sums]
    held = _grouped(spec, i.result)
    for j in range(vectors):
        kept = f.lane_mask(lanes, count - whole - j * lanes)
        value = x.at(whole + j * lanes).load(lanes, kept)
        other = g.at(whole + j * lanes).load(lanes, kept) if spec.mode == "products" else value
        held[j] = _add(spec, held[j], value, other, offset, kept)
    for k, result in enumerate(results):
        total = _tree([sums[k] for sums in held])
        half = lanes // 2
        while half:
            total = total + total.shuffle(total, [*range(half, 2 * half), *range(half, lanes)])
            half //= 2
        result.store(total.lane(0))
