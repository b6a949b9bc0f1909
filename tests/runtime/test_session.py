"""preimage.runtime beside onnxruntime: one script, two imports."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preimage as pre
import preimage.runtime as ours

theirs = pytest.importorskip("onnxruntime")
helper = pytest.importorskip("onnx.helper")
FLOAT, INT = 1, 7


def model(open_sizes: bool = True) -> Any:
    """Two inputs of which one is a list of sizes, two outputs, sizes with names."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((6, 3, 3, 3)) / 5).astype(np.float32)
    shape: list[Any] = ["batch", 3, "height", "width"] if open_sizes else [1, 3, 12, 10]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Reshape", ["r", "sizes"], ["flat"]),
        helper.make_node("GlobalAveragePool", ["r"], ["mean"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two outputs",
        [helper.make_tensor_value_info("x", FLOAT, shape), helper.make_tensor_value_info("sizes", INT, [2])],
        [helper.make_tensor_value_info("flat", FLOAT, None), helper.make_tensor_value_info("mean", FLOAT, [shape[0], 6, 1, 1])],
        [helper.make_tensor("w", FLOAT, weight.shape, weight.ravel())],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(made, {"author": "a test"})
    return made


def feeds(seed: int = 1) -> dict[str, Any]:
    x = np.random.default_rng(seed).standard_normal((1, 3, 12, 10)).astype(np.float32)
    return {"x": x, "sizes": np.array([6, -1], np.int64)}


@pytest.fixture(params=["path", "bytes"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    data = model().SerializeToString()
    if request.param == "bytes":
        return data
    (tmp_path / "m.onnx").write_bytes(data)
    return str(tmp_path / "m.onnx")


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_a_script_changes_one_import(source: Any, threads: int) -> None:
    answers = []
    for ort in (theirs, ours):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.dynamic_block_base", "4")
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        assert session.get_providers() == ["CPUExecutionProvider"]
        meta = session.get_modelmeta()
        assert (meta.graph_name, meta.custom_metadata_map) == ("two outputs", {"author": "a test"})
        named = [(a.name, list(a.shape), a.type) for a in session.get_inputs()]
        results = [[a.name, a.type] for a in session.get_outputs()]
        for _ in range(4):  # first run, the run that is recorded, the program's
            values = session.run(None, feeds())
        (mean,) = session.run(["mean"], feeds())
        np.testing.assert_array_equal(mean, values[1])
        answers.append((named, results, values))
    assert answers[0][:2] == answers[1][:2]
    for want, got in zip(answers[0][2], answers[1][2], strict=True):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_shapes_of_outputs_and_sizes_fixed_by_name() -> None:
    session = ours.InferenceSession(model().SerializeToString())
    assert [a.shape for a in session.get_outputs()][1] == ["batch", 6, 1, 1]
    options = ours.SessionOptions()
    options.add_free_dimension_override_by_name("batch", 1)
    session = ours.InferenceSession(model().SerializeToString(), options)
    assert session.get_inputs()[0].shape == [1, 3, "height", "width"]
    with pytest.raises(pre.ShapeError, match=r"'x' has shape \(2, 3, 12, 10\), wanted \(1, 3, 'height', 'width'\)"):
        session.run(None, feeds() | {"x": np.zeros((2, 3, 12, 10), np.float32)})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": np.zeros((1, 3, 12, 10))}, pre.DTypeError, "'x' has dtype float64, wanted float32"),
        ({"x": np.zeros((1, 4, 12, 10), np.float32)}, pre.ShapeError, r"'x' has shape \(1, 4, 12, 10\), wanted"),
        ({"x": np.zeros((3, 12, 10), np.float32)}, pre.ShapeError, r"'x' has shape \(3, 12, 10\)"),
        ({"y": np.zeros(1)}, pre.OptionError, "no input 'y'; its inputs: "),
        ({"sizes": None}, pre.OptionError, r"the inputs \['sizes'\] are missing"),
    ],
)
def test_wrong_inputs_are_named_at_the_call(change: dict[str, Any], error: type[Exception], words: str) -> None:
    session = ours.InferenceSession(model().SerializeToString())
    given = {k: v for k, v in (feeds() | change).items() if v is not None}
    with pytest.raises(error, match=words):
        session.run(None, given)
    with pytest.raises(Exception, match=r"."):
        theirs.InferenceSession(model().SerializeToString()).run(None, given)


def test_wrong_names_and_options() -> None:
    data = model().SerializeToString()
    session = ours.InferenceSession(data)
    with pytest.raises(pre.OptionError, match="no output 'z'; its outputs"):
        session.run(["z"], feeds())
    with pytest.raises(pre.OptionError, match="the one provider is 'CPUExecutionProvider'"):
        ours.InferenceSession(data, providers=["CUDAExecutionProvider"])
    options = ours.SessionOptions()
    with pytest.raises(pre.OptionError, match="has no 'intra_threads'"):
        options.intra_threads = 2  # type: ignore[attr-defined]
    with pytest.raises(pre.OptionError, match="a number of threads"):
        options.intra_op_num_threads = -1
    with pytest.raises(pre.FileFormatError, match="no ONNX model"):
        ours.InferenceSession(b"nothing")
    with pytest.raises(pre.FileFormatError, match="there is no file"):
        ours.InferenceSession("nowhere.onnx")
    with pytest.raises(pre.OptionError, match="a path or of a model's bytes"):
        ours.InferenceSession(7)  # type: ignore[arg-type]


def test_threads_share_a_session_and_nothing_is_written_to() -> None:
    session = ours.InferenceSession(model().SerializeToString())
    wanted = [ours.InferenceSession(model().SerializeToString()).run(None, feeds(k)) for k in range(4)]
    wrong: list[int] = []

    def work(k: int) -> None:
        given = feeds(k)
        for array in given.values():
            array.flags.writeable = False
        for _ in range(12):
            if not all(np.array_equal(a, b) for a, b in zip(session.run(None, given), wanted[k], strict=True)):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_optimise_and_export_at_the_top(tmp_path: Path) -> None:
    net = pre.nn.Sequential(pre.nn.Conv2d(3, 4, 3), pre.nn.ReLU())
    x = feeds()["x"]
    fast = pre.optimise(net, example=x)
    with pre.no_grad():
        np.testing.assert_array_equal(fast(x), np.asarray(net(x)))
    pre.export(fast, tmp_path / "net.onnx")
    session = ours.InferenceSession(tmp_path / "net.onnx")
    np.testing.assert_array_equal(session.run(None, {session.get_inputs()[0].name: x})[0], fast(x))
    with pytest.raises(pre.OptionError, match="example"):
        pre.optimise(net)


def test_weights_that_a_model_computes_are_computed_once() -> None:
    """A convolution whose weight other nodes make of stored arrays, more than small ones: nothing of that is left for a run."""
    rng = np.random.default_rng(5)
    nodes = [
        helper.make_node("ConstantOfShape", ["sizes"], ["w"], value=helper.make_tensor("v", FLOAT, [1], [0.25])),
        helper.make_node("Mul", ["w", "scale"], ["scaled"]),
        helper.make_node("Conv", ["x", "scaled"], ["y"]),
    ]
    scale = rng.standard_normal((40, 30, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        nodes, "computed", [helper.make_tensor_value_info("x", FLOAT, [1, 30, 7, 5])], [helper.make_tensor_value_info("y", FLOAT, None)],
        [helper.make_tensor("sizes", INT, [4], [40, 30, 2, 3]), helper.make_tensor("scale", FLOAT, scale.shape, scale.ravel())],
    )  # fmt: skip
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    session = ours.InferenceSession(data)
    assert [node.op for node in session._model.graph.nodes] == ["conv"]
    x = rng.standard_normal((1, 30, 7, 5)).astype(np.float32)
    (found,), (wanted,) = session.run(None, {"x": x}), theirs.InferenceSession(data).run(None, {"x": x})
    np.testing.assert_allclose(found, wanted, atol=1e-4)
