"""A whole program as a built-in function of CPython: it takes the arrays' objects and finds their data itself.

    copy the argument vectors of all steps to the stack          # calls share the template
    for patch in patches: write an array's address, or a place in the workspace, into them
    if an address is not a multiple of the element's size: return -1
    for step in steps: for task in step's tasks: step(task)      # without the interpreter's lock, where that takes long; shared with the
                                                                 # pool's workers, where there are to be any
    return the flag                                              # the first word of the workspace, if the program sets one

A call through ctypes, with the addresses of three arrays read in Python, would take longer than a product of 32 x 32 matrices.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Column, Record, Rows
from preimage.engines.ir.builder import LINE_BYTES, Int, Ptr
from preimage.engines.ir.functions import Function, module
from preimage.engines.jit.runtime.pool_ir import WORKERS
from preimage.engines.jit.runtime.steps_kernel import Step, run_tasks
from preimage.records import record

__all__ = ["MOST_WORDS", "OWN_BYTES", "FunctionSpec", "Head", "Patch", "build"]

MOST_WORDS = 512  # of all steps' argument vectors
OWN_BYTES = 4096  # of a workspace that a function has on its stack


class Head(Record):
    """What a function knows of its program. So many patches and steps, and the template of the vectors, follow."""

    workspace: Column  # the address of the memory that is used where a call gives no workspace; 0: it is the function's own
    nothing: Column  # the object None
    flagged: Column  # whether the program sets a flag
    releases: Column  # whether other Python threads run meanwhile
    make_int: Column  # PyLong_FromLong
    save_thread: Column  # PyEval_SaveThread
    restore_thread: Column  # PyEval_RestoreThread
    run: Column  # the pool's function of that name, where threads share tasks; else 0
    pool: Column  # where the address of the pool lies
    workers: Column  # that may take part
    work: Column  # of a step, see `pool_ir`
    patches: Column
    steps: Column
    words: Column


class Patch(Record):
    """An address to be written into the argument vectors: that of an argument's data (of the first, the workspace, or None) and an offset;
    0 and the offset for an argument that is None or is not given.
    """

    argument: Column
    word: Column
    offset: Column
    below: Column  # an element's size less one: the address has none of these bits


class FunctionArguments(Arguments):
    """The kernel is no task of a pool: CPython calls f(self, arguments, their number), where self is an int64 array, `Head` and its lists."""


@record
class FunctionSpec:
    """field: where in the object of an array the address of its data lies; triple: LLVM's name of the machine."""

    arguments: ClassVar = FunctionArguments

    field: int
    triple: str

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: FunctionSpec) -> str:
    """The kernel's IR text."""
    f = Function("kernel", "i64", table="ptr", objects="ptr", count="i64")
    words, workspace, bits = f.stack("i64", MOST_WORDS), f.cell(0), f.cell(0)
    f.thread = f.i64(0)
    table = f.pointer(f.parameter("table").at_bytes(spec.field).load_int(), "i64")
    head, lists = Head.read(table), table.at(len(Head.fields))
    n_patches, n_steps, none = head.patches, head.steps, head.nothing
    patches, steps = Rows(Patch, lists), Rows(Step, lists.at(n_patches * len(Patch.fields)))
    f.copy_words(words, lists.at(n_patches * len(Patch.fields) + n_steps * len(Step.fields)), head.words)
    objects, n_objects = f.parameter("objects"), f.number("count")
    own = f.stack("i64", (OWN_BYTES + LINE_BYTES) // 8)
    workspace.store_int(head.workspace.equals(0).pick((own.address() + (LINE_BYTES - 1)) & -LINE_BYTES, head.workspace))
    _put_data(f, spec, workspace, objects.load_int(), none)
    with f.loop(0, n_patches) as k:
        patch = patches[k.index]
        number, word = patch.argument, words.at(patch.word)
        word.store_int(0)
        with f.when(number.equals(0)):
            word.store_int(workspace.load_int())
        with f.when((number > 0) & (number < n_objects)):
            _put_data(f, spec, word, objects.at(number).load_int(), none)
        address = word.load_int() + patch.offset
        word.store_int(address)
        bits.store_int(bits.load_int() | (address & patch.below))
    with f.when(bits.load_int() > 0):
        f.give(f.call_address(head.make_int, f.i64(-1)))
    f.give(f.call_address(head.make_int, _run(f, spec, head, steps, words, f.pointer(workspace.load_int(), "i64"))))
    return module([f])


def _put_data(f: Function, spec: FunctionSpec, to: Ptr, item: Int, none: Int) -> None:
    """Put the address of an array's data into a word, unless there is None instead of the array."""
    with f.when(item.equals(none).negated()):
        to.store_int(f.pointer(item, "i64").at_bytes(spec.field).load_int())


def _run(f: Function, spec: FunctionSpec, head: Head, steps: Rows[Step], words: Ptr, flag: Ptr) -> Int:
    """Run the steps; the flag that they left, or 0."""
    n_steps, flagged, releases = head.steps, head.flagged > 0, head.releases > 0
    saved, found = f.cell(0), f.cell(0)
    with f.when(flagged):
        flag.store_int(0)
    with f.when(releases):
        saved.store_int(f.call_address(head.save_thread))
    with f.standard_floating_point(spec.triple), f.loop(0, n_steps) as k, f.when(found.load_int().equals(0)):
        _run_step(f, head, steps[k.index], words, found)
    with f.when(releases):
        f.call_address(head.restore_thread, saved.load_int())
    with f.when(flagged & found.load_int().equals(0)):
        found.store_int(flag.load_int())
    return found.load_int()


def _run_step(f: Function, head: Head, step: Step, words: Ptr, failed: Ptr) -> None:
    """A step's tasks, by several threads where they may. failed: -1 where there is no pool, it is another process's, or it has too few
    workers: a launch in Python makes one, or asks the system for them.
    """
    code, own, tasks = step.code, words.at(step.words), step.tasks
    workers = head.workers.minimum(tasks - 1)
    with f.when(workers > 0):
        place = f.pointer(head.pool, "i64").load_int()
        failed.store_int(-1)
        with f.when(place.equals(0).negated()):
            pool = f.pointer(place, "i64")
            with f.when((pool.at_bytes(WORKERS).load_int() < workers).negated()):
                refused = f.call_address(head.run, pool, f.pointer(code, "i64"), own, tasks, workers, head.work)
                failed.store_int(f.i64(0) - refused)
    with f.when((workers > 0).negated()):
        run_tasks(f, code, own, tasks)
