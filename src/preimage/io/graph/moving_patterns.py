"""Patterns that move elements, and layers that ONNX names itself: the second part of the table (`patterns`).

Splitting channels in two axes, exchanging them and joining them again is a shuffle of channels, or of depth into space. Which one it is, the shapes
say. ONNX's normalisations become the words that the generated kernels know.
"""

from __future__ import annotations

from preimage.io.graph.facts import Fact
from preimage.io.graph.match import Found, View
from preimage.io.graph.nodes import Node
from preimage.io.graph.patterns import Pattern, becomes, rank_of
from preimage.io.graph.simplify import order_of
from preimage.io.graph.sizes import Shape, Size

__all__ = ["MOVING"]


def _moved(found: Found, view: View) -> tuple[Shape, Shape, tuple[int, ...], Shape] | None:
    """The shapes before, between and after, and the order of axes."""
    exchange = found.of("transpose")[0]
    shapes = [view.facts.get(key, Fact()).shape for key in (found.values["x"], exchange.inputs[0], found.root.outputs[0])]
    x, split, out = shapes
    order = order_of(exchange, view.facts.get(exchange.inputs[0], Fact()))
    return None if x is None or split is None or out is None or order is None else (x, split, order, out)


def _shuffle(found: Found, view: View) -> Node | None:
    """(N, C, ...) as (N, g, C / g, ...), both exchanged, and joined again."""
    moved = _moved(found, view)
    if moved is None:
        return None
    x, split, order, out = moved
    same = len(split) == len(x) + 1 and out == x and split[0] == x[0] and split[3:] == x[2:]
    if not same or order != (0, 2, 1, *range(3, len(split))) or isinstance(split[1], Size) or isinstance(x[1], Size):
        return None
    return becomes(found, "channel_shuffle", [found.values["x"]], groups=split[1])


#: Order of axes: (mode of DepthToSpace, where the two blocks and the depth stand between reshape and transposition).
_BLOCKS: dict[tuple[int, ...], tuple[str, tuple[int, int, int]]] = {
    (0, 3, 4, 1, 5, 2): ("DCR", (1, 2, 3)),
    (0, 1, 4, 2, 5, 3): ("CRD", (2, 3, 1)),
}


def _depth_to_space(found: Found, view: View) -> Node | None:
    """(N, b, b, C, H, W), or (N, C, b, b, H, W), as (N, C, b H, b W)."""
    moved = _moved(found, view)
    if moved is None or len(moved[0]) != 4 or len(moved[1]) != 6 or moved[2] not in _BLOCKS:
        return None
    x, split, order, out = moved
    mode, (first, second, depth) = _BLOCKS[order]
    block = split[first]
    if isinstance(block, Size) or block < 1 or split[second] != block or split[0] != x[0] or split[4:] != x[2:]:
        return None
    if out != (x[0], split[depth], x[2] * block, x[3] * block):
        return None
    return becomes(found, "onnx.DepthToSpace", [found.values["x"]], blocksize=block, mode=mode)


def _layer_norm(found: Found, view: View) -> Node | None:
    rank = rank_of(view, found.values["x"])
    axis = found.root.integer("axis", -1)
    if rank is None or not -rank <= axis < rank:
        return None
    scale = found.values["W"]
    if (shape := view.facts[scale].shape) is None or len(shape) > rank - axis % rank:
        return None
    axes, eps = tuple(range(axis % rank, rank)), found.root.number("epsilon", 1e-5)
    return becomes(found, "layer_norm", found.root.inputs, axes=axes, eps=eps)


def _instance_norm(found: Found, view: View) -> Node | None:
    shape, eps = view.facts[found.values["W"]].shape, found.root.number("epsilon", 1e-5)
    rank = rank_of(view, found.values["x"])
    if (
        found.root.op != "onnx.InstanceNormalization"
        or shape is None
        or len(shape) != 1
        or isinstance(shape[0], Size)
        or (rank or 0) < 3
    ):
        return None
    return becomes(found, "instance_norm", found.root.inputs, channels=shape[0], eps=eps)


MOVING = (
    Pattern("channel shuffle", "reshape(transpose(reshape(x)))", _shuffle, any_dtype=True),
    Pattern("DepthToSpace", "reshape(transpose(reshape(x)))", _depth_to_space, any_dtype=True),
    Pattern("LayerNorm", "LayerNormalization(x, W)", _layer_norm),
    Pattern("InstanceNorm", "instance_norm(x, W, B)", _instance_norm),
)
