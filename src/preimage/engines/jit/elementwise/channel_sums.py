"""Sums per channel of (N, C, *space) arrays, by blocks of space, in an order that the shape alone sets (channel_sums_kernel.py).

    sum over a block (sixteen partial sums, a tree) -> blocks of an image, then images: the aligned tree (preimage.reduction)

Memory order, threads and vector width change no bit; neither does the batch change an image's own sums.
"""

from __future__ import annotations

from math import prod

import numpy as np

from preimage.engines.base import Array, aligned_empty
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.elementwise.channel_sums_kernel import SumsArguments, SumsSpec
from preimage.engines.jit.elementwise.copies import ordered
from preimage.engines.jit.elementwise.kept import kept_kernel
from preimage.engines.jit.elementwise.layout import ELEMENTS, dense_order, lanes_of
from preimage.engines.jit.elementwise.tree import tree_sums
from preimage.engines.jit.runtime.link import launch_arrays
from preimage.engines.order import BLOCK
from preimage.engines.recording import constant
from preimage.settings import thread_count

__all__ = ["channel_sums", "innermost"]


def innermost(x: Array) -> bool | None:
    """True where channels lie innermost in dense memory, False where space does (C order); None for anything else."""
    order = dense_order(x.shape, x.strides, x.itemsize)
    if order is None:
        return None
    long = [k for k in order if x.shape[k] != 1]
    if long == sorted(long):
        return False
    return True if long == sorted(long, key=lambda k: (k == 1, k)) else None


def _gate_word(gate: tuple[Array, Array, float] | None) -> str:
    return "" if gate is None else "leaky_relu" if gate[2] else "relu"


def channel_sums(
    x: Array, mode: str, images: bool, g: Array | None = None, m: Array | None = None, gate: tuple[Array, Array, float] | None = None
) -> tuple[Array, ...]:  # fmt: skip
    """Sums over space, (N, C), or over images too (`images`), (C,): of x (plain), of x - m and of (x - m)^2 (squares), or
    of g and of g (x - m) (products).

    m: (C,) or (N, C). gate (of products): scale and shift of the shape of m, and a slope; g counts times the slope where (x - m) scale + shift
    is not above 0. x and g: not empty, float32 or float64, one shape. What does not lie densely, or g where it lies otherwise than x, is copied.
    """
    columns = innermost(x)
    if columns is None:
        x, columns = ordered(x, False), False
    if g is not None and innermost(g) is not columns:
        g = ordered(g, columns)
    shape, dtype = x.shape, x.dtype
    count, channels, space = shape[0], shape[1], prod(shape[2:])
    blocks = -(-space // BLOCK)
    target = kernels.current_target()
    spec = SumsSpec(ELEMENTS[dtype], lanes_of(dtype), mode, columns, 8 if target.vector_registers >= 32 else 4, _gate_word(gate))
    sums = [aligned_empty((count, blocks, channels), dtype) for _ in range(1 if mode == "plain" else 2)]
    task_elements = target.costs.elementwise.task_elements
    share = max(1, task_elements // (min(space, BLOCK) if columns else space))
    if columns:
        share = -(-share // 32) * 32
    shares = -(-channels // min(share, channels))
    m = None if m is None else np.ascontiguousarray(m)
    scale, shift = (0, 0) if gate is None else (np.ascontiguousarray(a) for a in gate[:2])
    slope = 0 if gate is None else constant(np.array([gate[2]], dtype))
    arguments = SumsArguments(
        x=x, g=0 if g is None else g, m=0 if m is None else m, scale=scale, shift=shift, slope=slope,
        m_step=channels if m is not None and m.ndim == 2 else 0, first=sums[0], second=sums[-1],
        channels=channels, space=space, block=BLOCK, blocks=blocks, share=share, shares=shares,
    )  # fmt: skip
    tasks = count * shares * (blocks if columns else 1)
    launch_arrays(kept_kernel(spec), arguments.listed(), tasks, thread_count() if x.size > task_elements else 1)
    found = [s[:, 0] if blocks == 1 else tree_sums(s) for s in sums]
    return tuple([s[0] if count == 1 else tree_sums(s[None])[0] for s in found]) if images else tuple(found)
