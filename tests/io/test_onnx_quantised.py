"""Quantised operators: every integer equal to the definition in int64 loops; onnxruntime within one unit where it rounds otherwise."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

import preimage as pre
from preimage.io import onnx as onnx_io
from preimage.io.graph import optimise
from preimage.io.limits import limits
from preimage.io.onnx import export

onnx = pytest.importorskip("onnx")
from graph_facts import disagreements  # noqa: E402

helper, numpy_helper = onnx.helper, onnx.numpy_helper
RNG = np.random.default_rng(0)
CODES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}


def net(op, inputs, outputs=("y",), domain="", **attributes):
    """A model of one node whose inputs are all fed; None is an absent one."""
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(inputs)]
    feeds = {n: np.asarray(v) for n, v in zip(names, inputs, strict=True) if n}
    infos = [helper.make_tensor_value_info(n, CODES[v.dtype.name], v.shape) for n, v in feeds.items()]
    node = helper.make_node(op, names, outputs, domain=domain, **attributes)
    graph = helper.make_graph([node], "net", infos, [onnx.ValueInfoProto(name=k) for k in outputs])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), feeds


def ours(model, feeds):
    with pre.no_grad():
        found = onnx_io.load(model).run(feeds)
    return [np.asarray(found[o.name]) for o in model.graph.output]


def theirs(model, feeds):
    ort = pytest.importorskip("onnxruntime")
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def whole(dtype, *shape):
    span = np.iinfo(dtype)
    return RNG.integers(span.min, span.max + 1, shape).astype(dtype)


def convolved(x, w, stride, pads, group):
    """The definition in loops over int64."""
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    n, o, (kh, kw) = len(x), len(w), w.shape[2:]
    h, v = (x.shape[2] - kh) // stride[0] + 1, (x.shape[3] - kw) // stride[1] + 1
    y = np.zeros((n, o, h, v), np.int64)
    each, per = w.shape[1], o // group
    for k in range(o):
        part = x[:, k // per * each : (k // per + 1) * each]
        for i in range(h):
            for j in range(v):
                patch = part[:, :, i * stride[0] : i * stride[0] + kh, j * stride[1] : j * stride[1] + kw]
                y[:, k, i, j] = (patch * w[k]).sum((1, 2, 3))
    return y


WINDOW = {"strides": [2, 1], "pads": [1, 0, 2, 1]}


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("kinds", [("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")])
def test_integer_convolutions_are_their_definition(kinds, group):
    x, w = whole(kinds[0], 2, 4, 9, 7), whole(kinds[1], 6, 4 // group, 3, 2)
    zeros = whole(kinds[0], 1)[0], whole(kinds[1], 1)[0]
    want = convolved(x.astype(np.int64) - int(zeros[0]), w.astype(np.int64) - int(zeros[1]), (2, 1), (1, 0, 2, 1), group)
    (y,) = ours(*net("ConvInteger", [x, w, zeros[0], zeros[1]], group=group, **WINDOW))
    assert y.dtype == np.int32
    assert np.array_equal(y, want)
    scale, zero = np.float32(37.5), whole("uint8", 1)[0]
    bias = RNG.integers(-9999, 9999, 6).astype(np.int32)
    each = RNG.random(6).astype(np.float32) / 10
    channel = [x, np.float32(0.25), zeros[0], w, each, np.full(6, zeros[1]), scale, zeros[0].dtype.type(zero % 100), bias]
    model, feeds = net("QLinearConv", channel, group=group, **WINDOW)
    (q,) = ours(model, feeds)
    real = (want + bias[:, None, None]) * (0.25 * each.astype(np.float64))[:, None, None] / 37.5
    span = np.iinfo(q.dtype)
    assert np.abs(q - np.clip(real + float(channel[7]), span.min, span.max)).max() <= 0.5 + 1e-4
    # onnxruntime adds pairs of products of uint8 and int8 in 16 bits where the CPU has no VNNI, which overflow; 7-bit weights do not.
    channel[3], channel[5] = w >> 1, channel[5] >> 1
    model, feeds = net("QLinearConv", channel, group=group, **WINDOW)
    assert np.abs(ours(model, feeds)[0].astype(int) - theirs(model, feeds)[0]).max() <= 1


def test_long_sums_stay_exact():
    """40,000 products of the largest numbers: float32 would lose their last digits, int16 sums of some CPUs the first."""
    x, w = np.full((1, 40_000, 1, 1), 255, np.uint8), np.full((2, 40_000, 1, 1), -128, np.int8)
    w[1, 0] = -127
    (y,) = ours(*net("ConvInteger", [x, w]))
    assert y.reshape(-1).tolist() == [-1305600000, -1305600000 + 255]


@pytest.mark.parametrize("zeros", ["none", "single", "rows and columns"])
def test_integer_products_are_their_definition(zeros):
    a, b = whole("uint8", 3, 5, 7), whole("int8", 3, 7, 4)
    a_zero, b_zero = {
        "none": (None, None), "single": (np.uint8(9), np.int8(-3)), "rows and columns": (whole("uint8", 3, 5, 1), whole("int8", 3, 1, 4)),
    }[zeros]  # fmt: skip
    left = a.astype(np.int64) - (0 if a_zero is None else a_zero.astype(np.int64))
    right = b.astype(np.int64) - (0 if b_zero is None else b_zero.astype(np.int64))
    (y,) = ours(*net("MatMulInteger", [a, b, a_zero, b_zero]))
    assert np.array_equal(y, left @ right)


def test_nets_of_quantised_words_agree_with_onnxruntime():
    q = lambda: (whole("uint8", 2, 3, 4, 5), np.float32(RNG.random() / 10 + 0.01), whole("uint8", 1)[0])  # noqa: E731
    out = (np.float32(0.07), np.uint8(120))
    cases = [
        net("QLinearAdd", [*q(), *q(), *out], domain="com.microsoft"),
        net("QLinearMul", [*q(), *q(), *out], domain="com.microsoft"),
        net("QLinearSigmoid", [*q(), np.float32(1 / 256), np.uint8(0)], domain="com.microsoft"),
        net("QLinearLeakyRelu", [*q(), *out], domain="com.microsoft", alpha=0.2),
        net("QLinearGlobalAveragePool", [*q(), *out], domain="com.microsoft"),
        net("QLinearConcat", [*out, *q(), *q()], domain="com.microsoft", axis=1),
        net("QLinearMatMul", [*q(), *(v.swapaxes(2, 3) if np.ndim(v) else v for v in q()), np.float32(0.9), np.uint8(99)]),
        net("QuantizeLinear", [RNG.standard_normal((2, 3, 4)).astype(np.float32), np.float32(0.01), np.int8(3)]),
        net("DequantizeLinear", [whole("int8", 2, 3, 4), RNG.random(3).astype(np.float32), whole("int8", 3)], axis=1),
    ]
    for model, feeds in cases:
        (a,), (b,) = ours(model, feeds), theirs(model, feeds)
        name = model.graph.node[0].op_type
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        assert np.abs(a.astype(float) - b).max() <= (1 if a.dtype.kind in "iu" else 1e-6), name  # a tie may fall either way
    x = RNG.standard_normal((4, 6)).astype(np.float32)
    for model, feeds in (
        net("DynamicQuantizeLinear", [x], ("y", "s", "z")),
        net("DynamicQuantizeMatMul", [x, whole("int8", 6, 3) >> 1, np.float32(0.02), np.int8(1), x[:3, 0]], domain="com.microsoft"),
        net("MatMulIntegerToFloat", [whole("uint8", 4, 6), whole("uint8", 6, 3), np.float32(0.1), np.float32(0.2), np.uint8(5), np.uint8(6)],
            domain="com.microsoft"),
    ):  # fmt: skip
        for a, b in zip(ours(model, feeds), theirs(model, feeds), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def stored(model, feeds, *positions):
    """The model with the inputs at these positions stored in it, and what is left to feed."""
    for name in [model.graph.input[k].name for k in positions]:
        model.graph.initializer.append(numpy_helper.from_array(feeds[name], name))
    left = [i for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer}]
    del model.graph.input[:]
    model.graph.input.extend(left)
    return model, {i.name: feeds[i.name] for i in left}


#: Channels, outputs of a group, the kernel's size.
SIZES = {"narrow": (8, 4, 3), "half of the sums beyond 2^24": (600, 4, 1), "sums beyond 2^24": (1200, 3, 1)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("group", [1, 2])
def test_rewritten_convolutions_give_the_same_integers(size, group):
    """By integer kernels, in groups too: every element is the definition's."""
    channels, outputs, kernel = SIZES[size]
    x, w = whole("uint8", 2, channels, 7, 6), whole("int8", outputs * group, channels // group, kernel, kernel)
    if size != "narrow":
        x[:, :, 0], w[0] = 255, 127  # the largest sums
    zero, zeros = np.uint8(3), whole("int8", len(w)) // 8
    pads = {"pads": [1, 0, 1, 1] if kernel > 1 else [0] * 4, "strides": [2, 1], "group": group}
    sums = convolved(
        x.astype(np.int64) - 3, w.astype(np.int64) - zeros[:, None, None, None].astype(np.int64), (2, 1), pads["pads"], group
    )
    bias = RNG.integers(-9999, 9999, len(w)).astype(np.int32)
    each, scale, end = (RNG.random(len(w)) / 1e3).astype(np.float32), np.float32(0.21), np.uint8(100)
    factor = (np.float32(0.25) * each / scale).astype(np.float32)[:, None, None]
    want = np.clip(np.rint((sums + bias[:, None, None]).astype(np.float32) * factor).astype(np.int64) + 100, 0, 255)
    model, feeds = stored(
        *net("QLinearConv", [x, np.float32(0.25), zero, w, each, zeros, scale, end, bias], **pads), *range(1, 9)
    )
    integer, fed = stored(*net("ConvInteger", [x, w, zero, zeros], **pads), 1, 3)
    for made, given, wanted in ((model, feeds, want), (integer, fed, sums)):
        plain_graph = onnx_io.load(made).eval()
        graph = optimise(plain_graph)
        assert graph.nodes[0].op.removeprefix("onnx.") in ("QLinearConv", "ConvInteger")
        with pre.no_grad():
            assert np.array_equal(plain_graph.run(given)["y"], wanted)
            for _ in range(4):  # the last by a program
                assert np.array_equal(graph.run(given)["y"], wanted)
        again = export.from_graph(graph)
        (back,) = ours(again, given)
        assert np.array_equal(back, wanted)


def test_fast_convolutions_keep_the_integers():
    x, w = whole("uint8", 1, 32, 16, 16), whole("int8", 32, 32, 3, 3) // 8
    model, feeds = stored(*net("ConvInteger", [x, w]), 1)
    graph = onnx_io.load(model).eval()
    want = ours(model, feeds)[0]
    with pre.no_grad(), pre.config(accuracy="fast"):
        assert np.array_equal(optimise(graph).run(feeds)["y"], want)
        assert np.array_equal(optimise(graph, accuracy="fast").run(feeds)["y"], want)


@pytest.mark.parametrize("depth", [7, 900])
def test_rewritten_products_give_the_same_integers(depth):
    a, b, zero = whole("uint8", 3, 5, depth), whole("int8", depth, 4), whole("int8", 4)
    want = (a.astype(np.int64) - 9) @ (b.astype(np.int64) - zero.astype(np.int64))
    cases = [
        stored(*net("MatMulInteger", [a, b, np.uint8(9), zero]), 1, 2, 3),
        stored(
            *net("QLinearMatMul", [a, np.float32(0.1), np.uint8(9), b, np.float32(0.02), zero, np.float32(0.9), np.uint8(99)]),
            *range(1, 8),
        ),
    ]
    factor = np.float32(np.float32(0.1) * np.float32(0.02) / np.float32(0.9))
    results = [want, np.clip(np.rint(want.astype(np.float32) * factor) + 99, 0, 255)]
    for (model, feeds), wanted in zip(cases, results, strict=True):
        graph = onnx_io.load(model).eval()
        net_ = optimise(graph)
        with pre.no_grad():
            assert np.array_equal(graph.run(feeds)["y"], wanted)
            for _ in range(4):
                assert np.array_equal(net_.run(feeds)["y"], wanted)


def test_qgemm_is_its_definition():
    a, b, c = whole("uint8", 7, 5), whole("int8", 4, 7) >> 1, RNG.integers(-99, 99, 4).astype(np.int32)
    sums = (a.T.astype(np.int64) - 100) @ b.T.astype(np.int64) + c
    head = [a, np.float32(0.1), np.uint8(100), b, np.float32(0.02), np.int8(0), c]
    model, feeds = net("QGemm", head, domain="com.microsoft", transA=1, transB=1, alpha=0.5)
    assert np.allclose(ours(model, feeds)[0], sums * 0.001, rtol=1e-6)
    model, feeds = net("QGemm", [*head, np.float32(0.03), np.uint8(9)], domain="com.microsoft", transA=1, transB=1, alpha=0.5)
    (y,) = ours(model, feeds)
    assert np.abs(y - np.clip(sums * 0.001 / 0.03 + 9, 0, 255)).max() <= 0.5 + 1e-4
    assert np.abs(y.astype(int) - theirs(model, feeds)[0]).max() <= 1


def test_deconvolution_between_integers():
    """Files hold it as DequantizeLinear, ConvTranspose, QuantizeLinear: with scales that are powers of two every element is the integers' own."""
    x, w = whole("uint8", 2, 3, 5, 4), whole("int8", 3, 4, 3, 2)
    node = helper.make_node
    nodes = [node("DequantizeLinear", ["x", "s", "o"], ["f"]), node("DequantizeLinear", ["w", "t", "p"], ["g"]),
             node("ConvTranspose", ["f", "g"], ["c"], strides=[2, 1], pads=[1, 0, 0, 1], output_padding=[1, 0]),
             node("QuantizeLinear", ["c", "u", "o"], ["y"])]  # fmt: skip
    known = {"w": w, "s": np.float32(0.25), "o": np.uint8(7), "t": np.float32(0.125), "p": np.int8(0), "u": np.float32(2048)}
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 2, x.shape)], [onnx.ValueInfoProto(name="y")],
                              [numpy_helper.from_array(np.asarray(v), k) for k, v in known.items()])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    sums = np.zeros((2, 4, 12, 6), np.int64)
    values = x.astype(np.int64) - 7
    for i, j, a, b in np.ndindex(5, 4, 3, 2):
        sums[:, :, i * 2 + a, j + b] += np.einsum("nc,co->no", values[:, :, i, j], w[:, :, a, b].astype(np.int64))
    want = np.clip(np.rint(sums[:, :, 1:, :4] / 65536) + 7, 0, 255)
    (y,) = ours(model, {"x": x})
    assert y.dtype == np.uint8
    assert np.array_equal(y, want)
    with pre.no_grad():
        assert np.array_equal(optimise(onnx_io.load(model).eval()).run({"x": x})["y"], want)


