"""Fused chains of elementwise nodes: the bits of the separate nodes, in every layout; what cannot be fused is left alone."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
import preimage.io.onnx
from preimage.io.graph import Graph, Input, Node
from preimage.io.graph.pointwise import fuse_pointwise

SHAPE = (2, 21, 13, 9)


def hardswish(**constants):
    nodes = [
        Node("a", "add", ("x", "three"), ("a",)),
        Node("b", "clip", ("a",), ("b",), {"lo": 0.0, "hi": 6.0}),
        Node("c", "mul", ("x", "b"), ("c",)),
        Node("d", "div", ("c", "six"), ("d",)),
        Node("e", "mul", ("d", "scale"), ("e",)),
        Node("f", "sub", ("e", "x"), ("f",)),
        Node("g", "leaky_relu", ("f",), ("g",), {"slope": 0.1}),
        Node("h", "relu", ("g",), ("y",)),
    ]
    stored = {"three": np.float32(3), "six": np.array([6], np.float32), **constants}
    return Graph(nodes, [Input("x", (None,) * 4)], ["y"], constants=stored)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_chain_has_the_bits_of_its_nodes(layout, threads):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(SHAPE).astype(np.float32) * 4
    x[0, 0, 0, :4] = [np.nan, np.inf, -np.inf, 1e-42]
    if layout == "channels_last":
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    graph = hardswish(scale=rng.standard_normal((1, 21, 1, 1)).astype(np.float32))
    fused = fuse_pointwise(graph)
    assert [n.op for n in fused.nodes] == ["pointwise"]
    with np.errstate(all="ignore"), pre.no_grad(), pre.config(threads=threads):
        want, got = graph(x), fused(x)
    assert got.strides == x.strides
    assert np.array_equal(np.isnan(want), np.isnan(got))
    np.testing.assert_array_equal(got, want)


def test_operands_that_broadcast_otherwise_run_node_by_node():
    rng = np.random.default_rng(1)
    x = rng.standard_normal(SHAPE).astype(np.float32)
    graph = hardswish(scale=rng.standard_normal((13, 1)).astype(np.float32))
    with pre.no_grad():
        np.testing.assert_array_equal(fuse_pointwise(graph)(x), graph(x))


def test_values_that_others_take_stay():
    nodes = [
        Node("a", "relu", ("x",), ("a",)),
        Node("b", "add", ("a", "one"), ("b",)),
        Node("c", "softmax", ("a",), ("c",)),
        Node("d", "mul", ("b", "c"), ("y",)),
    ]
    graph = Graph(nodes, [Input("x", (None,) * 3)], ["y"], constants={"one": np.float32(1)})
    assert [n.op for n in fuse_pointwise(graph).nodes] == ["relu", "softmax", "pointwise"]
    x = np.random.default_rng(2).standard_normal((2, 40, 50)).astype(np.float32)
    with pre.no_grad():
        np.testing.assert_array_equal(fuse_pointwise(graph)(x), graph(x))
    ends = graph.replaced(outputs=["y", "b"])
    assert "b" in {key for n in fuse_pointwise(ends).nodes for key in n.outputs}


def test_gradients_pass_through_a_fused_chain():
    graph = fuse_pointwise(hardswish(scale=np.float32(2)))
    x = pre.Tensor(np.random.default_rng(3).standard_normal(SHAPE), requires_grad=True)
    plain = hardswish(scale=np.float64(2)).astype(np.float64)
    fused = graph.astype(np.float64)
    a, b = (pre.grad(g(x).sum(), x).data for g in (plain, fused))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [5, 40_000])
@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        *((op, {}) for op in (
            "abs", "neg", "reciprocal", "rsqrt", "square", "softsign", "log", "softplus", "mish", "onnx.Erf", "sigmoid", "tanh", "exp")),
        ("gelu", {"approximate": "none"}), ("gelu", {"approximate": "tanh"}), ("maximum", {}), ("minimum", {}),
    ],
)  # fmt: skip
def test_every_step_has_the_bits_of_its_node(op, attributes, size):
    rng = np.random.default_rng(4)
    values = [rng.standard_normal((2, size)).astype(np.float32) * 3 for _ in range(2)]
    values[0][0, :4] = [np.nan, np.inf, -np.inf, -0.0]
    inputs = ("x", "z") if op in ("maximum", "minimum") else ("x",)
    nodes = [Node("a", op, inputs, ("a",), attributes), Node("y", "add", ("a", "z"), ("y",))]
    graph = Graph(nodes, [Input("x", (2, size)), Input("z", (2, size))], ["y"])
    fused = fuse_pointwise(graph)
    assert [n.op for n in fused.nodes] == ["pointwise"]
    with np.errstate(all="ignore"), pre.no_grad():
        np.testing.assert_array_equal(fused(*values), graph(*values))


def test_a_gate_is_computed_once_not_at_every_pixel():
    nodes = [
        Node("m", "global_avg_pool", ("x",), ("m",)),
        Node("g", "sigmoid", ("m",), ("g",)),
        Node("s", "mul", ("g", "x"), ("s",)),
        Node("r", "relu", ("s",), ("y",)),
    ]
    graph = Graph(nodes, [Input("x", (None,) * 4)], ["y"])
    fused = fuse_pointwise(graph)
    assert [n.op for n in fused.nodes] == ["global_avg_pool", "sigmoid", "pointwise"]
    x = np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32)
    with pre.no_grad():
        np.testing.assert_array_equal(fused(x), graph(x))
