"""Whole nets: old formats, phases, sharing, in-place layers, weights by name, saving, limits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.errors import FileFormatError, PreimageError, ShapeError
from preimage.io import caffe
from preimage.io.caffe.fillers import bilinear, fill
from preimage.io.caffe.upgrade import upgraded
from preimage.io.caffe.wire.binary import decode, encode
from preimage.io.files import save_model

INPUT = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 5 } } }'
CONV = 'type: "Convolution" convolution_param { num_output: 3 kernel_size: 3 pad: 1 weight_filler { type: "msra" } }'


def net(text: str, **options: Any) -> Any:
    return caffe.load(caffe.parse_text("NetParameter", text), **options)


def run(graph: Any, *inputs: Any) -> Any:
    with pre.no_grad():
        return graph(*inputs)


X = np.random.default_rng(0).standard_normal((2, 3, 6, 5)).astype(np.float32)


# -- old formats -------------------------------------------------------------------------------------------------------

V0 = """
name: "v0" input: "data" input_dim: 2 input_dim: 3 input_dim: 6 input_dim: 5
layers { layer { name: "pad1" type: "padding" pad: 2 } bottom: "data" top: "pad1" }
layers { layer { name: "conv1" type: "conv" num_output: 4 kernelsize: 3 stride: 2 group: 1 biasterm: true
         weight_filler { type: "gaussian" std: 0.01 } bias_filler { type: "constant" value: 1. } blobs_lr: 1. blobs_lr: 2. weight_decay: 1. }
         bottom: "pad1" top: "conv1" }
layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "pool1" type: "pool" pool: MAX kernelsize: 2 stride: 2 } bottom: "conv1" top: "pool1" }
layers { layer { name: "norm1" type: "lrn" local_size: 3 alpha: 0.1 beta: 0.5 } bottom: "pool1" top: "norm1" }
layers { layer { name: "fc" type: "innerproduct" num_output: 7 num_output: 7 } bottom: "norm1" top: "fc" }
layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.3 } bottom: "fc" top: "fc" }
layers { layer { name: "prob" type: "softmax" } bottom: "fc" top: "prob" }
""".replace("num_output: 7 num_output: 7", "num_output: 7")
V1 = """
name: "v0"
input: "data" input_dim: 2 input_dim: 3 input_dim: 6 input_dim: 5
layers { name: "conv1" type: CONVOLUTION blobs_lr: 1. blobs_lr: 2. weight_decay: 1. bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 group: 1 bias_term: true pad: 2
    weight_filler { type: "gaussian" std: 0.01 } bias_filler { type: "constant" value: 1. } } }
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
layers { name: "pool1" type: POOLING bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layers { name: "norm1" type: LRN bottom: "pool1" top: "norm1" lrn_param { local_size: 3 alpha: 0.1 beta: 0.5 } }
layers { name: "fc" type: INNER_PRODUCT bottom: "norm1" top: "fc" inner_product_param { num_output: 7 } }
layers { name: "drop" type: DROPOUT bottom: "fc" top: "fc" dropout_param { dropout_ratio: 0.3 } }
layers { name: "prob" type: SOFTMAX bottom: "fc" top: "prob" }
"""
V2 = """
name: "v0"
layer { name: "input" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 5 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 group: 1 bias_term: true pad: 2
    weight_filler { type: "gaussian" std: 0.01 } bias_filler { type: "constant" value: 1. } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1" lrn_param { local_size: 3 alpha: 0.1 beta: 0.5 } }
layer { name: "fc" type: "InnerProduct" bottom: "norm1" top: "fc" inner_product_param { num_output: 7 } }
layer { name: "drop" type: "Dropout" bottom: "fc" top: "fc" dropout_param { dropout_ratio: 0.3 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


def test_the_three_generations_are_one_net() -> None:
    today = caffe.parse_text("NetParameter", V2)
    assert upgraded(caffe.parse_text("NetParameter", V0)) == today
    assert upgraded(caffe.parse_text("NetParameter", V1)) == today
    assert upgraded(today) == today
    assert np.array_equal(run(net(V0, seed=3), X), run(net(V2, seed=3), X))


@pytest.mark.parametrize("text", [V0, V1], ids=["V0", "V1"])
def test_old_binaries_hold_their_weights(text: str, tmp_path: Path) -> None:
    old = caffe.parse_text("NetParameter", text)
    weight = np.random.default_rng(4).standard_normal((4, 3, 3, 3)).astype(np.float32)
    layer = next(each for each in old.layers if "conv1" in (each.name, each.layer.name))
    layer = layer.layer if layer.has("layer") else layer
    layer.add("blobs", num=4, channels=3, height=3, width=3, data=weight.reshape(-1))
    layer.add("blobs", num=1, channels=1, height=1, width=4, data=np.ones(4, np.float32))
    (tmp_path / "old.caffemodel").write_bytes(encode(old))
    for graph in (caffe.load(tmp_path / "old.caffemodel"), net(V2, weights=tmp_path / "old.caffemodel")):
        assert np.array_equal(graph.array("conv1.weight"), weight)
        assert np.array_equal(graph.array("conv1.bias"), np.ones(4))


def test_v1_types_shares_and_transforms() -> None:
    old = """layers { name: "d" type: DATA top: "data" top: "label"
      data_param { source: "s" batch_size: 2 scale: 0.5 mean_file: "m" crop_size: 5 mirror: true } }
    layers { name: "c" type: DECONVOLUTION bottom: "data" top: "c" param: "w" param: "" blob_share_mode: PERMISSIVE
      convolution_param { num_output: 1 kernel_size: 2 } }
    layers { name: "l" type: SOFTMAX_LOSS bottom: "c" bottom: "label" top: "l" loss_weight: 3 include { phase: TRAIN } }"""
    layers = upgraded(caffe.parse_text("NetParameter", old)).layer
    assert [layer.type for layer in layers] == ["Data", "Deconvolution", "SoftmaxWithLoss"]
    assert layers[0].transform_param == caffe.Message(
        "TransformationParameter", scale=0.5, mean_file="m", crop_size=5, mirror=True
    )
    assert not layers[0].data_param.has("scale")
    assert (layers[1].param[0].name, layers[1].param[0].word("share_mode")) == ("w", "PERMISSIVE")
    assert (list(layers[2].loss_weight), layers[2].include[0].word("phase")) == ([3.0], "TRAIN")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('layers { name: "a" type: RELU } layer { name: "b" }', "both `layer` and `layers`"),
        ('layers { layer { name: "a" type: "sofmax" } }', "unknown V0 type 'sofmax'"),
        ('input: "a" input: "b" input_dim: 1', "four are needed"),
        ('input: "a" input: "b" input: "c" input_shape { dim: 1 } input_shape { dim: 1 }', "3 inputs"),
        ('layers { layer { name: "p" type: "padding" pad: 1 } bottom: "x" top: "p" } '
         'layers { layer { name: "r" type: "relu" } bottom: "p" top: "r" }', "only a conv or pool"),
    ],
)  # fmt: skip
def test_broken_old_nets(text: str, problem: str) -> None:
    with pytest.raises(FileFormatError, match=problem):
        upgraded(caffe.parse_text("NetParameter", text))


def test_batch_norms_parameters_are_frozen() -> None:
    layer = upgraded(
        caffe.parse_text("NetParameter", 'layer { name: "b" type: "BatchNorm" param { } param { } param { lr_mult: 3 } }')
    ).layer[0]
    assert [(spec.lr_mult, spec.decay_mult) for spec in layer.param] == [(0, 0)] * 3


# -- phases, names, sharing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "phase", "level", "stages", "kept"),
    [
        ("include { phase: TRAIN }", "TRAIN", 0, (), True), ("include { phase: TRAIN }", "TEST", 0, (), False),
        ("exclude { phase: TRAIN }", "TRAIN", 0, (), False), ("include { phase: TEST stage: \"a\" }", "TEST", 0, ("a", "b"), True),
        ("include { stage: \"a\" stage: \"b\" }", "TEST", 0, ("a",), False), ("include { not_stage: \"a\" }", "TEST", 0, ("a",), False),
        ("include { min_level: 2 max_level: 3 }", "TEST", 2, (), True), ("include { min_level: 2 }", "TEST", 1, (), False),
        ("include { max_level: 2 }", "TEST", 3, (), False), ("include { phase: TRAIN } include { stage: \"s\" }", "TEST", 0, ("s",), True),
        ("exclude { stage: \"s\" } exclude { min_level: 9 }", "TEST", 0, (), True),
    ],
)  # fmt: skip
def test_rules_choose_layers(rule: str, phase: str, level: int, stages: tuple[str, ...], kept: bool) -> None:
    graph = net(
        f'{INPUT} layer {{ name: "r" type: "ReLU" bottom: "data" top: "r" {rule} }}', phase=phase, level=level, stages=stages
    )
    assert ("r" in graph.assembly.shapes) == kept


def test_all_unsupported_layers_are_named_before_anything_else() -> None:
    python = 'type: "Python" bottom: "data" top: "p" python_param { module: "m.n" layer: "L" }'
    rows = [f'name: "p" {python}', *(f'name: "{name}" type: "RNN" bottom: "nothing" top: "{name}"' for name in "qr")]
    problem = r"3 layers have a type that is not supported\. Python: 'p' \(m\.n\.L\); RNN: 'q', 'r'\. A Python layer runs code"
    with pytest.raises(FileFormatError, match=problem):
        net(INPUT + "".join(f"layer {{ {row} }}" for row in rows))


def test_fields_of_forks_are_named_and_slips_of_the_pen_refused(tmp_path: Path) -> None:
    conv = (
        'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 2 kernel_size: 3 %s } %s }'
    )
    loaded = net(INPUT + " version_of_fork: 2 " + conv % ("winograd: true", "new_param { a: 1 }"))
    assert loaded.unread == [
        "version_of_fork (line 1)",
        "layer 'c': new_param (line 1)",
        "layer 'c': convolution_param.winograd (line 1)",
    ]
    caffe.save(loaded, tmp_path / "again.prototxt")
    again = caffe.load(tmp_path / "again.prototxt")
    assert [field.split(" (line")[0] for field in again.unread] == [field.split(" (line")[0] for field in loaded.unread]
    for slip, meant in (("strid: 2", "stride"), ("kernel_sise: 3", "kernel_size"), ("grouup: 2", "group"), ("pda: 1", "pad")):
        problem = f"layer 'c' .Convolution., line 1: convolution_param has no field '{slip[:-3]}'; did you mean '{meant}'?"
        with pytest.raises(FileFormatError, match=problem):
            net(INPUT + conv % (slip, ""))
    for word, wanted in (("pool: AVG", "AVE"), ("pool: LP", "MAX, AVE, STOCHASTIC")):
        with pytest.raises(FileFormatError, match=f"line 1: pooling_param.pool knows no {word[6:]}; wanted: {wanted}"):
            net(f'{INPUT} layer {{ name: "p" type: "Pooling" bottom: "data" top: "p" pooling_param {{ {word} }} }}')
    size = "input_dim: 1 input_dim: 1 input_dim: 9 input_dim: 9"
    old = f'name: "old" input: "data" {size} layers {{ layer {{ name: "c" type: "conv" bottom: 3 }} top: "c" }}'
    with pytest.raises(FileFormatError, match="bottom is no field of a layer of this older form"):
        net(old)  # what describes a layer stands in `layer`, its bottoms beside it
    with pytest.raises(FileFormatError, match="NetParameter has no field 'layr'; did you mean 'layer'"):
        net("layr { }")
    weights = loaded.to_message()
    weights.layer[-1].unknown = b"\xc2\x3e\x02xy"
    caffe.save(caffe.load(weights), tmp_path / "again.caffemodel")
    assert caffe.load(tmp_path / "again.caffemodel").unread == ["layer 'c': field 1000 (5 bytes)"]


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        ('layer { name: "r" type: "ReLU" bottom: "nil" top: "r" }', "takes blob 'nil', which no layer before it makes"),
        ('layer { name: "r" type: "ReLU" bottom: "data" top: "r" } '
         'layer { name: "s" type: "ReLU" bottom: "data" top: "r" }', "blob 'r' is made twice"),
        ('layer { name: "r" type: "ReLU" bottom: "s" top: "r" } layer { name: "s" type: "ReLU" bottom: "r" top: "s" }', "takes blob 's'"),
        ('layer { name: "r" type: "ReLU" bottom: "data" bottom: "data" top: "r" }', "has 2 bottoms, wanted 1"),
        ('layer { name: "r" type: "ReLU" bottom: "data" top: "r" loss_weight: 1 loss_weight: 2 }', "2 loss_weight for 1 tops"),
        ('layer { name: "r" type: "ReLU" bottom: "data" top: "r" include { } exclude { } }', "both include and exclude"),
    ],
)  # fmt: skip
def test_broken_nets(layers: str, problem: str) -> None:
    with pytest.raises(FileFormatError, match=problem):
        net(f"{INPUT} {layers}")


