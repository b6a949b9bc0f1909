"""Layers as five libraries write them: every translation is run in the library that it is for, on integers, and must be exact.

torch and onnxruntime are part of the development environment; the tests for Keras and JAX run where those are installed.
"""

from __future__ import annotations

import os
from itertools import product

import numpy as np
import pytest

import preimage as pre
from preimage.analysis.spellings import LIBRARIES, LayerSpec, read, translate, write
from preimage.errors import OptionError

SIZES = {1: (9,), 2: (7, 6), 3: (5, 4, 6)}


def spec_of(seed):
    """A random layer, unequal in everything."""
    rng = np.random.default_rng(seed)
    ndim = int(rng.integers(1, 4))
    groups = int(rng.choice([1, 1, 1, 2]))

    def per_axis(least, most):
        return tuple(int(v) for v in rng.integers(least, most + 1, ndim))

    transposed = bool(rng.random() < 0.6)
    stride = per_axis(1, 3)
    dilation = per_axis(1, 2) if rng.random() < 0.3 else (1,) * ndim
    if max(dilation) > 1 and rng.random() < 0.5:
        stride = (1,) * ndim
    kernel = per_axis(1, 4)
    kind = rng.random()
    if kind < 0.4:
        padding = tuple((int(p), int(p)) for p in rng.integers(0, 2, ndim))
    elif kind < 0.8:
        padding = tuple((int(a), int(b)) for a, b in rng.integers(-1 if transposed else 0, 3, (ndim, 2)))
    elif transposed:
        padding = tuple((max(0, k - s) // 2, k - s - max(0, k - s) // 2) for k, s in zip(kernel, stride, strict=True))
    else:
        padding = (
            "same"
            if any(s > 1 for s in stride)
            else tuple(((k - 1) * d // 2, -(-(k - 1) * d // 2)) for k, d in zip(kernel, dilation, strict=True))
        )
    return LayerSpec(
        transposed, kernel, stride, padding, dilation, groups, groups * int(rng.integers(1, 3)), groups * int(rng.integers(1, 3)),
        bool(rng.random() < 0.5),
    )  # fmt: skip


def specs(count):
    """Random layers that have a result on SIZES."""
    found = []
    for seed in range(10 * count):
        layer = spec_of(seed)
        try:
            g = layer.geometry(SIZES[layer.ndim])
        except pre.PreimageError:
            continue
        if min((*g.input_size, *g.output_size)) > 0:
            found.append(layer)
        if len(found) == count:
            break
    return found


SPECS = specs(150)


def arrays(layer, seed=0):
    rng = np.random.default_rng(seed)
    first, second = (layer.in_channels, layer.out_channels) if layer.transposed else (layer.out_channels, layer.in_channels)
    shape = (first, second // layer.groups, *layer.kernel_size)
    x = rng.integers(-4, 5, (2, layer.in_channels, *SIZES[layer.ndim])).astype(np.float32)
    w = rng.integers(-4, 5, shape).astype(np.float32)
    b = rng.integers(-4, 5, layer.out_channels).astype(np.float32) if layer.bias else None
    return x, w, b


def ours(layer, x, w, b):
    g = layer.geometry(x.shape[2:], x.shape[0])
    options = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups}
    if layer.transposed:
        return pre.conv_transpose(x, w, b, output_size=g.input_size, **options)
    return pre.conv(x, w, b, padding_mode=layer.padding_mode, **options)


def said(layer, library):
    """The layer in a library's words, or None where it has none. Reading it back gives the layer that it is on this input size."""
    size = SIZES[layer.ndim]
    try:
        text = write(layer, library, input_size=size)
    except OptionError as error:
        if "exact counterpart" not in str(error):
            raise
        return None
    back = read(text, in_channels=layer.in_channels, ndim=layer.ndim).layer
    assert back.geometry(size) == layer.geometry(size), text
    assert (back.groups, back.bias, back.transposed) == (layer.groups, layer.bias, layer.transposed)
    return text


def checked(layers, library, run, least):
    """Every layer that the library can say, run there: equal to ours to the last bit."""
    count = 0
    for k, layer in enumerate(layers):
        text = said(layer, library)
        if text is None:
            continue
        count += 1
        x, w, b = arrays(layer, k)
        np.testing.assert_array_equal(run(text, layer, x, w, b), ours(layer, x, w, b), err_msg=text)
    assert count >= least, count


def test_torch():
    torch = pytest.importorskip("torch")

    def run(text, layer, x, w, b):
        made = eval(text, {name: getattr(torch.nn, name) for name in dir(torch.nn) if name.startswith("Conv")})
        with torch.no_grad():
            made.weight.copy_(torch.from_numpy(w))
            if b is not None:
                made.bias.copy_(torch.from_numpy(b))
            return made(torch.from_numpy(x)).numpy()

    checked(SPECS, "torch", run, 50)


def onnx_run(node, x, w, b):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    stored = [numpy_helper.from_array(w, "W")] + ([numpy_helper.from_array(b, "B")] if b is not None else [])
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("X", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None] * x.ndim)], stored,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"X": x})[0]


