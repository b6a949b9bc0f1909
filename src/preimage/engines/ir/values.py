"""The values of the builder: integers, truth values, floating-point vectors, addresses; each carries its kernel.

`builder` describes them. A value holds its operand in IR: the name of a register or a constant. Computations of integers and
addresses are written once per block (`Kernel.once`): kernels use the same strides many times, and each line of text costs time
in the parser, the instruction selector and the scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from preimage.engines.ir.integers import Bit, Int, Int32
from preimage.engines.ir.types import ELEMENT_BYTES, TYPES, constant, lane_numbers, type_of

if TYPE_CHECKING:
    from preimage.engines.ir.builder import Kernel

__all__ = [
    "ACCUMULATE",
    "ELEMENT_BYTES",
    "TYPES",
    "Bit",
    "Int",
    "Int32",
    "Num",
    "Ptr",
    "constant",
    "lane_numbers",
    "type_of",
]

#: llvm.fma(a, b, sum) whose result takes the register of the sum; what compiles the text says how on its target.
ACCUMULATE = "preimage.accumulate"


class Num:
    """A floating-point scalar or vector: dtype "f32" or "f64", `lanes` elements."""

    __slots__ = ("dtype", "kernel", "lanes", "value")

    def __init__(self, kernel: Kernel, value: str, dtype: str, lanes: int) -> None:
        self.kernel, self.value, self.dtype, self.lanes = kernel, value, dtype, lanes

    def like(self, value: str) -> Num:
        return Num(self.kernel, value, self.dtype, self.lanes)

    @property
    def type(self) -> str:
        return type_of(self.dtype, self.lanes)

    @property
    def typed(self) -> str:
        """Type and value."""
        return f"{type_of(self.dtype, self.lanes)} {self.value}"

    def _binary(self, op: str, other: Num) -> Num:
        return self.like(self.kernel.let(f"{op} {self.typed}, {other.value}"))

    def __add__(self, other: Num) -> Num:
        return self._binary("fadd", other)

    def __sub__(self, other: Num) -> Num:
        return self._binary("fsub", other)

    def __mul__(self, other: Num) -> Num:
        return self._binary("fmul", other)

    def __truediv__(self, other: Num) -> Num:
        return self._binary("fdiv", other)

    def fma(self, factor: Num, addend: Num) -> Num:
        """self * factor + addend with one rounding."""
        return self.like(self.kernel.intrinsic("llvm.fma", self, factor, addend))

    def plus_product(self, a: Num, b: Num) -> Num:
        """self + a * b with one rounding, kept in the register of self: for loop-carried sums.

        Of `fma` LLVM may put the result into the register of a factor. In a loop whose registers are all taken sums then change places, some
        through memory.
        """
        return self.like(self.kernel.intrinsic(ACCUMULATE if self.lanes > 1 else "llvm.fma", a, b, self))

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
        element, digits, bias = ("i64", 52, 1023) if self.dtype == "f64" else ("i32", 23, 127)
        words = type_of(element, self.lanes)

        def step(op: str, a: str, b: str | int) -> str:
            return self.kernel.let(f"{op} {words} {a}, {b if isinstance(b, str) else constant(element, self.lanes, b)}")

        bits = self.kernel.let(f"bitcast {shifted.typed} to {words}")
        n = step("sub", bits, (bias + digits << digits) + (1 << digits - 1))  # less the bits of 1.5 * 2^digits
        half = step("ashr", n, 1)
        result = self
        for part in (half, step("sub", n, half)):
            power = step("shl", step("add", part, bias), digits)
            result = result * self.like(self.kernel.let(f"bitcast {words} {power} to {self.type}"))
        return result

    def _compare(self, op: str, other: Num) -> Bit:
        return Bit(self.kernel, self.kernel.let(f"fcmp {op} {self.typed}, {other.value}"), self.lanes)

    def is_above(self, other: Num) -> Bit:
        """self > other; false where either is NaN."""
        return self._compare("ogt", other)

    def is_below(self, other: Num) -> Bit:
        """self < other; false where either is NaN."""
        return self._compare("olt", other)

    def is_equal(self, other: Num) -> Bit:
        """self == other; false where either is NaN."""
        return self._compare("oeq", other)

    def is_nan(self) -> Bit:
        return self._compare("uno", self)

    def lane(self, index: int) -> Num:
        """One lane as a scalar."""
        if self.lanes == 1:
            return self
        return Num(self.kernel, self.kernel.let(f"extractelement {self.typed}, i32 {index}"), self.dtype, 1)

    def as_f64(self) -> Num:
        """The same numbers, wider."""
        if self.dtype == "f64":
            return self
        wide = type_of("f64", self.lanes)
        return Num(self.kernel, self.kernel.let(f"fpext {self.typed} to {wide}"), "f64", self.lanes)

    def rounded(self, dtype: str) -> Num:
        """The nearest numbers of a type that is no wider, ties to even."""
        if self.dtype == dtype:
            return self
        narrow = type_of(dtype, self.lanes)
        return Num(self.kernel, self.kernel.let(f"fptrunc {self.typed} to {narrow}"), dtype, self.lanes)

    def splat(self, lanes: int) -> Num:
        """A scalar in every lane of a vector."""
        if lanes == 1:
            return self
        return Num(self.kernel, self.kernel.spread(self.dtype, lanes, self.value), self.dtype, lanes)

    def shuffle(self, other: Num, lanes: Sequence[int]) -> Num:
        """The lanes picked out of self (0 .. n-1) and other (n .. 2n-1)."""
        picked = f"shufflevector {self.typed}, {other.typed}, <{len(lanes)} x i32> {lane_numbers(tuple(lanes))}"
        return Num(self.kernel, self.kernel.let(picked), self.dtype, len(lanes))


class Ptr:
    """An address with an element type: a base and a constant number of bytes behind it. space: of addresses, 0 but on GPUs."""

    __slots__ = ("base", "element", "kernel", "offset", "space")

    def __init__(self, kernel: Kernel, base: str, element: str, offset: int = 0, space: int = 0) -> None:
        self.kernel, self.base, self.element, self.offset, self.space = kernel, base, element, offset, space

    @property
    def type(self) -> str:
        return f"ptr addrspace({self.space})" if self.space else "ptr"

    @property
    def typed(self) -> str:
        """Type and value."""
        return f"{self.type} {self.value}"

    def like(self, value: str) -> Ptr:
        return Ptr(self.kernel, value, self.element, 0, self.space)

    @property
    def value(self) -> str:
        """The address as an operand."""
        return self.kernel.once(f"getelementptr i8, {self.type} {self.base}, i64 {self.offset}") if self.offset else self.base

    def at(self, offset: Int | int) -> Ptr:
        """`offset` elements further."""
        if isinstance(offset, Int32):  # the multiplication by the size of an element must not wrap around
            offset = offset.wide()
        return self.at_bytes(offset * ELEMENT_BYTES[self.element])

    def at_bytes(self, offset: Int | int) -> Ptr:
        if isinstance(offset, Int):
            moved = self.kernel.once(f"getelementptr i8, {self.type} {self.base}, {offset.type} {offset.value}")
            return Ptr(self.kernel, moved, self.element, self.offset, self.space)
        return Ptr(self.kernel, self.base, self.element, self.offset + int(offset), self.space)

    def hidden(self) -> Ptr:
        """The same address, of which the code generator does not know that it is: what is read there is read anew."""
        return Ptr(self.kernel, self.kernel.let(f'call ptr asm "", "=r,0"({self.typed})'), self.element, 0, self.space)

    def address(self) -> Int:
        """The address as a number."""
        return Int(self.kernel, self.kernel.once(f"ptrtoint {self.typed} to i64"))

    def as_type(self, element: str) -> Ptr:
        return Ptr(self.kernel, self.base, element, self.offset, self.space)

    def load_int(self) -> Int:
        """One i64 element (a table entry)."""
        return Int(self.kernel, self.kernel.let(f"load i64, {self.typed}, align 8"))

    def store_int(self, value: Int | int) -> None:
        self.kernel.write(f"store i64 {self.kernel.i64(value).value}, {self.typed}, align 8")

    # Atomics on a 64-bit word. `order` is LLVM's: monotonic, acquire, release, acq_rel, seq_cst.

    def atomic_load(self, order: str) -> Int:
        return Int(self.kernel, self.kernel.let(f"load atomic i64, ptr {self.value} {order}, align 8"))

    def atomic_store(self, value: Int | int, order: str) -> None:
        self.kernel.write(f"store atomic i64 {self.kernel.i64(value).value}, ptr {self.value} {order}, align 8")

    def atomic_update(self, operation: str, value: Int | int, order: str) -> Int:
        """Read, modify and write by add, sub, and, or, xchg; the value before."""
        written = self.kernel.i64(value).value
        return Int(self.kernel, self.kernel.let(f"atomicrmw {operation} ptr {self.value}, i64 {written} {order}"))

    def compare_exchange(self, expected: Int | int, new: Int | int, order: str, failed: str = "monotonic") -> tuple[Bit, Int]:
        """Write `new` if the word is `expected`; whether it was, and the value before. failed: the memory order if it was not."""
        k = self.kernel
        words = f"i64 {k.i64(expected).value}, i64 {k.i64(new).value}"
        pair = k.let(f"cmpxchg ptr {self.value}, {words} {order} {failed}")
        return Bit(k, k.let(f"extractvalue {{i64, i1}} {pair}, 1")), Int(k, k.let(f"extractvalue {{i64, i1}} {pair}, 0"))

    def load(self, lanes: int = 1, mask: Bit | None = None, align: int = 0) -> Num:
        """`lanes` neighbouring elements; lanes outside the mask are not read and come as zero. align: in bytes, where it is known
        to be more than an element's.
        """
        k = self.kernel
        align = k.known_alignment(self, align) if align else ELEMENT_BYTES[self.element]
        stored = "i16" if self.element == "bf16" else self.element
        if mask is None:
            raw = k.let(f"load {type_of(stored, lanes)}, {self.typed}, align {align}")
        else:
            raw = k.masked_load(self.value, stored, lanes, mask, align)
        return k.widen(raw, self.element, lanes)

    def splat(self, lanes: int) -> Num:
        """One element, in every lane."""
        return self.load().splat(lanes)

    def store(self, value: Num, mask: Bit | None = None, align: int = 0) -> None:
        """Write neighbouring elements (one rounding if the element type is narrower); lanes outside the mask stay. align: as of `load`."""
        k = self.kernel
        align = k.known_alignment(self, align) if align else ELEMENT_BYTES[self.element]
        raw = k.narrow(value, self.element)
        kind = "i16" if self.element == "bf16" else self.element
        if mask is None:
            k.write(f"store {type_of(kind, value.lanes)} {raw}, {self.typed}, align {align}")
        else:
            k.masked_store(raw, kind, self.value, mask, align)
