"""DynamicQuantizeLinear by two launches (range_kernel.py)."""

from __future__ import annotations

import numpy as np

from preimage.engines.base import Array, aligned_empty
from preimage.engines.jit.elementwise.copies import densely
from preimage.engines.jit.elementwise.kept import kept_kernel
from preimage.engines.jit.elementwise.layout import costs, lanes_of, placed_empty
from preimage.engines.jit.products.integers.range_kernel import RangeArguments, RangeSpec
from preimage.engines.jit.runtime.link import launch_arrays
from preimage.engines.jit.runtime.together import Launched
from preimage.settings import thread_count

__all__ = ["dynamic", "range_launches"]


def dynamic(x: Array) -> tuple[Array, Array, Array] | None:
    """As `engines.integers.dynamic`; the values lie in memory as x does."""
    found = densely(x)
    if found is None:
        return None
    x, order = found
    back = tuple([int(k) for k in np.argsort(order)])
    q = placed_empty(tuple([x.shape[k] for k in order]), back, np.dtype(np.uint8))
    scale, zero = aligned_empty((), x.dtype), aligned_empty((), np.dtype(np.uint8))
    threads = thread_count() if x.size >= costs().least_shared else 1
    for one in range_launches(x, q, scale, zero):
        launch_arrays(one.kernel, one.words, one.tasks, threads if one.tasks > 1 else 1)
    return q, scale, zero


def range_launches(x: Array, q: Array, scale: Array, zero: Array) -> list[Launched]:
    """The two launches that fill q, scale and zero; x and q lie alike, without gaps."""
    lanes = lanes_of(x.dtype)
    share = -(-max(costs().task_elements, -(-x.size // 64)) // lanes) * lanes
    tasks = -(-x.size // share)
    parts = aligned_empty((2 * tasks,), x.dtype)
    arguments = RangeArguments(x=x, parts=parts, q=q, scale=scale, zero=zero, size=x.size, share=share, tasks=tasks)
    return [Launched(kept_kernel(RangeSpec(phase, lanes)), arguments.listed(), tasks) for phase in ("find", "quantise")]
