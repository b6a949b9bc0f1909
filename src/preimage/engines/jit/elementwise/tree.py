"""Sums along an axis as the aligned binary tree (tree_kernel.py)."""

from __future__ import annotations

from preimage.engines.base import Array, aligned_empty
from preimage.engines.jit.elementwise.kept import kept_kernel
from preimage.engines.jit.elementwise.layout import ELEMENTS, costs, lanes_of
from preimage.engines.jit.elementwise.tree_kernel import NODE, TreeArguments, TreeSpec
from preimage.engines.jit.runtime.link import launch_arrays
from preimage.settings import thread_count

__all__ = ["tree_sums"]


def tree_sums(x: Array) -> Array:
    """`preimage.reduction.tree_sum` along axis 1 of a dense array (outer, count, width), not empty, float32 or float64; a sum of -0 is +0."""
    outer, count, width = x.shape
    lanes = lanes_of(x.dtype)
    share = min(-(-max(1, costs().softmax_task_elements // count) // lanes) * lanes, -(-width // lanes) * lanes)
    shares = -(-width // share)
    made = aligned_empty((outer, width), x.dtype)
    arguments = TreeArguments(
        x=x, result=made, count=count, width=width, share=share, shares=shares, levels=(count // NODE).bit_length()
    )
    tasks = outer * shares
    launch_arrays(kept_kernel(TreeSpec(ELEMENTS[x.dtype], lanes)), arguments.listed(), tasks, thread_count() if tasks > 1 else 1)
    return made
