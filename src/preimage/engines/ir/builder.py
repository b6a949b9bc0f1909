"""The loop, vector and pointer layer in which kernels are written: Python that reads like the loops it emits.

A `Kernel` is one LLVM function `void kernel(i64* args, i64 task, i64 thread)`; threads of a job are numbered from 0, and each
may keep scratch of its own. Its values are thin wrappers that carry their builder:

    f = Kernel()
    x, y = f.ptr_arg(0, "f32"), f.ptr_arg(1, "f32")     # args[0], args[1] hold addresses
    n, a = f.int_arg(2), f.ptr_arg(3, "f32").splat(16)  # args[2] a size; one scalar broadcast to 16 lanes
    with f.loop(0, n, 16) as i:                         # i.index is an Int; i.carry the loop-carried values
        v = a.fma(x.at(i.index).load(16), y.at(i.index).load(16))
        y.at(i.index).store(v)
    text = f.ir()                                       # LLVM IR, the input of llvm.compile_module

Sums that stay in registers are loop-carried values (phi nodes, no memory):

    with f.loop(0, taps, carry=[f.zeros("f32", 16)] * 4) as tap:
        tap.carry = [w.fma(x, acc) for acc in tap.carry]
    sums = tap.result

- `Int` is a 64-bit integer: + - * // % and comparisons (signed), mixed with Python ints; a comparison gives a `Bit`.
- `Num` is a float (f32, f64, lanes = 1 for a scalar): + - *, `fma(b, c)` = one rounding of self * b + c, `maximum`, ...
- `Ptr` is an address with an element type: `at(elements)`, `at_bytes(n)`, `load(lanes, mask)`, `splat(lanes)`, `store(v, mask)`.
  Element types f16 and bf16 load as f32 (exact) and store with one rounding to nearest even; no instruction that
  flushes denormals takes part.
- `f.when(bit)` is an if without else, `carry` as of loops; `f.lane_mask(lanes, count)` is true in the first `count` lanes.
- No fast-math flag is ever set, so LLVM keeps every operation as it is written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from preimage.engines.ir import floating_point
from preimage.engines.ir.values import ELEMENT_BYTES, TYPES, Bit, Int, Int32, Num, Ptr, constant, lane_numbers, type_of

__all__ = ["ELEMENT_BYTES", "LINE_BYTES", "Bit", "Branch", "Int", "Int32", "Kernel", "Loop", "Num", "Ptr"]

LINE_BYTES = 64  # of the cache


class Loop:
    """The inside of `with f.loop(...)`: `index`, the loop-carried values (`carry`), and after it `result`."""

    __slots__ = ("carry", "index", "result")

    def __init__(self, index: Int, carry: list[Any]) -> None:
        self.index, self.carry, self.result = index, carry, carry


class Branch:
    """The inside of `with f.when(...)`: the values that it may change (`carry`), and after it `result`: these, or what they were."""

    __slots__ = ("carry", "result")

    def __init__(self, carry: list[Any]) -> None:
        self.carry, self.result = carry, carry


class Kernel:
    """One function `void kernel(i64* args, i64 task, i64 thread)` under construction: its lines of IR, and the block being written."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._rooms: list[str] = []
        self._declared: dict[str, str] = {}
        self._count = 0
        self._ended = False
        self._block = "entry"
        self._known: dict[str, str] = {}
        self.task, self.thread = Int(self, "%task"), Int(self, "%thread")

    # ---- lines of text

    def _name(self) -> str:
        self._count += 1
        return f"%v{self._count}"

    def write(self, line: str) -> None:
        self._lines.append(line)

    def let(self, operation: str) -> str:
        """The register that takes the result of an operation."""
        self._count += 1
        name = f"%v{self._count}"
        self._lines.append(f"{name} = {operation}")
        return name

    def once(self, operation: str) -> str:
        """As let, for what depends on its operands alone: the same operation in one block is written once."""
        name = self._known.get(operation)
        if name is None:
            name = self._known[operation] = self.let(operation)
        return name

    def _begin(self, label: str) -> None:
        self._lines.append(f"{label}:")
        self._block, self._known = label, {}

    def _label(self, word: str) -> str:
        self._count += 1
        return f"{word}{self._count}"

    # ---- arguments and constants

    @property
    def arguments(self) -> Ptr:
        """The argument vector."""
        return Ptr(self, "%args", "i64")

    def int_arg(self, slot: Int | int) -> Int:
        """args[slot] as an integer; it does not change while the kernel runs."""
        where = self.arguments.at(slot)
        return Int(self, self.once(f"load i64, ptr {where.value}, align 8"))

    def ptr_arg(self, slot: Int | int, element: str) -> Ptr:
        """args[slot] as the address of elements."""
        return self.pointer(self.int_arg(slot), element)

    def pointer(self, address: Int, element: str) -> Ptr:
        return Ptr(self, self.once(f"inttoptr i64 {address.value} to ptr"), element)

    def i64(self, value: Int | int) -> Int:
        return value if isinstance(value, Int) else Int(self, str(int(value)))

    def const(self, dtype: str, lanes: int, value: float) -> Num:
        return Num(self, constant(dtype, lanes, float(value)), dtype, lanes)

    def zeros(self, dtype: str, lanes: int) -> Num:
        """+0 in every lane."""
        return self.const(dtype, lanes, 0.0)

    def spread(self, element: str, lanes: int, value: str) -> str:
        """A scalar in every lane."""
        if lanes == 1:
            return value
        vector = type_of(element, lanes)
        first = self.let(f"insertelement {vector} zeroinitializer, {TYPES[element]} {value}, i32 0")
        return self.let(f"shufflevector {vector} {first}, {vector} zeroinitializer, <{lanes} x i32> zeroinitializer")

    def lane_mask(self, lanes: int, count: Int | int) -> Bit:
        """True in the lanes 0 .. count - 1."""
        number = self.i64(count).value
        key = f"mask {lanes} {number}"
        if key not in self._known and lanes == 1:
            self._known[key] = self.let(f"icmp slt i64 0, {number}")
        elif key not in self._known:
            counts = self.spread("i64", lanes, number)
            numbers = lane_numbers(tuple(range(lanes)), "i64")
            self._known[key] = self.let(f"icmp slt {type_of('i64', lanes)} {numbers}, {counts}")
        return Bit(self, self._known[key], lanes, number)

    def stack(self, element: str, count: int) -> Ptr:
        """Room for `count` elements that lasts until the kernel returns; take it before any loop."""
        return Ptr(self, self.let(f"alloca {TYPES[element]}, i64 {count}"), element)

    def room(self, element: str, count: int) -> Ptr:
        """As stack, from anywhere: room that every turn of the loops around uses again."""
        name = self._name()
        self._rooms.append(f"{name} = alloca {TYPES[element]}, i64 {count}, align 64")
        return Ptr(self, name, element)

    def table(self, name: str, words: Sequence[int]) -> Ptr:
        """Constant 64-bit words in the module."""
        held = ", ".join(f"i64 {word}" for word in words)
        self._declared[f"table {name}"] = f"@{name} = private unnamed_addr constant [{len(words)} x i64] [{held}]"
        return Ptr(self, f"@{name}", "i64")

    @staticmethod
    def raw_type(element: str, lanes: int) -> str:
        """The type that elements have in memory."""
        return type_of("i16" if element == "bf16" else element, lanes)

    def declare(self, name: str, result: str, arguments: str) -> None:
        """A function of LLVM's that is called by its text."""
        self._declared[name] = f"declare {result} @{name}({arguments})"

    # ---- control flow

    @contextmanager
    def loop(
        self, start: Int | int, stop: Int | int, step: Int | int = 1, carry: Sequence[Any] = (), once: bool = False
    ) -> Iterator[Loop]:
        """for index in range(start, stop, step), with loop-carried values; once=True promises at least one iteration.

        The values are numbers, integers or addresses. The index has 32 bits where the start or the end has.
        """
        index_type = Int32 if isinstance(start, Int32) or isinstance(stop, Int32) else Int
        kind = index_type.type
        first, last = self.i64(start).value, self.i64(stop).value
        stride = step.value if isinstance(step, Int) else step
        begin = [value.value for value in carry]
        body, after = self._label("loop"), self._label("after")
        guarded = not (once or (isinstance(start, int) and isinstance(stop, int) and start < stop))
        if guarded:
            some = self.once(f"icmp slt {kind} {first}, {last}")
            self.write(f"br i1 {some}, label %{body}, label %{after}")
        else:
            self.write(f"br label %{body}")
        before = self._block
        self._begin(body)
        place = len(self._lines)
        index, phis = self._name(), [value.like(self._name()) for value in carry]
        self._lines += [""] * (1 + len(phis))  # the phis: their values from the end of the body are known there
        loop = Loop(index_type(self, self._apart(index, kind)), list(phis))
        yield loop
        came = [value.value for value in loop.carry]
        following = self.let(f"add nsw {kind} {index}, {stride}")
        more = self.let(f"icmp slt {kind} {following}, {last}")
        end = self._block
        self._lines[place] = f"{index} = phi {kind} [ {first}, %{before} ], [ {following}, %{end} ]"
        for number, (phi, was, now) in enumerate(zip(phis, begin, came, strict=True)):
            self._lines[place + 1 + number] = f"{phi.value} = phi {phi.type} [ {was}, %{before} ], [ {now}, %{end} ]"
        self.write(f"br i1 {more}, label %{body}, label %{after}")
        self._begin(after)
        loop.result = list(loop.carry)
        if guarded:
            loop.result = [
                value.like(self.let(f"phi {value.type} [ {was}, %{before} ], [ {now}, %{end} ]"))
                for value, was, now in zip(carry, begin, came, strict=True)
            ]

    def _apart(self, index: str, kind: str) -> str:
        """A copy of the loop counter that the code generator cannot trace back to the loop.

        Else it rewrites every address as an induction variable of its own (loop strength reduction). That gives the same code as what is
        written here, or worse code, and takes a quarter of the compile time. Nothing is known of a frozen value.
        """
        same = self.let(f"add {kind} {index}, 0")  # a frozen phi would be thawed
        return self.let(f"freeze {kind} {same}")

    def share(self, units: Int, per_task: Int) -> AbstractContextManager[Loop]:
        """for unit in this task's share of range(units): `per_task` of them, of the last task what is left."""
        first = self.task * per_task
        return self.loop(first, (first + per_task).minimum(units))

    @contextmanager
    def when(self, condition: Bit, carry: Sequence[Any] = ()) -> Iterator[Branch]:
        """The block runs if the condition holds; it may give other values to what it carries."""
        inside, after, before = self._label("when"), self._label("after"), self._block
        begin = [value.value for value in carry]
        branch = Branch(list(carry))
        self.write(f"br i1 {condition.value}, label %{inside}, label %{after}")
        known = self._known  # what was computed before the branch can be used in it and after it
        self._begin(inside)
        self._known = dict(known)
        yield branch
        came = [value.value for value in branch.carry]
        end = self._block
        self.write(f"br label %{after}")
        self._begin(after)
        branch.result = [
            value.like(self.let(f"phi {value.type} [ {now}, %{end} ], [ {was}, %{before} ]"))
            for value, was, now in zip(carry, begin, came, strict=True)
        ]
        self._known = known

    @contextmanager
    def standard_floating_point(self, triple: str) -> Iterator[None]:
        """The block calls kernels with the standard floating-point control word; afterwards the thread has its own again."""
        self.set_floating_point(triple, saved=True)
        yield
        self.write(floating_point.restore(triple))

    def set_floating_point(self, triple: str, saved: bool = False) -> None:
        """Load the standard floating-point control word; saved: so that the thread's own can be put back. Once in a kernel, before any loop."""
        for number, line in enumerate(floating_point.declarations(triple)):
            self._declared[f"floating point {number}"] = line
        for line in floating_point.set_standard(triple, saved):
            self.write(line)

    def call(self, code: Int, arguments: Ptr, task: Int) -> None:
        """Run another kernel, given by its address."""
        callee = self.once(f"inttoptr i64 {code.value} to ptr")
        self.write(f"call void {callee}(ptr {arguments.value}, i64 {task.value}, i64 {self.thread.value})")

    def known_alignment(self, where: Ptr, align: int) -> int:
        """The alignment in bytes that an access may claim, of what it is said to be."""
        return align

    # ---- what LLVM offers as intrinsics

    def intrinsic(self, name: str, *operands: Num) -> str:
        first = operands[0]
        kind = first.type
        full = f"{name}.{_suffix(first.dtype, first.lanes)}"
        if full not in self._declared:
            self._declared[full] = f"declare {kind} @{full}({', '.join([kind] * len(operands))})"
        return self.let(f"call {kind} @{full}({', '.join(operand.typed for operand in operands)})")

    def trailing_zeros(self, number: str) -> str:
        """How many bits are 0 below the lowest that is 1."""
        self._declared["llvm.cttz.i64"] = "declare i64 @llvm.cttz.i64(i64, i1)"
        return self.once(f"call i64 @llvm.cttz.i64(i64 {number}, i1 false)")

    def masked_load(self, address: str, element: str, lanes: int, mask: Bit, align: int) -> str:
        kind, name = type_of(element, lanes), f"llvm.masked.load.{_suffix(element, lanes)}.p0"
        self._declared[name] = f"declare {kind} @{name}(ptr, i32, {type_of('i1', lanes)}, {kind})"
        return self.let(f"call {kind} @{name}(ptr {address}, i32 {align}, {mask.typed}, {kind} zeroinitializer)")

    def masked_store(self, value: str, element: str, address: str, mask: Bit, align: int) -> None:
        """Where vectors have no mask registers such stores take dozens of cycles: there all lanes are stored at once, and the first few in
        pieces of 4, 2 and 1.
        """
        if mask.lanes == 1 or mask.lanes * max(4, ELEMENT_BYTES[element]) > 32:
            self._store_lanes(value, element, address, mask, align)
            return
        whole = mask.everywhere()
        with self.when(whole):
            self.write(f"store {type_of(element, mask.lanes)} {value}, ptr {address}, align {align}")
        with self.when(mask.anywhere().but_not(whole)):
            if mask.count is None:
                self._store_lanes(value, element, address, mask, align)
            else:
                self._store_first(value, element, Ptr(self, address, element), mask.lanes, Int(self, mask.count))

    def _store_first(self, value: str, element: str, where: Ptr, lanes: int, count: Int) -> None:
        """Store the first lanes, fewer than all: by the binary digits of their number."""
        while lanes > 1:
            half = lanes // 2
            kind, vector = type_of(element, half), type_of(element, lanes)
            has = (count & half).equals(half)
            parts = []
            for first in (0, half):
                if half == 1:
                    parts.append(self.let(f"extractelement {vector} {value}, i32 {first}"))
                else:
                    picked = lane_numbers(tuple(range(first, first + half)))
                    parts.append(self.let(f"shufflevector {vector} {value}, {vector} {value}, <{half} x i32> {picked}"))
            with self.when(has):
                self.write(f"store {kind} {parts[0]}, ptr {where.value}, align {ELEMENT_BYTES[element]}")
            value = self.let(f"select i1 {has.value}, {kind} {parts[1]}, {kind} {parts[0]}")
            where, lanes = where.at(has.pick(self.i64(half), self.i64(0))), half

    def _store_lanes(self, value: str, element: str, address: str, mask: Bit, align: int) -> None:
        kind, name = type_of(element, mask.lanes), f"llvm.masked.store.{_suffix(element, mask.lanes)}.p0"
        self._declared[name] = f"declare void @{name}({kind}, ptr, i32, {type_of('i1', mask.lanes)})"
        self.write(f"call void @{name}({kind} {value}, ptr {address}, i32 {align}, {mask.typed})")

    def prefetch(self, where: Ptr, level: int = 1, write: bool = False) -> None:
        """Prefetch a cache line that will be read (or written) soon, into the L1 cache or the L2 cache."""
        self._declared["llvm.prefetch.p0"] = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"
        self.write(f"call void @llvm.prefetch.p0(ptr {where.value}, i32 {int(write)}, i32 {4 - level}, i32 1)")

    def widen(self, raw: str, element: str, lanes: int) -> Num:
        """What was loaded as a Num: narrow types become f32, exactly."""
        if element == "f16":
            return Num(self, self.let(f"fpext {type_of('f16', lanes)} {raw} to {type_of('f32', lanes)}"), "f32", lanes)
        if element == "bf16":  # the upper half of a float32
            words = type_of("i32", lanes)
            wide = self.let(f"zext {type_of('i16', lanes)} {raw} to {words}")
            high = self.let(f"shl {words} {wide}, {constant('i32', lanes, 16)}")
            return Num(self, self.let(f"bitcast {words} {high} to {type_of('f32', lanes)}"), "f32", lanes)
        return Num(self, raw, element, lanes)

    def narrow(self, value: Num, element: str) -> str:
        """The raw bits to store: f32 rounded once, to nearest even, if the element type is narrower."""
        lanes = value.lanes
        if element == "f16":
            return self.let(f"fptrunc {value.typed} to {type_of('f16', lanes)}")
        if element == "bf16":
            # Adding 0x7fff and the lowest kept bit rounds to nearest even; a NaN keeps its upper half, made quiet.
            # (The CPU's own conversion would flush denormals.)
            words = type_of("i32", lanes)

            def word(number: int) -> str:
                return constant("i32", lanes, number)

            bits = self.let(f"bitcast {value.typed} to {words}")
            kept = self.let(f"lshr {words} {bits}, {word(16)}")
            odd = self.let(f"and {words} {kept}, {word(1)}")
            half = self.let(f"add {words} {odd}, {word(0x7FFF)}")
            rounded = self.let(f"add {words} {bits}, {half}")
            quiet = self.let(f"or {words} {bits}, {word(0x00400000)}")
            best = self.let(f"select {value.is_nan().typed}, {words} {quiet}, {words} {rounded}")
            upper = self.let(f"lshr {words} {best}, {word(16)}")
            return self.let(f"trunc {words} {upper} to {type_of('i16', lanes)}")
        if element != value.dtype:
            raise TypeError(f"a {value.dtype} value cannot be stored as {element}")
        return value.value

    def ir(self) -> str:
        """The module as LLVM IR; the kernel is complete after this."""
        if not self._ended:
            self.write("ret void")
            self._ended = True
        head = "define void @kernel(ptr %args, i64 %task, i64 %thread) nounwind {\nentry:\n"
        return head + "\n".join([*self._rooms, *self._lines]) + "\n}\n" + "\n".join(self._declared.values()) + "\n"


def _suffix(element: str, lanes: int) -> str:
    """A type as the names of intrinsics write it."""
    return element if lanes == 1 else f"v{lanes}{element}"
