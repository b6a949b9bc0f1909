"""What loops hand on unchanged comes from outside: the same results, weights that the body has as constants, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.io import onnx as onnx_io
from preimage.io.graph import Graph, optimise
from preimage.io.graph.unchanged import take_unchanged
from preimage.io.onnx import export

onnx = pytest.importorskip("onnx")

LOOP = """<ir_version: 8, opset_import: ["" : 17]>
g (float[2,3] x, int64 trips, float[3] c) => (float[a,b] h, float[d,e] w, float[f] c_after, float[k,m,n] all)
<float[3,3] weight = {0.5,-0.25,0,0.125,0.5,0.25,1,0,-0.5}, float[3] b = {1,2,3}, bool go = {1}> {
  h, w, other, c_after, all = Loop (trips, go, x, weight, b, c) <body = step
      (int64 i, bool on, float[p,q] h_in, float[r,s] w_in, float[t] b_in, float[u] c_in)
      => (bool on_out, float[p,q] h_out, float[r,s] w_out, float[t] b_out, float[u] c_out, float[p,q] each) {
    on_out = Identity(on)
    turned = Transpose<perm = [1, 0]>(w_in)
    product = MatMul(h_in, turned)
    sum = Add(product, b_in)
    more = Add(sum, c_in)
    h_out = Tanh(more)
    w_same = Identity(w_in)
    w_out = Identity(w_same)
    b_out = Mul(b_in, c)
    c_out = Identity(c_in)
    each = Identity(h_out)
  }>
}
"""
SCAN = """<ir_version: 8, opset_import: ["" : 17]>
g (float[4,3] xs, float[3] h0) => (float[a] h, float[b] w, float[d,e] all) <float[3] weight = {0.5,2,-1}> {
  h, w, all = Scan<num_scan_inputs = 1, body = step (float[3] h_in, float[3] w_in, float[3] x) => (float[3] h_out, float[3] w_out, float[3] y) {
    product = Mul(h_in, w_in)
    h_out = Add(product, x)
    w_out = Identity(w_in)
    y = Identity(h_out)
  }> (h0, weight, xs)
}
"""


def read(text: str) -> Graph:
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return onnx_io.load(model.SerializeToString()).eval()


def run(graph: Graph, feeds: dict[str, Any]) -> dict[str, Any]:
    with pre.no_grad():
        return {name: np.array(value) for name, value in graph.run(feeds).items()}


def loop_of(graph: Graph) -> Any:
    return next(node for node in graph.nodes if node.op in ("onnx.Loop", "onnx.Scan"))


@pytest.mark.parametrize("trips", [0, 1, 5])
def test_a_loop_takes_its_weights_from_outside(trips: int) -> None:
    rng = np.random.default_rng(trips)
    graph = read(LOOP)
    feeds = {"x": rng.standard_normal((2, 3)).astype(np.float32), "trips": np.array(trips), "c": rng.random(3).astype(np.float32)}
    wanted = run(graph, feeds)
    after = take_unchanged(graph)
    assert after.changes["loop values that do not change"] == 2
    node = loop_of(after)
    assert len(node.outputs) == 3  # h, b (which changes) and the stacked ones
    for made in (after, optimise(graph)):
        for _ in range(3):
            found = run(made, feeds)
            assert all(found[name].tobytes() == value.tobytes() for name, value in wanted.items())
    inside = loop_of(optimise(graph)).attributes["body"]
    assert [array.shape for array in inside.constants.values()] == [(3, 3)]  # turned once
    assert not any(each.op == "transpose" for each in inside.nodes)


def test_a_scan_takes_its_weights_from_outside() -> None:
    rng, graph = np.random.default_rng(3), read(SCAN)
    feeds = {"xs": rng.standard_normal((4, 3)).astype(np.float32), "h0": rng.random(3).astype(np.float32)}
    wanted = run(graph, feeds)
    after = take_unchanged(graph)
    assert after.changes["loop values that do not change"] == 1
    assert len(loop_of(after).outputs) == 2
    for made in (after, optimise(graph)):
        found = run(made, feeds)
        assert all(found[name].tobytes() == value.tobytes() for name, value in wanted.items())


def test_what_changes_or_is_put_in_another_place_stays() -> None:
    exchanged = SCAN.replace("h_out = Add(product, x)", "h_out = Identity(w_in)").replace(
        "w_out = Identity(w_in)", "w_out = Identity(h_in)"
    )
    graph = read(exchanged)
    assert take_unchanged(graph) is graph
    assert take_unchanged(optimise(graph)).changes.get("loop values that do not change", 0) == 0


def test_a_changed_loop_is_written_and_read(tmp_path: Any) -> None:
    rng, graph = np.random.default_rng(8), read(LOOP)
    feeds = {"x": rng.standard_normal((2, 3)).astype(np.float32), "trips": np.array(4), "c": rng.random(3).astype(np.float32)}
    export.save(take_unchanged(graph), tmp_path / "net.onnx")
    onnx.checker.check_model(str(tmp_path / "net.onnx"))
    found, wanted = run(onnx_io.load(tmp_path / "net.onnx"), feeds), run(graph, feeds)
    assert all(np.array_equal(found[name], value) for name, value in wanted.items())
