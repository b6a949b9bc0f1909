"""Functions that a model defines itself: the result that onnxruntime gives, and those that call themselves or become too much."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage.io import onnx as onnx_io

onnx = pytest.importorskip("onnx")

HEAD = '<ir_version: 8, opset_import: ["": 16, "own": 1]>\n'
TWICE = """net (float[N, 3] x, bool c) => (float[N, 3] y)
{
  a = own.leaky <slope = 0.25> (x)
  y = If (c) < then_branch = t () => (float[N, 3] p) { p = own.both (a, x) }, else_branch = e () => (float[N, 3] q) { q = own.leaky (a) } >
}
<domain: "own", opset_import: ["": 16]>
leaky <slope: float = 0.5> (x) => (y) { y = LeakyRelu <alpha: float = @slope> (x) }
<domain: "own", opset_import: ["": 16, "own": 1]>
both (a, b) => (c) { t = own.leaky <slope = 0.125> (b)  c = Sub (a, t) }
"""


def test_calls_become_the_nodes_of_their_function():
    ort = pytest.importorskip("onnxruntime")
    proto = onnx.parser.parse_model(HEAD + TWICE)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    graph = onnx_io.load(proto)
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    for flag in (True, False):
        feeds = {"x": x, "c": np.array(flag)}
        with pre.no_grad():
            assert np.array_equal(graph.run(feeds)["y"], session.run(None, feeds)[0])


def chain(calls, depth=24):
    """f0 calls f1 `calls` times, which calls f2 as often, and so on."""
    text = HEAD + "net (float[3] x) => (float[3] y) { y = own.f0 (x) }\n"
    for k in range(depth):
        callee = f"own.f{k + 1}" if k + 1 < depth else "Neg"
        body = " ".join(f"a{j + 1} = {callee} (a{j})" for j in range(calls)).replace("(a0)", "(x)").replace(f"a{calls} =", "y =")
        text += f'<domain: "own", opset_import: ["": 16, "own": 1]>\nf{k} (x) => (y) {{ {body} }}\n'
    return onnx.parser.parse_model(text)


def test_a_chain_of_functions_is_read_and_one_that_doubles_at_every_link_is_not():
    with pre.no_grad():
        assert onnx_io.load(chain(1)).run({"x": np.ones(3, np.float32)})["y"].tolist() == [-1, -1, -1]
    with pytest.raises(pre.FileFormatError, match=r"functions become \d+ nodes; 131072 are allowed"):
        onnx_io.load(chain(2))


def test_functions_that_call_themselves_or_are_defined_twice_are_refused():
    proto = chain(1, 2)
    proto.functions[1].node[0].domain, proto.functions[1].node[0].op_type = "own", "f0"
    with pytest.raises(pre.FileFormatError, match="'f0' calls itself"):
        onnx_io.load(proto)
    proto = chain(1, 2)
    proto.functions.add().CopyFrom(proto.functions[0])
    with pytest.raises(pre.FileFormatError, match="'f0' twice"):
        onnx_io.load(proto)
