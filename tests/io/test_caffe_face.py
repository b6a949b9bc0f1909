"""The pycaffe-shaped face: what old scripts do, and what their gradients must be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage import caffe, ops
from preimage.caffe import layers as L  # noqa: N812 - the name that every script uses
from preimage.caffe import params as P  # noqa: N812
from preimage.errors import OptionError, PreimageError, ShapeError

NET = """
name: "net" force_backward: true
input: "data" input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 7
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
RNG = np.random.default_rng(2)


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "net.prototxt").write_text(NET)
    return str(tmp_path / "net.prototxt")


def test_the_way_of_every_old_script(path: str, tmp_path: Path) -> None:
    caffe.set_mode_cpu()
    caffe.set_random_seed(3)
    caffe.Net(path, caffe.TEST).save(str(tmp_path / "w.caffemodel"))
    net = caffe.Net(path, str(tmp_path / "w.caffemodel"), caffe.TEST)
    assert list(net.blobs) == ["data", "conv", "pool", "fc", "prob"]
    assert (net.inputs, net.outputs) == (["data"], ["prob"])
    assert [b.data.shape for b in net.params["conv"]] == [(4, 3, 3, 3), (4,)]
    assert net.blobs["data"].data.shape == (2, 3, 8, 7)
    net.blobs["data"].data[...] = RNG.standard_normal((2, 3, 8, 7))
    out = net.forward()
    assert list(out) == ["prob"]
    assert np.allclose(out["prob"].sum(1), 1)
    assert (net.blobs["conv"].data >= 0).all()  # the blob after the in-place ReLU
    again = caffe.Net(path, caffe.TEST, weights=str(tmp_path / "w.caffemodel"))
    assert np.array_equal(again.forward(data=net.blobs["data"].data)["prob"], out["prob"])
    assert [layer.type for layer in net.layers][:2] == ["Input", "Convolution"]
    assert net.top_names["relu"] == ["conv"]
    assert net.bottom_names["fc"] == ["pool"]
    assert net.layer_dict["fc"].blobs[0].data is net.params["fc"][0].data
    assert (net.blobs["data"].num, net.blobs["data"].channels, net.blobs["fc"].width, net.blobs["fc"].count) == (2, 3, 1, 10)


def test_views_of_data_stay_good(path: str) -> None:
    net = caffe.Net(path, caffe.TEST)
    prob, data = net.blobs["prob"].data, net.blobs["data"].data
    net.forward()
    first = prob.copy()
    data[...] = 3 * RNG.standard_normal(data.shape)
    net.forward()
    assert prob is net.blobs["prob"].data
    assert not np.array_equal(prob, first)


def test_parameters_are_changed_in_place(path: str) -> None:
    net = caffe.Net(path, caffe.TEST)
    net.params["fc"][0].data[...] = 0
    net.params["fc"][1].data[...] = [0, 0, 5, 0, 0]
    assert net.forward()["prob"].argmax(1).tolist() == [2, 2]


def test_reshape(path: str) -> None:
    net = caffe.Net(path, caffe.TEST)
    net.blobs["data"].reshape(5, 3, 8, 7)
    net.reshape()
    assert net.blobs["pool"].data.shape == (5, 4, 3, 3)
    assert net.forward()["prob"].shape == (5, 5)
    net.blobs["data"].reshape(1, 3, 9, 9)
    with pytest.raises(ShapeError, match="layer 'fc'"):
        net.forward()


def test_backward_from_a_loss(path: str) -> None:
    text = NET.replace(
        '"prob" type: "Softmax" bottom: "fc" top: "prob"',
        '"loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" loss_weight: 2',
    )
    text = text.replace("layer {", 'layer { name: "l" type: "Input" top: "label" input_param { shape { dim: 2 } } } layer {', 1)
    Path(path).write_text(text)
    net = caffe.Net(path, caffe.TEST)
    net.blobs["data"].data[...] = RNG.standard_normal((2, 3, 8, 7))
    net.blobs["label"].data[...] = [1, 4]
    loss = float(net.forward()["loss"])
    diffs = net.backward()
    assert set(diffs) == {"data", "label"}
    place = (1, 2, 3, 4)

    def moved(array: Any, where: Any, step: float) -> float:
        array[where] += step
        value = float(net.forward()["loss"])
        array[where] -= step
        return value

    for array, slope, where in (
        (net.blobs["data"].data, diffs["data"], place),
        (net.params["conv"][0].data, net.params["conv"][0].diff, (2, 1, 0, 1)),
        (net.params["fc"][1].data, net.params["fc"][1].diff, (4,)),
    ):
        measured = 2 * (moved(array, where, 1e-2) - moved(array, where, -1e-2)) / 2e-2
        assert slope[where] == pytest.approx(measured, rel=2e-2, abs=1e-4)
    assert float(net.blobs["loss"].diff) == 2
    assert float(net.forward()["loss"]) == pytest.approx(loss)


