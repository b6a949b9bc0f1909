"""Elements of any type in memory, as the numbers and answers that steps work on.

An element type is one of the builder's floats (f32, f64, f16, bf16), an integer (i8 to i64, u8 to u32), or `bit`, a byte that is 0 or 1.
Integers become the nearest float. Floats become integers toward zero, in 32 bits (64 for i64 and u32), held at the ends there; what is wider
than the element type loses its upper bits, as in C; NaN becomes 0.
"""

from __future__ import annotations

from preimage.engines.ir.builder import Bit, Kernel, Num, Ptr
from preimage.engines.ir.elementwise import answer_of, number_of
from preimage.engines.ir.values import constant, type_of
from preimage.engines.ir.words import converted

__all__ = ["BYTES", "FLOATS", "converted_to", "load", "memory_element", "store", "stored"]

#: Bytes of the element types.
BYTES = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2, "i8": 1, "u8": 1, "i16": 2, "u16": 2, "i32": 4, "u32": 4, "i64": 8, "bit": 1}
FLOATS = ("f32", "f64", "f16", "bf16")


def memory_element(element: str) -> str:
    """The builder's element type of the same bytes."""
    return element if element in FLOATS else f"i{8 * BYTES[element]}"


def load(source: Ptr, element: str, dtype: str, lanes: int, mask: Bit | None = None) -> Num | Bit:
    """Neighbouring elements; those outside the mask are not read. A `bit` is an answer, all else a number of this dtype.

    An element type that is the dtype (an integer, where nothing is computed) comes as it is.
    """
    value = source.load(lanes, mask)
    if element == dtype:
        return value
    return converted_to(source.kernel, value, element, dtype)


def converted_to(f: Kernel, value: Num, element: str, dtype: str) -> Num | Bit:
    """What was loaded as a number of this dtype, or as an answer."""
    lanes = value.lanes
    if element in FLOATS:
        return converted(value, dtype)
    if element == "bit":
        return Bit(f, f.let(f"icmp ne {value.typed}, {constant('i8', lanes, 0)}"), lanes)
    word = value.value
    if BYTES[element] < 4:  # by way of 32 bits, which every CPU converts at once
        extend = "zext" if element[0] == "u" else "sext"
        word = f.let(f"{extend} {value.typed} to {type_of('i32', lanes)}")
        value = Num(f, word, "i32", lanes)
    signed = "uitofp" if element == "u32" else "sitofp"
    return Num(f, f.let(f"{signed} {value.typed} to {type_of(dtype, lanes)}"), dtype, lanes)


def store(target: Ptr, element: str, value: Num | Bit, dtype: str, mask: Bit | None = None) -> None:
    """Write neighbouring elements; those outside the mask stay. dtype: of the numbers."""
    target.store(stored(target.kernel, value, element, dtype), mask)


def stored(f: Kernel, value: Num | Bit, element: str, dtype: str) -> Num:
    """A value as it is stored."""
    lanes = value.lanes
    if element == "bit":
        answer = answer_of(value)
        return Num(f, f.let(f"zext {answer.typed} to {type_of('i8', lanes)}"), "i8", lanes)
    number = number_of(value, dtype)
    if element == number.dtype:
        return number
    if element in FLOATS:
        return converted(number, "f64" if element == "f64" else "f32")
    wide = "i64" if element in ("i64", "u32") else "i32"
    words = type_of(wide, lanes)
    word = _whole_of_32_bits(f, number) if wide == "i32" and lanes > 1 else _whole(f, number, wide)
    narrow = memory_element(element)
    if narrow != wide:
        word = f.let(f"trunc {words} {word} to {type_of(narrow, lanes)}")
    return Num(f, word, narrow, lanes)


def _whole(f: Kernel, number: Num, wide: str) -> str:
    """A number toward zero, held at the ends of the integer type; NaN as 0."""
    words = type_of(wide, number.lanes)
    name = f"llvm.fptosi.sat.{_suffix(wide, number.lanes)}.{_suffix(number.dtype, number.lanes)}"
    f.declare(name, words, number.type)
    return f.let(f"call {words} @{name}({number.typed})")


def _whole_of_32_bits(f: Kernel, number: Num) -> str:
    """The same of vectors, which LLVM would convert one number after another."""
    words, zero = type_of("i32", number.lanes), f.zeros(number.dtype, number.lanes)
    end = f.const(number.dtype, number.lanes, 2.0**31)
    least = f.const(number.dtype, number.lanes, -(2.0**31))
    below = number.is_below(end)
    inside: Num = below.select(number, zero)  # NaN is not below either
    word = f.let(f"fptosi {inside.is_below(least).select(least, inside).typed} to {words}")
    above = number.is_above(end) | number.is_equal(end)
    return f.let(f"select {above.typed}, {words} {constant('i32', number.lanes, (1 << 31) - 1)}, {words} {word}")


def _suffix(element: str, lanes: int) -> str:
    return element if lanes == 1 else f"v{lanes}{element}"
