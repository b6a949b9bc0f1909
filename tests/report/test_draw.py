"""Drawings say what the layer does: their numbers, borders and wires against the definition; the same bytes; nothing outside the card."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.analysis import LayerTrace, analyse, trace_conv, trace_conv_transpose, trace_linear
from preimage.analysis.spectrum import spectrum
from preimage.errors import OptionError, PreimageError, ShapeError
from preimage.geometry import ConvGeometry
from preimage.report import draw
from preimage.report.draw.scene import Label, Path, Rect, Scene

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

CASES: list[tuple[bool, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    (False, (1, 2, 4, 3), (2, 2, 3, 2), {"stride": (2, 1), "padding": [(1, 0), (0, 2)]}),
    (False, (1, 4, 7), (2, 2, 3), {"dilation": 2, "groups": 2, "padding": 1}),
    (True, (1, 2, 3, 2), (2, 1, 3, 4), {"stride": 2, "padding": 1, "output_padding": 1}),
    (True, (1, 2, 4), (2, 2, 2), {"stride": 3, "groups": 2}),
    (False, (1, 1, 3, 4, 3), (2, 1, 2, 3, 2), {}),
]


def layer(case: tuple[Any, ...], bias: bool = True) -> tuple[LayerTrace, np.ndarray]:
    """A trace on small whole numbers, and the reference engine's output."""
    transposed, shape, weight, options = case
    rng = np.random.default_rng(len(shape) + weight[0])
    x, w = (rng.integers(-4, 5, s).astype(np.float32) for s in (shape, weight))
    out = weight[1] * options.get("groups", 1) if transposed else weight[0]
    b = rng.integers(1, 5, out).astype(np.float32) if bias else None
    make, run = (trace_conv_transpose, pre.conv_transpose) if transposed else (trace_conv, pre.conv)
    with pre.config(engine="reference"):
        return make(x, w, b, **options), np.asarray(run(x, w, b, **options))


def texts(scene: Scene) -> list[str]:
    return [i.text for i in scene.items if isinstance(i, Label)]


def value_of(text: str) -> float:
    return float(text.replace("−", "-"))


def cells(scene: Scene) -> list[tuple[Rect, float]]:
    """Every solid cell with the number in it, in the order of drawing: array after array, row-major."""
    found, items = [], scene.items
    for rect, label in pairwise(items):
        if isinstance(rect, Rect) and isinstance(label, Label) and not rect.dashed:
            found.append((rect, value_of(label.text)))
    return found


def said(formula: str) -> tuple[float, float]:
    """Both sides of the last equation of a formula: the products added up, the value."""
    left, _, right = formula.replace("−", "-").replace("·", "*").rpartition(" = ")
    return float(eval(left.rpartition(" = ")[2])), float(right)


@pytest.mark.parametrize("case", CASES)
def test_slide_writes_the_products_of_each_output(case: tuple[Any, ...]) -> None:
    trace, y = layer(case)
    drawing = draw.slide(trace)
    places = list(np.ndindex(*y.shape[1:]))
    assert len(drawing) == len(places)
    for at, scene in zip(places, drawing.frames, strict=True):
        line = next(t for t in texts(scene) if t.startswith("y["))
        assert line.startswith(f"y[{','.join(map(str, at))}] = ")
        if "…" not in line:
            assert said(line) == (y[(0, *at)],) * 2
        assert value_of(line.rpartition(" = ")[2]) == y[(0, *at)]


