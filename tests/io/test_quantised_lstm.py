"""DynamicQuantizeLSTM on kernels: the bits of its definition, which goes step by step through dynamically quantised products."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage.engines import integers
from preimage.io import onnx as onnx_io
from preimage.io.graph import optimise
from preimage.io.onnx.operators import quantised_recurrent

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

#: steps, batch, inputs, hidden; direction; scales: one a direction or one a column; the node's other attributes; whether there are peepholes.
CASES = [
    (6, 2, 5, 4, "forward", False, {}, False),
    (7, 3, 9, 21, "reverse", True, {}, True),
    (5, 1, 16, 64, "bidirectional", True, {"clip": 2.5}, False),
    (9, 2, 8, 33, "bidirectional", False, {"clip": 0.5, "input_forget": 1}, True),
    (1, 1, 3, 1, "bidirectional", False, {}, False),
    (
        4,
        2,
        6,
        40,
        "forward",
        True,
        {"activations": ["HardSigmoid", "Softsign", "LeakyRelu"], "activation_alpha": [0.3, 0.1]},
        True,
    ),
]


def net(steps, batch, size, hidden, direction, each, attributes, peepholes, weight_zero=0):
    """A model of one layer, its weights stored, and what it is fed."""
    rng, count = np.random.default_rng(steps * hidden + batch), 2 if direction == "bidirectional" else 1
    scales = (count, 4 * hidden) if each else (count,)
    stored = {
        "w": rng.integers(-128, 128, (count, size, 4 * hidden)).astype(np.int8),
        "r": rng.integers(-128, 128, (count, hidden, 4 * hidden)).astype(np.int8),
        "b": rng.standard_normal((count, 8 * hidden)).astype(np.float32),
        "p": rng.standard_normal((count, 3 * hidden)).astype(np.float32),
        "ws": (rng.random(scales) * 0.02 + 0.002).astype(np.float32),
        "wz": np.full(scales, weight_zero, np.int8),
        "rs": (rng.random(scales) * 0.02 + 0.002).astype(np.float32),
        "rz": np.full(scales, weight_zero, np.int8),
    }
    feeds = {"x": rng.standard_normal((steps, batch, size)).astype(np.float32)}
    feeds |= {name: rng.standard_normal((count, batch, hidden)).astype(np.float32) for name in "hc"}
    names = ["x", "w", "r", "b", "", "h", "c", "p" if peepholes else "", "ws", "wz", "rs", "rz"]
    node = helper.make_node(
        "DynamicQuantizeLSTM", names, ["y", "last_h", "last_c"], domain="com.microsoft", hidden_size=hidden, direction=direction,
        **{key: value * count if isinstance(value, list) else value for key, value in attributes.items()},
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "net", [helper.make_tensor_value_info(name, 1, value.shape) for name, value in feeds.items()],
        [onnx.ValueInfoProto(name=name) for name in node.output], [numpy_helper.from_array(v, k) for k, v in stored.items() if k in names],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return onnx_io.load(helper.make_model(graph, opset_imports=opsets, ir_version=10)).eval(), feeds


def by_definition(graph, feeds, monkeypatch):
    with monkeypatch.context() as patch, pre.no_grad():
        patch.setattr(quantised_recurrent, "_by_kernels", lambda *arguments: None)
        return {name: np.array(value) for name, value in graph.run(feeds).items()}


def same(found, want):
    return all(found[name].tobytes() == value.tobytes() and found[name].shape == value.shape for name, value in want.items())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[4]}-{case[3]}")
def test_kernels_give_the_bits_of_the_definition(case, monkeypatch):
    graph, feeds = net(*case)
    want = by_definition(graph, feeds, monkeypatch)
    runs = []
    kept = integers.lstm
    monkeypatch.setattr(integers, "lstm", lambda directions: runs.append(kept(directions)) or runs[-1])
    for threads in (1, 2, 3):
        with pre.no_grad(), pre.config(threads=threads, engine="jit"):
            assert same(graph.run(feeds), want)
    assert runs == [True] * 3


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[4]}-{case[3]}")
def test_a_program_runs_it_as_kernels_alone(case, monkeypatch):
    graph, feeds = net(*case)
    want = by_definition(graph, feeds, monkeypatch)
    done = optimise(graph)
    for threads in (1, 2):
        with pre.no_grad(), pre.config(threads=threads, engine="jit"):
            assert all(same(done.run(feeds), want) for _ in range(3))
            assert done.why_no_program is None
            assert not done.programs[-1].functions
            other = {name: value[::-1] * np.float32(0.5) for name, value in feeds.items()}
            other = {name: np.ascontiguousarray(value) for name, value in other.items()}
            assert same(done.run(other), by_definition(graph, other, monkeypatch))


def test_zero_points_of_weights_and_numbers_that_are_none(monkeypatch):
    graph, feeds = net(*CASES[1], weight_zero=3)
    with pre.no_grad(), pre.config(engine="jit"):
        assert same(graph.run(feeds), by_definition(graph, feeds, monkeypatch))
        for wrong in (np.nan, np.inf):
            feeds["x"][2, 1, 3] = wrong
            found, want = graph.run(feeds), by_definition(graph, feeds, monkeypatch)
            assert all(np.array_equal(found[name], want[name], equal_nan=True) for name in want)


def test_an_engine_without_integer_kernels_goes_step_by_step(monkeypatch):
    graph, feeds = net(*CASES[0])
    want = by_definition(graph, feeds, monkeypatch)
    with pre.no_grad(), pre.config(engine="gemm"):
        found = graph.run(feeds)
    assert all(np.abs(found[name] - want[name]).max() < 2e-2 for name in want)
