"""The public contractions: arguments checked, margins made, the epilogue fused where nothing records.

Padding modes other than zeros are a `pad` before the contraction, or the adjoint `fold_margin` after the transposed one, so
conv_transpose is the exact adjoint of conv in every mode. The contractions themselves, and their gradients, are in
preimage.ops.contraction.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from preimage.autograd import Tensor, array_of, is_grad_enabled
from preimage.autograd.device_arrays import given_back
from preimage.engines import PreparedWeight
from preimage.engines.base import Epilogue
from preimage.errors import DTypeError, OptionError, ShapeError
from preimage.geometry import ConvGeometry, Padding, PerAxis
from preimage.ops.activation import leaky_relu, relu
from preimage.ops.broadcast import astype, in_wide
from preimage.ops.contraction import (
    accuracy_option,
    channels_first,
    check_bias,
    conv_op,
    conv_transpose_op,
    conv_weight_grad_op,
    fused,
    logical_shape,
    margin_free,
    one_dtype,
    records,
    sum_over_space,
    weight_operand,
)
from preimage.ops.operands import number_of, operand
from preimage.ops.pad import check_mode, fold_pairs, pad_pairs
from preimage.ops.pointwise import add, clip
from preimage.ops.shape import reshape
from preimage.ops.warm import again, keep_warm, remember
from preimage.typing import Accuracy, Activation, Layout, Operand, PaddingMode, Value

__all__ = ["conv", "conv_transpose", "conv_weight_grad", "prepare", "sum_over_space"]


def prepare(w: Operand) -> PreparedWeight:
    """The weights w, packed once for all calls that are given them: `w = prepare(w)`, then `conv(x, w)`, `conv_transpose(y, w)`.

    Shapes: w (C_out, C_in // groups, *kernel), an array or a Tensor, as conv and conv_transpose take it.
    Definition: the values that w has now. A later change of w (in place, or by an optimiser's step) does not reach them:
        `prepared.refresh(w)` takes the new ones over.
    Gradient: none; prepared weights are constants. The gradients of x and of the bias are as ever.
    Cost: a copy of w, and the memory of every packed form that a call has asked for (`prepared.packed_bytes`).
    Raises: DTypeError for anything but the four float types; ShapeError for fewer than two axes.

    Example:
        >>> import numpy as np, preimage as pre
        >>> w = pre.prepare(np.array([[[-1.0, 1.0]]]))
        >>> [pre.conv(np.array([[row]]), w).tolist() for row in ([0.0, 0.0, 1.0], [1.0, 2.0, 4.0])]
        [[[[0.0, 1.0]]], [[[1.0, 2.0]]]]
    """
    array = array_of(operand(w, "w"))
    if array.ndim < 2:
        raise ShapeError(
            f"w has shape {array.shape}; weights have at least two axes, (out_channels, in_channels // groups, *kernel)"
        )
    return PreparedWeight(array)


def _operands(
    name: str, a: Operand, w: Operand | PreparedWeight, b: Operand | None
) -> tuple[Value, Value | PreparedWeight, Value | None]:
    """The operands of a contraction as engines can take them. name: what errors call a. Raises: DTypeError for several dtypes."""
    a = operand(a, name)
    w = weight_operand(w, a)
    if b is not None:
        b = operand(b, "b")
    if a.dtype is not w.dtype or b is not None:
        one_dtype(**{name: a, "w": w, "b": b})
    return a, w, b


def _activate(result: Value, residual: Value | None, epilogue: Epilogue) -> Value:
    """The epilogue after the bias, as operations that record."""
    if residual is not None:
        result = add(result, residual)
    if epilogue.activation == "relu":
        return relu(result)
    if epilogue.activation == "leaky_relu":
        return leaky_relu(result, epilogue.slope)
    return clip(result, epilogue.lo, epilogue.hi) if epilogue.activation == "clip" else result


def _bounds(limits: object) -> tuple[float, float]:
    given: Any = limits
    try:
        lo, hi = (float(v) for v in given)
    except (TypeError, ValueError):
        raise OptionError(f"clip_range must be a pair of numbers (lo, hi), got {limits!r}") from None
    if not lo <= hi:
        raise OptionError(f"clip_range ({lo}, {hi}) is empty: lo must not be above hi")
    return lo, hi


def _residual(value: Operand, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Value:
    value = operand(value, "residual")
    if value.shape != shape:
        raise ShapeError(f"residual has shape {value.shape}, wanted that of the result, {shape}")
    if value.dtype != dtype:
        raise DTypeError(f"all arrays must have one dtype, got residual {value.dtype}, the others {dtype}")
    return value


def _laid_out(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    return shape if layout == "channels_first" else (shape[0], *shape[2:], shape[1])


def _pairs(geometry: ConvGeometry, layout: str) -> tuple[tuple[int, int], ...]:
    """The padding of the geometry for every axis of an activation array."""
    none = (0, 0)
    return (none, *geometry.padding, none) if layout == "channels_last" else (none, none, *geometry.padding)


def _with_epilogue(
    contraction: str, a: Value, w: Value | PreparedWeight, b: Value | None, geometry: ConvGeometry, layout: str, mode: str,
    residual: Operand | None, activation: Activation | None, slope: float, clip_range: tuple[float, float], how: dict[str, Any],
) -> Value:  # fmt: skip
    """A contraction and what follows it: in the engine where nothing records, else operation by operation.

    The Epilogue is made here, once, of checked arrays as engines want them: what is below reads it and changes nothing.
    """
    shape = geometry.input_shape if contraction == "conv_transpose" else geometry.output_shape
    rest = None if residual is None else _residual(residual, _laid_out(shape, layout), a.dtype)
    lo, hi = _bounds(clip_range)
    epilogue = Epilogue(
        None if b is None else array_of(b), None if rest is None else channels_first(array_of(rest), layout), activation,
        number_of(slope, "slope"), lo, hi,
    )  # fmt: skip
    pairs = _pairs(geometry, layout)
    margin = mode != "zeros" and any(before or after for before, after in geometry.padding)
    if margin and contraction == "conv":
        a, geometry, margin = pad_pairs(a, pairs, mode), margin_free(geometry), False
    if margin or (is_grad_enabled() and records(a, w, b, rest)):
        return _step_by_step(
            contraction, (a, w, b, rest), epilogue, geometry, {"layout": layout} | how, (pairs, mode) if margin else None
        )
    result = fused(contraction, array_of(a), array_of(w), epilogue, geometry, layout, **how)
    return Tensor(result) if any(isinstance(v, Tensor) for v in (a, w, b, rest)) else given_back(result)


def _step_by_step(
    contraction: str, operands: tuple[Value, Value | PreparedWeight, Value | None, Value | None], epilogue: Epilogue,
    geometry: ConvGeometry, options: dict[str, Any], margin: tuple[tuple[tuple[int, int], ...], str] | None,
) -> Value:  # fmt: skip
    """A contraction and what follows it as operations; `margin`: (pairs, mode) that a transposed one folds back before the bias."""
    a, w, b, residual = operands
    dtype = a.dtype
    if dtype.itemsize == 2 and (margin is not None or residual is not None):
        # several sums into one element: in float32, and rounded once
        a, w, b, residual = (in_wide(v.array if isinstance(v, PreparedWeight) else v) for v in operands)
    op = conv_transpose_op if contraction == "conv_transpose" else conv_op
    options = options | _order(options["layout"], geometry, a, w, b)
    if margin is None:
        result = op(a, w, b, geometry=geometry, **options)
    else:
        result = fold_pairs(op(a, w, None, geometry=margin_free(geometry), **options), *margin)
        if b is not None:
            result = add(result, b if options["layout"] == "channels_last" else reshape(b, (-1, *[1] * geometry.ndim)))
    return astype(_activate(result, residual, epilogue), dtype)


#: Elements of an input from which on it is brought into the order that training likes.
LEAST_REORDERED = 1 << 14


def _order(layout: str, geometry: ConvGeometry, *values: Value | PreparedWeight | None) -> dict[str, Any]:
    """What a contraction that records says of its result's memory: the channels lie innermost, in which order training is fastest.

    Not of small ones: a copy of the input is not worth its while there.
    """
    small = geometry.batch * geometry.in_channels * prod(geometry.input_size) < LEAST_REORDERED
    return {} if small or layout != "channels_first" or not (is_grad_enabled() and records(*values)) else {"inner": True}


def conv(
    x: Operand,
    w: Operand | PreparedWeight,
    b: Operand | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    layout: Layout = "channels_first",
    residual: Operand | None = None,
    activation: Activation | None = None,
    slope: float = 0.01,
    clip_range: tuple[float, float] = (0.0, 6.0),
    accuracy: Accuracy | None = None,
) -> Value:
    """Convolution: the degree of match of every patch of x with each of the stencils w, linear in x and in w.

    Shapes: x (N, C_in, *spatial), or (N, *spatial, C_in) with layout="channels_last"; any number of spatial axes, none
        included. w (C_out, C_in // groups, *kernel), or what `prepare` made of it. b (C_out,).
        The result (N, C_out, *out) in the layout and memory order of x (of a large x whose gradient is recorded: channels innermost in memory);
        out = floor((in + lo + hi - dilation*(kernel - 1) - 1) / stride) + 1.
    Definition: y[n, g*O + o, oh..] = b[g*O + o] + sum over kh.., i of
        x[n, g*I + i, oh*stride - lo + kh*dilation] * w[g*O + o, i, kh..], where x beyond its border is what padding_mode says:
        "zeros", "reflect", "replicate" or "circular". `padding` is an integer, one per axis, (lo, hi) pairs, "same" or "valid".
        The epilogue follows in this order: bias, `residual` (of the result's shape), `activation`: "relu", "leaky_relu" (with
        `slope`) or "clip" (to `clip_range`). Without gradients it is done inside the engine. 16-bit floats are summed in float32
        and rounded once, at its end. accuracy: "exact" sums in the contract's order; "fast" lets algorithms run that multiply less and
        round more (`preimage.plan` says which, and how much more); None is what `preimage.config` says. Gradients take the same.
    Gradient: x: conv_transpose(g, w); w: conv_weight_grad(x, g); b: the sum of g over batch and space; of every order.
    Cost: 2 * N * C_out * prod(out) * C_in // groups * prod(kernel) flop.
    Raises: GeometryError (a ShapeError) for sizes that cannot be, ShapeError for arrays that do not belong together,
        DTypeError for mixed or non-float dtypes, OptionError for an unknown option.
    Source: the convolution layer of PyTorch, ONNX and Caffe (a cross-correlation: the stencil is not flipped).

    Example:
        >>> import numpy as np, preimage as pre
        >>> step = np.array([[[0.0, 0.0, 1.0, 1.0]]])
        >>> pre.conv(step, np.array([[[-1.0, 1.0]]])).tolist()
        [[[0.0, 1.0, 0.0]]]
    """
    plain, key = residual is None and activation is None and isinstance(padding_mode, str) and padding_mode == "zeros", None
    if plain and accuracy is None:
        key, made = again("conv", conv_op, x, w, b, 0, stride, padding, dilation, groups, layout)
        if made is not None:
            return made
    x, w, b = _operands("x", x, w, b)
    geometry = ConvGeometry.from_conv(
        logical_shape(x, layout, "x", w.shape, "w"), w.shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    check_bias(b, geometry.out_channels)
    how = {} if accuracy is None else accuracy_option(accuracy)
    if plain:
        remember(key, geometry)
        return conv_op(x, w, b, geometry=geometry, layout=layout, **how, **_order(layout, geometry, x, w, b))
    check_mode(padding_mode)
    return _with_epilogue(
        "conv", x, w, b, geometry, layout, padding_mode, residual, activation, slope, clip_range, how
    )  # fmt: skip


def conv_transpose(
    y: Operand,
    w: Operand | PreparedWeight,
    b: Operand | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    output_size: PerAxis | None = None,
    dilation: PerAxis = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    layout: Layout = "channels_first",
    residual: Operand | None = None,
    activation: Activation | None = None,
    slope: float = 0.01,
    clip_range: tuple[float, float] = (0.0, 6.0),
    accuracy: Accuracy | None = None,
) -> Value:
    """Transposed convolution: every activation of y blown up by its stencil, and the pieces added up; the adjoint of conv.

    Shapes: y (N, C_in, *spatial) in either layout, w (C_in, C_out // groups, *kernel): the array of the convolution whose
        adjoint this is, not flipped. b (C_out,). The result (N, C_out, *large), large = (small - 1)*stride +
        dilation*(kernel - 1) + 1 - lo - hi + output_padding; `output_size` says the large size itself.
    Definition: x[n, g*I + i, ih..] = b[g*I + i] + sum over oh.., kh.., o with oh*stride - lo + kh*dilation = ih of
        y[n, g*O + o, oh..] * w[g*O + o, i, kh..]. What falls into the padding is cropped (zeros) or folded back to the cells
        that the margin was copied from (reflect, replicate, circular): <conv(x, w), y> = <x, conv_transpose(y, w)> in every
        mode. Bias, `residual` and `activation` as in conv.
    Gradient: y: conv(g, w); w: conv_weight_grad(g, y); b: the sum of g over batch and space; of every order.
    Cost: the flop of the convolution; no zero between strided values is ever multiplied.
    Raises: as conv; GeometryError for an output_padding of at least max(stride, dilation), or an output_size out of reach.
    Source: the deconvolution layer of Caffe, ConvTranspose of PyTorch and ONNX.

    Example:
        >>> import numpy as np, preimage as pre
        >>> pre.conv_transpose(np.array([[[1.0, 10.0]]]), np.array([[[1.0, 2.0, 3.0]]]), stride=2).tolist()
        [[[1.0, 2.0, 13.0, 20.0, 30.0]]]
    """
    plain, key = residual is None and activation is None and isinstance(padding_mode, str) and padding_mode == "zeros", None
    if plain and accuracy is None and output_size is None:
        key, made = again("conv_transpose", conv_transpose_op, y, w, b, output_padding, stride, padding, dilation, groups, layout)
        if made is not None:
            return made
    y, w, b = _operands("y", y, w, b)
    geometry = ConvGeometry.from_conv_transpose(
        logical_shape(y, layout, "y", w.shape, "w"), w.shape, stride=stride, padding=padding, output_padding=output_padding,
        output_size=output_size, dilation=dilation, groups=groups,
    )  # fmt: skip
    check_bias(b, geometry.in_channels)
    how = {} if accuracy is None else accuracy_option(accuracy)
    if plain:
        remember(key, geometry)
        return conv_transpose_op(y, w, b, geometry=geometry, layout=layout, **how, **_order(layout, geometry, y, w, b))
    check_mode(padding_mode)
    return _with_epilogue(
        "conv_transpose", y, w, b, geometry, layout, padding_mode, residual, activation, slope, clip_range, how
    )  # fmt: skip


def conv_weight_grad(
    x: Operand,
    y: Operand,
    *,
    kernel_size: PerAxis,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    layout: Layout = "channels_first",
    accuracy: Accuracy | None = None,
) -> Value:
    """The third contraction: how much of y lies where x does, for every offset in the kernel; linear in x and in y.

    Shapes: x (N, C_in, *large), y (N, C_out, *small) as conv would give it; the result (C_out, C_in // groups, *kernel).
    Definition: w[g*O + o, i, kh..] = sum over n, oh.. of x[n, g*I + i, oh*stride - lo + kh*dilation] * y[n, g*O + o, oh..],
        with x beyond its border as padding_mode says. So <conv(x, w), y> = <w, conv_weight_grad(x, y)>.
    Gradient: x: conv_transpose(y, g); y: conv(x, g).
    Cost: the flop of the convolution.
    Raises: as conv; GeometryError where the two sizes do not belong together.

    Example:
        >>> import numpy as np, preimage as pre
        >>> x, y = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[1.0, 10.0]]])
        >>> pre.conv_weight_grad(x, y, kernel_size=2).tolist()
        [[[21.0, 32.0]]]
    """
    key = None
    if accuracy is None and isinstance(padding_mode, str) and padding_mode == "zeros":
        key, made = again(
            "conv_weight_grad", conv_weight_grad_op, x, y, None, kernel_size, stride, padding, dilation, groups, layout
        )
        if made is not None:
            return made
    x, y = operand(x, "x"), operand(y, "y")
    if x.dtype is not y.dtype:
        one_dtype(x=x, y=y)
    geometry = ConvGeometry.from_sizes(
        logical_shape(x, layout, "x", y.shape, "y"), logical_shape(y, layout, "y", None, ""), kernel_size,
        stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    if not isinstance(padding_mode, str) or padding_mode != "zeros":
        check_mode(padding_mode)
        x, geometry = pad_pairs(x, _pairs(geometry, layout), padding_mode), margin_free(geometry)
    result = conv_weight_grad_op(x, y, geometry=geometry, layout=layout, **accuracy_option(accuracy))
    keep_warm(key, "conv_weight_grad", geometry, layout, array_of(x), array_of(y))
    return result
