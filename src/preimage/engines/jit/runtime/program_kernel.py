"""The kernel that runs a whole program on one thread, in one call from Python:

    for step in steps: for task in step's tasks: step(task)

Its argument vector is one piece of memory: the addresses of the call's arrays, then parts that never change. The kernel first copies
the addresses into the steps' own argument vectors.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Column, Record, Rows
from preimage.engines.ir.builder import Kernel
from preimage.engines.jit.runtime.steps_kernel import Step, run_steps
from preimage.records import record

__all__ = ["HEAD", "Counts", "Patch", "ProgramSpec", "build_program"]

HEAD = 16  # words for addresses at the start of a program's vector


class Counts(Record):
    """What follows the addresses."""

    patches: Column
    steps: Column


class Patch(Record):
    """An address to be copied into the argument vector of a step."""

    address: Column  # number of the address
    word: Column  # where it is wanted


class ProgramArguments(Arguments):
    """A program's vector has no fixed length: `HEAD` addresses, the counts, so many patches and steps, then the steps' own vectors."""


@record
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
    run_steps(f, spec.triple, steps, n_steps, words)
    return f.ir()
