"""The kernel that runs recorded steps: any number of kernels, one after another, in one call from Python.

    copy the argument vectors of all steps to this call's memory
    for patch in patches: write an address of this call into them
    for step in steps:
        shared, and there is a pool:  the pool runs its tasks
        else:                         for task in its tasks: step(task)

The table (patches, steps, vectors) never changes and knows no address of a call, so that several threads may run it at once.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Code, Column, Integer, Record, Rows, Words
from preimage.engines.ir.builder import Ptr
from preimage.engines.ir.functions import Function, module
from preimage.engines.jit.runtime.pool_ir import WHOLE_WORK
from preimage.engines.jit.runtime.steps_kernel import Step, run_tasks
from preimage.records import record

__all__ = ["RecordedStep", "ReplayArguments", "ReplayPatch", "ReplaySpec", "build"]


class ReplayArguments(Arguments):
    """How the vector begins; the addresses of the call's memories follow."""

    vectors: Words  # the steps' argument vectors, with 0 where an address comes in
    words: Integer  # of all of them
    patches: Words
    n_patches: Integer
    steps: Words
    n_steps: Integer
    own: Words  # where this call's vectors lie
    run: Code  # of the pool; 0: none
    pool: Integer
    workers: Integer


class ReplayPatch(Record):
    """The address of a place in one of the call's memories, to be written into a word."""

    word: Column
    memory: Column
    offset: Column


class RecordedStep(Step):
    """A step whose tasks threads may share."""

    shared: Column  # by how many workers


@record
class ReplaySpec:
    """There is one such kernel. triple: LLVM's name of the machine."""

    arguments: ClassVar = ReplayArguments

    triple: str

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: ReplaySpec) -> str:
    """The kernel's IR text."""
    f = Function("kernel", "void", args="ptr", task="i64", thread="i64")
    f.thread = f.i64(0)
    args = ReplayArguments.read(f, spec, at_entry=True)
    own, memories = args.own, f.parameter("args").at(len(ReplayArguments.fields))
    alone = f.cell(1)
    with f.standard_floating_point(spec.triple):
        f.copy_words(own, args.vectors, args.words)
        patches = Rows(ReplayPatch, args.patches)
        with f.loop(0, args.n_patches) as k:
            patch = patches[k.index]
            own.at(patch.word).store_int(memories.at(patch.memory).load_int() + patch.offset)
        steps = Rows(RecordedStep, args.steps)
        with f.loop(0, args.n_steps) as k:
            _run_step(f, args, steps[k.index], alone)
    return module([f])


def _run_step(f: Function, args: ReplayArguments, step: RecordedStep, alone: Ptr) -> None:
    """A step's tasks: shared with the pool's workers, else (or where the pool refuses) one after another here."""
    code, tasks, vector = step.code, step.tasks, args.own.at(step.words)
    workers = step.shared.minimum(args.workers)
    alone.store_int(1)
    with f.when(workers > 0):
        pool, kernel = f.pointer(args.pool, "i64"), f.pointer(code, "i64")
        alone.store_int(f.call_address(args.run, pool, kernel, vector, tasks, workers, f.i64(WHOLE_WORK)))
    with f.when(alone.load_int().equals(0).negated()):
        run_tasks(f, code, vector, tasks)
