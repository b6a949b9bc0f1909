"""DynamicQuantizeLinear: float32 values as uint8 over their own range, which zero is made part of.

    low, high = min(x, 0), max(x, 0);  scale = (high - low) / 255;  zero = round(-low / scale);  q = round(x / scale) + zero

Two launches: `find` leaves each task's least and greatest value, `quantise` takes the range from all of them. NaN and infinities go where NumPy's
minimum, division and rounding send them; what is no number becomes 0, as in QuantizeLinear.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, elements
from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.elements import stored
from preimage.engines.ir.elementwise import WORDS
from preimage.engines.jit.elementwise.vectors import Vectors
from preimage.engines.jit.products.integers.product_arguments import IntegerTypes
from preimage.records import record

__all__ = ["RangeArguments", "RangeSpec", "build"]


class RangeArguments(Arguments):
    """A task is `share` values; parts: the least and the greatest value of each task of `find`, of which there are `tasks`."""

    x: Elements = elements("float")
    parts: Elements = elements("float")
    q: Elements = elements("byte")
    scale: Elements = elements("float")
    zero: Elements = elements("byte")
    size: Integer
    share: Integer
    tasks: Integer


@record
class RangeSpec(IntegerTypes):
    """phase: "find" or "quantise"."""

    arguments: ClassVar = RangeArguments

    phase: str
    lanes: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: RangeSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = RangeArguments.read(f, spec)
    first = f.task * args.share
    last = (first + args.share).minimum(args.size)
    if spec.phase == "find":
        _find(f, spec, args, first, last)
    else:
        _quantise(f, spec, args, first, last)
    return f.ir()


def _find(f: Kernel, spec: RangeSpec, args: RangeArguments, first: Int, last: Int) -> None:
    lanes, zero = spec.lanes, f.zeros("f32", spec.lanes)

    def seen(ends: list[Num], value: Num) -> list[Num]:
        return [WORDS["minimum"](f, value, ends[0]), WORDS["maximum"](f, value, ends[1])]

    edge = last - (last - first) % lanes
    with f.loop(first, edge, lanes, carry=[zero, zero]) as k:
        k.carry = seen(list(k.carry), args.x.at(k.index).load(lanes))
    low, high = k.result
    mask = f.lane_mask(lanes, last - edge)
    with f.when(edge < last, carry=[low, high]) as rest:
        rest.carry = seen([low, high], args.x.at(edge).load(lanes, mask))
    low, high = rest.result
    to = args.parts.at(f.task * 2)
    to.store(_over_lanes(f, low, "minimum"))
    to.at(1).store(_over_lanes(f, high, "maximum"))


def _over_lanes(f: Kernel, values: Num, word: str) -> Num:
    """The least or greatest of all lanes."""
    found = values.lane(0)
    for lane in range(1, values.lanes):
        found = WORDS[word](f, values.lane(lane), found)
    return found


def _quantise(f: Kernel, spec: RangeSpec, args: RangeArguments, first: Int, last: Int) -> None:
    low, high = _range(f, args)
    scale = (high - low) / f.const("f32", 1, 255.0)
    zero = _byte(f, WORDS["neg"](f, low) / scale, f.zeros("f32", 1), scale)
    with f.when(f.task.equals(0)):
        args.scale.store(scale)
        args.zero.store(stored(f, zero, "u8", "f32"))
    scales, zeros = scale.splat(spec.lanes), _number(f, zero).splat(spec.lanes)

    def body(at: Int, mask: Bit | None) -> None:
        value = _byte(f, args.x.at(at).load(spec.lanes, mask) / scales, zeros, scales)
        args.q.at(at).store(stored(f, value, "u8", "f32"), mask)

    Vectors(f, spec.lanes).run(first, last, body)


def _range(f: Kernel, args: RangeArguments) -> tuple[Num, Num]:
    """The least and the greatest value of all tasks."""
    zero = f.zeros("f32", 1)
    with f.loop(0, args.tasks, carry=[zero, zero], once=True) as k:
        part: Ptr = args.parts.at(k.index * 2)
        k.carry = [
            WORDS["minimum"](f, part.load(), k.carry[0]),
            WORDS["maximum"](f, part.at(1).load(), k.carry[1]),
        ]
    return k.result[0], k.result[1]


def _byte(f: Kernel, quotient: Num, zero: Num, scale: Num) -> Num:
    """round(quotient) + zero, held within 0 .. 255; 0 where the range is empty."""
    lanes = quotient.lanes
    moved = WORDS["round"](f, quotient) + zero
    held = WORDS["clip"](f, moved, f.zeros("f32", lanes), f.const("f32", lanes, 255.0))
    found: Num = scale.is_equal(f.zeros("f32", lanes)).select(f.zeros("f32", lanes), held)
    return found


def _number(f: Kernel, value: Num) -> Num:
    """A number as it is, 0 for NaN: the zero point as it is stored."""
    found: Num = value.is_nan().select(f.zeros("f32", 1), value)
    return found
