"""What a geometry does to space: which taps join which cells, how often each cell is met, what a net sees, which frequencies stand out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.analysis import Network, coverage
from preimage.analysis.spectrum import Spectrum
from preimage.errors import OptionError
from preimage.geometry import ConvGeometry
from preimage.report.draw.film import Drawing, stacked
from preimage.report.draw.parts import MARGIN, Grid, card, label_on, number
from preimage.report.draw.scene import INK, LINE, PAPER, SOFT, TONES, WHITE, Item, Label, Path, Rect, Scene, mix, width_of

__all__ = ["arrays", "checkerboard", "field", "groups", "spectrum", "taps"]

Array = NDArray[Any]
MOST_WIRED = 60


def taps(
    geometry: ConvGeometry, transposed: bool = False, *, axis: int = 0, title: str | None = None, cell: float = 28.0
) -> Drawing:
    """One axis as wires: every position of the small side over the cells of the large side that its taps meet; a frame for each.

    Padding is drawn as dashed cells. Raises: OptionError for an axis that is not there or has more than 60 cells.
    """
    g = geometry
    if not 0 <= axis < g.ndim:
        raise OptionError(f"axis is {axis}; the layer has {g.ndim} spatial axes")
    lo, stride, dilation = g.padding[axis][0], g.stride[axis], g.dilation[axis]
    reads = [[o * stride - lo + k * dilation for k in range(g.kernel_size[axis])] for o in range(g.output_size[axis])]
    first = min([0, *(min(r) for r in reads)])
    last = max([g.input_size[axis], *(max(r) + 1 for r in reads)])
    if last - first > MOST_WIRED:
        raise OptionError(
            f"axis {axis} has {last - first} cells with its padding, at most {MOST_WIRED} are drawn; take a smaller size"
        )
    counts = coverage(g).axes[axis].counts
    frames = tuple(_wires(g, transposed, axis, reads, (first, last), counts, step, title, cell) for step in range(len(reads)))
    return Drawing(frames, still=len(frames) // 2)


def _wires(
    g: ConvGeometry, transposed: bool, axis: int, reads: list[list[int]], ends: tuple[int, int], counts: tuple[int, ...], step: int,
    title: str | None, cell: float,
) -> Scene:  # fmt: skip
    first, last = ends
    left, top = MARGIN + 70.0, MARGIN + 36.0
    gap = 3.0 * cell
    size, large_y, small_y = g.input_size[axis], top, top + cell + gap
    if transposed:
        large_y, small_y = small_y, large_y

    def at(i: float) -> float:
        return left + (i - first) * cell

    centres = [at((min(r) + max(r)) / 2) + cell / 2 for r in reads]
    words = _wire_title(g, transposed, axis)
    heading = words if title is None else title
    items: list[Item] = [Label(MARGIN, MARGIN + 4, heading, 15, INK, bold=True)]
    a, b = ("input", "output") if transposed else ("output", "input")
    items += [
        Label(left - 12, large_y + cell / 2, b, 12.5, SOFT, "end"),
        Label(left - 12, small_y + cell / 2, a, 12.5, SOFT, "end"),
    ]
    near_large, near_small = (large_y, small_y + cell) if transposed else (large_y + cell, small_y)
    tones = [TONES[k % len(TONES)] for k in range(len(reads[0]))]
    for o in sorted(range(len(reads)), key=lambda o: o == step):
        for k, i in enumerate(reads[o]):
            inside = 0 <= i < size
            ends_at = ((centres[o], near_small), (at(i) + cell / 2, near_large))
            stroke = tones[k] if o == step else mix(LINE, PAPER, 0.25)
            items.append(Path(ends_at, stroke, 2.2 if o == step else 1.0, dashed=not inside))
    for i in range(first, last):
        tone = tones[reads[step].index(i)] if i in reads[step] else None
        items += _wired_cell(at(i), large_y, cell, tone, str(counts[i]) if 0 <= i < size else None)
    half = min(cell, g.stride[axis] * cell) / 2 - 1
    for o, x in enumerate(centres):
        fill = mix(WHITE, INK, 0.85) if o == step else WHITE
        items.append(Rect(x - half, small_y, 2 * half, cell, fill, INK if o == step else LINE, 1.2))
        items.append(Label(x, small_y + cell / 2, str(o), 11.5, WHITE if o == step else SOFT, "middle"))
    under = max(large_y, small_y) + cell + 18
    what = (
        "numbers in the output: how many taps land on the cell"
        if transposed
        else "numbers in the input: how many outputs use the cell"
    )
    items.append(Label(left, under, what, 11.5, SOFT))
    ends_of = (at(last), max(centres, default=0.0) + half, left + width_of(what, 11.5), MARGIN + width_of(heading, 15, True))
    width = max(ends_of) + MARGIN
    return Scene(
        int(width + 1),
        int(under + MARGIN),
        tuple(items),
        f"{words}; position {step} meets cells {reads[step]}",
    )


def _wired_cell(x: float, y: float, cell: float, tone: str | None, count: str | None) -> list[Item]:
    """A cell of the large side. tone: of the wire that ends here; count: the number in it, None for one of the padding."""
    inset = 1.5 if count is None else 0
    fill = "" if count is None else WHITE if tone is None else tone
    edge = LINE if tone is None else SOFT
    items: list[Item] = [Rect(x + inset, y + inset, cell - 2 * inset, cell - 2 * inset, fill, edge, 1.0, dashed=count is None)]
    if count is not None:
        items.append(Label(x + cell / 2, y + cell / 2, count, 11.5, SOFT if tone is None else label_on(fill), "middle"))
    return items


def _wire_title(g: ConvGeometry, transposed: bool, axis: int) -> str:
    words = [f"kernel {g.kernel_size[axis]}", f"stride {g.stride[axis]}"]
    lo, hi = g.padding[axis]
    if lo or hi:
        words.append(f"padding {lo}" if lo == hi else f"padding {lo}, {hi}")
    if g.dilation[axis] != 1:
        words.append(f"dilation {g.dilation[axis]}")
    if transposed and g.remainder[axis]:
        words.append(f"output_padding {g.remainder[axis]}")
    sizes = (g.output_size[axis], g.input_size[axis]) if transposed else (g.input_size[axis], g.output_size[axis])
    return f"{'Deconvolution' if transposed else 'Convolution'}, {', '.join(words)}: {sizes[0]} → {sizes[1]}"


def groups(geometry: ConvGeometry, transposed: bool = False) -> Drawing:
    """Which input channels each output channel is made of: a wire is a whole stencil. Raises: OptionError above 60 channels."""
    g = geometry
    if max(g.in_channels, g.out_channels) > MOST_WIRED:
        raise OptionError(f"{max(g.in_channels, g.out_channels)} channels; at most {MOST_WIRED} are drawn")
    ins, outs = (g.out_channels, g.in_channels) if transposed else (g.in_channels, g.out_channels)
    step, size, top = 46.0, 28.0, MARGIN + 36.0
    left, bottom = MARGIN + 128.0, top + 96.0
    wide = max(ins, outs) * step

    def at(c: int, n: int) -> float:
        return left + (c + 0.5) * wide / n

    tones = [TONES[k % len(TONES)] for k in range(g.groups)]
    wires = [(i, o, i * g.groups // ins) for i in range(ins) for o in range(outs) if i * g.groups // ins == o * g.groups // outs]
    items: list[Item] = [
        Label(
            MARGIN,
            MARGIN + 4,
            f"{g.groups} group{'s' * (g.groups > 1)}: {len(wires)} stencils of {ins * outs} pairs of channels",
            15,
            INK,
            bold=True,
        )
    ]
    items += [Path(((at(i, ins), top + size), (at(o, outs), bottom)), tones[k], 1.8) for i, o, k in wires]
    for y, n, word in ((top, ins, "input channels"), (bottom, outs, "output channels")):
        items.append(Label(left - 10, y + size / 2, word, 12.5, SOFT, "end"))
        for c in range(n):
            items.append(Rect(at(c, n) - size / 2, y, size, size, tones[c * g.groups // n], "", radius=5))
            items.append(Label(at(c, n), y + size / 2, str(c), 12, label_on(tones[c * g.groups // n]), "middle"))
    width = max(left + wide, 480) + MARGIN
    return Drawing(
        (Scene(int(width), int(bottom + size + MARGIN), tuple(items), f"{g.groups} groups join {ins} with {outs} channels"),)
    )


def checkerboard(geometry: ConvGeometry, *, title: str | None = None, cell: float = 24.0) -> Drawing:
    """How many taps land on each cell of the large side, with the verdict on its interior."""
    found = coverage(geometry)
    counts = found.counts if geometry.ndim else found.counts.reshape(1)
    k, s = geometry.kernel_size, geometry.stride
    made = f"Kernel {'×'.join(map(str, k))}, stride {'×'.join(map(str, s))}" if title is None else title
    return Drawing(
        (
            card(
                made,
                [Grid(counts.astype(float), "taps on each cell")],
                [_verdict(found)],
                f"{made}: {_verdict(found)}",
                cell=cell,
            ),
        )
    )


def _verdict(found: Any) -> str:
    period = "×".join(map(str, found.period))
    return {
        None: "too small to tell",
        "even": "even inside: no checkerboard",
        "gaps": f"gaps: they repeat every {period} cells",
        "checkerboard": f"checkerboard: it repeats every {period} cells",
    }[found.verdict]


def field(net: Network, *, cell: float = 16.0) -> Drawing:
    """What the middle of each layer's result sees of the input, and what the middle of the input reaches; a frame for each layer.

    Left the input, right the result; the two middles have a border. How far is the widest over all places; where strides meet, some see less.

    Raises: OptionError for inputs or results too large to draw.
    """
    frames = []
    for layer in net.layers:
        shape, source = layer.shape, net.record.shape(net.record.inputs[0])
        if len(shape) < 3:
            continue
        middle = (0, 0, *(n // 2 for n in shape[2:]))
        centre = (0, 0, *(n // 2 for n in source[2:]))
        sees: Array = np.asarray(net.receptive_field(middle, layer=layer.name).any(axis=(0, 1)))
        reach: Array = np.asarray(net.projective_field(centre, layer=layer.name).any(axis=(0, 1)))
        sees, reach = (m.reshape(1, -1) if m.ndim == 1 else m for m in (sees, reach))
        grids: list[Grid | str] = [
            _mask(sees, "what the marked output sees", _span(layer.field), centre[2:]),
            "⇄",
            _mask(reach, "what the marked input reaches", _span(layer.projective), middle[2:]),
        ]
        frames.append(
            card(
                f"After {layer.name}, {layer.op}: {_by(source[2:])} became {_by(shape[2:])}",
                grids,
                (),
                f"{layer.name}: sees {layer.field}, reaches {layer.projective}",
                cell=cell,
            )
        )
    if not frames:
        raise OptionError("no layer of the net has spatial axes")
    return Drawing(tuple(frames), seconds=1.2)


def _mask(mask: Array, caption: str, note: str, at: tuple[int, ...]) -> Grid:
    return Grid(mask.astype(float), caption, numbers=False, largest=1.3, note=note, marked={at})


def _by(size: Sequence[int]) -> str:
    return "×".join(map(str, size))


def _span(values: tuple[Any, ...]) -> str:
    return f"{'×'.join(str(v) for v in values)} cells at most"


def spectrum(found: Spectrum, *, title: str = "Spectrum of the output's interior", cell: float = 16.0) -> Drawing:
    """The amplitude of every frequency of an output beside its interior; a checkerboard is a peak at its period."""
    image = found.part if found.part.ndim > 1 else found.part[None]
    values = found.amplitude if found.amplitude.ndim > 1 else found.amplitude[None]
    peaks = {p if len(p) > 1 else (0, *p) for p in found.peaks}
    grids: list[Grid | str] = [
        Grid(image, "output, interior", numbers=False, note=" "),
        "→",
        Grid(values, "amplitude of each frequency", numbers=False, marked=peaks, note="slow in the middle, fast at the edges"),
    ]
    ways = (
        ("across",) if len(found.period) == 1 else (*(f"along axis {k}" for k in range(len(found.period) - 2)), "down", "across")
    )
    said = [f"every {number(float(p))} cells {way}" for p, way in zip(found.period, ways, strict=True) if p is not None]
    line = f"the strongest pattern repeats {' and '.join(said)}" if peaks else "flat: nothing but the mean"
    return Drawing((card(title, grids, [line], f"{title}: {line}", cell=cell),))


def arrays(
    values: Mapping[str, Any], *, title: str = "", formula: tuple[str, ...] = (), largest: float | None = None, cell: float = 30.0,
    down: bool = False,
) -> Drawing:  # fmt: skip
    """Arrays side by side (down: below one another), each under its name."""
    grids: list[Grid | str] = [Grid(np.asarray(v, np.float64), name, largest=largest) for name, v in values.items()]
    if not down:
        return Drawing((card(title, grids, formula, title, cell=cell),))
    parts = [
        card(title if k == 0 else "", [g], formula if k == len(grids) - 1 else (), title, cell=cell) for k, g in enumerate(grids)
    ]
    return Drawing((stacked(parts, gap=-MARGIN),))
