"""Operators of com.microsoft and GridSample against onnxruntime."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_onnx_quantised import net, ours, theirs

import preimage as pre
from preimage.io import onnx as onnx_io

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


CASES = {
    "FusedConv": (
        [floats(2, 3, 7, 6), floats(4, 3, 3, 2), floats(4)],
        {"activation": "Relu", "pads": [1, 0, 1, 1], "strides": [2, 1]},
    ),
    "FusedConv leaky": ([floats(2, 3, 7, 6), floats(4, 3, 3, 2)], {"activation": "LeakyRelu", "activation_params": [0.3]}),
    "FusedConv clip": (
        [floats(2, 3, 7, 6), floats(4, 3, 3, 2), floats(4)],
        {"activation": "Clip", "activation_params": [-0.5, 1.0]},
    ),
    "FusedConv sum": ([floats(2, 3, 5, 4), floats(4, 3, 1, 1), floats(4), floats(2, 4, 5, 4)], {"activation": "Relu"}),
    "FusedGemm": ([floats(3, 4), floats(5, 4), floats(5)], {"activation": "LeakyRelu", "activation_alpha": 0.2, "transB": 1}),
    "FusedMatMul": ([floats(2, 4, 3), floats(2, 5, 4)], {"alpha": 0.5, "transA": 1, "transB": 1}),
    "FusedMatMul batch": ([floats(4, 2, 3), floats(2, 3, 5)], {"transBatchA": 1}),
    "Gelu": ([floats(3, 4)], {}),
    "BiasGelu": ([floats(3, 4), floats(4)], {}),
    "FastGelu": ([floats(3, 4), floats(4)], {}),
    "QuickGelu": ([floats(3, 4)], {"alpha": 1.5}),
    "SkipLayerNormalization": ([floats(2, 3, 8), floats(2, 3, 8), floats(8), floats(8), floats(8)], {"epsilon": 0.01}),
    "SkipSimplifiedLayerNormalization": ([floats(2, 3, 8), floats(2, 3, 8), floats(8), floats(8)], {"epsilon": 0.01}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fused_word_agrees_with_onnxruntime(name):
    inputs, attributes = CASES[name]
    model, feeds = net(name.split()[0], inputs, domain="com.microsoft", **attributes)
    np.testing.assert_allclose(ours(model, feeds)[0], theirs(model, feeds)[0], rtol=1e-4, atol=2e-6)


def test_the_sum_that_a_skip_normalises_is_given_too():
    inputs, attributes = CASES["SkipLayerNormalization"]
    model, feeds = net("SkipLayerNormalization", inputs, ("y", "", "", "total"), domain="com.microsoft", **attributes)
    del model.graph.output[:]
    model.graph.output.extend([net("Gelu", [inputs[0]])[0].graph.output[0]])
    model.graph.output[0].name = "total"
    assert np.array_equal(ours(model, feeds)[0], inputs[0] + inputs[1] + inputs[4])


@pytest.mark.parametrize(
    ("mode", "padding"), [*itertools.product(["linear", "nearest", "cubic"], ["zeros", "border", "reflection"])]
)
def test_grid_sample_agrees_with_torch(mode, padding):
    torch = pytest.importorskip("torch")
    x, grid = floats(2, 3, 5, 4), (RNG.random((2, 6, 7, 2)) * 3.2 - 1.6).astype(np.float32)
    for aligned in (False, True):
        word = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
        want = torch.nn.functional.grid_sample(torch.tensor(x), torch.tensor(grid), word, padding, aligned).numpy()
        model, feeds = net("GridSample", [x, grid], mode=word, padding_mode=padding, align_corners=int(aligned))
        np.testing.assert_allclose(ours(model, feeds)[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sample_has_gradients_of_image_and_grid(mode, padding):
    model, _ = net("GridSample", [floats(1, 2, 4, 3), floats(1, 3, 2, 2)], mode=mode, padding_mode=padding)
    graph = onnx_io.load(model)
    x, grid = RNG.standard_normal((1, 2, 4, 3)), RNG.random((1, 3, 2, 2)) * 2.4 - 1.2
    pre.check_grads(lambda a, b: graph.run({"i0": a, "i1": b})["y"], [x, grid], trials=1)
