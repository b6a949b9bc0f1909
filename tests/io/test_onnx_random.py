"""Operators that draw random numbers: their distributions, their shapes and dtypes, and that a run gives the same numbers again."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from test_onnx_quantised import net, ours

import preimage as pre
from preimage.io import onnx as onnx_io

onnx = pytest.importorskip("onnx")
X = np.full((100, 300), 0.3, np.float32)


def normal_share(low, high, mean, scale):
    """The share of a normal distribution between two values, by the error function."""
    return (math.erf((high - mean) / scale / 2**0.5) - math.erf((low - mean) / scale / 2**0.5)) / 2


@pytest.mark.parametrize("name", ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"])
@pytest.mark.parametrize("given", [{}, {"seed": 7.0}, {"dtype": 11}])
def test_random_arrays_have_their_distribution(name, given):
    like = name.endswith("Like") or name == "Bernoulli"
    numbers = {} if name == "Bernoulli" else {"mean": 2.0, "scale": 3.0} if "Normal" in name else {"low": -1.0, "high": 4.0}
    attributes = given | numbers | ({} if like else {"shape": X.shape})
    model, feeds = net(name, [X] if like else [], **attributes)
    (found,) = ours(model, feeds)
    assert found.shape == X.shape
    assert found.dtype == (np.float64 if "dtype" in given else np.float32)
    edges = [-2.0, -0.5, 0.5, 1.5, 3.0, 5.0]
    for low, high in pairwise(edges):
        if name == "Bernoulli":
            wanted = {-0.5: 0.7, 0.5: 0.3}.get(low, 0.0)
        elif "Normal" in name:
            wanted = normal_share(low, high, 2.0, 3.0)
        else:
            wanted = max(min(high, 4) - max(low, -1), 0) / 5
        assert np.mean((found >= low) & (found < high)) == pytest.approx(wanted, abs=0.012)
    rows = np.corrcoef(found.reshape(2, -1))[0, 1]
    assert abs(rows) < 0.03


def test_a_run_gives_the_same_numbers_again_and_nodes_differ():
    helper = onnx.helper
    nodes = [helper.make_node("RandomNormalLike", ["x"], [name]) for name in ("a", "b")]
    nodes.append(helper.make_node("RandomNormalLike", ["x"], ["c"], seed=3.0))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("x", 1, X.shape)], [info(k, 1, X.shape) for k in "abc"])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    runs = [ours(model, {"x": X}) for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))
    a, b, c = runs[0]
    assert max(abs(np.corrcoef(p.ravel(), q.ravel())[0, 1]) for p, q in ((a, b), (a, c), (b, c))) < 0.03


def test_random_arrays_are_bounded_and_their_types_known():
    from preimage.io.limits import limits

    model, feeds = net("RandomNormal", [], shape=[1 << 20, 1 << 20])
    with pytest.raises(pre.PreimageError, match="elements"), limits(elements=1 << 20):
        ours(model, feeds)
    model, _ = net("RandomUniform", [], shape=[2], dtype=8)
    with pytest.raises(pre.PreimageError, match="data type 8"):
        onnx_io.load(model)
