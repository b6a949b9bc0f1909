"""Convolutions whose weights other nodes compute from stored arrays are our words once those are computed."""

from __future__ import annotations

import numpy as np
import pytest

from preimage.io import onnx as onnx_io
from preimage.io.graph import optimise

onnx = pytest.importorskip("onnx")


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def graph_of(nodes, stored, shape, more=()):
    from onnx import TensorProto, helper, numpy_helper

    given = [("x", shape), *more]
    feeds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(sizes)) for name, sizes in given]
    made = [helper.make_node(op, inputs, outputs, **attributes) for op, inputs, outputs, attributes in nodes]
    body = helper.make_graph(
        made, "g", feeds, [helper.make_empty_tensor_value_info("y")], [numpy_helper.from_array(v, k) for k, v in stored.items()]
    )
    proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=9)
    return onnx_io.load(proto.SerializeToString())


def both(graph, **feeds):
    net = optimise(graph)
    return net, np.asarray(graph.run(feeds)["y"]), np.asarray(net.run(feeds)["y"])


def test_a_weight_of_integers_with_a_scale(rng):
    stored = {
        "q": rng.integers(-100, 100, (5, 3, 3, 2), np.int8), "scale": rng.uniform(0.01, 0.1, 5).astype(np.float32),
        "zero": rng.integers(-5, 5, 5, np.int8), "b": rng.standard_normal(5).astype(np.float32),
    }  # fmt: skip
    nodes = [
        ("DequantizeLinear", ["q", "scale", "zero"], ["w"], {"axis": 0}),
        ("Conv", ["x", "w", "b"], ["y"], {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
    ]
    graph = graph_of(nodes, stored, (2, 3, 9, 7))
    assert [n.op for n in graph.nodes] == ["onnx.DequantizeLinear", "onnx.Conv"]
    net, wanted, found = both(graph, x=rng.standard_normal((2, 3, 9, 7)).astype(np.float32))
    assert "conv" in {n.op for n in net.nodes}
    assert net.changes["nodes whose weights became known"] == 1
    np.testing.assert_array_equal(found, wanted)


def test_a_weight_that_lies_transposed(rng):
    stored = {"t": rng.standard_normal((4, 4, 6, 3)).astype(np.float32)}
    nodes = [
        ("Transpose", ["t"], ["w"], {"perm": [3, 2, 0, 1]}),
        ("ConvTranspose", ["x", "w"], ["y"], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 0]}),
    ]
    net, wanted, found = both(graph_of(nodes, stored, (1, 3, 5, 4)), x=rng.standard_normal((1, 3, 5, 4)).astype(np.float32))
    assert "conv_transpose" in {n.op for n in net.nodes}
    np.testing.assert_array_equal(found, wanted)


def test_a_weight_that_the_input_decides_stays_what_it_was(rng):
    stored = {"v": rng.standard_normal((4, 3, 3, 3)).astype(np.float32)}
    nodes = [("Mul", ["v", "s"], ["w"], {}), ("Conv", ["x", "w"], ["y"], {})]
    graph = graph_of(nodes, stored, (1, 3, 6, 5), [("s", (1,))])
    net, wanted, found = both(graph, x=rng.standard_normal((1, 3, 6, 5)).astype(np.float32), s=np.full(1, 0.5, np.float32))
    assert "onnx.Conv" in {n.op for n in net.nodes}
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("word", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize("operands", [1, 2, 3, 5])
def test_words_of_any_number_of_operands_are_parts_of_chains(rng, word, operands):
    names = [f"x{k}" for k in range(operands - 1)]
    feeds = {name: rng.standard_normal((2, 3, 6, 5)).astype(np.float32) for name in ("x", *names)}
    nodes = [(word, ["x", *names], ["s"], {}), ("Tanh", ["s"], ["t"], {}), ("Neg", ["t"], ["y"], {})]
    graph = graph_of(nodes, {}, (2, 3, 6, 5), [(name, (2, 3, 6, 5)) for name in names])
    net, wanted, found = both(graph, **feeds)
    assert [n.op for n in net.nodes] == ["pointwise"]
    np.testing.assert_array_equal(found, wanted)
    how = {"Sum": np.sum, "Mean": np.mean, "Max": np.max, "Min": np.min}[word]
    np.testing.assert_allclose(found, -np.tanh(how(list(feeds.values()), axis=0)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("channels", "size"), [(7, 5), (3, 8), (16, 1), (33, 4)])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_local_response_normalisation(rng, channels, size, layout):
    """Beside sums written out, in float64; one program; gradients."""
    import preimage as pre
    from preimage.io.graph.ops import lrn

    options = {"size": size, "alpha": 0.7, "beta": 0.75, "k": 1.5}
    x = rng.standard_normal((2, channels, 5, 3)).astype(np.float32)
    x = x if layout == "channels_first" else np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    before = (size - 1) // 2
    sums = [(x[:, max(0, c - before) : c + size - before].astype(np.float64) ** 2).sum(1) for c in range(channels)]
    wanted = x * (1.5 + 0.7 / size * np.stack(sums, 1)) ** -0.75
    with pre.no_grad():
        np.testing.assert_allclose(lrn(x, **options), wanted, rtol=1e-5, atol=1e-6)
    pre.check_grads(lambda v: lrn(v, **options), [x[:1, :, :1, :2].astype(np.float64)])
    attributes = {"size": size, "alpha": 0.7, "beta": 0.75, "bias": 1.5}
    net = optimise(graph_of([("LRN", ["x"], ["y"], attributes)], {}, x.shape).eval())
    runs = [np.asarray(net.run({"x": x})["y"]) for _ in range(3)]
    assert net.why_no_program is None or pre.engines()["jit"] != "available"
    assert not net.programs or not net.programs[-1].functions
    np.testing.assert_array_equal(runs[-1], runs[0])


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_depth_to_space_keeps_channels_innermost(rng, mode):
    from preimage.io.graph import OPS

    x = rng.standard_normal((2, 36, 7, 5)).astype(np.float32)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    wanted, found = (OPS["onnx.DepthToSpace"].function(v, blocksize=3, mode=mode) for v in (x, last))
    np.testing.assert_array_equal(found, wanted, strict=True)
    assert np.moveaxis(found, 1, -1).flags.c_contiguous