@pytest.mark.parametrize("case", [c for c in CASES if len(c[1]) < 5])
def test_paint_grows_to_the_output_and_borders_each_stroke(case: tuple[Any, ...]) -> None:
    trace, y = layer(case, bias=False)
    drawing = draw.paint(trace)
    options = case[3]
    run = pre.conv_transpose if case[0] else pre.conv
    before = np.zeros(y.shape)
    for at, scene in zip(np.ndindex(*trace.input_shape[1:]), drawing.frames, strict=False):
        numbers = np.array([v for _, v in cells(scene)[-y[0].size :]]).reshape(y.shape)
        x = np.zeros(trace.input_shape, np.float32)
        x[(0, *at)] = trace.x[(0, *at)]
        with pre.config(engine="reference"):
            stroke = np.asarray(run(x, trace.w, **options))
        assert (numbers == before + stroke).all()
        before = numbers
    assert (before == y).all()
    assert ([v for _, v in cells(drawing.frames[-1])[-y[0].size :]] == y[0].reshape(-1)).all()


def border(scene: Scene, rects: list[Rect]) -> set[int]:
    """Which of the cells are inside the closed thick line: an odd number of its upright pieces lie to their left."""
    pieces = [i.points for i in scene.items if isinstance(i, Path) and i.line > 2]
    inside = set()
    for k, r in enumerate(rects):
        x, y = r.x + r.width / 2, r.y + r.height / 2
        crossed = [a for a, b in pieces if abs(a[0] - b[0]) < 1e-6 and a[0] < x and min(a[1], b[1]) < y < max(a[1], b[1])]
        inside |= {k} if len(crossed) % 2 else set()
    return inside


@pytest.mark.parametrize("case", [c for c in CASES if len(c[1]) == 4])
def test_the_border_of_a_stroke_surrounds_what_it_reaches(case: tuple[Any, ...]) -> None:
    trace, y = layer(case, bias=False)
    for at, scene in list(zip(np.ndindex(*trace.input_shape[1:]), draw.paint(trace).frames, strict=False))[::3]:
        x = np.zeros(trace.input_shape, np.float32)
        x[(0, *at)] = 1
        run = pre.conv_transpose if case[0] else pre.conv
        with pre.config(engine="reference"):
            reached = np.asarray(run(x, np.ones_like(trace.w), **case[3]))[0].reshape(-1)
        rects = [r for r, _ in cells(scene)]
        # the input's own border is left of the output's cells as a whole, so it is crossed twice
        assert border(scene, rects) - {*range(len(rects) - y[0].size)} == {
            len(rects) - y[0].size + int(k) for k in np.flatnonzero(reached)
        }


def test_the_border_of_a_window_surrounds_what_an_output_reads() -> None:
    trace, y = layer(CASES[0])
    for at, scene in list(zip(np.ndindex(*y.shape[1:]), draw.slide(trace).frames, strict=True))[::3]:
        one = np.zeros(y.shape, np.float32)
        one[(0, *at)] = 1
        with pre.config(engine="reference"):
            read = pre.conv_transpose(one, np.ones_like(trace.w), output_size=trace.input_shape[2:], **CASES[0][3])
        rects = [r for r, _ in cells(scene)][: trace.x[0].size]
        assert border(scene, rects) == set(np.flatnonzero(read).tolist())


@pytest.mark.parametrize("case", CASES[:4])
def test_gradients_are_those_of_the_definition(case: tuple[Any, ...]) -> None:
    trace, y = layer(case)
    g = np.random.default_rng(3).integers(-3, 4, y.shape).astype(np.float32)
    x, w, b = (pre.Tensor(v, requires_grad=True) for v in (trace.x, trace.w, trace.b))
    with pre.config(engine="reference"):
        run = pre.conv_transpose if case[0] else pre.conv
        (run(x, w, b, **case[3]) * g).sum().backward()
    expected = {"x": np.asarray(x.grad)[0], "w": np.asarray(w.grad), "b": np.asarray(b.grad)}
    seen = set()
    for scene in draw.gradients(trace, g).frames:
        for line in texts(scene):
            match = re.match(r"grad ([xwb])\[([\d,]+)\] = ", line)
            if match:
                at = tuple(map(int, match[2].split(",")))
                assert value_of(line.rpartition(" = ")[2]) == expected[match[1]][at]
                if match[1] != "b" and "…" not in line:
                    assert said(line)[0] == expected[match[1]][at]
                seen.add(match[1])
    assert seen == {"x", "w", "b"}


