"""Makes every picture of docs/deconvolution.md and the README's: `make figures`, or `python docs/figures.py [FOLDER]`.

The same bytes come out each time: of SVG everywhere, of the GIF with the versions that versions.txt names. tests/report/test_figures.py
makes all of them again and compares.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import preimage as pre
from preimage.analysis import analyse, icnr, trace_conv, trace_conv_transpose, trace_linear
from preimage.analysis.spectrum import spectrum
from preimage.report import draw

FOLDER = Path(__file__).parent / "figures" / "deconvolution"

HEART = """
........
.##..##.
########
########
.######.
..####..
...##...
........
"""
#: A small picture with edges, and a stencil that finds those from dark to bright, left to right.
PICTURE = np.array([
    [0, 0, 0, 0, 0, 0], [0, 0, 3, 3, 0, 0], [0, 0, 3, 3, 0, 0], [0, 0, 3, 3, 0, 0], [0, 0, 3, 3, 3, 3], [0, 0, 0, 0, 0, 0],
], np.float32)[None, None]  # fmt: skip
EDGE = np.array([[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]], np.float32)[None, None]
#: What the page solves for: spikes, and a stencil that smears them.
SPIKES = np.array([0, 0, 4, 0, 0, 0, -2, 3, 0, 0], np.float64)[None, None]
SMEAR = np.array([1, 3, 1], np.float64)[None, None]


def heart() -> np.ndarray:
    """The activations of the README's picture."""
    return np.array([[float(c == "#") for c in line] for line in HEART.split()], np.float32)[None, None]


def painting() -> draw.Drawing:
    """Each activation adds a soft stencil; together they are a heart of twice the size."""
    line = np.array([1, 3, 3, 1], np.float32) / 4
    t = trace_conv_transpose(heart(), np.outer(line, line)[None, None], stride=2, padding=1)
    return draw.paint(t, skip_zeros=True, numbers=False, cell=20, title="A deconvolution paints", formula=False)


def slide() -> draw.Drawing:
    return frame(draw.slide(trace_conv(PICTURE, EDGE)), 5)


def paint() -> draw.Drawing:
    x = np.array([[2, 0, 0], [0, -1, 0], [0, 0, 1]], np.float32)[None, None]
    w = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32)[None, None]
    t = trace_conv_transpose(x, w, stride=2)
    first, *_ = draw.paint(t, skip_zeros=True, title="A deconvolution paints: kernel 3, stride 2").frames
    _, second, third, _ = draw.paint(t, skip_zeros=True, title="").frames
    return draw.Drawing((draw.stacked((first, second, third), gap=-20),))


def frame(drawing: draw.Drawing, number: int) -> draw.Drawing:
    return draw.Drawing((drawing.frame(number),))


def row() -> tuple[np.ndarray, np.ndarray]:
    return np.array([2, 0, 1, 3, -1, 2, 1], np.float32)[None, None], np.array([1, 2, -1], np.float32)[None, None]


def matrix() -> draw.Drawing:
    return frame(draw.matrix(trace_conv(*row(), stride=2)), 1)


def columns() -> draw.Drawing:
    x = np.array([[1, 0, 2, 1], [3, 1, 0, 2], [0, 2, 1, 1], [1, 1, 3, 0]], np.float32)[None, None]
    w = np.array([[[[1, 2], [0, -1]]], [[[2, 0], [1, 1]]]], np.float32)
    return frame(draw.columns(trace_conv(x, w)), 4)


def col2im() -> draw.Drawing:
    y = np.array([[2, 1], [3, -1]], np.float32)[None, None]
    w = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32)[None, None]
    return frame(draw.columns(trace_conv_transpose(y, w, stride=2)), 2)


def gradients() -> draw.Drawing:
    x = np.array([[1, 2, 0, 1], [3, 1, 2, 0], [0, 2, 1, 3], [1, 0, 2, 2]], np.float32)[None, None]
    t = trace_conv(x, np.array([[[[1, 2], [-1, 3]]]], np.float32), np.zeros(1, np.float32))
    above = np.array([[1, -2, 0], [0, 3, 1], [2, 0, -1]], np.float32)[None, None]
    return frame(draw.gradients(t, above), 5)


def shared() -> draw.Drawing:
    x, w = row()
    rng = np.random.default_rng(3)
    full = rng.integers(1, 4, (5, 7)) * rng.choice([-1, 1], (5, 7))
    return draw.shared(trace_conv(x, w), trace_linear(x[0], full.astype(np.float32)), cell=30)


def field() -> draw.Drawing:
    w = np.ones((1, 1, 3, 3), np.float32)

    def net(x: pre.Tensor) -> pre.Tensor:
        for step in (1, 2, 1):
            x = pre.conv(x, w, stride=step, padding=1)
        return x

    return draw.Drawing((draw.stacked(draw.field(analyse(net, (1, 1, 17, 17)), cell=13).frames, gap=-14),))