def test_in_place_layers_make_new_versions_of_a_blob() -> None:
    text = f'{INPUT} layer {{ name: "c" {CONV} bottom: "data" top: "c" }} layer {{ name: "side" type: "Power" bottom: "c" top: "side" }}'
    text += (
        ' layer { name: "r" type: "ReLU" bottom: "c" top: "c" } layer { name: "data2" type: "AbsVal" bottom: "data" top: "data" }'
    )
    graph = net(text)
    with pre.no_grad():
        found = graph.run({"data": X}, ["c", "side", "c@c", "data@data2"])
    assert np.array_equal(found["side"], found["c@c"])  # taken before the ReLU
    assert np.array_equal(found["c"], np.maximum(found["side"], 0))
    assert np.array_equal(found["data@data2"], np.abs(X))
    assert (found["side"] < 0).any()


def test_param_names_share_blobs() -> None:
    shared = CONV.replace('type: "Conv', 'param { name: "w" } param { name: "b" } type: "Conv')
    graph = net(
        f'{INPUT} layer {{ name: "a" {shared} bottom: "data" top: "a" }} layer {{ name: "b" {shared} bottom: "a" top: "b" }}'
    )
    assert list(graph.weights) == ["a.weight", "a.bias"]
    assert graph.assembly.layer_blobs == {"in": [], "a": ["a.weight", "a.bias"], "b": ["a.weight", "a.bias"]}
    leaf = graph.weights["a.weight"]
    gradient = pre.grad(graph(X).sum(), leaf).data
    step = np.zeros(leaf.shape, np.float32)
    step[1, 2, 0, 1] = 1e-2
    kept, values = leaf.data.copy(), []
    for sign in (1, -1):
        graph.put("a.weight", kept + sign * step)
        values.append(float(run(graph, X).sum(dtype=np.float64)))
    assert gradient[1, 2, 0, 1] == pytest.approx((values[0] - values[1]) / 2e-2, rel=2e-3)
    wide = shared.replace("num_output: 3", "num_output: 5")
    with pytest.raises(FileFormatError, match="shares 'w' with layer 'a'"):
        net(f'{INPUT} layer {{ name: "a" {shared} bottom: "data" top: "a" }} layer {{ name: "b" {wide} bottom: "a" top: "b" }}')


