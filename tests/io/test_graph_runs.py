"""Running a graph again: bound calls, packed weights and reused buffers change no value, and notice every change."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.io.graph import Graph, Input, Node
from preimage.io.graph.passes import optimise, prepare_weights
from preimage.io.inspection import inspect_model

SAME = {"stride": (1, 1), "padding": ((1, 1), (1, 1))}


def net(seed: int = 0) -> Graph:
    """Convolutions, a transposed one, residuals (one that broadcasts), an activation each, a concat, views and two outputs."""
    rng = np.random.default_rng(seed)

    def array(*shape: int) -> Any:
        return (rng.standard_normal(shape) / 4).astype(np.float32)

    nodes = [
        Node("a", "conv", ("x", "wa", "ba"), ("a",), {**SAME, "activation": "relu"}),
        Node("b", "conv", ("a", "wb", "", "a"), ("b",), {**SAME, "groups": 8, "activation": "leaky_relu", "slope": 0.2}),
        Node("c", "conv", ("b", "wc", "bc"), ("c",), {"stride": (2, 2), "activation": "clip", "clip_range": (-1.0, 2.0)}),
        Node("m", "global_avg_pool", ("c",), ("m",)),
        Node("d", "conv", ("c", "wd", "bd", "m"), ("d",), {**SAME}),
        Node("e", "conv_transpose", ("d", "we", "be"), ("e",), {"stride": (2, 2), "padding": ((0, 0), (0, 0))}),
        Node("f", "concat", ("e", "a"), ("f",), {"axis": 1}),
        Node("g", "sigmoid", ("f",), ("g",)),
        Node("h", "mul", ("g", "f"), ("h",)),
        Node("y", "reshape", ("h",), ("y",), {"target": (0, -1)}),
        Node("z", "slice_axis", ("f",), ("z",), {"axis": 1, "start": 1, "stop": 5}),
    ]
    stored = {
        "wa": array(8, 4, 3, 3), "ba": array(8), "wb": array(8, 1, 3, 3), "wc": array(6, 8, 2, 2), "bc": array(6),
        "wd": array(6, 6, 3, 3), "bd": array(6), "we": array(6, 7, 2, 2), "be": array(7),
    }  # fmt: skip
    return Graph(nodes, [Input("x", (None, 4, None, None))], ["y", "z"], parameters=stored).eval()  # type: ignore[return-value]


def plain(graph: Graph, x: Any) -> tuple[Any, ...]:
    """The values node by node, without bound calls, packed weights or arenas."""
    with pre.no_grad():
        made = {k: v.data for k, v in graph.weights.items()} | graph.constants | {"x": x}
        for node in graph.nodes:
            made |= graph.run_nodes([node], made)
    return tuple(made[key] for key in graph.outputs)


def picture(batch: int = 1, size: tuple[int, int] = (40, 36), seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((batch, 4, *size)).astype(np.float32)


def check(graph: Graph, x: Any) -> None:
    for _ in range(3):
        with pre.no_grad():
            found = graph(x)
        for got, want in zip(found, plain(graph, x), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("engine", ["jit", "gemm", "reference"])
def test_every_run_has_the_values_of_the_separate_nodes(engine: str) -> None:
    with pre.config(engine=engine):
        check(net(), picture(size=(12, 14)))
        check(optimise(net()), picture(2, size=(12, 14)))


def test_the_same_bits_for_any_batch_and_thread_count() -> None:
    for graph in (net(), optimise(net())):
        x = picture(5)
        with pre.no_grad(), pre.config(threads=1):
            whole = graph(x)
        for threads in (1, 2):
            for rows in (slice(0, 1), slice(1, 4), slice(4, 5), slice(0, 5)):
                with pre.no_grad(), pre.config(threads=threads):
                    for _ in range(2):
                        for got, want in zip(graph(x[rows]), whole, strict=True):
                            np.testing.assert_array_equal(got, want[rows])


def test_sizes_layouts_dtypes_and_settings_may_follow_one_another() -> None:
    graph = optimise(net())
    inputs = [picture(), picture(3, (20, 22)), np.moveaxis(np.ascontiguousarray(np.moveaxis(picture(2), 1, -1)), -1, 1)]
    inputs += [picture()[:, :, ::-1], np.asfortranarray(picture(2, (16, 18)))]
    wanted = [plain(graph, x) for x in inputs]
    for turn in range(3):
        for k, (x, want) in enumerate(zip(inputs, wanted, strict=True)):
            with pre.no_grad(), pre.config(threads=1 + (k + turn) % 2):
                for got, each in zip(graph(x), want, strict=True):
                    np.testing.assert_array_equal(got, each)
    double = net().astype(np.float64)
    check(double, picture().astype(np.float64))  # type: ignore[arg-type]


def test_a_repeated_run_takes_memory_for_its_results_alone() -> None:
    graph, x = net(), picture(2, (64, 64))
    with pre.no_grad():
        for _ in range(3):
            first = graph(x)
        (arena,) = next(iter(graph._arenas._free.values()))
        results = sum(a.base.nbytes if a.base is not None else a.nbytes for a in first)
        assert arena.fresh_bytes <= results + first[1].nbytes * 4  # a slice holds the whole array that it is cut from
        made = sum(step.output_bytes for step in _steps(graph, x))
        assert graph.buffer_bytes < made / 2
        second = graph(x)
    for a, b in zip(first, second, strict=True):
        assert not np.shares_memory(a, b)
        np.testing.assert_array_equal(a, b)


def _steps(graph: Graph, x: Any) -> list[Any]:
    steps: list[Any] = []
    graph.run({"x": x}, steps=steps)
    return steps


def test_values_that_are_asked_for_are_never_reused_memory() -> None:
    graph, x = net(), picture()
    names = [key for node in graph.nodes for key in node.outputs]
    with pre.no_grad():
        for _ in range(3):
            graph(x)
        everything = graph.run({"x": x}, names)
        copies = {k: v.copy() for k, v in everything.items()}
        for seed in range(2, 6):
            graph(picture(seed=seed))
            graph.run({"x": picture(seed=seed)}, names[3:5])
    for key, value in everything.items():
        np.testing.assert_array_equal(value, copies[key])


@pytest.mark.parametrize("optimised", [False, True])
def test_two_threads_run_one_graph_at_once(optimised: bool) -> None:
    graph = optimise(net()) if optimised else net()
    inputs = [picture(seed=k) for k in range(4)]
    wanted = [plain(graph, x) for x in inputs]
    wrong: list[int] = []

    def work(k: int) -> None:
        with pre.no_grad(), pre.config(threads=1 + k % 2):
            for _ in range(15):
                if not all(np.array_equal(a, b) for a, b in zip(graph(inputs[k]), wanted[k], strict=True)):
                    wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_changed_weights_and_biases_are_seen() -> None:
    graph, x = net(), picture()
    check(graph, x)
    graph.weights["wa"].data[...] = graph.weights["wa"].data[:, ::-1, ::-1].copy()
    check(graph, x)
    graph.weights["be"].data[2] += 1
    check(graph, x)
    graph.weights["bd"].assign(graph.weights["bd"].data * 2)
    check(graph, x)
    optimiser = pre.optim.SGD(graph.parameters(), lr=0.05)
    for _ in range(2):
        before = plain(graph, x)
        optimiser.zero_grad()
        y, _ = graph(x)
        (y * y).sum().backward()
        optimiser.step()
        check(graph, x)
        assert not np.array_equal(before[0], plain(graph, x)[0])
    graph.load_state_dict({k: v / 2 for k, v in graph.state_dict().items()})
    check(graph, x)
    ready = optimise(graph)
    check(ready, x)
    assert not ready.weights
    with pytest.raises(ValueError, match="read-only"):
        ready.constants["wa"][0] = 0
    ready.constants["wa"] = ready.constants["wa"] * 2
    check(ready, x)


def test_gradients_after_runs_without() -> None:
    graph, x = net(), picture(size=(8, 10))
    check(graph, x)
    check(net(), x)
    t = pre.Tensor(x, requires_grad=True)
    want = pre.grad(net()(t)[0].sum(), t).data
    np.testing.assert_array_equal(pre.grad(graph(t)[0].sum(), t).data, want)
    fixed = prepare_weights(net())
    with pre.no_grad():
        fixed(x)
    np.testing.assert_array_equal(pre.grad(fixed(t)[0].sum(), t).data, want)


def test_errors_are_those_of_the_operations() -> None:
    graph = net()
    with pre.no_grad():
        graph(picture())
        with pytest.raises(pre.ShapeError):
            graph(np.zeros((1, 5, 8, 8), np.float32))
        with pytest.raises(pre.DTypeError, match="one dtype"):
            graph(picture().astype(np.float64))
        check(graph, picture())


def test_copies_run_and_memory_is_told_and_given_up() -> None:
    graph, x = optimise(net()), picture()
    assert graph.packed_bytes == graph.buffer_bytes == 0
    with pre.no_grad(), pre.config(engine="jit"):
        graph(x)
        graph(x)
        weights = sum(v.nbytes for v in graph.constants.values() if v.ndim == 4)
        assert weights < graph.packed_bytes < 40 * weights
        assert graph.buffer_bytes > 0
        other = copy.deepcopy(graph)
        check(other, x)
        graph.release()
        assert graph.packed_bytes == graph.buffer_bytes == 0
        check(graph, x)
        info = inspect_model(graph, {"x": x})
    assert info.packed_bytes == graph.packed_bytes > 0
    assert info.buffer_bytes == graph.buffer_bytes > 0
