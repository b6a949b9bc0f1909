"""Messages in protobuf's words, with and without protobuf; nets written in Python; scripts that import caffe."""

import copy
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preimage import caffe
from preimage.caffe import coord_map
from preimage.caffe import layers as L  # noqa: N812 - the name that every script uses
from preimage.caffe import params as P  # noqa: N812

pb = caffe.proto.caffe_pb2
RNG = np.random.default_rng(3)
TEXT = """name: "n \\"q\\" \\303\\251"
state { phase: TRAIN level: 2 stage: "a" }
layer {
  name: "c"
  type: "Convolution"
  bottom: "x"
  top: "c"
  loss_weight: 0.5
  loss_weight: 1e-07
  param {
    name: "w"
    share_mode: PERMISSIVE
    lr_mult: 0
  }
  include {
    phase: TEST
    not_stage: "b"
  }
  convolution_param {
    num_output: 4
    bias_term: false
    kernel_size: 3
    kernel_size: 5
    weight_filler {
      type: "gaussian"
      std: 0.01
    }
    engine: CUDNN
    force_nd_im2col: true
  }
}
layer {
  name: "p"
  type: "Pooling"
  pooling_param {
    pool: AVE
    kernel_size: 2
  }
}
"""


# -- messages ----------------------------------------------------------------------------------------------------------


def test_protobufs_own_text_format_works_on_our_messages() -> None:
    """google.protobuf parses and prints our messages by their descriptors, as it does its own."""
    theirs = pytest.importorskip("google.protobuf.text_format", reason="protobuf comes with the extra onnx")
    net = pb.NetParameter()
    assert theirs.Merge(TEXT, net) is net
    assert net == pb.text_format.Parse(TEXT, pb.NetParameter())
    again = pb.NetParameter()
    theirs.Parse(theirs.MessageToString(net), again)
    assert again == net
    assert pb.text_format.Parse(theirs.MessageToString(net), pb.NetParameter()) == net
    assert theirs.MessageToString(net.layer[1]).split("\n")[2:4] == ["pooling_param {", "  pool: AVE"]
    solver = pb.SolverParameter()
    theirs.Merge(
        "test_iter: [1, 2] solver_mode: CPU base_lr: 0.25 random_seed: -3 snapshot_format: HDF5 net_param { name: 'i' }", solver
    )
    assert (list(solver.test_iter), solver.solver_mode, solver.base_lr, solver.random_seed) == (
        [1, 2],
        pb.SolverParameter.CPU,
        0.25,
        -3,
    )
    assert (solver.snapshot_format, solver.net_param.name) == (pb.SolverParameter.HDF5, "i")
    datum = pb.Datum(data=b"\x00\xff\n", float_data=[1.5, -2.0])
    assert theirs.Parse(theirs.MessageToString(datum), pb.Datum()) == datum
    with pytest.raises(theirs.ParseError, match="nobody"):
        theirs.Merge("nobody: 1", pb.NetParameter())


def test_text_is_merged_not_put_in_place_of_what_is_there() -> None:
    net = pb.NetParameter(name="old")
    net.layer.add(name="first")
    pb.text_format.Merge(b'force_backward: true layer { name: "second" }', net)
    assert (net.name, [layer.name for layer in net.layer]) == ("old", ["first", "second"])


def test_descriptors_and_enums() -> None:
    fields = pb.LayerParameter.DESCRIPTOR.fields_by_name
    assert (fields["pooling_param"].number, fields["pooling_param"].message_type.full_name) == (121, "caffe.PoolingParameter")
    assert fields["bottom"].label == 3
    assert [f.name for f in pb.LayerParameter().DESCRIPTOR.fields if f.name.endswith("_param")][:2] == [
        "transform_param",
        "loss_param",
    ]
    assert (pb.PoolingParameter.AVE, pb.PoolingParameter.PoolMethod.Value("AVE"), pb.PoolingParameter.PoolMethod.Name(1)) == (
        1,
        1,
        "AVE",
    )
    assert {v.number: k for k, v in pb.PoolingParameter.PoolMethod.DESCRIPTOR.values_by_name.items()}[2] == "STOCHASTIC"
    assert pb.V1LayerParameter.LayerType.Name(pb.V1LayerParameter.CONVOLUTION) == "CONVOLUTION"
    assert (pb.Phase.TEST, list(pb.Phase.keys())) == (1, ["TRAIN", "TEST"])
    assert dict(pb.Phase.items()) == dict(zip(pb.Phase.keys(), pb.Phase.values(), strict=True))
    for wrong in (lambda: pb.Phase.Value("X"), lambda: pb.Phase.Name(7)):
        with pytest.raises(ValueError, match="has no"):
            wrong()
    for missing in (lambda: pb.Nothing, lambda: pb.NetParameter.MAX, lambda: pb.Phase.X):
        with pytest.raises(AttributeError):
            missing()
    assert isinstance(pb.NetParameter(), pb.NetParameter)
    assert not isinstance(pb.Datum(), pb.NetParameter)


def test_fields_behave_as_protobufs() -> None:
    layer = pb.LayerParameter()
    assert not hasattr(layer, "no_field")
    with pytest.raises(AttributeError, match="no_field"):
        layer.no_field = 1
    with pytest.raises(TypeError, match="is no string"):
        layer.name = 3
    with pytest.raises(TypeError, match="is no uint32"):
        layer.convolution_param.kernel_size.append("3")
    assert layer.ListFields() == []
    layer.convolution_param.SetInParent()
    assert layer.HasField("convolution_param")
    layer.convolution_param.num_output = 7
    layer.param.add().lr_mult = 2
    assert [(field.name, field.number) for field, _ in layer.ListFields()] == [("param", 6), ("convolution_param", 106)]
    assert layer.convolution_param.num_output == 7
    layer.ClearField("convolution_param")
    assert not layer.HasField("convolution_param")
    with pytest.raises(ValueError, match="oneof"):
        layer.WhichOneof("kind")
    other = pb.NetParameter.FromString(pb.NetParameter(name="x").SerializeToString())
    assert other.name == "x"


