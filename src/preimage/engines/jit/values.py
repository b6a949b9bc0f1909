"""The values of the emitter: integers, truth values, floating-point vectors, addresses; each carries its kernel's builder.

`emit` describes them; they live here so that no file is long.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from llvmlite import ir

if TYPE_CHECKING:
    from preimage.engines.jit.emit import Kernel

__all__ = ["ELEMENT_BYTES", "Bit", "Int", "Num", "Ptr"]

ELEMENT_BYTES = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i16": 2, "i8": 1}
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
TYPES: dict[str, ir.Type] = {
    "f32": ir.FloatType(),
    "f64": ir.DoubleType(),
    "f16": ir.HalfType(),
    "i64": I64,
    "i32": I32,
    "i16": I16,
    "i8": I8,
}
POINTER = ir.PointerType()


class _Zero(ir.Constant):  # type: ignore[misc]
    """Zero of any type, in one word of IR (llvmlite writes a vector's zeros out one by one)."""

    def _get_reference(self) -> str:
        return "zeroinitializer"

    def _to_string(self) -> str:
        return f"{self.type} zeroinitializer"


def zero_of(kind: Any) -> Any:
    return _Zero(kind, None)


@cache
def lane_numbers(numbers: tuple[int, ...]) -> Any:
    """A constant vector of lane numbers; kept, because writing one out is a good part of making a kernel's text."""
    return ir.Constant(ir.VectorType(I32, len(numbers)), list(numbers))


def shape_of(element: ir.Type, lanes: int) -> ir.Type:
    return element if lanes == 1 else ir.VectorType(element, lanes)


def constant_of(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def vector_name(kind: Any) -> str:
    element = kind.element
    return f"v{kind.count}{f'i{element.width}' if isinstance(element, ir.IntType) else element.intrinsic_name}"


class Int:
    """A 64-bit integer value."""

    __slots__ = ("kernel", "value")

    def __init__(self, kernel: Kernel, value: Any) -> None:
        self.kernel, self.value = kernel, value

    def _binary(self, op: str, other: Int | int, swap: bool = False) -> Int:
        a, b = self.value, self.kernel.i64(other).value
        if swap:
            a, b = b, a
        return Int(self.kernel, getattr(self.kernel.builder, op)(a, b))

    def __add__(self, other: Int | int) -> Int:
        return self if other == 0 and isinstance(other, int) else self._binary("add", other)

    __radd__ = __add__

    def __sub__(self, other: Int | int) -> Int:
        return self._binary("sub", other)

    def __rsub__(self, other: Int | int) -> Int:
        return self._binary("sub", other, swap=True)

    def __mul__(self, other: Int | int) -> Int:
        return self if other == 1 and isinstance(other, int) else self._binary("mul", other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Int | int) -> Int:
        """Division of non-negative numbers."""
        return self._binary("udiv", other)

    def __mod__(self, other: Int | int) -> Int:
        """Remainder of non-negative numbers."""
        return self._binary("urem", other)

    def __and__(self, other: Int | int) -> Int:
        return self._binary("and_", other)

    def _compare(self, op: str, other: Int | int) -> Bit:
        return Bit(self.kernel, self.kernel.builder.icmp_signed(op, self.value, self.kernel.i64(other).value))

    def __lt__(self, other: Int | int) -> Bit:
        return self._compare("<", other)

    def __le__(self, other: Int | int) -> Bit:
        return self._compare("<=", other)

    def __gt__(self, other: Int | int) -> Bit:
        return self._compare(">", other)

    def __ge__(self, other: Int | int) -> Bit:
        return self._compare(">=", other)

    def equals(self, other: Int | int) -> Bit:
        return self._compare("==", other)

    def below(self, other: Int | int) -> Bit:
        """0 <= self < other, in one comparison without sign."""
        return Bit(self.kernel, self.kernel.builder.icmp_unsigned("<", self.value, self.kernel.i64(other).value))

    def minimum(self, other: Int | int) -> Int:
        return _least(self, self.kernel.i64(other))

    def maximum(self, other: Int | int) -> Int:
        return _greatest(self, self.kernel.i64(other))


def _least(a: Int, b: Int) -> Int:
    return Int(a.kernel, a.kernel.builder.select((a < b).value, a.value, b.value))


def _greatest(a: Int, b: Int) -> Int:
    return Int(a.kernel, a.kernel.builder.select((a > b).value, a.value, b.value))


class Bit:
    """A truth value, or a vector of them (a mask)."""

    __slots__ = ("kernel", "value")

    def __init__(self, kernel: Kernel, value: Any) -> None:
        self.kernel, self.value = kernel, value

    def select(self, yes: Any, no: Any) -> Any:
        """`yes` where true, else `no` (both Int or both Num)."""
        return (
            yes.like(self.kernel.builder.select(self.value, yes.value, no.value))
            if isinstance(yes, Num)
            else Int(self.kernel, self.kernel.builder.select(self.value, yes.value, no.value))
        )

    def __and__(self, other: Bit) -> Bit:
        return Bit(self.kernel, self.kernel.builder.and_(self.value, other.value))

    def but_not(self, other: Bit) -> Bit:
        """Self and not other."""
        b = self.kernel.builder
        return Bit(self.kernel, b.and_(self.value, b.not_(other.value)))

    def __or__(self, other: Bit) -> Bit:
        return Bit(self.kernel, self.kernel.builder.or_(self.value, other.value))

    def negated(self) -> Bit:
        return Bit(self.kernel, self.kernel.builder.not_(self.value))


class Num:
    """A floating-point scalar or vector: dtype "f32" or "f64", `lanes` elements."""

    __slots__ = ("dtype", "kernel", "lanes", "value")

    def __init__(self, kernel: Kernel, value: Any, dtype: str, lanes: int) -> None:
        self.kernel, self.value, self.dtype, self.lanes = kernel, value, dtype, lanes

    def like(self, value: Any) -> Num:
        return Num(self.kernel, value, self.dtype, self.lanes)

    def __add__(self, other: Num) -> Num:
        return self.like(self.kernel.builder.fadd(self.value, other.value))

    def __sub__(self, other: Num) -> Num:
        return self.like(self.kernel.builder.fsub(self.value, other.value))

    def __mul__(self, other: Num) -> Num:
        return self.like(self.kernel.builder.fmul(self.value, other.value))

    def __truediv__(self, other: Num) -> Num:
        return self.like(self.kernel.builder.fdiv(self.value, other.value))

    def fma(self, factor: Num, addend: Num) -> Num:
        """self * factor + addend with one rounding."""
        return self.like(self.kernel.intrinsic("llvm.fma", self, factor, addend))

    def sqrt(self) -> Num:
        return self.like(self.kernel.intrinsic("llvm.sqrt", self))

    def absolute(self) -> Num:
        return self.like(self.kernel.intrinsic("llvm.fabs", self))

    def with_sign_of(self, other: Num) -> Num:
        return self.like(self.kernel.intrinsic("llvm.copysign", self, other))

    def times_power_of_two(self, shifted: Num) -> Num:
        """self * 2^n, rounded once; `shifted` is n + 1.5 * 2^23 (f64: 2^52), so that n stands in its lowest bits.

        The power is taken in two halves: neither leaves the range of the exponent where the product does not.
        """
        b, wide = self.kernel.builder, self.dtype == "f64"
        words = shape_of(I64 if wide else I32, self.lanes)
        digits, bias = (52, 1023) if wide else (23, 127)
        zero = constant_of(words, (bias + digits << digits) + (1 << digits - 1))  # the bits of 1.5 * 2^digits
        n = b.sub(b.bitcast(shifted.value, words), zero)
        half = b.ashr(n, constant_of(words, 1))
        result = self
        for part in (half, b.sub(n, half)):
            power = b.shl(b.add(part, constant_of(words, bias)), constant_of(words, digits))
            result = result * self.like(b.bitcast(power, self.value.type))
        return result

    def is_above(self, other: Num) -> Bit:
        """self > other; false where either is NaN."""
        return Bit(self.kernel, self.kernel.builder.fcmp_ordered(">", self.value, other.value))

    def is_below(self, other: Num) -> Bit:
        """self < other; false where either is NaN."""
        return Bit(self.kernel, self.kernel.builder.fcmp_ordered("<", self.value, other.value))

    def is_equal(self, other: Num) -> Bit:
        """self == other; false where either is NaN."""
        return Bit(self.kernel, self.kernel.builder.fcmp_ordered("==", self.value, other.value))

    def is_nan(self) -> Bit:
        return Bit(self.kernel, self.kernel.builder.fcmp_unordered("uno", self.value, self.value))

    def lane(self, index: int) -> Num:
        """One lane as a scalar."""
        if self.lanes == 1:
            return self
        return Num(self.kernel, self.kernel.builder.extract_element(self.value, I32(index)), self.dtype, 1)

    def splat(self, lanes: int) -> Num:
        """A scalar in every lane of a vector."""
        if lanes == 1:
            return self
        b = self.kernel.builder
        vector = ir.VectorType(TYPES[self.dtype], lanes)
        first = b.insert_element(zero_of(vector), self.value, I32(0))
        zeros = lane_numbers((0,) * lanes)
        return Num(self.kernel, b.shuffle_vector(first, zero_of(vector), zeros), self.dtype, lanes)

    def shuffle(self, other: Num, lanes: Sequence[int]) -> Num:
        """The lanes picked out of self (0 .. n-1) and other (n .. 2n-1)."""
        mask = lane_numbers(tuple(lanes))
        value = self.kernel.builder.shuffle_vector(self.value, other.value, mask)
        return Num(self.kernel, value, self.dtype, len(lanes))


class Ptr:
    """An address with an element type."""

    __slots__ = ("element", "kernel", "value")

    def __init__(self, kernel: Kernel, value: Any, element: str) -> None:
        self.kernel, self.value, self.element = kernel, value, element

    def at(self, offset: Int | int) -> Ptr:
        """`offset` elements further."""
        return self.at_bytes(offset * ELEMENT_BYTES[self.element])

    def at_bytes(self, offset: Int | int) -> Ptr:
        if isinstance(offset, int) and offset == 0:
            return self
        index = self.kernel.i64(offset).value
        return Ptr(self.kernel, self.kernel.builder.gep(self.value, [index], source_etype=I8), self.element)

    def address(self) -> Int:
        """The address as a number."""
        return Int(self.kernel, self.kernel.builder.ptrtoint(self.value, I64))

    def as_type(self, element: str) -> Ptr:
        return Ptr(self.kernel, self.value, element)

    def load_int(self) -> Int:
        """One i64 element (a table entry)."""
        return Int(self.kernel, self.kernel.builder.load(self.value, typ=I64, align=8))

    def store_int(self, value: Int | int) -> None:
        self.kernel.builder.store(self.kernel.i64(value).value, self.value, align=8)

    def load(self, lanes: int = 1, mask: Bit | None = None) -> Num:
        """`lanes` neighbouring elements; lanes outside the mask are not read and come as zero."""
        k = self.kernel
        stored = TYPES["i16" if self.element == "bf16" else self.element]
        shape = shape_of(stored, lanes)
        if mask is None:
            raw = k.builder.load(self.value, typ=shape, align=ELEMENT_BYTES[self.element])
        else:
            raw = k.masked_load(self.value, shape, mask.value, ELEMENT_BYTES[self.element])
        return k.widen(raw, self.element, lanes)

    def splat(self, lanes: int) -> Num:
        """One element, in every lane."""
        return self.load().splat(lanes)

    def store(self, value: Num, mask: Bit | None = None) -> None:
        """Write neighbouring elements (one rounding if the element type is narrower); lanes outside the mask stay."""
        k = self.kernel
        raw = k.narrow(value, self.element)
        if mask is None:
            k.builder.store(raw, self.value, align=ELEMENT_BYTES[self.element])
        else:
            k.masked_store(raw, self.value, mask.value, ELEMENT_BYTES[self.element])