def onnx_node(text, b):
    from onnx import helper

    def make(name):
        def node(W=None, B=None, X=None, **attributes):
            return helper.make_node(name, ["X", "W"] + (["B"] if b is not None else []), ["Y"], **attributes)

        return node

    return eval(text, {"Conv": make("Conv"), "ConvTranspose": make("ConvTranspose")})


def test_onnx():
    pytest.importorskip("onnx")

    def run(text, layer, x, w, b):
        return onnx_run(onnx_node(text, b), x, w, b)

    # onnxruntime has no dilated or grouped 3-D deconvolution on the CPU, and no output_padding as large as the dilation
    # ("SAME" with a dilation is refused there, too)
    layers = [
        s for s in SPECS
        if not (s.transposed and (max(s.dilation) > 1 or s.ndim == 3)) and not (isinstance(s.padding, str) and max(s.dilation) > 1)
    ]  # fmt: skip
    checked(layers, "onnx", run, 60)


@pytest.mark.parametrize("text", [
    'ConvTranspose(X=(2, 3, 7, 6), W=(3, 2, 3, 4), strides=[2, 3], output_shape=[14, 17])',
    'ConvTranspose(X=(2, 3, 7, 6), W=(3, 2, 3, 4), strides=[2, 3], output_shape=[14, 17], auto_pad="SAME_UPPER")',
    'ConvTranspose(X=(2, 3, 7, 6), W=(3, 2, 3, 4), strides=[2, 3], auto_pad="SAME_UPPER")',
    'ConvTranspose(X=(2, 3, 7, 6), W=(3, 2, 5, 4), strides=[2, 1], auto_pad="SAME_LOWER")',
    'ConvTranspose(X=(2, 3, 7, 6), W=(3, 2, 5, 4), strides=[2, 3], pads=[1, 0, 2, 1], output_padding=[1, 2])',
    'Conv(X=(2, 3, 7, 6), W=(2, 3, 3, 4), strides=[2, 3], auto_pad="SAME_LOWER")',
    'Conv(X=(2, 3, 7, 6), W=(2, 3, 3, 4), strides=[2, 3], auto_pad="SAME_UPPER")',
    'Conv(X=(2, 3, 7, 6), W=(2, 3, 3, 4), pads=[1, 0, 2, 3], dilations=[2, 1])',
])  # fmt: skip
def test_onnx_words(text):
    pytest.importorskip("onnx")
    found = read(text)
    rng = np.random.default_rng(1)
    x = rng.integers(-4, 5, (2, 3, 7, 6)).astype(np.float32)
    shape = tuple(eval(text.split("W=")[1].split("), ")[0] + ")"))
    w = rng.integers(-4, 5, shape).astype(np.float32)
    np.testing.assert_array_equal(onnx_run(onnx_node(text, None), x, w, None), ours(found.layer, x, w, None))


