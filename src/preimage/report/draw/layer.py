"""One layer at work, frame by frame: sliding, painting, the three gradients. The numbers are those of a trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.analysis import LayerTrace, Stroke, Sum
from preimage.errors import OptionError
from preimage.report.draw.film import Drawing, spread, stacked
from preimage.report.draw.parts import Grid, card, listed, number, refuse_large, summed
from preimage.report.draw.scene import Scene

__all__ = ["gradients", "paint", "slide"]

Array = NDArray[Any]
Index = tuple[int, ...]


def slide(trace: LayerTrace, *, cell: float = 34.0) -> Drawing:
    """The outputs one after the other: each is the sum of a window of the input times the weights.

    Of a batch the first image is drawn. Raises: OptionError for arrays too large to draw.
    """
    _check(trace)
    shape = trace.output_shape
    steps = [(0, *i) for i in np.ndindex(*shape[1:])]
    largest = {name: _largest(a) for name, a in (("x", trace.x[0]), ("w", trace.w), ("y", trace.output[0]))}
    frames = []
    for at in spread(steps):
        total, done = trace.slide(at), steps.index(at)
        grids: list[Grid | str] = [
            _input_grid(trace, "input x", total.places.first, largest["x"]),
            "×",
            _weight_grid(trace, total.places.second, largest["w"]),
            "=",
            _output_grid(trace, trace.output[0], {i[1:] for i in steps[done + 1 :]}, {at[1:]}, largest["y"]),
        ]
        formula = [f"y[{listed(at[1:])}] = {_written(total)}"]
        frames.append(card(_title(trace, "slides"), grids, formula, f"Output {at[1:]}: its window times the stencil", cell=cell))
    return Drawing(tuple(frames), still=len(frames) // 2)


def paint(
    trace: LayerTrace, *, skip_zeros: bool = False, numbers: bool | None = None, cell: float = 34.0, title: str | None = None,
    formula: bool = True,
) -> Drawing:  # fmt: skip
    """The input's activations one after the other: each adds its stencil, scaled, to the output as it grows.

    skip_zeros: leave out activations that add nothing. numbers: whether values are written; None where they have room.
    Of a batch the first image is drawn. Raises: OptionError for arrays too large to draw.
    """
    _check(trace)
    first = int(np.prod(trace.input_shape[1:]))
    strokes = [f for f, _ in zip(trace.painting(), range(first), strict=False)]
    chosen = [f for f in strokes if not (skip_zeros and f.stroke is not None and f.stroke.value == 0)] or strokes[-1:]
    largest = {"x": _largest(trace.x[0]), "w": _largest(trace.w), "y": _largest(strokes[-1].output[0])}
    frames = []
    for frame in spread(chosen):
        stroke = frame.stroke
        assert stroke is not None
        frames.append(_stroke_card(trace, stroke, frame.output[0], largest, numbers, cell, title, formula))
    bias = " + b" if trace.b is not None else ""
    whole: list[Grid | str] = [
        _grid(trace.x[0], "activations x", largest["x"], numbers),
        "×",
        _grid(trace.w, _stencils(trace), largest["w"], numbers),
        "=",
        _grid(trace.output[0], f"picture y{bias}", None if bias else largest["y"], numbers),
    ]
    say = [f"all {len(chosen)} activations painted{' and the bias added' if bias else ''}"] if formula else []
    frames.append(card(_title(trace, "paints") if title is None else title, whole, say, "The finished output", cell=cell))
    return Drawing(tuple(frames), still=len(frames) // 2, seconds=0.35, last_seconds=2.5)


def _stroke_card(
    trace: LayerTrace, stroke: Stroke, output: Array, largest: dict[str, float], numbers: bool | None, cell: float,
    title: str | None, formula: bool,
) -> Scene:  # fmt: skip
    x = _grid(trace.x[0], "activations x", largest["x"], numbers)
    x.marked = {stroke.index[1:]}
    w = _grid(trace.w, _stencils(trace), largest["w"], numbers)
    w.lit = _set(stroke.weight_index)
    y = _grid(output, "picture y", largest["y"], numbers)
    y.marked = _set(stroke.outputs[:, 1:])
    say = [f"x[{listed(stroke.index[1:])}] = {number(stroke.value)}: add {number(stroke.value)} times its stencil"]
    made = _title(trace, "paints") if title is None else title
    return card(made, [x, "×", w, "→", y], say if formula else [], f"Activation {stroke.index[1:]} paints", cell=cell)


def gradients(trace: LayerTrace, grad_output: Any, *, cell: float = 28.0) -> Drawing:
    """The three gradients side by side: of one weight, of one input, of one bias, each with the terms that meet in it.

    grad_output: the gradient that comes from above, of the output's shape. Raises: OptionError for arrays too large to draw;
    ShapeError for another shape.
    """
    _check(trace)
    g = np.asarray(grad_output)
    weights = list(np.ndindex(*trace.w.shape))
    cells = [(0, *i) for i in np.ndindex(*trace.input_shape[1:])]
    weight_sums = {at: trace.grad_weight(at, g) for at in weights}
    input_sums = {at: trace.grad_input(at, g) for at in cells}
    grad_w = np.array([weight_sums[at].value for at in weights]).reshape(trace.w.shape)
    grad_x = np.array([input_sums[at].value for at in cells]).reshape(trace.input_shape[1:])
    steps = spread(list(range(max(len(weights), len(cells)))), 36)
    frames = []
    for k in steps:
        at_w, at_x = weights[k * len(weights) // (steps[-1] + 1)], cells[k * len(cells) // (steps[-1] + 1)]
        rows = [
            _weight_card(trace, weight_sums[at_w], g, grad_w, cell),
            _input_card(trace, input_sums[at_x], g, grad_x, cell),
        ]
        if trace.b is not None:
            rows.append(_bias_card(trace, at_x[1] if not trace.transposed else 0, g, cell))
        frames.append(stacked(rows))
    return Drawing(tuple(frames), still=0)


def _weight_card(trace: LayerTrace, total: Sum, g: Array, grad_w: Array, cell: float) -> Scene:
    first, second = total.places.first, total.places.second
    inside = ~total.places.outside
    on_x, on_g = (second, first) if trace.transposed else (first, second)
    lit = _set(on_x[:, 1:])
    marked = set() if trace.transposed else lit
    x = Grid(trace.x[0], "input x", margin=_margin(trace, not trace.transposed), lit=lit, marked=marked)
    y = _grid(g[0], "gradient from above")
    y.lit = _set(on_g[inside][:, 1:] if trace.transposed else on_g[:, 1:])
    out = Grid(grad_w, "gradient of w", marked={total.index})
    formula = [
        f"grad w[{listed(total.index)}] = {_written(total)}",
        "one weight is used at every position: its gradient is the sum over them",
    ]
    return card("Gradient of a weight", [x, "×", y, "=", out], formula, f"The gradient of weight {total.index}", cell=cell)


def _input_card(trace: LayerTrace, total: Sum, g: Array, grad_x: Array, cell: float) -> Scene:
    y = _grid(g[0], "gradient from above")
    y.lit = _set(total.places.first[:, 1:])
    w = Grid(trace.w, _stencils(trace), lit=_set(total.places.second))
    out = _grid(grad_x, "gradient of x")
    out.marked = {total.index[1:]}
    formula = [
        f"grad x[{listed(total.index[1:])}] = {_written(total)}",
        "from all outputs that this input fed, back through the same weights",
    ]
    return card("Gradient of an input", [y, "×", w, "=", out], formula, f"The gradient of input {total.index[1:]}", cell=cell)


def _bias_card(trace: LayerTrace, channel: int, g: Array, cell: float) -> Scene:
    assert trace.b is not None
    channel = min(channel, len(trace.b) - 1)
    total = trace.grad_bias(channel, g)
    y = _grid(g[0], "gradient from above")
    y.lit = {tuple(i) for i in total.places.first[:, 1:].tolist()}
    out = Grid(np.array([[total.value]]), "gradient of b", marked={(0, 0)})
    formula = [f"grad b[{channel}] = the sum of all {len(total)} = {number(total.value)}"]
    return card("Gradient of the bias", [y, "→", out], formula, f"The gradient of bias {channel}", cell=cell)


# -- pieces ------------------------------------------------------------------------------------------------------------


def _check(trace: LayerTrace) -> None:
    if trace.input_shape[0] < 1 or not trace.w.size:
        raise OptionError("nothing to draw: the batch or the weights are empty")
    for shape, what in (
        (trace.input_shape[1:], "the input"),
        (trace.output_shape[1:], "the output"),
        (trace.w.shape, "the weights"),
    ):
        refuse_large(shape, what)


def _title(trace: LayerTrace, verb: str) -> str:
    g = trace.geometry
    if trace.fully_connected:
        return "A fully connected layer"
    name = "Deconvolution" if trace.transposed else "Convolution"
    options = [f"kernel {_short(g.kernel_size)}", f"stride {_short(g.stride)}"]
    if any(v for pair in g.padding for v in pair):
        options.append(f"padding {_short(tuple(lo if lo == hi else (lo, hi) for lo, hi in g.padding))}")
    if any(d != 1 for d in g.dilation):
        options.append(f"dilation {_short(g.dilation)}")
    if g.groups > 1:
        options.append(f"{g.groups} groups")
    return f"{name} {verb}: {', '.join(options)}"


def _short(values: Sequence[Any]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "×".join(map(str, values))


def _largest(values: Array) -> float:
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    return float(finite.max()) if finite.size else 0.0


def _set(rows: Array) -> set[Index]:
    return {tuple(r) for r in rows.tolist()}


def _margin(trace: LayerTrace, here: bool) -> tuple[tuple[int, int], ...]:
    """The padding around the side that has it, where it is positive."""
    return tuple((max(lo, 0), max(hi, 0)) for lo, hi in trace.geometry.padding) if here else ()


def _stencils(trace: LayerTrace) -> str:
    return f"stencil{'s' * (trace.w.shape[0] * trace.w.shape[1] > 1)} w"


def _grid(values: Array, caption: str, largest: float | None = None, numbers: bool | None = None) -> Grid:
    return Grid(values, caption, largest=largest, numbers=numbers)


def _input_grid(trace: LayerTrace, caption: str, places: Array, largest: float) -> Grid:
    lit = _set(places[:, 1:])
    marked = set() if trace.transposed else lit
    return Grid(trace.x[0], caption, margin=_margin(trace, not trace.transposed), lit=lit, marked=marked, largest=largest)


def _weight_grid(trace: LayerTrace, places: Array, largest: float) -> Grid:
    return Grid(trace.w, _stencils(trace), lit=_set(places), largest=largest)


def _output_grid(trace: LayerTrace, values: Array, blank: set[Index], marked: set[Index], largest: float) -> Grid:
    return Grid(values, "output y", blank=blank, marked=marked, largest=largest)


def _written(total: Sum) -> str:
    """The products that are not over the padding, then the value."""
    inside = ~total.places.outside
    pairs = list(zip(total.inputs[inside].tolist(), total.weights[inside].tolist(), strict=True))
    return summed(pairs, float(total.value), total.bias)
