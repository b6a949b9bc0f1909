"""Branches and loops as part of a graph's program: the bits of the nodes one by one, whichever way is taken, and what stays a function."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_control_models import BRANCHES, HEAD, SCAN, WHILE

import preimage as pre
from preimage.io import onnx as onnx_io
from preimage.io.graph import optimise

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.skipif(pre.engines()["jit"] != "available", reason="programs are made of the jit engine's kernels")

#: A number of trips from the shape, a state, a sum over what the trips gave, weights from outside, a branch on the trip's number inside.
TRIPS = """(float[N, 4] x, bool[1] negate) => (float[1, 4] last, float[N, 1, 4] all)
<float[4, 4] w = {0.1, 0.2, -0.3, 0.4, 0.5, -0.6, 0.7, 0.8, 0.9, 0.1, 0.2, -0.3, 0.4, 0.5, -0.6, 0.7}, float[1, 4] zero = {0.0, 0.0, 0.0, 0.0}>
{
  shape = Shape (x)
  at = Constant <value = int64 {0}> ()
  count = Gather (shape, at)
  go = Constant <value = bool {1}> ()
  last, all = Loop (count, go, zero) <
    body = b (int64 i, bool c, float[1, 4] h) => (bool more, float[1, 4] next, float[1, 4] step) {
      axes = Constant <value = int64[1] {0}> ()
      k = Unsqueeze (i, axes)
      row = Gather (x, k)
      m = MatMul (h, w)  s = Add (row, m)  t = Tanh (s)
      next = If (negate) <
        then_branch = y () => (float[1, 4] u) { u = Neg (t) },
        else_branch = n () => (float[1, 4] v) { v = Identity (t) }
      >
      step = Sigmoid (next)
      more = Identity (c)
    }
  >
}"""


def graph_of(text):
    return optimise(onnx_io.load(onnx.parser.parse_model(HEAD + text)).eval())


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def by_nodes(graph, feeds):
    """Without a program: who asks for the steps sees every node."""
    with pre.no_grad():
        return graph.run(feeds, steps=[])


def check(graph, feeds):
    """Several runs, the last ones by the program if there is one: the bits of the nodes."""
    want = by_nodes(graph, feeds)
    for _ in range(4):
        with pre.no_grad():
            found = graph.run(feeds)
        for key, value in want.items():
            assert found[key].tobytes() == value.tobytes(), key
            assert found[key].shape == value.shape


def test_a_loop_and_a_branch_on_small_inputs_are_one_program_for_each_of_their_values():
    graph = graph_of(TRIPS)
    for steps in (3, 7):
        for negate in (True, False):
            check(graph, {"x": floats(steps, 4, seed=steps), "negate": np.array([negate])})
            assert graph.why_no_program is None
            assert not graph.programs[-1].functions
    assert len(graph.programs) == 4
    check(graph, {"x": floats(3, 4, seed=9), "negate": np.array([True])})  # other numbers, the same program
    assert len(graph.programs) == 4


def test_the_other_branch_is_taken_when_the_condition_changes():
    graph = graph_of(BRANCHES)
    for c in (True, False, True):
        check(graph, {"x": floats(2, 3), "c": np.array(c)})
        assert graph.why_no_program is None


def test_scans_are_unrolled():
    graph = graph_of(SCAN)
    feeds = {"start": floats(3), "x": floats(4, 5, 3), "t": floats(5, 2)}
    check(graph, feeds)
    (program,) = graph.programs
    assert "onnx.Scan" not in {node.op for node, _ in program.functions}


def test_a_loop_that_goes_on_as_values_say_is_no_part_of_a_program():
    graph = graph_of(WHILE)
    for seed in (1, 2):
        check(graph, {"x": np.abs(floats(2, 3, seed=seed)) + seed, "most": np.array(50), "go": np.array(True)})
    assert all(node.op == "onnx.Loop" for program in graph.programs for node, _ in program.functions)


def test_inputs_that_decide_and_change_at_every_run_do_not_fill_the_memory():
    graph = graph_of(WHILE)
    x = np.abs(floats(2, 3)) + 1
    for most in range(1, 30):
        check(graph, {"x": x, "most": np.array(most), "go": np.array(True)})
    assert len(graph.programs) <= 8


def test_a_stored_array_that_is_changed_inside_drops_the_program():
    graph = graph_of(BRANCHES)
    feeds = {"x": floats(2, 3), "c": np.array(True)}
    check(graph, feeds)
    inner = next(g for g in graph.graphs.values() if g.constants)
    key = next(iter(inner.constants))
    inner.constants[key] = inner.constants[key] * 2
    check(graph, feeds)


def test_constants_are_handed_into_bodies():
    graph = graph_of(TRIPS)
    (body,) = graph.graphs.values()
    assert any(array.shape == (4, 4) for array in body.constants.values())
    assert "w" not in graph.constants
