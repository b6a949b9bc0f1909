"""Sequences of ONNX against onnxruntime: through loops and branches, with gradients, and with places that are not there."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage.io import onnx as onnx_io
from preimage.io.graph import optimise

onnx = pytest.importorskip("onnx")

HEAD = '<ir_version: 8, opset_import: ["": 16]> net '
#: Splits an image, doubles every second piece in a loop that carries a sequence, and puts them together from the last to the first.
NET = """(float[7, 3] x, int64 from) => (float[N, 3] y, int64 n)
<int64 size = {2}, int64 zero = {0}, bool go = {1}>
{
  parts = SplitToSequence <axis = 0> (x, size)
  count = SequenceLength (parts)
  none = SequenceEmpty ()
  made = Loop (count, go, none) <
    body = b (int64 i, bool c, seq(float[K, 3]) s) => (bool c, seq(float[K, 3]) t) {
      p = SequenceAt (parts, i)
      two = Constant <value = int64 {2}> ()  odd = Mod (i, two)  is = Cast <to = 9> (odd)
      q = If (is) < then_branch = a () => (float[K, 3] u) { u = Add (p, p) }, else_branch = e () => (float[K, 3] v) { v = Identity (p) } >
      t = SequenceInsert (s, q, zero)
    }
  >
  less = SequenceErase (made, from)
  y = ConcatFromSequence <axis = 0> (less)
  n = SequenceLength (less)
}"""


def load(text):
    return onnx_io.load(onnx.parser.parse_model(HEAD + text))


def feeds(place=-2):
    return {"x": np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32), "from": np.array(place)}


def test_sequences_agree_with_onnxruntime():
    ort = pytest.importorskip("onnxruntime")
    proto = onnx.parser.parse_model(HEAD + NET)
    want = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds())
    graph = onnx_io.load(proto)
    for each in (graph, optimise(graph)):
        with pre.no_grad():
            found = each.run(feeds())
        assert [np.array_equal(found[k], v) for k, v in zip(graph.outputs, want, strict=True)] == [True, True]


def test_gradients_go_through_sequences():
    x = pre.Tensor(feeds()["x"], requires_grad=True)
    load(NET).run(feeds() | {"x": x})["y"].sum().backward()
    assert x.grad[:, 0].tolist() == [1, 1, 0, 0, 1, 1, 2]  # the piece before the last of the reversed order is left out


def test_a_sequence_is_a_result():
    graph = load("(float[5, 2] x) => (seq(float[K, 2]) s) <int64[2] sizes = {4, 1}> { s = SplitToSequence (x, sizes) }")
    with pre.no_grad():
        found = graph(np.arange(10, dtype=np.float32).reshape(5, 2))
    assert [part.shape for part in found] == [(4, 2), (1, 2)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (NET, "position 9 in a sequence of 4"),
        (NET.replace("SequenceLength (parts)", "SequenceLength (x)"), r"an array of shape \(7, 3\) where a sequence is wanted"),
        (NET.replace("int64 size = {2}", "int64 size = {0}"), r"split is 0"),
        (NET.replace("axis = 0> (less)", "axis = 1> (less)"), "arrays of the shapes"),
        (NET.replace("ConcatFromSequence <axis = 0> (less)", "Add (x, less)"), "cannot run on|Add"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(text, words):
    with pytest.raises(pre.PreimageError, match=words), pre.no_grad():
        load(text).run(feeds(9 if text is NET else -2))
