"""A chain of elementwise steps over rows of elements, in one pass:

    for row in this task's rows
        for i in vectors of the row
            values = operands at (row, i)        # an array, one number, one a column, or one a row
            for each step: values += [step(values)]
            result[row, i] = values[-1]

Every step rounds as its NumPy function does; nothing is fused into another rounding. NaN passes every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from preimage.engines.jit.emit import Bit, Int, Kernel, Num

__all__ = ["Arg", "ChainSpec", "build"]


class Arg(IntEnum):
    """Where an argument lies in the vector; operands follow."""

    RESULT = 0
    ROWS = 1
    WIDTH = 2
    ROWS_PER_TASK = 3
    ROW_PERIOD = 4
    OPERANDS = 5


@dataclass(frozen=True, slots=True)
class ChainSpec:
    """What the code depends on: element type, lanes, how each operand lies, and the steps.

    An operand is "full" (an element each), "one" (for all), "column" (one each), or "row" (one each, repeating after
    ROW_PERIOD rows).

    A step is (word, operands, numbers): operands are places in the list of operands and earlier results; numbers are a
    leaky_relu's slope or a clip's bounds (None: no bound).
    """

    element: str
    lanes: int
    kinds: tuple[str, ...]
    steps: tuple[tuple[str, tuple[int, ...], tuple[float | None, ...]], ...]


def build(spec: ChainSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    n_rows, width, share = f.int_arg(Arg.ROWS), f.int_arg(Arg.WIDTH), f.int_arg(Arg.ROWS_PER_TASK)
    period = f.int_arg(Arg.ROW_PERIOD)
    result = f.ptr_arg(Arg.RESULT, spec.element)
    first = f.task * share
    whole = width - width % spec.lanes
    with f.loop(first, (first + share).minimum(n_rows)) as row:
        start = row.index * width
        turn = row.index % period if "row" in spec.kinds else row.index

        def body(column: Int, mask: Bit | None, start: Int = start, turn: Int = turn) -> None:
            values: list[Num] = []
            for number, kind in enumerate(spec.kinds):
                at = f.ptr_arg(Arg.OPERANDS + number, spec.element)
                if kind == "full":
                    values.append(at.at(start + column).load(spec.lanes, mask))
                elif kind == "column":
                    values.append(at.at(column).load(spec.lanes, mask))
                else:
                    values.append((at.at(turn) if kind == "row" else at).splat(spec.lanes))
            for word, places, numbers in spec.steps:
                values.append(_step(f, spec, word, [values[p] for p in places], numbers))
            result.at(start + column).store(values[-1], mask)

        with f.loop(0, whole, spec.lanes) as i:
            body(i.index, None)
        with f.when(whole < width):
            body(whole, f.lane_mask(spec.lanes, width - whole))
    return f.ir()


def _step(f: Kernel, spec: ChainSpec, word: str, values: list[Num], numbers: tuple[float | None, ...]) -> Num:
    x = values[0]
    if word in ("add", "sub", "mul", "div"):
        y = values[1]
        return {"add": Num.__add__, "sub": Num.__sub__, "mul": Num.__mul__, "div": Num.__truediv__}[word](x, y)
    if word == "sqrt":
        return x.sqrt()
    if word == "relu":
        zero = f.zeros(spec.element, spec.lanes)
        held: Num = x.is_below(zero).select(zero, x)
        return held
    if word == "leaky_relu":
        assert numbers[0] is not None
        scaled = x * f.const(spec.element, spec.lanes, numbers[0])
        leaked: Num = x.is_below(f.zeros(spec.element, spec.lanes)).select(scaled, x)
        return leaked
    lo, hi = numbers
    if lo is not None:
        least = f.const(spec.element, spec.lanes, lo)
        x = x.is_below(least).select(least, x)
    if hi is not None:
        most = f.const(spec.element, spec.lanes, hi)
        x = x.is_above(most).select(most, x)
    return x
