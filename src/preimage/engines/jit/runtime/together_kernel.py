"""Several launches that do not depend on each other as one: their tasks are numbered one after another, and shared among the threads."""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Integer, Rows
from preimage.engines.ir.builder import Kernel
from preimage.engines.jit.runtime.steps_kernel import Step
from preimage.records import record

__all__ = ["TogetherArguments", "TogetherSpec", "build"]


class TogetherArguments(Arguments):
    """How the vector begins; so many launches (`Step`) follow, then their own vectors."""

    count: Integer


@record
class TogetherSpec:
    """There is one such kernel."""

    arguments: ClassVar = TogetherArguments
    controls: ClassVar[bool] = True

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: TogetherSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = TogetherArguments.read(f, spec, at_entry=True)
    launches = Rows(Step, f.arguments.at(len(TogetherArguments.fields)))
    with f.loop(0, args.count, carry=[f.task], once=True) as k:
        launch, left = launches[k.index], k.carry[0]
        code, own, tasks = launch.code, f.arguments.at(launch.words), launch.tasks
        with f.when(left.below(tasks)):
            f.call(code, own, left)
        k.carry = [left - tasks]
    return f.ir()