def between_integers(op, x, w, bias, scales, **attributes):
    """DequantizeLinear, an operator of two factors, QuantizeLinear, as quantised files hold them; a scale for each output of the weights."""
    node, axis = helper.make_node, {"Conv": 0, "ConvTranspose": 1, "MatMul": 1, "Gemm": 1}[op]
    x_scale, w_scales, scale = scales
    relu = attributes.pop("relu", False)
    axis = 0 if attributes.get("transB") else axis
    known = {
        "w": w,
        "s": x_scale,
        "o": np.uint8(7),
        "t": w_scales,
        "p": np.zeros(len(w_scales), np.int8),
        "u": scale,
        "e": np.int8(-128 if relu else -3),
    }
    nodes = [node("DequantizeLinear", ["x", "s", "o"], ["f"]), node("DequantizeLinear", ["w", "t", "p"], ["g"], axis=axis)]
    if bias is not None:
        shared = len(bias) // len(w_scales)  # groups that have the same scales
        known |= {"b": bias, "v": np.tile((x_scale * w_scales).astype(np.float32), shared)}
        nodes.append(node("DequantizeLinear", ["b", "v"], ["c"], axis=0))
    nodes.append(node(op, ["f", "g", *(["c"] if bias is not None else [])], ["d"], **attributes))
    if relu:
        nodes.append(node("Relu", ["d"], ["r"]))
    nodes.append(node("QuantizeLinear", ["r" if relu else "d", "u", "e"], ["y"]))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 2, x.shape)], [onnx.ValueInfoProto(name="y")],
                              [numpy_helper.from_array(np.asarray(v), k) for k, v in known.items()])  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MatMul"])
