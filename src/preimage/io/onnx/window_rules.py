"""Which shapes ONNX's operators give that have windows, grids, steps or graphs inside (`io.graph.facts`)."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import Any

from preimage.io.graph import Graph
from preimage.io.graph.facts import Call, Fact, Shapes, infer, shapes_of
from preimage.io.graph.sizes import Dim, Size, UnknownError
from preimage.io.graph.word_shapes import contraction, of_rank, reduced, windows
from preimage.io.onnx.operators.contractions import pairs_of
from preimage.ops.sampling import simplest_fraction

__all__: list[str] = []

MS = "onnx.com.microsoft::"
_WORDS = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower", "VALID": "valid"}


def _window(call: Call, ndim: int) -> tuple[Any, Any, Any]:
    """Strides, padding and dilations."""
    node = call.node
    strides, dilations = (node.integers(k, ()) or (1,) * ndim for k in ("strides", "dilations"))
    word = node.word("auto_pad", "NOTSET")
    padding = _WORDS[word] if word != "NOTSET" else pairs_of(list(node.integers("pads", ())) or None, ndim, node.op)
    return strides, padding, dilations


def _fixed(dims: Sequence[Dim]) -> list[int]:
    if any(isinstance(dim, Size) for dim in dims):
        raise UnknownError("a kernel of open size")
    return [int(dim) for dim in dims]  # type: ignore[arg-type]


def _conv(call: Call, at: int) -> Shapes:
    w = call.shape(at)
    kernel = _fixed(w[2:])
    return [contraction(call.shape(0), w[0], kernel, *_window(call, len(kernel)))]


shapes_of("onnx.Conv", "onnx.ConvInteger", "onnx.DeformConv", MS + "FusedConv")(lambda call: _conv(call, 1))
shapes_of("onnx.QLinearConv")(lambda call: _conv(call, 3))


def _conv_transpose(call: Call, at: int) -> Shapes:
    x, w, node = call.shape(0), call.shape(at), call.node
    kernel = _fixed(w[2:])
    channels = w[1] * node.integer("group", 1)
    if node.attributes.get("output_shape") is not None:
        return [[x[0], channels, *node.integers("output_shape")[-len(kernel) :]]]
    extra = node.integers("output_padding", ()) or None
    return [contraction(x, channels, kernel, *_window(call, len(kernel)), transposed=True, extra=extra)]


shapes_of("onnx.ConvTranspose")(lambda call: _conv_transpose(call, 1))
shapes_of("quantised_conv_transpose")(lambda call: _conv_transpose(call, 3))


@shapes_of("onnx.MaxPool", "onnx.AveragePool", "onnx.LpPool")
def _pool(call: Call) -> Shapes:
    kernel = call.node.integers("kernel_shape")
    found = windows(call.shape(0), kernel, *_window(call, len(kernel)), call.node.flag("ceil_mode"))
    return [found, found]


@shapes_of("onnx.GlobalAveragePool", "onnx.GlobalMaxPool", "onnx.GlobalLpPool")
def _global(call: Call) -> Shapes:
    x = call.shape(0)
    return [reduced(x, range(2, len(x)), True)]


@shapes_of(MS + "QLinearGlobalAveragePool")
def _qlinear_global(call: Call) -> Shapes:
    x = call.shape(0)
    return [reduced(x, range(1, len(x) - 1) if call.node.flag("channels_last") else range(2, len(x)), True)]


@shapes_of("onnx.MaxUnpool")
def _max_unpool(call: Call) -> Shapes:
    x = call.shape(0)
    if call.has(2):
        return [[*x[:2], *call.contents(2)[2:]]]
    kernel = call.node.integers("kernel_shape")
    strides, pairs, _ = _window(call, len(kernel))
    space = [(n - 1) * s + k - lo - hi for n, s, k, (lo, hi) in zip(x[2:], strides, kernel, pairs, strict=True)]
    return [[*x[:2], *space]]


@shapes_of("onnx.Col2Im")
def _col2im(call: Call) -> Shapes:
    x, block = call.shape(0), call.integers(2)
    count = 1
    for k in block:
        count *= k
    return [[x[0], x[1] // count, *call.contents(1)]]


@shapes_of("onnx.Resize", "onnx.Upsample")
def _resize(call: Call) -> Shapes:
    x, node = call.shape(0), call.node
    axes = node.attributes.get("axes")
    which = list(range(len(x))) if axes is None else [call.axis(a, len(x)) for a in node.integers("axes")]
    found: list[Dim | None] = list(x)
    if node.op == "onnx.Resize" and call.has(3) and call.fact(3).shape != (0,):
        try:
            sizes = call.contents(3)
        except UnknownError:
            return [of_rank(len(x))]
        if node.word("keep_aspect_ratio_policy", "stretch") != "stretch":
            return [of_rank(len(x))]
        for axis, size in zip(which, sizes, strict=True):
            found[axis] = size
        return [found]
    for axis, scale in zip(which, _scales(call), strict=True):
        size = x[axis]
        if scale.denominator == 1:
            found[axis] = size * int(scale)
        else:
            found[axis] = None if isinstance(size, Size) else floor(size * scale)
    return [found]


def _scales(call: Call) -> list[Any]:
    if call.node.op == "onnx.Upsample" and call.node.attributes.get("scales") is not None:
        import numpy as np

        return [simplest_fraction(np.float32(v)) for v in call.node.numbers("scales")]
    values = call.fact(2 if call.node.op == "onnx.Resize" else 1).known
    if values is None or values.dtype.kind != "f":
        raise UnknownError("the scales")
    return [simplest_fraction(v) for v in values.reshape(-1)]


@shapes_of("onnx.GridSample")
def _grid_sample(call: Call) -> Shapes:
    return [[*call.shape(0)[:2], *call.shape(1)[1:-1]]]


@shapes_of("onnx.RoiAlign")
def _roi_align(call: Call) -> Shapes:
    sides = (call.node.integer(f"output_{side}", 1) for side in ("height", "width"))
    return [[call.shape(1)[0], call.shape(0)[1], *sides]]


@shapes_of("onnx.MaxRoiPool")
def _max_roi_pool(call: Call) -> Shapes:
    return [[call.shape(1)[0], call.shape(0)[1], *call.node.integers("pooled_shape")]]


@shapes_of("onnx.AffineGrid")
def _affine_grid(call: Call) -> Shapes:
    n, _, *out = call.contents(1)
    return [[n, *out, len(out)]]


@shapes_of("onnx.RNN", "onnx.GRU", "onnx.LSTM", MS + "DynamicQuantizeLSTM")
def _recurrent(call: Call) -> Shapes:
    x, r = call.shape(0), call.shape(2)
    directions, hidden = r[0], r[1 if call.node.op.endswith("DynamicQuantizeLSTM") else 2]  # whose weights lie transposed
    if call.node.integer("layout", 0):
        batch, steps = x[:2]
        return [[batch, steps, directions, hidden], *[[batch, directions, hidden]] * 2]
    steps, batch = x[:2]
    return [[steps, directions, batch, hidden], *[[directions, batch, hidden]] * 2]


# -- graphs inside nodes -----------------------------------------------------------------------------------------------


def _inside(call: Call, graph: Graph, own: Sequence[Fact]) -> list[Fact]:
    """The facts of a graph's outputs for its own inputs; those of outer values come by name."""
    captured = call.node.words("captured", ())
    outer = dict(zip(captured, call.facts[len(call) - len(captured) :], strict=True))
    names = [item.name for item in graph.inputs if item.name not in outer]
    given = dict(zip(names, own, strict=False)) | {k: f for k, f in outer.items() if f is not None}
    facts = infer(graph, {name: _inner(fact, name) for name, fact in given.items()})
    return [facts[key] for key in graph.outputs]


