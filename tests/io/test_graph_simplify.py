"""Passes that take nodes out, move transpositions, and fold what stands around contractions: what goes, what stays, and that the bits do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import preimage as pre
import preimage.io.onnx
from preimage.io.graph import Graph, Input, Node, optimise
from preimage.io.graph.affine import fold_affine, fold_before, split_affine
from preimage.io.graph.lifting import lift_steps
from preimage.io.graph.padding import take_padding
from preimage.io.graph.passes import fold_constants
from preimage.io.graph.simplify import drop_dead, drop_idle, fold_known, join_reshapes, merge_twins, take_branches
from preimage.io.graph.spelling import spell_out
from preimage.io.graph.transposes import cancel_transposes

RNG = np.random.default_rng(30)
SHAPE = (2, 4, 6, 5)


def node(op: str, inputs: str, output: str, **attributes: Any) -> Node:
    return Node(output, op, tuple("" if key == "-" else key for key in inputs.split()), tuple(output.split()), attributes)


def array(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def graph(*nodes: Node, outputs: str = "y", shape: Any = SHAPE, dtype: str = "float32", **stored: Any) -> Graph:
    constants = {key: np.asarray(value) for key, value in stored.items()}
    return Graph(nodes, [Input("x", shape, dtype)], outputs.split(), constants=constants).eval()  # type: ignore[return-value]


def words(g: Graph) -> list[str]:
    return [n.op for n in g.nodes]


def test_dropout_goes_where_nobody_takes_its_mask():
    """Old files name the mask as a second result and never read it; the node would keep a net from being one program."""
    drop = node("onnx.Dropout", "x", "a m", outputs=2)
    unread = graph(drop, node("relu", "a", "y"))
    assert words(drop_idle(unread)) == ["relu"]
    assert words(drop_idle(graph(drop, node("relu", "a", "y"), outputs="y m"))) == ["onnx.Dropout", "relu"]
    read = graph(drop, node("relu", "a", "b"), node("onnx.Where", "m b x", "y"))
    assert words(drop_idle(read)) == ["onnx.Dropout", "relu", "onnx.Where"]


def same(before: Graph, after: Graph, tolerance: float = 0.0, shape: tuple[int, ...] = SHAPE) -> None:
    x = array(*shape)
    with pre.no_grad():
        wanted, found = (v if isinstance(v, tuple) else (v,) for v in (before(x), after(x)))
    for a, b in zip(wanted, found, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * np.abs(a).max())


# -- what is known, idle, computed twice or for nobody -----------------------------------------------------------------


def test_shape_arithmetic_goes() -> None:
    g = graph(
        node("onnx.Shape", "x", "s"),
        node("onnx.Gather", "s one", "c"),
        node("onnx.Unsqueeze", "c zero", "u"),
        node("onnx.Concat", "minus u", "t", axis=0),
        node("onnx.Reshape", "x t", "y"),
        one=1,
        zero=[0],
        minus=[-1],
        shape=(None, 4, None, 5),
    )
    after = drop_dead(fold_known(g))
    assert words(after) == ["onnx.Reshape"]
    same(g, after)
    assert words(join_reshapes(after)) == ["reshape"]
    same(g, join_reshapes(after))


IDLE = [
    node("identity", "x", "a"),
    node("onnx.Identity", "x", "a"),
    node("onnx.Cast", "x", "a", to=1),
    node("onnx.Dropout", "x", "a"),
    node("onnx.Reshape", "x same", "a"),
    node("onnx.Expand", "x ones", "a"),
    node("onnx.Slice", "x zero far one", "a"),
    node("onnx.Pad", "x none", "a"),
    node("mul", "x unit", "a"),
    node("div", "x unit", "a"),
    node("onnx.Pow", "x unit", "a"),
    node("onnx.Concat", "x", "a", axis=2),
    node("transpose", "x", "a", axes=(0, 1, 2, 3)),
    node("onnx.Tile", "x ones", "a"),
]
BUSY = [
    node("onnx.Cast", "x", "a", to=11),
    node("onnx.Reshape", "x other", "a"),
    node("onnx.Expand", "x wide", "a"),
    node("onnx.Slice", "x zero four one", "a"),
    node("onnx.Slice", "x last first one back", "a"),
    node("onnx.Pad", "x some", "a"),
    node("mul", "x two", "a"),
    node("mul", "x unit5", "a"),
    node("onnx.Concat", "x x", "a", axis=2),
    node("transpose", "x", "a", axes=(0, 1, 3, 2)),
    node("onnx.Tile", "x twice", "a"),
    node("sub", "x unit", "a"),
]
NUMBERS = {
    "same": [0, 4, -1, 5],
    "other": [0, 4, 5, -1],
    "ones": [1, 1, 1, 1],
    "wide": [3, 1, 1, 1, 1],
    "zero": [0],
    "one": [2],
    "four": [4],
    "far": [2**62],
    "last": [-1],
    "first": [-(2**62)],
    "back": [-1],
    "none": [0] * 8,
    "some": [0] * 7 + [1],
    "twice": [1, 1, 1, 2],
    "unit": np.float32(1),
    "two": np.float32(2),
    "unit5": np.ones((1,) * 5, np.float32),
}


@pytest.mark.parametrize("idle", [True, False])
def test_nodes_that_hand_their_input_on(idle: bool) -> None:
    for each in IDLE if idle else BUSY:
        g = graph(each, node("abs", "a", "y"), **{k: v for k, v in NUMBERS.items() if k in each.inputs})
        after = drop_idle(g)
        assert words(after) == (["abs"] if idle else [each.op, "abs"]), each
        same(g, after)
        end = graph(each, outputs="a", **{k: v for k, v in NUMBERS.items() if k in each.inputs})
        assert words(drop_idle(end)) == [each.op]  # an output keeps its name


def test_chains_of_reshapes_become_one() -> None:
    g = graph(
        node("onnx.Squeeze", "x one", "a"),
        node("onnx.Unsqueeze", "a one", "b"),
        node("onnx.Flatten", "b", "c", axis=2),
        node("onnx.Reshape", "c t", "d"),
        node("abs", "d", "y"),
        one=[1],
        t=[0, -1],
        shape=(None, 1, 6, None),
    )
    after = join_reshapes(g)
    assert words(after) == ["reshape", "abs"]
    for shape in ((2, 1, 6, 5), (3, 1, 6, 1)):
        same(g, after, shape=shape)
    with pre.no_grad():
        assert after(np.ones((0, 1, 6, 2), np.float32)).shape == (0, 12)
    two = graph(
        node("onnx.Reshape", "x t", "a"),
        node("abs", "a", "b"),
        node("onnx.Reshape", "a u", "y"),
        outputs="y b",
        t=[2, -1],
        u=[-1],
    )
    after = join_reshapes(two)
    assert sorted(words(after)) == ["abs", "reshape", "reshape"]
    same(two, after)


def test_what_is_computed_twice_is_computed_once() -> None:
    g = graph(
        node("mul", "x k", "a"),
        node("mul", "x l", "b"),
        node("mul", "x m", "c"),
        node("add", "a b", "d"),
        node("add", "d c", "y"),
        k=np.float32(3),
        l=np.float32(3),
        m=np.float32(4),
    )
    after = merge_twins(g)
    assert words(after) == ["mul", "mul", "add", "add"]
    assert after.changes["computed twice"] == 1
    same(g, after)
    different = graph(
        node("leaky_relu", "x", "a", slope=0.1),
        node("leaky_relu", "x", "b", slope=0.2),
        node("onnx.Cast", "x", "c", to=1),
        node("onnx.Cast", "x", "d", to=11),
        node("add", "a b", "y"),
        outputs="y c d",
    )
    assert words(merge_twins(different)) == words(different)
    ends = graph(node("abs", "x", "a"), node("abs", "x", "b"), outputs="a b")
    assert words(merge_twins(ends)) == ["abs", "abs"]
    zeros = graph(
        node("add", "x k", "a"), node("add", "x l", "b"), node("sub", "a b", "y"), k=np.float32(0.0), l=np.float32(-0.0)
    )
    assert words(merge_twins(zeros)) == ["add", "add", "sub"]


def test_what_nobody_takes_goes() -> None:
    g = graph(node("abs", "x", "a"), node("exp", "a", "b"), node("onnx.Split", "x", "c d", axis=1), node("abs", "d", "y"))
    assert words(drop_dead(g)) == ["onnx.Split", "abs"]


def test_a_known_branch_is_taken() -> None:
    def branch(op: str) -> Graph:
        return Graph([node(op, "x", "r")], [Input("x", None, "")], ["r"])

    for flag, op in ((True, "abs"), (False, "exp")):
        chosen = Node(
            "if",
            "onnx.If",
            ("flag", "x"),
            ("y",),
            {"then_branch": branch("abs"), "else_branch": branch("exp"), "captured": ("x",)},
        )
        g = graph(chosen, flag=np.array(flag))
        after = take_branches(g)
        assert words(drop_idle(after)) == [op, "identity"]
        same(g, after)
    open_ = Graph([chosen], [Input("x", SHAPE), Input("flag", (), "bool")], ["y"])
    assert words(take_branches(open_)) == ["onnx.If"]


def test_folding_is_bounded_and_leaves_what_fails() -> None:
    nodes = [
        node("onnx.ConstantOfShape", "n", "a"),
        node("onnx.Expand", "k m", "b"),
        node("onnx.Reshape", "k bad", "c"),
        node("add", "x c", "y"),
    ]
    g = graph(*nodes, outputs="y a b", n=[2**28], m=[2**26], k=np.ones(1, np.float32), bad=[7, 7])
    assert words(fold_constants(g)) == words(g)


# -- transpositions ----------------------------------------------------------------------------------------------------

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def test_transpositions_that_undo_one_another_go() -> None:
    g = graph(
        node("transpose", "x", "a", axes=TO_LAST),
        node("relu", "a", "b"),
        node("mul", "b k", "c"),
        node("add", "c a", "d"),
        node("onnx.Concat", "d b", "e", axis=-1),
        node("softmax", "e", "f", axis=3),
        node("onnx.Pad", "f pads", "g"),
        node("clip", "g", "h", lo=-1.0, hi=1.0),
        node("onnx.ReduceMax", "h", "i", axes=[1], keepdims=1),
        node("sub", "h i", "j"),
        node("transpose", "j", "y", axes=TO_FIRST),
        k=array(4),
        pads=[0, 1, 2, 0, 0, 3, 0, 1],
    )
    after = cancel_transposes(g)
    assert "transpose" not in words(after)
    assert after.changes["transpositions"] == 2
    same(g, after)


@pytest.mark.parametrize(
    "inner",
    [
        node("onnx.Gather", "a k", "b", axis=1),
        node("onnx.ReduceMax", "a", "b", axes=[1], keepdims=0),
        node("softmax", "a", "b", axis=9),
        node("add", "a z", "b"),
        node("onnx.Softmax", "a", "b", axis=1, opset=11),
        node("onnx.Reshape", "a t", "b"),
    ],
)
def test_what_minds_the_order_of_axes_keeps_its_transpositions(inner: Node) -> None:
    g = Graph(
        [node("transpose", "x", "a", axes=TO_LAST), inner, node("abs", "b", "y")],
        [Input("x", SHAPE), Input("z", (2, 6, 5, 4))],
        ["y"],
        constants={"k": np.array([0]), "t": np.array([2, 6, 5, 4])},
    )
    assert words(cancel_transposes(g)) == words(g)


def test_a_transposition_that_is_an_output_stays() -> None:
    g = graph(
        node("transpose", "x", "a", axes=TO_LAST),
        node("relu", "a", "b"),
        node("transpose", "b", "y", axes=TO_FIRST),
        outputs="y b a",
    )
    after = cancel_transposes(g)
    same(g, after)
    twice = graph(node("transpose", "x", "a", axes=TO_LAST), node("transpose", "a", "y", axes=TO_LAST))
    after = cancel_transposes(twice)
    assert words(after) == ["transpose"]
    same(twice, after)


# -- around contractions -----------------------------------------------------------------------------------------------

CONV = {"stride": (1, 1), "dilation": (1, 1)}


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 0), (2, 1)), "valid"])
def test_padding_goes_into_the_convolution(padding: Any) -> None:
    g = graph(
        node("onnx.Pad", "x p", "a"),
        node("conv", "a w", "y", padding=padding, **CONV),
        p=[0, 0, 1, 2, 0, 0, 0, 3],
        w=array(3, 4, 3, 3),
    )
    after = take_padding(g)
    assert words(after) == ["conv"]
    same(g, after)


def test_padding_that_is_no_margin_of_zeros_stays() -> None:
    w, p = array(3, 4, 3, 3), [0, 0, 1, 1, 0, 0, 1, 1]
    conv = node("conv", "a w", "y", padding=((0, 0), (0, 0)), **CONV)
    for pad, extra in (
        (node("onnx.Pad", "x p", "a", mode="reflect"), {}),
        (node("onnx.Pad", "x p v", "a"), {"v": np.float32(1)}),
        (node("onnx.Pad", "x p", "a"), {"p": [0, 0, -1, 1, 0, 0, 1, 1]}),
        (node("onnx.Pad", "x p", "a", constant=2.0), {}),
    ):
        assert words(take_padding(graph(pad, conv, **({"p": p, "w": w} | extra)))) == ["onnx.Pad", "conv"]
    pad = node("onnx.Pad", "x p", "a")
    assert words(take_padding(graph(pad, conv, outputs="y a", p=p, w=w))) == ["onnx.Pad", "conv"]
    assert words(take_padding(graph(pad, node("conv", "a w", "y", padding="same", **CONV), p=p, w=w))) == ["onnx.Pad", "conv"]
    wide = graph(pad, node("conv", "a w", "y", **CONV), p=[0, 1, 0, 0, 0, 1, 0, 0], w=array(3, 6, 3, 3))
    assert words(take_padding(wide)) == ["onnx.Pad", "conv"]


def test_steps_behind_a_reshape_reach_their_convolution() -> None:
    stored = {"w": array(3, 4, 1, 3), "b": array(3, 1), "k": np.float32(0.5)}
    first = [
        node("reshape", "x", "a", target=(0, 4, 1, -1)),
        node("conv", "a w", "c", **CONV),
        node("reshape", "c", "d", target=(0, 3, -1)),
    ]
    g = graph(*first, node("add", "d b", "e"), node("relu", "e", "f"), node("mul", "k f", "y"), shape=(None, 4, None), **stored)
    after = lift_steps(g)
    assert words(after) == ["reshape", "conv", "add", "relu", "mul", "reshape"]
    assert after.changes["steps moved before reshapes"] == 3
    same(g, after, shape=(2, 4, 9))
    ready = optimise(g)
    assert (
        words(ready) == ["reshape", "conv", "pointwise", "reshape"]
        or words(ready) == ["reshape", "conv", "reshape"]
        or "add" not in words(ready)
    )
    same(g, ready, 1e-6, shape=(2, 4, 9))
    for other in (
        graph(*first, node("add", "d b", "y"), outputs="y d", shape=(None, 4, None), **stored),  # others take it
        graph(
            *first[:2],
            node("reshape", "c", "d", target=(0, -1)),
            node("add", "d m", "y"),
            shape=(None, 4, 9),
            **(stored | {"m": array(21)}),
        ),
        graph(*first, node("softmax", "d", "y", axis=1), shape=(None, 4, None), **stored),
        graph(*first, node("add", "d m", "y"), shape=(None, 4, None), **(stored | {"m": array(2, 1, 1, 1)})),
    ):
        assert words(lift_steps(other)) == words(other)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_map_before_a_convolution(groups: int, padding: int) -> None:
    stored = {"s": array(4), "o": array(4), "m": array(4), "v": np.abs(array(4)) + 1, "k": array(4, 1, 1)}
    g = graph(
        node("batch_norm", "x s o m v", "n", eps=0.01),
        node("mul", "n k", "p"),
        node("conv", "p w b", "y", padding=((padding, padding),) * 2, groups=groups, **CONV),
        w=array(6, 4 // groups, 3, 3),
        b=array(6),
        **stored,
    )
    after = fold_before(g)
    assert words(after) == (["batch_norm", "mul", "conv"] if padding else ["conv"])
    same(g, after, 1e-5)


def test_a_map_after_a_concatenation() -> None:
    stored = {
        "s": array(9),
        "o": array(9),
        "m": array(9),
        "v": np.abs(array(9)) + 1,
        "w": array(4, 4, 3, 3),
        "u": array(5, 4, 3, 3),
    }
    parts = [node("conv", "x w", "a", **CONV), node("conv", "x u", "b", **CONV)]
    g = graph(*parts, node("concat", "a b", "c", axis=1), node("batch_norm", "c s o m v", "y", eps=0.01), **stored)
    after = fold_affine(split_affine(g))
    assert words(after) == ["conv", "conv", "concat"]
    same(g, after, 1e-5)
    for other in (
        graph(
            *parts, node("concat", "a b", "c", axis=1), node("batch_norm", "c s o m v", "y", eps=0.01), outputs="y c", **stored
        ),
        graph(
            parts[0],
            node("relu", "a", "r"),
            parts[1],
            node("concat", "r b", "c", axis=1),
            node("batch_norm", "c s o m v", "y", eps=0.01),
            **stored,
        ),
    ):
        assert words(split_affine(other)) == words(other)


def test_words_are_spelled_with_the_bits_that_they_have() -> None:
    stored = {"s": array(4), "o": array(4), "m": array(4), "v": np.abs(array(4)) + 1}
    for each in (
        node("hard_sigmoid", "x", "y", alpha=0.3, beta=0.4),
        node("onnx.HardSigmoid", "x", "y"),
        node("hard_swish", "x", "y"),
        node("onnx.HardSwish", "x", "y"),
        node("swish", "x", "y", beta=1.0),
        node("swish", "x", "y", beta=1.5),
        node("batch_norm", "x s o m v", "y", eps=0.01),
        node("batch_norm", "x - - m v", "y", eps=0.01),
    ):
        g = graph(each, **{k: v for k, v in stored.items() if k in each.inputs})
        after = spell_out(g)
        assert set(words(after)) <= {"add", "mul", "sub", "clip", "sigmoid"}
        same(g, after, 1e-6 if "swish" in each.op.lower() else 0)


def test_what_was_done_is_counted() -> None:
    g = graph(
        node("onnx.Cast", "x", "a", to=1),
        node("sigmoid", "a", "b"),
        node("mul", "a b", "c"),
        node("abs", "x", "unused"),
        node("conv", "c w", "d", **CONV),
        node("mul", "d k", "y"),
        w=array(3, 4, 1, 1),
        k=array(3, 1, 1),
    )
    after = optimise(g)
    assert {"idle nodes", "SiLU", "for nobody", "maps after contractions"} <= set(after.changes)
    same(g, after, 1e-5)


def test_a_transposition_of_too_many_axes_stays_for_the_run_to_refuse() -> None:
    nodes = [
        Node("t", "transpose", ("x",), ("t",), {"axes": (0, 2, 1)}),
        Node("r", "relu", ("t",), ("r",)),
        Node("u", "transpose", ("r",), ("u",), {"axes": (0, 2, 1, 3)}),
        Node("y", "relu", ("u",), ("y",)),
    ]
    graph = cancel_transposes(Graph(nodes, [Input("x", (2, 3, 4))], ["y"]))
    with pytest.raises(pre.PreimageError):
        graph.run({"x": np.zeros((2, 3, 4), np.float32)})


def test_an_activation_that_an_exporter_wrote_in_both_orders_of_axes_is_one_word() -> None:
    """tf2onnx leaves a power among channels last, with a transposition on either side, in the middle of a GELU."""
    g = graph(
        node("conv", "x w", "v", **CONV),
        node("mul", "v half", "h"),
        node("transpose", "v", "last", axes=(0, 2, 3, 1)),
        node("onnx.Pow", "last three", "cube"),
        node("mul", "small cube", "s"),
        node("transpose", "s", "first", axes=(0, 3, 1, 2)),
        node("add", "v first", "a"),
        node("mul", "root a", "b"),
        node("tanh", "b", "t"),
        node("add", "one t", "o"),
        node("mul", "h o", "y"),
        w=array(3, 4, 1, 1), half=np.float32(0.5), three=np.float32(3), small=np.float32(0.044715), root=np.float32(0.7978846),
        one=np.ones((1, 1, 1, 1), np.float32),
    )  # fmt: skip
    after = optimise(g)
    assert words(after).count("transpose") == words(after).count("tanh") == 0
    assert after.changes["GELU by tanh"] == 1
    same(g, after, 1e-5)
