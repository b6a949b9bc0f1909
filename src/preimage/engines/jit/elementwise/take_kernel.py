"""Elements taken along an axis by indices that stand in memory:

    result[o, j, :] = x[o, index[j], :]      for every outer o and index j

An index below 0 counts from the end; one outside is held at the nearest end (whoever calls has to refuse it: nothing outside x is read). Elements are
moved as words of their size, so the dtype does not matter.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, Words, elements
from preimage.engines.ir.builder import Bit, Int, Kernel, Ptr
from preimage.engines.jit.elementwise.vectors import Vectors
from preimage.records import record

__all__ = ["TakeArguments", "TakeSpec", "build"]


class TakeArguments(Arguments):
    """A task is `share` outers and `piece` indices of each; `inner` words belong to one index."""

    x: Elements = elements("element")
    result: Elements = elements("element")
    index: Words
    outers: Integer
    size: Integer
    count: Integer
    inner: Integer
    share: Integer
    piece: Integer
    pieces: Integer


@record
class TakeSpec:
    """element: the words that are moved; lanes: of a vector of them; single: an index takes one word; index: "i64" or "i32"."""

    arguments: ClassVar = TakeArguments

    element: str
    lanes: int
    single: bool
    index: str = "i64"

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: TakeSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = TakeArguments.read(f, spec)
    x, result, size, count, inner = args.x, args.result, args.size, args.count, args.inner
    begin = f.task % args.pieces * args.piece
    end = (begin + args.piece).minimum(count)
    top = f.task // args.pieces * args.share
    with f.loop(top, (top + args.share).minimum(args.outers)) as outer:
        source, target = x.at(outer.index * (size * inner)), result.at(outer.index * (count * inner))
        with f.loop(begin, end) as j:
            place = _held(_index(f, args.index, spec.index, j.index), size)
            _move(f, spec, source.at(place * inner), target.at(j.index * inner), inner)
    return f.ir()


def _move(f: Kernel, spec: TakeSpec, line: Ptr, to: Ptr, inner: Int) -> None:
    """The words of one index."""
    if spec.single:
        to.store(line.load())
        return

    def body(i: Int, mask: Bit | None) -> None:
        to.at(i).store(line.at(i).load(spec.lanes, mask), mask)

    Vectors(f, spec.lanes).run(0, inner, body)


def _index(f: Kernel, table: Ptr, element: str, j: Int) -> Int:
    if element == "i64":
        return table.at(j).load_int()
    narrow = f.let(f"load i32, {table.at_bytes(j * 4).typed}, align 4")
    return Int(f, f.let(f"sext i32 {narrow} to i64"))


def _held(place: Int, size: Int) -> Int:
    """The index from the beginning, inside."""
    return (place < 0).pick(place + size, place).maximum(0).minimum(size - 1)
