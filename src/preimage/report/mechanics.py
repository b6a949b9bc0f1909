"""One layer explained in text: its sizes, which cells of the large side each cell of the small side sees, and its plans."""

from __future__ import annotations

from preimage.engines import Plan
from preimage.geometry import ConvGeometry

__all__ = ["axis_picture", "axis_summary", "facts", "plan_lines"]


def facts(g: ConvGeometry, transpose: bool, itemsize: int) -> list[tuple[str, str]]:
    """What the layer is: names and values."""
    large, small = ("output", "input") if transpose else ("input", "output")
    intensity = g.work_flop / max(g.array_bytes(itemsize), 1)
    rows = [
        (f"large side ({large})", _times(g.input_shape)),
        ("weight", f"{_times(g.weight_shape)} ({_count(_product(g.weight_shape)).strip()} numbers)"),
        (f"small side ({small})", _times(g.output_shape)),
        (
            "stride, dilation, groups",
            f"{_list(g.stride)}; {_list(g.dilation)}; {g.groups}{' (depthwise)' if g.is_depthwise else ''}",
        ),
        ("padding (lo, hi)", ", ".join(str(p) for p in g.padding) or "none"),
        ("kernel extent", _list(g.kernel_extent)),
        ("work", f"{_count(g.work_flop)}flop, of which {g.inside_macs / g.macs:.1%} inside the picture" if g.macs else "none"),
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


def axis_picture(g: ConvGeometry, axis: int, widest: int = 56) -> list[str]:
    """A drawing of one axis: a row for each of the first positions of the small side, a column for each cell of the large side.

    `#` is a tap, `·` a cell that is not seen, and the taps over the padding are drawn as `o` left of the first bar.
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


def axis_summary(g: ConvGeometry, axis: int) -> str:
    """How often the cells of the large side are seen: evenly, in a checkerboard, or not at all."""
    counts = [0] * g.input_size[axis]
    for o in range(g.output_size[axis]):
        for k in range(g.kernel_size[axis]):
            i = o * g.stride[axis] - g.padding[axis][0] + k * g.dilation[axis]
            if 0 <= i < len(counts):
                counts[i] += 1
    if not counts:
        return "the large side is empty"
    margin = g.kernel_extent[axis]
    middle = counts[margin:-margin] or counts
    seen = (
        f"a cell is seen by {min(middle)} outputs"
        if min(middle) == max(middle)
        else f"cells are seen by {min(middle)} to {max(middle)} outputs"
    )
    unseen = counts.count(0)
    text = f"{seen} in the middle"
    if min(middle) != max(middle):
        text += ": unevenly, which a transpose shows as a checkerboard (a kernel that the stride divides avoids it)"
    if unseen:
        text += f"; {unseen} of {len(counts)} cells are never seen"
    return text


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


def _list(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values)) or "none"


def _count(number: float) -> str:
    """1234567 as '1.23 M'."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:g} "
