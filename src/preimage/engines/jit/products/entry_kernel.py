"""One call of a whole product on one thread: the kernel that is told the Python objects of its arrays and finds their data itself.

    copy the argument vectors of all steps to the stack          # threads share the template
    for patch in patches: write an array's address, or a place in the workspace, into them
    for step in steps: for task in step's tasks: step(task)

Reading the three addresses in Python would take longer than a product of 32 x 32 matrices.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Integer, Words
from preimage.engines.ir.builder import Kernel
from preimage.records import record

__all__ = ["MOST_WORDS", "PATCH_WORDS", "STEP_WORDS", "EntryArguments", "EntrySpec", "build"]

MOST_WORDS = 160  # of all steps' argument vectors
PATCH_WORDS = 3
STEP_WORDS = 3


class EntryArguments(Arguments):
    """What a call is given: the table of the product, the workspace, then the objects (0 where there is none).

    The table: numbers of words, patches and steps; the patches (number of the object, or -1 for the workspace; word; offset); the
    steps (kernel, first word, tasks); the words.
    """

    table: Words
    workspace: Integer
    objects: Integer  # the first of them


@record
class EntrySpec:
    """field: where in the object of an array the address of its data lies; triple: LLVM's name of the machine."""

    arguments: ClassVar = EntryArguments

    field: int
    triple: str

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: EntrySpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = EntryArguments.read(f, spec)
    words = f.stack("i64", MOST_WORDS)
    table = args.table
    count, patches, steps = (table.at(k).load_int() for k in range(3))
    listed = table.at(3)
    calls = listed.at(patches * PATCH_WORDS)
    template = calls.at(steps * STEP_WORDS)
    with f.loop(0, count) as k:
        words.at(k.index).store_int(template.at(k.index).load_int())
    with f.loop(0, patches) as k:
        patch = listed.at(k.index * PATCH_WORDS)
        number, to, offset = patch.load_int(), words.at(patch.at(1).load_int()), patch.at(2).load_int()
        with f.when(number < 0):
            to.store_int(args.workspace + offset)
        with f.when(number >= 0):
            item = f.arguments.at(number + EntryArguments.objects.slot).load_int()
            with f.when(item.equals(0)):
                to.store_int(0)
            with f.when(item > 0):
                to.store_int(f.pointer(item, "i64").at_bytes(spec.field).load_int())
    with f.standard_floating_point(spec.triple), f.loop(0, steps) as k:
        step = calls.at(k.index * STEP_WORDS)
        code, own = step.load_int(), words.at(step.at(1).load_int())
        with f.loop(0, step.at(2).load_int()) as task:
            f.call(code, own, task.index)
    return f.ir()