# -- weights -----------------------------------------------------------------------------------------------------------

TWO = (
    f'name: "two" {INPUT} layer {{ name: "a" {CONV} bottom: "data" top: "a" }} layer {{ name: "b" {CONV} bottom: "a" top: "b" }}'
)


def test_saving_and_loading_changes_no_bit(tmp_path: Path) -> None:
    graph = net(TWO, seed=5)
    graph.put("a.weight", np.frombuffer(np.random.default_rng(1).bytes(4 * 81), np.float32).reshape(3, 3, 3, 3))  # NaNs and all
    caffe.save(graph, tmp_path / "w.caffemodel")
    alone = caffe.load(tmp_path / "w.caffemodel")
    with_text = net(TWO, weights=tmp_path / "w.caffemodel")
    for other in (alone, with_text):
        for name in graph.weights:
            assert graph.array(name).tobytes() == other.array(name).tobytes()
    caffe.save(alone, tmp_path / "again.caffemodel")
    assert (tmp_path / "again.caffemodel").read_bytes() == (tmp_path / "w.caffemodel").read_bytes()
    caffe.write_net(alone.assembly.net, tmp_path / "w.prototxt")
    assert caffe.read_net(tmp_path / "w.prototxt") == alone.assembly.net


def test_weights_go_by_layer_name(tmp_path: Path) -> None:
    graph = net(TWO, seed=5)
    message = graph.to_message()
    message.layer.insert(0, caffe.Message("LayerParameter", name="split", type="Split", blobs=[caffe.Message("BlobProto")]))
    message.layer.pop()  # no weights for b
    (tmp_path / "w.caffemodel").write_bytes(encode(message))
    other = net(TWO, seed=6, weights=tmp_path / "w.caffemodel")
    assert np.array_equal(graph.array("a.weight"), other.array("a.weight"))
    assert not np.array_equal(graph.array("b.weight"), other.array("b.weight"))
    assert other.missing == ["b"]


