"""Attributes of a graph's nodes are read by their types: another type is an error of the library's own that names the node."""

from __future__ import annotations

import numpy as np
import pytest

from preimage.errors import GraphError, PreimageError
from preimage.io.graph import Graph, Input, Node
from preimage.io.onnx.export.graph import from_graph


def node(**attributes):
    return Node("fc7", "lrn", ("x",), ("y",), attributes)


def test_each_type_as_files_and_callers_say_it():
    n = node(
        a=np.float32(0.5),
        k=np.int64(3),
        axes=[1, np.int8(2)],
        array=np.array([4, 5]),
        on=1,
        off=np.False_,
        mode="linear",
        none=None,
    )
    assert (n.number("a"), n.number("k"), n.integer("k")) == (0.5, 3.0, 3)
    assert (n.integers("axes"), n.integers("array"), n.integers("k")) == ((1, 2), (4, 5), (3,))
    assert n.numbers("axes") == (1.0, 2.0)
    assert (n.flag("on"), n.flag("off"), n.flag("missing"), n.flag("missing", True)) == (True, False, False, True)
    assert (n.word("mode"), n.word("missing", "nearest"), n.words("missing", ())) == ("linear", "nearest", ())
    assert (n.number("missing", 2.5), n.integer("none", 7), n.integers("none", ())) == (2.5, 7, ())
    assert n.per_axis("k", 2) == (3, 3)
    assert n.per_axis("axes", 2) == (1, 2)
    assert node(padding=((0, 1), 2)).padding(2) == ((0, 1), (2, 2))
    assert node(padding="same_upper").padding(2) == "same"
    assert n.padding(1) == ((0, 0),)
    graph = Graph([], [Input("x", None)], ["x"])
    assert node(body=graph).held("body", Graph) is graph


@pytest.mark.parametrize(
    ("read", "value"),
    [
        ("number", "0.5"), ("number", [1.0]), ("number", 1j), ("number", True), ("integer", 1.0), ("integer", "2"), ("integer", True),
        ("integers", "12"), ("integers", [1.5]), ("integers", {}), ("numbers", ["1"]), ("flag", 2), ("flag", "yes"), ("word", 3),
        ("word", b"same"), ("words", [1]), ("words", 5),
    ],
)  # fmt: skip
def test_another_type_is_refused_by_name(read, value):
    with pytest.raises(GraphError, match=r"node 'fc7' \(lrn\): size must be .*, got"):
        getattr(node(size=value), read)("size")
    with pytest.raises(GraphError, match=r"node 'fc7' \(lrn\) has no attribute 'beta'; .* is wanted"):
        getattr(node(size=value), read)("beta", None)


def test_windows_and_objects_of_another_kind():
    for value in ("2", [1], [1, 2.5], [0, 0]):
        with pytest.raises(PreimageError):
            node(stride=value).per_axis("stride", 2)
    for value in ("full", [1], 2.5):
        with pytest.raises(PreimageError):
            node(padding=value).padding(2)
    with pytest.raises(GraphError, match="body must be a Graph, got 'loop'"):
        node(body="loop").held("body", Graph)


@pytest.mark.parametrize(
    "attributes", [{"size": "five"}, {"size": 5.5}, {"size": 5, "alpha": "small"}, {"size": 5, "alpha": None}]
)
def test_a_graph_with_such_a_node_is_not_exported_in_foreign_words(attributes):
    pytest.importorskip("onnx")
    graph = Graph(
        [Node("norm", "lrn", ("x",), ("y",), {"alpha": 1.0, "beta": 0.75} | attributes)], [Input("x", (1, 8, 4, 4))], ["y"]
    )
    with pytest.raises(GraphError, match="node 'norm'"):
        from_graph(graph)
