"""Programs: what one call runs, as plain data. A strategy lowers a request to one; `link` gives it addresses.

    call = kernel_call("direct", DirectSpec(...), DirectArguments(input="x", rows=rows, chunks=4, ...), tasks=8)

A program says which kernels run one after another, in how many tasks each, and what stands in their argument vectors: numbers, tables
(constant arrays), arrays of the call by name, other kernels. Nothing in it is an address or belongs to this machine: it can be
printed, compared and hashed, and made for a CPU that is not here. Making one compiles nothing and loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from typing import Any, ClassVar, Protocol, TypedDict

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.arguments import Arguments, Field, Records
from preimage.records import record

__all__ = [
    "ALIGN",
    "Buffer",
    "KernelCall",
    "KernelSpec",
    "Program",
    "ProgramBuilder",
    "Table",
    "kernel_call",
    "operands",
]

ALIGN = 64


class KernelSpec(Protocol):
    """What a kernel depends on: a frozen dataclass, whose `repr` stands for the text that `ir` makes.

    arguments: its argument vector. controls: it only calls other kernels.
    """

    arguments: ClassVar[Any]  # a class of Arguments; a protocol with that type would take no subclass

    def ir(self) -> str: ...


class Table:
    """A constant array that a kernel reads. Tables are equal where their contents are."""

    __slots__ = ("_name", "array")

    def __init__(self, array: Array, name: str = "") -> None:
        self.array, self._name = np.ascontiguousarray(array), name
        self.array.flags.writeable = False

    @property
    def name(self) -> str:
        """What its rows are."""
        return self._name or str(self.array.dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table):
            return NotImplemented
        a, b = self.array, other.array
        return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()

    def __hash__(self) -> int:
        return hash((self.array.shape, self.array.tobytes()))

    def __repr__(self) -> str:
        return f"{self.name}{list(self.array.shape)}"


@record
class KernelCall:
    """One kernel and its tasks. `words` is its argument vector, with 0 where an address comes in: see the three lists of slots.

    inner: calls whose own argument vectors follow this one's words, of a kernel that calls others.
    """

    name: str
    spec: KernelSpec
    words: tuple[int, ...]
    arrays: tuple[tuple[int, str], ...]
    tables: tuple[tuple[int, Table], ...]
    kernels: tuple[tuple[int, KernelSpec], ...]
    tasks: int
    inner: tuple[KernelCall, ...] = ()

    def integer(self, field: Field) -> int:
        """The number that stands in a word."""
        return self.words[field.slot]

    def changed(self, values: Mapping[Field | int, int]) -> KernelCall:
        """The same call with other numbers in some slots."""
        words = list(self.words)
        for word, value in values.items():
            words[word.slot if isinstance(word, Field) else word] = int(value)
        return KernelCall(self.name, self.spec, tuple(words), self.arrays, self.tables, self.kernels, self.tasks, self.inner)

    def renamed(self, name: str, arrays: Mapping[str, str]) -> KernelCall:
        """The same call under another name, on other arrays."""
        found = tuple((slot, arrays.get(old, old)) for slot, old in self.arrays)
        return KernelCall(name, self.spec, self.words, found, self.tables, self.kernels, self.tasks, self.inner)

    @property
    def specs(self) -> tuple[KernelSpec, ...]:
        """The kernels that it needs, its own first."""
        return self.spec, *(spec for _, spec in self.kernels)

    def values(self) -> dict[str, int | str | Table | KernelSpec]:
        """The argument vector by the names of its words (without those of inner calls); words that are 0 are left out."""
        special = {slot: value for pairs in (self.arrays, self.tables, self.kernels) for slot, value in pairs}
        fields_ = self.spec.arguments.fields.values()
        found = {f.name: special.get(f.slot, self.words[f.slot]) for f in fields_ if f.slot < len(self.words)}
        return {name: value for name, value in found.items() if not (isinstance(value, int) and value == 0)}

    def lines(self) -> list[str]:
        """What it says of itself, in lines."""
        said = [f"{self.name}: {_short(self.spec)}, {self.tasks} task{'' if self.tasks == 1 else 's'}"]
        words = [f"{name}={type(value).__name__ if hasattr(value, 'ir') else value}" for name, value in self.values().items()]
        said += ["  " + "  ".join(words[k : k + 6]) for k in range(0, len(words), 6)]
        for call in self.inner:
            said += ["  " + line for line in call.lines()]
        return said


def _short(spec: Any) -> str:
    """A spec with those of its fields that differ from nothing."""
    found = {f.name: getattr(spec, f.name) for f in fields(spec)}
    said = [f"{name}={_short(v) if is_dataclass(v) else repr(v)}" for name, v in found.items() if v]
    return f"{type(spec).__name__}({', '.join(word for word in said if not word.endswith('()'))})"


def kernel_call(
    name: str, spec: KernelSpec, values: Arguments, tasks: int, inner: Sequence[KernelCall] = (), room: int = 0
) -> KernelCall:  # fmt: skip
    """A call of the kernel of `spec`; values: its argument vector.

    inner: calls whose argument vectors are put after this one's `room` words (of its declared ones, where that is 0), one after another.
    """
    if type(values) is not spec.arguments:
        raise TypeError(f"{type(spec).__name__} takes {spec.arguments.__name__}, not {type(values).__name__}")
    words = [0] * (room or len(spec.arguments.fields))
    arrays: list[tuple[int, str]] = []
    tables: list[tuple[int, Table]] = []
    kernels: list[tuple[int, KernelSpec]] = []
    for field_, value in values.given():
        slot = field_.slot
        if type(value) is int:
            words[slot] = value
        elif isinstance(value, str):
            arrays.append((slot, value))
        elif isinstance(value, np.ndarray):
            tables.append((slot, Table(value, field_.record.__name__ if isinstance(field_, Records) else "")))
        elif hasattr(value, "ir"):
            kernels.append((slot, value))
        else:
            words[slot] = int(value)
    for call in inner:
        at = len(words)
        words += call.words
        arrays += [(at + slot, name) for slot, name in call.arrays]
        tables += [(at + slot, table) for slot, table in call.tables]
        kernels += [(at + slot, other) for slot, other in call.kernels]
    return KernelCall(name, spec, tuple(words), tuple(arrays), tuple(tables), tuple(kernels), tasks, tuple(inner))


@record
class Buffer:
    """Scratch memory of a call, in bytes. grows: with the activations, so that a call whose memory would pass the limit is cut."""

    name: str
    size: int
    grows: bool = True


@record
class Program:
    """The calls of one contraction, its scratch memory, and what to say about it in a Plan."""

    algorithm: str
    calls: tuple[KernelCall, ...]
    buffers: tuple[Buffer, ...] = ()
    details: dict[str, Any] = field(default_factory=dict, hash=False)
    refused: dict[str, str] = field(default_factory=dict, hash=False)
    bias_repeat: int = 1  # how often the bias is wanted, one after another (folded phases)
    skips_padding: bool = False  # the result relies on finite weights
    packing: KernelCall | None = None  # packs the weights once (`PreparedWeight`); packed_bytes is the size of the result
    packed_bytes: int = 0
    packed_key: tuple[Any, ...] = ()  # weights packed under the same key are the same
    decisions: tuple[str, ...] = ()  # that planning took (`engines.decisions`)

    def chosen(self, refused: dict[str, str], decisions: tuple[str, ...]) -> Program:
        """The same program with what to say of the choice: why other strategies were refused, and what planning decided."""
        return Program(
            self.algorithm, self.calls, self.buffers, self.details, refused, self.bias_repeat, self.skips_padding, self.packing,
            self.packed_bytes, self.packed_key, decisions,
        )  # fmt: skip

    @property
    def places(self) -> dict[str, int]:
        """Where the buffers lie in the workspace, whose first bytes are the call's flag."""
        found, at = {}, ALIGN
        for buffer in self.buffers:
            found[buffer.name] = at
            at += -(-buffer.size // ALIGN) * ALIGN
        return found

    @property
    def workspace_bytes(self) -> int:
        """The whole workspace."""
        return sum(-(-b.size // ALIGN) * ALIGN for b in self.buffers) + ALIGN

    @property
    def scratch_bytes(self) -> int:
        """What of the workspace grows with the activations: not packed weights, nor what is bounded anyway."""
        return sum(buffer.size for buffer in self.buffers if buffer.grows and buffer.name != "packed")

    @property
    def table_bytes(self) -> int:
        """What its tables hold in memory."""
        return sum(table.array.nbytes for call in self.calls for _, table in call.tables)

    @property
    def specs(self) -> tuple[KernelSpec, ...]:
        """The kernels that its calls need, each once, in the order in which they run."""
        return tuple(dict.fromkeys(spec for call in self.calls for spec in call.specs))

    def __str__(self) -> str:
        said = [self.algorithm]
        said += [f"  {key}: {value}" for key, value in self.details.items()]
        said += [f"  scratch {buffer.name!r}: {buffer.size} bytes" for buffer in self.buffers]
        for number, call in enumerate(self.calls, 1):
            first, *more = call.lines()
            said += [f"  {number}. {first}", *("     " + line for line in more)]
        return "\n".join(said)


class ProgramBuilder:
    """A program while a strategy makes it, with the attributes of `Program`; `done()` gives the program."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.calls: list[KernelCall] = []
        self.buffers: list[Buffer] = []
        self.details: dict[str, Any] = {}
        self.refused: dict[str, str] = {}
        self.bias_repeat = 1
        self.skips_padding = False
        self.packing: KernelCall | None = None
        self.packed_bytes = 0
        self.packed_key: tuple[Any, ...] = ()

    def pack_first(self) -> None:
        """Pack the weights in every call, before the calls that are there."""
        assert self.packing is not None
        self.calls.insert(0, self.packing)
        self.buffers.append(Buffer("packed", self.packed_bytes))

    def done(self) -> Program:
        return Program(
            self.algorithm, tuple(self.calls), tuple(self.buffers), self.details, self.refused, self.bias_repeat,
            self.skips_padding, self.packing, self.packed_bytes, self.packed_key,
        )  # fmt: skip


class Operands(TypedDict):
    """The arrays with which the argument vector of every contraction by packed weights begins (`EpilogueArguments`)."""

    input: str
    weight: str
    output: str
    bias: str
    residual: str
    limits: str


def operands(source: str = "x", result: str = "out") -> Operands:
    """Those arrays by the names that they have in a call."""
    return {"input": source, "weight": "packed", "output": result, "bias": "bias", "residual": "residual", "limits": "limits"}