@pytest.mark.parametrize(("size", "kernel", "options"), [
    (9, 3, {"stride": 2}), (7, 3, {"padding": 1}), (9, 3, {"dilation": 3}), (8, 2, {"stride": 3, "padding": 2}),
])  # fmt: skip
@pytest.mark.parametrize("transposed", [False, True])
def test_wires_end_where_the_taps_land(size: int, kernel: int, options: dict[str, int], transposed: bool) -> None:
    g = ConvGeometry.from_conv((1, 1, size), (1, 1, kernel), **options)
    drawing = draw.taps(g, transposed)
    assert len(drawing) == g.output_size[0]
    for o, scene in enumerate(drawing.frames):
        y = np.zeros(g.output_shape)
        y[0, 0, o] = 1
        with pre.config(engine="reference"):
            met = np.flatnonzero(pre.conv_transpose(y, np.ones(g.weight_shape), output_size=g.input_size, **options)[0, 0])
            counts = pre.conv_transpose(np.ones_like(y), np.ones(g.weight_shape), output_size=g.input_size, **options)[0, 0]
        large = [(r, v) for r, v in cells(scene) if r.line == 1.0]
        assert [v for _, v in large] == counts.tolist()
        ends = {p.points[1][0] for p in scene.items if isinstance(p, Path) and p.line > 2 and not p.dashed}
        assert {i for i, (r, _) in enumerate(large) if r.x + r.width / 2 in ends} == set(met.tolist())


def test_a_matrix_and_its_transpose_are_the_layer() -> None:
    trace, y = layer(CASES[0], bias=False)
    for row, scene in zip(range(y[0].size), draw.matrix(trace).frames, strict=False):
        line = next(t for t in texts(scene) if re.search(r" = \S*\d$", t))
        assert value_of(line.rpartition(" = ")[2]) == y[0].reshape(-1)[row]


def test_checkerboard_writes_how_many_taps_land() -> None:
    g = ConvGeometry.from_conv_transpose((1, 1, 5, 4), (1, 1, 3, 4), stride=2)
    scene = draw.checkerboard(g).frame()
    with pre.config(engine="reference"):
        counts = pre.conv_transpose(np.ones((1, 1, 5, 4)), np.ones((1, 1, 3, 4)), stride=2)
    assert [v for _, v in cells(scene)] == counts.reshape(-1).tolist()
    assert "checkerboard" in texts(scene)[-1]
    assert (
        "no checkerboard"
        in texts(draw.checkerboard(ConvGeometry.from_conv_transpose((1, 1, 9), (1, 1, 4), stride=2)).frame())[-1]
    )


@pytest.mark.parametrize(("kernel", "stride", "seed"), [
    (k, s, seed) for k, s in product((2, 3, 4, 5, 6), (2, 3)) if k >= s for seed in (0, 1, 2)
])  # fmt: skip
def test_the_predicted_period_is_the_peak_of_the_spectrum(kernel: int, stride: int, seed: int) -> None:
    """Kernels that the stride does not divide, with constant weights; any kernel with random ones. ICNR and unity have no peak."""
    g = ConvGeometry.from_conv_transpose((1, 1, 24), (1, 1, kernel), stride=stride)
    flat, rng = np.ones((1, 1, 24)), np.random.default_rng(seed)
    w = rng.uniform(0.1, 1, g.weight_shape)
    found = spectrum(g, pre.conv_transpose(flat, w, stride=stride))
    assert found.period == (stride,)
    even = spectrum(g, pre.conv_transpose(flat, np.ones(g.weight_shape), stride=stride))
    predicted = pre.analysis.coverage(g)
    assert (even.period == (stride,)) == (predicted.verdict == "checkerboard")
    assert even.peaks or predicted.verdict == "even"
    cured = spectrum(g, pre.conv_transpose(flat, pre.analysis.unity(g, w), stride=stride))
    assert not cured.peaks
    cycles = np.exp(-2j * np.pi * np.outer(found.frequencies[0], np.arange(len(found.part))))
    amplitude = np.abs(cycles @ (found.part - found.part.mean())) / len(found.part)
    assert np.allclose(amplitude, found.amplitude, atol=1e-12)


