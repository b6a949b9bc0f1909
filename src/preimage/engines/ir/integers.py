"""Integers and truth values of the builder: see `values`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar

from preimage.engines.ir.types import lane_numbers, type_of

if TYPE_CHECKING:
    from preimage.engines.ir.builder import Kernel

__all__ = ["AnyInt", "Bit", "Int", "Int32"]

AnyInt = TypeVar("AnyInt", bound="Int")


class Int:
    """A 64-bit integer value."""

    __slots__ = ("kernel", "value")
    type = "i64"

    def __init__(self, kernel: Kernel, value: str) -> None:
        self.kernel, self.value = kernel, value

    def like(self, value: str) -> Self:
        return type(self)(self.kernel, value)

    def _word(self, other: Int | int) -> Self:
        """The other operand, a constant as a value."""
        return self.like(other.value if isinstance(other, Int) else str(int(other)))

    def narrow(self) -> Int32:
        """The lower 32 bits."""
        return Int32(self.kernel, self.kernel.once(f"trunc i64 {self.value} to i32"))

    def _binary(self, op: str, other: Int | int) -> Self:
        right = other.value if isinstance(other, Int) else str(int(other))
        return self.like(self.kernel.once(f"{op} {self.type} {self.value}, {right}"))

    def __add__(self, other: Int | int) -> Self:
        return self if other == 0 and isinstance(other, int) else self._binary("add", other)

    __radd__ = __add__

    def __sub__(self, other: Int | int) -> Self:
        return self._binary("sub", other)

    def __rsub__(self, other: Int | int) -> Self:
        return self._word(other)._binary("sub", self)

    def __mul__(self, other: Int | int) -> Self:
        return self if other == 1 and isinstance(other, int) else self._binary("mul", other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Int | int) -> Self:
        """Division of non-negative numbers."""
        return self._binary("udiv", other)

    def __mod__(self, other: Int | int) -> Self:
        """Remainder of non-negative numbers."""
        return self._binary("urem", other)

    def __and__(self, other: Int | int) -> Self:
        return self._binary("and", other)

    def __or__(self, other: Int | int) -> Self:
        return self._binary("or", other)

    def __lshift__(self, bits: Int | int) -> Self:
        return self._binary("shl", bits)

    def __rshift__(self, bits: Int | int) -> Self:
        """Logical: zeros are shifted in."""
        return self._binary("lshr", bits)

    def _compare(self, op: str, other: Int | int) -> Bit:
        right = other.value if isinstance(other, Int) else str(int(other))
        return Bit(self.kernel, self.kernel.once(f"icmp {op} {self.type} {self.value}, {right}"))

    def __lt__(self, other: Int | int) -> Bit:
        return self._compare("slt", other)

    def __le__(self, other: Int | int) -> Bit:
        return self._compare("sle", other)

    def __gt__(self, other: Int | int) -> Bit:
        return self._compare("sgt", other)

    def __ge__(self, other: Int | int) -> Bit:
        return self._compare("sge", other)

    def equals(self, other: Int | int) -> Bit:
        return self._compare("eq", other)

    def below(self, other: Int | int) -> Bit:
        """0 <= self < other, in one comparison without sign."""
        return self._compare("ult", other)

    def trailing_ones(self) -> Self:
        """How many bits are 1 below the lowest that is 0."""
        return self.like(self.kernel.trailing_zeros(self._binary("xor", -1).value))

    def minimum(self, other: Int | int) -> Self:
        return (self < other).pick(self, self._word(other))

    def maximum(self, other: Int | int) -> Self:
        return (self > other).pick(self, self._word(other))


class Int32(Int):
    """A 32-bit integer value, for targets whose registers are so wide. Its operations take others of its kind."""

    __slots__ = ()
    type = "i32"

    def wide(self) -> Int:
        """The same number, of 64 bits."""
        return Int(self.kernel, self.kernel.once(f"sext i32 {self.value} to i64"))


class Bit:
    """A truth value, or a vector of them (a mask). count: where it is true in so many lanes, the first ones, and no others."""

    __slots__ = ("count", "kernel", "lanes", "value")

    def __init__(self, kernel: Kernel, value: str, lanes: int = 1, count: str | None = None) -> None:
        self.kernel, self.value, self.lanes, self.count = kernel, value, lanes, count

    @property
    def typed(self) -> str:
        """Type and value."""
        return f"{type_of('i1', self.lanes)} {self.value}"

    def pick(self, yes: AnyInt, no: AnyInt) -> AnyInt:
        """As select, of integers."""
        kind = yes.type
        return yes.like(self.kernel.once(f"select i1 {self.value}, {kind} {yes.value}, {kind} {no.value}"))

    def select(self, yes: Any, no: Any) -> Any:
        """`yes` where true, else `no` (both Int or both Num)."""
        if isinstance(yes, Int):
            return self.pick(yes, no)
        return yes.like(self.kernel.let(f"select {self.typed}, {yes.typed}, {no.typed}"))

    def anywhere(self) -> Bit:
        """Whether it is true in any lane."""
        if self.lanes == 1:
            return self
        if self.count is not None:
            return Int(self.kernel, self.count) > 0
        return Bit(self.kernel, self.kernel.once(f"icmp ne i{self.lanes} {self._word()}, 0"))

    def everywhere(self) -> Bit:
        """Whether it is true in all lanes."""
        if self.lanes == 1:
            return self
        if self.count is not None:
            return Int(self.kernel, self.count) >= self.lanes
        return Bit(self.kernel, self.kernel.once(f"icmp eq i{self.lanes} {self._word()}, -1"))

    def _word(self) -> str:
        return self.kernel.once(f"bitcast {self.typed} to i{self.lanes}")

    def __and__(self, other: Bit) -> Bit:
        return self.like(f"and {self.typed}, {other.value}")

    def but_not(self, other: Bit) -> Bit:
        """Self and not other."""
        return self & other.negated()

    def __or__(self, other: Bit) -> Bit:
        return self.like(f"or {self.typed}, {other.value}")

    def like(self, operation: str) -> Bit:
        return Bit(self.kernel, self.kernel.once(operation), self.lanes)

    def negated(self) -> Bit:
        true = lane_numbers((1,) * self.lanes, "i1") if self.lanes > 1 else "true"
        return self.like(f"xor {self.typed}, {true}")
