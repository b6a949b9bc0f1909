"""Rows of layers that forks of Caffe added: Upsample, BN, Interp, Reorg, ShuffleChannel, CropCenter, Axpy, ReLU6, ROIPooling, PSROIPooling.

Source, read as facts: alexgkendall/caffe-segnet (Upsample by a mask, BN), hszhao/PSPNet (BN, Interp), eric612/MobileNet-YOLO (Upsample by
repeating, Reorg, ReLU6), hujie-frank/SENet (Axpy), farmingyard/ShuffleNet, lltcggie/caffe (CropCenter); R. Girshick, "Fast R-CNN" (2015);
J. Dai et al., "R-FCN" (2016).
"""

from __future__ import annotations

from math import prod

from preimage.io.caffe.assemble import Context, layer_type
from preimage.io.caffe.wire.message import Message

__all__: list[str] = []


def _four(context: Context, index: int = 0) -> tuple[int, int, int, int]:
    size = context.shapes[index]
    if len(size) != 4:
        context.fail(f"needs 4 axes, bottom {index} has {size}")
    return size[0], size[1], size[2], size[3]


@layer_type("ReLU6")
def _relu6(context: Context) -> None:
    """min(max(x, 0) + slope min(x, 0), 6)."""
    context.need(1)
    slope, size = context.layer.relu6_param.negative_slope, context.shapes[0]
    if slope:
        rising = context.emit("leaky_relu", outputs=[context.inner("leaky")], slope=slope, shape=size)
        context.emit("clip", [rising], hi=6.0)
    else:
        context.emit("clip", lo=0.0, hi=6.0)
    context.same()


@layer_type("Axpy")
def _axpy(context: Context) -> None:
    """a x + y, with one a for each channel of an image: bottoms a (N, C) or (N, C, 1, 1), x and y."""
    context.need(3)
    scale, x, y = context.shapes
    if x != y or len(x) < 2 or scale[:2] != x[:2] or prod(scale[2:]) != 1 or len(scale) > len(x):
        context.fail(f"needs (N, C) or (N, C, 1, 1) and two blobs of one shape, got {scale}, {x} and {y}")
    factor = context.bottoms[0]
    if len(scale) < len(x):
        spread = (*x[:2], *(1,) * (len(x) - 2))
        target = (0, 0, *(1,) * (len(x) - 2))
        factor = context.emit("reshape", [factor], [context.inner("factor")], target=target, shape=spread)
    product = context.emit("mul", [factor, context.bottoms[1]], [context.inner("product")], shape=x)
    context.emit("add", [product, context.bottoms[2]])
    context.top(x)
    context.flop = 2 * prod(x)


@layer_type("ShuffleChannel")
def _shuffle_channel(context: Context) -> None:
    """Channels in `group` rows, read by columns."""
    context.need(1)
    group, size = context.layer.shuffle_channel_param.group, context.shapes[0]
    if len(size) < 2 or group < 1 or size[1] % group:
        context.fail(f"group {group} must divide the channels of {size}")
    context.emit("channel_shuffle", groups=group)
    context.same()


@layer_type("CropCenter")
def _crop_center(context: Context) -> None:
    """crop_size elements cut from both ends of each axis."""
    context.need(1)
    size, cut = context.shapes[0], [int(n) for n in context.layer.crop_center_param.crop_size]
    if len(cut) != len(size):
        context.fail(f"has {len(cut)} numbers in crop_size for {len(size)} axes")
    if any(2 * c + 1 > n for c, n in zip(cut, size, strict=True)):
        context.fail(f"crop_size {cut} leaves nothing of {size}")
    result = tuple(n - 2 * c for c, n in zip(cut, size, strict=True))
    context.emit("crop_center", crop=tuple(cut))
    context.top(result)


