"""Files of opsets 1 to 5, and operators that ONNX dropped: each beside the same in today's words, and written back in them."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage.io import onnx as onnx_io
from preimage.io.onnx import export

pytest.importorskip("onnx")
from onnx import helper, numpy_helper
from onnx_models import model, onnxruntimes, ours

RNG = np.random.default_rng(7)
X = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
C, FLAT = np.float32([0.5, 2, -1]), np.float32([[0.5], [2], [-1]])
ROW = RNG.standard_normal((5,)).astype(np.float32)
MAPS = RNG.random((3, 4, 5)).astype(np.float32)
COLUMN = FLAT[..., None]
BIG = np.iinfo(np.int64).max
N = helper.make_node

#: Name: (opset, node as it was, its stored inputs, what it is).
CASES = {
    "Add along channels": (1, N("Add", ["x", "a"], ["y"], broadcast=1, axis=1, consumed_inputs=[0, 0]), {"a": C}, X + COLUMN),
    "Mul along the last axis": (5, N("Mul", ["x", "a"], ["y"], broadcast=1), {"a": ROW}, X * ROW),
    "Sub, axis without broadcast": (3, N("Sub", ["x", "a"], ["y"], axis=0), {"a": X}, X - X),
    "Relu": (1, N("Relu", ["x"], ["y"], consumed_inputs=[0]), {}, np.maximum(X, 0)),
    "Max": (1, N("Max", ["x", "a"], ["y"], consumed_inputs=[0]), {"a": X[::-1].copy()}, np.maximum(X, X[::-1])),
    "Clip": (1, N("Clip", ["x"], ["y"], min=-0.5, max=0.5, consumed_inputs=[0]), {}, np.clip(X, -0.5, 0.5)),
    "Reshape": (1, N("Reshape", ["x"], ["y"], shape=[0, -1]), {}, X.reshape(2, -1)),
    "Concat": (3, N("Concat", ["x", "x"], ["y"]), {}, np.concatenate([X, X], 1)),
    "Pad": (1, N("Pad", ["x"], ["y"], paddings=[0, 0, 1, 0, 0, 0, 2, 1], value=3.0), {},
            np.pad(X, ((0, 0), (0, 0), (1, 2), (0, 1)), constant_values=3)),
    "Cast": (5, N("Cast", ["x"], ["y"], to="INT32"), {}, X.astype(np.int32)),
    "Split": (2, N("Split", ["x"], ["y", "z"], axis=2, split=[1, 3]), {}, X[:, :, :1]),
    "Tile": (1, N("Tile", ["x", "t", "a"], ["y"]), {"t": np.float32([2]), "a": np.float32([3])}, np.concatenate([X, X], 3)),
    "Upsample": (1, N("Upsample", ["x"], ["y"], height_scale=2.0, width_scale=3.0, mode="nearest"), {}, X.repeat(2, 2).repeat(3, 3)),
    "BatchNormalization": (1, N("BatchNormalization", ["x", "a", "a", "m", "v"], ["y"], is_test=1, consumed_inputs=[0] * 5, epsilon=0.5),
                           {"a": C, "m": -C, "v": C * C}, (X + COLUMN) / np.sqrt(COLUMN**2 + 0.5) * COLUMN + COLUMN),
    "BatchNormalization of every element": (6, N("BatchNormalization", ["x", "a", "a", "m", "v"], ["y"], is_test=1, spatial=0, epsilon=0.5),
                                            {"a": MAPS, "m": -MAPS, "v": MAPS * MAPS}, (X + MAPS) / np.sqrt(MAPS**2 + 0.5) * MAPS + MAPS),
    "LpPool": (1, N("LpPool", ["x"], ["y"], kernel_shape=[4, 5], p=2.0), {}, np.sqrt((X**2).sum((2, 3), keepdims=True))),
    "Gemm": (5, N("Gemm", ["f", "a", "b"], ["y"], broadcast=1), {"f": X[0, 0], "a": X[1, 1].T.copy(), "b": X[0, 0, 0, :4]},
             X[0, 0] @ X[1, 1].T + X[0, 0, 0, :4]),
    "PRelu": (5, N("PRelu", ["x", "a"], ["y"]), {"a": C}, np.where(X < 0, COLUMN * X, X)),
    "Dropout": (1, N("Dropout", ["x"], ["y"], is_test=1, ratio=0.3, consumed_inputs=[0]), {}, X),
    "Affine": (5, N("Affine", ["x"], ["y"], alpha=2.0, beta=0.5), {}, X * 2 + np.float32(0.5)),
    "ImageScaler": (8, N("ImageScaler", ["x"], ["y"], scale=0.5, bias=[1.0, 2.0, 3.0]), {},
                    X * np.float32(0.5) + np.float32([1, 2, 3])[:, None, None]),
    "Scale": (2, N("Scale", ["x"], ["y"], scale=3.0), {}, X * 3),
    "ScaledTanh": (4, N("ScaledTanh", ["x"], ["y"], alpha=2.0, beta=0.5), {}, 2 * np.tanh(X / 2)),
    "ParametricSoftplus": (4, N("ParametricSoftplus", ["x"], ["y"], alpha=2.0, beta=0.5), {}, 2 * np.log1p(np.exp(X / 2))),
    "Crop": (6, N("Crop", ["x"], ["y"], border=[1, 0, 2, 1]), {}, X[:, :, 0:3, 1:3]),
    "Crop of a size": (6, N("Crop", ["x"], ["y"], border=[1, 1, 0, 0], scale=[2, 3]), {}, X[:, :, 1:3, 1:4]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_was_written_then_is_read_and_written_as_today(name):
    opset, node, stored, want = CASES[name]
    proto = model([node], {"x": X}, stored, opset=opset)
    (y,) = ours(proto, {"x": X})
    assert y.dtype == want.dtype
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
    graph = onnx_io.load(proto)
    written = export.from_graph(graph)
    assert {n.domain for n in written.graph.node} == {""}
    assert written.opset_import[0].version == 21
    (back,) = ours(written, {"x": X})
    assert np.array_equal(back, y)
    for found in onnxruntimes(written, {"x": X} if written.graph.input else {}) or ():
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


def test_inside_branches_and_without_an_opset():
    branch = helper.make_graph(
        [N("ImageScaler", ["x"], ["t"], scale=2.0, bias=[1.0])], "b", [], [helper.make_empty_tensor_value_info("t")]
    )
    other = helper.make_graph([N("Affine", ["x"], ["e"], alpha=2.0)], "b", [], [helper.make_empty_tensor_value_info("e")])
    proto = model([N("If", ["c"], ["y"], then_branch=branch, else_branch=other)], {"x": X, "c": np.array(True)}, opset=1)
    del proto.opset_import[:]
    proto.ir_version = 2
    assert np.allclose(ours(proto, {"x": X, "c": np.array(True)})[0], X * 2 + 1)
    assert np.allclose(ours(proto, {"x": X, "c": np.array(False)})[0], X * 2)


def test_a_net_of_the_first_files_trains_and_comes_back_with_its_bits():
    w, b = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32), RNG.standard_normal(4).astype(np.float32)
    nodes = [
        N("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        N("Add", ["c", "b"], ["d"], broadcast=1, axis=1, consumed_inputs=[0, 0]),
        N("Relu", ["d"], ["r"], consumed_inputs=[0]),
        N("Reshape", ["r"], ["y"], shape=[0, -1]),
    ]
    proto = model(nodes, {"x": X}, {"w": w, "b": b}, opset=3)
    graph = onnx_io.load(proto)
    assert sorted(name for name, _ in graph.named_parameters()) == ["b", "w"]
    graph(X).sum().backward()
    assert all(p.grad is not None for p in graph.parameters())
    written = export.from_graph(onnx_io.load(proto))
    kept = {t.name: numpy_helper.to_array(t) for t in written.graph.initializer}
    assert np.array_equal(kept["w"], w)
    assert np.array_equal(kept["b"], b)


@pytest.mark.parametrize(
    ("opset", "node", "words"),
    [
        (5, N("Cast", ["x"], ["y"], to="COMPLEX"), "'to' is 'COMPLEX', wanted the name of a type"),
        (1, N("Upsample", ["x"], ["y"], height_scale=2.0), "'height_scale' is 2.0, wanted a number, and width_scale"),
        (1, N("LpPool", ["x"], ["y"], kernel_shape=[2, 2], p=2.5), "'p' is 2.5, wanted a whole number"),
        (8, N("Crop", ["x"], ["y"], border=[1, 2]), r"'border' is \[1, 2\], wanted 4 numbers"),
        (8, N("ImageScaler", ["x"], ["y"], bias=["a"]), "wanted a list of numbers"),
        (8, N("Scale", ["x"], ["y"], scale="two"), "'scale' is 'two', wanted a number"),
        (5, N("GivenTensorFill", ["x"], ["y"]), "GivenTensorFill"),
        (29, N("Relu", ["x"], ["y"]), "opset 29; supported are 1 to 28"),
    ],
)
def test_what_was_never_so_is_refused(opset, node, words):
    with pytest.raises(pre.FileFormatError, match=words):
        onnx_io.load(model([node], {"x": X}, opset=opset))
