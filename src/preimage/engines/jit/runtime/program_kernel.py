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
from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Code, Column, Integer, Record, Records, Rows
from preimage.engines.ir.builder import Int, Kernel, Ptr
from preimage.engines.jit.index.tables import Slot
from preimage.engines.jit.packing.weights_kernel import WeightArguments

__all__ = [
    "HEAD",
    "Counts",
    "Patch",
    "Piece",
    "ProgramSpec",
    "Step",
    "SweepArguments",
    "SweepSpec",
    "build_program",
    "build_sweep",
]

HEAD = 16  # words for addresses at the start of a program's vector


class Counts(Record):
    """What follows the addresses."""

    patches: Column
    steps: Column


class Patch(Record):
    """An address to be copied into the argument vector of a step."""

    address: Column  # number of the address
    word: Column  # where it is wanted


class Step(Record):
    """A kernel and its tasks."""

    kernel: Column
    words: Column  # first word of its argument vector
    tasks: Column


class ProgramArguments(Arguments):
    """A program's vector has no fixed length: `HEAD` addresses, the counts, so many patches and steps, then the steps' own vectors."""


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """There is one program kernel; its arguments say what it runs. triple: LLVM's name of the machine."""

    arguments: ClassVar = ProgramArguments
    controls: ClassVar[bool] = True

    triple: str

    def ir(self) -> str:
        """The text of the kernel."""
        return build_program(self)


def build_program(spec: ProgramSpec) -> str:
    f = Kernel()
    words = f.arguments
    counts = Counts.read(words.at(HEAD))
    n_patches, n_steps = counts.patches, counts.steps
    patches = Rows(Patch, words.at(HEAD + len(Counts.fields)))
    with f.loop(0, n_patches) as k:
        patch = patches[k.index]
        words.at(patch.word).store_int(words.at(patch.address).load_int())
    steps = patches.followed_by(n_patches, Step)
    with f.standard_floating_point(spec.triple), f.loop(0, n_steps) as k:
        step = steps[k.index]
        code, own = step.kernel, words.at(step.words)
        with f.loop(0, step.tasks) as task:
            f.call(code, own, task.index)
    return f.ir()


class Piece(Record):
    """A piece of the weights; offsets in bytes."""

    source: Column  # offset in the weights
    columns: Column
    column_table: Column  # offset in the table of columns
    list_table: Column  # offset in the table of lists
    inside: Column  # offset in the block


class SweepArguments(Arguments):
    """One task is one block of output channels. The vectors of the two kernels follow."""

    pack: Code
    pack_words: Integer  # first word of its vector
    multiply: Code
    multiply_words: Integer
    chunks: Integer
    packed_bytes: Integer  # of a thread
    partial_bytes: Integer  # of a thread: sums that wait in memory between pieces
    pieces: Integer
    alignments: Integer  # places of the weights in a cache line for which there are pieces, 1 or 4
    piece_table: Records[Piece]


@dataclass(frozen=True, slots=True)
class SweepSpec:
    """There is one sweep kernel."""

    arguments: ClassVar = SweepArguments
    controls: ClassVar[bool] = True

    def ir(self) -> str:
        """The text of the kernel."""
        return build_sweep(self)


def build_sweep(spec: SweepSpec) -> str:
    f = Kernel()
    args, weights = SweepArguments.read(f, spec), WeightArguments
    words, chunks = f.arguments, args.chunks
    # The threads share the arguments, so each makes itself a copy that it may change.
    pack, multiply = f.stack("i64", len(weights.fields)), f.stack("i64", len(Slot))
    copies = (pack, SweepArguments.pack_words, len(weights.fields)), (multiply, SweepArguments.multiply_words, len(Slot))
    for own, first, count in copies:
        given = words.at(args.word(first))
        with f.loop(0, count) as k:
            own.at(k.index).store_int(given.at(k.index).load_int())

    def moved(where: Ptr, by: Int) -> Int:
        value = where.load_int() + by
        where.store_int(value)
        return value

    result = moved(pack.at(weights.result.slot), f.thread * args.packed_bytes)
    weight = moved(multiply.at(Slot.WEIGHT), f.thread * args.packed_bytes)
    moved(multiply.at(Slot.PARTIAL), f.thread * args.partial_bytes)
    source, table = pack.at(weights.source.slot).load_int(), pack.at(weights.table.slot).load_int()
    lists = multiply.at(Slot.LISTS).load_int()
    way = source // 16 % args.alignments
    pieces = args.piece_table.at(way * args.pieces)
    with f.loop(0, args.pieces) as k:
        piece = pieces[k.index]
        inside = piece.inside
        pack.at(weights.source.slot).store_int(source + piece.source)
        pack.at(weights.columns.slot).store_int(piece.columns)
        pack.at(weights.table.slot).store_int(table + piece.column_table)
        pack.at(weights.result.slot).store_int(result - inside)
        multiply.at(Slot.WEIGHT).store_int(weight - inside)
        multiply.at(Slot.LISTS).store_int(lists + piece.list_table)
        f.call(args.pack, pack, f.task)
        with f.loop(0, chunks) as chunk:
            f.call(args.multiply, multiply, f.task * chunks + chunk.index)
    return f.ir()