def test_parameter_diffs_add_up_until_cleared(path: str) -> None:
    net = caffe.Net(path, caffe.TEST)
    net.blobs["data"].data[...] = RNG.standard_normal((2, 3, 8, 7))
    net.forward()
    net.blobs["prob"].diff[...] = RNG.standard_normal((2, 5))
    net.backward()
    once, data = net.params["conv"][0].diff.copy(), net.blobs["data"].diff.copy()
    assert np.abs(once).max() > 0
    net.backward()
    assert np.allclose(net.params["conv"][0].diff, 2 * once)
    assert np.allclose(net.blobs["data"].diff, data)  # blobs do not add up
    net.clear_param_diffs()
    assert (net.params["conv"][0].diff == 0).all()


def test_the_in_place_blobs_diff_is_that_before_the_relu(path: str) -> None:
    net = caffe.Net(path, caffe.TEST)
    net.blobs["data"].data[...] = RNG.standard_normal((2, 3, 8, 7))
    net.forward()
    net.blobs["prob"].diff[...] = RNG.standard_normal((2, 5))
    net.backward()
    assert (net.blobs["conv"].diff[net.blobs["conv"].data == 0] == 0).all()
    w, g = net.params["conv"][0].data, net.blobs["conv"].diff
    assert np.allclose(net.blobs["data"].diff, pre.conv_transpose(g, w), atol=1e-6)


def test_backward_from_the_middle_as_deep_dreams_do(path: str) -> None:
    net = caffe.Net(path, caffe.TEST)
    net.blobs["data"].data[...] = RNG.standard_normal((2, 3, 8, 7))
    net.forward(end="pool")
    net.blobs["pool"].diff[...] = net.blobs["pool"].data
    net.backward(start="pool")
    got = net.blobs["data"].diff.copy()
    leaf = pre.Tensor(net.blobs["data"].data.copy(), requires_grad=True)
    hidden = ops.relu(ops.conv(leaf, net.params["conv"][0].data, net.params["conv"][1].data))
    pooled = ops.max_pool(hidden, 2, ceil_mode=True)  # 5 columns make 3: Caffe rounds up
    wanted = pre.grad(pooled, leaf, pooled.data).data
    assert np.allclose(got, wanted, atol=1e-5)
    assert (net.params["fc"][0].diff == 0).all()


def test_forward_in_pieces(path: str) -> None:
    net = caffe.Net(path, caffe.TEST)
    net.blobs["data"].data[...] = RNG.standard_normal((2, 3, 8, 7))
    whole = net.forward(blobs=["pool"])
    assert set(whole) == {"prob", "pool"}
    wanted = whole["prob"].copy()
    assert list(net.forward(end="pool")) == ["pool"]
    assert np.array_equal(net.forward(start="fc")["prob"], wanted)
    net.blobs["pool"].data[...] = 0
    assert not np.array_equal(net.forward(start="fc")["prob"], wanted)


def test_forward_all_cuts_the_padding(path: str) -> None:
    net = caffe.Net(path, caffe.TEST)
    data = RNG.standard_normal((5, 3, 8, 7)).astype(np.float32)
    out = net.forward_all(data=data, blobs=["fc"])
    assert out["prob"].shape == (5, 5)
    assert np.allclose(out["prob"][4], net.forward(data=data[[4, 4]])["prob"][0], atol=1e-6)
    values, slopes = net.forward_backward_all(data=data, prob=np.ones((5, 5), np.float32))
    assert values["prob"].shape == (5, 5)
    assert slopes["data"].shape == data.shape


