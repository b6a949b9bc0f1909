"""Faults that users' own model files showed: one test each, with the value that is right. The kinds behind them have tests of their own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.cli import main
from preimage.io import caffe, files

Command = Callable[..., tuple[int, str, str]]

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }\n'
CONV = """layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "gaussian" std: 1 } } }\n"""
DATA = 'layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "x" batch_size: 1 } }\n'


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line with these words: exit code, standard output, standard error."""

    def call(*words: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


def same_arrays(a: Any, b: Any) -> bool:
    return bool(a.weights) and all(np.array_equal(p.data, b.weights[name].data) for name, p in a.weights.items())


def test_a_net_written_as_prototxt_is_text_that_reads_back(tmp_path: Path, command: Command) -> None:
    graph = caffe.load(written(tmp_path, "net.prototxt", INPUT + CONV))
    files.save_model(graph, tmp_path / "out.prototxt")
    files.save_model(graph, tmp_path / "out.caffemodel")
    assert "blobs" not in (tmp_path / "out.prototxt").read_text()
    assert same_arrays(graph, files.load_model(tmp_path / "out.prototxt", tmp_path / "out.caffemodel"))
    code, out, err = command("convert", tmp_path / "out.caffemodel", tmp_path / "again.prototxt")
    assert (code, err) == (0, "")
    assert "same bits" in out
    assert same_arrays(graph, files.load_model(tmp_path / "again.prototxt", tmp_path / "out.caffemodel"))


@pytest.mark.parametrize("word", ["FLOAT16", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("side", ["data", "diff"])
def test_blobs_of_raw_data_in_each_precision(word: str, side: str) -> None:
    values = np.arange(-3, 3, dtype={"FLOAT16": "<f2", "FLOAT": "<f4", "DOUBLE": "<f8"}[word]) / 8
    blob = caffe.Message("BlobProto", **{f"raw_{side}": values.tobytes(), f"raw_{side}_type": word})
    blob.sub("shape").dim = [2, 3]
    back = caffe.Message("BlobProto")
    back.ParseFromString(blob.SerializeToString())
    from preimage.io.caffe.blobs import array_of_blob

    found = array_of_blob(back, diff=side == "diff")
    assert found.dtype == (np.float64 if word == "DOUBLE" else np.float32)
    assert np.array_equal(found, values.reshape(2, 3))
    blob.raw_data = blob.raw_diff = b"\0" * 11
    with pytest.raises(pre.PreimageError, match="no whole number of"):
        array_of_blob(blob, diff=side == "diff")
    blob.raw_data_type = blob.raw_diff_type = "UINT"
    with pytest.raises(pre.PreimageError, match="of type UINT, which is not read"):
        array_of_blob(blob, diff=side == "diff")


def test_a_caffemodel_shrunk_to_halves_by_opencv(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2.dnn, "shrinkCaffeModel"):
        pytest.skip("this OpenCV has no shrinkCaffeModel")
    net = written(tmp_path, "net.prototxt", INPUT + CONV)
    graph = caffe.load(net)
    caffe.save(graph, tmp_path / "net.caffemodel")
    cv2.dnn.shrinkCaffeModel(str(tmp_path / "net.caffemodel"), str(tmp_path / "half.caffemodel"))
    half = caffe.load(net, tmp_path / "half.caffemodel")
    assert np.array_equal(half.array("c.weight"), graph.array("c.weight").astype(np.float16).astype(np.float32))
    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    theirs = cv2.dnn.readNetFromCaffe(str(net), str(tmp_path / "half.caffemodel"))
    theirs.setInput(x)
    with pre.no_grad():
        assert np.allclose(half(x), theirs.forward(), rtol=1e-5, atol=1e-5)


BOXES = """layer { name: "f" type: "Pooling" bottom: "data" top: "f" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "p" type: "PriorBox" bottom: "f" bottom: "data" top: "p"
  prior_box_param { min_size: 111 max_size: 213 aspect_ratio: 2 aspect_ratio: 3 step: 2.3 clip: false variance: 0.1 } }"""


def test_prior_boxes_are_the_same_from_text_and_binary_and_in_opencv(tmp_path: Path) -> None:
    path = written(tmp_path, "boxes.prototxt", INPUT + BOXES)
    text = caffe.load(path)
    caffe.save(text, tmp_path / "boxes.caffemodel")
    binary = caffe.load(tmp_path / "boxes.caffemodel")
    x = np.zeros((1, 3, 8, 8), np.float32)
    with pre.no_grad():
        boxes = np.asarray(text(x))
        assert np.array_equal(boxes, np.asarray(binary(x)))
    cv2 = pytest.importorskip("cv2")
    if hasattr(cv2.dnn, "readNetFromCaffe"):
        theirs = cv2.dnn.readNetFromCaffe(str(path))
        theirs.setInput(x)
        assert np.array_equal(boxes, theirs.forward())


def float_fields() -> Sequence[tuple[str, str]]:
    from preimage.io.caffe.wire.schema import MESSAGES, message_fields

    return [(name, field.name) for name in MESSAGES for field in message_fields(name).values() if field.kind == "float"]


@pytest.mark.parametrize(("message", "name"), float_fields())
def test_every_float_field_keeps_its_bits_in_text_and_binary(message: str, name: str) -> None:
    from preimage.io.caffe.wire.binary import decode, encode
    from preimage.io.caffe.wire.message import ARRAY_MESSAGES

    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 1 << 32, 400, np.uint32).view(np.float32)
    values = [float(v) for v in drawn[~np.isnan(drawn)]] + [0.1, 1 / 3, -0.0, np.inf, -np.inf, 1e-45, 3.4028234e38]
    field = caffe.Message(message).field(name)
    for given in [values] if field.repeated else values:
        first = caffe.Message(message, **{name: given})
        text = caffe.parse_text(message, caffe.format_text(first))
        binary = decode(message, encode(first))
        for other in (text, binary):
            found = getattr(other, name)
            assert np.array_equal(np.float32(found).view(np.uint32), np.float32(given).view(np.uint32))
            if message not in ARRAY_MESSAGES:  # Python's floats from everywhere, so that arithmetic on them is the same
                kinds = {type(v) for v in found} if field.repeated else {type(found)}
                assert kinds == {float}
    default = getattr(caffe.Message(message), name)
    if not field.repeated:
        assert default == float(np.float32(default)), "a default is what its text would give"


def test_run_names_the_layers_that_no_file_gives_weights(tmp_path: Path, command: Command) -> None:
    net, x = written(tmp_path, "net.prototxt", INPUT + CONV), tmp_path / "x.npy"
    np.save(x, np.zeros((1, 3, 8, 8), np.float32))
    code, _, err = command("run", net, x)
    assert code == 0
    assert "weights of 1 layers" in err
    assert "'c'" in err
    caffe.save(caffe.load(net), tmp_path / "net.caffemodel")
    assert command("run", net, x, "--weights", tmp_path / "net.caffemodel")[2] == ""
    other = written(tmp_path, "other.prototxt", INPUT + CONV.replace('"c"', '"d"'))
    assert "'d'" in command("run", other, x, "--weights", tmp_path / "net.caffemodel")[2]
    assert "'c'" in command("convert", net, tmp_path / "net.onnx")[2]


def test_missing_layers_are_those_that_no_file_gives() -> None:
    net = caffe.parse_text("NetParameter", INPUT + CONV + CONV.replace('"c"', '"d"'))
    graph = caffe.load(net)
    assert graph.missing == ["c", "d"]
    given = graph.to_message()
    assert caffe.load(given).missing == []
    given.layer.pop()
    assert caffe.load(net, given).missing == ["d"]
    part = caffe.load(net, given)
    assert part.copy_weights(graph.to_message()) == []
    assert part.missing == []


@pytest.mark.parametrize("before", ["# 卷积\n".encode("gbk"), b"# \x01\xff\xfe\r\n", b"\xef\xbb\xbf", b"\r\n\t"])
def test_a_prototxt_of_another_encoding(tmp_path: Path, before: bytes) -> None:
    net = before + (INPUT + CONV).encode()
    assert [layer.name for layer in caffe.load(written(tmp_path, "net.prototxt", net)).assembly.layers] == ["data", "c"]


def test_names_in_another_encoding_find_their_weights(tmp_path: Path) -> None:
    name = "卷积".encode("gbk")
    net = written(tmp_path, "net.prototxt", INPUT.encode() + CONV.encode().replace(b'"c"', b'"' + name + b'"'))
    first = files.load_model(net)
    files.save_model(first, tmp_path / "net.caffemodel")
    assert name in (tmp_path / "net.caffemodel").read_bytes()
    second = files.load_model(net, tmp_path / "net.caffemodel")
    assert second.missing == []  # type: ignore[attr-defined]
    assert same_arrays(first, second)
    files.save_model(first, tmp_path / "net.onnx")
    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    with pre.no_grad():
        assert np.array_equal(files.load_model(tmp_path / "net.onnx")(x), first(x))


@pytest.mark.parametrize("name", ["deploy.prototxt.txt", "deploy.pbtxt", "deploy", "deploy.onnx", "deploy.caffemodel"])
def test_a_text_net_under_any_name(tmp_path: Path, name: str) -> None:
    assert same_arrays(files.load_model(written(tmp_path, name, INPUT + CONV)), caffe.load(tmp_path / name))


@pytest.mark.parametrize("name", ["net", "net.bin", "net.prototxt", "net.onnx"])
@pytest.mark.parametrize("kind", [".caffemodel", ".onnx"])
def test_a_binary_model_under_any_name(tmp_path: Path, name: str, kind: str) -> None:
    graph = caffe.load(caffe.parse_text("NetParameter", INPUT + CONV))
    files.save_model(graph, tmp_path / f"first{kind}")
    (tmp_path / f"first{kind}").rename(tmp_path / name)
    assert same_arrays(graph, files.load_model(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ("a.bin", b"\x89PNG\r\n\x1a\n\0\0\0\0", "no model by its content"),
        ("a.bin", b"", "no model by its content"),
        ("a.onnx", b"", "no ONNX model"),
        ("a.onnx", b"\x89PNG\r\n\x1a\n\0\0\0\0", "no ONNX model"),
        ("a.caffemodel", b"\x89PNG\r\n\x1a\n\0\0\0\0", "a.caffemodel: "),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    with pytest.raises(pre.PreimageError, match=said):
        files.load_model(written(tmp_path, name, data))


def test_the_sizes_of_data_layers_come_from_the_command_line(tmp_path: Path, command: Command) -> None:
    net = written(tmp_path, "train_val.prototxt", DATA + CONV)
    code, out, err = command("info", net, "--shape", "data=2,3,8,9")
    assert (code, err) == (0, "")
    assert "2x4x6x7" in out
    graph = files.load_model(net, input_shapes={"data": (5, 3, 8, 8)})
    assert [(item.name, item.example) for item in graph.inputs] == [("data", (5, 3, 8, 8)), ("label", (5,))]
    with pytest.raises(pre.PreimageError, match="no input 'date'"):
        files.load_model(net, input_shapes={"data": (5, 3, 8, 8), "date": (1,)})
    assert command("convert", net, tmp_path / "out.prototxt", "--shape", "data=1,3,8,8")[0] == 0


# -- ONNX --------------------------------------------------------------------------------------------------------------


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    helper = pytest.importorskip("onnx").helper
    return helper.make_node(op, ["" if key == "-" else key for key in inputs.split()], outputs.split(), **attributes)


def test_the_difference_of_two_index_outputs_is_an_integer() -> None:
    from onnx_models import model, ours

    feeds = {"x": np.array([[[1, 2, 4, 3]]], np.float32)}
    nodes = [
        node("MaxPool", "x", "a i", kernel_shape=[2], strides=[2]),
        node("MaxPool", "x", "b j", kernel_shape=[1], strides=[2]),
        node("Sub", "i j", "y"),
    ]
    (found,) = ours(model(nodes, feeds), feeds)
    assert (found.dtype, found.tolist()) == (np.int64, [[[1, 0]]])


FLOAT_AGAIN = {
    "Cast": [node("Cast", "u", "f", to=1)],
    "Where": [node("Cast", "u", "a", to=1), node("Greater", "a half", "more"), node("Where", "more a half", "f")],
    "ReduceL2": [node("Cast", "u", "a", to=1), node("ReduceL2", "a axes", "n"), node("Div", "a n", "f")],
    "ScatterND": [node("Cast", "u", "a", to=1), node("ScatterND", "a places news", "f")],
    "CastLike": [node("CastLike", "u half", "f")],
    "TopK": [node("Cast", "u", "a", to=1), node("TopK", "a eight", "f i", axis=3)],
}


@pytest.mark.parametrize("name", FLOAT_AGAIN)
def test_what_is_known_to_be_float_is_known_behind_every_operator(name: str) -> None:
    from onnx_models import model, ours

    from preimage.io import onnx as onnx_io
    from preimage.io.graph.passes import optimise

    rng = np.random.default_rng(0)
    feeds = {"u": rng.integers(1, 255, (2, 3, 8, 8), np.uint8)}
    stored = {
        "w": rng.random((4, 3, 3, 3), np.float32), "half": np.float32(0.5), "axes": np.array([1], np.int64),
        "places": np.array([[0, 1]], np.int64), "news": rng.random((1, 8, 8), np.float32), "eight": np.array([8], np.int64),
    }  # fmt: skip
    proto = model([*FLOAT_AGAIN[name], node("Conv", "f w", "c"), node("Relu", "c", "y")], feeds, stored)
    for item in [i for i in proto.graph.initializer if not any(i.name in n.input for n in proto.graph.node)]:
        proto.graph.initializer.remove(item)
    fast = optimise(onnx_io.load(proto.SerializeToString()))
    assert fast.nodes[-1].op == "conv"
    assert fast.nodes[-1].attributes["activation"] == "relu"
    assert fast.nodes[-1].attributes["innermost"]
    with pre.no_grad():
        assert np.array_equal(np.asarray(fast.run(feeds)["y"]), ours(proto, feeds)[0])


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3), (2, 5, 3, 4), (2, 5, 3, 4, 2)])
def test_prelu_of_any_rank_as_onnx(shape: tuple[int, ...], tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    from preimage.io.onnx import export

    dims = " ".join(f"dim: {n}" for n in shape)
    net = f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}'
    graph = caffe.load(caffe.parse_text("NetParameter", net + 'layer { name: "p" type: "PReLU" bottom: "data" top: "p" }'))
    graph.put(next(iter(graph.weights)), np.arange(1, 6, dtype=np.float32) / 8)
    export.save(graph, tmp_path / "p.onnx")
    session = ort.InferenceSession(str(tmp_path / "p.onnx"), providers=["CPUExecutionProvider"])
    slopes = (np.arange(1, 6, dtype=np.float32) / 8).reshape(5, *(1,) * (len(shape) - 2))
    found = session.run(None, {session.get_inputs()[0].name: np.full(shape, -2, np.float32)})[0]
    assert np.array_equal(found, np.broadcast_to(-2 * slopes, shape))


def test_inputs_that_nothing_takes_may_be_fed_and_need_not():
    helper = pytest.importorskip("onnx").helper
    info = helper.make_tensor_value_info
    inputs = [info("x", 1, (2, 3)), info("training", 9, ())]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", inputs, [info("y", 1, (2, 3))])
    model = pre.io.onnx.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for each in (model, model.replaced()):
        with pre.no_grad():
            assert np.array_equal(each.run({"x": x, "training": np.bool_(False)})["y"], -x)
            assert np.array_equal(each(x), -x)
            with pytest.raises(pre.PreimageError, match="no input 'z'"):
                each.run({"x": x, "z": x})
