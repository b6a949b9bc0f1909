"""The right factor B of a product of integers, packed: panels of columns, in each the words of all columns term by term (words_kernel.py).

    packed[panel][word][column] = the terms word * t ... word * t + t - 1 of a column, zero behind the last

`pairs` holds B - zero. `quads` holds B itself, as numbers with a sign; behind the words of a panel stand, for each of its columns, the sum of the
column less `terms` zero points, and the zero point. Columns behind the last repeat it: what is summed of them is never stored.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, Words, elements
from preimage.engines.ir.builder import Int, Kernel, Num, Ptr
from preimage.engines.jit.products.integers.product_arguments import IntegerTypes
from preimage.engines.jit.products.integers.words_kernel import TERMS, extended, flipped, join, minus, plus, times
from preimage.records import record

__all__ = ["ColumnsArguments", "ColumnsSpec", "build", "panel_words"]


def panel_words(way: str, words: int, width: int) -> int:
    """32-bit words of a packed panel."""
    return (words + (2 if way == "quads" else 0)) * width


class ColumnsArguments(Arguments):
    """A task is a panel of a matrix. Strides in bytes; places: where each matrix begins."""

    source: Elements = elements("byte")
    zero: Elements = elements("byte")
    zero_step: Integer  # from the zero points of a matrix to those of the next, where each column has its own
    weight: Elements = elements("word")
    places: Words
    term_stride: Integer
    column_stride: Integer
    terms: Integer
    columns: Integer
    words: Integer
    panels: Integer


@record
class ColumnsSpec(IntegerTypes):
    """way: as in words_kernel.py; signed: B's type; width: of a panel; each: every column has a zero point of its own; lanes: columns that are
    packed at a time, neighbours in memory, or 1.
    """

    arguments: ClassVar = ColumnsArguments

    way: str
    signed: bool
    width: int
    each: bool
    lanes: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: ColumnsSpec) -> str:
    """The kernel's IR text. Tasks: matrices x panels."""
    f = Kernel()
    args = ColumnsArguments.read(f, spec)
    first = f.task % args.panels * spec.width
    left = args.columns - first
    if spec.lanes > 1:
        whole = left >= spec.width
        with f.when(whole), f.loop(0, spec.width, spec.lanes, once=True) as c:
            _pack(f, spec, first, c.index, first + c.index, spec.lanes)
        with f.when(whole.negated()), f.loop(0, spec.width, once=True) as c:
            _pack(f, spec, first, c.index, (first + c.index).minimum(args.columns - 1), 1)
    else:
        with f.loop(0, spec.width, once=True) as c:
            _pack(f, spec, first, c.index, (first + c.index).minimum(args.columns - 1), 1)
    return f.ir()


def _pack(f: Kernel, spec: ColumnsSpec, first: Int, place: Int, column: Int, lanes: int) -> None:
    """All words of neighbouring columns, which stand at a place of the panel."""
    args = ColumnsArguments.read(f, spec)
    matrix = f.task // args.panels
    source = args.source.at_bytes(args.places.at(matrix).load_int() + column * args.column_stride)
    packed = args.weight.at(f.task * ((args.words + panel_words(spec.way, 0, 1)) * spec.width) + place)
    given = args.zero.at(matrix * args.zero_step + column).load(lanes) if spec.each else args.zero.splat(lanes)
    zero, terms = _number(f, spec, given), TERMS[spec.way]
    whole = args.terms // terms

    def put(word: Int, sums: Num, last: bool) -> Num:
        values = [_term(f, spec, args, source, zero, word * terms + k, last) for k in range(terms)]
        packed.at(word * spec.width).store(join(f, values))
        if spec.way == "quads":
            for value in values:
                sums = plus(f, sums, value)
        return sums

    with f.loop(0, whole, carry=[f.zeros("i32", lanes)]) as word:
        word.carry = [put(word.index, word.carry[0], False)]
    with f.loop(whole, args.words, carry=word.result) as rest:
        rest.carry = [put(rest.index, rest.carry[0], True)]
    if spec.way == "quads":
        behind = packed.at(args.words * spec.width)
        behind.store(minus(f, rest.result[0], times(f, zero, _spread(f, args.terms, lanes))))
        behind.at(spec.width).store(zero)


def _number(f: Kernel, spec: ColumnsSpec, bytes_: Num) -> Num:
    """Bytes of B, or its zero points, as the kernel multiplies them: `quads` wants numbers with a sign."""
    if spec.way != "quads":
        return extended(f, bytes_, spec.signed)
    return extended(f, bytes_ if spec.signed else flipped(f, bytes_), True)


def _term(f: Kernel, spec: ColumnsSpec, args: ColumnsArguments, source: Ptr, zero: Num, term: Int, last: bool) -> Num:
    """One term of neighbouring columns; last: it may be one behind the last, and is zero then."""
    at = term.minimum(args.terms - 1) if last else term
    value = _number(f, spec, source.at_bytes(at * args.term_stride).load(zero.lanes))
    value = value if spec.way == "quads" else minus(f, value, zero)
    if not last:
        return value
    inside = f.lane_mask(zero.lanes, (term < args.terms).pick(f.i64(zero.lanes), f.i64(0)))
    held: Num = inside.select(value, f.zeros("i32", zero.lanes))
    return held


def _spread(f: Kernel, number: Int, lanes: int) -> Num:
    """A size in every lane."""
    return Num(f, f.let(f"trunc i64 {number.value} to i32"), "i32", 1).splat(lanes)
