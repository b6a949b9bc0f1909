"""Every layer type on small nets: values against NumPy written here, gradients against central differences, in float64."""

import itertools
from typing import Any

import numpy as np
import pytest
from caffe_nets import build, conv_loops, deconv_loops, gradients, run

from preimage.errors import PreimageError
from preimage.io import caffe

RNG = np.random.default_rng(3)


def close(ours: Any, wanted: Any, tolerance: float = 1e-10) -> None:
    wanted = np.asarray(wanted)
    assert np.shape(ours) == wanted.shape
    np.testing.assert_allclose(ours, wanted, rtol=tolerance, atol=tolerance)


def check_gradients(graph: Any, inputs: list[Any], wanted: list[int], out: int = 0, tolerance: float = 2e-6) -> None:
    result = run(graph, *inputs)
    shape = np.shape(result[out] if isinstance(result, tuple) else result)
    found, measured = gradients(graph, inputs, RNG.standard_normal(shape), wanted, out)
    assert found
    for ours, slope in zip(found, measured, strict=True):
        np.testing.assert_allclose(ours, slope, rtol=tolerance, atol=tolerance)


CONVS = [
    ("num_output: 4 kernel_size: 3 stride: 2", (2, 3, 6, 4), ((3, 3), (2, 2), (0, 0), (1, 1), 1)),
    ("num_output: 4 kernel_size: 3 dilation: 2", (2, 3, 8, 7), ((3, 3), (1, 1), (0, 0), (2, 2), 1)),
    (
        "num_output: 6 kernel_size: 3 kernel_size: 2 pad: 1 pad: 2 stride: 1 stride: 3 group: 2",
        (2, 4, 5, 7),
        ((3, 2), (1, 3), (1, 2), (1, 1), 2),
    ),
    (
        "num_output: 3 kernel_h: 2 kernel_w: 3 pad_h: 1 pad_w: 0 stride_h: 2 stride_w: 1",
        (1, 2, 5, 6),
        ((2, 3), (2, 1), (1, 0), (1, 1), 1),
    ),
    ("num_output: 2 kernel_size: 3 stride: 2", (2, 3, 5, 6, 4), ((3, 3, 3), (2, 2, 2), (0, 0, 0), (1, 1, 1), 1)),
    ("num_output: 2 kernel_size: 4 pad: 5", (2, 3, 6), ((4,), (1,), (5,), (1,), 1)),
    ("num_output: 3 kernel_size: 1 bias_term: false", (2, 3, 3, 2), ((1, 1), (1, 1), (0, 0), (1, 1), 1)),
]


@pytest.mark.parametrize(("text", "shape", "window"), CONVS)
def test_convolution_and_deconvolution(text: str, shape: tuple[int, ...], window: Any) -> None:
    kernel, stride, pad, dilation, group = window
    x = RNG.standard_normal(shape)
    for kind, oracle in (("Convolution", conv_loops), ("Deconvolution", deconv_loops)):
        if kind == "Deconvolution" and any(
            s * (n - 1) + d * (k - 1) + 1 <= 2 * p for n, k, s, p, d in zip(shape[2:], kernel, stride, pad, dilation, strict=True)
        ):
            continue
        graph = build(f'type: "{kind}" convolution_param {{ {text} }}', shape)
        weight = graph.array("t.weight")
        bias = graph.array("t.bias") if "t.bias" in graph.weights else np.zeros(int(text.split()[1]))
        close(run(graph, x), oracle(x, weight, bias, stride, pad, dilation, group))
        check_gradients(graph, [x], [0])


def test_a_convolution_without_spatial_axes_is_an_inner_product_over_each_row() -> None:
    graph = build('type: "Convolution" convolution_param { num_output: 3 axis: 3 }', (2, 3, 6, 4))
    x = RNG.standard_normal((2, 3, 6, 4))
    close(run(graph, x), x @ graph.array("t.weight").T + graph.array("t.bias"))
    check_gradients(graph, [x], [0])