@layer_type("Reorg")
def _reorg(context: Context) -> None:
    """YOLO's passage from space to channels, in the order of its first program; `reverse` from channels to space."""
    context.need(1)
    parameter, (batch, channels, height, width) = context.layer.reorg_param, _four(context)
    stride, reverse = parameter.stride, bool(parameter.reverse)
    if not 1 <= stride <= 1 << 15:
        context.fail(f"stride {stride} must be at least 1, and not huge")
    if channels % stride**2 or (not reverse and (height % stride or width % stride)):
        context.fail(
            f"stride {stride} does not divide {context.shapes[0]}: stride^2 must divide the channels, stride height and width"
        )
    context.emit("reorg", stride=stride, reverse=reverse)
    if reverse:
        context.top((batch, channels // stride**2, height * stride, width * stride))
    else:
        context.top((batch, channels * stride**2, height // stride, width // stride))


@layer_type("Upsample")
def _upsample(context: Context) -> None:
    """With a mask (MAX pooling's second top): every value put where its maximum was. Without: every pixel `scale` times in both axes."""
    context.need(range(1, 3))
    parameter, (batch, channels, height, width) = context.layer.upsample_param, _four(context)
    if len(context.bottoms) == 1:
        scale = parameter.scale if parameter.has("scale") else 1
        if not 1 <= scale <= 1 << 20:
            context.fail(f"scale {scale} must be at least 1, and not huge")
        context.emit("upsample", scale_factor=(scale, scale), mode="nearest")
        context.top((batch, channels, height * scale, width * scale))
        return
    if context.shapes[1] != context.shapes[0]:
        context.fail(f"the mask has shape {context.shapes[1]}, the values have {context.shapes[0]}")
    result = _unpooled(context, parameter, height, width)
    if min(result) < 1 or (min(height, width) and prod(result) < 1):
        context.fail(f"gives the size {result}")
    if parameter.has("upsample_h") and parameter.has("upsample_w"):
        context.emit("unpool_mask", size=result)
    else:
        scale, less = _factors(parameter)
        context.emit("unpool_mask", size=None, scale=scale, less=less)
    context.top((batch, channels, *result))


def _unpooled(context: Context, parameter: Message, height: int, width: int) -> tuple[int, int]:
    """The size that an Upsample layer with a mask gives: as said, or the sizes times scale, less one with pad_out."""
    if parameter.has("upsample_h") and parameter.has("upsample_w"):
        return parameter.upsample_h, parameter.upsample_w
    if parameter.has("scale_h") != parameter.has("scale_w") or (parameter.has("scale") and parameter.has("scale_h")):
        context.fail("give upsample_h and upsample_w, or scale, or scale_h and scale_w")
    (tall, wide), (less_h, less_w) = _factors(parameter)
    if min(tall, wide) < 2 or (less_h and tall != 2) or (less_w and wide != 2):
        context.fail(f"scales ({tall}, {wide}) must be at least 2, and 2 where pad_out is set")
    return height * tall - less_h, width * wide - less_w


def _factors(parameter: Message) -> tuple[tuple[int, int], tuple[int, int]]:
    """By how much both sizes grow, and how much less they are than that."""
    scale = (parameter.scale_h, parameter.scale_w) if parameter.has("scale_h") else (parameter.scale, parameter.scale)
    return scale, (int(parameter.pad_out_h), int(parameter.pad_out_w))


@layer_type("Interp")
def _interp(context: Context) -> None:
    """Bilinear resizing that maps the corner pixels on each other, after cutting -pad_beg and -pad_end off both axes."""
    context.need(1)
    parameter, (batch, channels, height, width) = context.layer.interp_param, _four(context)
    begin, end = parameter.pad_beg, parameter.pad_end
    if begin > 0 or end > 0 or min(height, width) + begin + end < 1:
        context.fail(f"pad_beg {begin} and pad_end {end} must not be positive, and leave something of {height} x {width}")
    zoom = parameter.zoom_factor if parameter.has("zoom_factor") else None
    shrink = parameter.shrink_factor if parameter.has("shrink_factor") else None
    if any(factor is not None and not 1 <= factor <= 1 << 20 for factor in (zoom, shrink)):
        context.fail("zoom_factor and shrink_factor must be at least 1, and not huge")
    one_factor = (zoom is None) != (shrink is None)
    fixed = (
        None if one_factor or not (parameter.has("height") and parameter.has("width")) else (parameter.height, parameter.width)
    )
    if fixed is None and zoom is None and shrink is None:
        context.fail("needs height and width, zoom_factor or shrink_factor")
    if fixed is not None and min(fixed) < 1:
        context.fail(f"height and width {fixed} must be at least 1")
    if fixed is not None and not begin and not end:
        context.emit("upsample", size=fixed, mode="linear", align_corners=True)
    else:
        context.emit("interp", pad=(begin, end), zoom=zoom or 1, shrink=shrink or 1, size=fixed)
    result = fixed or tuple(((n + begin + end - 1) // (shrink or 1)) * (zoom or 1) + 1 for n in (height, width))
    context.top((batch, channels, *result))
    context.flop = 8 * batch * channels * prod(result)


# -- batch normalisation of forks --------------------------------------------------------------------------------------

_SEGNET = ("scale_filler", "shift_filler", "bn_mode")


@layer_type("BN")
def _bn(context: Context) -> None:
    """Batch normalisation and a factor and a summand per channel in one layer: SegNet's, or PSPNet's with running statistics."""
    context.need(1, range(1, 4))
    _four(context)
    parameter, layer = context.layer.bn_param, context.layer
    context.flop = 5 * prod(context.shapes[0])
    segnet = any(parameter.has(name) for name in _SEGNET) or len(layer.blobs) == 2
    if segnet:
        _bn_segnet(context, parameter)
    else:
        context.need(1)
        _bn_pspnet(context, parameter)
    context.same()


def _scaled(context: Context, value: str, slope: str, bias: str) -> None:
    product = context.emit("mul", [value, slope], [context.inner("product")], shape=context.shapes[0])
    context.emit("add", [product, bias], [context.tops[0]])


def _bn_segnet(context: Context, parameter: Message) -> None:
    """bn_mode LEARN: the batch's own statistics, in either phase; INFERENCE: the factor and the summand alone, which hold them then."""
    size = context.shapes[0]
    shape = (1, size[1], 1, 1)
    slope = context.blob("scale", shape, parameter.scale_filler)
    bias = context.blob("shift", shape, parameter.shift_filler)
    if parameter.word("bn_mode") == "INFERENCE":
        context.need(1)
        _scaled(context, context.bottoms[0], slope, bias)
        return
    statistics = [context.inner("mean"), context.inner("variance")]
    statistics[: len(context.tops) - 1] = context.tops[1:]
    normal = context.inner("normal")
    context.assembly.shapes |= {normal: size} | dict.fromkeys(statistics, shape)
    context.emit("bn_batch", outputs=[normal, *statistics], eps=1e-9)
    _scaled(context, normal, slope, bias)


def _bn_pspnet(context: Context, parameter: Message) -> None:
    """The batch's statistics in training, which the running ones follow; those in testing, and in training where `frozen`."""
    size, frozen = context.shapes[0], bool(parameter.frozen)
    shape = (1, size[1], 1, 1)
    slope = context.blob("slope", shape, parameter.slope_filler)
    bias = context.blob("bias", shape, parameter.bias_filler)
    mean = context.blob("mean", shape, trained=False)
    variance = context.blob("variance", shape, value=float(frozen), trained=False)
    if frozen:
        for name in (slope, bias):
            context.assembly.parameters[name].lr_mult = context.assembly.parameters[name].decay_mult = 0.0
    if frozen or not context.train:
        rows = [
            context.emit("reshape", [name], [context.inner(label)], target=(-1,), shape=(size[1],))
            for label, name in (("slope", slope), ("bias", bias), ("mean", mean), ("variance", variance))
        ]
        context.emit("batch_norm", [context.bottoms[0], *rows], eps=parameter.eps)
        return
    updated = [context.inner("new mean"), context.inner("new variance")]
    batch = [context.inner("normal"), context.inner("batch mean"), context.inner("batch variance")]
    context.assembly.shapes |= dict.fromkeys((*updated, *batch[1:]), shape) | {batch[0]: size}
    context.emit("bn_batch", outputs=batch, eps=parameter.eps)
    for old, found, fresh in zip((mean, variance), batch[1:], updated, strict=True):
        context.emit("weighted_sum", [old, found], [fresh], coefficients=(parameter.momentum, 1 - parameter.momentum))
    context.assembly.updates |= dict(zip((mean, variance), updated, strict=True))
    _scaled(context, batch[0], slope, bias)


# -- regions -----------------------------------------------------------------------------------------------------------


def _regions(context: Context) -> int:
    """How many regions the second bottom has: rows (image, x1, y1, x2, y2) in the picture's pixels."""
    rows = context.shapes[1]
    if not rows or prod(rows[1:]) != 5:
        context.fail(f"wants regions (R, 5), got {rows}")
    return rows[0]


def _scale(context: Context, scale: float) -> float:
    if not 0 < scale < 1e6:
        context.fail(f"spatial_scale {scale} must be positive")
    return scale


@layer_type("ROIPooling")
def _roi_pooling(context: Context) -> None:
    """The maximum over each of pooled_h x pooled_w parts of every region."""
    context.need(2)
    parameter, (_, channels, _, _), count = context.layer.roi_pooling_param, _four(context), _regions(context)
    pooled = (parameter.pooled_h, parameter.pooled_w)
    if not all(1 <= n <= 1 << 15 for n in pooled):
        context.fail(f"pooled_h and pooled_w {pooled} must be at least 1, and not huge")
    context.emit("roi_pool", pooled=pooled, scale=_scale(context, parameter.spatial_scale))
    context.top((count, channels, *pooled))
    context.flop = count * channels * (prod(context.shapes[0][2:]) + 50 * prod(pooled))


@layer_type("PSROIPooling")
def _psroi_pooling(context: Context) -> None:
    """The mean over each of group_size x group_size parts of every region, each part of channels of its own."""
    context.need(2)
    parameter, (_, channels, _, _), count = context.layer.psroi_pooling_param, _four(context), _regions(context)
    group, out = parameter.group_size, parameter.output_dim
    if not 1 <= group <= 1 << 15 or out < 1 or channels != out * group * group:
        context.fail(f"needs output_dim * group_size^2 channels ({out} * {group}^2), got {channels}")
    context.emit("psroi_pool", group=group, scale=_scale(context, parameter.spatial_scale))
    context.top((count, out, group, group))
    context.flop = count * out * (prod(context.shapes[0][2:]) + 50 * group * group)
