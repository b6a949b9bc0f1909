"""One layer's sizes in notebooks: geometries, plans, coverage."""

from __future__ import annotations

import numpy as np

from preimage.analysis.coverage import AxisCoverage, Coverage
from preimage.engines import Plan
from preimage.geometry import ConvGeometry
from preimage.report import draw, mechanics
from preimage.report.notebook.parts import block, card, count, drawing, facts, heat, more, pictures, shape, table

__all__ = ["axis_coverage", "coverage", "geometry", "plan"]

#: Cells of an axis that are drawn with a wire for each tap.
MOST_WIRED = 24


def geometry(g: ConvGeometry) -> str:
    """Sizes, fields and costs of the convolution, and which input cells the first outputs read."""
    rows = [(name, value) for name, value in mechanics.facts(g, False, 4) if name != "arrays"]
    rows.append(("arrays, float32", f"{count(g.array_bytes(4))}B"))
    axes = [axis for axis in range(g.ndim) if axis == 0 or _wires(g, axis) != _wires(g, axis - 1)]
    drawn = "".join(_axis(g, axis, len(axes) > 1) for axis in axes)
    return card("Geometry", facts(rows), drawn, note=f"{shape(g.input_size)} → {shape(g.output_size)}")


def _wires(g: ConvGeometry, axis: int) -> tuple[object, ...]:
    return g.input_size[axis], g.output_size[axis], g.kernel_size[axis], g.stride[axis], g.padding[axis], g.dilation[axis]


def _axis(g: ConvGeometry, axis: int, named: bool) -> str:
    """Which inputs each output reads: drawn where there is room, else the first of them in letters."""
    name = f"which inputs each output reads{f', axis {axis}' if named else ''}"
    if g.input_size[axis] + sum(g.padding[axis]) <= MOST_WIRED and g.output_size[axis]:
        return drawing(lambda: draw.taps(g, axis=axis))
    return more(name, block("\n".join([*mechanics.axis_picture(g, axis), *mechanics.coverage_lines(g, axis)])))


def plan(made: Plan) -> str:
    """What would run, and what not, with the reasons."""
    g = made.geometry
    rows = [
        ("input, weight, output", f"{shape(g.input_shape)}; {shape(g.weight_shape)}; {shape(g.output_shape)}; {made.dtype}"),
        ("work, arrays", f"{count(made.work_flop)}flop; {count(made.array_bytes)}B"),
        *mechanics.plan_lines(made),
    ]
    return card(f"Plan of {made.contraction}", facts(rows), note=f"{made.engine}: {made.algorithm}")


def coverage(found: Coverage) -> str:
    """How many taps land on each cell, as a picture, with the verdict of each axis."""
    head = ("axis", "cells", "taps of the phases", "period", "interior", "verdict")
    rows = [
        (
            k,
            len(a.counts),
            ", ".join(map(str, a.phases)),
            a.period,
            f"{a.interior[0]} to {a.interior[1]}",
            a.verdict or "too small",
        )
        for k, a in enumerate(found.axes)
    ]
    return card("Coverage", table(head, rows), _picture(found.counts), note=_words(found.verdict, found.energy))


def axis_coverage(found: AxisCoverage) -> str:
    """The taps on each cell of one axis."""
    rows = [("taps of the phases", ", ".join(map(str, found.phases))), ("period", found.period),
            ("interior", f"{found.interior[0]} to {found.interior[1]}")]  # fmt: skip
    counts = np.array(found.counts)
    return card("Coverage of one axis", facts(rows), _picture(counts), note=_words(found.verdict, found.energy))


def _words(verdict: str | None, energy: float | None) -> str:
    if verdict is None:
        return "too small to tell"
    return f"{verdict}, energy {energy:.1%}" if energy else verdict


def _picture(counts: np.ndarray) -> str:
    if counts.ndim not in (1, 2) or not counts.size:
        return ""
    return pictures([heat(counts, f"taps on each cell, {counts.min()} to {counts.max()}")])