@pytest.mark.parametrize("added", [False, True])
def test_contractions_between_integers_are_integer_kernels(op, added):
    """One program of kernels alone, every element the definition's: exact sums, scaled and rounded once; onnxruntime within one unit."""
    x, w = whole("uint8", 2, 5, 6, 7), whole("int8", 4, 5, 3, 2) >> 1  # of 7 bits: onnxruntime's sums then stay within 16
    w = {"Conv": w, "ConvTranspose": w.swapaxes(0, 1).copy(), "MatMul": w.reshape(-1)[:28].reshape(7, 4)}[op]
    outputs = 4
    bias = RNG.integers(-9999, 9999, outputs).astype(np.int32) if added and op != "MatMul" else None
    scales = np.float32(0.017), (RNG.random(outputs) / 50 + 0.001).astype(np.float32), np.float32(0.9)
    window = {} if op == "MatMul" else {"strides": [2, 1], "pads": [1, 0, 2, 1]}
    values, weights = x.astype(np.int64) - 7, w.astype(np.int64)
    if op == "MatMul":
        sums, form = values @ weights, (-1,)
    elif op == "Conv":
        sums, form = convolved(values, weights, (2, 1), (1, 0, 2, 1), 1), (-1, 1, 1)
    else:
        sums, form = np.zeros((2, 4, 13, 8), np.int64), (-1, 1, 1)
        for i, j, a, b in np.ndindex(6, 7, 3, 2):
            sums[:, :, i * 2 + a, j + b] += np.einsum("nc,co->no", values[:, :, i, j], weights[:, :, a, b])
        sums = sums[:, :, 1:-2, :-1]
    if bias is not None:
        sums = sums + bias.reshape(form)
    factor = (scales[0] * scales[1] / scales[2]).astype(np.float32).reshape(form)
    want = np.clip(np.rint(sums.astype(np.float32) * factor) - 3, -128, 127)
    model = between_integers(op, x, w, bias, scales, **window)
    graph = optimise(onnx_io.load(model).eval())
    words = {"Conv": "onnx.QLinearConv", "ConvTranspose": "quantised_conv_transpose", "MatMul": "onnx.QLinearMatMul"}
    assert [n.op for n in graph.nodes] == [words[op]]
    with pre.no_grad():
        for _ in range(3):
            assert np.array_equal(graph.run({"x": x})["y"], want)
        assert graph.why_no_program is None
        with pre.config(engine="gemm"):  # in floats that hold the sums
            assert np.array_equal(optimise(onnx_io.load(model).eval()).run({"x": x})["y"], want)
        again = onnx_io.load(export.from_graph(graph)).eval()
        assert np.abs(again.run({"x": x})["y"].astype(int) - want).max() <= 1
        assert not disagreements(graph, {"x": x}, graph.run({"x": x}))[0]
    assert np.abs(theirs(model, {"x": x})[0].astype(int) - want).max() <= 1


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    "op", ["Conv", "depthwise Conv", "Conv of three axes", "ConvTranspose", "depthwise ConvTranspose", "Gemm", "Gemm, B across"]
)
def test_groups_three_axes_and_gemm_between_integers_are_integer_kernels(op, relu):
    """As above, beside onnxruntime's floats: one step of a value may come out as the next. Relu before integers that have none below zero is idle."""
    x, outputs, window = whole("uint8", 2, 6, 6, 7), 4, {"strides": [2, 1], "pads": [1, 0, 2, 1]}
    if op == "Conv":
        w, window["group"] = whole("int8", 4, 3, 3, 2), 2
    elif op == "depthwise Conv":
        w, window["group"], outputs = whole("int8", 6, 1, 3, 2), 6, 6
    elif op == "Conv of three axes":
        x, w, window = (
            whole("uint8", 2, 3, 5, 4, 6),
            whole("int8", 4, 3, 2, 3, 2),
            {"strides": [1, 2, 1], "pads": [1, 0, 1, 0, 2, 1]},
        )
    elif op == "ConvTranspose":
        w, window["group"] = whole("int8", 6, 4, 3, 2), 3
    elif op == "depthwise ConvTranspose":
        w, window["group"], outputs = whole("int8", 6, 1, 3, 2), 6, 1
    else:
        x, w, window = whole("uint8", 5, 7), whole("int8", 7, 4), {"alpha": 1.0}
        w, window = (w.T.copy(), {"transB": 1}) if "across" in op else (w, window)
    word = op.split()[-1] if op.startswith("depthwise") else op.replace(",", "").split()[0]
    w = w >> 1  # of 7 bits: onnxruntime's sums then stay within 16
    bias = RNG.integers(-9999, 9999, outputs * (window["group"] if "Transpose" in op else 1)).astype(np.int32)
    scales = np.float32(0.017), (RNG.random(outputs) / 50 + 0.001).astype(np.float32), np.float32(0.1)
    model = between_integers(word, x, w, bias, scales, relu=relu, **window)
    read = onnx_io.load(model).eval()
    graph = optimise(read)
    words = {"Conv": "onnx.QLinearConv", "ConvTranspose": "quantised_conv_transpose", "Gemm": "onnx.com.microsoft::QGemm"}
    assert [n.op for n in graph.nodes] == [words[word]]
    with pre.no_grad():
        got, written = graph.run({"x": x})["y"], read.run({"x": x})["y"]
        with pre.config(engine="gemm"):  # in floats that hold the sums
            assert np.array_equal(optimise(onnx_io.load(model).eval()).run({"x": x})["y"], got)
        assert np.abs(got.astype(int) - written).max() <= 1
        assert len(np.unique(got)) > 5
        for _ in range(3):
            assert np.array_equal(graph.run({"x": x})["y"], got)
        assert graph.why_no_program is None
        again = onnx_io.load(export.from_graph(graph)).eval()
        assert np.abs(again.run({"x": x})["y"].astype(int) - got).max() <= 1
        assert not disagreements(graph, {"x": x}, {"y": got})[0]
    assert np.abs(theirs(model, {"x": x})[0].astype(int) - got).max() <= 1


