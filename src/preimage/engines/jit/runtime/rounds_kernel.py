"""Launches that are made round after round, each time further along in memory: the steps of a recurrence in one call.

copy the launches' vectors to memory of this call
for every round:
    for every launch: its tasks, one after another, on this thread
    for every advance: a word of the vectors += bytes
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Column, Integer, Record, Rows, Words
from preimage.engines.ir.builder import Kernel
from preimage.engines.jit.runtime.steps_kernel import Step, run_each
from preimage.records import record

__all__ = ["Advance", "RoundsArguments", "RoundsSpec", "build"]


class Advance(Record):
    """By how much an address moves on from round to round."""

    word: Column  # of the vectors
    bytes: Column


class RoundsArguments(Arguments):
    """How the vector begins; so many launches (`Step`) follow, then advances, then the launches' own vectors, of so many words."""

    rounds: Integer
    launches: Integer
    advances: Integer
    words: Integer
    own: Words  # where this call's vectors lie


@record
class RoundsSpec:
    """There is one such kernel."""

    arguments: ClassVar = RoundsArguments
    controls: ClassVar[bool] = True

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: RoundsSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = RoundsArguments.read(f, spec, at_entry=True)
    f.thread = f.i64(0)  # the launches have memory of their own, for one thread
    behind = args.launches * len(Step.fields) + len(RoundsArguments.fields)
    launches = Rows(Step, f.arguments.at(len(RoundsArguments.fields)))
    advances, vectors = Rows(Advance, f.arguments.at(behind)), f.arguments.at(args.advances * len(Advance.fields) + behind)
    with f.loop(0, args.words) as k:
        args.own.at(k.index).store_int(vectors.at(k.index).load_int())
    with f.loop(0, args.rounds):
        run_each(f, launches, args.launches, args.own)
        with f.loop(0, args.advances) as k:
            advance = advances[k.index]
            place = args.own.at(advance.word)
            place.store_int(place.load_int() + advance.bytes)
    return f.ir()
