"""A chain of elementwise steps over rows of elements, in one pass:

    for row in this task's rows
        for i in vectors of the row
            values = operands at (row, i)        # an array, one number, one a column, or one a row
            for each step: values += [step(values)]
            results[..][row, i] = values[..]

Every step rounds as its NumPy function does (exp, sigmoid and tanh: `ir/math.py`); nothing is fused into another rounding. NaN
passes every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Column, Elements, Integer, Record, Rows, elements
from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.elementwise import WORDS, Step

__all__ = ["ChainArguments", "ChainSpec", "Operand", "build"]


class ChainArguments(Arguments):
    """How the vector begins. The results' addresses follow, then an `Operand` for each operand."""

    total: Integer  # elements
    width: Integer  # of a row
    rows_per_task: Integer
    numbers: Elements = elements("element")


class Operand(Record):
    """Where an operand lies, and which of its lines belongs to a row: (row // divisor) % modulus."""

    address: Column
    divisor: Column
    modulus: Column


@dataclass(frozen=True, slots=True)
class ChainSpec:
    """What the code depends on: element type, lanes, how each operand lies, the steps, and which values are stored.

    An operand is "full" (an element each), "one" (for all), "column" (one each, the same for all rows), "columns" (one each, of
    the line (row // divisor) % modulus), or "row" (one for a row: the (row // divisor) % modulus-th). Then come `numbers`
    numbers, given at the call.
    """

    arguments: ClassVar = ChainArguments

    element: str
    lanes: int
    kinds: tuple[str, ...]
    numbers: int
    steps: tuple[Step, ...]
    results: tuple[int, ...]

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: ChainSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    lanes, element = spec.lanes, spec.element
    args = ChainArguments.read(f, spec)
    total, width, share = args.total, args.width, args.rows_per_task
    given = args.numbers
    n_results = len(spec.results)
    outputs = [f.ptr_arg(len(ChainArguments.fields) + k, element) for k in range(n_results)]
    operands = Rows(Operand, f.arguments.at(len(ChainArguments.fields) + n_results))
    arrays = [f.pointer(operands[k].address, element) for k in range(len(spec.kinds))]
    numbers = [given.at(k).splat(lanes) for k in range(spec.numbers)]
    first = f.task * share
    n_rows = (total + width - 1) // width
    with f.loop(first, (first + share).minimum(n_rows)) as row:
        start = row.index * width
        here = (total - start).minimum(width)
        whole = here - here % lanes
        begins = list(arrays)
        splats: dict[int, Num] = {}
        for number, kind in enumerate(spec.kinds):
            if kind == "full":
                begins[number] = arrays[number].at(start)
            elif kind in ("columns", "row"):
                line = row.index // operands[number].divisor % operands[number].modulus
                begins[number] = arrays[number].at(line * width if kind == "columns" else line)
            if kind in ("one", "row"):
                splats[number] = begins[number].splat(lanes)
        stores = [output.at(start) for output in outputs]

        def body(column: Int, mask: Bit | None, begins: list[Ptr], splats: dict[int, Num], stores: list[Ptr]) -> None:
            values: list[Num] = []
            for number in range(len(spec.kinds)):
                values.append(splats[number] if number in splats else begins[number].at(column).load(lanes, mask))
            values += numbers
            for word, places in spec.steps:
                values.append(WORDS[word](f, *(values[p] for p in places)))
            for store, place in zip(stores, spec.results, strict=True):
                store.at(column).store(values[place], mask)

        with f.loop(0, whole, lanes) as i:
            body(i.index, None, begins, splats, stores)
        with f.when(whole < here):
            body(whole, f.lane_mask(lanes, here - whole), begins, splats, stores)
    return f.ir()