def test_all_axes_before_the_channel_axis_are_batch() -> None:
    graph = build('type: "Convolution" convolution_param { num_output: 4 kernel_size: 2 axis: 2 }', (2, 3, 2, 4, 5))
    x = RNG.standard_normal((2, 3, 2, 4, 5))
    wanted = conv_loops(x.reshape(6, 2, 4, 5), graph.array("t.weight"), graph.array("t.bias"), (1, 1), (0, 0), (1, 1), 1)
    close(run(graph, x), wanted.reshape(2, 3, 4, 3, 4))


def test_depthwise_convolutions_of_forks_have_a_group_for_each_channel() -> None:
    graph = build('type: "DepthwiseConvolution" convolution_param { num_output: 3 kernel_size: 2 }', (2, 3, 4, 5))
    x = RNG.standard_normal((2, 3, 4, 5))
    close(run(graph, x), conv_loops(x, graph.array("t.weight"), graph.array("t.bias"), (1, 1), (0, 0), (1, 1), 3))


def test_several_bottoms_share_the_weights_and_gradients_add_up() -> None:
    layer = 'type: "Convolution" convolution_param { num_output: 2 kernel_size: 2 }'
    graph = build(layer, (1, 2, 3, 3), (2, 2, 4, 3), tops=2)
    a, b = RNG.standard_normal((1, 2, 3, 3)), RNG.standard_normal((2, 2, 4, 3))
    w, bias = graph.array("t.weight"), graph.array("t.bias")
    first, second = run(graph, a, b)
    close(first, conv_loops(a, w, bias, (1, 1), (0, 0), (1, 1), 1))
    close(second, conv_loops(b, w, bias, (1, 1), (0, 0), (1, 1), 1))


def test_the_deconvolution_of_caffes_own_test() -> None:
    """Weights 1, input 1, bias 0.1: 3.1 where one tap lands, +3 per overlap in one axis, +9 in both."""
    graph = build('type: "Deconvolution" convolution_param { num_output: 4 kernel_size: 3 stride: 2 }', (2, 3, 6, 4))
    graph.put("t.weight", np.ones((3, 4, 3, 3)))
    graph.put("t.bias", np.full(4, 0.1))
    y = run(graph, np.ones((2, 3, 6, 4)))
    assert y.shape == (2, 4, 13, 9)
    overlap = [np.array([1 + (k % 2 == 0 and 0 < k < n - 1) for k in range(n)]) for n in (13, 9)]
    close(y, np.broadcast_to(3 * np.outer(*overlap) + 0.1, y.shape))


def test_sobel_in_one_step_and_in_two() -> None:
    x = RNG.standard_normal((2, 1, 6, 4))
    whole = build(
        'type: "Convolution" convolution_param { num_output: 1 kernel_size: 3 stride: 2 bias_term: false }', (2, 1, 6, 4)
    )
    whole.put("t.weight", np.outer([1.0, 2, 1], [-1, 0, 1])[None, None])
    down = build(
        'type: "Convolution" convolution_param { num_output: 1 kernel_h: 3 kernel_w: 1 stride_h: 2 stride_w: 1 bias_term: false }',
        (2, 1, 6, 4),
    )
    down.put("t.weight", np.array([1.0, 2, 1]).reshape(1, 1, 3, 1))
    across = build(
        'type: "Convolution" convolution_param { num_output: 1 kernel_h: 1 kernel_w: 3 stride_h: 1 stride_w: 2 bias_term: false }',
        (2, 1, 2, 4),
    )
    across.put("t.weight", np.array([-1.0, 0, 1]).reshape(1, 1, 1, 3))
    close(run(whole, x), run(across, run(down, x)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kernel_size: 3", "num_output must be at least 1"),
        ("num_output: 3", "kernel_size is missing"),
        ("num_output: 3 kernel_size: 0", "at least 1 is needed"),
        ("num_output: 3 kernel_size: 2 stride: 0", "at least 1 is needed"),
        ("num_output: 3 kernel_size: 2 group: 2", "group 2 must divide"),
        ("num_output: 3 kernel_size: 2 kernel_h: 2", "give either kernel_size or"),
        ("num_output: 3 kernel_size: 2 kernel_size: 2 kernel_size: 2", "3 numbers for 2 spatial axes"),
        ("num_output: 3 kernel_size: 9", "does not fit into"),
        ("num_output: 3 kernel_size: 2 axis: 7", "axis 7 does not exist"),
        ("num_output: 4294967295 kernel_size: 2", "4294967295 is no size"),
        ("num_output: 999999999 kernel_size: 2", "more than 2147483647 elements"),
    ],
)
def test_impossible_convolutions_name_the_layer(text: str, problem: str) -> None:
    with pytest.raises(PreimageError, match=problem) as caught:
        build(f'type: "Convolution" convolution_param {{ {text} }}', (1, 3, 5, 5))
    assert "layer 't' (Convolution)" in str(caught.value)


