"""Kernels that are no contractions, as the engine offers them (`engines.base.ElementwiseKernels`)."""

from preimage.engines.jit.elementwise.axis_matrix import along_axes
from preimage.engines.jit.elementwise.chain import ready_chain, run_chain
from preimage.engines.jit.elementwise.channel_sums import channel_sums
from preimage.engines.jit.elementwise.copies import in_order
from preimage.engines.jit.elementwise.line import lines, softmax
from preimage.engines.jit.elementwise.pool import pool_axis, pool_plane, unpool_axis
from preimage.engines.jit.elementwise.space import concat, max_pool_grad
from preimage.engines.jit.elementwise.take import take
from preimage.engines.jit.elementwise.tree import tree_sums

__all__ = ["JitKernels"]


class JitKernels:
    """The functions of the modules here."""

    run_chain = staticmethod(run_chain)
    ready_chain = staticmethod(ready_chain)
    channel_sums = staticmethod(channel_sums)
    lines = staticmethod(lines)
    softmax = staticmethod(softmax)
    concat = staticmethod(concat)
    pool_axis = staticmethod(pool_axis)
    pool_plane = staticmethod(pool_plane)
    unpool_axis = staticmethod(unpool_axis)
    max_pool_grad = staticmethod(max_pool_grad)
    along_axes = staticmethod(along_axes)
    in_order = staticmethod(in_order)
    take = staticmethod(take)
    tree_sums = staticmethod(tree_sums)
