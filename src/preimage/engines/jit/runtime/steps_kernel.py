"""What every kernel that calls other kernels shares: a table of steps, and the loop that runs them.

Whole programs (`function_kernel`, `program_kernel`), recorded ones (`replay_kernel`) and launches made at once (`together_kernel`) differ
in where a step's argument vector comes from; each is then a row of such a table and so many words behind it.
"""

from __future__ import annotations

from preimage.engines.ir.arguments import Column, Record, Rows
from preimage.engines.ir.builder import Int, Kernel, Ptr

__all__ = ["Step", "run_each", "run_steps", "run_tasks"]


class Step(Record):
    """A kernel and its tasks."""

    code: Column
    words: Column  # first word of its argument vector
    tasks: Column


def run_steps(f: Kernel, triple: str, steps: Rows[Step], count: Int, vectors: Ptr) -> None:
    """Run so many steps, one after another, on this thread. vectors: where words are counted from; triple: LLVM's name of the machine."""
    with f.standard_floating_point(triple):
        run_each(f, steps, count, vectors)


def run_each(f: Kernel, steps: Rows[Step], count: Int, vectors: Ptr) -> None:
    """The same in the mode that is set."""
    with f.loop(0, count) as k:
        step = steps[k.index]
        code, own = step.code, vectors.at(step.words)
        run_tasks(f, code, own, step.tasks)


def run_tasks(f: Kernel, code: Int, vector: Ptr, tasks: Int) -> None:
    """Run all tasks of one step on this thread."""
    with f.loop(0, tasks) as task:
        f.call(code, vector, task.index)