def test_old_blob_shapes_and_doubles_fit(tmp_path: Path) -> None:
    graph = net(TWO, seed=5)
    message = graph.to_message()
    bias = message.layer[1].blobs[1]
    bias.shape = None
    bias.num, bias.channels, bias.height, bias.width = 1, 1, 1, 3
    bias.data, bias.double_data = None, np.array([0.1, 0.2, 0.3])
    assert np.array_equal(net(TWO, weights=message).array("a.bias"), np.float32([0.1, 0.2, 0.3]))
    bias.width = 4
    with pytest.raises(ShapeError, match=r"layer 'a': the file's blob has shape \(1, 1, 1, 4\), the net needs \(3,\)"):
        net(TWO, weights=message)
    bias.num, bias.channels, bias.height, bias.width = 1, 1, 1, 3
    bias.double_data = np.zeros(2)
    with pytest.raises(FileFormatError, match="needs 3 numbers, the file has 2"):
        net(TWO, weights=message)
    message.layer[1].blobs = message.layer[1].blobs[:1]
    with pytest.raises(FileFormatError, match="layer 'a' has 2 blobs, the weights file has 1"):
        net(TWO, weights=message)


def test_a_failed_copy_changes_nothing() -> None:
    graph, broken = net(TWO, seed=5), net(TWO, seed=6).to_message()
    broken.layer[2].blobs[0].shape.dim = [1]
    before = graph.state_dict()
    with pytest.raises(PreimageError):
        graph.copy_weights(broken)
    assert all(np.array_equal(before[name], array) for name, array in graph.state_dict().items())


def test_files_that_are_not_there_or_not_nets(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="cannot be read"):
        caffe.load(tmp_path / "none.prototxt")
    (tmp_path / "text.prototxt").write_bytes(b"\xff\xfex")
    with pytest.raises(FileFormatError, match="UTF-16"):
        caffe.load(tmp_path / "text.prototxt")
    (tmp_path / "w.caffemodel").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(FileFormatError, match=r"w\.caffemodel: "):
        caffe.load(tmp_path / "w.caffemodel")


def test_fillers_have_their_statistics() -> None:
    rng = np.random.default_rng(0)
    shape = (40, 30, 5, 5)

    def made(**settings: Any) -> Any:
        return fill(caffe.Message("FillerParameter", **settings), shape, rng)

    assert (made(type="constant", value=2.5) == 2.5).all()
    uniform = made(type="uniform", min=-2, max=4)
    assert uniform.min() > -2
    assert uniform.max() < 4
    assert abs(uniform.mean() - 1) < 0.05
    assert abs(made(type="gaussian", mean=3, std=0.5).std() - 0.5) < 0.01
    assert abs((made(type="gaussian", sparse=4) != 0).mean() - 0.1) < 0.01
    assert np.allclose(made(type="positive_unitball").sum((1, 2, 3)), 1, atol=1e-5)
    for word, n in (("FAN_IN", 750), ("FAN_OUT", 1000), ("AVERAGE", 875)):
        assert abs(made(type="xavier", variance_norm=word)).max() == pytest.approx((3 / n) ** 0.5, rel=1e-2)
        assert made(type="msra", variance_norm=word).std() == pytest.approx((2 / n) ** 0.5, rel=2e-2)
    with pytest.raises(FileFormatError, match="unknown filler 'magic'"):
        made(type="magic")
    with pytest.raises(FileFormatError, match="square kernel"):
        fill(caffe.Message("FillerParameter", type="bilinear"), (1, 1, 3, 4), rng)


