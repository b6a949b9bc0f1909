"""Rows of layers that contract or look through windows: Convolution, Deconvolution, InnerProduct, Im2col, Embed, Pooling, LRN.

Source: BVLC/caffe, the rules of base_conv_layer, conv_layer, deconv_layer, im2col_layer, inner_product_layer, embed_layer, pooling_layer and
lrn_layer (shapes, rounding, defaults), read as facts.
"""

from __future__ import annotations

from math import prod
from typing import Any

from preimage.io.caffe.assemble import Context, Shape, layer_type
from preimage.io.caffe.wire.message import Message
from preimage.records import record

__all__ = ["Window", "pooled_size"]


@record
class Window:
    """Kernel, stride, padding and dilation of a convolution-like layer, one number per spatial axis."""

    axis: int
    kernel: Shape
    stride: Shape
    pad: Shape
    dilation: Shape

    @classmethod
    def read(cls, context: Context, parameter: Message, ndim: int) -> Window:
        """From a ConvolutionParameter: repeated fields (none, one for all axes, or one per axis) or the _h and _w forms (2-D only)."""
        axis = context.axis(parameter.axis, ndim)
        count = ndim - axis - 1

        def per_axis(name: str, default: int | None, least: int) -> Shape:
            short = name.removesuffix("_size")
            repeated = [int(value) for value in getattr(parameter, name)]
            if parameter.has(f"{short}_h") or parameter.has(f"{short}_w"):
                if count != 2:
                    context.fail(f"{short}_h and {short}_w need two spatial axes, here are {count}")
                if repeated:
                    context.fail(f"give either {name} or {short}_h and {short}_w")
                values = [getattr(parameter, f"{short}_h"), getattr(parameter, f"{short}_w")]
            elif not repeated and default is None and count:
                context.fail(f"{name} is missing")
            else:
                values = repeated or [default or 0] * count
                if len(values) not in (1, count):
                    context.fail(f"{name} has {len(values)} numbers for {count} spatial axes")
                values = values * count if len(values) == 1 else values
            if any(value < least for value in values):
                context.fail(f"{name} is {tuple(values)}; at least {least} is needed")
            return tuple(values)

        return cls(
            axis,
            per_axis("kernel_size", None, 1),
            per_axis("stride", 1, 1),
            per_axis("pad", 0, 0),
            per_axis_dilation(context, parameter, count),
        )

    @property
    def extent(self) -> Shape:
        """The length that the dilated kernel covers, per axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def small(self, context: Context, large: Shape) -> Shape:
        """The convolution's output size."""
        sizes = tuple((n + 2 * p - e) // s + 1 for n, p, e, s in zip(large, self.pad, self.extent, self.stride, strict=True))
        if any(size < 1 for size in sizes):
            context.fail(f"a kernel of extent {self.extent} with pad {self.pad} does not fit into {large}")
        return sizes

    def large(self, context: Context, small: Shape) -> Shape:
        """The deconvolution's output size: no output_padding in Caffe."""
        sizes = tuple(s * (n - 1) + e - 2 * p for n, p, e, s in zip(small, self.pad, self.extent, self.stride, strict=True))
        if any(size < 1 for size in sizes):
            context.fail(f"pad {self.pad} leaves nothing of the result: {sizes}")
        return sizes

    def attributes(self) -> dict[str, Any]:
        """As our ops take it."""
        pairs = tuple((p, p) for p in self.pad)
        return {"stride": self.stride, "padding": pairs, "dilation": self.dilation}


def per_axis_dilation(context: Context, parameter: Message, count: int) -> Shape:
    """Dilation has only the repeated form."""
    values = [int(value) for value in parameter.dilation] or [1]
    if len(values) not in (1, count) or min(values) < 1:
        context.fail(f"dilation {tuple(values)} does not suit {count} spatial axes")
    return tuple(values * count if len(values) == 1 else values)


@layer_type("Convolution", "Deconvolution", "DepthwiseConvolution", "ConvolutionDepthwise")
def _convolution(context: Context) -> None:
    """Weights (out, in / group, k...); a deconvolution's are (in, out / group, k...). Several bottoms share them."""
    parameter, transpose = context.layer.convolution_param, context.layer.type == "Deconvolution"
    if not context.bottoms or len(context.tops) != len(context.bottoms):
        context.fail(f"has {len(context.bottoms)} bottoms and {len(context.tops)} tops; they must be as many, and at least one")
    first = context.shapes[0]
    window = Window.read(context, parameter, len(first))
    channels, out = first[window.axis], parameter.num_output
    group = channels if "Depthwise" in context.layer.type else parameter.group
    if out < 1:
        context.fail("num_output must be at least 1")
    if group < 1 or channels % group or out % group:
        context.fail(f"group {group} must divide the {channels} input channels and num_output {out}")
    shape = (channels, out // group, *window.kernel) if transpose else (out, channels // group, *window.kernel)
    weight = context.blob("weight", shape, parameter.weight_filler)
    bias = context.blob("bias", (out,), parameter.bias_filler) if parameter.bias_term else ""
    for index, (bottom, size) in enumerate(zip(context.bottoms, context.shapes, strict=True)):
        if len(size) != len(first) or size[window.axis] != channels:
            context.fail(f"bottom {index} has shape {size}; the first has {first}, and the weights are shared")
        spatial = size[window.axis + 1 :]
        result = window.large(context, spatial) if transpose else window.small(context, spatial)
        context.top((*size[: window.axis], out, *result), index)
        pixels = prod(spatial if transpose else result) * prod(size[: window.axis])
        context.flop += 2 * prod(shape) * pixels
        _through_batch(context, index, bottom, window, [weight, bias], transpose, group)


def _through_batch(
    context: Context, index: int, bottom: str, window: Window, blobs: list[str], transpose: bool, group: int
) -> None:
    """Emit the contraction; where `axis` is not 1, the axes before it are one batch axis on the way."""
    op, top, size = "conv_transpose" if transpose else "conv", context.tops[index], context.shapes[index]
    given, result = bottom, top
    if window.axis != 1:
        given, result = context.inner(f"batched{index}"), context.inner(f"result{index}")
        batch = prod(size[: window.axis])
        context.emit("fold_batch", [bottom], [given], axis=window.axis, shape=(batch, *size[window.axis :]))
        context.assembly.shapes[result] = (batch, *context.assembly.shapes[top][window.axis :])
    context.emit(op, [given, *blobs], [result], groups=group, **window.attributes())
    if window.axis != 1:
        context.emit("unfold_batch", [result, bottom], [top], axis=window.axis)


@layer_type("Im2col")
def _im2col(context: Context) -> None:
    """Patches as columns: channel c*kh*kw + i*kw + j holds tap (i, j) of channel c."""
    context.need(1)
    parameter, size = context.layer.convolution_param, context.shapes[0]
    window = Window.read(context, parameter, len(size))
    if window.axis != 1:
        context.fail(f"axis {window.axis} is not supported; one batch axis is needed")
    context.top((size[0], size[1] * prod(window.kernel), *window.small(context, size[2:])))
    context.emit("unfold_maps", kernel_size=window.kernel, **window.attributes())


@layer_type("InnerProduct")
def _inner_product(context: Context) -> None:
    """Everything from `axis` on is one row; weights (out, in), or (in, out) with transpose."""
    context.need(1)
    parameter, size = context.layer.inner_product_param, context.shapes[0]
    axis = context.axis(parameter.axis, len(size))
    out, width = parameter.num_output, prod(size[axis:])
    if out < 1:
        context.fail("num_output must be at least 1")
    weight = context.blob("weight", (width, out) if parameter.transpose else (out, width), parameter.weight_filler)
    bias = context.blob("bias", (out,), parameter.bias_filler) if parameter.bias_term else ""
    rows = context.bottoms[0]
    if axis != len(size) - 1:
        rows = context.emit("flatten", [rows], [context.inner("rows")], axis=axis, end_axis=-1, shape=(*size[:axis], width))
    context.emit("linear", [rows, weight, bias], transposed=bool(parameter.transpose))
    context.top((*size[:axis], out))
    context.flop = 2 * width * out * prod(size[:axis])


@layer_type("Embed")
def _embed(context: Context) -> None:
    """Rows of a table by index."""
    context.need(1)
    parameter, size = context.layer.embed_param, context.shapes[0]
    if parameter.num_output < 1 or parameter.input_dim < 1:
        context.fail("num_output and input_dim must be at least 1")
    weight = context.blob("weight", (parameter.input_dim, parameter.num_output), parameter.weight_filler)
    bias = context.blob("bias", (parameter.num_output,), parameter.bias_filler) if parameter.bias_term else ""
    context.emit("embed", [context.bottoms[0], weight, bias])
    context.top((*size, parameter.num_output))


def pooled_size(size: int, kernel: int, stride: int, pad: int, padded: bool, ceil: bool) -> int:
    """Caffe's pooled size: rounded up (or down), less one where the last window would start in the padding.

    `padded`: whether any axis has padding; Caffe looks at both axes together.
    """
    span = size + 2 * pad - kernel
    count = (-(-span // stride) if ceil else span // stride) + 1
    if padded and (count - 1) * stride >= size + pad:
        count -= 1
    return count


@layer_type("Pooling")
def _pooling(context: Context) -> None:
    """Maximum or average over windows; the average counts padding, up to the padded border."""
    context.need(1, range(1, 3))
    parameter, size = context.layer.pooling_param, context.shapes[0]
    if len(size) != 4:
        context.fail(f"needs 4 axes, got {size}")
    method = parameter.word("pool")
    if method not in ("MAX", "AVE"):
        context.fail(f"pooling method {method} is not supported; MAX and AVE are")
    if parameter.global_pooling:
        if any(parameter.has(name) for name in ("kernel_size", "kernel_h", "kernel_w")):
            context.fail("global_pooling takes no kernel size")
        kernel, pad, stride = (size[2], size[3]), (0, 0), (1, 1)
        if any(_pair(context, parameter, "pad", 0)) or any(s != 1 for s in _pair(context, parameter, "stride", 1)):
            context.fail("global_pooling takes no pad and no stride")
    else:
        kernel = _pair(context, parameter, "kernel", None)
        pad, stride = _pair(context, parameter, "pad", 0), _pair(context, parameter, "stride", 1)
    if min(kernel) < 1 or min(stride) < 1:
        context.fail(f"kernel {kernel} and stride {stride} must be at least 1")
    if any(p >= k for p, k in zip(pad, kernel, strict=True)):
        context.fail(f"pad {pad} must be smaller than the kernel {kernel}")
    ceil = parameter.word("round_mode") == "CEIL"
    result = tuple(pooled_size(n, k, s, p, any(pad), ceil) for n, k, s, p in zip(size[2:], kernel, stride, pad, strict=True))
    if any(n + 2 * p < k for n, k, p in zip(size[2:], kernel, pad, strict=True)) or min(result) < 1:
        context.fail(f"a window of {kernel} with pad {pad} does not fit into {size[2:]}")
    if any((count - 1) * s >= n + p for count, s, n, p in zip(result, stride, size[2:], pad, strict=True)):
        context.fail(f"the last window of stride {stride} lies outside {size[2:]}; round_mode FLOOR would do")
    if len(context.tops) == 2:
        if method != "MAX":
            context.fail("only MAX pooling has a second top")
        context.top((*size[:2], *result), 1)
    context.top((*size[:2], *result))
    context.flop = prod(size[:2]) * prod(result) * prod(kernel)
    if parameter.global_pooling:
        op = "global_max_pool" if method == "MAX" else "global_avg_pool"
        if len(context.tops) == 1:
            context.emit(op)
            return
    pairs = tuple((p, p) for p in pad)
    window = {"kernel_size": kernel, "stride": stride, "padding": pairs, "ceil_mode": ceil}
    if method == "AVE":
        context.emit("avg_pool", count_include_pad=True, **window)
    else:
        context.emit("max_pool" if len(context.tops) == 1 else "max_pool_with_mask", **window)


def _pair(context: Context, parameter: Message, name: str, default: int | None) -> tuple[int, int]:
    both = "kernel_size" if name == "kernel" else name
    if parameter.has(f"{name}_h") or parameter.has(f"{name}_w"):
        if parameter.has(both):
            context.fail(f"give either {both} or {name}_h and {name}_w")
        return getattr(parameter, f"{name}_h"), getattr(parameter, f"{name}_w")
    if not parameter.has(both) and default is None:
        context.fail(f"{both} is missing")
    value = getattr(parameter, both)
    return value, value


@layer_type("LRN")
def _lrn(context: Context) -> None:
    """x * (k + alpha/n * sum of squares)^-beta over n neighbouring channels; within a channel: over an n x n window, k = 1."""
    context.need(1)
    parameter, size = context.layer.lrn_param, context.shapes[0]
    if parameter.local_size % 2 == 0:
        context.fail(f"local_size {parameter.local_size} must be odd")
    if len(size) != 4:
        context.fail(f"needs 4 axes, got {size}")
    common = {"size": parameter.local_size, "alpha": parameter.alpha, "beta": parameter.beta}
    if parameter.word("norm_region") == "WITHIN_CHANNEL":
        context.emit("lrn_within", **common)
        context.flop = prod(size) * parameter.local_size**2
    else:
        context.emit("lrn", k=parameter.k, **common)
        context.flop = prod(size) * min(parameter.local_size, size[1])
    context.same()
