"""One layer explained in text: sizes, costs, windows, painting, coverage with its verdict, and plans."""

from __future__ import annotations

from preimage.analysis.cost import cost_of_geometry
from preimage.analysis.coverage import AxisCoverage, Coverage, coverage
from preimage.analysis.grids import Relation, conv_axis, transpose_axis
from preimage.engines import Plan
from preimage.geometry import ConvGeometry

__all__ = ["axis_picture", "axis_summary", "coverage_lines", "facts", "plan_lines", "verdict"]

WIDEST = 56


def facts(g: ConvGeometry, transpose: bool, itemsize: int, bias: bool = False) -> list[tuple[str, str]]:
    """What the layer is and costs: names and values."""
    large, small = ("output", "input") if transpose else ("input", "output")
    cost = cost_of_geometry(g, transpose, bias)
    intensity = cost.flop / max(g.array_bytes(itemsize), 1)
    sides = [(small, _times(g.output_shape)), (large, _times(g.input_shape))]
    rows = [
        *(sides if transpose else sides[::-1]),
        ("weight", f"{_times(g.weight_shape)} ({_count(_product(g.weight_shape)).strip()} numbers)"),
        (
            "stride, dilation, groups",
            f"{_list(g.stride)}; {_list(g.dilation)}; {g.groups}{' (depthwise)' if g.is_depthwise else ''}",
        ),
        ("padding (lo, hi)", ", ".join(str(p) for p in g.padding) or "none"),
        ("kernel extent", _list(g.kernel_extent)),
    ]
    if transpose and any(g.remainder):
        rows.append(("output_padding", _list(g.remainder)))
    rows += _fields(g, transpose)
    inside = f", {_count(2 * cost.inside_macs)}flop without taps over the padding" if cost.inside_macs != cost.macs else ""
    added = f", {_count(cost.bias_adds)}of them for the bias" if cost.bias_adds else ""
    rows += [
        ("forward", f"{_count(cost.flop)}flop{added}{inside}"),
        ("input gradient", f"{_count(2 * cost.grad_input_macs)}flop"),
        ("weight gradient", f"{_count(2 * cost.grad_weight_macs)}flop"),
        ("arrays", f"{_count(g.array_bytes(itemsize))}B; {intensity:.3g} flop a byte"),
    ]
    if not transpose:
        rows.append(
            (
                "the transpose gives back",
                "the same size"
                if g.transpose_restores_size
                else f"a side smaller by {_list(g.remainder)}: output_padding={_list(g.remainder)}",
            )
        )
    return rows


def _fields(g: ConvGeometry, transpose: bool) -> list[tuple[str, str]]:
    if not g.ndim:
        return []
    make = transpose_axis if transpose else conv_axis
    seen = [make(g, axis) for axis in range(g.ndim)]
    back = [r.reversed() for r in seen]
    return [
        ("one output sees", f"{_list(_spans(seen))} inputs an axis"),
        ("one input reaches", f"{_list(_spans([r for r in back if r is not None]))} outputs an axis"),
        ("output o lies at input", "; ".join(str(r.grid) for r in seen)),
    ]


def _spans(relations: list[Relation]) -> tuple[str, ...]:
    """How many positions each sees, over the phases."""
    counts = [sorted({len(s) for s in r.sets}) for r in relations]
    return tuple(str(c[0]) if len(c) == 1 else f"{c[0]} to {c[-1]}" for c in counts)


# -- pictures ----------------------------------------------------------------------------------------------------------


def axis_picture(g: ConvGeometry, axis: int, widest: int = WIDEST) -> list[str]:
    """A drawing of one axis: a row for each of the first positions of the small side, a column for each cell of the large side.

    `#` is a tap, `·` a cell that is not met, and the taps over the padding are drawn as `o` outside of the bars.
    """
    size, lo, stride = g.input_size[axis], g.padding[axis][0], g.stride[axis]
    taps, dilation = g.kernel_size[axis], g.dilation[axis]
    left, shown = max(lo, 0), min(size, widest)
    lines = []
    for o in range(min(g.output_size[axis], 5)):
        reads = {o * stride - lo + k * dilation for k in range(taps)}
        if min(reads) >= shown:
            break
        margin = "".join("o" if i in reads else " " for i in range(-left, 0))
        cells = "".join("#" if i in reads else "·" for i in range(shown))
        rest = "…" if shown < size else "|" + "".join("o" if i in reads else " " for i in range(size, max(size, max(reads) + 1)))
        lines.append(f"{o:>4}  {margin}|{cells}{rest}".rstrip())
    return lines