def test_wrong_calls_say_what_is_wrong(path: str) -> None:
    net = caffe.Net(path, caffe.TEST)
    for call, problem in (
        (lambda: net.forward(image=0), "the net's are"),
        (lambda: net.forward(data=np.zeros((1, 3, 8, 7))), "reshape it"),
        (lambda: net.forward(end="nil"), "there is no layer 'nil'"),
        (lambda: net.backward(fc=0), "the net's outputs are"),
        (lambda: caffe.Net(path, 3), "phase"),
        (lambda: caffe.Net(path, caffe.TEST, wights="w"), "does not know"),
    ):
        with pytest.raises(PreimageError, match=problem):
            call()
    with pytest.warns(UserWarning, match="computes on the CPU"):
        caffe.set_mode_gpu()


def test_training_nets_record_the_pass_that_they_ran(tmp_path: Path) -> None:
    text = NET.replace(
        'layer { name: "prob"', 'layer { name: "drop" type: "Dropout" bottom: "fc" top: "fc" } layer { name: "prob"'
    )
    (tmp_path / "t.prototxt").write_text(text)
    net = caffe.Net(str(tmp_path / "t.prototxt"), caffe.TRAIN)
    net.blobs["data"].data[...] = RNG.standard_normal((2, 3, 8, 7))
    net.forward()
    net.blobs["prob"].diff[...] = RNG.standard_normal((2, 5))
    net.backward()
    dropped = net.blobs["fc"].data == 0
    assert (net.blobs["fc"].diff[dropped] == 0).all()


def test_the_process_as_pycaffe_describes_it(caplog: Any) -> None:
    assert {"Data", "Convolution", "InnerProduct", "Python"} <= set(caffe.layer_type_list())
    assert not caffe.has_nccl()
    with pytest.raises(RuntimeError, match="no NCCL"):
        caffe.NCCL(None, b"")
    assert (caffe.solver_count(), caffe.solver_rank()) == (1, 0)
    caffe.set_multiprocess(True)
    try:
        caffe.set_solver_count(2)
        caffe.set_solver_rank(1)
        assert (caffe.solver_count(), caffe.solver_rank()) == (2, 1)
    finally:
        caffe.set_solver_count(1)
        caffe.set_solver_rank(0)
    with caplog.at_level("INFO", "preimage.caffe"):
        caffe.log("50 % done")
    assert caplog.messages == ["50 % done"]
    timer = caffe.Timer()
    timer.start()
    timer.stop()
    assert timer.ms >= 0


# -- io ----------------------------------------------------------------------------------------------------------------


