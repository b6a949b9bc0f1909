"""Rows of layers that work element by element or normalise: activations, arithmetic, BatchNorm, Scale, Bias, MVN, Softmax, Normalize.

Source: BVLC/caffe, the layer code of the same names; Normalize: weiliu89/caffe, branch ssd. Read as facts.
"""

from __future__ import annotations

from math import log, prod
from typing import Any

from preimage.io.caffe.assemble import Context, layer_type
from preimage.io.caffe.wire.message import Message
from preimage.io.protobuf import float32

__all__: list[str] = []


def _unary(context: Context, op: str, **attributes: Any) -> None:
    context.need(1)
    context.emit(op, **attributes)
    context.same()


@layer_type("ReLU")
def _relu(context: Context) -> None:
    slope = context.layer.relu_param.negative_slope
    if slope:
        _unary(context, "leaky_relu", slope=slope)
    else:
        _unary(context, "relu")


@layer_type("PReLU")
def _prelu(context: Context) -> None:
    context.need(1)
    parameter, size = context.layer.prelu_param, context.shapes[0]
    if len(size) < 2:
        context.fail(f"needs at least 2 axes, got {size}")
    shape = () if parameter.channel_shared else (size[1],)
    slope = context.blob("slope", shape, parameter.filler, value=0.25)
    context.emit("prelu", [context.bottoms[0], slope])
    context.same()


@layer_type("ELU")
def _elu(context: Context) -> None:
    _unary(context, "elu", alpha=context.layer.elu_param.alpha)


@layer_type("Sigmoid")
def _sigmoid(context: Context) -> None:
    _unary(context, "sigmoid")


@layer_type("TanH")
def _tanh(context: Context) -> None:
    _unary(context, "tanh")


@layer_type("AbsVal")
def _absval(context: Context) -> None:
    _unary(context, "abs")


@layer_type("BNLL")
def _bnll(context: Context) -> None:
    """log(1 + exp(x))."""
    _unary(context, "softplus")


@layer_type("Swish")
def _swish(context: Context) -> None:
    _unary(context, "swish", beta=context.layer.swish_param.beta)


@layer_type("Clip")
def _clip(context: Context) -> None:
    parameter = context.layer.clip_param
    _unary(context, "clip", lo=parameter.min, hi=parameter.max)


@layer_type("Threshold")
def _threshold(context: Context) -> None:
    """1 where x > threshold, else 0; no gradient."""
    _unary(context, "threshold", threshold=context.layer.threshold_param.threshold)


@layer_type("Power")
def _power(context: Context) -> None:
    """(shift + scale x)^power."""
    parameter = context.layer.power_param
    _unary(context, "power", power=parameter.power, scale=parameter.scale, shift=parameter.shift)


def _base(context: Context, parameter: Message) -> float:
    """The logarithm of `base`; -1 stands for e."""
    if parameter.base == -1:
        return 1.0
    if not parameter.base > 0 or log(parameter.base) == 0 or parameter.base == float("inf"):
        context.fail(f"base {parameter.base} must be positive, finite and not 1 (or -1 for e)")
    return log(parameter.base)


@layer_type("Exp")
def _exp(context: Context) -> None:
    """base^(shift + scale x)."""
    parameter = context.layer.exp_param
    base = _base(context, parameter)
    _unary(context, "exp_linear", scale=base * parameter.scale, shift=base * parameter.shift)


@layer_type("Log")
def _log(context: Context) -> None:
    """log_base(shift + scale x)."""
    parameter = context.layer.log_param
    _unary(context, "log_linear", scale=parameter.scale, shift=parameter.shift, factor=1 / _base(context, parameter))