def coverage_lines(g: ConvGeometry, axis: int, widest: int = WIDEST) -> list[str]:
    """Under the columns of `axis_picture`: how many taps land on each cell, and a line that marks the interior."""
    c = coverage(g).axes[axis]
    left, shown = max(g.padding[axis][0], 0), min(len(c.counts), widest)
    more = "…" if shown < len(c.counts) else "|"
    numbers = "".join(str(n) if n < 10 else "+" for n in c.counts[:shown])
    lines = [f"taps  {' ' * left}|{numbers}{more}"]
    first, last = c.interior
    if last > first and first < shown:
        marks = "".join("-" if first <= i < last else " " for i in range(shown))
        lines.append(f"      {' ' * left} {marks}  interior: no border".rstrip())
    return lines


def axis_summary(g: ConvGeometry, axis: int) -> str:
    """What the coverage of one axis comes to, in a sentence."""
    return _axis_verdict(coverage(g).axes[axis], g.stride[axis])


def _axis_verdict(c: AxisCoverage, stride: int) -> str:
    if not c.counts:
        return "the large side is empty"
    few, many = min(c.phases), max(c.phases)
    taps = f"{few} tap{'' if few == 1 else 's'}" if few == many else f"{few} to {many} taps"
    if c.verdict is None:
        whole = f"a whole period of {stride}" if stride > 1 else "any cell"
        return (
            f"too small to tell: the borders reach so far that the interior does not hold {whole} ({taps} a cell without borders)"
        )
    if c.verdict == "gaps":
        return f"gaps: {c.phases.count(0)} of every {stride} cells meet no tap"
    if c.verdict == "even":
        return f"even: {taps} on every cell of the interior"
    return f"uneven: {taps} a cell, again every {c.period} cells"


def verdict(g: ConvGeometry, transpose: bool) -> list[str]:
    """What the coverage means for the layer, and what helps."""
    c: Coverage = coverage(g)
    what = "output" if transpose else "input gradient"
    if c.verdict is None:
        return [f"No verdict about the {what}: on this size the borders reach everywhere. A larger input has an interior."]
    if c.verdict == "even":
        return [f"Even: every cell of the {what}'s interior meets the same number of taps, no checkerboard from the geometry."]
    near = tuple(-(-k // s) * s for k, s in zip(g.kernel_size, g.stride, strict=True))
    if c.verdict == "gaps":
        return [
            f"Gaps: some cells of the {what} meet no tap at all and keep the bias; a kernel of at least the stride fills them."
        ]
    energy = c.energy or 0.0
    return [
        f"Checkerboard: the {what} repeats unevenly every {_list(c.period)} cells; with equal weights {energy:.1%} of the energy of a"
        " constant goes there.",
        f"It helps to use a kernel that the stride divides ({_list(near)}), to make the weights' phases equal"
        " (preimage.analysis.unity), or to up-sample and convolve (preimage.analysis.resize_conv).",
    ]


def plan_lines(plan: Plan) -> list[tuple[str, str]]:
    """A plan as names and values."""
    rows = [
        ("engine, algorithm", f"{plan.engine}: {plan.algorithm}"),
        ("threads, workspace", f"{plan.threads}; {_count(plan.workspace_bytes)}B"),
        ("same bits for any", ", ".join(plan.promises) or "nothing promised"),
    ]
    rows += [(str(name), str(value)) for name, value in plan.details.items()]
    return rows + [(f"not {name}", why) for name, why in plan.refused.items()]


def _product(values: tuple[int, ...]) -> int:
    result = 1
    for v in values:
        result *= v
    return result


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _list(values: tuple[object, ...]) -> str:
    words = [str(v) for v in values]
    return "none" if not words else words[0] if len(set(words)) == 1 else ", ".join(words)


def _count(number: float) -> str:
    """1234567 as '1.23 M'."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:g} "
