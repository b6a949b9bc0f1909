"""Messages in protobuf's words, with and without protobuf; nets written in Python; coordinates; pictures of nets; windows of images."""

import copy
import pickle
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preimage import caffe
from preimage.caffe import coord_map, draw
from preimage.caffe import layers as L  # noqa: N812 - the name that every script uses
from preimage.caffe import params as P  # noqa: N812
from preimage.caffe.draw_layout import Box, Edge, Picture, arrange
from preimage.errors import FileFormatError, OptionError, PreimageError, ShapeError

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


# -- coordinates -------------------------------------------------------------------------------------------------------


def spec(ks: Any = 3, stride: Any = 1, pad: Any = 0, pool: int = 2, dstride: Any = 2, dpad: Any = 0, axes: int = 2) -> Any:
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [2, 1, *(48,) * axes]})
    n.conv = L.Convolution(n.data, num_output=3, kernel_size=ks, stride=stride, pad=pad)
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=pool, stride=pool)
    up = [2 * s for s in dstride] if isinstance(dstride, list) else 2 * dstride
    n.deconv = L.Deconvolution(n.pool, num_output=3, kernel_size=up, stride=dstride, pad=dpad)
    return n


def test_maps_of_coordinates() -> None:
    for n, wanted in (
        (spec(), (1, 1, 0)), (spec(pool=4, dstride=4), (1, 1, -1)), (spec(pad=5), (1, 1, -5)), (spec(dpad=5), (1, 1, 5)),
        (spec(pad=3, dpad=3), (1, 1, 0)),
    ):  # fmt: skip
        assert coord_map.coord_map_from_to(n.deconv, n.data) == wanted
    n = spec()
    n.relu = L.ReLU(n.deconv)
    n.one = L.Convolution(n.relu, num_output=2, kernel_size=1)
    n.wide = L.Convolution(n.relu, num_output=2, kernel_size=3, dilation=2)
    n.cut = L.Crop(n.deconv, n.data, axis=2, offset=4)
    assert coord_map.coord_map_from_to(n.one, n.data) == (1, 1, 0)
    assert coord_map.coord_map_from_to(n.wide, n.data) == (1, 1, 2)
    assert coord_map.coord_map_from_to(n.cut, n.data) == (1, 1, 4)
    assert coord_map.coord_map_from_to(n.relu, n.deconv) == (None, 1, 0)
    two = caffe.NetSpec()
    two.a, two.b = L.Input(shape={"dim": [1, 1, 9, 9]}), L.Input(shape={"dim": [1, 1, 7, 7]})
    two.x, two.y = L.Convolution(two.a, two.b, ntop=2, num_output=2, kernel_size=5, stride=2)
    assert coord_map.coord_map_from_to(two.x, two.a) == coord_map.coord_map_from_to(two.y, two.b) == (1, 2, 2)


def test_maps_of_several_axes() -> None:
    n, n3, n5 = spec(ks=[3, 5], stride=[1, 2], pad=[0, 10]), spec(), spec(ks=5, stride=2, pad=10)
    axis, a, b = coord_map.coord_map_from_to(n.deconv, n.data)
    (_, a3, b3), (_, a5, b5) = (coord_map.coord_map_from_to(m.deconv, m.data) for m in (n3, n5))
    assert (axis, a.tolist(), b.tolist()) == (1, [a3[0], a5[0]], [b3[0], b5[0]])
    cube = spec(ks=[3, 3, 3], stride=[1, 1, 1], pad=[0, 1, 2], axes=3)
    axis, a, b = coord_map.coord_map_from_to(cube.deconv, cube.data)
    assert (axis, b.tolist()) == (1, [0, -1, -2])
    assert (a == 1).all()


