"""A chain of elementwise steps on arrays that lie anyhow, in one pass:

    for line in this task's lines            # (outer axes, piece of the inner axis, row), the outer axes' places by division
        for i in vectors of the line         # along the inner axis
            values = operands at (line, i)   # neighbours, one for all, or elements with gaps
            for each step: values += [step(values)]
            results[..][line, i] = values[..]

How many outer axes there are, all sizes and strides are arguments: one kernel serves arrays of any rank. Without steps it copies. Element
types are those of ir/elements.py; steps compute in `dtype`.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir import elements as memory
from preimage.engines.ir.arguments import Arguments, Column, Elements, Integer, Record, Rows, Words, elements
from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.elementwise import Step, applied
from preimage.records import record

__all__ = ["ChainArguments", "ChainSpec", "Place", "build"]


class ChainArguments(Arguments):
    """How the vector begins. A `Place` for each operand and each result follows."""

    width: Integer  # elements along the inner axis
    piece: Integer  # of them that a line has at most
    pieces: Integer
    rows: Integer  # along the next axis
    lines: Integer  # of all tasks
    share: Integer  # of a task
    axes: Integer  # further out
    table: Words  # for each of these its size, then the stride in bytes of every array; the innermost first
    numbers: Elements = elements("dtype")


class Place(Record):
    """Where an array begins, and how many bytes apart its elements are along the inner axis and the rows."""

    address: Column
    inner: Column
    row: Column


@record
class ChainSpec:
    """What the code depends on. An array is (element type, kind); kinds, along the inner axis: "near" (neighbours), "one" (the same
    for all), "apart" (any other stride). results: places of values, and how each lies.
    """

    arguments: ClassVar = ChainArguments

    dtype: str
    lanes: int
    operands: tuple[tuple[str, str], ...]
    numbers: int
    steps: tuple[Step, ...]
    places: tuple[int, ...]
    results: tuple[tuple[str, str], ...]

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: ChainSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = ChainArguments.read(f, spec)
    arrays = [*spec.operands, *spec.results]
    places = Rows(Place, f.arguments.at(len(ChainArguments.fields)))
    offsets, rest = f.room("i64", len(arrays)), f.room("i64", 1)
    numbers = [args.numbers.at(k).load() for k in range(spec.numbers)]
    rows = args.rows
    first = f.task * args.share
    last = (first + args.share).minimum(args.lines)
    with f.loop(first // rows, (last - 1) // rows + 1) as outer:
        start = outer.index % args.pieces * args.piece
        _find(f, args, outer.index // args.pieces, len(arrays), offsets, rest)
        here = (args.width - start).minimum(args.piece)
        begins = [
            f.pointer(places[k].address + offsets.at(k).load_int() + start * places[k].inner, memory.memory_element(element))
            for k, (element, _) in enumerate(arrays)
        ]
        before = outer.index * rows
        with f.loop((first - before).maximum(0), (last - before).minimum(rows)) as row:
            _line(f, spec, [begin.at_bytes(row.index * places[k].row) for k, begin in enumerate(begins)], places, here, numbers)
    return f.ir()


def _find(f: Kernel, args: ChainArguments, number: Int, count: int, offsets: Ptr, rest: Ptr) -> None:
    """The offsets of every array at one place of the outer axes."""
    rest.store_int(number)
    for k in range(count):
        offsets.at(k).store_int(0)
    with f.loop(0, args.axes) as axis:
        entry = args.table.at(axis.index * (count + 1))
        left, size = rest.load_int(), entry.load_int()
        rest.store_int(left // size)
        for k in range(count):
            held = offsets.at(k)
            held.store_int(held.load_int() + left % size * entry.at(k + 1).load_int())


def _line(f: Kernel, spec: ChainSpec, begins: list[Ptr], places: Rows[Place], here: Int, numbers: list[Num]) -> None:
    lanes, given = spec.lanes, len(spec.operands)
    arrays = [*spec.operands, *spec.results]
    masked = all(kind != "apart" and memory.BYTES[element] > 2 for element, kind in arrays)
    whole = here - here % lanes
    held = {k: memory.load(begins[k], element, spec.dtype, 1) for k, (element, kind) in enumerate(spec.operands) if kind == "one"}

    def body(at: Int, lanes: int, mask: Bit | None, held: dict[int, Num | Bit], numbers: list[Num]) -> None:
        values: list[Num | Bit] = []
        for k, (element, kind) in enumerate(spec.operands):
            if kind == "one":
                values.append(held[k])
            elif kind == "near":
                values.append(memory.load(begins[k].at(at), element, spec.dtype, lanes, mask))
            else:
                values.append(_gathered(begins[k], element, spec.dtype, lanes, places[k].inner, at))
        values += numbers
        for word, operands in spec.steps:
            values.append(applied(f, word, [values[p] for p in operands], spec.dtype))
        for k, ((element, kind), place) in enumerate(zip(spec.results, spec.places, strict=True), given):
            if kind == "near":
                memory.store(begins[k].at(at), element, values[place], spec.dtype, mask)
            else:
                _scatter(begins[k], element, spec.dtype, values[place], places[k].inner, at)

    many = [number.splat(lanes) for number in numbers], {k: _spread(value, lanes) for k, value in held.items()}
    with f.loop(0, whole, lanes) as i:
        body(i.index, lanes, None, many[1], many[0])
    if lanes == 1:
        return
    if masked:
        with f.when(whole < here):
            body(whole, lanes, f.lane_mask(lanes, here - whole), many[1], many[0])
    else:  # no CPU here masks bytes, and elements with gaps are taken one by one anyway
        with f.loop(whole, here) as i:
            body(i.index, 1, None, held, numbers)


def _spread(value: Num | Bit, lanes: int) -> Num | Bit:
    """One value in every lane."""
    if isinstance(value, Num):
        return value.splat(lanes)
    f = value.kernel
    one = f.let(f"zext {value.typed} to i8")
    many = Num(f, f.spread("i8", lanes, one), "i8", lanes)
    return Bit(f, f.let(f"trunc {many.typed} to {f.raw_type('i1', lanes)}"), lanes)


def _gathered(begin: Ptr, element: str, dtype: str, lanes: int, stride: Int, at: Int) -> Num | Bit:
    """Elements with gaps as a vector."""
    f, raw = begin.kernel, memory.memory_element(element)
    kind, vector = f.raw_type(raw, 1), f.raw_type(raw, lanes)
    value, place = "zeroinitializer", begin.at_bytes(at * stride)
    for lane in range(lanes):
        place = place.at_bytes(stride) if lane else place
        one = f.let(f"load {kind}, ptr {place.value}, align {memory.BYTES[element]}")
        value = one if lanes == 1 else f.let(f"insertelement {vector} {value}, {kind} {one}, i32 {lane}")
    wide = f.widen(value, raw, lanes)
    return wide if element == dtype else memory.converted_to(f, wide, element, dtype)


def _scatter(begin: Ptr, element: str, dtype: str, value: Num | Bit, stride: Int, at: Int) -> None:
    """A vector as elements with gaps."""
    f, raw = begin.kernel, memory.memory_element(element)
    stored = memory.stored(f, value, element, dtype)
    kind, vector, text = f.raw_type(raw, 1), f.raw_type(raw, stored.lanes), f.narrow(stored, raw)
    place = begin.at_bytes(at * stride)
    for lane in range(stored.lanes):
        place = place.at_bytes(stride) if lane else place
        one = text if stored.lanes == 1 else f.let(f"extractelement {vector} {text}, i32 {lane}")
        f.write(f"store {kind} {one}, ptr {place.value}, align {memory.BYTES[element]}")