def test_relu_before_integers_below_zero_stays():
    x, w = whole("uint8", 1, 3, 4, 5), whole("int8", 2, 3, 1, 1)
    model = between_integers("Conv", x, w, None, (np.float32(0.1), np.ones(2, np.float32), np.float32(10)), relu=True)
    next(t for t in model.graph.initializer if t.name == "e").CopyFrom(numpy_helper.from_array(np.int8(-5), "e"))
    read = onnx_io.load(model).eval()
    done = optimise(read)
    assert "onnx.QLinearConv" not in [n.op for n in done.nodes]
    with pre.no_grad():
        got = done.run({"x": x})["y"]
        assert np.array_equal(got, read.run({"x": x})["y"])
    assert got.min() == -5


def test_quantising_becomes_steps_of_what_is_between():
    """Bytes in, bytes out: the bits are those of the nodes as written, on any engine; what only moves is moved as bytes."""
    node = helper.make_node
    nodes = [
        node("DequantizeLinear", ["x", "s", "o"], ["f"]), node("Reshape", ["f", "shape"], ["g"]),
        node("Transpose", ["g"], ["h"], perm=[0, 2, 1]), node("Add", ["h", "bias"], ["i"]), node("Mul", ["i", "i"], ["j"]),
        node("QuantizeLinear", ["j", "t", "p"], ["k"]), node("DequantizeLinear", ["k", "t", "p"], ["l"]),
        node("Transpose", ["l"], ["m"], perm=[1, 0, 2]), node("QuantizeLinear", ["m", "t", "p"], ["y"]),
        node("DequantizeLinear", ["x", "s", "o"], ["n"]), node("QuantizeLinear", ["n", "t", "p"], ["z"]),
    ]  # fmt: skip
    known = {"s": np.float32(0.03), "o": np.uint8(9), "t": np.float32(0.11), "p": np.int8(-20), "shape": np.array([3, 40, 50]),
             "bias": RNG.standard_normal(40).astype(np.float32)}  # fmt: skip
    x = whole("uint8", 3, 2000)
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 2, x.shape)],
                              [onnx.ValueInfoProto(name="y"), onnx.ValueInfoProto(name="z")],
                              [numpy_helper.from_array(np.asarray(v), k) for k, v in known.items()])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    plain_graph = onnx_io.load(model).eval()
    done = optimise(plain_graph)
    assert [n.op.removeprefix("onnx.") for n in done.nodes] == [
        "reshape", "Transpose", "quantised_pointwise", "Transpose", "identity", "quantised_pointwise",
    ]  # fmt: skip
    for engine in ("gemm", "jit"):
        with pre.no_grad(), pre.config(engine=engine):
            want = plain_graph.run({"x": x})
            for _ in range(3):
                found = done.run({"x": x})
                assert all(found[k].dtype == want[k].dtype and np.array_equal(found[k], want[k]) for k in "yz")
            back = ours(export.from_graph(done), {"x": x})
            assert all(np.array_equal(a, want[k]) for a, k in zip(back, "yz", strict=True))
    assert done.why_no_program is None
    with pre.no_grad():
        assert not disagreements(done, {"x": x}, done.run({"x": x}))[0]