def test_a_crop_lines_up_what_the_maps_say() -> None:
    """Against the nets themselves: one pixel of the input, and where its traces lie in the crop."""
    n = spec(ks=5, pad=6, pool=2, dstride=2)
    n.cut = coord_map.crop(n.deconv, n.data)
    message = n.to_proto().layer[-1]
    assert (message.crop_param.axis, list(message.crop_param.offset)) == (2, [5])
    net = caffe.Net(n.to_proto(), caffe.TEST)
    for blobs in (net.params["conv"], net.params["deconv"]):
        blobs[0].data[...] = 1
    net.blobs["data"].data[0, 0, 20, 31] = 1
    net.forward()
    rows, columns = (np.flatnonzero(net.blobs["cut"].data[0, 0].any(axis)) for axis in (1, 0))
    assert abs(rows.mean() - 20) <= 1
    assert abs(columns.mean() - 31) <= 1


def test_tops_that_cannot_be_lined_up() -> None:
    n = spec()
    n.ip = L.InnerProduct(n.deconv, num_output=3)
    with pytest.raises(RuntimeError, match="no map leads"):
        coord_map.coord_map_from_to(n.ip, n.data)
    for other, problem in (
        (spec(pool=3, dstride=2), "scales"),
        (spec(dpad=10), "before the first"),
        (spec(ks=2), "no whole numbers"),
    ):
        with pytest.raises(AssertionError, match=problem):
            coord_map.crop(other.deconv, other.data)
    n.sided = L.Convolution(n.data, num_output=1, kernel_size=3, pad_h=1, pad_w=2)
    with pytest.raises(AssertionError, match="as a list"):
        coord_map.coord_map_from_to(n.sided, n.data)
    n.shifted = L.Convolution(n.data, num_output=1, kernel_size=3, axis=2)
    n.both = L.Convolution(n.shifted, num_output=1, kernel_size=3)
    with pytest.raises(coord_map.AxisMismatchException):
        coord_map.coord_map_from_to(n.both, n.data)
    with pytest.raises(OptionError, match="a top was expected"):
        coord_map.coord_map_from_to("deconv", n.data)


# -- pictures ----------------------------------------------------------------------------------------------------------

DRAWN = """
name: "drawn"
layer { name: "d<1>" type: "Data" top: "x" top: "label" data_param { batch_size: 32 } include { phase: TRAIN } }
layer { name: "in" type: "Input" top: "x" include { phase: TEST } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" param { lr_mult: 0.5 }
  convolution_param { num_output: 20 kernel_h: 3 kernel_w: 5 pad: 1 } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "e" type: "Eltwise" bottom: "p" bottom: "c" top: "e" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "e" bottom: "label" top: "loss" include { phase: TRAIN } }
"""


def drawn(phase: int | None = caffe.TRAIN) -> Any:
    return draw.picture(pb.text_format.Parse(DRAWN, pb.NetParameter()), "LR", phase)


def test_what_a_picture_shows() -> None:
    picture = drawn()
    shown = [box.lines for box in picture.boxes]
    assert ["c", "(Convolution)", "kernel size: 3x5", "stride: 1", "pad: 1"] in shown
    assert ["p", "(Pooling AVE)", "kernel size: 2", "stride: 2", "pad: 0"] in shown
    assert [box.lines[0] for box in picture.boxes if box.shape == "octagon"] == ["x", "label", "c", "c", "p", "e", "loss"]
    by_name = [box.lines[0] for box in picture.boxes]
    arrows = {(by_name[edge.start], by_name[edge.end]): edge.label for edge in picture.edges}
    assert arrows["c", "c"] == "20"
    assert arrows["d<1>", "x"] == "Batch 32"
    assert ("label", "loss") in arrows
    assert "in" not in by_name
    assert "loss" not in [box.lines[0] for box in drawn(caffe.TEST).boxes]
    both = [box.lines[0] for box in drawn(None).boxes]
    assert {"in", "d<1>"} <= set(both)
    net = pb.text_format.Parse(DRAWN, pb.NetParameter())
    assert draw.get_layer_label(net.layer[2], "TB", True).endswith("pad: 1 lr mult: 0.5, 1.0")
    assert [draw.choose_color_by_layertype(t) for t in ("Deconvolution", "ReLU")] == ["#FF5050", "#6495ED"]
    with pytest.raises(OptionError, match="no weight and bias"):
        draw.get_layer_lr_mult(net.layer[3])


