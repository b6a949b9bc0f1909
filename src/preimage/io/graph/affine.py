"""Normalisations, scales and offsets per channel as parts of the contractions beside them.

    fold_affine    after a contraction: into its weights and bias
    fold_before    before a convolution that pads nothing: into its weights and bias
    split_affine   after a concatenation of contractions along channels: one for each part, which fold_affine then takes

A weight is rounded once more, so that results are the same to rounding; their bits depend on no batch, thread or layout, as before. Where the
convolution pads, the map is not taken in: the padding would have to hold -offset / factor, and zeros are what stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.io.graph.calls import CONTRACTIONS
from preimage.io.graph.facts import Fact, infer
from preimage.io.graph.graph import Graph
from preimage.io.graph.lookup import Lookup, kept_in, single_users, stored_in
from preimage.io.graph.match import word_of
from preimage.io.graph.nodes import Node
from preimage.io.graph.simplify import pruned
from preimage.io.graph.sizes import Size

__all__ = ["fold_affine", "fold_before", "split_affine"]

Array = NDArray[Any]


def _channel_vector(array: Array, channels: int, ndim: int) -> Array | None:
    """An array that broadcasts against (N, C, *space) as one number per channel, as a vector; None if it does not."""
    if array.size == 1 and array.ndim <= ndim:
        return np.full(channels, array.reshape(()), np.float64)
    behind = ndim - 2
    if array.ndim < 1 + behind or array.ndim > ndim or array.shape[array.ndim - 1 - behind :] != (channels, *(1,) * behind):
        return None
    return array.reshape(channels).astype(np.float64) if array.size == channels else None


def _affine(node: Node, value: str, known: Mapping[str, Array], channels: int, ndim: int) -> tuple[Array, Array] | None:
    """What the node does to `value`, as factor and offset per channel; None if it is nothing of the kind."""
    ones, zeros = np.ones(channels), np.zeros(channels)
    if node.op == "batch_norm" and node.inputs[0] == value:
        if any(key and (key not in known or known[key].shape != (channels,)) for key in node.inputs[1:]):
            return None
        scale, bias, mean, variance = (known[key].astype(np.float64) if key else None for key in node.inputs[1:5])
        if mean is None or variance is None:
            return None
        factor = (ones if scale is None else scale) / np.sqrt(variance + node.number("eps"))
        return factor, (zeros if bias is None else bias) - mean * factor
    if node.op not in ("mul", "add", "sub", "div") or len(node.inputs) != 2 or node.inputs[0] == node.inputs[1]:
        return None
    first = node.inputs[0] == value
    other = known.get(node.inputs[1] if first else node.inputs[0])
    if other is None or other.dtype.kind != "f" or (not first and node.op in ("sub", "div")):
        return None
    vector = _channel_vector(other, channels, ndim)
    if vector is None:
        return None
    return {
        "mul": (vector, zeros), "div": (1 / vector, zeros) if vector.all() else None,
        "add": (ones, vector), "sub": (ones, -vector),
    }[node.op]  # fmt: skip


def fold_affine(graph: Graph) -> Graph:
    """Fold chains of per-channel factors and offsets after a contraction into its weights and bias."""
    known, found = stored_in(graph), Lookup(graph.nodes, kept_in(graph))
    constants = dict(graph.constants)
    swallowed: set[str] = set()
    renewed: dict[str, Node] = {}
    for node in graph.nodes:
        if node.op not in CONTRACTIONS or node.attributes.keys() & {"activation", "chain"} or len(node.inputs) > 3:
            continue
        weight, bias = known.get(node.inputs[1]), known.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
        if weight is None or (bias is None and len(node.inputs) > 2 and node.inputs[2]):
            continue
        groups = node.integer("groups", 1)
        channels = weight.shape[1] * groups if node.op == "conv_transpose" else weight.shape[0]
        factor, offset = np.ones(channels), np.zeros(channels) if bias is None else bias.astype(np.float64)
        value, chain = node.outputs[0], []
        while (after := found.only_user(value)) is not None:
            step = _affine(after, value, known, channels, weight.ndim)
            if step is None:
                break
            factor, offset = factor * step[0], offset * step[0] + step[1]
            chain.append(after)
            value = after.outputs[0]
        if not chain:
            continue
        new_weight, new_bias = f"{node.name}:folded weight", f"{node.name}:folded bias"
        constants[new_weight] = _scaled(weight, factor, groups, node.op == "conv_transpose")
        constants[new_bias] = offset.astype(weight.dtype)
        swallowed |= {each.name for each in (node, *chain)}
        renewed[chain[-1].name] = replace(node, inputs=(node.inputs[0], new_weight, new_bias), outputs=(value,))
    nodes = [renewed.get(n.name, n) for n in graph.nodes if n.name not in swallowed or n.name in renewed]
    return pruned(graph, nodes, constants, {"maps after contractions": len(swallowed) - len(renewed)} if renewed else {})


def _scaled(weight: Array, factor: Array, groups: int, transposed: bool) -> Array:
    """The weights with each output channel times its factor, rounded once."""
    behind = (1,) * (weight.ndim - 2)
    if not transposed:
        return (weight * factor.reshape(-1, 1, *behind)).astype(weight.dtype)
    split = weight.reshape(groups, -1, *weight.shape[1:]) * factor.reshape(groups, 1, -1, *behind)
    return split.reshape(weight.shape).astype(weight.dtype)


def _varying(node: Node, stored: Mapping[str, Array]) -> str | None:
    """The one input of a map that is not stored."""
    found = [key for key in node.inputs if key and key not in stored]
    return found[0] if len(found) == 1 else None


def fold_before(graph: Graph) -> Graph:
    """Fold a factor and offset per channel before a convolution without padding into its weights and bias."""
    stored, takers, facts = stored_in(graph), single_users(graph), infer(graph)
    constants = dict(graph.constants)
    makers = {node.outputs[0]: node for node in graph.nodes if len(node.outputs) == 1 and node.outputs[0] in takers}
    gone: set[str] = set()
    nodes = []
    for node in graph.nodes:
        while (made := _joined(node, makers, stored, facts)) is not None:
            before, weight, bias = made
            names = tuple(f"{node.outputs[0]}:{word} with {before.outputs[0]}" for word in ("weight", "bias"))
            constants |= dict(zip(names, (weight, bias), strict=True))
            stored |= dict(zip(names, (weight, bias), strict=True))
            gone.add(before.outputs[0])
            source = _varying(before, stored)
            assert source is not None
            node = replace(node, inputs=(source, *names, *node.inputs[3:]))
        nodes.append(node)
    kept = [node for node in nodes if not gone.intersection(node.outputs)]
    return pruned(graph, kept, constants, {"maps before convolutions": len(gone)}) if gone else graph


def _joined(
    node: Node, makers: Mapping[str, Node], stored: Mapping[str, Array], facts: Mapping[str, Fact]
) -> tuple[Node, Array, Array] | None:
    """The map before a convolution, and weight and bias with it."""
    before = makers.get(node.inputs[0]) if node.op == "conv" else None
    weight = stored.get(node.inputs[1]) if before is not None else None
    if before is None or weight is None or "padding_mode" in node.attributes or (source := _varying(before, stored)) is None:
        return None
    padding = node.padding(weight.ndim - 2)
    bias = stored.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if (isinstance(padding, str) and padding != "valid") or (isinstance(padding, tuple) and np.any(padding)):
        return None
    if bias is None and len(node.inputs) > 2 and node.inputs[2]:
        return None
    groups = node.integer("groups", 1)
    shape = facts.get(source, Fact()).shape
    channels = weight.shape[1] * groups
    if shape is None or len(shape) != weight.ndim or shape[1] != channels or facts.get(source, Fact()).dtype != weight.dtype.name:
        return None
    found = _affine(before, source, stored, channels, weight.ndim)
    if found is None:
        return None
    behind = (1,) * (weight.ndim - 2)
    factor, offset = (v.reshape(groups, 1, -1, *behind) for v in found)
    wide = weight.astype(np.float64).reshape(groups, -1, *weight.shape[1:])
    added = (wide * offset).sum(axis=tuple(range(2, wide.ndim))).reshape(-1)
    scaled = (wide * factor).reshape(weight.shape).astype(weight.dtype)
    return before, scaled, (added if bias is None else added + bias.astype(np.float64)).astype(weight.dtype)


def split_affine(graph: Graph) -> Graph:
    """Apply a factor and offset per channel after a concatenation of contractions to each part."""
    stored, takers, facts = stored_in(graph), single_users(graph), infer(graph)
    makers = {node.outputs[0]: node for node in graph.nodes if len(node.outputs) == 1}
    constants = dict(graph.constants)
    instead: dict[str, list[Node]] = {}
    gone: set[str] = set()
    for node in graph.nodes:
        source = _varying(node, stored)
        concat = makers.get(source) if source in takers else None
        sizes = None if concat is None or concat.outputs[0] in gone else _parts(concat, makers, takers, facts)
        if source is None or concat is None or sizes is None:
            continue
        rank = len(facts[source].shape or ())
        found = _affine(node, source, stored, sum(sizes), rank)
        if found is None:
            continue
        spread, dtype = (1, -1, *(1,) * (rank - 2)), facts[source].dtype
        made: list[Node] = []
        ends = np.cumsum(sizes)
        for k, key in enumerate(concat.inputs):
            own = slice(int(ends[k]) - sizes[k], int(ends[k]))
            names = [f"{node.outputs[0]}:{word} {k}" for word in ("factor", "offset", "scaled", "part")]
            constants |= {name: v[own].reshape(spread).astype(dtype) for name, v in zip(names[:2], found, strict=True)}
            made.append(Node(names[2], "mul", (key, names[0]), (names[2],), {}, node.layer))
            made.append(Node(names[3], "add", (names[2], names[1]), (names[3],), {}, node.layer))
        parts = tuple(each.outputs[0] for each in made[1::2])
        instead[node.outputs[0]] = [*made, replace(concat, name=node.name, inputs=parts, outputs=node.outputs)]
        gone.add(concat.outputs[0])
    nodes = [each for n in graph.nodes if not gone.intersection(n.outputs) for each in instead.get(n.outputs[0], [n])]
    return pruned(graph, nodes, constants, {"maps after concatenations": len(gone)}) if gone else graph


def _parts(concat: Node, makers: Mapping[str, Node], takers: Mapping[str, Node], facts: Mapping[str, Fact]) -> list[int] | None:
    """The channels of each part of a concatenation of contractions that nobody else takes."""
    if (
        word_of(concat) not in ("concat", "Concat")
        or concat.integer("axis") != 1
        or len(set(concat.inputs)) != len(concat.inputs)
    ):
        return None
    sizes = []
    for key in concat.inputs:
        maker, shape = makers.get(key), facts.get(key, Fact()).shape
        plain = maker is not None and maker.op in CONTRACTIONS and not maker.attributes.keys() & {"activation", "chain"}
        if not plain or key not in takers or shape is None or len(shape) < 3 or isinstance(shape[1], Size):
            return None
        sizes.append(shape[1])
    return sizes