def wires(transposed: bool, size: int, kernel: int, step: int | None = None, **options: int) -> draw.Drawing:
    make = pre.ConvGeometry.from_conv_transpose if transposed else pre.ConvGeometry.from_conv
    drawing = draw.taps(make((1, 1, size), (1, 1, kernel), **options), transposed)
    return frame(drawing, drawing.still if step is None else step)


def both(*drawings: draw.Drawing) -> draw.Drawing:
    return draw.Drawing((draw.stacked([d.frame() for d in drawings], gap=-12),))


def stride() -> draw.Drawing:
    return both(wires(False, 9, 3, 2, stride=2), wires(True, 4, 3, 2, stride=2))


def padding() -> draw.Drawing:
    return both(wires(False, 7, 3, 0, padding=1), wires(True, 4, 4, 0, stride=2, padding=1))


def dilation() -> draw.Drawing:
    return both(wires(False, 9, 3, 2, dilation=2), wires(True, 5, 3, 2, dilation=2))


def output_padding() -> draw.Drawing:
    return both(wires(True, 4, 3, 3, stride=2, padding=1), wires(True, 4, 3, 3, stride=2, padding=1, output_padding=1))


def groups() -> draw.Drawing:
    return both(*(draw.groups(pre.ConvGeometry.from_conv((1, 6, 4), (6, 6 // n, 1), groups=n)) for n in (1, 2, 6)))


def board(kernel: int) -> pre.ConvGeometry:
    return pre.ConvGeometry.from_conv_transpose((1, 1, 6, 6), (1, 1, kernel, kernel), stride=2)


def checkerboard() -> draw.Drawing:
    return draw.Drawing((draw.beside([draw.checkerboard(board(k)).frame() for k in (3, 4)]),))


def spectra() -> draw.Drawing:
    rng = np.random.default_rng(0)
    x = np.ones((1, 1, 9, 9), np.float32)
    rows = []
    for title, w in (
        (
            "Random weights, kernel 4, stride 2: a constant becomes a checkerboard",
            rng.uniform(0, 1, (1, 1, 4, 4)).astype(np.float32),
        ),
        ("Weights started by ICNR: a constant stays constant", icnr((1, 1, 4, 4), 2, rng=1).astype(np.float32)),
    ):
        g = pre.ConvGeometry.from_conv_transpose(x.shape, w.shape, stride=2, padding=1)
        found = spectrum(g, pre.conv_transpose(x, w, stride=2, padding=1))
        rows.append(draw.spectrum(found, title=title, cell=17).frame())
    return draw.Drawing((draw.stacked(rows, gap=-10),))


def solving() -> draw.Drawing:
    y = pre.conv(SPIKES, SMEAR, padding=1)
    back = pre.conv_transpose(y, SMEAR, padding=1)
    x = np.zeros_like(SPIKES)
    for _ in range(800):
        x += pre.conv_transpose(y - pre.conv(x, SMEAR, padding=1), SMEAR, padding=1) / 25
    return draw.arrays(
        {
            "x: spikes": SPIKES[0],
            "y = conv(x): smeared": y[0],
            "conv_transpose(y): smeared twice, no inverse": back[0],
            "800 steps of gradient descent: solved": np.round(x[0], 6) + 0.0,
        },
        title="Deconvolution, the layer, does not undo a convolution",
        down=True,
        cell=36,
    )


FIGURES: dict[str, Callable[[], draw.Drawing]] = {
    "painting.gif": painting, "slide.svg": slide, "paint.svg": paint, "matrix.svg": matrix, "columns.svg": columns, "col2im.svg": col2im,
    "gradients.svg": gradients, "shared.svg": shared, "field.svg": field, "stride.svg": stride, "padding.svg": padding, "dilation.svg": dilation,
    "output_padding.svg": output_padding, "groups.svg": groups, "checkerboard.svg": checkerboard, "spectrum.svg": spectra,
    "solving.svg": solving,
}  # fmt: skip


def versions() -> str:
    """What the pixels of the GIF depend on."""
    import matplotlib  # its DejaVu Sans
    import PIL
    from PIL import features

    return f"Pillow {PIL.__version__}, FreeType {features.version('freetype2')}, matplotlib {matplotlib.__version__}\n"


def encoded(name: str) -> bytes:
    """The bytes of one figure."""
    return FIGURES[name]().encoded(Path(name).suffix, scale=2)


def main(folder: Path) -> None:
    """Write all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        (folder / name).write_bytes(encoded(name))
        print(folder / name)
    (folder / "versions.txt").write_text(versions())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
