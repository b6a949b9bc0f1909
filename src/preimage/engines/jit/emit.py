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
from typing import Any

from llvmlite import ir

from preimage.engines.jit.values import (
    ELEMENT_BYTES,
    I16,
    I32,
    I64,
    POINTER,
    TYPES,
    Bit,
    Int,
    Num,
    Ptr,
    constant_of,
    lane_numbers,
    shape_of,
    vector_name,
    zero_of,
)

__all__ = ["ELEMENT_BYTES", "Bit", "Int", "Kernel", "Loop", "Num", "Ptr"]


class _Callee:
    """An address that is called: what llvmlite's call instruction asks of its callee (opaque pointers have no signature)."""

    def __init__(self, pointer: Any, signature: Any) -> None:
        self.pointer, self.function_type, self.type = pointer, signature, pointer.type

    def get_reference(self) -> str:
        return str(self.pointer.get_reference())


class Loop:
    """The inside of `with f.loop(...)`: `index`, the values that go round (`carry`), and after it `result`."""

    __slots__ = ("carry", "index", "result")

    def __init__(self, index: Int, carry: list[Num]) -> None:
        self.index, self.carry, self.result = index, carry, carry


class Kernel:
    """One function `void kernel(i64* args, i64 task)` under construction."""

    def __init__(self, name: str = "kernel") -> None:
        self.module = ir.Module(name=name)
        signature = ir.FunctionType(ir.VoidType(), [POINTER, I64])
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
        return Ptr(self, self.builder.inttoptr(address.value, POINTER), element)

    def i64(self, value: Int | int) -> Int:
        return value if isinstance(value, Int) else Int(self, I64(value))

    def const(self, dtype: str, lanes: int, value: float) -> Num:
        element = TYPES[dtype]
        if lanes == 1:
            return Num(self, ir.Constant(element, value), dtype, 1)
        vector = ir.VectorType(element, lanes)
        return Num(self, zero_of(vector) if value == 0.0 else ir.Constant(vector, [value] * lanes), dtype, lanes)

    def zeros(self, dtype: str, lanes: int) -> Num:
        """+0 in every lane."""
        return self.const(dtype, lanes, 0.0)

    def lane_mask(self, lanes: int, count: Int | int) -> Bit:
        """True in the lanes 0 .. count - 1."""
        wide = ir.VectorType(I64, lanes)
        numbers = ir.Constant(wide, list(range(lanes)))
        first = self.builder.insert_element(zero_of(wide), self.i64(count).value, I32(0))
        zeros = lane_numbers((0,) * lanes)
        counts = self.builder.shuffle_vector(first, zero_of(wide), zeros)
        return Bit(self, self.builder.icmp_signed("<", numbers, counts))

    def stack(self, element: str, count: int) -> Ptr:
        """Room for `count` elements that lasts until the kernel returns; take it before any loop."""
        room = self.builder.alloca(TYPES[element], size=I64(count))
        room.type = POINTER  # llvmlite would write a typed pointer here, which LLVM no longer reads
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
        index = b.phi(I64)
        index.add_incoming(first.value, before)
        phis = [b.phi(value.value.type) for value in carry]
        for phi, value in zip(phis, carry, strict=True):
            phi.add_incoming(value.value, before)
        loop = Loop(Int(self, index), [value.like(phi) for phi, value in zip(phis, carry, strict=True)])
        yield loop
        following = b.add(index, I64(step), flags=("nsw",))
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
        signature = ir.FunctionType(ir.VoidType(), [POINTER, I64])
        callee = _Callee(self.builder.inttoptr(code.value, POINTER), signature)
        self.builder.call(callee, [arguments.value, task.value])

    # ---- what LLVM offers as intrinsics

    def intrinsic(self, name: str, *operands: Num) -> Any:
        kind = operands[0].value.type
        suffix = kind.intrinsic_name if not isinstance(kind, ir.VectorType) else f"v{kind.count}{kind.element.intrinsic_name}"
        function = self._declare(f"{name}.{suffix}", ir.FunctionType(kind, [kind] * len(operands)))
        return self.builder.call(function, [operand.value for operand in operands])

    def masked_load(self, address: Any, shape: Any, mask: Any, align: int) -> Any:
        name = f"llvm.masked.load.{vector_name(shape)}.p0"
        signature = ir.FunctionType(shape, [POINTER, I32, mask.type, shape])
        zeros = zero_of(shape)
        return self.builder.call(self._declare(name, signature), [address, I32(align), mask, zeros])

    def masked_store(self, value: Any, address: Any, mask: Any, align: int) -> None:
        name = f"llvm.masked.store.{vector_name(value.type)}.p0"
        signature = ir.FunctionType(ir.VoidType(), [value.type, POINTER, I32, mask.type])
        self.builder.call(self._declare(name, signature), [value, address, I32(align), mask])

    def prefetch(self, where: Ptr, level: int = 1) -> None:
        """Ask for a cache line that will be read soon, into the first cache or the second."""
        function = self._declare("llvm.prefetch.p0", ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32]))
        self.builder.call(function, [where.value, I32(0), I32(4 - level), I32(1)])

    def widen(self, raw: Any, element: str, lanes: int) -> Num:
        """What was loaded as a Num: narrow types become f32, exactly."""
        b = self.builder
        if element == "f16":
            return Num(self, b.fpext(raw, shape_of(TYPES["f32"], lanes)), "f32", lanes)
        if element == "bf16":  # the upper half of a float32
            wide = b.shl(b.zext(raw, shape_of(I32, lanes)), constant_of(shape_of(I32, lanes), 16))
            return Num(self, b.bitcast(wide, shape_of(TYPES["f32"], lanes)), "f32", lanes)
        return Num(self, raw, element, lanes)

    def narrow(self, value: Num, element: str) -> Any:
        """The raw bits to store: f32 rounded once, to nearest even, if the element type is narrower."""
        b, lanes = self.builder, value.lanes
        if element == "f16":
            return b.fptrunc(value.value, shape_of(TYPES["f16"], lanes))
        if element == "bf16":
            # Adding 0x7fff and the lowest kept bit rounds to nearest even; a NaN keeps its upper half, made quiet.
            # (The CPU's own conversion would flush denormals.)
            words = shape_of(I32, lanes)
            bits = b.bitcast(value.value, words)
            odd = b.and_(b.lshr(bits, constant_of(words, 16)), constant_of(words, 1))
            rounded = b.add(bits, b.add(odd, constant_of(words, 0x7FFF)))
            quiet = b.or_(bits, constant_of(words, 0x00400000))
            kept = b.select(value.is_nan().value, quiet, rounded)
            return b.trunc(b.lshr(kept, constant_of(words, 16)), shape_of(I16, lanes))
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