@layer_type("Dropout")
def _dropout(context: Context) -> None:
    """In training, elements kept with probability 1 - ratio and scaled up; in testing, the identity.

    scale_train false (forks): they are scaled down in testing instead. sample_weights_test (SegNet): elements are dropped in testing, too.
    """
    parameter = context.layer.dropout_param
    ratio = parameter.dropout_ratio
    if not 0 <= ratio < 1:
        context.fail(f"dropout_ratio {ratio} must be in [0, 1)")
    op = "dropout_sampled" if parameter.sample_weights_test else "dropout"
    if parameter.scale_train:
        _unary(context, op, ratio=ratio, rng=context.assembly.rng)
        return
    context.need(1)
    kept = context.emit(op, outputs=[context.inner("kept")], ratio=ratio, rng=context.assembly.rng, shape=context.shapes[0])
    context.emit("weighted_sum", [kept], coefficients=(float32(1 - ratio),))
    context.same()


@layer_type("Split")
def _split(context: Context) -> None:
    context.need(1, range(1, 1025))
    for index, top in enumerate(context.tops):
        context.emit("identity", outputs=[top])
        context.top(context.shapes[0], index)


@layer_type("Silence")
def _silence(context: Context) -> None:
    """Takes its bottoms and gives nothing."""
    context.need(range(1, 1025), 0)


@layer_type("Eltwise")
def _eltwise(context: Context) -> None:
    """Product, weighted sum or maximum of blobs of one shape."""
    context.need(range(1, 1025))
    parameter = context.layer.eltwise_param
    if len(context.bottoms) < 2:
        context.fail("needs at least 2 bottoms")
    for index, shape in enumerate(context.shapes):
        if shape != context.shapes[0]:
            context.fail(f"bottom {index} has shape {shape}, the first has {context.shapes[0]}")
    operation, coeff = parameter.word("operation"), [float(value) for value in parameter.coeff]
    if coeff and len(coeff) != len(context.bottoms):
        context.fail(f"has {len(coeff)} coeff for {len(context.bottoms)} bottoms")
    if coeff and operation == "PROD":
        context.fail("coeff belongs to SUM")
    context.same()
    if operation == "SUM" and any(value != 1 for value in coeff):
        context.emit("weighted_sum", coefficients=tuple(coeff))
        return
    op = {"PROD": "mul", "SUM": "add", "MAX": "maximum"}.get(operation)
    if op is None:
        context.fail(f"unknown operation {operation}")
    left = context.bottoms[0]
    for index, right in enumerate(context.bottoms[1:]):
        final = index == len(context.bottoms) - 2
        target = context.tops[0] if final else context.inner(f"partial{index}")
        left = context.emit(op, [left, right], [target], shape=context.shapes[0])


@layer_type("BatchNorm")
def _batch_norm(context: Context) -> None:
    """(x - mean) / sqrt(variance + eps). Blobs: sums of mean and variance, and the factor that they are divided by."""
    context.need(1)
    parameter, size = context.layer.batch_norm_param, context.shapes[0]
    if not size:
        context.fail("needs at least one axis")
    channels = size[1] if len(size) > 1 else 1
    blobs = [
        context.blob(label, shape, trained=False)
        for label, shape in (("mean", (channels,)), ("variance", (channels,)), ("factor", (1,)))
    ]
    use_stored = parameter.use_global_stats if parameter.has("use_global_stats") else not context.train
    context.same()
    context.flop = 4 * prod(size)
    if use_stored:
        mean, variance = context.inner("mean"), context.inner("variance")
        context.assembly.shapes |= {mean: (channels,), variance: (channels,)}
        context.emit("stored_statistics", blobs, [mean, variance])
        context.emit("batch_norm", [context.bottoms[0], "", "", mean, variance], eps=parameter.eps)
        return
    updated = [context.inner(label) for label in ("new mean", "new variance", "new factor")]
    context.assembly.shapes |= dict(zip(updated, ((channels,), (channels,), (1,)), strict=True))
    context.emit(
        "batch_norm_train",
        [context.bottoms[0], *blobs],
        [context.tops[0], *updated],
        eps=parameter.eps,
        fraction=parameter.moving_average_fraction,
    )
    context.assembly.updates |= dict(zip(blobs, updated, strict=True))