def test_transformer_there_and_back() -> None:
    transformer = caffe.io.Transformer({"data": (1, 3, 8, 6)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_raw_scale("data", 255)
    transformer.set_mean("data", np.array([104.0, 117, 123]))
    transformer.set_input_scale("data", 0.5)
    image = RNG.random((8, 6, 3)).astype(np.float32)
    ready = transformer.preprocess("data", image)
    assert ready.shape == (3, 8, 6)
    assert ready[0, 2, 3] == pytest.approx((image[2, 3, 2] * 255 - 104) / 2, rel=1e-5)
    assert np.allclose(transformer.deprocess("data", ready), image, atol=1e-6)
    assert transformer.preprocess("data", RNG.random((16, 12, 3))).shape == (3, 8, 6)
    for call in (
        lambda: transformer.set_mean("data", np.zeros(4)),
        lambda: transformer.set_transpose("data", (0, 1)),
        lambda: transformer.set_channel_swap("data", (0,)),
    ):
        with pytest.raises(ShapeError):
            call()
    with pytest.raises(OptionError, match="not one of the net's inputs"):
        transformer.set_raw_scale("dta", 1)


def test_resize_is_bilinear_about_pixel_centres() -> None:
    ramp = np.broadcast_to(np.arange(4, dtype=np.float32)[None, :, None], (3, 4, 1))
    assert np.allclose(caffe.io.resize_image(ramp, (3, 8))[0, :, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    assert np.allclose(caffe.io.resize_image(ramp, (6, 2))[:, :, 0], [[0.5, 2.5]] * 6)


def test_oversample_and_images(tmp_path: Path) -> None:
    image = RNG.random((6, 8, 3)).astype(np.float32)
    crops = caffe.io.oversample([image], (4, 4))
    assert crops.shape == (10, 4, 4, 3)
    assert np.array_equal(crops[0], image[:4, :4])
    assert np.array_equal(crops[3], image[2:, 4:])
    assert np.array_equal(crops[4], image[1:5, 2:6])
    assert np.array_equal(crops[5], image[:4, :4][:, ::-1])
    picture = pytest.importorskip("PIL.Image")
    picture.fromarray((image * 255).astype(np.uint8)).save(tmp_path / "a.png")
    assert caffe.io.load_image(tmp_path / "a.png").shape == (6, 8, 3)
    assert caffe.io.load_image(tmp_path / "a.png", color=False).shape == (6, 8, 1)


def test_the_mean_file_idiom(tmp_path: Path) -> None:
    mean = RNG.random((1, 3, 4, 5)).astype(np.float32)
    (tmp_path / "mean.binaryproto").write_bytes(caffe.io.array_to_blobproto(mean).SerializeToString())
    blob = caffe.proto.caffe_pb2.BlobProto()
    blob.ParseFromString((tmp_path / "mean.binaryproto").read_bytes())
    assert np.array_equal(np.array(caffe.io.blobproto_to_array(blob))[0], mean[0])
    text = caffe.io.arraylist_to_blobprotovector_str([mean, mean[0]])
    assert [a.shape for a in caffe.io.blobprotovector_str_to_arraylist(text)] == [(1, 3, 4, 5), (3, 4, 5)]
    for array in ((mean[0] * 255).astype(np.uint8), mean[0]):
        assert np.array_equal(caffe.io.datum_to_array(caffe.io.array_to_datum(array, 3)), array)


def test_protos_read_and_write_text() -> None:
    net = caffe.proto.caffe_pb2.NetParameter()
    caffe.proto.caffe_pb2.text_format.Merge(NET, net)
    assert net.layer[0].type == "Convolution"
    assert net.HasField("name")
    other = caffe.proto.caffe_pb2.NetParameter()
    other.ParseFromString(net.SerializeToString())
    assert str(other) == str(net)


# -- nets written in Python, classifier --------------------------------------------------------------------------------


def test_net_spec() -> None:
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [1, 3, 8, 8]})
    n.conv1 = L.Convolution(
        n.data, num_output=4, kernel_size=3, pad=[1], weight_filler={"type": "xavier"}, param=[{"lr_mult": 1}, {"lr_mult": 2}]
    )
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.pool1 = L.Pooling(n.relu1, pool=P.Pooling.AVE, kernel_size=2, stride=2)
    n.a, n.b = L.Slice(n.pool1, ntop=2, slice_param={"axis": 1})
    n.sum = L.Eltwise(n.a, n.b, operation=P.Eltwise.SUM)
    net = n.to_proto()
    assert [(layer.name, list(layer.bottom), list(layer.top)) for layer in net.layer] == [
        ("data", [], ["data"]), ("conv1", ["data"], ["conv1"]), ("relu1", ["conv1"], ["conv1"]), ("pool1", ["conv1"], ["pool1"]),
        ("a", ["pool1"], ["a", "b"]), ("sum", ["a", "b"], ["sum"]),
    ]  # fmt: skip
    assert net.layer[3].pooling_param.word("pool") == "AVE"
    assert [spec.lr_mult for spec in net.layer[1].param] == [1, 2]
    assert caffe.Net(net, caffe.TEST).blobs["sum"].shape == (1, 2, 4, 4)
    assert [layer.name for layer in caffe.to_proto(L.ReLU(L.DummyData(shape={"dim": [2]}))).layer] == ["DummyData1", "ReLU1"]
    with pytest.raises(OptionError, match="has no field 'kernel'"):
        L.Pooling(n.data, kernel=2)


def test_classifier(path: str, tmp_path: Path) -> None:
    text = NET.replace(
        "input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 7", "input_dim: 10 input_dim: 3 input_dim: 8 input_dim: 7"
    )
    Path(path).write_text(text)
    caffe.Net(path, caffe.TEST).save(tmp_path / "w.caffemodel")
    classifier = caffe.Classifier(
        path, tmp_path / "w.caffemodel", image_dims=(10, 9), mean=np.array([1.0, 2, 3]), raw_scale=255, channel_swap=(2, 1, 0)
    )
    images = [RNG.random((20, 30, 3)), RNG.random((10, 9, 3))]
    for oversample in (True, False):
        scores = classifier.predict(images, oversample=oversample)
        assert scores.shape == (2, 5)
        assert np.allclose(scores.sum(1), 1, atol=1e-5)
