"""Chains of elementwise steps on arrays, compiled into one pass over memory (schedules/chain.py)."""

from __future__ import annotations

from collections.abc import Sequence

from preimage.engines.base import Array, aligned_empty
from preimage.engines.jit import llvm, threads
from preimage.engines.jit.recipe import compiled
from preimage.engines.jit.schedules.chain import Arg, ChainSpec
from preimage.settings import thread_count

__all__ = ["run_chain"]

#: Rows are shared out so that a task has at least so many elements.
TASK_ELEMENTS = 1 << 15
_ELEMENTS = {"float32": "f32", "float64": "f64"}


def run_chain(
    operands: Sequence[Array],
    kinds: Sequence[str],
    steps: Sequence[tuple[str, tuple[int, ...], tuple[float | None, ...]]],
    rows: int,
    width: int,
) -> Array:
    """The last step's values as a new C-contiguous array (rows, width).

    operands: contiguous arrays of one dtype (float32 or float64); kinds as in ChainSpec. All that a chain says is fixed before: the
    result does not depend on the number of threads.
    """
    dtype = operands[0].dtype
    element = _ELEMENTS[dtype.name]
    period = 1
    for operand, kind in zip(operands, kinds, strict=True):
        if kind == "row":
            period = operand.size
    if "column" not in kinds and "row" not in kinds:  # nothing depends on the row: cut the elements anew, into even rows
        total = rows * width
        width = min(total, 1 << 12)
        while total % width:
            width -= 1 if width <= 64 else width % 64 or 64
        rows = total // max(width, 1)
    result = aligned_empty((rows, width), dtype)
    kernel = compiled(ChainSpec(element, llvm.current_target().vector_bytes // dtype.itemsize, tuple(kinds), tuple(steps)))
    share = max(1, -(-TASK_ELEMENTS // max(width, 1)))
    args = [0] * (Arg.OPERANDS + len(operands))
    args[Arg.RESULT], args[Arg.ROWS], args[Arg.WIDTH] = result.ctypes.data, rows, width
    args[Arg.ROWS_PER_TASK], args[Arg.ROW_PERIOD] = share, period
    for number, operand in enumerate(operands):
        args[Arg.OPERANDS + number] = operand.ctypes.data
    threads.launch(kernel, threads.pack_args(*args), -(-rows // share), thread_count())
    return result