@pytest.mark.parametrize("size", [4, 6, 7])
def test_the_bilinear_filler_is_a_tent(size: int) -> None:
    half = -(-size // 2)
    centre = (size - 1) / (2 * half)
    tent = bilinear((2, 3, size, size))
    for y, x in np.ndindex(size, size):
        assert tent[1, 2, y, x] == pytest.approx((1 - abs(x / half - centre)) * (1 - abs(y / half - centre)), rel=1e-6)


def test_upsampling_with_the_bilinear_filler_keeps_a_ramp() -> None:
    text = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 6 } } }
    layer { name: "up" type: "Deconvolution" bottom: "x" top: "y" convolution_param {
      num_output: 2 group: 2 kernel_size: 4 stride: 2 pad: 1 bias_term: false weight_filler { type: "bilinear" } } }"""
    ramp = np.broadcast_to(np.arange(6, dtype=np.float32), (1, 2, 5, 6))
    y = run(net(text), ramp)
    assert np.allclose(y[0, 1, 3, 1:-1], np.arange(1, 11) / 2 - 0.25)


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'layer { name: "i" type: "Input" top: "a" input_param { shape { dim: 100000 dim: 20000 } } }',
        f'{INPUT} layer {{ name: "t" type: "Tile" bottom: "data" top: "t" tile_param {{ tiles: 9999999 }} }}',
        f'{INPUT} layer {{ name: "t" type: "InnerProduct" bottom: "data" top: "t" inner_product_param {{ num_output: 20000000 }} }}',
        f'{INPUT} layer {{ name: "t" type: "Deconvolution" bottom: "data" top: "t" '
        "convolution_param { num_output: 1 kernel_size: 1 stride: 9000 } }",
    ],
)
def test_a_net_that_asks_for_too_much_is_refused_before_anything_is_allocated(text: str) -> None:
    with pytest.raises(PreimageError, match=r"limit of|elements"):
        net(text, limits=caffe.Limits(memory_bytes=1 << 28))


def test_work_and_layers_are_limited() -> None:
    with pytest.raises(ShapeError, match="flop, more than the limit"):
        net(TWO, limits=caffe.Limits(work_flop=1000))
    with pytest.raises(FileFormatError, match="layers, more than the limit"):
        net(TWO, limits=caffe.Limits(layers=2))
    graph = net(TWO, limits=caffe.Limits(work_flop=100_000))
    with pytest.raises(ShapeError, match="flop, more than the limit"), pre.no_grad():
        graph(np.zeros((2, 3, 60, 60), np.float32))


# -- mean files --------------------------------------------------------------------------------------------------------


def test_mean_files(tmp_path: Path) -> None:
    mean = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    caffe.write_mean(tmp_path / "mean.binaryproto", mean)
    blob = decode("BlobProto", (tmp_path / "mean.binaryproto").read_bytes())
    assert (blob.num, blob.channels, blob.height, blob.width) == (1, 3, 4, 5)
    assert np.array_equal(caffe.read_mean(tmp_path / "mean.binaryproto"), mean)
    with pytest.raises(FileFormatError, match="3 axes"):
        caffe.write_mean(tmp_path / "mean.binaryproto", mean[0])
    with pytest.raises(FileFormatError, match="cannot be read"):
        caffe.read_mean(tmp_path / "none.binaryproto")


# -- a module like any other -------------------------------------------------------------------------------------------


def test_a_net_trains() -> None:
    text = f'{INPUT} layer {{ name: "c" {CONV} bottom: "data" top: "c" }}'
    text += ' layer { name: "b" type: "BatchNorm" bottom: "c" top: "c" } layer { name: "r" type: "ReLU" bottom: "c" top: "c" }'
    text += ' layer { name: "f" type: "InnerProduct" bottom: "c" top: "f" '
    text += 'inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }'
    graph = net(text, phase="TRAIN")
    goal = np.random.default_rng(1).standard_normal((2, 2)).astype(np.float32)
    losses = []
    for _ in range(30):
        graph.zero_grad()
        loss = ((graph(X) - goal) * (graph(X) - goal)).sum()
        loss.backward()
        for parameter in graph.parameters():
            parameter.assign(parameter.data - 0.02 * parameter.grad.data)
        losses.append(float(loss.data))
    assert losses[-1] < 0.05 * losses[0]
    assert float(graph.array("b.factor")[0]) > 1
    assert set(graph.state_dict()) == {"c.weight", "c.bias", "f.weight", "f.bias", "b.mean", "b.variance", "b.factor"}


def test_hdf5_weights_go_in_and_out(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    layers = """layer { name: "c" type: "Convolution" bottom: "data" top: "c" param { name: "w" }
      convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "xavier" } } }
    layer { name: "d" type: "Convolution" bottom: "c" top: "d" param { name: "w" } convolution_param { num_output: 3 kernel_size: 1 } }"""
    first = net(INPUT + layers, seed=3)
    caffe.save(first, tmp_path / "net.caffemodel.h5")
    caffe.save(first, tmp_path / "net.prototxt")
    second = caffe.load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel.h5")
    assert second.missing == []
    for name, array in first.state_dict().items():
        assert np.array_equal(second.state_dict()[name], array)
    save_model(second, tmp_path / "again.h5")
    (tmp_path / "half.h5").write_bytes((tmp_path / "again.h5").read_bytes()[:900])
    with pytest.raises(FileFormatError, match="half"):
        second.copy_weights(tmp_path / "half.h5")
    other = net(INPUT + layers.replace("kernel_size: 1", "kernel_size: 3"))
    with pytest.raises(ShapeError, match="layer 'c': blob 0 has shape"):
        other.copy_weights(tmp_path / "again.h5")
