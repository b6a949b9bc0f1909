"""A recipe: the kernels that one call runs one after another, with their tables and argument vectors filled in.

A recipe is made once for a geometry, memory order and epilogue, and kept. A call copies each step's template, writes the
addresses of its own arrays into it, and launches: nothing in a recipe changes, so threads may share it.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from preimage.engines import decisions
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.index.tables import Slot
from preimage.engines.jit.index.taps import Axis, Folded, Ints, Phase, as_ints
from preimage.engines.jit.index.tiling import Choice, Tiles, tile_phase
from preimage.engines.jit.runtime import pool
from preimage.engines.jit.runtime.fork_safety import kept
from preimage.engines.jit.runtime.lockstep_kernel import PartsSpec
from preimage.engines.jit.runtime.program_kernel import HEAD, ProgramSpec, SweepSpec
from preimage.errors import EngineError

__all__ = [
    "Buffer",
    "Recipe",
    "Step",
    "address_of",
    "compiled",
    "gather_tables",
    "made_together",
    "operands",
    "slots",
    "split_rows",
]

ALIGN = 64


@dataclass(frozen=True)
class Step:
    """One kernel launch: `patches` are (slot, name of the array whose address goes there)."""

    name: str
    kernel: kernels.LoadedKernel
    template: tuple[int, ...]
    patches: tuple[tuple[int, str], ...]
    tasks: int
    tables: tuple[Any, ...] = ()  # kept alive here; their addresses are in the template


@dataclass(frozen=True)
class Buffer:
    """Scratch memory of a call."""

    name: str
    size: int


@dataclass
class Recipe:
    """Steps, scratch and what to say about them in a Plan."""

    algorithm: str
    steps: list[Step] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    bias_repeat: int = 1  # how often the bias is wanted, one after another (folded phases)
    skips_padding: bool = False  # the result relies on finite weights
    packing: Step | None = None  # packs the weights once (`PreparedWeight`); packed_bytes is the size of the result
    packed_bytes: int = 0
    packed_key: tuple[Any, ...] = ()  # weights packed under the same key are the same
    decisions: tuple[str, ...] = ()  # that planning took (`engines.decisions`)

    def pack_first(self) -> None:
        """Pack the weights in every call, before the steps that are there."""
        assert self.packing is not None
        self.steps.insert(0, self.packing)
        self.buffers.append(Buffer("packed", self.packed_bytes))

    @kept
    def places(self) -> dict[str, int]:
        """Where the buffers lie in the workspace, whose first bytes are the call's flag."""
        found, at = {}, ALIGN
        for buffer in self.buffers:
            found[buffer.name] = at
            at += -(-buffer.size // ALIGN) * ALIGN
        return found

    @kept
    def workspace_bytes(self) -> int:
        """The whole workspace. Asked for once all buffers are there."""
        return sum(-(-b.size // ALIGN) * ALIGN for b in self.buffers) + ALIGN

    @kept
    def table_bytes(self) -> int:
        """What its tables hold in memory."""
        return sum(getattr(table, "nbytes", 0) for step in self.steps for table in step.tables)

    @kept
    def program(self) -> tuple[Any, tuple[str, ...], bytes]:
        """All steps as one call: the function, the names of the addresses it begins with, and the rest of its words."""
        names = tuple(dict.fromkeys(name for step in self.steps for _, name in step.patches))
        if len(names) > HEAD:
            raise EngineError(f"a recipe may use {HEAD} arrays, this one uses {len(names)}")
        patches: list[int] = []
        steps: list[int] = []
        sections: list[int] = []
        count = sum(len(step.patches) for step in self.steps)
        begin = HEAD + 2 + 2 * count + 3 * len(self.steps)
        for step in self.steps:
            at = begin + len(sections)
            for slot, name in step.patches:
                patches += [names.index(name), at + slot]
            steps += [int(step.kernel), at, step.tasks]
            sections += step.template
        rest = pool.pack_args(count, len(self.steps), *patches, *steps, *sections)
        with kernels.at_once():  # a signal handler may ask for it while the thread is inside `together`
            kernel = compiled(ProgramSpec())
        entry = _Entry(kernel)
        entry.kernel = kernel  # type: ignore[attr-defined]  # stays loaded while it can be called
        return entry, names, rest

    def head(self, addresses: dict[str, int]) -> list[int]:
        """The words that the program begins with: addresses by name, 0 for those that are not given."""
        head = [addresses.get(name, 0) for name in self.program[1]]
        return [*head, *_PADDING[len(head) :]]

    def run(self, addresses: dict[str, int], n_threads: int) -> None:
        """Launch the steps with the addresses of this call's arrays."""
        if n_threads <= 1:
            entry, _, rest = self.program
            entry(_pack_head(*self.head(addresses)) + rest, 0, 0)  # without the pool
            return
        for step in self.steps:
            values = list(step.template)
            for slot, name in step.patches:
                values[slot] = addresses[name]
            pool.launch(step.kernel, pool.pack_args(*values), step.tasks, n_threads)


_PADDING = (0,) * HEAD
_pack_head = struct.Struct(f"{HEAD}q").pack
_Entry = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)


def _slow_address(a: Any) -> int:
    return int(a.ctypes.data)


def _field_address(a: Any) -> int:
    return _Address.from_address(id(a) + _FIELD).value or 0


#: NumPy's C structure of an array begins, after the object's head, with the address of the data. Reading it there takes
#: 0.3 us where `a.ctypes.data` takes 1 and `__array_interface__` 3; probed below, in case an interpreter lays it out otherwise.
_FIELD = object.__basicsize__
_Address = ctypes.c_void_p


def _probe() -> bool:
    if platform.python_implementation() != "CPython":
        return False
    arrays = [np.empty(n, np.float32)[n // 2 :] for n in (3, 1000)]
    return all(_field_address(a) == _slow_address(a) for a in arrays)


address_of = _field_address if _probe() else _slow_address


# --------------------------------------------------------------------------------------------------------- the gather


def gather_tables(
    axes: list[Axis],
    choice: Choice,
    in_strides: list[int],
    out_strides: list[int],
    tap_bytes: int,
    folded: Folded | None = None,
    channels: int = 0,
    part: Callable[[Phase, Tiles], tuple[Tiles, Ints]] | None = None,
) -> tuple[Ints, Ints, Ints, Ints]:
    """Rows, tiles, lists and taps (see `tables.Slot`) of a gather whose pixels run along `choice.axis`.

    Strides are in bytes, along each axis; the addresses of INPUT and OUTPUT are those of position 0 everywhere.
    part: picks some of a phase's tiles, and says how far (in positions) the input of each is moved.
    Rows have one more number at their end: rows of one number (of the outer axes' phases, and the tile's) share their taps.
    """
    outer = [k for k in range(len(axes)) if k != choice.axis]
    weights = np.cumprod([1, *(axes[k].kernel for k in reversed(range(len(axes))))])[:-1][::-1]  # row-major tap numbers
    covers: list[tuple[Phase, Tiles, list[tuple[int, int]], int, int]] = []
    tiles: list[Ints] = []
    count = 0
    for phase in axes[choice.axis].phases:
        if not phase.count:
            continue
        cover, moved = tile_phase(phase, choice.pixels), np.zeros(1, np.int64)
        if part is not None:
            cover, moved = part(phase, cover)
        number, ranges = cover.classes
        at_in = (cover.starts * phase.in_step + moved) * in_strides[choice.axis]
        at_out = (phase.start + cover.starts * phase.step) * out_strides[choice.axis]
        cut, end = np.zeros_like(at_in), np.full_like(at_in, 1 << 40)
        if folded is not None:
            cut[cover.starts == 0] = folded.first_cut * channels
            end[cover.starts + cover.pixels == phase.count] = folded.last_end * channels
        tiles.append(np.stack([at_in, at_out, number, cut, end], axis=1).astype(np.int64))
        covers.append((phase, cover, ranges, count, count + len(cover.starts)))
        count += len(cover.starts)
    nothing = np.zeros((1, 3), np.int64)
    parts: dict[tuple[int, int, tuple[int, int]], Ints | None] = {}

    def words(k: int, p: Phase, taps: tuple[int, int]) -> Ints | None:
        """What a range of taps of one axis adds to input offset, weight offset and channels; None for nothing at all."""
        key = k, id(p), taps
        if key not in parts:
            numbers = np.array([n for n, _ in p.taps[slice(*taps)]], np.int64)
            found = np.zeros((len(numbers), 3), np.int64)
            found[:, 0], found[:, 1] = p.offsets[slice(*taps)] * in_strides[k], numbers * (weights[k] * tap_bytes)
            if folded is not None and k == len(axes) - 1:
                found[:, 2] = np.array(folded.phases_of_tap, np.int64)[numbers] * channels
            parts[key] = found if len(found) != 1 or found.any() else None
        return parts[key]

    rows: list[Ints] = []
    lists: list[tuple[int, int]] = []
    taps: list[Ints] = []
    tap_count = 0
    for phases in product(*([p for p in axes[k].phases if p.count] for k in outer)):
        classed = [p.classes for p in phases]
        for phase, _cover, ranges, first_tile, end_tile in covers:
            at_in, at_out, number = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64)
            for k, p, (cls, choices) in zip(outer, phases, classed, strict=True):
                t = np.arange(p.count, dtype=np.int64)
                at_in = (at_in[:, None] + t * (p.in_step * in_strides[k])).ravel()
                at_out = (at_out[:, None] + (p.start + t * p.step) * out_strides[k]).ravel()
                number = (number[:, None] * len(choices) + cls).ravel()
            block = np.empty((len(at_in), 6), np.int64)
            block[:, 0], block[:, 1], block[:, 2] = at_in, at_out, len(lists) + number * len(ranges)
            block[:, 3], block[:, 4], block[:, 5] = first_tile, end_tile, len(rows)
            rows.append(block)
            for picked in product(*(choices for _, choices in classed)):
                for lo, hi in ranges:
                    where = {k: (p, r) for k, p, r in zip(outer, phases, picked, strict=True)}
                    where[choice.axis] = (phase, (lo, hi))
                    entry = nothing
                    for k in range(len(axes)):
                        more = words(k, *where[k])
                        if more is not None:
                            entry = more if entry is nothing else (entry[:, None, :] + more[None]).reshape(-1, 3)
                    lists.append((tap_count, tap_count + len(entry)))
                    taps.append(entry)
                    tap_count += len(entry)
    all_tiles = np.concatenate(tiles) if tiles else np.zeros((0, 5), np.int64)
    all_rows = np.concatenate(rows)
    all_rows = all_rows[all_rows[:, 4] > all_rows[:, 3]]
    return all_rows, all_tiles, as_ints(lists), np.ascontiguousarray(np.concatenate(taps))


def split_rows(rows: Ints, pieces: int) -> Ints:
    """Every row cut into up to `pieces` rows of fewer tiles, so that one long row can be shared."""
    if pieces <= 1:
        return rows
    out = []
    for piece in range(pieces):
        part = rows.copy()
        count = rows[:, 4] - rows[:, 3]
        part[:, 3] = rows[:, 3] + count * piece // pieces
        part[:, 4] = rows[:, 3] + count * (piece + 1) // pieces
        out.append(part)
    cut = np.stack(out, axis=1).reshape(-1, rows.shape[1])
    return np.ascontiguousarray(cut[cut[:, 4] > cut[:, 3]])


def compiled(spec: Any) -> kernels.LoadedKernel:
    """The kernel of a spec, compiled or from the cache."""
    level = kernels.CONTROL_LEVEL if isinstance(spec, (ProgramSpec, SweepSpec, PartsSpec)) else kernels.CODEGEN_LEVEL
    return kernels.compile_cached(repr(spec), spec.ir, None, level)


def made_together(make: Callable[[], Recipe], n_threads: int) -> Recipe:
    """The recipe that make() makes; its kernels, and what runs them, are compiled side by side."""

    def ask() -> Recipe:
        with decisions.made() as taken:
            recipe = make()
        recipe.decisions = tuple(taken)
        if n_threads > 1:
            pool.ask()
        else:
            compiled(ProgramSpec())
        return recipe

    return kernels.together(ask)


def operands(source: str = "x", result: str = "out") -> tuple[tuple[int, str], ...]:
    """The addresses with which the argument vector of every contraction by packed weights begins."""
    return (
        (Slot.INPUT, source), (Slot.WEIGHT, "packed"), (Slot.OUTPUT, result),
        (Slot.BIAS, "bias"), (Slot.RESIDUAL, "residual"), (Slot.LIMITS, "limits"),
    )  # fmt: skip


def slots(values: dict[Slot, int]) -> list[int]:
    """The argument vector of a gather kernel."""
    out = [0] * len(Slot)
    for slot, value in values.items():
        out[slot] = value
    return out
