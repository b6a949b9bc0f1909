"""A graph as one program: the same bits as node by node, no Python between the nodes, results of their own, reasons where there is none."""

from __future__ import annotations

import copy
import gc
import os
import signal
import sys
import threading
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.engines.recording import Recorder
from preimage.io.graph import Graph, Input, Node, graph_op, optimise
from preimage.io.graph import words as words_of_programs
from preimage.io.graph.passes import prepare_weights
from preimage.io.graph.programs import MOST_PROGRAMS
from preimage.io.onnx import operators  # noqa: F401 - its words register themselves

pytestmark = pytest.mark.skipif(pre.engines()["jit"] != "available", reason="programs are made of the jit engine's kernels")
SAME = {"padding": ((1, 1), (1, 1))}
Arrays = dict[str, Any]


def array(*shape: int, seed: int = 0) -> Any:
    return (np.random.default_rng(seed).standard_normal(shape) / 3).astype(np.float32)


def picture(*shape: int, seed: int = 1) -> Any:
    return array(*(shape or (2, 3, 14, 18)), seed=seed)


def net() -> Graph:
    """Convolutions, a residual, a mean, a product, a concatenation, windows, views, a copy in order, functions of one value."""
    nodes = [
        Node("a", "conv", ("x", "wa", "ba"), ("a",), {**SAME, "activation": "relu"}),
        Node("b", "conv", ("a", "wb", "", "a"), ("b",), {**SAME, "groups": 8}),
        Node("p", "max_pool", ("b",), ("p",), {"kernel_size": (2, 3), "stride": (2, 3)}),
        Node("u", "conv_transpose", ("p", "wu"), ("u",), {"stride": (2, 3)}),
        Node("c", "concat", ("u", "b"), ("c",), {"axis": 1}),
        Node("s", "sigmoid", ("c",), ("s",)),
        Node("h", "mul", ("s", "c"), ("h",)),
        Node("m", "global_avg_pool", ("h",), ("m",)),
        Node("f", "reshape", ("h",), ("f",), {"target": (0, 13, -1)}),
        Node("t", "transpose", ("f",), ("t",), {"axes": (0, 2, 1)}),
        Node("r", "matmul", ("t", "wr"), ("r",)),
        Node("q", "softmax", ("r",), ("q",), {"axis": -1}),
        Node("v", "slice_axis", ("q",), ("v",), {"axis": 1, "start": 2, "stop": 40}),
    ]
    stored = {
        "wa": array(8, 3, 3, 3), "ba": array(8), "wb": array(8, 1, 3, 3, seed=2), "wu": array(8, 5, 2, 3, seed=3), "wr": array(13, 11, seed=4),
    }  # fmt: skip
    return Graph(nodes, [Input("x", (None, 3, None, None))], ["v", "m"], parameters=stored).eval()  # type: ignore[return-value]


def by_nodes(graph: Graph, feeds: Arrays) -> Arrays:
    """The values node by node: a run whose steps are listed is no program's."""
    with pre.no_grad():
        return graph.run(feeds, steps=[])


def same(found: Arrays, want: Arrays) -> None:
    for key, value in want.items():
        assert np.asarray(found[key]).dtype == value.dtype
        np.testing.assert_array_equal(found[key], value)


def recorded(graph: Graph, feeds: Arrays) -> Graph:
    with pre.no_grad():
        graph.run(feeds)
        graph.run(feeds)
    assert graph.programs, graph.why_no_program
    return graph


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_program_gives_the_bits_of_the_nodes(threads: int) -> None:
    with pre.config(threads=threads), pre.no_grad():
        graph = recorded(optimise(net()), {"x": picture()})
        (program,) = graph.programs
        assert not program.functions
        for seed in range(5, 9):
            feeds = {"x": picture(seed=seed) * 3}
            same(graph.run(feeds), by_nodes(optimise(net()), feeds))
            assert graph.why_no_program is None


def test_no_python_runs_between_the_nodes() -> None:
    """Twenty times as many nodes take as many Python calls."""

    def chain(length: int) -> Graph:
        nodes = [Node(f"n{k}", "conv", (f"v{k}", "w"), (f"v{k + 1}",), SAME) for k in range(length)]
        return optimise(Graph(nodes, [Input("v0", (1, 4, 6, 6))], [f"v{length}"], parameters={"w": array(4, 4, 3, 3)}).eval())  # type: ignore[arg-type]

    counts = []
    for length in (10, 200):
        graph, feeds = chain(length), {"v0": picture(1, 4, 6, 6)}
        with pre.no_grad():
            recorded(graph, feeds)
            counts.append(_calls(lambda graph=graph, feeds=feeds: graph.run(feeds)))  # type: ignore[misc]
            assert graph.programs[-1].kernels >= length
    assert counts[0] == counts[1]


