"""The three contractions of <y, x * w>, each linear in both arguments, and their gradients: the other two.

With the trilinear form T(x, w, y) = sum over n, o, i, oh.., kh.. of  x[n, i, oh*s - lo + kh*d] w[o, i, kh] y[n, o, oh]:

    conv(x, w)             = dT/dy      d conv / dx,             contracted with g:  conv_transpose(g, w)
                                        d conv / dw:                                 conv_weight_grad(x, g)
    conv_transpose(y, w)   = dT/dx      / dy:  conv(g, w)          / dw:  conv_weight_grad(g, y)
    conv_weight_grad(x, y) = dT/dw      / dx:  conv_transpose(y, g)  / dy:  conv(x, g)

The bias is added over batch and space; its gradient is the sum over batch and space, which is the adjoint. All rules are
written with the operations themselves, so derivatives of every order come from these five and nothing else.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from preimage.autograd import array_of, primitive
from preimage.engines import choose
from preimage.engines.base import Array, Epilogue, accumulator_dtype, supported_dtype
from preimage.errors import DTypeError, OptionError, ShapeError
from preimage.geometry import ConvGeometry, Padding, PerAxis

__all__ = ["conv", "conv_transpose", "conv_weight_grad"]


# -- from arrays to an engine ------------------------------------------------------------------------------------------


def _ready(array: Any, name: str) -> Array:
    """The array as engines take it: float, native byte order, aligned; copied only where it must be."""
    a = np.asarray(array)
    if not supported_dtype(a.dtype):
        raise DTypeError(f"{name} has dtype {a.dtype}; use float32, float64, float16 or bfloat16, e.g. {name}.astype(np.float32)")
    if not a.dtype.isnative:
        a = a.astype(a.dtype.newbyteorder("="))
    return a if a.flags.aligned else a.copy()


def _one_dtype(**arrays: Array | None) -> None:
    given = {name: a.dtype for name, a in arrays.items() if a is not None}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name} {dtype}" for name, dtype in given.items())
        raise DTypeError(f"all arrays must have one dtype, got {listed}")


def _channels_first(a: Array, layout: str) -> Array:
    return np.moveaxis(a, -1, 1) if layout == "channels_last" else a


def _channels_last(a: Array, layout: str) -> Array:
    return np.moveaxis(a, 1, -1) if layout == "channels_last" else a


def _epilogue(bias: Array | None, channels: int) -> Epilogue | None:
    if bias is None:
        return None
    if bias.shape != (channels,):
        raise ShapeError(f"bias has shape {bias.shape}, wanted ({channels},): one value per channel of the result")
    return Epilogue(bias=bias)


def _conv(x: Array, w: Array, b: Array | None, *, geometry: ConvGeometry, layout: str) -> Array:
    engine = choose(geometry, "conv", x.dtype)
    y = engine.conv(geometry, _channels_first(x, layout), w, _epilogue(b, geometry.out_channels))
    return _channels_last(y, layout)


def _conv_transpose(y: Array, w: Array, b: Array | None, *, geometry: ConvGeometry, layout: str) -> Array:
    engine = choose(geometry, "conv_transpose", y.dtype)
    x = engine.conv_transpose(geometry, _channels_first(y, layout), w, _epilogue(b, geometry.in_channels))
    return _channels_last(x, layout)


def _conv_weight_grad(x: Array, y: Array, *, geometry: ConvGeometry, layout: str) -> Array:
    engine = choose(geometry, "conv_weight_grad", x.dtype)
    return engine.conv_weight_grad(geometry, _channels_first(x, layout), _channels_first(y, layout))


def _sum_over_space(g: Array, *, layout: str) -> Array:
    """Sum over batch and space in one order for any layout: pixels of an image, then images."""
    g = _channels_first(g, layout)
    flat = np.ascontiguousarray(g).reshape(g.shape[0], g.shape[1], prod(g.shape[2:]))  # -1 cannot be told on an empty batch
    per_image = np.add.reduce(flat, axis=2, dtype=accumulator_dtype(g.dtype))
    return np.add.reduce(per_image, axis=0).astype(g.dtype, copy=False)


def _spread_over_space(b: Array, *, shape: tuple[int, ...], layout: str) -> Array:
    axis = len(shape) - 1 if layout == "channels_last" else 1
    return np.broadcast_to(b.reshape([-1 if k == axis else 1 for k in range(len(shape))]), shape).copy()


# -- the operations ----------------------------------------------------------------------------------------------------


def _bias_rule(g: Any, ans: Any, *args: Any, geometry: ConvGeometry, layout: str) -> Any:
    return sum_over_space(g, layout=layout)


sum_over_space = primitive(
    "sum_over_space",
    _sum_over_space,
    [lambda g, ans, a, layout: spread_over_space(g, shape=a.shape, layout=layout)],
    saves=(),
    linear=(0,),
)

spread_over_space = primitive(
    "spread_over_space",
    _spread_over_space,
    [lambda g, ans, b, shape, layout: sum_over_space(g, layout=layout)],
    saves=(),
    linear=(0,),
)

_conv_op = primitive(
    "conv",
    _conv,
    [
        lambda g, ans, x, w, b, **kw: _conv_transpose_op(g, w, None, **kw),
        lambda g, ans, x, w, b, **kw: _conv_weight_grad_op(x, g, **kw),
        _bias_rule,
    ],
    saves=(0, 1),
    linear=(0, 1),
)

_conv_transpose_op = primitive(
    "conv_transpose",
    _conv_transpose,
    [
        lambda g, ans, y, w, b, **kw: _conv_op(g, w, None, **kw),
        lambda g, ans, y, w, b, **kw: _conv_weight_grad_op(g, y, **kw),
        _bias_rule,
    ],
    saves=(0, 1),
    linear=(0, 1),
)

_conv_weight_grad_op = primitive(
    "conv_weight_grad",
    _conv_weight_grad,
    [
        lambda g, ans, x, y, **kw: _conv_transpose_op(y, g, None, **kw),
        lambda g, ans, x, y, **kw: _conv_op(x, g, None, **kw),
    ],
    saves=(0, 1),
    linear=(0, 1),
)


# -- the public functions ----------------------------------------------------------------------------------------------


def _check_layout(layout: str) -> None:
    if layout not in ("channels_first", "channels_last"):
        raise OptionError(f"layout must be 'channels_first' or 'channels_last', got {layout!r}")


def _logical_shape(a: Array, layout: str) -> tuple[int, ...]:
    return (a.shape[0], a.shape[-1], *a.shape[1:-1]) if layout == "channels_last" and a.ndim >= 2 else a.shape


def _operand(value: Any, name: str) -> Any:
    """The argument as an operation takes it: a Tensor as it is where its array is fine, else an engine-ready array."""
    array = array_of(value)
    ready = _ready(array, name)
    return value if ready is array else ready


def conv(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
) -> Any:
    """Convolution: the degree of match of every patch of x with each of the stencils w."""
    _check_layout(layout)
    x, w, b = _operand(x, "x"), _operand(w, "w"), None if b is None else _operand(b, "b")
    _one_dtype(x=x, w=w, b=b)
    geometry = ConvGeometry.from_conv(
        _logical_shape(x, layout), w.shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    return _conv_op(x, w, b, geometry=geometry, layout=layout)


def conv_transpose(
    y: Any,
    w: Any,
    b: Any = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    output_size: PerAxis | None = None,
    dilation: PerAxis = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
) -> Any:
    """Transposed convolution: every activation of y blown up by its stencil, and the pieces added up."""
    _check_layout(layout)
    y, w, b = _operand(y, "y"), _operand(w, "w"), None if b is None else _operand(b, "b")
    _one_dtype(y=y, w=w, b=b)
    geometry = ConvGeometry.from_conv_transpose(
        _logical_shape(y, layout), w.shape, stride=stride, padding=padding, output_padding=output_padding,
        output_size=output_size, dilation=dilation, groups=groups,
    )  # fmt: skip
    return _conv_transpose_op(y, w, b, geometry=geometry, layout=layout)


def conv_weight_grad(
    x: Any,
    y: Any,
    *,
    kernel_size: PerAxis,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
) -> Any:
    """The third contraction: how much of y lies where x does, for every offset in the kernel."""
    _check_layout(layout)
    x, y = _operand(x, "x"), _operand(y, "y")
    _one_dtype(x=x, y=y)
    geometry = ConvGeometry.from_sizes(
        _logical_shape(x, layout), _logical_shape(y, layout), kernel_size,
        stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    return _conv_weight_grad_op(x, y, geometry=geometry, layout=layout)
