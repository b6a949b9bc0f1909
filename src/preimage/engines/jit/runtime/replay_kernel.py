"""The kernel that runs recorded steps: any number of kernels, one after another, in one call from Python.

    copy the argument vectors of all steps to this call's memory
    for patch in patches: write an address of this call into them
    for step in steps:
        shared, and there is a pool:  the pool runs its tasks
        else:                         for task in its tasks: step(task)

The table (patches, steps, vectors) never changes and knows no address of a call, so that several threads may run it at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from preimage.engines.ir import floating_point
from preimage.engines.ir.arguments import Arguments, Code, Column, Integer, Record, Words

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


class RecordedStep(Record):
    """A kernel, the first word of its vector, its tasks, and how many workers may share them."""

    code: Column
    words: Column
    tasks: Column
    shared: Column


@dataclass(frozen=True, slots=True)
class ReplaySpec:
    """There is one such kernel. triple: LLVM's name of the machine."""

    arguments: ClassVar = ReplayArguments

    triple: str

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: ReplaySpec) -> str:
    """The kernel's IR text. In capitals: the words of `ReplayArguments`."""
    words = "\n".join(
        f"  %p.{name} = getelementptr i64, ptr %args, i64 {slot}\n  %{name} = load i64, ptr %p.{name}"
        for name, slot in ((name.upper(), field.slot) for name, field in ReplayArguments.fields.items())
    )
    declared = "\n".join(floating_point.declarations(spec.triple))
    standard = "\n".join("  " + line for line in floating_point.set_standard(spec.triple))
    addresses = len(ReplayArguments.fields)
    return f"""
{declared}
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define void @kernel(ptr %args, i64 %task, i64 %thread) nounwind {{
entry:
{words}
{standard}
  %vectors = inttoptr i64 %VECTORS to ptr
  %own = inttoptr i64 %OWN to ptr
  %patches = inttoptr i64 %PATCHES to ptr
  %steps = inttoptr i64 %STEPS to ptr
  %run = inttoptr i64 %RUN to ptr
  %pool = inttoptr i64 %POOL to ptr
  %memories = getelementptr i64, ptr %args, i64 {addresses}
  %bytes = shl i64 %WORDS, 3
  call void @llvm.memcpy.p0.p0.i64(ptr align 8 %own, ptr align 8 %vectors, i64 %bytes, i1 false)
  br label %patching
patching:
  %k = phi i64 [ 0, %entry ], [ %k.1, %patch ]
  %more = icmp slt i64 %k, %N_PATCHES
  br i1 %more, label %patch, label %stepping
patch:
  %row = getelementptr [{len(ReplayPatch.fields)} x i64], ptr %patches, i64 %k
  %word = load i64, ptr %row
  %row.1 = getelementptr i64, ptr %row, i64 {ReplayPatch.memory.slot}
  %memory = load i64, ptr %row.1
  %row.2 = getelementptr i64, ptr %row, i64 {ReplayPatch.offset.slot}
  %offset = load i64, ptr %row.2
  %base.p = getelementptr i64, ptr %memories, i64 %memory
  %base = load i64, ptr %base.p
  %address = add i64 %base, %offset
  %to = getelementptr i64, ptr %own, i64 %word
  store i64 %address, ptr %to
  %k.1 = add i64 %k, 1
  br label %patching
stepping:
  %s = phi i64 [ 0, %patching ], [ %s.1, %stepped ]
  %going = icmp slt i64 %s, %N_STEPS
  br i1 %going, label %step, label %end
step:
  %line = getelementptr [{len(RecordedStep.fields)} x i64], ptr %steps, i64 %s
  %code.i = load i64, ptr %line
  %code = inttoptr i64 %code.i to ptr
  %line.1 = getelementptr i64, ptr %line, i64 {RecordedStep.words.slot}
  %first = load i64, ptr %line.1
  %line.2 = getelementptr i64, ptr %line, i64 {RecordedStep.tasks.slot}
  %tasks = load i64, ptr %line.2
  %line.3 = getelementptr i64, ptr %line, i64 {RecordedStep.shared.slot}
  %shared = load i64, ptr %line.3
  %vector = getelementptr i64, ptr %own, i64 %first
  %fewer = icmp slt i64 %shared, %WORKERS
  %workers = select i1 %fewer, i64 %shared, i64 %WORKERS
  %joined = icmp sgt i64 %workers, 0
  br i1 %joined, label %together, label %alone
together:
  %failed = call i64 %run(ptr %pool, ptr %code, ptr %vector, i64 %tasks, i64 %workers)
  %done = icmp eq i64 %failed, 0
  br i1 %done, label %stepped, label %alone
alone:
  %t = phi i64 [ 0, %step ], [ 0, %together ], [ %t.1, %one ]
  %left = icmp slt i64 %t, %tasks
  br i1 %left, label %one, label %stepped
one:
  call void %code(ptr %vector, i64 %t, i64 0)
  %t.1 = add i64 %t, 1
  br label %alone
stepped:
  %s.1 = add i64 %s, 1
  br label %stepping
end:
  {floating_point.restore(spec.triple)}
  ret void
}}
"""