def _inner(fact: Fact, name: str) -> Fact:
    """A fact in the words of the graph inside: what is open outside is open there under its own name, so that no two names meet."""
    if fact.shape is None:
        return fact
    shape = tuple(Size.of(f"{name}.{axis}") if isinstance(dim, Size) else dim for axis, dim in enumerate(fact.shape))
    return Fact(fact.dtype, shape, fact.known)


def _outer(fact: Fact) -> Fact | Sequence[Dim | None] | None:
    """A fact of a graph inside as one outside: what is open there is open here."""
    if fact.shape is None or any(isinstance(dim, Size) for dim in fact.shape):
        return None if fact.shape is None else [None if isinstance(dim, Size) else dim for dim in fact.shape]
    return Fact(fact.dtype, fact.shape, fact.known)


@shapes_of("onnx.If")
def _if(call: Call) -> Shapes:
    condition = call.fact(0).known
    if condition is not None and condition.size == 1:
        taken = "then_branch" if condition.reshape(()) else "else_branch"
        return [_outer(fact) for fact in _inside(call, call.node.held(taken, Graph), ())]
    branches = [_inside(call, call.node.held(k, Graph), ()) for k in ("then_branch", "else_branch")]
    found: list[list[Dim | None] | None] = []
    for a, b in zip(*branches, strict=False):
        if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
            found.append(None)
        else:
            found.append([m if m == n and not isinstance(m, Size) else None for m, n in zip(a.shape, b.shape, strict=True)])
    return found


@shapes_of("onnx.Loop")
def _loop(call: Call) -> Shapes:
    """What is carried may change its shape from trip to trip, and what is collected has one axis only where there is no trip."""
    return [None] * len(call.node.outputs)


@shapes_of("onnx.Scan")
def _scan(call: Call) -> Shapes:
    """The states as the body makes them, and what it collects with the length of the sequences; a length that is open may be none."""
    node, body = call.node, call.node.held("body", Graph)
    own = call.facts[: len(call) - len(node.words("captured", ()))]
    states = len(own) - node.integer("num_scan_inputs")
    axes = node.integers("scan_input_axes", (0,) * len(own[states:]))
    length: Dim = 0
    given = [Fact(fact.dtype if fact is not None else None) for fact in own[:states]]
    for fact, axis in zip(own[states:], axes, strict=True):
        shape = fact.shape if fact is not None else None
        if fact is None or shape is None:
            raise UnknownError("the shape of a sequence")
        at = call.axis(axis, len(shape))
        length = shape[at]
        given.append(Fact(fact.dtype, (*shape[:at], *shape[at + 1 :])))
    if isinstance(length, Size) or length < 1:
        raise UnknownError("how long the sequences are")
    found: list[list[Dim | None] | None] = []
    places = node.integers("scan_output_axes", (0,) * (len(body.outputs) - states))
    for position, fact in enumerate(_inside(call, body, given)):
        inner: list[Dim | None] | None = None
        if fact.shape is not None:
            inner = [None if isinstance(dim, Size) else dim for dim in fact.shape]
            if position >= states:
                inner.insert(call.axis(places[position - states], len(inner) + 1), length)
        found.append(inner)
    return found


@shapes_of("onnx.DFT", "onnx.STFT", "onnx.MelWeightMatrix")
def _transforms(call: Call) -> Shapes:
    """The number of axes; which sizes they have, contents decide."""
    return [of_rank({"onnx.STFT": 4, "onnx.MelWeightMatrix": 2}.get(call.node.op) or len(call.shape(0)))]
