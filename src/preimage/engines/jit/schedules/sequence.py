"""Kernels that call kernels: a whole recipe as one call, and the packing of weights just before their use.

    program     for step in steps: for task in step's tasks: step(task)       one thread, one call from Python
    sweep       pack this block of weights; for chunk in chunks: multiply     the block stays in the cache in between

A call's argument vector is one piece of memory: the addresses of the call's arrays, then parts that never change. The
program first copies the addresses to where the steps' own argument vectors want them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from preimage.engines.jit.emit import Kernel

__all__ = ["HEAD", "ProgramSpec", "Sweep", "SweepSpec", "build_program", "build_sweep"]

HEAD = 16  # words for addresses at the start of a program's arguments, then: patches, steps
STEP_WORDS = 3


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """There is one program kernel; its arguments say what it runs.

    Words: HEAD addresses; number of patches, number of steps; per patch (number of the address, word to write it to); per
    step (kernel, first word of its arguments, tasks).
    """


def build_program(spec: ProgramSpec) -> str:
    del spec
    f = Kernel()
    words = f.arguments
    patches, steps = words.at(HEAD).load_int(), words.at(HEAD + 1).load_int()
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


@dataclass(frozen=True, slots=True)
class SweepSpec:
    """There is one sweep kernel."""


def build_sweep(spec: SweepSpec) -> str:
    del spec
    f = Kernel()
    words, chunks = f.arguments, f.int_arg(Sweep.CHUNKS)
    f.call(f.int_arg(Sweep.PACK), words.at(f.int_arg(Sweep.PACK_WORDS)), f.task)
    code, own = f.int_arg(Sweep.MULTIPLY), words.at(f.int_arg(Sweep.MULTIPLY_WORDS))
    with f.loop(0, chunks) as chunk:
        f.call(code, own, f.task * chunks + chunk.index)
    return f.ir()
