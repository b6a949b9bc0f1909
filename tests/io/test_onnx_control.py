"""If, Loop and Scan against onnxruntime: graphs inside graphs, what they take from outside, gradients, and loops that would not end."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_control_models import BRANCHES, HEAD, SCAN, WHILE

import preimage as pre
from preimage.io import onnx as onnx_io
from preimage.io.graph import optimise
from preimage.io.limits import limits
from preimage.io.onnx import export

onnx = pytest.importorskip("onnx")

RNG = np.random.default_rng(0)


def model(text):
    return onnx.parser.parse_model(HEAD + text)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def feeds_of(name):
    return {
        "then": (BRANCHES, {"x": floats(2, 3), "c": np.array(True)}),
        "else": (BRANCHES, {"x": floats(2, 3), "c": np.array(False)}),
        "until it is small": (WHILE, {"x": np.abs(floats(2, 3)) + 1, "most": np.array(50), "go": np.array(True)}),
        "twice": (WHILE, {"x": np.abs(floats(2, 3)) + 1, "most": np.array(2), "go": np.array(True)}),
        "scan": (SCAN, {"start": floats(3), "x": floats(4, 5, 3), "t": floats(5, 2)}),
    }[name]


def ours(graph, feeds):
    with pre.no_grad():
        found = graph.run(feeds)
    return [np.asarray(found[k]) for k in graph.outputs]


def theirs(proto, feeds):
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize("name", ["then", "else", "until it is small", "twice", "scan"])
def test_graphs_inside_nodes_agree_with_onnxruntime(name):
    text, feeds = feeds_of(name)
    proto = model(text)
    want = theirs(proto, feeds)
    graph = onnx_io.load(proto)
    for each in (graph, optimise(graph)):
        for _ in range(2):  # a second run of the same shapes is not metered anew
            for a, b in zip(ours(each, feeds), want, strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_loop_that_makes_no_trip_gives_what_it_was_given():
    text, feeds = feeds_of("twice")
    root, steps, counts = ours(onnx_io.load(model(text)), feeds | {"most": np.array(0)})
    assert np.array_equal(root, feeds["x"])
    assert (len(steps), steps.dtype, len(counts), counts.dtype) == (0, np.float32, 0, np.int64)


@pytest.mark.parametrize("name", ["then", "twice", "scan"])
def test_gradients_go_through_graphs_inside_nodes(name):
    text, feeds = feeds_of(name)
    graph = onnx_io.load(model(text)).astype(np.float64)
    keys = [k for k, v in feeds.items() if v.dtype == np.float32]

    def call(*values):
        found = graph.run(feeds | dict(zip(keys, values, strict=True)))
        return tuple(found[k] for k in graph.outputs if k != "counts")

    pre.check_grads(call, [feeds[k].astype(np.float64) for k in keys], trials=1, rtol=1e-5)


def test_weights_inside_are_parameters_of_the_whole(tmp_path):
    text = """(float[2, 3] x, bool c) => (float[2, 4] y)
    { y = If (c) < then_branch = t () => (float[2, 4] p) <float[3, 4] w = {1,2,3,4,5,6,7,8,9,10,11,12}> { p = MatMul (x, w) },
                   else_branch = e () => (float[2, 4] q) <float[3, 4] w = {1,0,0,0,0,1,0,0,0,0,1,0}> { q = MatMul (x, w) } > }"""
    graph = onnx_io.load(model(text))
    assert sorted(p.shape for p in graph.parameters()) == [(3, 4), (3, 4)]
    x = floats(2, 3)
    result = graph(x, np.array(False))
    assert np.array_equal(result.data[:, :3], x)
    result.sum().backward()
    assert [p.grad is not None for _, p in graph.named_parameters()] == [False, True]
    pre.save_model(graph, tmp_path / "w.npz")
    assert len(pre.io.load_weights(tmp_path / "w.npz")) == 2


@pytest.mark.parametrize("name", ["then", "until it is small", "scan"])
def test_graphs_inside_nodes_are_written(name):
    """As read, rewritten, and read back and written again: onnxruntime gives what we give, and weights keep names and bits."""
    text, feeds = feeds_of(name)
    graph = onnx_io.load(model(text))
    twice = onnx_io.load(export.from_graph(onnx_io.load(export.from_graph(graph))))
    wanted = ours(graph, feeds)
    for each in (graph, optimise(graph), twice):
        proto = export.from_graph(each)
        if name != "until it is small":  # what a loop gives may have any shape, and the checker wants one
            onnx.checker.check_model(proto, full_check=True)
        for found in (theirs(proto, feeds), ours(onnx_io.load(proto), feeds)):
            for a, b in zip(found, wanted, strict=True):
                assert a.shape == b.shape
                assert a.dtype == b.dtype
                assert np.allclose(a, b, rtol=1e-5, atol=1e-6)
    before, after = (sorted(p.data.tobytes() for p in g.parameters()) for g in (graph, twice))
    assert before == after


FOREVER = """(float[3] x) => (float[3] y)
<int64 most = {9223372036854775807}, bool go = {1}>
{ y = Loop (most, go, x) < body = b (int64 i, bool c, float[3] s) => (bool c, float[3] t) { t = Neg (s) } > }"""


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"trips": 100}, "more than the 100 trips allowed"),
        ({"flop": 2**30}, "flop in one run"),
        ({"seconds": 0.2}, r"0\.2 s allowed"),
    ],
)
def test_a_loop_that_would_not_end_is_stopped(budget, words):
    graph = onnx_io.load(model(FOREVER))
    for _ in range(2):
        with limits(**budget), pytest.raises(pre.FileFormatError, match=words):
            ours(graph, {"x": floats(3)})


def test_results_that_a_loop_keeps_count_as_memory():
    text = (
        FOREVER.replace("(float[3] y)", "(float[3] y, float[K, 65536] z)")
        .replace("y = Loop", "y, z = Loop")
        .replace(
            "(bool c, float[3] t) { t", "(bool c, float[3] t, float[65536] u) <int64[1] n = {65536}> { u = ConstantOfShape (n)  t"
        )
    )
    with limits(memory_bytes=10 << 20), pytest.raises(pre.FileFormatError, match="of memory"):
        ours(onnx_io.load(model(text)), {"x": floats(3)})


def test_nested_loops_count_as_one_run():
    inner = FOREVER[FOREVER.index("{ y") :].replace("y = Loop (most, go, x)", "t = Loop (few, go, s)")
    inner = inner.replace("int64 i, bool c, float[3] s", "int64 j, bool d, float[3] v")
    inner = inner.replace("(bool c, float[3] t) { t = Neg (s) }", "(bool d, float[3] r) { r = Neg (v) }")
    text = FOREVER.replace("{ t = Neg (s) }", inner).replace("9223372036854775807", "50")
    text = text.replace("<int64 most", "<int64 few = {50}, int64 most")
    graph = onnx_io.load(model(text))
    assert ours(graph, {"x": np.ones(3, np.float32)})[0].tolist() == [1, 1, 1]
    with limits(flop=2**35), pytest.raises(pre.FileFormatError, match="flop in one run"):  # 2,500 nodes of 2^24 each
        ours(graph, {"x": floats(3)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("Neg (s)", "Nope (s)"), r"1 nodes of the model are not supported: .*\(Nope\)"),
        (("Neg (s)", "Neg (nowhere)"), "takes 'nowhere'"),
        (("(int64 i, bool c, float[3] s)", "(int64 i, bool c)"), "which nothing makes"),
        (("(bool c, float[3] t)", "(bool c)"), "gives 1 values, wanted at least 2"),
        (("{ y = Loop", "{ y, z = Loop"), "gives 1 values, the node names 2"),
    ],
)
def test_unsound_graphs_are_refused_in_words(change, words):
    text = FOREVER.replace(*change).replace("9223372036854775807", "3")
    assert text != FOREVER
    with pytest.raises(pre.PreimageError, match=words):
        ours(onnx_io.load(model(text)), {"x": floats(3)})


def test_an_if_without_its_condition_is_refused():
    with pytest.raises(pre.FileFormatError, match="If: takes one input, its condition; the node gives 0"):
        ours(onnx_io.load(model(BRANCHES.replace("If (c)", "If ()"))), {"x": floats(2, 3), "c": np.array(True)})


def test_graphs_inside_graphs_have_a_bounded_depth():
    text = "Neg (x)"
    for k in range(20):
        other = f"e{k} () => (float[3] b{k}) {{ b{k} = Neg (x) }}"
        text = f"If (c) < then_branch = t{k} () => (float[3] a{k}) {{ a{k} = {text} }}, else_branch = {other} >"
    with pytest.raises(pre.FileFormatError, match="depth of more than 16"):
        onnx_io.load(model(f"(float[3] x, bool c) => (float[3] y) {{ y = {text} }}"))


def test_an_input_too_many_does_not_stand_for_an_attribute():
    text = "(float[3] x, int64 to) => (int64[3] y) { y = Cast <to = 7> (x, to) }"
    with pytest.raises(pre.FileFormatError, match="Cast with 2 inputs"):
        onnx_io.load(model(text))