def test_im2col_orders_channels_then_taps() -> None:
    graph = build('type: "Im2col" convolution_param { kernel_h: 3 kernel_w: 2 stride: 2 dilation: 1 pad: 1 }', (2, 3, 6, 5))
    x = RNG.standard_normal((2, 3, 6, 5))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    wanted = np.zeros((2, 18, 3, 3))
    for c, i, j in itertools.product(range(3), range(3), range(2)):
        wanted[:, c * 6 + i * 2 + j] = padded[:, c, i : i + 5 : 2, j : j + 5 : 2]
    close(run(graph, x), wanted)
    check_gradients(graph, [x], [0])


@pytest.mark.parametrize(
    ("text", "axis"), [("num_output: 4", 1), ("num_output: 4 axis: 2", 2), ("num_output: 4 transpose: true bias_term: false", 1)]
)
def test_inner_product(text: str, axis: int) -> None:
    graph = build(f'type: "InnerProduct" inner_product_param {{ {text} }}', (2, 3, 4, 2))
    x = RNG.standard_normal((2, 3, 4, 2))
    w = graph.array("t.weight")
    w = w if "transpose" in text else w.T
    bias = graph.array("t.bias") if "t.bias" in graph.weights else 0
    close(run(graph, x), x.reshape(*x.shape[:axis], -1) @ w + bias)
    check_gradients(graph, [x], [0])


def test_embed() -> None:
    graph = build('type: "Embed" embed_param { num_output: 3 input_dim: 5 }', (2, 2))
    index = np.array([[1, 4], [4, 0]])
    close(run(graph, index), graph.array("t.weight")[index] + graph.array("t.bias"))
    check_gradients(graph, [index], [])
    with pytest.raises(PreimageError, match=r"label 5 is outside 0 \.\. 4"):
        run(graph, [[5, 0], [0, 0]])


def pool_loops(x: Any, kernel: int, stride: int, pad: int, sizes: tuple[int, int], mean: bool) -> Any:
    y = np.zeros((*x.shape[:2], *sizes))
    h, w = x.shape[2:]
    for i, j in np.ndindex(*sizes):
        top, left = i * stride - pad, j * stride - pad
        bottom, right = min(top + kernel, h + pad), min(left + kernel, w + pad)
        count = (bottom - top) * (right - left)
        part = x[:, :, max(top, 0) : min(bottom, h), max(left, 0) : min(right, w)]
        y[:, :, i, j] = part.sum((2, 3)) / count if mean else part.max((2, 3))
    return y


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "rounding", "out"),
    [((6, 5), 3, 2, 0, "CEIL", (3, 2)), ((6, 5), 3, 2, 1, "CEIL", (4, 3)), ((6, 5), 3, 2, 0, "FLOOR", (2, 2)),
     ((7, 8), 2, 2, 0, "CEIL", (4, 4)), ((5, 5), 3, 3, 2, "CEIL", (3, 3)), ((3, 3), 3, 2, 2, "CEIL", (3, 3))],
)  # fmt: skip
@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_pooling_rounds_as_caffe(size: Any, kernel: int, stride: int, pad: int, rounding: str, out: Any, method: str) -> None:
    text = f"pool: {method} kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: {rounding}"
    graph = build(f'type: "Pooling" pooling_param {{ {text} }}', (2, 3, *size))
    assert graph.assembly.shapes["y"] == (2, 3, *out)
    x = RNG.standard_normal((2, 3, *size))
    close(run(graph, x), pool_loops(x, kernel, stride, pad, out, method == "AVE"))
    check_gradients(graph, [x], [0])


