"""Kernels that call kernels: a whole recipe as one call, and the packing of weights just before their use.

    program     for step in steps: for task in step's tasks: step(task)       one thread, one call from Python
    sweep       for piece in pieces:                                          a task is one block of output channels
                    pack this piece of the block's weights                    into memory of the thread's own
                    for chunk in chunks: multiply                             while the piece is in the cache

A call's argument vector is one piece of memory: the addresses of the call's arrays, then parts that never change. The
program first copies the addresses to where the steps' own argument vectors want them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from preimage.engines.ir.builder import Int, Kernel, Ptr
from preimage.engines.jit.index.tables import Slot
from preimage.engines.jit.packing.weights_kernel import WeightSlot

__all__ = ["HEAD", "PIECE_WORDS", "ProgramSlot", "ProgramSpec", "Sweep", "SweepSpec", "build_program", "build_sweep"]

HEAD = 16  # words for addresses at the start of a program's arguments, then: patches, steps
STEP_WORDS = 3


class ProgramSlot(IntEnum):
    """What stands behind the addresses; the lists follow: see `ProgramSpec`."""

    PATCHES = HEAD
    STEPS = HEAD + 1


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """There is one program kernel; its arguments say what it runs.

    Words: HEAD addresses; number of patches, number of steps; per patch (number of the address, word to write it to); per
    step (kernel, first word of its arguments, tasks).
    """

    arguments: ClassVar[type[IntEnum]] = ProgramSlot
    controls: ClassVar[bool] = True

    def ir(self) -> str:
        """The text of the kernel."""
        return build_program(self)


def build_program(spec: ProgramSpec) -> str:
    del spec
    f = Kernel()
    words = f.arguments
    patches, steps = words.at(ProgramSlot.PATCHES).load_int(), words.at(ProgramSlot.STEPS).load_int()
    table = words.at(HEAD + 2)
    with f.loop(0, patches) as k:
        patch = table.at(k.index * 2)
        words.at(patch.at(1).load_int()).store_int(words.at(patch.load_int()).load_int())
    listed = table.at(patches * 2)
    with f.loop(0, steps) as k:
        step = listed.at(k.index * STEP_WORDS)
        code, own = step.load_int(), words.at(step.at(1).load_int())
        with f.loop(0, step.at(2).load_int()) as task:
            f.call(code, own, task.index)
    return f.ir()


class Sweep(IntEnum):
    """Arguments of a sweep; one task is one block of output channels."""

    PACK = 0  # kernel
    PACK_WORDS = 1  # first word of its arguments
    MULTIPLY = 2
    MULTIPLY_WORDS = 3
    CHUNKS = 4
    PACKED_BYTES = 5  # of a thread
    PARTIAL_BYTES = 6  # the same, of sums that are put down between pieces
    PIECES = 7
    ALIGNMENTS = 8  # places of the weights in a cache line for which there are pieces, 1 or 4
    PIECE_TABLE = 9  # per piece: offset in the weights, columns, offsets in the tables of columns and lists, in the block


PIECE_WORDS = 5


@dataclass(frozen=True, slots=True)
class SweepSpec:
    """There is one sweep kernel."""

    arguments: ClassVar[type[IntEnum]] = Sweep
    controls: ClassVar[bool] = True

    def ir(self) -> str:
        """The text of the kernel."""
        return build_sweep(self)


def build_sweep(spec: SweepSpec) -> str:
    del spec
    f = Kernel()
    words, chunks = f.arguments, f.int_arg(Sweep.CHUNKS)
    # The threads share the arguments, so each makes itself a copy that it may change.
    pack, multiply = f.stack("i64", len(WeightSlot)), f.stack("i64", len(Slot))
    for own, first, count in ((pack, Sweep.PACK_WORDS, len(WeightSlot)), (multiply, Sweep.MULTIPLY_WORDS, len(Slot))):
        given = words.at(f.int_arg(first))
        with f.loop(0, count) as k:
            own.at(k.index).store_int(given.at(k.index).load_int())

    def moved(where: Ptr, by: Int) -> Int:
        value = where.load_int() + by
        where.store_int(value)
        return value

    result = moved(pack.at(WeightSlot.RESULT), f.thread * f.int_arg(Sweep.PACKED_BYTES))
    weight = moved(multiply.at(Slot.WEIGHT), f.thread * f.int_arg(Sweep.PACKED_BYTES))
    moved(multiply.at(Slot.PARTIAL), f.thread * f.int_arg(Sweep.PARTIAL_BYTES))
    source, table = pack.at(WeightSlot.SOURCE).load_int(), pack.at(WeightSlot.TABLE).load_int()
    lists = multiply.at(Slot.LISTS).load_int()
    way = source // 16 % f.int_arg(Sweep.ALIGNMENTS)
    pieces = f.ptr_arg(Sweep.PIECE_TABLE, "i64").at(way * f.int_arg(Sweep.PIECES) * PIECE_WORDS)
    with f.loop(0, f.int_arg(Sweep.PIECES)) as piece:
        entry = pieces.at(piece.index * PIECE_WORDS)
        inside = entry.at(4).load_int()
        pack.at(WeightSlot.SOURCE).store_int(source + entry.load_int())
        pack.at(WeightSlot.COLUMNS).store_int(entry.at(1).load_int())
        pack.at(WeightSlot.TABLE).store_int(table + entry.at(2).load_int())
        pack.at(WeightSlot.RESULT).store_int(result - inside)
        multiply.at(Slot.WEIGHT).store_int(weight - inside)
        multiply.at(Slot.LISTS).store_int(lists + entry.at(3).load_int())
        f.call(f.int_arg(Sweep.PACK), pack, f.task)
        with f.loop(0, chunks) as chunk:
            f.call(f.int_arg(Sweep.MULTIPLY), multiply, f.task * chunks + chunk.index)
    return f.ir()
