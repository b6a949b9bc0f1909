"""Sums per channel over blocks of space, in an order that the sizes alone set:

    element i of a block goes to partial sum i % 16; the sixteen are added as a tree: j + (j + 8), then 4, 2, 1

Channels innermost (columns): a vector holds neighbouring channels, and there are sixteen of them. Space innermost (rows): the
sixteen partial sums are the lanes. So both give the same bits, for any vector width. What is summed:

    plain     x
    squares   x - m  and  (x - m)^2     products  g  and  g (x - m)        m: one number a channel
"""

from __future__ import annotations

from typing import ClassVar

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
    """mode: plain, squares or products; columns: whether channels lie innermost; group: accumulators held at a time (columns)."""

    arguments: ClassVar = SumsArguments

    element: str
    lanes: int
    mode: str
    columns: bool
    group: int

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
    m = args.m.at(image * args.m_step)
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
            _column(f, spec, x, g, m, results, channels, count, c.index, f.lane_mask(spec.lanes, last - c.index))
    else:
        with f.loop(first, last) as c, f.loop(0, blocks) as b:
            start = b.index * each
            at, line = c.index * space + start, b.index * channels + c.index
            _row(f, spec, x.at(at), g.at(at), m.at(c.index), [r.at(line) for r in results], (space - start).minimum(each))
    return f.ir()


def _sums(spec: SumsSpec) -> int:
    return 1 if spec.mode == "plain" else 2


def _add(spec: SumsSpec, sums: list[Num], x: Num, g: Num, m: Num | None, keep: Bit | None) -> list[Num]:
    """The sums with one more term each; outside `keep` the terms are 0."""
    if m is None:
        return [sums[0] + x]
    apart = x - m
    if keep is not None:
        apart = keep.select(apart, apart.kernel.zeros(apart.dtype, apart.lanes))
    if spec.mode == "squares":
        return [sums[0] + apart, apart.fma(apart, sums[1])]
    return [sums[0] + g, g.fma(apart, sums[1])]


def _tree(values: list[Num]) -> Num:
    """j + (j + half) until one is left."""
    while len(values) > 1:
        half = len(values) // 2
        values = [a + b for a, b in zip(values[:half], values[half:], strict=True)]
    return values[0]


def _column(
    f: Kernel, spec: SumsSpec, x: Ptr, g: Ptr, m: Ptr, results: list[Ptr], channels: Int, count: Int, at: Int, mask: Bit
) -> None:
    lanes, group = spec.lanes, spec.group
    offset = None if spec.mode == "plain" else m.at(at).load(lanes, mask)
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


def _row(f: Kernel, spec: SumsSpec, x: Ptr, g: Ptr, m: Ptr, results: list[Ptr], count: Int) -> None:
    lanes = min(spec.lanes, PARTIALS)
    vectors = PARTIALS // lanes
    offset = None if spec.mode == "plain" else m.splat(lanes)
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