def test_pooling_cases_of_caffes_own_test() -> None:
    graph = build('type: "Pooling" pooling_param { kernel_size: 3 stride: 2 pad: 2 }', (1, 1, 3, 3))
    close(run(graph, [[[[1, 2, 4], [2, 3, 2], [4, 2, 1]]]]), [[[[1, 4, 4], [4, 4, 4], [4, 4, 1]]]])
    graph = build('type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 1 pad: 1 }', (1, 1, 3, 3))
    row = [8 / 9, 4 / 3, 8 / 9]
    close(run(graph, np.full((1, 1, 3, 3), 2.0)), [[[row, [4 / 3, 2, 4 / 3], row]]])


def test_global_pooling_and_the_mask() -> None:
    x = RNG.standard_normal((2, 3, 4, 5))
    for method, reduce in (("MAX", np.max), ("AVE", np.mean)):
        graph = build(f'type: "Pooling" pooling_param {{ pool: {method} global_pooling: true }}', x.shape)
        close(run(graph, x), reduce(x, axis=(2, 3), keepdims=True))
    graph = build('type: "Pooling" pooling_param { kernel_size: 2 stride: 2 }', x.shape, tops=2)
    pooled, mask = run(graph, x)
    close(np.take_along_axis(x.reshape(2, 3, -1), mask.reshape(2, 3, -1).astype(int), 2), pooled.reshape(2, 3, -1))