def test_a_spectrum_refuses_what_it_cannot_see() -> None:
    g = ConvGeometry.from_conv_transpose((1, 2, 9), (2, 1, 3), stride=2)
    with pytest.raises(ShapeError, match=r"large side has shape \(1, 3, 19\)"):
        spectrum(g, np.ones((1, 3, 19)))
    with pytest.raises(OptionError, match="channel is 1"):
        spectrum(g, np.ones(g.input_shape), channel=1)
    with pytest.raises(OptionError, match="borders reach so far"):
        spectrum(ConvGeometry.from_conv_transpose((1, 1, 1), (1, 1, 3), stride=2), np.ones((1, 1, 3)))


def test_fields_are_drawn_as_found_by_impulses() -> None:
    w = np.ones((1, 1, 3, 2), np.float32)

    def net(x: Any) -> Any:
        return pre.conv(pre.conv(x, w, stride=2), w)

    drawing = draw.field(analyse(net, (1, 1, 11, 9)))
    assert len(drawing) == 2
    with pre.config(engine="reference"):
        x = np.zeros((1, 1, 11, 9), np.float32)
        x[0, 0, 5, 4] = 1
        reach = np.asarray(net(x))[0, 0] != 0
    fills = [i.fill for i in drawing.frame().items if isinstance(i, Rect)][-reach.size :]
    assert [f != fills[0] for f in fills] == [bool(r) != bool(reach[0, 0]) for r in reach.reshape(-1)]


def everything() -> Iterator[tuple[str, draw.Drawing]]:
    """Every kind, in one, two and three dimensions."""
    for k, case in enumerate(CASES[1::3] + CASES[2:3]):
        trace, y = layer(case)
        kinds: dict[str, Callable[[], draw.Drawing]] = {
            "slide": lambda t=trace: draw.slide(t), "paint": lambda t=trace: draw.paint(t, skip_zeros=True),
            "gradients": lambda t=trace, y=y: draw.gradients(t, np.ones_like(y)),
            "columns": lambda t=trace: draw.columns(t), "taps": lambda t=trace: draw.taps(t.geometry, t.transposed),
            "groups": lambda t=trace: draw.groups(t.geometry, t.transposed),
            "checkerboard": lambda t=trace: draw.checkerboard(t.geometry),
        }  # fmt: skip
        for name, make in kinds.items():
            yield f"{name} {k}", make()
    yield "matrix", draw.matrix(layer(CASES[1])[0])
    line = trace_linear(np.ones((1, 5), np.float32), np.ones((4, 5), np.float32))
    yield "shared", draw.shared(trace_conv(np.ones((1, 1, 5), np.float32), np.ones((1, 1, 2), np.float32)), line)
    yield "arrays", draw.arrays({"a": np.array([np.nan, np.inf, -np.inf, 1e-9, 12345.678])}, title="numbers")


