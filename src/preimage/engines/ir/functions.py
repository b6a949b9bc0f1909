"""Functions with any parameters, calls of one another and of C, loops that are left from inside.

    f = Function("wait_for", "void", gate="ptr")
    turns = f.cell(0)                                # a variable in memory
    with f.forever() as loop:
        with f.when(f.parameter("gate").atomic_load("acquire").equals(0)):
            loop.leave()
        turns.store_int(turns.load_int() + 1)
        f.call_c("sched_yield", "i32")
    text = module([f])

Parameters and results are i64 or ptr; C's int goes in as `I32(value)` and comes back as an `Int`, sign-extended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from preimage.engines.ir.builder import Bit, Branch, Int, Kernel, Ptr

__all__ = ["I32", "Forever", "Function", "module"]


class I32(NamedTuple):
    """A constant argument of C's type int."""

    value: int


class Forever:
    """The inside of `with f.forever()`; `leave()` ends the loop."""

    def __init__(self, function: Function, after: str) -> None:
        self._function, self._after = function, after

    def leave(self) -> None:
        self._function.end_block(f"br label %{self._after}")


class Function(Kernel):
    """One function under construction. internal: only functions of its module call it."""

    def __init__(self, name: str, result: str, internal: bool = False, **parameters: str) -> None:
        super().__init__()
        self.name, self.result, self._internal, self._parameters = name, result, internal, parameters
        self._closed = False  # the current block has its terminator

    def parameter(self, name: str) -> Ptr:
        """A parameter that is an address, of 64-bit words."""
        assert self._parameters[name] == "ptr"
        return Ptr(self, f"%{name}", "i64")

    def number(self, name: str) -> Int:
        """A parameter that is a number."""
        assert self._parameters[name] == "i64"
        return Int(self, f"%{name}")

    def cell(self, value: Int | int) -> Ptr:
        """A word of memory that lasts until the function returns; take it before any loop."""
        cell = self.stack("i64", 1)
        cell.store_int(value)
        return cell

    # ---- control flow

    def _begin(self, label: str) -> None:
        super()._begin(label)
        self._closed = False

    def end_block(self, terminator: str) -> None:
        """Terminate the current block; nothing may follow inside the same `with`."""
        self.write(terminator)
        self._closed = True

    def give(self, value: Int | int | None = None) -> None:
        """Return from the function: a number, or null where it returns an address."""
        if value is None:
            self.end_block("ret void" if self.result == "void" else "ret ptr null")
        else:
            self.end_block(f"ret i64 {self.i64(value).value}")

    @contextmanager
    def when(self, condition: Bit, carry: Sequence[Any] = ()) -> Iterator[Branch]:
        """As of a kernel, but that nothing is carried; the block may leave the function or a loop."""
        inside, after, known = self._label("when"), self._label("after"), self._known
        self.write(f"br i1 {condition.value}, label %{inside}, label %{after}")
        self._begin(inside)
        self._known = dict(known)
        yield Branch([])
        if not self._closed:
            self.write(f"br label %{after}")
        self._begin(after)
        self._known = known

    @contextmanager
    def forever(self) -> Iterator[Forever]:
        """The block runs again and again, until `leave()` or `give()`."""
        body, after = self._label("loop"), self._label("after")
        self.write(f"br label %{body}")
        self._begin(body)
        yield Forever(self, after)
        if not self._closed:
            self.write(f"br label %{body}")
        self._begin(after)

    # ---- calls

    def call_function(self, name: str, *arguments: Ptr | Int) -> None:
        """Call a function of the same module that returns nothing."""
        self.write(f"call void @{name}({', '.join(map(_typed, arguments))})")

    def call_known(self, name: str, *arguments: Ptr | Int) -> Int:
        """Call a function of the same module that returns a number."""
        return Int(self, self.let(f"call i64 @{name}({', '.join(map(_typed, arguments))})"))

    def call_address(self, address: Int, *arguments: Ptr | Int) -> Int:
        """Call a function of those parameters that returns a number, given by its address."""
        callee = self.let(f"inttoptr i64 {address.value} to ptr")
        return Int(self, self.let(f"call i64 {callee}({', '.join(map(_typed, arguments))})"))

    def copy_words(self, to: Ptr, source: Ptr, count: Int) -> None:
        """Copy so many words of 8 bytes between two arrays that do not overlap."""
        self._declared["llvm.memcpy.p0.p0.i64"] = "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)"
        words = f"ptr align 8 {to.value}, ptr align 8 {source.value}, i64 {(count << 3).value}, i1 false"
        self.write(f"call void @llvm.memcpy.p0.p0.i64({words})")

    def call_c(self, name: str, result: str, *arguments: Ptr | Int | I32) -> Int:
        """Call a function of C, or an intrinsic of LLVM; result: i32, i64 or void (0 comes back)."""
        kinds = ", ".join(_typed(a).split(" ")[0] for a in arguments)
        self._declared[name] = f"declare {result} @{name}({kinds})"
        call = f"call {result} @{name}({', '.join(map(_typed, arguments))})"
        if result == "void":
            self.write(call)
            return self.i64(0)
        value = self.let(call)
        return Int(self, value if result == "i64" else self.let(f"sext i32 {value} to i64"))

    def ir(self) -> str:
        """The function's definition alone: see `module`."""
        if not self._closed:
            self.give(0 if self.result == "i64" else None)
        parameters = ", ".join(f"{kind} %{name}" for name, kind in self._parameters.items())
        head = f"define {'internal ' if self._internal else ''}{self.result} @{self.name}({parameters}) {{\nentry:\n"
        return head + "\n".join([*self._rooms, *self._lines]) + "\n}\n"

    @property
    def declarations(self) -> dict[str, str]:
        """The declarations of external functions that it calls."""
        return self._declared


def _typed(argument: Ptr | Int | I32) -> str:
    if isinstance(argument, I32):
        return f"i32 {argument.value}"
    return f"{'ptr' if isinstance(argument, Ptr) else 'i64'} {argument.value}"


def module(functions: Sequence[Function]) -> str:
    """Functions as the text of one module, with what they call declared once."""
    texts = [function.ir() for function in functions]
    declared = {name: line for function in functions for name, line in function.declarations.items()}
    return "\n".join([*declared.values(), "", *texts])