def _calls(work: Any) -> int:
    count = 0

    def look(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    work()
    gc.disable()
    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def test_results_are_memory_of_their_own() -> None:
    graph, x = recorded(optimise(net()), {"x": picture()}), picture()
    with pre.no_grad():
        first = graph.run({"x": x})
        copies = {k: v.copy() for k, v in first.items()}
        for seed in range(20, 26):
            later = graph.run({"x": picture(seed=seed)})
            assert not any(np.shares_memory(a, b) for a in first.values() for b in later.values())
    same(first, copies)
    for value in first.values():
        value[...] = 0  # a result is the caller's
    with pre.no_grad():
        same(graph.run({"x": x}), copies)


def test_outputs_that_are_views_of_inputs_are_copies() -> None:
    nodes = [
        Node("r", "relu", ("x",), ("r",)),
        Node("i", "identity", ("m",), ("i",)),
        Node("t", "transpose", ("x",), ("t",), {"axes": (0, 2, 3, 1)}),
        Node("z", "onnx.Resize", ("r", "", "ones"), ("z",), {"mode": "nearest"}),
    ]
    inputs = [Input("x", (None, 3, None, None)), Input("m", (None, 5))]
    graph = Graph(nodes, inputs, ["r", "i", "t", "z"], constants={"ones": np.ones(4, np.float32)}).eval()  # type: ignore[return-value]
    feeds = {"x": picture(), "m": array(2, 5)}
    done = recorded(optimise(graph), feeds)
    assert not done.programs[-1].functions
    for seed in (3, 4):
        feeds = {"x": picture(seed=seed), "m": array(2, 5, seed=seed)}
        with pre.no_grad():
            found = done.run(feeds)
        same(found, {"r": np.maximum(feeds["x"], 0), "i": feeds["m"], "t": feeds["x"].transpose(0, 2, 3, 1), "z": found["r"]})
        assert not any(np.shares_memory(a, b) for a in found.values() for b in feeds.values())


def test_shapes_that_change_keep_few_programs_and_are_right() -> None:
    graph = optimise(net())
    with pre.no_grad():
        for turn in range(3):
            for size in range(MOST_PROGRAMS + 3):
                feeds = {"x": picture(1, 3, 8 + 2 * size, 12, seed=turn)}
                same(graph.run(feeds), by_nodes(optimise(net()), feeds))
    assert 0 < len(graph.programs) <= MOST_PROGRAMS
    assert graph.buffer_bytes > 0
    made = sum(step.output_bytes for step in _steps(optimise(net()), feeds))
    assert graph.programs[-1].run_bytes < 0.7 * made  # values that do not live at the same time share their place
    graph.release()
    assert not graph.programs
    assert graph.buffer_bytes == 0


def _steps(graph: Graph, feeds: Arrays) -> list[Any]:
    steps: list[Any] = []
    with pre.no_grad():
        graph.run(feeds, steps=steps)
    return steps


def test_layouts_and_settings_have_programs_of_their_own() -> None:
    graph, x = optimise(net()), picture()
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    want = by_nodes(optimise(net()), {"x": x})
    with pre.no_grad():
        for _ in range(3):
            for each in (x, last, x[:, :, ::-1][:, :, ::-1], np.asfortranarray(x)):
                same(graph.run({"x": each}), want)
            with pre.config(engine="gemm"):
                graph.run({"x": x})
                assert graph.why_no_program is not None


def test_parts_that_lie_in_other_ways_are_copied_by_kernels() -> None:
    """Half of the channels into a convolution, parts of two orders of memory side by side, a mean over several blocks."""
    nodes = [
        Node("a", "conv", ("x", "w"), ("a",), {**SAME, "innermost": True}),
        Node("h", "slice_axis", ("a",), ("h",), {"axis": 1, "start": 1, "stop": 3}),
        Node("b", "conv", ("h", "v"), ("b",), SAME),
        Node("c", "concat", ("b", "x"), ("c",), {"axis": 1}),
        Node("n", "neg", ("c",), ("n",)),
        Node("m", "global_avg_pool", ("n",), ("m",)),
    ]
    stored = {"w": array(4, 4, 3, 3), "v": array(5, 2, 3, 3, seed=2)}

    def make() -> Graph:
        return prepare_weights(Graph(nodes, [Input("x", None)], ["m", "c"], parameters=stored).eval())  # type: ignore[arg-type]

    graph, feeds = make(), {"x": picture(2, 4, 40, 37)}
    recorded(graph, feeds)
    assert not graph.programs[-1].functions
    with pre.no_grad():
        for seed in range(3):
            feeds = {"x": picture(2, 4, 40, 37, seed=seed)}
            same(graph.run(feeds), by_nodes(make(), feeds))


def test_values_that_functions_make_stand_between_kernels() -> None:
    nodes = [
        Node("a", "conv", ("x", "w"), ("a",), SAME),
        Node("b", "onnx.Hardmax", ("a",), ("b",)),  # NumPy's
        Node("c", "conv", ("b", "w"), ("c",), SAME),
        Node("k", "onnx.Shape", ("c",), ("k",)),
        Node("d", "onnx.Reshape", ("c", "k"), ("d",)),
    ]

    def make() -> Graph:
        return optimise(Graph(nodes, [Input("x", None)], ["d", "k", "b"], parameters={"w": array(4, 4, 3, 3)}).eval())  # type: ignore[arg-type]

    graph, feeds = make(), {"x": np.abs(picture(1, 4, 9, 9)) + 1}
    want = by_nodes(make(), feeds)
    recorded(graph, feeds)
    assert [node.op for node, _ in graph.programs[-1].functions] == ["onnx.Hardmax"]
    with pre.no_grad():
        for seed in range(3):
            feeds = {"x": np.abs(picture(1, 4, 9, 9, seed=seed)) + 1}
            want = by_nodes(make(), feeds)
            same(graph.run(feeds), want)
    want["k"][:] = 0  # the program's own value is not what it hands out


def test_values_that_decide_shapes_end_the_program_not_the_answer() -> None:
    nodes = [
        Node("a", "conv", ("x", "w"), ("a",), SAME),
        Node("r", "relu", ("a",), ("r",)),
        Node("z", "onnx.NonZero", ("r",), ("z",)),
    ]

    def make() -> Graph:
        return optimise(Graph(nodes, [Input("x", None)], ["z", "r"], parameters={"w": array(4, 4, 3, 3)}).eval())  # type: ignore[arg-type]

    graph = recorded(make(), {"x": picture(1, 4, 9, 9)})
    with pre.no_grad():
        for seed in range(4):
            feeds = {"x": picture(1, 4, 9, 9, seed=seed)}
            same(graph.run(feeds), by_nodes(make(), feeds))
    assert "depends on values" in (graph.why_no_program or "")


def test_sums_that_overflow_are_taken_as_ever() -> None:
    """A mean whose sum overflows is taken again of fractions: kernels alone would give infinity."""
    nodes = [Node("a", "conv", ("x", "w"), ("a",), {}), Node("m", "global_avg_pool", ("a",), ("m",))]
    graph = optimise(Graph(nodes, [Input("x", None)], ["m"], parameters={"w": np.ones((2, 1, 1, 1), np.float32)}).eval())  # type: ignore[arg-type]
    recorded(graph, {"x": picture(1, 1, 4, 4)})
    with pre.no_grad():
        found = graph.run({"x": np.full((1, 1, 4, 4), 3e38, np.float32)})["m"]
    np.testing.assert_allclose(found.ravel(), 3e38, rtol=1e-6)


def test_a_word_that_is_wrongly_trusted_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control run in memory filled with ones: NumPy wrote a value that no kernel writes."""
    from preimage.engines.buffers import aligned_empty
    from preimage.io.graph.nodes import OPS

    @graph_op("test.half_numpy")
    def half(x: Any) -> Any:
        made = aligned_empty(x.shape, x.dtype)
        np.add(x, 1, out=made)
        return made

    try:
        monkeypatch.setattr(words_of_programs, "_ALL", words_of_programs._ALL | {"test.half_numpy"})
        nodes = [
            Node("a", "relu", ("x",), ("a",)),
            Node("b", "test.half_numpy", ("a",), ("b",)),
            Node("c", "relu", ("b",), ("c",)),
        ]
        graph, x = optimise(Graph(nodes, [Input("x", None)], ["c"]).eval()), picture(4, 5)  # type: ignore[arg-type]
        with pre.no_grad():
            for _ in range(4):
                np.testing.assert_array_equal(graph(x), np.maximum(x, 0) + 1)
        assert not graph.programs
        assert "bits" in (graph.why_no_program or "")
    finally:
        del OPS["test.half_numpy"]


def test_reasons() -> None:
    graph, x = net(), {"x": picture()}
    with pre.no_grad():
        for _ in range(3):
            graph.run(x)
        assert "optimise" in (graph.why_no_program or "")
        graph = optimise(net())
        graph.run(x)
        assert "second run" in (graph.why_no_program or "")
        with pre.io.limits.limits(seconds=1000):
            graph.run(x)
            graph.run(x)
        assert "time" in (graph.why_no_program or "")
        graph.train()
        graph.run(x)
        assert "training" in (graph.why_no_program or "")


def test_threads_run_one_program_at_once() -> None:
    graph = recorded(optimise(net()), {"x": picture()})
    inputs = [{"x": picture(seed=30 + k)} for k in range(4)]
    wanted = [by_nodes(optimise(net()), feeds) for feeds in inputs]
    wrong: list[int] = []

    def work(k: int) -> None:
        with pre.no_grad():
            for _ in range(20):
                found = graph.run(inputs[k])
                if not all(np.array_equal(found[key], wanted[k][key]) for key in found):
                    wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.parametrize("first", [False, True], ids=["warm", "recording"])
def test_a_signal_handler_may_run_the_program_in_the_middle_of_a_run(first: bool) -> None:
    graph, a, b = optimise(net()), {"x": picture()}, {"x": picture(seed=9)}
    want, other = by_nodes(optimise(net()), a), by_nodes(optimise(net()), b)
    with pre.no_grad():
        graph.run(a)
        if not first:
            graph.run(a)
        found: list[Arrays] = []

        def handler(*_: Any) -> None:
            with pre.no_grad():
                found.append(graph.run(b))

        before = signal.signal(signal.SIGALRM, handler)
        try:
            for delay in range(1, 40):
                signal.setitimer(signal.ITIMER_REAL, delay * 2e-5)
                same(graph.run(a), want)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    for each in found:
        same(each, other)


def test_a_forked_child_runs_the_program() -> None:
    graph, feeds = optimise(net()), {"x": picture()}
    with pre.config(threads=2), pre.no_grad():
        recorded(graph, feeds)
        want = graph.run(feeds)
        child = os.fork()
        if not child:
            ok = False
            try:
                found = graph.run(feeds)
                ok = all(np.array_equal(found[k], want[k]) for k in want)
            finally:
                os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_copies_begin_anew() -> None:
    graph = recorded(optimise(net()), {"x": picture()})
    other = copy.deepcopy(graph)
    assert not other.programs
    recorded(other, {"x": picture()})


def test_a_recorder_knows_arrays_by_what_they_are_views_of() -> None:
    recorder, x = Recorder(), array(4, 6)
    with recorder:
        known = recorder.watch(x)
        made = recorder.take(96).view(np.float32).reshape(4, 6)
        recorder.launched(7, [known[1:, 2:], made.T, 5], 3, 2)
        assert recorder.broken is None
        recorder.launched(7, [x], 1, 1)
    assert recorder.broken
    (step, _) = recorder.steps
    assert step.words == [0, 0, 5]
    assert step.addresses == [(0, 0, 4 * 8), (1, 1, 0)]
    assert recorder.place_of(x) is None
    place = recorder.place_of(known[:, ::-1])
    assert place is not None
    assert (place.offset, place.strides) == (20, (24, -4))


# -- what moves, compares and pads -------------------------------------------------------------------------------------


def one(op: str, *others: Any, **attributes: Any) -> Graph:
    """A graph of a convolution, whose result lies channels last, and one node, whose other inputs are stored."""
    stored = {f"k{k}": np.asarray(v) for k, v in enumerate(others)}
    nodes = [
        Node("c", "conv", ("x", "w"), ("c",), {**SAME, "innermost": True}),
        Node("n", op, ("c", *stored), ("y",), attributes),
        Node("o", "identity", ("y",), ("z",)) if op in _NO_FLOATS else Node("o", "mul", ("y", "two"), ("z",)),
    ]
    constants = {**stored, "two": np.full((), 2, np.float32)}
    return optimise(
        Graph(nodes, [Input("x", (None, 3, None, None))], ["z"], {"w": array(16, 3, 3, 3)}, constants=constants).eval()
    )  # type: ignore[arg-type]


_NO_FLOATS = {"onnx.Less", "onnx.Equal", "onnx.IsNaN", "onnx.QuantizeLinear"}
PADS = np.array([0, 1, 2, 0, 0, 3, 1, 2])
MOVED: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("onnx.Pad", (PADS,), {}),
    ("onnx.Pad", (PADS, np.float32(2.5)), {}),
    ("onnx.Pad", (np.array([0, 0, -1, 2, 0, 0, 3, -2]),), {}),
    *[("onnx.Pad", (PADS,), {"mode": mode}) for mode in ("reflect", "edge", "wrap")],
    ("onnx.PRelu", (array(16, 1, 1),), {}),
    ("onnx.PRelu", (array(1),), {}),
    ("onnx.Gather", (np.array([[3, -1], [0, 15]]),), {"axis": 1}),
    ("onnx.Gather", (np.array(2, np.int32),), {"axis": 3}),
    ("onnx.Tile", (np.array([1, 2, 1, 3]),), {}),
    ("onnx.Expand", (np.array([2, 1, 16, 1, 1]),), {}),
    ("onnx.Less", (array(16, 1, 1),), {}),
    ("onnx.IsNaN", (), {}),
    ("avg_pool", (), {"kernel_size": (3, 2), "stride": (2, 1), "padding": ((1, 0), (0, 1)), "count_include_pad": False}),
    ("avg_pool", (), {"kernel_size": (2, 3), "stride": (2, 3)}),
    ("layer_norm", (array(18), array(18, seed=9)), {"axes": (3,), "eps": 1e-5}),
    ("group_norm", (array(16), array(16, seed=9)), {"groups": 4, "channels": 16, "eps": 1e-5}),
    ("group_norm", (), {"groups": 1, "channels": 16, "eps": 1e-5}),
    ("instance_norm", (array(16), array(16, seed=9)), {"channels": 16, "eps": 1e-5}),
    *[("onnx.CumSum", (np.array(axis),), {}) for axis in (0, 1, -1)],
    ("onnx.DepthToSpace", (), {"blocksize": 2, "mode": "DCR"}),
    ("onnx.SpaceToDepth", (), {"blocksize": 2}),
    ("channel_shuffle", (), {"groups": 4}),
    ("elu", (), {"alpha": 1.0}),
    *[
        (f"onnx.Reduce{word}", (np.array(axes),), {"keepdims": k % 2})
        for k, (word, axes) in enumerate(
            (
                ("Max", [2, 3]),
                ("Min", [1]),
                ("Max", [0, 2]),
                ("L2", [1]),
                ("L1", [3]),
                ("SumSquare", [2]),
                ("Mean", [0, 1]),
                ("Sum", [0]),
            )
        )
    ],
    ("onnx.Pow", (np.float32(2),), {}),
    ("onnx.Pow", (np.array([1.5], np.float32),), {}),
    ("onnx.Clip", (np.float32(-0.25),), {}),
    ("channels_innermost", (), {}),
    *[
        ("onnx.Resize", (np.float32([]), np.float32([1, 1, 1.5, 2])), {"mode": "linear", "coordinate_transformation_mode": way})
        for way in ("half_pixel", "align_corners", "asymmetric")
    ],
    ("onnx.QuantizeLinear", (np.float32(0.02), np.uint8(117)), {}),
    ("onnx.QuantizeLinear", (np.abs(array(16)) / 9 + np.float32(0.01), np.arange(16, dtype=np.int8)), {}),
    ("onnx.LayerNormalization", (array(18), array(18, seed=9)), {}),
    ("onnx.LayerNormalization", (array(14, 18),), {"axis": 2, "epsilon": 0.1}),
    ("onnx.InstanceNormalization", (array(16), array(16, seed=9)), {}),
    ("onnx.GroupNormalization", (array(16), array(16, seed=9)), {"num_groups": 4}),
    ("onnx.RMSNormalization", (array(18),), {}),
    ("onnx.SimplifiedLayerNormalization", (array(18),), {}),
    ("onnx.MeanVarianceNormalization", (), {}),
    ("onnx.BatchNormalization", (array(16), array(16, seed=9), array(16, seed=3), np.abs(array(16, seed=4))), {}),
    ("batch_norm", (array(16), array(16, seed=9), array(16, seed=3), np.abs(array(16, seed=4))), {"eps": 1e-5}),
    ("onnx.ConvTranspose", (array(16, 3, 2, 2),), {}),
    ("onnx.com.microsoft::FusedConv", (array(4, 16, 3, 3),), {"activation": "Relu"}),
    ("onnx.com.microsoft::BiasGelu", (array(18),), {}),
    ("onnx.com.microsoft::QuickGelu", (), {}),
    *[
        (f"onnx.{word}", (), {})
        for word in ("Gelu", "Swish", "Mish", "Selu", "Celu", "Erf", "Softsign", "GlobalLpPool", "ReduceProd")
    ],
    *[(f"onnx.{word}", (array(18), array(14, 1, seed=2)), {}) for word in ("Sum", "Mean", "Max", "Min")],
    *[(word, (), {}) for word in ("selu", "celu", "softsign", "log_sigmoid")],
    ("prelu", (array(16),), {}),
    ("onnx.LRN", (), {"size": 3}),
    ("onnx.LpPool", (), {"kernel_shape": [2, 3]}),
    ("onnx.CastLike", (array(1),), {}),
    ("tile_axis", (), {"axis": 1, "tiles": 2}),
]


@pytest.mark.parametrize(("op", "others", "attributes"), MOVED, ids=[f"{row[0]}-{k}" for k, row in enumerate(MOVED)])
def test_words_are_kernels_of_programs(op: str, others: tuple[Any, ...], attributes: dict[str, Any]) -> None:
    graph = recorded(one(op, *others, **attributes), {"x": picture()})
    assert not [(node.op, why) for node, why in graph.programs[-1].functions]
    for threads in (1, 3):
        with pre.config(threads=threads), pre.no_grad():
            recorded(graph, {"x": picture()})
            feeds = {"x": picture(seed=77)}
            same(graph.run(feeds), by_nodes(one(op, *others, **attributes), feeds))
            assert graph.why_no_program is None


def test_a_factor_that_lies_by_rows_is_packed_once_for_all_programs() -> None:
    """Gemm with transB and a product with a transposed array, of one row and of several."""
    from preimage.engines.jit.products import call

    w = array(33, 70)
    w.flags.writeable = False
    nodes = [
        Node("y", "onnx.Gemm", ("x", "w", "b"), ("y",), {"transB": 1}),
        Node("t", "transpose", ("w",), ("t",), {"axes": (1, 0)}),
        Node("z", "matmul", ("x", "t"), ("z",)),
    ]
    graph = Graph(nodes, [Input("x", (None, 70))], ["y", "z"], constants={"w": w, "b": array(33, seed=4)}).eval()  # type: ignore[arg-type]
    done = optimise(graph)
    kept = next(value for value in done.constants.values() if value.shape in ((33, 70), (70, 33)))
    for rows in (1, 2, 5, 19):
        feeds = {"x": array(rows, 70, seed=rows)}
        recorded(done, feeds)
        assert not done.programs[-1].functions
        assert done.programs[-1].kernels == 2
        other = {"x": array(rows, 70, seed=rows + 50)}
        with pre.no_grad():
            found = done.run(other)
        same(found, by_nodes(graph, other))
        np.testing.assert_allclose(found["z"], other["x"].astype(np.float64) @ w.T.astype(np.float64), rtol=1e-5, atol=1e-5)
    assert [len(forms) for forms in call._kept.of(kept).values()] == [1]


def _with_ties(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Few values, so that extremes are met more than once, zeros of both signs, and NaN in one line."""
    drawn = np.random.default_rng(seed)
    x = drawn.integers(-2, 3, shape).astype(np.float32)
    x[drawn.random(shape) < 0.2] *= -0.0
    x[1, 2] = np.where(drawn.random(shape[2:]) < 0.5, np.float32(np.nan), x[1, 2])
    return x


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_places_of_extremes_are_kernels(op: str) -> None:
    ways = [
        {"axis": axis, "keepdims": keep, "select_last_index": last} for axis in (0, 1, -1) for keep in (0, 1) for last in (0, 1)
    ]
    nodes = [Node(f"y{k}", f"onnx.{op}", ("x",), (f"y{k}",), way) for k, way in enumerate(ways)]
    graph = Graph(nodes, [Input("x", (None,) * 4)], [node.name for node in nodes]).eval()
    shape = (3, 5, 7, 9)
    done = recorded(optimise(graph), {"x": _with_ties(shape, 0)})
    assert not done.programs[-1].functions
    for seed in (1, 2):
        x = _with_ties(shape, seed)
        with pre.no_grad():
            found = done.run({"x": x})
        for k, way in enumerate(ways):
            axis, function = way["axis"], np.argmax if op == "ArgMax" else np.argmin
            want = function(x, axis=axis)
            if way["select_last_index"]:
                want = shape[axis] - 1 - function(np.flip(x, axis), axis=axis)
            np.testing.assert_array_equal(found[f"y{k}"], np.expand_dims(want, axis) if way["keepdims"] else want, strict=True)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_elements_gathered_by_indices_that_change_are_kernels(axis: int, kind: Any) -> None:
    nodes = [
        Node("m", "mul", ("x", "x"), ("m",)),
        Node("t", "transpose", ("m",), ("t",), {"axes": (0, 2, 1)}),
        Node("y", "onnx.GatherElements", ("m", "i"), ("y",), {"axis": axis}),
        Node("z", "onnx.GatherElements", ("t", "j"), ("z",), {"axis": axis}),
    ]
    graph = Graph(nodes, [Input("x", (None,) * 3), Input("i", (None,) * 3), Input("j", (None,) * 3)], ["y", "z"]).eval()
    shape, turned = (4, 6, 5), (4, 5, 6)

    def feeds(seed: int) -> Arrays:
        drawn = np.random.default_rng(seed)
        return {
            "x": array(*shape, seed=seed),
            "i": drawn.integers(-shape[axis], shape[axis], (3, 2, 4)).astype(kind),
            "j": drawn.integers(-turned[axis], turned[axis], (2, 5, 3)).astype(kind),
        }

    done = recorded(optimise(graph), feeds(0))  # type: ignore[arg-type]
    assert not done.programs[-1].functions
    given = feeds(1)
    with pre.no_grad():
        same(done.run(given), by_nodes(graph, given))
        m = given["x"] * given["x"]
        for place in np.ndindex(3, 2, 4):
            source = [*place]
            source[axis] = int(given["i"][place])
            assert done.run(given)["y"][place] == m[tuple(source)]
        for wrong in (shape[axis], -shape[axis] - 1):
            bad = given | {"i": given["i"].copy()}
            bad["i"][1, 1, 1] = wrong
            with pytest.raises(pre.errors.PreimageError, match=f"an axis of {shape[axis]}"):
                done.run(bad)


def test_means_over_axes_on_both_sides_of_one_that_stays_are_kernels() -> None:
    """The channels of each row lie between the terms in memory: they are brought into order by a kernel."""
    nodes = [
        Node("t", "transpose", ("x",), ("t",), {"axes": (0, 1, 3, 2)}),
        Node("r", "relu", ("t",), ("r",)),
        Node("y", "onnx.ReduceMean", ("r",), ("y",), {"axes": [1, 2], "keepdims": 1}),
        Node("z", "onnx.ReduceSum", ("t",), ("z",), {"axes": [1, 2], "keepdims": 0}),
    ]
    graph = Graph(nodes, [Input("x", (None,) * 4)], ["y", "z"]).eval()
    x = array(2, 3, 62, 33)
    done = recorded(optimise(graph), {"x": x})
    assert not done.programs[-1].functions
    given = {"x": array(2, 3, 62, 33, seed=5)}
    with pre.no_grad():
        found = done.run(given)
    same(found, by_nodes(graph, given))
    np.testing.assert_allclose(found["z"], given["x"].astype(np.float64).sum((1, 3)), rtol=1e-4, atol=1e-4)


def test_skip_connections_that_are_normalised_are_kernels() -> None:
    """Both results that onnxruntime's words give: the normalised sum, and the sum."""
    for word, more in (("SkipLayerNormalization", ("w", "b")), ("SkipSimplifiedLayerNormalization", ("w",))):
        nodes = [Node("y", f"onnx.com.microsoft::{word}", ("x", "s", *more), ("y", "", "", "t"), {"outputs": 4})]
        inputs = [Input("x", (None, 5, 18)), Input("s", (None, 5, 18))]
        graph = Graph(nodes, inputs, ["y", "t"], constants={"w": array(18, seed=5), "b": array(18, seed=6)}).eval()  # type: ignore[arg-type]
        done = recorded(optimise(graph), {"x": array(3, 5, 18), "s": array(3, 5, 18, seed=1)})
        assert not done.programs[-1].functions
        feeds = {"x": array(3, 5, 18, seed=2), "s": array(3, 5, 18, seed=3)}
        with pre.no_grad():
            found = done.run(feeds)
        same(found, by_nodes(graph, feeds))
        np.testing.assert_array_equal(found["t"], feeds["x"] + feeds["s"])


def test_an_embedding_is_a_kernel_and_refuses_indices_outside() -> None:
    nodes = [Node("g", "onnx.Gather", ("table", "i"), ("g",)), Node("y", "relu", ("g",), ("y",))]
    graph = optimise(Graph(nodes, [Input("i", (None, None))], ["y"], constants={"table": array(30, 12)}).eval())  # type: ignore[arg-type]
    index = np.array([[1, -2, 29], [0, 7, -30]])
    recorded(graph, {"i": index})
    assert not graph.programs[-1].functions
    with pre.no_grad():
        same(graph.run({"i": index[::-1].copy()}), {"y": np.maximum(array(30, 12)[index[::-1]], 0)})
        for wrong in (30, -31):
            with pytest.raises(pre.errors.PreimageError, match="an axis of 30"):
                graph.run({"i": np.full_like(index, wrong)})


@pytest.mark.parametrize("innermost", [True, False])
def test_a_residual_that_lies_otherwise_is_brought_into_order(innermost: bool) -> None:
    """A value that a function made in C order, added to a convolution whose result has its channels innermost, and the other way round."""
    nodes = [
        Node("c", "conv", ("x", "w"), ("c",), {**SAME, "innermost": innermost}),
        Node("t", "transpose", ("x2",), ("t",), {"axes": (0, 3, 1, 2) if not innermost else (0, 1, 2, 3)}),
        Node("y", "conv", ("c", "v", "", "t"), ("y",), {**SAME, "activation": "relu"}),
    ]
    feeds = {"x": picture(), "x2": picture(2, 7, 14, 18) if innermost else picture(2, 14, 18, 7)}
    inputs = [Input("x", feeds["x"].shape), Input("x2", feeds["x2"].shape)]
    graph = optimise(Graph(nodes, inputs, ["y"], parameters={"w": array(5, 3, 3, 3), "v": array(7, 5, 3, 3, seed=2)}).eval())  # type: ignore[arg-type]
    recorded(graph, feeds)
    assert not graph.programs[-1].functions
    with pre.no_grad():
        c = pre.conv(feeds["x"], array(5, 3, 3, 3), padding=1)
        t = feeds["x2"] if innermost else feeds["x2"].transpose(0, 3, 1, 2)
        same(graph.run(feeds), {"y": np.maximum(pre.conv(c, array(7, 5, 3, 3, seed=2), padding=1) + t, 0)})


def test_an_input_whose_images_lie_between_its_pixels_is_brought_into_order() -> None:
    nodes = [
        Node("r", "relu", ("x",), ("r",)),
        Node("t", "transpose", ("r",), ("t",), {"axes": (1, 2, 0)}),
        Node("y", "conv_transpose", ("t", "w"), ("y",), {"stride": (3,), "padding": ((0, 0),), "groups": 1}),
    ]
    x, w = picture(19, 2, 6, 1)[..., 0], array(6, 1, 5)
    graph = optimise(Graph(nodes, [Input("x", x.shape)], ["y"], parameters={"w": w}).eval())  # type: ignore[arg-type]
    recorded(graph, {"x": x})
    assert not graph.programs[-1].functions
    with pre.no_grad():
        same(graph.run({"x": x}), {"y": pre.conv_transpose(np.maximum(x, 0).transpose(1, 2, 0), w, stride=3)})


@pytest.mark.parametrize("images", [2, 3, 5, 24])
def test_sums_over_images_are_kernels(images: int) -> None:
    """Their tree too, also of numbers whose sum is no number."""
    nodes = [
        Node("y", "onnx.ReduceMean", ("x",), ("y",), {"axes": [0, 2], "keepdims": 0}),
        Node("z", "onnx.ReduceSum", ("x",), ("z",), {"axes": [0]}),
    ]
    graph = optimise(Graph(nodes, [Input("x", (None, 5, 7))], ["y", "z"]).eval())  # type: ignore[arg-type]
    for x in (array(images, 5, 7), np.where(array(images, 5, 7, seed=3) > 0.4, np.float32(np.nan), array(images, 5, 7))):
        graph.release()
        recorded(graph, {"x": x})
        assert not graph.programs[-1].functions
        for given in (x, array(images, 5, 7, seed=8)):
            with pre.no_grad():
                same(graph.run({"x": given}), by_nodes(graph, {"x": given}))


def test_an_input_that_no_kernel_reads_as_it_lies() -> None:
    """Rows innermost but one: neither of the two usual orders, so the contraction's input is brought into order."""
    nodes = [
        Node("t", "transpose", ("x",), ("t",), {"axes": (0, 2, 3, 1)}),
        Node("y", "conv", ("t", "w"), ("y",), {**SAME, "activation": "relu"}),
    ]
    x = picture(2, 14, 8, 18)
    graph = optimise(Graph(nodes, [Input("x", x.shape)], ["y"], parameters={"w": array(6, 8, 3, 3)}).eval())  # type: ignore[arg-type]
    recorded(graph, {"x": x})
    assert not graph.programs[-1].functions
    with pre.no_grad():
        want = np.maximum(pre.conv(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), array(6, 8, 3, 3), padding=1), 0)
        same(graph.run({"x": x}), {"y": want})


