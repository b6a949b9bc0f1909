"""Which shapes the words of graphs give (`facts`), and the rules that importers' own words share."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from preimage.geometry.sizes import conv_size, conv_transpose_size, extent_of
from preimage.io.graph.facts import Call, ShapeRule, Shapes, shapes_of
from preimage.io.graph.nodes import Node
from preimage.io.graph.sizes import Dim, Shape, Size, UnknownError, broadcast, product

__all__ = [
    "broadcasting", "concatenated", "contraction", "like", "matrix_product", "of_rank", "reduced", "reshaped", "windows",
]  # fmt: skip

Pairs = Sequence[tuple[int, int]]


def like(*positions: int) -> ShapeRule:
    """Outputs shaped as these inputs."""
    return lambda call: [call.shape(k) for k in positions]


def broadcasting(outputs: int = 1) -> ShapeRule:
    """All inputs broadcast."""
    return lambda call: [broadcast(*(call.shape(k) for k in range(len(call)) if call.has(k)))] * outputs


def of_rank(rank: int) -> list[Dim | None]:
    """A shape of which only the number of axes is known."""
    return [None] * rank


def reduced(shape: Shape, axes: Sequence[int], keep: bool) -> list[Dim]:
    """Without these axes, or with them as 1."""
    return [1 if k in axes else dim for k, dim in enumerate(shape) if keep or k not in axes]


def concatenated(shapes: Sequence[Shape], axis: int) -> list[Dim | None]:
    """Side by side along an axis; elsewhere the sizes are equal, so that one known is known for all."""
    first = shapes[0]
    if any(len(shape) != len(first) for shape in shapes):
        raise UnknownError("ranks that differ")
    axis %= len(first)
    total: Dim = 0
    for shape in shapes:
        total = total + shape[axis]
    return [total if k == axis else _equal([shape[k] for shape in shapes]) for k in range(len(first))]


def _equal(dims: Sequence[Dim]) -> Dim:
    """Of sizes that must be equal the one of which most is known."""
    fixed = [dim for dim in dims if not isinstance(dim, Size)]
    return fixed[0] if fixed else dims[0]


def reshaped(shape: Shape | None, target: Sequence[Dim], zero_copies: bool) -> list[Dim | None]:
    """The shape that a reshape to `target` gives: 0 copies, -1 takes what is left."""
    wanted: list[Dim] = []
    for k, dim in enumerate(target):
        copies = zero_copies and dim == 0
        if copies and (shape is None or k >= len(shape)):
            return [None if d in (0, -1) else d for d in target]
        wanted.append(shape[k] if copies and shape is not None else dim)
    places = [k for k, dim in enumerate(wanted) if dim == -1]
    found: list[Dim | None] = list(wanted)
    if places:
        others = product(dim for dim in wanted if dim != -1)
        found[places[0]] = None if shape is None or others == 0 else product(shape) // others
    return found


def matrix_product(a: Shape, b: Shape) -> list[Dim | None]:
    """The matrix product over the last two axes."""
    if not a or not b:
        raise UnknownError("a product without axes")
    rows = list(a[-2:-1])
    columns = list(b[-1:]) if len(b) > 1 else []
    return [*broadcast(a[:-2], b[:-2]), *rows, *columns]


# -- windows -----------------------------------------------------------------------------------------------------------


def contraction(
    x: Shape, channels: Dim, kernel: Sequence[int], stride: Sequence[int], padding: Pairs | str, dilation: Sequence[int], *,
    transposed: bool = False, extra: Sequence[int] | None = None,
) -> list[Dim | None]:  # fmt: skip
    """What a convolution gives, or its transpose."""
    if len(x) != len(kernel) + 2:
        raise UnknownError("a kernel of another rank")
    pairs = [(0, 0)] * len(kernel) if padding == "valid" else padding
    space: list[Dim | None] = []
    for axis, (n, k, s, d) in enumerate(zip(x[2:], kernel, stride, dilation, strict=True)):
        if isinstance(pairs, str):
            space.append(n * s if transposed else -(-n // s))
            continue
        lo, hi = pairs[axis]
        if transposed:
            space.append(conv_transpose_size(n, lo, hi, extent_of(k, d), s, extra[axis] if extra else 0))  # type: ignore[arg-type]
        else:
            space.append(conv_size(n, lo, hi, extent_of(k, d), s))  # type: ignore[arg-type]
    return [x[0], channels, *space]


def windows(
    x: Shape, kernel: Sequence[int], stride: Sequence[int], padding: Pairs | str, dilation: Sequence[int], ceil_mode: bool
) -> list[Dim | None]:
    """What a pooling gives; rounding up, a last window that would start in the padding behind is left out."""
    if len(x) != len(kernel) + 2:
        raise UnknownError("a kernel of another rank")
    if isinstance(padding, str) or not ceil_mode:
        return contraction(x, x[1], kernel, stride, padding, dilation)
    space: list[Dim | None] = []
    for n, k, s, (lo, hi), d in zip(x[2:], kernel, stride, padding, dilation, strict=True):
        if isinstance(n, Size):
            space.append(None)
            continue
        outputs = conv_size(n, lo, hi + s - 1, extent_of(k, d), s)
        space.append(outputs - 1 if (outputs - 1) * s >= n + lo else outputs)
    return [x[0], x[1], *space]


def _window(node: Node, ndim: int) -> tuple[Any, Any, Any]:
    return node.per_axis("stride", ndim), node.padding(ndim), node.per_axis("dilation", ndim)


@shapes_of("conv", "conv_transpose")
def _contraction(call: Call) -> Shapes:
    x, w, node = call.shape(0), call.shape(1), call.node
    kernel = _fixed(w[2:])
    stride, padding, dilation = _window(node, len(kernel))
    if node.op == "conv":
        return [contraction(x, w[0], kernel, stride, padding, dilation)]
    if node.attributes.get("output_size") is not None:
        return [[x[0], w[1] * node.integer("groups", 1), *node.integers("output_size")]]
    extra = node.integers("output_padding", (0,) * len(kernel))
    extra = extra * len(kernel) if len(extra) == 1 else extra
    channels = w[1] * node.integer("groups", 1)
    return [contraction(x, channels, kernel, stride, padding, dilation, transposed=True, extra=extra)]


def _fixed(dims: Sequence[Dim]) -> list[int]:
    if any(isinstance(dim, Size) for dim in dims):
        raise UnknownError("a kernel of open size")
    return [int(dim) for dim in dims]  # type: ignore[arg-type]


@shapes_of("max_pool", "avg_pool", "max_pool_with_mask")
def _pool(call: Call) -> Shapes:
    x, node = call.shape(0), call.node
    ndim = len(x) - 2
    kernel = node.per_axis("kernel_size", ndim)
    stride = kernel if node.attributes.get("stride") is None else node.per_axis("stride", ndim)
    found = windows(x, kernel, stride, node.padding(ndim), node.per_axis("dilation", ndim), node.flag("ceil_mode"))
    return [found, found]


@shapes_of("unfold_maps")
def _unfold_maps(call: Call) -> Shapes:
    x, node = call.shape(0), call.node
    ndim = len(x) - 2
    kernel, padding = node.per_axis("kernel_size", ndim), node.padding(ndim)
    if isinstance(padding, str):
        raise UnknownError("padding by a word")
    pairs = zip(x[2:], kernel, node.per_axis("stride", ndim), padding, node.per_axis("dilation", ndim), strict=True)
    space = [conv_size(n, lo, hi, extent_of(k, d), s) for n, k, s, (lo, hi), d in pairs]  # type: ignore[arg-type]
    return [[x[0], x[1] * prod(kernel), *space]]


@shapes_of("global_avg_pool", "global_max_pool")
def _global(call: Call) -> Shapes:
    x = call.shape(0)
    return [reduced(x, range(2, len(x)), True)]


@shapes_of("adaptive_avg_pool", "adaptive_max_pool")
def _adaptive(call: Call) -> Shapes:
    x, given = call.shape(0), call.node.attributes.get("output_size")
    sizes: list[Any] = list(given) if isinstance(given, list | tuple) else [given] * (len(x) - 2)
    return [[*x[:2], *(n if size is None else size for n, size in zip(x[2:], sizes, strict=True))]]


@shapes_of("upsample")
def _upsample(call: Call) -> Shapes:
    x, size = call.shape(0), call.node.attributes.get("size")
    if size is not None:
        return [[*x[:2], *(size if isinstance(size, list | tuple) else [size] * (len(x) - 2))]]
    factor = call.node.attributes.get("scale_factor")
    factors: list[Any] = list(factor) if isinstance(factor, list | tuple) else [factor] * (len(x) - 2)
    if all(isinstance(f, int) or (isinstance(f, float) and f.is_integer()) for f in factors):
        return [[*x[:2], *(n * int(f) for n, f in zip(x[2:], factors, strict=True))]]
    return [[*x[:2], *of_rank(len(x) - 2)]]


# -- the others --------------------------------------------------------------------------------------------------------

_SAME = (
    "abs", "exp", "log", "relu", "sigmoid", "softplus", "sqrt", "tanh", "identity", "leaky_relu", "elu", "clip", "prelu", "swish",
    "batch_norm", "lrn", "softmax", "celu", "gelu", "hard_sigmoid", "hard_swish", "log_sigmoid", "log_softmax", "mish", "neg", "reciprocal",
    "rsqrt", "selu", "softsign", "square", "group_norm", "instance_norm", "batch_statistics_norm", "layer_norm", "channels_innermost",
    "rms_norm", "channel_shuffle",
)  # fmt: skip
shapes_of(*_SAME)(like(0))
shapes_of("add", "div", "maximum", "minimum", "mul", "sub", "pointwise", "quantised_pointwise")(broadcasting())


@shapes_of("linear")
def _linear(call: Call) -> Shapes:
    w = call.shape(1)
    return [[*call.shape(0)[:-1], w[1] if call.node.flag("transposed") else w[0]]]


@shapes_of("recurrent")
def _recurrent(call: Call) -> Shapes:
    x, node, hidden = call.shape(0), call.node, call.shape(2)[1]
    batch = x[0] if node.flag("batch_first") else x[1]
    states = [node.integer("count"), batch, hidden]
    return [[*x[:2], hidden * node.integer("directions")], states, states]


@shapes_of("matmul")
def _matmul(call: Call) -> Shapes:
    return [matrix_product(call.shape(0), call.shape(1))]


def _whole(shape: Sequence[Dim | None]) -> Shape:
    if any(dim is None for dim in shape):
        raise UnknownError("a size that is open")
    return tuple(dim for dim in shape if dim is not None)


@shapes_of("attention")
def _attention(call: Call) -> Shapes:
    return [matrix_product(_whole(matrix_product(call.shape(0), call.shape(1))), call.shape(2))]


@shapes_of("reshape")
def _reshape(call: Call) -> Shapes:
    return [reshaped(call.fact(0).shape, call.node.integers("target"), True)]


@shapes_of("flatten")
def _flatten(call: Call) -> Shapes:
    x = call.shape(0)
    start = call.axis(call.node.integer("axis"), len(x))
    end = call.axis(call.node.integer("end_axis", -1), len(x))
    return [[*x[:start], product(x[start : end + 1]), *x[end + 1 :]]]


@shapes_of("transpose")
def _transpose(call: Call) -> Shapes:
    x = call.shape(0)
    return [[x[a] for a in call.node.integers("axes")]]


@shapes_of("concat")
def _concat(call: Call) -> Shapes:
    return [concatenated([call.shape(k) for k in range(len(call))], call.node.integer("axis"))]


@shapes_of("slice_axis")
def _slice_axis(call: Call) -> Shapes:
    x = list(call.shape(0))
    axis = call.axis(call.node.integer("axis"), len(x))
    size, start, stop = x[axis], call.node.attributes.get("start"), call.node.attributes.get("stop")
    found: list[Dim | None] = list(x)
    found[axis] = None if isinstance(size, Size) else len(range(*slice(start, stop).indices(size)))
    return [found]


@shapes_of("tile_axis")
def _tile_axis(call: Call) -> Shapes:
    x = list(call.shape(0))
    axis = call.axis(call.node.integer("axis"), len(x))
    x[axis] = x[axis] * call.node.integer("tiles")
    return [x]