def test_rounding_has_no_gradient_and_says_so():
    model, feeds = net("QuantizeLinear", [np.ones(3, np.float32), np.float32(0.1), np.uint8(0)])
    with pytest.raises(pre.PreimageError, match="QuantizeLinear has no gradient"):
        onnx_io.load(model).run(feeds | {"i0": pre.Tensor(feeds["i0"], requires_grad=True)})


def test_quantised_convolutions_are_held_to_the_limits():
    model, feeds = net("ConvInteger", [whole("uint8", 1, 1, 4, 4), whole("uint8", 1, 1, 1, 1)], pads=[9999] * 4)
    with limits(elements=10**6), pytest.raises(pre.FileFormatError, match="larger than the limit"):
        ours(model, feeds)


def test_lstm_with_weights_of_8_bits():
    """Products of quantised states are exact; onnxruntime approximates sigmoid and tanh, so that a state may be quantised to the next step."""
    steps, batch, size, hidden = 6, 2, 5, 4
    x, lengths = RNG.standard_normal((steps, batch, size)).astype(np.float32), np.array([6, 4], np.int32)
    for direction, count in (("forward", 1), ("bidirectional", 2), ("reverse", 1)):
        floats = [
            RNG.standard_normal((count, n)).astype(np.float32) for n in (8 * hidden, batch * hidden, batch * hidden, 3 * hidden)
        ]
        states = [v.reshape(count, batch, hidden) for v in floats[1:3]]
        w, r = whole("int8", count, size, 4 * hidden) >> 1, whole("int8", count, hidden, 4 * hidden) >> 1
        for shape in ((count,), (count, 4 * hidden)):
            scales = [(RNG.random(shape) * 0.02 + 0.005).astype(np.float32) for _ in range(2)]
            zeros = [np.zeros(shape, np.int8)] * 2
            inputs = [x, w, r, floats[0], lengths, *states, floats[3], scales[0], zeros[0], scales[1], zeros[1]]
            model, feeds = net(
                "DynamicQuantizeLSTM", inputs, ("y", "h", "c"), domain="com.microsoft", hidden_size=hidden, direction=direction
            )
            for infos in model.graph.input[1:]:  # onnxruntime wants weights that do not change
                model.graph.initializer.append(numpy_helper.from_array(feeds[infos.name], infos.name))
            del model.graph.input[1:]
            feeds = {"i0": x}
            graph = onnx_io.load(model)
            with pre.no_grad():
                assert not disagreements(graph, feeds, graph.run(feeds))[0]  # the shapes that are inferred
            for a, b in zip(ours(model, feeds), theirs(model, feeds), strict=True):
                assert np.abs(a - b).max() < 8e-3
    for position, wrong, words in (
        (1, w[:, :2], "do not fit"),
        (5, x, "a state of shape"),
        (8, scales[0][:, :3], "a scale or zero point"),
    ):
        model, feeds = net("DynamicQuantizeLSTM", [wrong if k == position else v for k, v in enumerate(inputs)], domain="com.microsoft",
                           direction="reverse")  # fmt: skip
        with pytest.raises(pre.FileFormatError, match=words):
            ours(model, feeds)


