"""ONNX messages read without the package onnx, beside protobuf's own reading of the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

from preimage.errors import FileFormatError
from preimage.io.onnx import definitions, model, wire
from preimage.io.onnx.older import OLDEST_AS_IT_IS

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def made():
    """A model with every field that is read: tensors stored in all ways, attributes of all types, open sizes, a graph inside a node."""
    rng = np.random.default_rng(5)
    tensor = helper.make_tensor
    stored = [
        onnx.numpy_helper.from_array(rng.standard_normal((3, 2)).astype(np.float32), "raw"),
        tensor("floats", 1, (2, 2), [1.5, -0.0, float("inf"), 3e-40]),
        tensor("doubles", 11, (2,), [0.1, -1e300]),
        tensor("int32", 6, (4,), [0, -1, 2**31 - 1, -(2**31)]),
        tensor("int8", 3, (3,), [-128, 127, 0]),
        tensor("bool", 9, (2,), [True, False]),
        tensor("half", 10, (2,), np.array([0.1, -2], np.float16)),
        tensor("int64", 7, (4,), [0, 300, -1, 2**62]),
        tensor("uint64", 13, (2,), [2**64 - 1, 128]),
        tensor("scalar", 1, (), [2.5]),
        tensor("empty", 7, (0,), []),
    ]
    value = helper.make_tensor_value_info
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["b"])], "branch", [], [value("b", 1, None)], [stored[0]])
    nodes = [
        helper.make_node("Strange", ["x", "", "raw"], ["y"], name="ünï", domain="some.where", f=1.25, i=-(2**63), s="tëxt", fs=[1.0, -2.5],
                         iis=[0, -5, 2**40], ss=["a", "b"], t=stored[3], g=branch),
        helper.make_node("Relu", ["y"], ["z"]),
    ]  # fmt: skip
    inputs = [value("x", 1, (None, "n", 3)), value("raw", 1, (3, 2)), value("s", 7, ())]
    graph = helper.make_graph(nodes, "net", inputs, [value("z", 10, None)], stored)
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("some.where", 1)])
    helper.set_model_props(built, {"key": "value"})
    return built


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() and a.flags.writeable == b.flags.writeable
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__slots__") and not isinstance(a, str):
        return type(a) is type(b) and all(same(getattr(a, name), getattr(b, name)) for name in a.__slots__)
    return a is b or (type(a) is type(b) and a == b)


def test_a_model_is_read_as_protobuf_reads_it(tmp_path):
    proto = made()
    data = proto.SerializeToString()
    wanted = model.read_model(proto)
    assert len(wanted.nodes[0].attributes) == 8
    assert same(model.read_model(data), wanted)
    (tmp_path / "net.onnx").write_bytes(data)
    assert same(model.read_model(tmp_path / "net.onnx"), wanted)
    planted = model.read_model(data)
    planted.initializers["int64"][3] += 1
    assert not same(planted, wanted)


def test_unpacked_numbers_repeated_fields_and_unknown_ones():
    packed = onnx.TensorProto(dims=[3], data_type=7, int64_data=[1, -2, 300]).SerializeToString()
    one_by_one = b"\x08\x03\x10\x07" + b"".join(b"\x38" + wire_bytes(n) for n in (1, -2, 300)) + b"\xa0\x3f\x05" + b"\x45\0\0\0\0"
    for data in (packed, one_by_one, packed[:4] + b"\x3a\x01\x01" + one_by_one[6:-8]):
        tensor = wire._Tensor()
        wire._fill(tensor, memoryview(data), 0, len(data), 0)
        assert model.to_array(tensor).tolist() == [1, -2, 300]
        assert model.to_array(onnx.TensorProto.FromString(data)).tolist() == [1, -2, 300]
    twice = onnx.ModelProto(ir_version=3).SerializeToString() + onnx.ModelProto(ir_version=8).SerializeToString()
    assert wire.parse_model(memoryview(twice)).ir_version == onnx.ModelProto.FromString(twice).ir_version == 8
    halves = [onnx.ModelProto(graph=onnx.GraphProto(name=n, node=[onnx.NodeProto(op_type=n)])).SerializeToString() for n in "ab"]
    merged = wire.parse_model(memoryview(b"".join(halves)))
    assert [node.op_type for node in merged.graph.node] == ["a", "b"]
    assert merged.graph.name == "b"


def wire_bytes(number):
    from preimage.io.protobuf import varint

    return varint(number)


def test_damaged_bytes_are_refused_or_read_as_protobuf_reads_them():
    """Bytes changed and cut off at random: what both read is the same, and nothing raises but our own error."""
    data = made().SerializeToString()
    rng = np.random.default_rng(1)
    read = 0
    for k in range(300):
        damaged = bytearray(data[: len(data) - (0 if k % 2 else int(rng.integers(1, len(data))))])
        damaged[int(rng.integers(len(damaged)))] = int(rng.integers(256))
        try:
            proto = onnx.ModelProto.FromString(bytes(damaged))
        except Exception:  # protobuf's own
            proto = None
        try:
            ours = wire.parse_model(memoryview(bytes(damaged)))
        except FileFormatError:
            continue
        if proto is not None and len(proto.graph.node) == len(ours.graph.node):
            read += 1
            assert [n.op_type for n in ours.graph.node] == [model._text(n.op_type) for n in proto.graph.node]
            assert [list(t.dims) for t in ours.graph.initializer] == [list(t.dims) for t in proto.graph.initializer]
    assert read > 50


def test_graphs_inside_graphs_end(tmp_path):
    from preimage.io.protobuf import key, varint

    def inside(number, payload):
        return key(number, 2) + varint(len(payload)) + payload

    data = b""
    for _ in range(60):
        data = inside(1, inside(5, inside(6, data)))
    with pytest.raises(FileFormatError, match="depth"):
        model.read_model(inside(7, data))


def test_definitions_are_those_of_onnx():
    """For every operator and opset: the most inputs, and every attribute's type."""
    compared = 0
    for schema in onnx.defs.get_all_schemas():
        for opset in range(OLDEST_AS_IT_IS, model.OPSETS.stop):
            try:
                wanted = onnx.defs.get_schema(schema.name, opset) if schema.domain == "" else None
            except onnx.defs.SchemaError:
                continue
            if wanted is None or opset > onnx.defs.onnx_opset_version():
                continue
            compared += 1
            assert definitions.most_inputs(schema.name, opset) == wanted.max_input, (schema.name, opset)
            row = definitions._row(schema.name, opset)
            assert row[2] == {name: int(each.type) for name, each in wanted.attributes.items()}, (schema.name, opset)
    assert compared > 2000
    assert definitions.most_inputs("Nobody", 13) == 1 << 31
    assert definitions.attribute_type("Relu", 13, "alpha") is None


def test_pages_of_arrays_are_given_back(tmp_path):
    """After reading, the file's bytes take no memory beside the arrays."""
    weights = np.arange(1 << 22, dtype=np.float32)
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "net", [helper.make_tensor_value_info("x", 1, (1 << 22,))],
                              [helper.make_tensor_value_info("y", 1, None)], [onnx.numpy_helper.from_array(weights, "w")])  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), tmp_path / "net.onnx")
    data = model._file_bytes(tmp_path / "net.onnx")
    proto = model._parsed(data, "net")
    (tensor,) = proto.graph.initializer
    assert np.array_equal(model.to_array(tensor), weights)
    assert not np.frombuffer(data, np.uint8)[1 << 16 : 1 << 23].any()  # fresh pages
    with pytest.raises(FileFormatError, match="needs 16777216 bytes, the file has 0"):
        model.to_array(tensor)  # nobody takes them for the weights