def test_copies_and_pickles() -> None:
    blob = caffe.io.array_to_blobproto(np.arange(6.0).reshape(2, 3))
    net = pb.NetParameter(name="n")
    net.layer.add(name="l").blobs.extend([blob])
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin == net
        twin.layer[0].blobs[0].data[0] = 9
        assert twin != net
    assert copy.deepcopy(pb.text_format.Parse(TEXT, pb.NetParameter())) == pb.text_format.Parse(TEXT, pb.NetParameter())


def test_arrays_and_blobs() -> None:
    """The old form's four sizes, the new form's shape, a scalar without a shape, and an array that has none."""
    values = RNG.random((4, 5)).astype(np.float32)
    blob = pb.BlobProto()
    blob.data.extend(list(values.flatten()))
    with pytest.raises(ValueError, match="needs 1 numbers"):
        caffe.io.blobproto_to_array(blob)
    blob.num, blob.channels, blob.height, blob.width = 1, 1, 4, 5
    assert np.array_equal(caffe.io.blobproto_to_array(blob), values[None, None])
    new = pb.BlobProto()
    new.data.extend(list(values.flatten()))
    new.shape.dim.extend(list(values.shape))
    assert np.array_equal(caffe.io.blobproto_to_array(new), values)
    single = pb.BlobProto()
    single.data.extend([123.0])
    assert caffe.io.blobproto_to_array(single) == 123
    assert caffe.io.blobproto_to_array(single).shape == ()
    with_label, without = caffe.io.array_to_datum(np.ones((3, 4, 5)), label=1), caffe.io.array_to_datum(np.ones((3, 4, 5)))
    assert len(with_label.SerializeToString()) > len(without.SerializeToString())


# -- nets written in Python --------------------------------------------------------------------------------------------


def test_nets_written_in_python_are_built_from_their_text(tmp_path: Path) -> None:
    def built(proto: Any) -> Any:
        (tmp_path / "tmpspec").write_text(str(proto))
        return caffe.Net(str(tmp_path / "tmpspec"), caffe.TEST)

    shapes = [{"dim": [5, 1, 12, 12]}, {"dim": [5, 1, 1, 1]}]

    def chain(data: Any, label: Any) -> Iterator[tuple[str, Any]]:
        yield "conv", (conv := L.Convolution(data, kernel_size=5, num_output=3, weight_filler={"type": "xavier"}))
        yield "pool", (pool := L.Pooling(conv, kernel_size=2, stride=2, pool=P.Pooling.MAX))
        yield "ip", (ip := L.InnerProduct(pool, num_output=6, weight_filler={"type": "xavier"}))
        yield "relu", (relu := L.ReLU(ip, in_place=True))
        yield "loss", L.SoftmaxWithLoss(relu, label)

    n = caffe.NetSpec()
    n.data, n.label = L.DummyData(shape=shapes, transform_param={"scale": 1 / 255}, ntop=2)
    for name, top in chain(n.data, n.label):
        n[name] = top
    named = n.to_proto()
    data, label = L.DummyData(shape=shapes, ntop=2)
    unnamed = dict(chain(data, label))["loss"].to_proto()
    for proto in (named, unnamed):
        assert proto.layer[4].bottom == proto.layer[4].top  # in place
        assert len(built(proto).layers) == 6
    assert [layer.name for layer in unnamed.layer] == [
        "DummyData1",
        "Convolution1",
        "Pooling1",
        "InnerProduct1",
        "ReLU1",
        "SoftmaxWithLoss1",
    ]
    assert n.conv.fn.params["num_output"] == 3
    assert n.conv.fn.inputs == (n.data,)
    silent = caffe.NetSpec()
    silent.a, silent.b = L.DummyData(shape={"dim": 3}, ntop=2)
    silent.sa, silent.sb = L.Silence(silent.a, ntop=0), L.Silence(silent.b, ntop=0)
    assert built(silent.to_proto()).forward() == {}
    pair = L.DummyData(ntop=2)
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"):
        L.Silence(pair, ntop=0)
    L.Silence(*pair, ntop=0)
    scripted = caffe.NetSpec()
    scripted.data = L.Input(shape={"dim": [1, 2]})
    scripted.out = L.Python(scripted.data, module="m", layer="Layer", param_str="3")
    assert scripted.to_proto().layer[1].python_param.param_str == "3"


# -- scripts -------------------------------------------------------------------------------------------------------------


def test_a_script_may_import_caffe(monkeypatch: Any) -> None:
    """As docs/caffe.md says: under the name `caffe` lie the very same modules."""
    for name in [name for name in sys.modules if name.startswith("preimage.caffe")]:
        monkeypatch.setitem(sys.modules, name.removeprefix("preimage."), sys.modules[name])
    space: dict[str, Any] = {}
    exec(
        "import caffe, caffe.io, caffe.draw\nfrom caffe import layers as L, params as P\nfrom caffe.coord_map import crop\n"
        "from caffe.net_spec import NetSpec\nfrom caffe.proto import caffe_pb2",
        space,
    )
    assert (space["caffe"], space["caffe_pb2"], space["NetSpec"], space["crop"]) == (caffe, pb, caffe.NetSpec, coord_map.crop)
    assert re.fullmatch(r"\d+\.\d+\.\d+", caffe.__version__)
