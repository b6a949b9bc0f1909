"""Rewriting a graph so that it runs faster and says the same: each pass is a function from graph to graph.

    take_unchanged    what loops hand on and never change comes from outside
    drop_identities   values that are only other names are called by one name
    simplify          what is known, idle, computed twice or for nobody; reshapes with known targets
    cancel_transposes transpositions that undo one another
    say_integers      contractions between dequantising and quantising are those of integers
    fold_constants    what depends on stored arrays alone is computed once
    say_stored        contractions and the like whose weights were computed are our words now
    rewrite_patterns  what exporters spell out becomes the word that it means
    lift_steps        bias and activation behind a reshape that only drops axes of size 1 go before it, to their contraction
    affine            batch normalisations, scales and offsets per channel go into the weights of contractions
    take_padding      zeros padded before a convolution become its padding
    spell_out         words that kernels run as parts of longer chains become their steps
    fuse_epilogues    a residual sum and an activation go into the engine's epilogue
    fuse_pointwise    chains of elementwise nodes run block by block, in the cache
    join_quantising   dequantising before such nodes and quantising after them are steps of them
    fuse_chains       such a chain behind a contraction goes into the engine's epilogue, where its other operands are single numbers
    channels_last     inputs are laid out with channels innermost, which every later array follows
    prepare_weights   stored arrays become constants that nobody can write to: packed once, never looked at again

The result is for inference, with the values that the parameters have now: they are constants, and their gradients
are gone. After more training the trained graph is optimised anew. The passes of `affine` round each weight once more, and `rewrite_patterns` and
`say_integers` round at other places than the nodes that they replace, so that values are the same to rounding; the other passes keep the bits
(channels_last with an engine that promises the same bits for any memory layout: jit does, BLAS inside gemm does not).
`changes` of the result says what was done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.autograd import no_grad
from preimage.engines import moving
from preimage.engines.base import is_channels_last
from preimage.errors import PreimageError
from preimage.io import limits
from preimage.io.graph.affine import fold_affine, fold_before, split_affine
from preimage.io.graph.calls import CONTRACTIONS
from preimage.io.graph.facts import remembering
from preimage.io.graph.graph import Graph
from preimage.io.graph.lifting import lift_steps
from preimage.io.graph.lookup import Lookup, kept_in, stored_in
from preimage.io.graph.nodes import Node, Values, graph_op
from preimage.io.graph.padding import take_padding
from preimage.io.graph.pointwise import fuse_chains, fuse_pointwise
from preimage.io.graph.quantised import say_integers
from preimage.io.graph.quantised_steps import join_quantising
from preimage.io.graph.rewriting import rewrite_patterns
from preimage.io.graph.simplify import (
    drop_dead,
    drop_idle,
    fold_known,
    join_reshapes,
    merge_twins,
    pruned,
    repeatable,
    take_branches,
)
from preimage.io.graph.spelling import spell_out
from preimage.io.graph.stored_words import say_stored
from preimage.io.graph.transposes import cancel_transposes
from preimage.io.graph.unchanged import take_unchanged
from preimage.settings import check_accuracy
from preimage.typing import Accuracy

__all__ = [
    "PASSES",
    "channels_last",
    "drop_identities",
    "fold_affine",
    "fold_constants",
    "fuse_epilogues",
    "optimise",
    "prepare_weights",
]

Array = NDArray[Any]
MAX_FOLDED_BYTES = 1 << 26
#: What folding may do altogether: a file must not make reading it long.
MAX_FOLDED_FLOP = 1 << 34


def optimise(
    graph: Graph, passes: Sequence[Callable[[Graph], Graph]] | None = None, *, accuracy: Accuracy | None = None
) -> Graph:  # fmt: skip
    """The graph after all passes (or those given), for inference; `print(graph.changes)` says what they did.

    accuracy: of its contractions, whatever the setting is when it runs ("fast": see `preimage.conv`); None leaves it to the setting.
    Raises: OptionError for an accuracy that is none.
    """
    if accuracy is not None:
        check_accuracy(accuracy)
        graph = _allowing(graph, accuracy)
    before = len(graph.nodes) if graph.changes.nodes is None else graph.changes.nodes[0]
    with remembering():
        for each in PASSES if passes is None else passes:
            try:
                graph = each(graph)
            except PreimageError:  # a node that says what makes no sense: the graph stays, and the run will say what is wrong
                continue
    done = with_graphs(with_constants_inside(graph), lambda inner: optimise(inner, passes, accuracy=accuracy))
    done.changes.nodes = before, len(done.nodes)
    return done


def _allowing(graph: Graph, accuracy: str) -> Graph:
    """The graph with an accuracy written at each of its contractions."""
    chosen = {"accuracy": accuracy}
    return graph.replaced(
        nodes=[replace(n, attributes={**n.attributes, **chosen}) if n.op in CONTRACTIONS else n for n in graph.nodes]
    )


def with_graphs(graph: Graph, change: Callable[[Graph], Graph]) -> Graph:
    """The graph with those inside its nodes (branches, bodies of loops) changed."""
    if not graph.graphs:
        return graph
    return graph.replaced(
        nodes=[
            replace(n, attributes={k: change(v) if isinstance(v, Graph) else v for k, v in n.attributes.items()})
            for n in graph.nodes
        ]
    )


def with_constants_inside(graph: Graph) -> Graph:
    """The graph, whose constants are constants of the graphs inside its nodes too, where these take them by name."""
    if not graph.graphs:
        return graph.replaced()
    nodes = [_taking_constants(node, graph.constants) if "captured" in node.attributes else node for node in graph.nodes]
    return pruned(graph, nodes, graph.constants)


def _taking_constants(node: Node, known: Mapping[str, Any]) -> Node:
    captured = node.words("captured")
    own = len(node.inputs) - len(captured)
    outer = dict(zip(captured, node.inputs[own:], strict=True))  # the names out here
    handed = {name: known[key] for name, key in outer.items() if key in known}

    def inside(inner: Graph) -> Graph:
        names = {item.name for item in inner.inputs}
        return inner.replaced(
            inputs=[item for item in inner.inputs if item.name not in handed],
            constants=inner.constants | {name: array for name, array in handed.items() if name in names},
        )

    attributes = {k: inside(v) if isinstance(v, Graph) else v for k, v in node.attributes.items()}
    left = tuple([name for name in captured if name not in handed])
    inputs = (*node.inputs[:own], *(outer[name] for name in left))
    return replace(node, inputs=inputs, attributes=attributes | {"captured": left})


def drop_identities(graph: Graph) -> Graph:
    """Take out nodes that hand their input on (identity, and dropout outside training)."""
    idle = {"identity"} if graph.training else {"identity", "dropout"}
    names: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        node = replace(node, inputs=tuple(names.get(key, key) for key in node.inputs))
        if node.op in idle and len(node.outputs) == 1 and node.outputs[0] not in graph.outputs:
            names[node.outputs[0]] = node.inputs[0]
        else:
            kept.append(node)
    return pruned(graph, kept, graph.constants)


def fold_constants(graph: Graph) -> Graph:
    """Compute nodes that take stored arrays alone. Results above 64 MiB, and those that fail, are left to be computed in each run."""
    known = stored_in(graph)
    found: dict[str, Any] = {}
    kept = []
    budget = limits.limits(elements=MAX_FOLDED_BYTES, flop=MAX_FOLDED_FLOP)
    with no_grad(), budget, limits.Meter(held=0) as meter:
        for node in graph.nodes:
            inputs = [key for key in node.inputs if key]
            if not inputs or not repeatable(node) or any(key not in known for key in inputs) or graph.training:
                kept.append(node)
                continue
            try:
                made = graph.run_nodes([node], {key: known[key] for key in inputs})
                meter.made(made, node.name)
            except PreimageError:  # the run will say what is wrong
                kept.append(node)
                continue
            if any(isinstance(value, Values) for value in made.values()) or (
                sum(np.asarray(value).nbytes for value in made.values()) > MAX_FOLDED_BYTES
            ):
                kept.append(node)
                continue
            known |= made
            found |= {key: np.asarray(value) for key, value in made.items()}
    return pruned(graph, kept, graph.constants | found, {"constants computed": len(graph.nodes) - len(kept)} if found else {})


_ACTIVATIONS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
    "relu": lambda a: {"activation": "relu"},
    "leaky_relu": lambda a: {"activation": "leaky_relu", "slope": a["slope"]},
    "clip": lambda a: {
        "activation": "clip",
        "clip_range": (-np.inf if a.get("lo") is None else a["lo"], np.inf if a.get("hi") is None else a["hi"]),
    },
}


def fuse_epilogues(graph: Graph) -> Graph:
    """Give contractions the residual sum and the activation that follow them and nothing else takes."""
    found, known = Lookup(graph.nodes, kept_in(graph)), stored_in(graph)
    swallowed: set[str] = set()
    renewed: dict[str, Node] = {}
    for node in graph.nodes:
        if (
            node.op not in CONTRACTIONS
            or node.attributes.keys() & {"activation", "chain"}
            or len(node.inputs) > 3
            or node.name in swallowed
        ):
            continue
        fused, chain, value = node, [], node.outputs[0]
        while (after := found.only_user(value)) is not None and after.name not in swallowed:
            if after.op == "add" and len(fused.inputs) < 4 and set(after.inputs) != {value} and len(after.inputs) == 2:
                other = after.inputs[1] if after.inputs[0] == value else after.inputs[0]
                if other in known:
                    break
                fused = replace(fused, inputs=(*fused.inputs[:2], fused.inputs[2] if len(fused.inputs) > 2 else "", other))
            elif after.op in _ACTIVATIONS and after.inputs == (value,):
                activation = _ACTIVATIONS[after.op](after.attributes)
                fused = replace(fused, attributes=dict(fused.attributes) | (activation or {}))
            else:
                break
            chain.append(after)
            value = after.outputs[0]
            if "activation" in fused.attributes:
                break
        if chain:
            swallowed |= {each.name for each in (node, *chain)}
            renewed[chain[-1].name] = replace(fused, outputs=(value,))
    nodes = [renewed.get(n.name, n) for n in graph.nodes if n.name not in swallowed or n.name in renewed]
    return pruned(graph, nodes, graph.constants)


@graph_op("channels_innermost")
def channels_innermost(x: Any) -> Any:
    """The same array, laid out in memory with axis 1 innermost."""
    if not isinstance(x, np.ndarray) or x.ndim < 3 or x.shape[1] == 1:
        return x
    made = None if is_channels_last(x) else moving.laid(x, (0, *range(2, x.ndim), 1))
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if made is None else made


def channels_last(graph: Graph) -> Graph:
    """Have the first contractions after the inputs lay their results out with channels innermost, which every later array follows.

    A contraction that alone takes its input reads it as it lies; for several the input is laid out first.
    """
    if any(node.op == "channels_innermost" or "innermost" in node.attributes for node in graph.nodes):
        return graph
    first = _first_contractions(graph)
    takers = Counter(node.inputs[0] for node in first)
    marked = {node.outputs for node in first}
    if not first:
        return graph
    laid_out: set[str] = set()
    nodes = []
    for node in graph.nodes:
        value = node.inputs[0] if node.inputs else ""
        if node.outputs not in marked:
            nodes.append(node)
        elif takers[value] == 1 and len(node.inputs) < 4:
            nodes.append(replace(node, attributes=dict(node.attributes) | {"innermost": True}))
        else:
            name = f"{value}:channels last"
            if value not in laid_out:
                laid_out.add(value)
                nodes.append(Node(name, "channels_innermost", (value,), (name,)))
            nodes.append(replace(node, inputs=(name, *node.inputs[1:])))
    return pruned(graph, nodes, graph.constants)


def _first_contractions(graph: Graph) -> list[Node]:
    """The contractions with spatial axes that no other contraction lies before."""
    stored = stored_in(graph)
    raw = {item.name for item in graph.inputs}  # values that come from the inputs without a contraction
    first = []
    for node in graph.nodes:
        if node.op not in CONTRACTIONS:
            taken = [key for key in node.inputs if key and key not in stored]
            raw.update(node.outputs if taken and raw.issuperset(taken) else ())
        elif node.inputs[0] in raw and node.inputs[1] in stored and stored[node.inputs[1]].ndim > 2:
            first.append(node)
    return first


def prepare_weights(graph: Graph) -> Graph:
    """Make all stored arrays constants of their own that cannot be written to."""
    known = stored_in(graph)
    keys = {*known} - {*graph.updates, *graph.updates.values()}
    fixed = {}
    for key in keys:
        fixed[key] = known[key].copy(order="C")
        fixed[key].flags.writeable = False
    return graph.replaced(
        constants=graph.constants | fixed,
        parameters={key: value for key, value in graph.weights.items() if key not in fixed},
        buffers={key: value for key, value in graph.state.items() if key not in fixed},
    )


PASSES: tuple[Callable[[Graph], Graph], ...] = (
    take_unchanged,
    drop_identities,
    take_branches,
    say_integers,
    fold_known,
    fold_constants,
    say_stored,
    drop_idle,
    merge_twins,
    cancel_transposes,
    drop_identities,
    rewrite_patterns,
    drop_idle,
    join_reshapes,
    drop_idle,
    drop_dead,
    lift_steps,
    split_affine,
    fold_affine,
    fold_before,
    take_padding,
    spell_out,
    fuse_epilogues,
    fuse_pointwise,
    join_quantising,
    fuse_chains,
    channels_last,
    prepare_weights,
)