def test_keras():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")

    def run(text, layer, x, w, b):
        made = eval(text, {name: getattr(keras.layers, name) for name in dir(keras.layers) if name.startswith("Conv")})
        last = np.moveaxis(x, 1, -1)
        made.build(last.shape)
        kernel = np.moveaxis(w, (0, 1), (-1, -2))
        assert np.array_equal(read(text, in_channels=layer.in_channels).weight(kernel), w)
        made.set_weights([kernel] + ([b] if b is not None else []))
        return np.moveaxis(np.asarray(made(last)), -1, 1)

    checked(SPECS, "keras", run, 15)


def test_keras_deconvolutions_word_by_word():
    """Every kernel to 5, stride to 3, dilation to 2, both words, every output_padding."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (1, 2, 6)).astype(np.float32)
    for kernel, stride, word, extra, dilation in product((1, 2, 3, 4, 5), (1, 2, 3), ("valid", "same"), (None, 0, 1, 2), (1, 2)):
        if (extra is not None and extra >= stride) or (dilation > 1 and stride > 1):
            continue
        text = (
            f'Conv1DTranspose(3, {kernel}, strides={stride}, padding="{word}", output_padding={extra}, dilation_rate={dilation})'
        )
        layer = read(text, in_channels=2).layer
        made = keras.layers.Conv1DTranspose(3, kernel, strides=stride, padding=word, output_padding=extra, dilation_rate=dilation)
        w = rng.integers(-4, 5, (2, 3, kernel)).astype(np.float32)
        made.build((1, 6, 2))
        made.set_weights([np.moveaxis(w, (0, 1), (-1, -2)), np.zeros(3, np.float32)])
        got = np.moveaxis(np.asarray(made(np.moveaxis(x, 1, -1))), -1, 1)
        np.testing.assert_array_equal(got, ours(layer, x, w, None), err_msg=text)


def test_keras_depthwise():
    text = 'DepthwiseConv2D(3, padding="same", depth_multiplier=2)'
    layer = read(text, in_channels=4).layer
    assert (layer.groups, layer.in_channels, layer.out_channels) == (4, 4, 8)
    with pytest.raises(OptionError, match="give in_channels"):
        read(text)
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    made = keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False)
    x = np.random.default_rng(0).integers(-4, 5, (1, 4, 6, 5)).astype(np.float32)
    kernel = np.random.default_rng(1).integers(-4, 5, (3, 3, 4, 2)).astype(np.float32)
    made.build((1, 6, 5, 4))
    made.set_weights([kernel])
    got = np.moveaxis(np.asarray(made(np.moveaxis(x, 1, -1))), -1, 1)
    np.testing.assert_array_equal(got, ours(layer, x, read(text, in_channels=4).weight(kernel), None))


def jax_run(text, x, w, b):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_platforms", "cpu")
    shapes = []

    class Lax:
        def __getattr__(self, name):
            def call(lhs, rhs, *args, **kwargs):
                shapes.append(rhs)
                return getattr(jax.lax, name)(x, w, *args, precision="highest", **kwargs)

            return call

    return np.asarray(eval(text, {"lax": Lax(), "x": x, "b": b}))


def test_jax():
    pytest.importorskip("jax")

    def run(text, layer, x, w, b):
        assert np.array_equal(read(text).weight(w), w)  # written so that the weight is PyTorch's
        return jax_run(text, x, w, b)

    checked(SPECS, "jax", run, 60)


JAX_WORDS = [
    'lax.conv_transpose((1, 6, 5, 3), (3, 4, 3, 2), strides=(2, 3), padding="SAME")',
    'lax.conv_transpose((1, 6, 5, 3), (2, 3, 3, 2), strides=(2, 3), padding="VALID")',
    'lax.conv_transpose((1, 6, 5, 3), (3, 1, 3, 2), strides=(2, 3), padding="VALID", rhs_dilation=(2, 1))',
    'lax.conv_transpose((1, 6, 5, 3), (4, 3, 2, 3), strides=(1, 2), padding=((2, 1), (0, 3)), transpose_kernel=True)',
    'lax.conv_transpose((1, 3, 6, 5), (3, 2, 3, 4), (3, 2), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"), transpose_kernel=True)',
    'lax.conv_transpose((1, 6, 5, 3), (4, 3, 3, 2), strides=(2, 2), padding=((1, 2), (0, 1)), use_consistent_padding=True)',
    'lax.conv_general_dilated((1, 3, 6, 5), (2, 3, 3, 4), (1, 1), ((2, 1), (3, 4)), lhs_dilation=(2, 3))',
    'lax.conv_general_dilated((1, 3, 6, 5), (2, 3, 3, 4), (2, 3), "SAME")',
    'lax.conv_general_dilated((1, 3, 6, 5), (2, 3, 3, 4), (2, 1), "SAME_LOWER", rhs_dilation=(1, 2))',
    'lax.conv((1, 3, 6, 5), (2, 3, 3, 4), (2, 3), "VALID")',
    'lax.conv_general_dilated((1, 6, 5, 3), (3, 2, 3, 2), (1, 2), ((-1, 2), (1, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC"))',
]  # fmt: skip


def test_jax_words():
    layers = [read(text) for text in JAX_WORDS]
    pytest.importorskip("jax")
    for text, found in zip(JAX_WORDS, layers, strict=True):
        shapes = [eval(part + ")") for part in (text.split("(", 1)[1].split("), ")[:2])]
        rng = np.random.default_rng(2)
        x, w = (rng.integers(-4, 5, s).astype(np.float32) for s in shapes)
        got = jax_run(text, x, w, None)
        first = "NCHW" in text or "general" in text or "lax.conv(" in text
        if "NHWC" in text or not first:
            x, got = np.moveaxis(x, -1, 1), np.moveaxis(got, -1, 1)
        np.testing.assert_array_equal(got, ours(found.layer, x, found.weight(w), None), err_msg=text)


def test_caffe_through_our_own_caffe(tmp_path):
    """Against the importer of Caffe nets, which reads prototxt by its own parser."""
    from preimage.io import caffe

    count = 0
    for k, layer in enumerate(SPECS):
        if layer.ndim == 3:
            continue
        text = said(layer, "caffe")
        if text is None:
            continue
        count += 1
        x, w, b = arrays(layer, k)
        size = " ".join(f"dim: {n}" for n in x.shape)
        (tmp_path / "net.prototxt").write_text(
            f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {size} }} }} }}\n'
            + text.replace("layer {", 'layer { name: "c" bottom: "x" top: "y"', 1)
        )
        net = caffe.load(tmp_path / "net.prototxt")
        for p in net.parameters():
            p.assign(w if p.ndim > 1 else b)
        with pre.no_grad():
            np.testing.assert_array_equal(np.asarray(net(x)), ours(layer, x, w, b), err_msg=text)
    assert count >= 20


def test_well_known_traps():
    up = "ConvTranspose2d(64, 3, 4, 2, 1)"
    assert translate(up, "keras") == 'Conv2DTranspose(3, 4, strides=2, padding="same")'
    assert (
        translate(up, "caffe")
        == 'layer { type: "Deconvolution" convolution_param { num_output: 3 kernel_size: 4 stride: 2 pad: 1 } }'
    )
    assert translate(up, "onnx") == "ConvTranspose(W=(64, 3, 4, 4), B=(3,), strides=[2, 2], pads=[1, 1, 1, 1])"
    assert translate('tf.keras.layers.Conv2DTranspose(3, 4, strides=(2, 2), padding="SAME")', "torch", in_channels=64) == (
        "ConvTranspose2d(64, 3, kernel_size=4, stride=2, padding=1)"
    )
    # with an odd kernel Keras's "same" crops at the end, PyTorch's usual form at the start: not the same layer
    with pytest.raises(OptionError, match="Keras has no exact counterpart"):
        translate("nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1)", "keras")
    with pytest.raises(OptionError, match=r"PyTorch has no exact counterpart: axis 0 crops 0 at the start and 1 at the end"):
        translate('Conv2DTranspose(8, 3, strides=2, padding="same")', "torch", in_channels=8)
    # "same" with a stride depends on the input's size
    same = 'Conv2D(16, 3, strides=2, padding="same")'
    with pytest.raises(OptionError, match="depends on the input's size"):
        translate(same, "torch", in_channels=3)
    with pytest.raises(OptionError, match="both ends alike"):
        translate(same, "torch", in_channels=3, input_size=(8, 8))
    assert translate(same, "torch", in_channels=3, input_size=(9, 9)) == "Conv2d(3, 16, kernel_size=3, stride=2, padding=1)"
    assert translate("Conv2d(3, 8, 3, padding='same', bias=False)", "keras") == 'Conv2D(8, 3, padding="same", use_bias=False)'


@pytest.mark.parametrize(("text", "message"), [
    ("Conv2d(3, 8)", "kernel_size is missing"), ("Conv2d(3, 8, 3, colour=2)", "has no 'colour'"), ("Conv2d(3, 8, 3, 1, 0, 1, 2)", "must divide"),
    ("ConvTranspose2d(3, 8, 3, output_padding=1)", "below max"), ("Conv2d(*args)", "no literal"), ("Conv2d(**args)", "write the options out"),
    ("__import__('os').system('x')", "must be a name"), ("Conv2d(3, 8, __import__('os'))", "no literal"), ("3", "wanted a call"),
    ("Conv2d(3, 8, 3", "is no layer"), ("Dense(3)", "no layer that is known"), ("Conv2D(3, 3, activation='relu')", "activation"),
    ("Conv2D(3, 3, strides=2, dilation_rate=2)", "not both"), ("lax.conv(x, w, (1, 1), 'SAME')", "write the kernel as its shape"),
    ("Conv2d(3, 8, 3, stride=2, padding='same')", "stride of 1"), ("Conv2d(3, 8, 3, stride=True)", "must be one integer"),
    ("Conv(W=(3, 3, 3, 3), auto_pad='UP')", "auto_pad must be"), ("ConvTranspose(W=(3, 3, 3, 3), output_shape=[4, 4])", "say X's shape"),
    ('layer { type: "Pooling" }', "no convolution"), ("convolution_param { num_output: 3 kernel_size: }", "no value"),
    ("convolution_param { num_output: 3 kernel_size: 3", "braces"), ("convolution_param { num_output: 3 kernel_size: 3 colour: 1 }", "no 'colour'"),
    ("Conv2d(3, 8, 3) + b", "nothing is added"), ("lax.conv(x, (3, 3, 3, 3), (1, 1), 'SAME') + f(1)", "only a bias"), ("x" * 20_000, "at most"),
    ("Conv2d(3, 8, 3, kernel_size=3)", "given twice"), ("Conv2d(" + "(" * 3000 + ")" * 3000 + ")", "no layer"),
])  # fmt: skip
def test_refusals(text, message):
    with pytest.raises(OptionError, match=message):
        read(text)


def test_unknown_libraries_and_sizes():
    with pytest.raises(OptionError, match=", ".join(LIBRARIES)):
        translate("Conv2d(3, 8, 3)", "theano")
    with pytest.raises(OptionError, match="2 spatial axes"):
        translate("Conv2d(3, 8, 3)", "keras", input_size=(3,))
    with pytest.raises(OptionError, match="not what the text says"):
        translate("Conv2d(3, 8, 3)", "keras", in_channels=4)
    with pytest.raises(OptionError, match="reflect"):
        translate("Conv2d(3, 8, 3, padding_mode='reflect')", "onnx")
