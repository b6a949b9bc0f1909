"""Coordinates that belong together, pictures of nets, windows of images: coord_map, draw and Detector as pycaffe has them."""

import xml.etree.ElementTree as ET
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