def test_nothing_reaches_over_the_card_and_every_picture_is_well_formed() -> None:
    import matplotlib as mpl
    from PIL import ImageFont

    place = f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans"
    fonts = {bold: ImageFont.truetype(place + ("-Bold" * bold) + ".ttf", 100) for bold in (False, True)}
    names = []
    for name, drawing in everything():
        names.append(name)
        for scene in {id(f): f for f in (drawing.frames[0], drawing.frames[-1])}.values():
            root = ET.fromstring(draw.Drawing((scene,)).svg())
            assert root.find("{http://www.w3.org/2000/svg}title").text == scene.alt, name
            for item in scene.items:
                if isinstance(item, Label):
                    wide = fonts[item.bold].getlength(item.text) * item.size / 100
                    left = item.x - {"start": 0, "middle": wide / 2, "end": wide}[item.anchor]
                    box = left, item.y - item.size / 2, left + wide, item.y + item.size / 2
                elif isinstance(item, Rect):
                    box = item.x, item.y, item.x + item.width, item.y + item.height
                else:
                    xs, ys = zip(*item.points, strict=True)
                    box = min(xs), min(ys), max(xs), max(ys)
                assert box[0] >= 0, (name, item)
                assert box[1] >= 0, (name, item)
                assert box[2] <= scene.width, (name, item)
                assert box[3] <= scene.height, (name, item)
    assert len(names) == 24


def digest() -> str:
    """One hash of all kinds of files of one drawing and the SVG of another."""
    wires = draw.taps(ConvGeometry.from_conv((1, 1, 6), (1, 1, 3), stride=2, padding=1))
    parts = [wires.encoded(e, scale=1) for e in draw.ENDINGS] + [draw.paint(layer(CASES[2])[0]).encoded(".svg")]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_another_process_makes_the_same_bytes() -> None:
    code = "import sys; sys.path[:0] = sys.argv[1:]; import test_draw; print(test_draw.digest())"
    here = os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, "-c", code, here], env={**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo"}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == digest()


def test_files_hold_the_frames(tmp_path: Any) -> None:
    from PIL import Image

    drawing = draw.taps(ConvGeometry.from_conv((1, 1, 7), (1, 1, 3), stride=2))
    width, height = drawing.frame().width, drawing.frame().height
    for ending, scale, frames in ((".png", 2, 1), (".apng", 1, 3), (".gif", 1, 3)):
        place = drawing.write(tmp_path / f"a{ending}", scale=scale)
        with Image.open(place) as image:
            assert image.size == (width * scale, height * scale)
            assert getattr(image, "n_frames", 1) == frames
            if frames > 1:
                image.seek(1)
                assert image.info["duration"] == 500
                assert image.info.get("loop") == 0
    still = np.asarray(Image.open(BytesIO(drawing.png(1, 1))).convert("RGB"), float)
    with Image.open(tmp_path / "a.gif") as moving:
        moving.seek(1)
        assert np.abs(np.asarray(moving.convert("RGB"), float) - still).mean() < 2


def test_bad_calls_say_what_is_wanted(tmp_path: Any) -> None:
    g = ConvGeometry.from_conv((1, 1, 7), (1, 1, 3))
    drawing = draw.taps(g)
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("frame 5 is not there: the drawing has 5, 0 to 4", lambda: drawing.svg(5)),
        ("written as .svg, .png, .apng, .gif, got '.jpg'", lambda: drawing.write(tmp_path / "a.jpg")),
        (".gif holds all frames", lambda: drawing.write(tmp_path / "a.gif", frame=0)),
        ("scale must be a whole number from 1 to 8", lambda: drawing.write(tmp_path / "a.png", scale=9)),
        ("axis is 1; the layer has 1", lambda: draw.taps(g, axis=1)),
        ("at most 60 are drawn", lambda: draw.taps(ConvGeometry.from_conv((1, 1, 70), (1, 1, 3)))),
        ("at most 60 are drawn", lambda: draw.groups(ConvGeometry.from_conv((1, 61, 3), (1, 61, 3)))),
        ("at most 2500 are drawn", lambda: draw.slide(trace_conv(np.ones((1, 1, 60, 60)), np.ones((1, 1, 3, 3))))),
        ("at most 2500 are drawn", lambda: draw.matrix(trace_conv(np.ones((1, 1, 9, 9)), np.ones((1, 1, 2, 2))))),
    ]
    for message, call in calls:
        with pytest.raises(PreimageError, match=re.escape(message)):
            call()
    assert not list(tmp_path.iterdir())
