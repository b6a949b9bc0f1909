"""Regions, moved taps, labels, and the operators that count: beside onnxruntime or NumPy, written back, and refused where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage.io import onnx as onnx_io
from preimage.io.onnx import export

pytest.importorskip("onnx")
from onnx import TensorProto, helper
from onnx_models import model, onnxruntimes, ours

from preimage.ops.regions import roi_align

RNG = np.random.default_rng(3)
X = RNG.standard_normal((3, 4, 9, 8)).astype(np.float32)
ROIS = np.array([[0, 0, 30, 40], [-9, 4, 20.5, 17], [60, 10, 61, 70], [8, 8, 8, 8]], np.float32)
WHERE = np.array([2, 0, 1, 1])


def again(proto, feeds, tolerance=0.0, theirs=True):
    """What a model gives, the same as written by us and read back, and where it can as onnxruntime gives it from what we wrote."""
    found = ours(proto, feeds)
    written = export.from_graph(onnx_io.load(proto.SerializeToString()))
    for a, b in zip(found, ours(written, feeds), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    other = onnxruntimes(written, feeds) if theirs else None
    for a, b in zip(found, other or (), strict=bool(other)):
        assert a.tolist() == b.tolist() if a.dtype.kind == "U" else np.allclose(a, b, tolerance, tolerance, equal_nan=True)
    return found


@pytest.mark.parametrize("opset", [10, 16, 21])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align(opset, mode):
    how = {} if opset == 10 else {"coordinate_transformation_mode": "output_half_pixel"} if opset == 16 else {}
    sampling = 0 if mode == "avg" else 2
    node = helper.make_node("RoiAlign", ["x", "r", "i"], ["y"], output_height=3, output_width=2, spatial_scale=0.125, mode=mode,
                            sampling_ratio=sampling, **how)  # fmt: skip
    feeds = {"x": X, "r": ROIS, "i": WHERE}
    proto = model([node], feeds, opset=opset)
    (y,) = again(proto, feeds, 1e-5)
    wanted = roi_align(X, WHERE, ROIS, pooled=(3, 2), scale=0.125, sampling=sampling, mode=mode, half_pixel=opset == 21)
    assert np.array_equal(y, wanted)
    graph = onnx_io.load(proto.SerializeToString())
    pre.check_grads(lambda x: graph.run(feeds | {"x": x})["y"], [X.astype(np.float64)], trials=1)


def test_max_roi_pool():
    regions = np.concatenate([WHERE[:, None], ROIS], 1).astype(np.float32)
    node = helper.make_node("MaxRoiPool", ["x", "r"], ["y"], pooled_shape=[3, 2], spatial_scale=0.125)
    again(model([node], {"x": X, "r": regions[[0, 3]]}), {"x": X, "r": regions[[0, 3]]}, 0)


def test_deform_conv():
    w, b = RNG.standard_normal((6, 2, 3, 2)).astype(np.float32), RNG.standard_normal(6).astype(np.float32)
    offset, mask = RNG.uniform(-2, 2, (3, 24, 5, 7)).astype(np.float32), RNG.random((3, 12, 5, 7)).astype(np.float32)
    node = helper.make_node(
        "DeformConv", ["x", "w", "o", "b", "m"], ["y"], strides=[2, 1], pads=[1, 0, 1, 0], group=2, offset_group=2
    )
    proto = model([node], {"x": X, "o": offset, "m": mask}, {"w": w, "b": b}, opset=19)
    (y,) = again(proto, {"x": X, "o": offset, "m": mask}, 1e-4)
    graph = onnx_io.load(proto.SerializeToString())
    assert sorted(name for name, _ in graph.named_parameters()) == ["b", "w"]
    assert y.shape == (3, 6, 5, 7)


KEYS = {"keys_strings": ["b", "a", "ä"], "values_int64s": [5, 6, 7], "default_int64": -9}


@pytest.mark.parametrize(
    ("given", "attributes", "want"),
    [
        (np.array([["a", "ä"], ["b", "longer"]]), KEYS, [[6, 7], [5, -9]]),
        (np.array(["a", "b"], object), KEYS, [6, 5]),
        (np.array([3, 1, 8]), {"keys_int64s": [1, 3], "values_strings": ["one", "three"]}, ["three", "one", "_Unused"]),
        (np.array([3, 1, 8]), {"keys_int64s": [1, 3], "values_strings": ["one", "three"], "default_string": "more than three"},
         ["three", "one", "more than three"]),
        (np.array([np.nan, 1.5, -0.0], np.float32), {"keys_floats": [0.0, float("nan")], "values_floats": [2.5, 7.0]}, [7.0, -0.0, 2.5]),
        (np.array(["a", "c"]), {"keys_tensor": helper.make_tensor("k", 8, (2,), [b"a", b"b"]),
                                "values_tensor": helper.make_tensor("v", 5, (2,), [3, 4]),
                                "default_tensor": helper.make_tensor("d", 5, (1,), [9])}, [3, 9]),
        (np.array(["y", "x"]), {"classes_strings": ["x", "y"]}, [1, 0]),
        (np.array([1, 7]), {"classes_strings": ["x", "y"]}, ["y", "_Unused"]),
    ],
)  # fmt: skip
def test_labels(given, attributes, want):
    code = 8 if given.dtype.kind in "UO" else helper.np_dtype_to_tensor_dtype(given.dtype)
    node = helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", code, given.shape)], [helper.make_empty_tensor_value_info("y")]
    )
    version = 1 if "classes_strings" in attributes else 4
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", version)], ir_version=9)
    (y,) = ours(proto, {"x": given})
    assert y.tolist() == want
    again(proto, {"x": given})


def test_labels_take_no_more_room_than_is_allowed():
    long = helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_int64s=[0], values_strings=["a" * 10_000])
    graph = helper.make_graph(
        [long], "g", [helper.make_tensor_value_info("x", 7, (None,))], [helper.make_empty_tensor_value_info("y")]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 2)], ir_version=9)
    with pytest.raises(pre.FileFormatError, match="larger than the limit"):
        ours(proto, {"x": np.zeros(100_000, np.int64)})
    many = TensorProto(name="t", data_type=8, dims=[100_001], string_data=[b"a" * 100_000, *[b""] * 100_000])
    constant = model([helper.make_node("Constant", [], ["y"], value=many)], {})
    with pre.io.limits.limits(memory_bytes=2**30), pytest.raises(pre.FileFormatError, match="each as long as the longest"):
        ours(constant, {})


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "want"),
    [
        ("CumProd", [np.array([[1, 2, 3], [4, 5, 6]]), np.array(1)], {"exclusive": 1, "reverse": 1}, [[6, 3, 1], [30, 6, 1]]),
        ("CumSum", [np.array([1.0, 2, 4]), np.array(-1)], {"exclusive": 1}, [0, 1, 3]),
        ("Unique", [np.array([2, 1, 1, 3, 2])], {"sorted": 0}, [2, 1, 3]),
        ("Unique", [np.array([[1, 2], [0, 2], [1, 2]])], {"axis": 0}, [[0, 2], [1, 2]]),
        ("Det", [np.array([[[0.0, 2], [3, 4]], [[1, 2], [2, 4]]])], {}, [-6, 0]),
        ("BitShift", [np.array([1, 128, 3], np.uint8), np.array([1, 1, 8], np.uint8)], {"direction": "LEFT"}, [2, 0, 0]),
        ("BitShift", [np.array([16, 255], np.uint32), np.array([2, 40], np.uint32)], {"direction": "RIGHT"}, [4, 0]),
        ("BitCast", [np.array([1.0, -0.0], np.float32)], {"to": 6}, [1065353216, -(2**31)]),
        ("TensorScatter", [np.zeros((1, 4, 1)), np.ones((1, 2, 1)), np.array([3])], {"mode": "circular"}, [[[1], [0], [0], [1]]]),
    ],
)  # fmt: skip
def test_operators_that_count(op, inputs, attributes, want):
    feeds = {f"i{k}": v for k, v in enumerate(inputs)}
    opset = {"CumProd": 26, "BitCast": 26, "TensorScatter": 24}.get(op, 21)
    (y,) = again(model([helper.make_node(op, list(feeds), ["y"], **attributes)], feeds, opset=opset), feeds, theirs=False)
    assert y.tolist() == want


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "words"),
    [
        ("RoiAlign", [X, ROIS, WHERE + 3], {}, "image 3 to 5; there are 3"),
        ("RoiAlign", [X, np.where(ROIS == 30, np.float32(np.inf), ROIS), WHERE], {}, "not finite"),
        ("RoiAlign", [X, ROIS * np.float32(1e20), WHERE], {}, "larger than the limit"),
        ("RoiAlign", [X, ROIS, WHERE[:2]], {}, r"regions \(4, 4\) of the images \(2,\)"),
        ("MaxRoiPool", [X, ROIS], {"pooled_shape": [2, 2]}, "MaxRoiPool: x"),
        ("DeformConv", [X, X[:, :, :3, :3], X], {}, "offset has shape"),
        ("DeformConv", [X, X[:, :, :3, :3], X], {"kernel_shape": [2, 2]}, "kernel_shape"),
        ("Det", [X], {}, "not square"),
        ("BitShift", [X, X], {"direction": "LEFT"}, "BitShift: direction 'LEFT' of float32"),
        ("CumProd", [X, np.array([0, 1])], {}, "one integer"),
        ("Unique", [X], {"axis": 9}, "axis 9"),
        ("BitCast", [X], {"to": 1 + 10}, "differ in width"),
        ("TensorScatter", [X, X[:, :, :2], np.array([8, 0, 0])], {}, "wanted 0 to 7"),
    ],
)
def test_what_does_not_fit_is_refused(op, inputs, attributes, words):
    feeds = {f"i{k}": v for k, v in enumerate(inputs)}
    with pytest.raises(pre.PreimageError, match=words):
        ours(model([helper.make_node(op, list(feeds), ["y"], **attributes)], feeds, opset=26), feeds)
