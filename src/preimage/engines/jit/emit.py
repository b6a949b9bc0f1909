"""The loop, vector and pointer layer in which schedules are written: Python that reads like the loops it emits.

A `Kernel` is one LLVM function `void kernel(i64* args, i64 task)`. Its values are thin wrappers that carry their builder:

    f = Kernel()
    x, y = f.ptr_arg(0, "f32"), f.ptr_arg(1, "f32")     # args[0], args[1] hold addresses
    n, a = f.int_arg(2), f.ptr_arg(3, "f32").splat(16)  # args[2] a size; one scalar broadcast to 16 lanes
    with f.loop(0, n, 16) as i:                         # i.index is an Int; i.carry the values that go round
        v = a.fma(x.at(i.index).load(16), y.at(i.index).load(16))
        y.at(i.index).store(v)
    text = f.ir()                                       # LLVM IR, the input of llvm.compile_module

Sums that stay in registers go round a loop as its carry (phi nodes, no memory):

    with f.loop(0, taps, carry=[f.zeros("f32", 16)] * 4) as tap:
        tap.carry = [w.fma(x, acc) for acc in tap.carry]
    sums = tap.result

- `Int` is a 64-bit integer: + - * // % and comparisons (signed), mixed with Python ints; a comparison gives a `Bit`.
- `Num` is a float (f32, f64, lanes = 1 for a scalar): + - *, `fma(b, c)` = one rounding of self * b + c, `maximum`, ...
- `Ptr` is an address with an element type: `at(elements)`, `at_bytes(n)`, `load(lanes, mask)`, `splat(lanes)`, `store(v, mask)`.
  Element types f16 and bf16 load as f32 (exact) and store with one rounding to nearest even; no instruction that
  flushes denormals takes part.
- `f.when(bit)` is an if without else; `f.lane_mask(lanes, count)` is true in the first `count` lanes.
- No fast-math flag is ever set, so LLVM keeps every operation as it is written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from llvmlite import ir

__all__ = ["ELEMENT_BYTES", "Bit", "Int", "Kernel", "Loop", "Num", "Ptr"]

ELEMENT_BYTES = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i16": 2, "i8": 1}
_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_TYPES: dict[str, ir.Type] = {
    "f32": ir.FloatType(),
    "f64": ir.DoubleType(),
    "f16": ir.HalfType(),
    "i64": _I64,
    "i32": _I32,
    "i16": _I16,
    "i8": _I8,
}
_POINTER = ir.PointerType()


class _Zero(ir.Constant):  # type: ignore[misc]
    """Zero of any type, in one word of IR (llvmlite writes a vector's zeros out one by one)."""

    def _get_reference(self) -> str:
        return "zeroinitializer"

    def _to_string(self) -> str:
        return f"{self.type} zeroinitializer"


def _zero(kind: Any) -> Any:
    return _Zero(kind, None)


@cache
def _lanes(numbers: tuple[int, ...]) -> Any:
    """A constant vector of lane numbers; kept, because writing one out is a good part of making a kernel's text."""
    return ir.Constant(ir.VectorType(_I32, len(numbers)), list(numbers))


def _shape(element: ir.Type, lanes: int) -> ir.Type:
    return element if lanes == 1 else ir.VectorType(element, lanes)


class _Callee:
    """An address that is called: what llvmlite's call instruction asks of its callee (opaque pointers have no signature)."""

    def __init__(self, pointer: Any, signature: Any) -> None:
        self.pointer, self.function_type, self.type = pointer, signature, pointer.type

    def get_reference(self) -> str:
        return str(self.pointer.get_reference())


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

    def is_above(self, other: Num) -> Bit:
        """self > other; false where either is NaN."""
        return Bit(self.kernel, self.kernel.builder.fcmp_ordered(">", self.value, other.value))

    def is_below(self, other: Num) -> Bit:
        """self < other; false where either is NaN."""
        return Bit(self.kernel, self.kernel.builder.fcmp_ordered("<", self.value, other.value))

    def is_nan(self) -> Bit:
        return Bit(self.kernel, self.kernel.builder.fcmp_unordered("uno", self.value, self.value))

    def lane(self, index: int) -> Num:
        """One lane as a scalar."""
        if self.lanes == 1:
            return self
        return Num(self.kernel, self.kernel.builder.extract_element(self.value, _I32(index)), self.dtype, 1)

    def splat(self, lanes: int) -> Num:
        """A scalar in every lane of a vector."""
        if lanes == 1:
            return self
        b = self.kernel.builder
        vector = ir.VectorType(_TYPES[self.dtype], lanes)
        first = b.insert_element(_zero(vector), self.value, _I32(0))
        zeros = _lanes((0,) * lanes)
        return Num(self.kernel, b.shuffle_vector(first, _zero(vector), zeros), self.dtype, lanes)

    def shuffle(self, other: Num, lanes: Sequence[int]) -> Num:
        """The lanes picked out of self (0 .. n-1) and other (n .. 2n-1)."""
        mask = _lanes(tuple(lanes))
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
        return Ptr(self.kernel, self.kernel.builder.gep(self.value, [index], source_etype=_I8), self.element)

    def address(self) -> Int:
        """The address as a number."""
        return Int(self.kernel, self.kernel.builder.ptrtoint(self.value, _I64))

    def as_type(self, element: str) -> Ptr:
        return Ptr(self.kernel, self.value, element)

    def load_int(self) -> Int:
        """One i64 element (a table entry)."""
        return Int(self.kernel, self.kernel.builder.load(self.value, typ=_I64, align=8))

    def store_int(self, value: Int | int) -> None:
        self.kernel.builder.store(self.kernel.i64(value).value, self.value, align=8)

    def load(self, lanes: int = 1, mask: Bit | None = None) -> Num:
        """`lanes` neighbouring elements; lanes outside the mask are not read and come as zero."""
        k = self.kernel
        stored = _TYPES["i16" if self.element == "bf16" else self.element]
        shape = _shape(stored, lanes)
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


class Loop:
    """The inside of `with f.loop(...)`: `index`, the values that go round (`carry`), and after it `result`."""

    __slots__ = ("carry", "index", "result")

    def __init__(self, index: Int, carry: list[Num]) -> None:
        self.index, self.carry, self.result = index, carry, carry


class Kernel:
    """One function `void kernel(i64* args, i64 task)` under construction."""

    def __init__(self, name: str = "kernel") -> None:
        self.module = ir.Module(name=name)
        signature = ir.FunctionType(ir.VoidType(), [_POINTER, _I64])
        self.function = ir.Function(self.module, signature, name=name)
        self.function.attributes.add("nounwind")
        self.function.args[0].name, self.function.args[1].name = "args", "task"
        self.builder: Any = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.task = Int(self, self.function.args[1])

    # ---- arguments and constants

    @property
    def arguments(self) -> Ptr:
        """The argument vector."""
        return Ptr(self, self.function.args[0], "i64")

    def int_arg(self, slot: Int | int) -> Int:
        """args[slot] as an integer."""
        return Ptr(self, self.function.args[0], "i64").at(slot).load_int()

    def ptr_arg(self, slot: Int | int, element: str) -> Ptr:
        """args[slot] as the address of elements."""
        return self.pointer(self.int_arg(slot), element)

    def pointer(self, address: Int, element: str) -> Ptr:
        return Ptr(self, self.builder.inttoptr(address.value, _POINTER), element)

    def i64(self, value: Int | int) -> Int:
        return value if isinstance(value, Int) else Int(self, _I64(value))

    def const(self, dtype: str, lanes: int, value: float) -> Num:
        element = _TYPES[dtype]
        if lanes == 1:
            return Num(self, ir.Constant(element, value), dtype, 1)
        vector = ir.VectorType(element, lanes)
        return Num(self, _zero(vector) if value == 0.0 else ir.Constant(vector, [value] * lanes), dtype, lanes)

    def zeros(self, dtype: str, lanes: int) -> Num:
        """+0 in every lane."""
        return self.const(dtype, lanes, 0.0)

    def lane_mask(self, lanes: int, count: Int | int) -> Bit:
        """True in the lanes 0 .. count - 1."""
        wide = ir.VectorType(_I64, lanes)
        numbers = ir.Constant(wide, list(range(lanes)))
        first = self.builder.insert_element(_zero(wide), self.i64(count).value, _I32(0))
        zeros = _lanes((0,) * lanes)
        counts = self.builder.shuffle_vector(first, _zero(wide), zeros)
        return Bit(self, self.builder.icmp_signed("<", numbers, counts))

    def stack(self, element: str, count: int) -> Ptr:
        """Room for `count` elements that lasts until the kernel returns; take it before any loop."""
        room = self.builder.alloca(_TYPES[element], size=_I64(count))
        room.type = _POINTER  # llvmlite would write a typed pointer here, which LLVM no longer reads
        return Ptr(self, room, element)

    # ---- control flow

    @contextmanager
    def loop(
        self, start: Int | int, stop: Int | int, step: int = 1, carry: Sequence[Num] = (), once: bool = False
    ) -> Iterator[Loop]:
        """for index in range(start, stop, step), with `carry` going round; once=True promises at least one turn."""
        b, fn = self.builder, self.function
        first, last = self.i64(start), self.i64(stop)
        before = b.block
        body, after = fn.append_basic_block("loop"), fn.append_basic_block("after")
        if once or (isinstance(start, int) and isinstance(stop, int) and start < stop):
            b.branch(body)
            guarded = False
        else:
            b.cbranch(b.icmp_signed("<", first.value, last.value), body, after)
            guarded = True
        b.position_at_end(body)
        index = b.phi(_I64)
        index.add_incoming(first.value, before)
        phis = [b.phi(value.value.type) for value in carry]
        for phi, value in zip(phis, carry, strict=True):
            phi.add_incoming(value.value, before)
        loop = Loop(Int(self, index), [value.like(phi) for phi, value in zip(phis, carry, strict=True)])
        yield loop
        following = b.add(index, _I64(step), flags=("nsw",))
        end = b.block
        index.add_incoming(following, end)
        for phi, value in zip(phis, loop.carry, strict=True):
            phi.add_incoming(value.value, end)
        b.cbranch(b.icmp_signed("<", following, last.value), body, after)
        b.position_at_end(after)
        loop.result = []
        for value, came in zip(carry, loop.carry, strict=True):
            if not guarded:
                loop.result.append(came)
                continue
            out = b.phi(value.value.type)
            out.add_incoming(value.value, before)
            out.add_incoming(came.value, end)
            loop.result.append(value.like(out))

    @contextmanager
    def when(self, condition: Bit) -> Iterator[None]:
        """The block runs if the condition holds."""
        b = self.builder
        inside, after = self.function.append_basic_block("when"), self.function.append_basic_block("after")
        b.cbranch(condition.value, inside, after)
        b.position_at_end(inside)
        yield
        b.branch(after)
        b.position_at_end(after)

    def call(self, code: Int, arguments: Ptr, task: Int) -> None:
        """Run another kernel, given by its address."""
        signature = ir.FunctionType(ir.VoidType(), [_POINTER, _I64])
        callee = _Callee(self.builder.inttoptr(code.value, _POINTER), signature)
        self.builder.call(callee, [arguments.value, task.value])

    # ---- what LLVM offers as intrinsics

    def intrinsic(self, name: str, *operands: Num) -> Any:
        kind = operands[0].value.type
        suffix = kind.intrinsic_name if not isinstance(kind, ir.VectorType) else f"v{kind.count}{kind.element.intrinsic_name}"
        function = self._declare(f"{name}.{suffix}", ir.FunctionType(kind, [kind] * len(operands)))
        return self.builder.call(function, [operand.value for operand in operands])

    def masked_load(self, address: Any, shape: Any, mask: Any, align: int) -> Any:
        name = f"llvm.masked.load.{_vector_name(shape)}.p0"
        signature = ir.FunctionType(shape, [_POINTER, _I32, mask.type, shape])
        zeros = _zero(shape)
        return self.builder.call(self._declare(name, signature), [address, _I32(align), mask, zeros])

    def masked_store(self, value: Any, address: Any, mask: Any, align: int) -> None:
        name = f"llvm.masked.store.{_vector_name(value.type)}.p0"
        signature = ir.FunctionType(ir.VoidType(), [value.type, _POINTER, _I32, mask.type])
        self.builder.call(self._declare(name, signature), [value, address, _I32(align), mask])

    def prefetch(self, where: Ptr) -> None:
        """Ask for a cache line that will be read soon."""
        function = self._declare("llvm.prefetch.p0", ir.FunctionType(ir.VoidType(), [_POINTER, _I32, _I32, _I32]))
        self.builder.call(function, [where.value, _I32(0), _I32(3), _I32(1)])

    def widen(self, raw: Any, element: str, lanes: int) -> Num:
        """What was loaded as a Num: narrow types become f32, exactly."""
        b = self.builder
        if element == "f16":
            return Num(self, b.fpext(raw, _shape(_TYPES["f32"], lanes)), "f32", lanes)
        if element == "bf16":  # the upper half of a float32
            wide = b.shl(b.zext(raw, _shape(_I32, lanes)), _constant(_shape(_I32, lanes), 16))
            return Num(self, b.bitcast(wide, _shape(_TYPES["f32"], lanes)), "f32", lanes)
        return Num(self, raw, element, lanes)

    def narrow(self, value: Num, element: str) -> Any:
        """The raw bits to store: f32 rounded once, to nearest even, if the element type is narrower."""
        b, lanes = self.builder, value.lanes
        if element == "f16":
            return b.fptrunc(value.value, _shape(_TYPES["f16"], lanes))
        if element == "bf16":
            # Adding 0x7fff and the lowest kept bit rounds to nearest even; a NaN keeps its upper half, made quiet.
            # (The CPU's own conversion would flush denormals.)
            words = _shape(_I32, lanes)
            bits = b.bitcast(value.value, words)
            odd = b.and_(b.lshr(bits, _constant(words, 16)), _constant(words, 1))
            rounded = b.add(bits, b.add(odd, _constant(words, 0x7FFF)))
            quiet = b.or_(bits, _constant(words, 0x00400000))
            kept = b.select(value.is_nan().value, quiet, rounded)
            return b.trunc(b.lshr(kept, _constant(words, 16)), _shape(_I16, lanes))
        if element != value.dtype:
            raise TypeError(f"a {value.dtype} value cannot be stored as {element}")
        return value.value

    def _declare(self, name: str, signature: Any) -> Any:
        known = self.module.globals.get(name)
        return known if known is not None else ir.Function(self.module, signature, name=name)

    def ir(self) -> str:
        """The module as LLVM IR; the kernel is complete after this."""
        if not self.builder.block.is_terminated:
            self.builder.ret_void()
        return str(self.module)


def _constant(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _vector_name(kind: Any) -> str:
    element = kind.element
    return f"v{kind.count}{f'i{element.width}' if isinstance(element, ir.IntType) else element.intrinsic_name}"