def test_svg_png_and_dot(tmp_path: Path) -> None:
    net = pb.text_format.Parse(DRAWN, pb.NetParameter())
    draw.draw_net_to_file(net, tmp_path / "n.svg", "TB", caffe.TRAIN)
    root = ET.fromstring((tmp_path / "n.svg").read_text())
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "d<1> (Data)" in words
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polygon"))) == len(drawn().boxes)
    for ending in ("dot", "raw"):
        text = draw.draw_net(net, "RL", ending).decode()
        assert "rankdir=RL" in text
        assert text.count(" -> ") == len(drawn(None).edges)
    picture = pytest.importorskip("PIL.Image", reason="Pillow comes with the extra cli")
    draw.draw_net_to_file(net, str(tmp_path / "n.png"), phase=caffe.TRAIN)
    with picture.open(tmp_path / "n.png") as image:
        assert image.size == (round(drawn().width), round(drawn().height))
        assert (0xFF, 0x50, 0x50) in {colour for _, colour in image.convert("RGB").getcolors(1 << 16)}


def test_pictures_that_cannot_be_drawn(tmp_path: Path) -> None:
    net = pb.text_format.Parse(DRAWN, pb.NetParameter())
    for call, problem in (
        (lambda: draw.draw_net(net, "LR", "pdf"), "'pdf' are not written; there are svg, png"),
        (lambda: draw.draw_net_to_file(net, tmp_path / "net"), "'' are not written"),
        (lambda: draw.draw_net(net, "XY", "svg"), "none of LR, RL, TB, BT"),
        (lambda: draw.draw_net("net.prototxt", "LR", "svg"), "takes a NetParameter, got str"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=problem):
            call()
    twice = pb.text_format.Parse('layer { name: "a" type: "ReLU" include { } exclude { } }', pb.NetParameter())
    with pytest.raises(FileFormatError, match="both include and exclude"):
        draw.draw_net(twice, "LR", "svg", caffe.TEST)
    hostile = pb.NetParameter()
    hostile.layer.add(name='"/><script>\x1b[31m', type="ReLU", top=["</title>"])
    text = draw.draw_net(hostile, "LR", "svg").decode()
    assert "<script" not in text
    assert "\x1b" not in text
    assert ET.fromstring(text) is not None
    assert draw.draw_net(pb.NetParameter(), "LR", "svg").startswith(b"<svg")


@pytest.mark.parametrize("direction", ["LR", "RL", "TB", "BT"])
def test_boxes_do_not_overlap_and_arrows_go_forward(direction: str) -> None:
    for trial in range(6):
        count = 3 + 5 * trial
        boxes = [Box(["b"], "box", "#fff", float(RNG.integers(20, 120)), float(RNG.integers(15, 60))) for _ in range(count)]
        pairs = {(int(RNG.integers(0, k)), k) for k in range(1, count) for _ in range(2)}
        picture = arrange(Picture(boxes, [Edge(*pair) for pair in sorted(pairs)], direction))
        for k, one in enumerate(boxes):
            assert one.width / 2 <= one.x <= picture.width - one.width / 2
            assert one.height / 2 <= one.y <= picture.height - one.height / 2
            for other in boxes[k + 1 :]:
                apart_x = abs(one.x - other.x) - (one.width + other.width) / 2
                apart_y = abs(one.y - other.y) - (one.height + other.height) / 2
                assert max(apart_x, apart_y) > 1
        axis, sign = (0 if direction in ("LR", "RL") else 1), (1 if direction in ("LR", "TB") else -1)
        for edge in picture.edges:
            along = [sign * point[axis] for point in edge.points]
            assert along == sorted(along)
            for x, y in edge.points[1:-1]:  # a long arrow passes between the boxes
                assert not any(abs(x - box.x) < box.width / 2 and abs(y - box.y) < box.height / 2 for box in boxes)


# -- windows -----------------------------------------------------------------------------------------------------------

AVERAGE = """
input: "data" input_shape { dim: 2 dim: 3 dim: 8 dim: 8 }
layer { name: "m" type: "Pooling" bottom: "data" top: "m" pooling_param { pool: AVE global_pooling: true } }
"""


def test_detector(tmp_path: Path) -> None:
    picture = pytest.importorskip("PIL.Image", reason="Pillow comes with the extra cli")
    (tmp_path / "net").write_text(AVERAGE)
    caffe.Net(str(tmp_path / "net"), caffe.TEST).save(tmp_path / "w")
    images = RNG.integers(0, 256, (2, 20, 24, 3)).astype(np.uint8)
    for k, image in enumerate(images):
        picture.fromarray(image).save(tmp_path / f"{k}.png")
    windows = [[(2, 3, 10, 11), (0, 0, 20, 24)], [(5, 4, 13, 12)]]
    detector = caffe.Detector(tmp_path / "net", tmp_path / "w", mean=np.array([1.0, 2, 3]), raw_scale=255, channel_swap=(2, 1, 0))
    found = detector.detect_windows([(str(tmp_path / f"{k}.png"), w) for k, w in enumerate(windows)])
    assert [(f["window"], Path(f["filename"]).name) for f in found] == [
        ((2, 3, 10, 11), "0.png"),
        ((0, 0, 20, 24), "0.png"),
        ((5, 4, 13, 12), "1.png"),
    ]
    for entry, image in ((found[0], images[0]), (found[2], images[1])):  # windows of the net's size are not resized
        ymin, xmin, ymax, xmax = entry["window"]
        wanted = image[ymin:ymax, xmin:xmax, ::-1].reshape(-1, 3).mean(0) - [1, 2, 3]
        np.testing.assert_allclose(entry["prediction"].reshape(3), wanted, rtol=1e-4, atol=1e-2)
    assert detector.detect_windows([]) == []
    for window in ((5, 5, 5, 9), (-1, 0, 4, 4), (25, 0, 30, 4)):
        with pytest.raises(ShapeError, match="does not lie in"):
            detector.crop(images[0], window)
    with pytest.raises(OptionError, match="windows"):
        detector.detect_selective_search([])


def test_detector_with_context(tmp_path: Path) -> None:
    """The window covers the middle of the input, what lies around it the rim; outside of the image is the mean."""
    (tmp_path / "net").write_text(AVERAGE.replace("dim: 8 dim: 8", "dim: 16 dim: 16"))
    caffe.Net(str(tmp_path / "net"), caffe.TEST).save(tmp_path / "w")
    mean = np.array([10.0, 20, 30])
    detector = caffe.Detector(tmp_path / "net", tmp_path / "w", mean=mean, raw_scale=255, channel_swap=(2, 1, 0), context_pad=4)
    image = np.zeros((40, 40, 3), np.float32)
    image[16:24, 16:24] = 1
    crop = detector.crop(image, (16, 16, 23, 23))
    assert crop.shape == (16, 16, 3)
    assert (crop[5:11, 5:11] == 1).all()
    assert (crop[:3] == 0).all()
    corner = detector.crop(np.ones((40, 40, 3), np.float32), (0, 0, 7, 7))
    assert np.allclose(corner[:3, :3], mean[::-1] / 255)
    assert np.allclose(corner[6:, 6:], 1)
    assert np.allclose(detector.transformer.preprocess("data", corner)[:, :3, :3], 0, atol=1e-4)
    with pytest.raises(OptionError, match="leaves nothing"):
        caffe.Detector(tmp_path / "net", tmp_path / "w", context_pad=8)
    with pytest.raises(PreimageError):
        caffe.Detector(tmp_path / "none", tmp_path / "w")


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
