"""The three contractions as operations of the DAG, and what leads from arrays to an engine.

With the trilinear form T(x, w, y) = sum over n, o, i, oh.., kh.. of  x[n, i, oh*s - lo + kh*d] w[o, i, kh] y[n, o, oh]:

    conv(x, w)             = dT/dy      d conv / dx,             contracted with g:  conv_transpose(g, w)
                                        d conv / dw:                                 conv_weight_grad(x, g)
    conv_transpose(y, w)   = dT/dx      / dy:  conv(g, w)          / dw:  conv_weight_grad(g, y)
    conv_weight_grad(x, y) = dT/dw      / dx:  conv_transpose(y, g)  / dy:  conv(x, g)

The bias is added over batch and space; its gradient is the sum over batch and space, which is the adjoint. All rules are
written with the operations themselves, so derivatives of every order come from these five and nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from preimage.autograd import Primitive, Tensor, is_grad_enabled, primitive
from preimage.autograd.device_arrays import DeviceArray
from preimage.engines import PreparedWeight, around, run
from preimage.engines.base import Array, Epilogue, is_channels_last
from preimage.engines.on_device import device_kernels
from preimage.errors import DTypeError, OptionError, ShapeError
from preimage.geometry import ConvGeometry
from preimage.ops.operands import operand
from preimage.ops.sums import total
from preimage.settings import check_accuracy, current
from preimage.typing import Operand, Value

__all__ = [
    "accuracy_option",
    "conv_op",
    "conv_transpose_op",
    "conv_weight_grad_op",
    "fused",
    "logical_shape",
    "margin_free",
    "one_dtype",
    "spread_over_space",
    "sum_over_space",
    "weight_operand",
]

LAYOUTS = ("channels_first", "channels_last")


# -- from arrays to an engine ------------------------------------------------------------------------------------------


def weight_operand(value: Operand | PreparedWeight, other: Value | None) -> Value | PreparedWeight:
    """The weights as engines take them. Prepared ones are constants: where `other` records, with the values that they have now."""
    if not isinstance(value, PreparedWeight):
        return operand(value, "w")
    return value.fixed() if is_grad_enabled() and records(other) else value


def one_dtype(**arrays: Value | PreparedWeight | None) -> None:
    """Raises: DTypeError unless all that are not None have one dtype."""
    given = {name: a.dtype for name, a in arrays.items() if a is not None}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name} {dtype}" for name, dtype in given.items())
        raise DTypeError(f"all arrays must have one dtype, got {listed}; convert with .astype")


def logical_shape(a: Value, layout: object, name: str, like: tuple[int, ...] | None, like_name: str) -> tuple[int, ...]:
    """The shape in the order (N, C, *spatial).

    Raises: OptionError for another layout; ShapeError where an axis is missing beside `like`, the weights.
    """
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise OptionError(f"layout must be 'channels_first' or 'channels_last', got {layout!r}")
    shape = a.shape
    if like is not None and len(shape) != len(like):
        if len(shape) == len(like) - 1:
            raise ShapeError(
                f"{name} has shape {shape}, one axis less than {like_name} {tuple(like)}: the batch axis is missing;"
                f" {name}[None] adds it"
            )
        raise ShapeError(
            f"{name} has shape {shape}: {len(shape)} axes; {like_name} {tuple(like)} wants {len(like)} (batch, channels,"
            f" {len(like) - 2} spatial)"
        )
    if layout == "channels_last" and len(shape) > 2:
        return (shape[0], shape[-1], *shape[1:-1])
    return shape


def channels_first(a: Array, layout: str) -> Array:
    """The array as engines see it, (N, C, *spatial): a view."""
    return _moved(a, -1, 1) if layout == "channels_last" else a


def _as_laid_out(a: Array, layout: str) -> Array:
    return _moved(a, 1, -1) if layout == "channels_last" else a


def channels_inner(x: Array) -> Array:
    """The same (N, C, *spatial) values with the channels innermost in memory, where that is another order and the engine is the faster for it."""
    if type(x) is not np.ndarray or x.ndim < 3 or is_channels_last(x) or x.size <= x.shape[0] * x.shape[1]:
        return x
    if current().engine not in ("auto", "jit"):
        return x
    turned = np.moveaxis(x, 1, -1)
    if x.shape[1] == 1:  # the same order in memory, and strides that say so
        return np.moveaxis(np.ascontiguousarray(x).reshape(turned.shape), -1, 1)
    made = around.in_order(turned)
    return np.moveaxis(np.ascontiguousarray(turned) if made is None else made, -1, 1)


def _moved(a: Any, source: int, destination: int) -> Any:
    return a.moved_axis(source, destination) if type(a) is DeviceArray else np.moveaxis(a, source, destination)


def check_bias(bias: Value | None, channels: int) -> None:
    """Raises: ShapeError unless there is one value per channel of the result."""
    if bias is not None and bias.shape != (channels,):
        raise ShapeError(f"bias has shape {bias.shape}, wanted ({channels},): one value per channel of the result")


@lru_cache(maxsize=1024)
def margin_free(geometry: ConvGeometry) -> ConvGeometry:
    """The same convolution over a large side that has its margin already: no padding."""
    size = tuple(n + lo + hi for n, (lo, hi) in zip(geometry.input_size, geometry.padding, strict=True))
    return replace(geometry, input_size=size, padding=((0, 0),) * geometry.ndim)


# -- the operations ----------------------------------------------------------------------------------------------------


def _conv(
    x: Array, w: Array | PreparedWeight, b: Array | None, *, geometry: ConvGeometry, layout: str, accuracy: str | None = None,
    inner: bool = False,
) -> Array:  # fmt: skip
    return fused(
        "conv", channels_inner(x) if inner else x, w, None if b is None else Epilogue(bias=b), geometry, layout, accuracy
    )


def _conv_transpose(
    y: Array, w: Array | PreparedWeight, b: Array | None, *, geometry: ConvGeometry, layout: str, accuracy: str | None = None,
    inner: bool = False,
) -> Array:  # fmt: skip
    return fused(
        "conv_transpose",
        channels_inner(y) if inner else y,
        w,
        None if b is None else Epilogue(bias=b),
        geometry,
        layout,
        accuracy,
    )


def fused(
    contraction: str, a: Array, w: Array | PreparedWeight, epilogue: Epilogue | None, geometry: ConvGeometry, layout: str,
    accuracy: str | None = None,
) -> Array:  # fmt: skip
    """One contraction with its epilogue, which the engine gets as it is; nothing is recorded."""
    if layout == "channels_first":
        return run(contraction, geometry, a, w, epilogue, accuracy)
    return _as_laid_out(run(contraction, geometry, channels_first(a, layout), w, epilogue, accuracy), layout)


def _conv_weight_grad(
    x: Array, y: Array, *, geometry: ConvGeometry, layout: str, accuracy: str | None = None, inner: bool = False
) -> Array:
    if inner:
        x, y = channels_inner(x), channels_inner(y)
    return run("conv_weight_grad", geometry, channels_first(x, layout), channels_first(y, layout), None, accuracy)


def accuracy_option(accuracy: object) -> dict[str, Any]:
    """What a contraction records of it: an accuracy asked for by the call is that of its gradients, too; None is the setting of each call.

    Raises: OptionError for a word that is none.
    """
    if accuracy is None:
        return {}
    check_accuracy(accuracy)
    return {"accuracy": accuracy}


def _sum_over_space(g: Array, *, layout: str) -> Array:
    """Sum over batch and space in one order for any layout: pixels of an image, then images as a tree."""
    g = channels_first(g, layout)
    return total(g, (0, *range(2, g.ndim)), keepdims=False).astype(g.dtype, copy=False)


def _spread_over_space(b: Array, *, shape: tuple[int, ...], layout: str) -> Array:
    axis = len(shape) - 1 if layout == "channels_last" else 1
    return np.broadcast_to(b.reshape([-1 if k == axis else 1 for k in range(len(shape))]), shape).copy()


def _bias_rule(g: Any, ans: Any, *args: Any, geometry: ConvGeometry, layout: str, **how: Any) -> Any:
    return sum_over_space(g, layout=layout)


sum_over_space: Primitive = primitive(
    "sum_over_space",
    _sum_over_space,
    [lambda g, ans, a, layout: spread_over_space(g, shape=a.shape, layout=layout)],
    saves=(),
    linear=(0,),
)

spread_over_space: Primitive = primitive(
    "spread_over_space",
    _spread_over_space,
    [lambda g, ans, b, shape, layout: sum_over_space(g, layout=layout)],
    saves=(),
    linear=(0,),
)

conv_op: Primitive = primitive(
    "conv",
    _conv,
    [
        lambda g, ans, x, w, b, **kw: conv_transpose_op(g, w, None, **kw),
        lambda g, ans, x, w, b, **kw: conv_weight_grad_op(x, g, **kw),
        _bias_rule,
    ],
    saves=(0, 1),
    linear=(0, 1),
    silent=True,
)

conv_transpose_op: Primitive = primitive(
    "conv_transpose",
    _conv_transpose,
    [
        lambda g, ans, y, w, b, **kw: conv_op(g, w, None, **kw),
        lambda g, ans, y, w, b, **kw: conv_weight_grad_op(g, y, **kw),
        _bias_rule,
    ],
    saves=(0, 1),
    linear=(0, 1),
    silent=True,
)

conv_weight_grad_op: Primitive = primitive(
    "conv_weight_grad",
    _conv_weight_grad,
    [
        lambda g, ans, x, y, **kw: conv_transpose_op(y, g, None, **kw),
        lambda g, ans, x, y, **kw: conv_op(x, g, None, **kw),
    ],
    saves=(0, 1),
    linear=(0, 1),
    silent=True,
)


def _sum_over_space_on_device(g: Any, *, layout: str) -> Any:
    return device_kernels("channel sums", g).channel_sums(channels_first(g, layout), "plain", True)[0]


for _op in (conv_op, conv_transpose_op, conv_weight_grad_op):
    _op.on_device = _op.forward  # the engine takes arrays wherever they lie
sum_over_space.on_device = _sum_over_space_on_device


def records(*values: object) -> bool:
    """Whether one of the values is a Tensor that a gradient can be asked for."""
    return any(isinstance(v, Tensor) and v.requires_grad for v in values)