@pytest.mark.parametrize(
    "text",
    [
        "kernel_size: 2 pad: 2",
        "kernel_size: 9",
        "kernel_size: 2 stride: 0",
        "",
        "kernel_size: 1 stride: 3",
        "pool: STOCHASTIC kernel_size: 2",
    ],
)
def test_impossible_poolings(text: str) -> None:
    with pytest.raises(PreimageError, match=r"layer 't' \(Pooling\)"):
        build(f'type: "Pooling" pooling_param {{ {text} }}', (1, 1, 5, 5))


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_lrn_across_channels(size: int) -> None:
    graph = build(f'type: "LRN" lrn_param {{ local_size: {size} alpha: 0.7 beta: 0.6 k: 1.5 }}', (2, 4, 2, 3))
    x = RNG.standard_normal((2, 4, 2, 3))
    wanted = np.empty_like(x)
    for c in range(4):
        alpha, beta = float(np.float32(0.7)), float(np.float32(0.6))
        near = x[:, max(c - size // 2, 0) : c + size // 2 + 1]
        wanted[:, c] = x[:, c] / (1.5 + alpha / size * (near**2).sum(1)) ** beta
    close(run(graph, x), wanted)
    check_gradients(graph, [x], [0])


def test_lrn_within_a_channel() -> None:
    graph = build('type: "LRN" lrn_param { local_size: 3 alpha: 2 beta: 0.75 norm_region: WITHIN_CHANNEL }', (2, 2, 4, 5))
    x = RNG.standard_normal((2, 2, 4, 5))
    mean = pool_loops(x**2, 3, 1, 1, (4, 5), True)
    close(run(graph, x), x * (1 + 2 * mean) ** -0.75)
    check_gradients(graph, [x], [0])


SIGMOID = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731 - one line a function below
POINTWISE = {
    'type: "ReLU"': lambda x: np.maximum(x, 0),
    'type: "ReLU" relu_param { negative_slope: 0.125 }': lambda x: np.where(x > 0, x, x / 8),
    'type: "ELU" elu_param { alpha: 0.5 }': lambda x: np.where(x > 0, x, 0.5 * (np.exp(x) - 1)),
    'type: "Sigmoid"': SIGMOID,
    'type: "TanH"': np.tanh,
    'type: "AbsVal"': np.abs,
    'type: "BNLL"': lambda x: np.log1p(np.exp(x)),
    'type: "Swish" swish_param { beta: 0.5 }': lambda x: x * SIGMOID(x / 2),
    'type: "Clip" clip_param { min: -0.5 max: 0.25 }': lambda x: np.clip(x, -0.5, 0.25),
    'type: "Power" power_param { power: 3 scale: 0.5 shift: -2 }': lambda x: (x / 2 - 2) ** 3,
    'type: "Power" power_param { scale: 2 shift: 1 }': lambda x: 2 * x + 1,
    'type: "Power" power_param { power: 2 scale: 0 shift: 3 }': lambda x: np.full_like(x, 9.0),
    'type: "Exp"': np.exp,
    'type: "Exp" exp_param { base: 2 scale: 0.5 shift: 1 }': lambda x: 2 ** (1 + x / 2),
    'type: "Log" log_param { base: 10 scale: 0.5 shift: 4 }': lambda x: np.log10(4 + x / 2),
    'type: "Log" log_param { shift: 5 }': lambda x: np.log(5 + x),
    'type: "Dropout"': lambda x: x,
    'type: "Split"': lambda x: x,
    'type: "MVN"': lambda x: (x - x.mean((2, 3), keepdims=True)) / (x.std((2, 3), keepdims=True) + 1e-9),
    'type: "MVN" mvn_param { across_channels: true eps: 0.5 }': lambda x: (
        (x - x.mean((1, 2, 3), keepdims=True)) / (x.std((1, 2, 3), keepdims=True) + 0.5)
    ),
    'type: "MVN" mvn_param { normalize_variance: false }': lambda x: x - x.mean((2, 3), keepdims=True),
    'type: "Softmax"': lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True),
    'type: "Softmax" softmax_param { axis: -1 }': lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
}  # fmt: skip


@pytest.mark.parametrize("layer", POINTWISE)
def test_pointwise_layers(layer: str) -> None:
    x = RNG.standard_normal((2, 3, 2, 4))
    graph = build(layer, x.shape)
    close(run(graph, x), POINTWISE[layer](x), 1e-7)
    check_gradients(graph, [x], [0])


def test_threshold_has_no_gradient() -> None:
    graph = build('type: "Threshold" threshold_param { threshold: 0.25 }', (2, 5))
    x = RNG.standard_normal((2, 5))
    close(run(graph, x), (x > 0.25).astype(float))


@pytest.mark.parametrize("shared", ["true", "false"])
def test_prelu(shared: str) -> None:
    graph = build(f'type: "PReLU" prelu_param {{ channel_shared: {shared} }}', (2, 3, 2, 4))
    x = RNG.standard_normal((2, 3, 2, 4))
    slope = graph.array("t.slope").reshape(1, -1, 1, 1)
    close(run(graph, x), np.where(x > 0, x, slope * x))
    check_gradients(graph, [x], [0])
    text = 'layer { name: "i" type: "Input" top: "a" input_param { shape { dim: 1 dim: 2 } } }'
    text += 'layer { name: "t" type: "PReLU" bottom: "a" top: "a" }'
    fresh = caffe.load(caffe.parse_text("NetParameter", text))
    close(fresh.array("t.slope"), [0.25, 0.25])


@pytest.mark.parametrize(
    ("operation", "wanted"),
    [("PROD", lambda a, b, c: a * b * c), ("MAX", lambda a, b, c: np.maximum(np.maximum(a, b), c)), ("SUM", lambda a, b, c: a + b + c),
     ("SUM coeff: 1 coeff: -0.5 coeff: 2", lambda a, b, c: a - b / 2 + 2 * c)],
)  # fmt: skip
def test_eltwise(operation: str, wanted: Any) -> None:
    graph = build(f'type: "Eltwise" eltwise_param {{ operation: {operation} }}', *[(2, 3, 4)] * 3)
    inputs = [RNG.standard_normal((2, 3, 4)) for _ in range(3)]
    close(run(graph, *inputs), wanted(*inputs))
    check_gradients(graph, inputs, [0, 1, 2])


def test_batch_norm_with_stored_statistics() -> None:
    graph = build('type: "BatchNorm" batch_norm_param { eps: 0.01 }', (2, 3, 2, 4))
    x = RNG.standard_normal((2, 3, 2, 4))
    mean, variance, factor = (graph.array(f"t.{name}") for name in ("mean", "variance", "factor"))
    by = (1 / factor).astype(np.float32)
    channels = (1, 3, 1, 1)
    close(
        run(graph, x), (x - (mean * by).reshape(channels)) / np.sqrt((variance * by).reshape(channels) + np.float32(0.01)), 1e-6
    )
    check_gradients(graph, [x], [0])
    graph.put("t.factor", np.zeros(1))
    close(run(graph, x), x / np.sqrt(np.float32(0.01)), 1e-6)


def test_batch_norm_in_training_uses_the_batch_and_moves_the_sums() -> None:
    graph = build('type: "BatchNorm" batch_norm_param { eps: 0.01 moving_average_fraction: 0.9 }', (4, 3, 2, 5), phase="TRAIN")
    x = RNG.standard_normal((4, 3, 2, 5))
    before = {name: graph.array(name).copy() for name in graph.state}
    y = run(graph, x)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    close(y, (x - mean.reshape(1, 3, 1, 1)) / np.sqrt(variance + np.float32(0.01)).reshape(1, 3, 1, 1), 1e-6)
    close(graph.array("t.mean"), before["t.mean"] * 0.9 + mean, 1e-5)
    close(graph.array("t.variance"), before["t.variance"] * 0.9 + variance * 40 / 39, 1e-5)
    close(graph.array("t.factor"), before["t.factor"] * 0.9 + 1, 1e-5)
    check_gradients(graph, [x], [0])


@pytest.mark.parametrize(
    ("text", "axes"),
    [("", (1, 3, 1, 1)), ("axis: 0 num_axes: 2", (2, 3, 1, 1)), ("axis: 2 num_axes: -1", (1, 1, 2, 4)), ("num_axes: 0", ())],
)
def test_scale_and_bias_with_blobs(text: str, axes: tuple[int, ...]) -> None:
    x = RNG.standard_normal((2, 3, 2, 4))
    graph = build(f'type: "Scale" scale_param {{ {text} bias_term: true }}', x.shape)
    close(run(graph, x), x * graph.array("t.weight").reshape(axes) + graph.array("t.bias").reshape(axes))
    check_gradients(graph, [x], [0])
    graph = build(f'type: "Bias" bias_param {{ {text} }}', x.shape)
    close(run(graph, x), x + graph.array("t.bias").reshape(axes))
    check_gradients(graph, [x], [0])


def test_scale_and_bias_by_a_second_bottom() -> None:
    x, by = RNG.standard_normal((2, 3, 4)), RNG.standard_normal((3,))
    graph = build('type: "Scale" scale_param { axis: 1 }', x.shape, by.shape)
    close(run(graph, x, by), x * by[:, None])
    check_gradients(graph, [x, by], [0, 1])
    graph = build('type: "Bias" bias_param { axis: 1 }', x.shape, by.shape)
    close(run(graph, x, by), x + by[:, None])
    with pytest.raises(PreimageError, match="the second bottom has shape"):
        build('type: "Scale" scale_param { axis: 0 }', x.shape, by.shape)


@pytest.mark.parametrize("spatial", ["true", "false"])
@pytest.mark.parametrize("shared", ["true", "false"])
def test_normalize(spatial: str, shared: str) -> None:
    graph = build(f'type: "Normalize" norm_param {{ across_spatial: {spatial} channel_shared: {shared} }}', (2, 3, 2, 4))
    x = RNG.standard_normal((2, 3, 2, 4))
    axes = (1, 2, 3) if spatial == "true" else (1,)
    scale = graph.array("t.scale").reshape(1, -1, 1, 1)
    close(run(graph, x), x / np.sqrt((x**2).sum(axes, keepdims=True) + 1e-10) * scale, 1e-8)
    check_gradients(graph, [x], [0])


def test_dropout_in_training_keeps_the_mean() -> None:
    graph = build('type: "Dropout" dropout_param { dropout_ratio: 0.25 }', (100, 100), phase="TRAIN")
    y = run(graph, np.ones((100, 100)))
    assert set(np.unique(y.round(6))) == {0.0, 1.333333}
    assert abs(y.mean() - 1) < 0.03
