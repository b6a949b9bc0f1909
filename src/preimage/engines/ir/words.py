"""Vectors of integers beside the floats of the builder: the bits of numbers, conversions, roundings. What functions of one value are made of."""

from __future__ import annotations

from preimage.engines.ir.builder import Bit, Kernel, Num
from preimage.engines.ir.values import constant, type_of

__all__ = ["DIGITS", "WORD", "Word", "converted", "floor", "mirrored", "number_like", "rounded"]

#: The integers as wide as a float, the binary digits behind its point, and what its exponent is stored with.
WORD = {"f32": "i32", "f64": "i64"}
DIGITS = {"f32": (23, 127), "f64": (52, 1023)}


class Word:
    """A vector (or scalar) of integers: element "i8" to "i64"."""

    __slots__ = ("element", "kernel", "lanes", "value")

    def __init__(self, kernel: Kernel, value: str, element: str, lanes: int) -> None:
        self.kernel, self.value, self.element, self.lanes = kernel, value, element, lanes

    @classmethod
    def of(cls, x: Num) -> Word:
        """The bits of a float."""
        element = WORD[x.dtype]
        return cls(x.kernel, x.kernel.let(f"bitcast {x.typed} to {type_of(element, x.lanes)}"), element, x.lanes)

    def like(self, value: str) -> Word:
        return Word(self.kernel, value, self.element, self.lanes)

    @property
    def typed(self) -> str:
        """Type and value."""
        return f"{type_of(self.element, self.lanes)} {self.value}"

    def _right(self, other: Word | int) -> str:
        return other.value if isinstance(other, Word) else constant(self.element, self.lanes, other)

    def _binary(self, op: str, other: Word | int) -> Word:
        return self.like(self.kernel.let(f"{op} {self.typed}, {self._right(other)}"))

    def __add__(self, other: Word | int) -> Word:
        return self._binary("add", other)

    def __sub__(self, other: Word | int) -> Word:
        return self._binary("sub", other)

    def __and__(self, other: Word | int) -> Word:
        return self._binary("and", other)

    def __or__(self, other: Word | int) -> Word:
        return self._binary("or", other)

    def __xor__(self, other: Word | int) -> Word:
        return self._binary("xor", other)

    def __lshift__(self, bits: int) -> Word:
        return self._binary("shl", bits)

    def __rshift__(self, bits: int) -> Word:
        """Logical: zeros are shifted in."""
        return self._binary("lshr", bits)

    def equals(self, other: Word | int) -> Bit:
        return Bit(self.kernel, self.kernel.let(f"icmp eq {self.typed}, {self._right(other)}"), self.lanes)

    def as_float(self) -> Num:
        """The float of these bits."""
        dtype = {"i32": "f32", "i64": "f64"}[self.element]
        return Num(self.kernel, self.kernel.let(f"bitcast {self.typed} to {type_of(dtype, self.lanes)}"), dtype, self.lanes)


def converted(x: Num, dtype: str) -> Num:
    """In the other float type; from f64 to f32 rounded once."""
    if x.dtype == dtype:
        return x
    op = "fpext" if dtype == "f64" else "fptrunc"
    return Num(x.kernel, x.kernel.let(f"{op} {x.typed} to {type_of(dtype, x.lanes)}"), dtype, x.lanes)


def rounded(x: Num, way: str) -> Num:
    """To an integer: way is floor, ceil, trunc or roundeven (halves to the even one)."""
    return x.like(x.kernel.intrinsic(f"llvm.{way}", x))


def floor(x: Num) -> Num:
    return rounded(x, "floor")


def number_like(x: Num, value: float) -> Num:
    """A number in all lanes of a vector like x."""
    return x.kernel.const(x.dtype, x.lanes, value)


def mirrored(x: Num) -> Num:
    """-x, also of zeros."""
    return x.like(x.kernel.let(f"fneg {x.typed}"))