@pytest.mark.parametrize(
    "window", [{"kernel_size": (5, 3), "stride": (1, 1), "padding": ((2, 2), (1, 0))}, {"kernel_size": (2, 2), "stride": (2, 2)}]
)
def test_windows_of_rows_of_neighbours_are_kernels(window: dict[str, Any]) -> None:
    """Arrays in C order, whose last axis has nothing behind it."""
    nodes = [Node("r", "relu", ("x",), ("r",)), Node("y", "max_pool", ("r",), ("y",), window)]
    graph = optimise(Graph(nodes, [Input("x", (2, 3, 14, 18))], ["y"]).eval())  # type: ignore[arg-type]
    recorded(graph, {"x": picture()})
    assert not graph.programs[-1].functions
    for threads in (1, 3):
        with pre.config(threads=threads), pre.no_grad():
            recorded(graph, {"x": picture()})
            same(graph.run({"x": picture(seed=6)}), by_nodes(graph, {"x": picture(seed=6)}))


def test_quantising_keeps_the_bits_of_numpy() -> None:
    """At the ends of the range, at halves, of infinities and NaN, of both float types, one scale or one a channel; and back."""
    from preimage.io.onnx.operators.quantised import dequantised, quantised

    for kind in (np.float32, np.float64):
        x = (
            np.concatenate([np.arange(-700, 700) / 4, [np.nan, np.inf, -np.inf, 1e30, -1e30, -0.0]] * 8)
            .astype(kind)
            .reshape(8, -1)
        )
        for scale in (np.full((), 0.5, kind), np.linspace(0.1, 3, 8).astype(kind)[:, None]):
            for dtype in (np.uint8, np.int8, np.uint16, np.int16):
                zero = np.full((), 100, dtype)
                span = np.iinfo(dtype)
                want = np.nan_to_num(np.clip(np.rint(x / scale).astype(np.float64) + 100.0, span.min, span.max)).astype(dtype)
                found = quantised(x, scale, zero, dtype)
                np.testing.assert_array_equal(found, want, strict=True)
                back = ((want.astype(np.int64) - 100).astype(kind) * scale).astype(kind)
                np.testing.assert_array_equal(dequantised(found, scale, zero), back, strict=True)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_bounds_that_change_are_read_by_kernels(kind: Any) -> None:
    nodes = [
        Node("m", "mul", ("x", "x"), ("m",)),
        Node("c", "onnx.Clip", ("m", "low", "high"), ("c",)),
        Node("d", "onnx.Clip", ("m", "low"), ("d",)),
        Node("e", "onnx.Clip", ("m", "", "high"), ("e",)),
    ]
    inputs = [Input("x", (None, None)), Input("low", ()), Input("high", (1,))]
    graph = Graph(nodes, inputs, ["c", "d", "e"]).eval()

    def feeds(low: float, high: float) -> Arrays:
        x = array(3, 70).astype(kind)
        x[1, :3] = np.nan, np.inf, 0
        return {"x": x, "low": np.array(low, kind), "high": np.array([high], kind)}

    done = recorded(optimise(graph), feeds(0.01, 0.02))  # type: ignore[arg-type]
    assert not done.programs[-1].functions
    for low, high in ((0.01, 0.05), (0.05, 0.01), (-0.0, np.inf), (np.nan, 0.02), (-np.inf, 0.0)):
        given = feeds(low, high)
        with pre.no_grad():
            found = done.run(given)
        m = given["x"] * given["x"]
        above, below = np.maximum(m, given["low"]), np.minimum(m, given["high"])
        same(found, {"c": np.minimum(above, given["high"]), "d": above, "e": below})
        same(found, by_nodes(graph, given))  # type: ignore[arg-type]