def test_dynamically_quantised_products_scale_their_sums():
    """DynamicQuantizeLinear, MatMulInteger, Cast, Mul: one product of integers scaled as it is stored, with the bits of the nodes as written."""
    node = helper.make_node
    nodes = [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("MatMulInteger", ["q", "w", "z", "o"], ["i"]),
             node("Cast", ["i"], ["f"], to=1), node("Mul", ["s", "t"], ["u"]), node("Mul", ["f", "u"], ["y"])]  # fmt: skip
    known = {"w": whole("int8", 70, 9), "o": np.int8(0), "t": RNG.random(9).astype(np.float32)}
    x = RNG.standard_normal((2, 5, 70)).astype(np.float32)
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, x.shape)], [onnx.ValueInfoProto(name="y")],
                              [numpy_helper.from_array(np.asarray(v), k) for k, v in known.items()])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    plain_graph = onnx_io.load(model).eval()
    done = optimise(plain_graph)
    assert [n.op.split("::")[-1] for n in done.nodes] == ["onnx.DynamicQuantizeLinear", "MatMulIntegerToFloat"]
    with pre.no_grad():
        want = plain_graph.run({"x": x})["y"]
        for _ in range(3):
            assert np.array_equal(done.run({"x": x})["y"], want)
    assert done.why_no_program is None


@pytest.mark.parametrize("odd", ["a scale too many", "a zero point of another type", "no scale", "one factor"])
def test_what_does_not_fit_between_integers_stays_as_it_is_written(odd):
    """The rewriting leaves it alone, so that the run says what is wrong."""
    x, w = whole("uint8", 1, 3, 4, 5), whole("int8", 2, 3, 1, 1)
    model = between_integers("Conv", x, w, None, (np.float32(0.1), np.ones(2, np.float32), np.float32(1)))
    graph = model.graph
    if odd == "a scale too many":
        next(t for t in graph.initializer if t.name == "t").CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), "t"))
    elif odd == "a zero point of another type":
        next(t for t in graph.initializer if t.name == "o").CopyFrom(numpy_helper.from_array(np.int8(1), "o"))
    elif odd == "no scale":
        del graph.node[1].input[1:]
    else:
        del graph.node[2].input[1:]
    try:
        read = onnx_io.load(model).eval()
    except pre.PreimageError:
        return
    done = optimise(read)
    assert "onnx.QLinearConv" not in [n.op for n in done.nodes]
    with pre.no_grad(), pytest.raises(pre.PreimageError) if odd != "a zero point of another type" else nullcontext():
        done.run({"x": x})
