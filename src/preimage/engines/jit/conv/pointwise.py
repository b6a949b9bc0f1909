"""1x1 layers whose channels lie outermost: a matrix product for every image and group, with the weights as its left factor.

    result[n, g] (channels x positions) = weights[g] (channels x terms) @ input[n, g] (terms x positions)

Nothing is transposed: `products/tile_kernel` broadcasts weights to vectors of neighbouring positions.
"""

from __future__ import annotations

from dataclasses import replace

from preimage.engines.decisions import declare_all
from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.jit.index.taps import gather_axes, merge_axes
from preimage.engines.jit.products.lower import lower_product
from preimage.engines.jit.products.request import ProductRequest, Side
from preimage.engines.jit.program import Program
from preimage.engines.jit.request import ConvRequest
from preimage.records import record

__all__ = ["Pointwise", "branches", "lower_pointwise", "pointwise"]

branches = declare_all(
    "jit.pointwise",
    {
        "taken": "a 1x1 layer of channels-first arrays is a matrix product for every image and group",
        "refused.taps": "a matrix product refused: not every output position reads the one input position under it",
        "refused.apart": "a matrix product refused: positions, or the results of images and groups, lie apart",
        "refused.few_positions": "a matrix product refused: the positions do not fill a vector",
        "refused.dearer": "a matrix product refused: another strategy costs less",
        "groups.one": "its channels are one group",
        "groups.several": "its channels are several groups",
    },
)


@record
class Pointwise:
    """The product that a 1x1 layer is, and its modelled cycles."""

    product: ProductRequest
    cost: float


def pointwise(r: ConvRequest) -> Pointwise | str:
    """The product, or why there is none."""
    g, item = r.geometry, ELEMENT_BYTES[r.element]
    if any(size > 1 for size in (*g.kernel_size, *g.stride)) or any(side for pair in g.padding for side in pair):
        return _refused("taps", "not every output position reads the one input position under it")
    axes = gather_axes(g, r.contraction)
    spatial, ins, outs = merge_axes(axes[1:], list(r.in_strides[2:]), list(r.out_strides[2:]))
    if len(spatial) != 1 or ins[0] != item or outs[0] != item:
        return _refused("apart", "positions are not neighbours in memory, one after another")
    if spatial[0].out_size > spatial[0].in_size:  # a transposed convolution with output_padding
        return _refused("taps", "some output positions lie behind the last input position")
    if r.prepared or r.tile is not None:
        return "weights come packed for a tile of the direct strategy"
    if r.finish.residual:
        return "tiles overlap, and a residual may lie where the result is written"
    columns = spatial[0].out_size
    if columns < r.target.vector_bytes // item:
        return _refused("few_positions", f"{columns} positions do not fill a vector")
    forward = r.contraction == "conv"
    rows, terms = (g.out_channels, g.in_channels) if forward else (g.in_channels, g.out_channels)
    rows, terms = rows // g.groups, terms // g.groups
    member, term = (terms * item, item) if forward else (item, rows * item)
    units = [(n, group) for n in range(g.batch) for group in range(g.groups)]
    a = Side(rows, terms, member, term, tuple(group * rows * terms * item for _, group in units))
    starts = tuple(n * r.in_strides[0] + group * terms * r.in_strides[1] for n, group in units)
    b = Side(columns, terms, item, r.in_strides[1], starts)
    out_product = rows * r.out_strides[1] if g.groups > 1 else r.out_strides[0]
    if g.groups > 1 and g.batch > 1 and r.out_strides[0] != g.groups * out_product:
        return _refused("apart", "the results of images and groups are not evenly spaced")
    product = ProductRequest(
        r.element, a, b, r.finish, r.threads, r.target, out_row=r.out_strides[1], out_product=out_product, bias_cycle=g.groups
    )
    return Pointwise(product, _cost(product))


def _cost(p: ProductRequest) -> float:
    """Modelled cycles of one thread: products in whole tiles, and what is moved once for all of them."""
    costs, lanes = p.target.costs.products, p.lanes
    rows, columns = -(-p.rows // 2) * 2, -(-p.columns // lanes) * lanes
    chains = p.products * rows * columns * p.terms / lanes / 2
    written = costs.near_cycles if p.rows * p.columns * p.item <= p.target.l2_bytes else costs.far_cycles
    moved = p.products * p.columns * (p.terms * costs.read_cycles + p.rows * written)
    return chains * costs.chain_cycles + moved + costs.call_cycles


def lower_pointwise(r: ConvRequest, found: Pointwise) -> Program:
    """The program of the product, on the arrays of a convolution."""
    program = lower_product(found.product)
    branches("taken")
    branches("groups.one" if r.geometry.groups == 1 else "groups.several")
    names = {"a": "w", "b": "x", "packed": "columns"}  # "packed" would be the weights
    calls = tuple(call.renamed(call.name, names) for call in program.calls)
    buffers = tuple(replace(buffer, name=names.get(buffer.name, buffer.name)) for buffer in program.buffers)
    details = {"input": program.details.pop("B", "read line by line"), **program.details}
    return replace(program, algorithm="matrix product", calls=calls, buffers=buffers, details=details)


def _refused(branch: str, words: str) -> str:
    branches(f"refused.{branch}")
    return words
