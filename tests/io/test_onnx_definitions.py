"""Operators that ONNX defines by others are read by their definitions, in graphs inside nodes too."""

import numpy as np
import pytest

import preimage as pre
from preimage.io import onnx as onnx_io

onnx = pytest.importorskip("onnx")

RNG = np.random.default_rng(0)


def model(text: str, opset: int = 23):
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> net {text}')


def run(graph, **feeds):
    with pre.no_grad():
        found = graph.run(feeds)
    return [np.asarray(found[key]) for key in graph.outputs]


def test_a_loss_whose_definition_needs_another_inside_a_branch() -> None:
    text = """(float[4, 5] x, int64[4] t, bool c) => (float y)
    { y = If (c) < then_branch = a () => (float p) { p = SoftmaxCrossEntropyLoss <ignore_index = 2> (x, t) },
                   else_branch = b () => (float q) { q = ReduceSum <keepdims = 0> (x) } > }"""
    graph = onnx_io.load(model(text))
    x, t = RNG.standard_normal((4, 5)).astype(np.float32), np.array([0, 2, 4, 1])
    (found,) = run(graph, x=x, t=t, c=np.array(True))
    low = x - np.log(np.exp(x).sum(1, keepdims=True))
    assert np.allclose(found, -np.mean([low[k, t[k]] for k in (0, 2, 3)]), rtol=1e-5)
    (found,) = run(graph, x=x, t=t, c=np.array(False))
    assert np.allclose(found, x.sum(), rtol=1e-5)


def test_attention_differentiates() -> None:
    text = "(double[2,3,5,4] q, double[2,3,6,4] k, double[2,3,6,4] v) => (double[2,3,5,4] y) { y = Attention <is_causal = 1> (q, k, v) }"
    graph = onnx_io.load(model(text))
    values = [RNG.standard_normal(shape) for shape in ((2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 4))]
    pre.check_grads(lambda *given: graph(*given), values, trials=1, rtol=1e-5)
    scores = np.einsum("nhld,nhsd->nhls", values[0], values[1]) / 2
    scores = np.where(np.tril(np.ones((5, 6), bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = np.einsum("nhls,nhsd->nhld", weights / weights.sum(-1, keepdims=True), values[2])
    (found,) = run(graph, q=values[0], k=values[1], v=values[2])
    assert np.allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "(float[2,3] x) => (float[2,3] y) { y = Attention (x) }",
            "3 nodes of the model are not supported: .*missing a required argument",
        ),
        ("(float[2,3] x) => (float[2,3] y) { y = SoftmaxCrossEntropyLoss (x, x) }", "indices"),
    ],
)
def test_what_cannot_be_defined_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(pre.FileFormatError, match=words):
        run(onnx_io.load(model(text)), x=np.zeros((2, 3), np.float32))