def _operand(context: Context, parameter: Message, label: str, value: float, filler: Message) -> tuple[str, int, int]:
    """The second factor or summand of Scale and Bias: a bottom or a blob, its first axis and how many axes it spans."""
    context.need(range(1, 3))
    size = context.shapes[0]
    if len(context.bottoms) == 2:
        shape = context.shapes[1]
        axis = context.axis(parameter.axis, len(size)) if shape else 0
        if tuple(size[axis : axis + len(shape)]) != shape:
            context.fail(f"the second bottom has shape {shape}, which is not {size} from axis {axis} on")
        return context.bottoms[1], axis, len(shape)
    axis, count = context.axis(parameter.axis, len(size)), parameter.num_axes
    if count < -1 or axis + count > len(size):
        context.fail(f"num_axes {count} from axis {axis} on does not exist in {size}")
    count = len(size) - axis if count == -1 else count
    return context.blob(label, tuple(size[axis : axis + count]), filler, value=value), axis, count


def _aligned(context: Context, value: str, label: str, axis: int, count: int) -> str:
    """The operand with axes of size 1 added behind it, so that it broadcasts against the bottom."""
    size = context.shapes[0]
    behind = len(size) - axis - count
    if not behind:
        return value
    shape = (*size[axis : axis + count], *(1,) * behind)
    spelt = (*(0,) * count, *(1,) * behind)
    return context.emit("reshape", [value], [context.inner(label)], target=spelt, shape=shape)


@layer_type("Scale")
def _scale(context: Context) -> None:
    """x times a blob (or the second bottom) that spans some axes, plus a bias of the same shape."""
    parameter = context.layer.scale_param
    factor, axis, count = _operand(context, parameter, "weight", 1.0, parameter.filler)
    aligned = _aligned(context, factor, "factor", axis, count)
    if not parameter.bias_term:
        context.emit("mul", [context.bottoms[0], aligned])
        context.same()
        return
    size = context.shapes[0]
    bias = context.blob("bias", tuple(size[axis : axis + count]), parameter.bias_filler)
    product = context.emit("mul", [context.bottoms[0], aligned], [context.inner("product")], shape=size)
    context.emit("add", [product, _aligned(context, bias, "offset", axis, count)])
    context.same()
    context.flop = 2 * prod(size)


@layer_type("Bias")
def _bias(context: Context) -> None:
    """x plus a blob (or the second bottom) that spans some axes."""
    parameter = context.layer.bias_param
    value, axis, count = _operand(context, parameter, "bias", 0.0, parameter.filler)
    context.emit("add", [context.bottoms[0], _aligned(context, value, "offset", axis, count)])
    context.same()


@layer_type("MVN")
def _mvn(context: Context) -> None:
    """Minus the mean, over the standard deviation + eps, per image or per channel of an image."""
    parameter = context.layer.mvn_param
    _unary(
        context,
        "mvn",
        across_channels=bool(parameter.across_channels),
        variance=bool(parameter.normalize_variance),
        eps=parameter.eps,
    )


@layer_type("Softmax")
def _softmax(context: Context) -> None:
    axis = context.axis(context.layer.softmax_param.axis, len(context.shapes[0])) if context.shapes else 0
    _unary(context, "softmax", axis=axis)


@layer_type("Normalize")
def _normalize(context: Context) -> None:
    """x over its L2 norm (per pixel across channels, or per image), times a learned scale: SSD's layer."""
    context.need(1)
    parameter, size = context.layer.norm_param, context.shapes[0]
    if not 2 <= len(size) <= 4:
        context.fail(f"needs 2 to 4 axes, got {size}")
    shape = () if parameter.channel_shared else (size[1],)
    scale = context.blob("scale", shape, parameter.scale_filler, value=1.0)
    context.emit("l2_normalize", [context.bottoms[0], scale], across_spatial=bool(parameter.across_spatial), eps=parameter.eps)
    context.same()
