"""The instructions of pickle, as far as they make plain values: no class is imported, no code is run, whatever the file says.

A pickle is a program for a machine with a stack and a table of values (the *memo*). Here the machine knows numbers, words, tuples, lists, dicts, and
the few names that `construct` is asked about; every other instruction and name is refused. The standard library's pickle is not used.

Source: the opcode table of Python's module pickletools (protocols 0 to 5).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, ClassVar

from preimage.errors import FileFormatError
from preimage.host import printable
from preimage.records import record

__all__ = ["Construct", "Name", "evaluate"]


@record
class Name:
    """A class or function that the file names, such as torch.FloatStorage: a word here, and nothing more."""

    module: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}", most=80)


#: What a named function makes of its arguments, and what stands behind a persistent id.
Construct = Callable[[Name, tuple[Any, ...]], Any]


class _Mark:
    """What MARK puts on the stack."""


_MARK = _Mark()


def evaluate(
    data: memoryview, start: int, *, known: Callable[[Name], bool], construct: Construct, stored: Callable[[Any], Any], most: int
) -> tuple[Any, int]:
    """The value of the pickle that begins at `start`, and the place behind it.

    known: whether a name may be used at all; construct: the value of a call of one; stored: the value of a persistent id;
    most: instructions that it may have.

    Raises: FileFormatError for other instructions and names, and for a program that is damaged.
    """
    machine = _Machine(data, start, known, construct, stored)
    try:
        return machine.run(most)
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"its pickle is damaged at byte {machine.at}: {error}") from None


class _Machine:
    def __init__(
        self, data: memoryview, start: int, known: Callable[[Name], bool], construct: Construct, stored: Callable[[Any], Any]
    ) -> None:
        self.data, self.at = data, start
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.known, self.construct, self.stored = known, construct, stored

    def run(self, most: int) -> tuple[Any, int]:
        count = 0
        while (code := self.data[self.at]) != 0x2E:  # STOP
            self.at += 1
            count += 1
            if count > most:
                raise FileFormatError(
                    f"its pickle has more than {most} instructions, which would take more memory than is allowed"
                )
            step = self._STEPS.get(code)
            if step is None:
                raise FileFormatError(
                    f"its pickle asks for instruction {chr(code)!r} at byte {self.at - 1}, which makes more than plain values"
                )
            step(self)
        value = self.pop()
        if self.stack:
            raise FileFormatError(f"its pickle is damaged: {len(self.stack)} values are left at its end")
        return value, self.at + 1

    # -- reading the program ------------------------------------------------------------------------------------------

    def take(self, size: int) -> memoryview:
        if not 0 <= size <= len(self.data) - self.at:
            raise FileFormatError(
                f"its pickle is damaged: byte {self.at} asks for {size} more, {len(self.data) - self.at} are there"
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> Any:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return value

    def line(self) -> str:
        end = self.at
        while self.data[end] != 0x0A:
            end += 1
        text = bytes(self.take(end - self.at)).decode()
        self.at += 1
        return text

    # -- the stack ----------------------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise FileFormatError(f"its pickle is damaged: no value is there for the instruction before byte {self.at}")
        return self.stack.pop()

    def popped(self, count: int) -> tuple[Any, ...]:
        return tuple([self.pop() for _ in range(count)][::-1])

    def marked(self) -> list[Any]:
        """The values above the last mark, which go with it."""
        for k in range(len(self.stack) - 1, -1, -1):
            if self.stack[k] is _MARK:
                values = self.stack[k + 1 :]
                del self.stack[k:]
                return values
        raise FileFormatError(f"its pickle is damaged: no mark is there for the instruction before byte {self.at}")

    def target(self, kind: type) -> Any:
        """The list or dict at the top that is filled."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise FileFormatError(f"its pickle is damaged: it fills something that is no {kind.__name__} before byte {self.at}")
        return self.stack[-1]

    # -- instructions -------------------------------------------------------------------------------------------------

    def text(self, form: str) -> None:
        self.push(bytes(self.take(self.number(form))).decode("utf-8", "surrogatepass"))

    def remember(self, place: int) -> None:
        value = self.pop()
        self.memo[place] = value
        self.push(value)

    def recall(self, place: int) -> None:
        if place not in self.memo:
            raise FileFormatError(f"its pickle is damaged: byte {self.at} recalls value {place}, which was never remembered")
        self.push(self.memo[place])

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise FileFormatError(f"its pickle is damaged: a name before byte {self.at} is no word")
        found = Name(module, name)
        if not self.known(found):
            raise FileFormatError(
                f"it holds {found}, which only that code could rebuild, and no code of a file is run; "
                "save tensors, numbers, words and dicts of them: in torch, torch.save(model.state_dict(), path)"
            )
        self.push(found)

    def call(self) -> None:
        function, arguments = self.popped(2)
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise FileFormatError(f"its pickle is damaged: it calls what is no function before byte {self.at}")
        self.push(self.construct(function, arguments))

    def build(self) -> None:
        """The state of an object: of a dict, attributes that torch keeps beside its keys (_metadata), which say nothing of the values."""
        self.pop()
        self.target(dict)

    def extend(self, values: list[Any]) -> None:
        self.target(list).extend(values)

    def fill(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise FileFormatError(f"its pickle is damaged: a key without a value before byte {self.at}")
        table = self.target(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) not in (str, int):
                raise FileFormatError(f"its dicts have keys that are neither words nor integers: {type(key).__name__}")
            table[key] = value

    def long(self, size: int) -> None:
        self.push(int.from_bytes(bytes(self.take(size)), "little", signed=True))

    _STEPS: ClassVar[dict[int, Callable[[_Machine], None]]] = {
        # the program itself
        0x80: lambda m: m.version(m.number("<B")),  # PROTO
        0x95: lambda m: m.frame(m.number("<Q")),  # FRAME
        ord("("): lambda m: m.push(_MARK),
        # numbers and words
        ord("N"): lambda m: m.push(None),
        0x88: lambda m: m.push(True),
        0x89: lambda m: m.push(False),
        ord("K"): lambda m: m.push(m.number("<B")),
        ord("M"): lambda m: m.push(m.number("<H")),
        ord("J"): lambda m: m.push(m.number("<i")),
        0x8A: lambda m: m.long(m.number("<B")),  # LONG1
        ord("G"): lambda m: m.push(m.number(">d")),
        ord("X"): lambda m: m.text("<I"),
        0x8C: lambda m: m.text("<B"),  # SHORT_BINUNICODE
        0x8D: lambda m: m.text("<Q"),  # BINUNICODE8
        ord("U"): lambda m: m.text("<B"),  # words of Python 2
        ord("T"): lambda m: m.text("<i"),
        # tuples, lists, dicts
        ord(")"): lambda m: m.push(()),
        0x85: lambda m: m.push(m.popped(1)),
        0x86: lambda m: m.push(m.popped(2)),
        0x87: lambda m: m.push(m.popped(3)),
        ord("t"): lambda m: m.push(tuple(m.marked())),
        ord("]"): lambda m: m.push([]),
        ord("l"): lambda m: m.push(m.marked()),
        ord("a"): lambda m: m.extend([m.pop()]),
        ord("e"): lambda m: m.extend(m.marked()),
        ord("}"): lambda m: m.push({}),
        ord("s"): lambda m: m.fill(list(m.popped(2))),
        ord("u"): lambda m: m.fill(m.marked()),
        # remembering
        ord("q"): lambda m: m.remember(m.number("<B")),
        ord("r"): lambda m: m.remember(m.number("<I")),
        0x94: lambda m: m.remember(len(m.memo)),  # MEMOIZE
        ord("h"): lambda m: m.recall(m.number("<B")),
        ord("j"): lambda m: m.recall(m.number("<I")),
        # names, calls of them, and what lies outside
        ord("c"): lambda m: m.name(m.line(), m.line()),
        0x93: lambda m: m.name(*m.popped(2)),  # STACK_GLOBAL
        ord("R"): lambda m: m.call(),
        ord("b"): lambda m: m.build(),
        ord("Q"): lambda m: m.push(m.stored(m.pop())),
    }

    def version(self, protocol: int) -> None:
        if protocol > 5:
            raise FileFormatError(f"its pickle has protocol {protocol}; up to 5 are known")

    def frame(self, size: int) -> None:
        """A hint for readers that fetch the file in pieces."""
        if size > len(self.data) - self.at:
            raise FileFormatError(f"its pickle is damaged: a frame of {size} bytes, {len(self.data) - self.at} are there")
