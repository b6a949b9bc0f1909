"""What objects show in notebooks: every class that can be shown is, with its own numbers, and nothing that came from a stranger acts."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

import preimage as pre
from preimage import analysis, learning, nn
from preimage.audit.findings import Finding
from preimage.display import Shown, progress_lines
from preimage.io import files
from preimage.io.graph import Graph, Input, Node
from preimage.io.inspection import inspect_model, random_inputs
from preimage.io.onnx import export
from preimage.report.notebook import ROWS, html_of
from preimage.report.notebook.parts import block, heat, planes, png, table

HOSTILE = '<script>alert("x")</script>\x1b[31m'
VOID = {"img", "br", "line", "circle", "polyline", "meta"}


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not the last one opened; `text` is what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data + " "


def read(value: Shown) -> str:
    """The words of what a notebook shows of a value; the HTML is sound, and repr is short too."""
    html = value._repr_html_()
    assert html is not None
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    assert "script" not in parser.tags
    assert not re.search(r"https?://|\x1b", html.replace('xmlns="http://www.w3.org/2000/svg"', ""))
    assert len(repr(value)) < 2500
    return parser.text


def test_the_check_of_html_sees_a_wrong_end():
    with pytest.raises(AssertionError):
        Balanced().feed("<p><b>x</p></b>")


def every_shown_class() -> set[type]:
    for place in ROWS:
        import_module(place.rpartition(".")[0])
    found, todo = set(), [Shown]
    while todo:
        new = [c for c in todo.pop().__subclasses__() if c.__module__.startswith("preimage.")]
        found |= set(new)
        todo += new
    return found


def test_every_class_that_can_be_shown_has_a_row_and_every_row_a_class_and_a_function():
    classes = every_shown_class()
    direct = {c for c in classes if Shown in c.__bases__}
    places = {f"{c.__module__}.{c.__qualname__}" for c in classes}
    assert {f"{c.__module__}.{c.__qualname__}" for c in direct} <= set(ROWS)
    assert set(ROWS) <= places
    for place in ROWS.values():
        module, _, name = place.partition(":")
        assert callable(getattr(import_module(f"preimage.report.notebook.{module}"), name))


def test_what_has_no_row_is_left_to_repr():
    class Own(Shown):
        pass

    assert Own()._repr_html_() is None
    assert html_of(3) is None


def test_a_tensor_is_shown_without_anything_heavy():
    code = (
        "import sys, numpy as np, preimage as pre; print(pre.Tensor(np.ones((2, 3), np.float32))._repr_html_()[:27]);"
        "pre.ConvGeometry.from_conv((1, 3, 8, 8), (4, 3, 3, 3))._repr_html_();"
        "print([m for m in ('PIL', 'rich', 'matplotlib', 'onnx', 'IPython', 'preimage.audit', 'preimage.learning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert done == ['<div class="preimage-card">', "[]"]


def test_importing_the_package_loads_no_report():
    code = "import sys, preimage; print([m for m in sys.modules if m.startswith('preimage.report')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_geometries_plans_and_coverage():
    g = pre.ConvGeometry.from_conv((2, 6, 9, 11), (4, 3, 3, 5), stride=(2, 1), padding=(1, 2), groups=2)
    words = read(g)
    assert "9 x 11 → 5 x 11" in words
    assert "2 x 6 x 9 x 11" in words
    # the cost by its definition: outputs x channels of a group x taps x 2
    assert f"{2 * 2 * 4 * 5 * 11 * 3 * 15 / 1e3:.3g} kflop" in words
    plan = pre.plan(g)
    assert plan.algorithm in read(plan)
    # 3 taps, stride 2: cells meet 2 taps and 1 in turn
    deconv = pre.ConvGeometry.from_conv_transpose((1, 1, 6), (1, 1, 3), stride=2)
    found = analysis.coverage(deconv)
    assert "checkerboard" in read(found)
    assert "2, 1" in read(found.axes[0])


def test_traces_and_single_numbers(rng: np.random.Generator):
    x, w = rng.integers(-4, 5, (1, 2, 3, 4)).astype(np.float32), rng.integers(-4, 5, (2, 3, 2, 3)).astype(np.float32)
    t = analysis.trace_conv_transpose(x, w, np.float32([1, 2, 3]), stride=2)
    assert "1 x 2 x 3 x 4 → 1 x 3 x 6 x 9" in read(t)
    total = t.slide((0, 1, 2, 4))
    words = read(total)
    assert f"= {total.value:.8g}" in words
    assert words.count("x[") == len(total.largest)
    stroke = t.paint((0, 1, 2, 2))
    assert f"reaches {len(stroke)} outputs" in read(stroke)
    assert "After activation [0, 0, 0, 1]" in read(list(t.painting())[1])
    assert "After the bias" in read(list(t.painting())[-1])
    # small arrays are drawn with their numbers, large ones as planes of colours
    assert "Deconvolution paints" in read(t)
    big = analysis.trace_conv(np.ones((1, 3, 40, 50), np.float32), np.ones((4, 3, 3, 3), np.float32))
    assert "output 1 x 4 x 38 x 48" in read(big)


def test_why_reach_and_nan(rng: np.random.Generator):
    x = pre.Tensor(rng.standard_normal((1, 2, 6, 6)).astype(np.float32), requires_grad=True, name="photo")
    w = pre.Tensor(rng.standard_normal((3, 2, 3, 3)).astype(np.float32), requires_grad=True)
    y = pre.ops.relu(pre.conv(x, w))
    assert "through relu" in read(analysis.why(y, (0, 0, 1, 1)))
    assert "column" in read(analysis.reach(x, (0, 0, 2, 2), y))
    assert "row" in read(analysis.why(y, (0, 0, 1, 1), of=x))
    bad = np.zeros((1, 2, 6, 6), np.float32)
    bad[0, 1, 2, 3] = np.nan
    born = analysis.first_nan(nn.Sequential(nn.Conv2d(2, 3, 3, rng=0)), bad)
    assert "[0, 1, 2, 3]" in read(born)


def test_tensors_say_shape_origin_and_range():
    t = pre.Tensor(np.arange(6, dtype=np.float32).reshape(2, 3), requires_grad=True, name=HOSTILE)
    words = read(t)
    assert "2 x 3, float32, a leaf that gets a gradient" in words
    assert "0, 2.5, 5" in words
    assert "from sum" in read(t.sum())
    (t * t).sum().backward()
    assert "of norm 14.8324" in read(t)  # |2x| = 2 sqrt(55)
    assert "2 of 3" in read(pre.Tensor([1.0, np.nan, np.inf]))
    assert read(pre.Tensor(np.zeros((0, 3))))
    assert read(pre.Tensor(2.5))
    assert "Tensor weight" in read(nn.Linear(2, 3).weight)


def test_modules_and_analyses_of_nets():
    net = nn.Sequential({HOSTILE: nn.Conv2d(3, 8, 5, rng=0), "up": nn.ConvTranspose2d(8, 2, 4, stride=2, rng=0)})
    words = read(net)
    assert "1,200" in words  # 2 x 8 x 3 x 25 flop per position
    assert f"{8 * 3 * 25 + 8 + 8 * 2 * 16 + 2:,}" in words
    assert "ConvTranspose2d" in read(nn.summary(net, (1, 3, 12, 12)))
    made = analysis.analyse(net, (1, 3, 12, 12))
    assert "conv_transpose" in read(made)
    assert "conv_transpose" in read(made.layers[-1])


def test_a_loaded_graph_is_shown_whatever_its_parameters_are_called(tmp_path):
    """Names in files hold dots that are no path of modules: looking for the owner of `0.weight` raised KeyError."""
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, rng=0), nn.ReLU())
    export.save(net, tmp_path / "net.onnx", example=np.zeros((1, 3, 8, 8), np.float32))
    graph = files.load_model(tmp_path / "net.onnx")
    assert "0.weight" in graph.weights
    words = read(graph)
    assert "1 conv, 1 relu" in words
    assert "140 in 2 arrays" in words
    assert "5 x 3 x 3 x 3" in words
    assert "2 nodes" in repr(graph)
    info = inspect_model(graph, random_inputs(graph, {graph.inputs[0].name: (1, 3, 8, 8)}))
    assert "Model" in read(info)


def test_a_graph_with_hostile_names_is_shown_and_nothing_acts():
    names = (HOSTILE, f"{HOSTILE}.x", "in put")
    nodes = [Node(HOSTILE, "conv", (names[2], names[1]), (names[0],), {"stride": 1})]
    graph = Graph(
        nodes, [Input(names[2], (None, 2, "H", 4))], [names[0]], {names[1]: np.ones((3, 2, 1, 1), np.float32)}, name=HOSTILE
    )
    assert "\\x1b" in read(graph)
    assert "? x 2 x H x 4" in read(graph)


def test_audits_with_findings():
    report = pre.audit.run(["gemm"], geometries=3, checks=["exact"], jobs=0, steer_seconds=0)
    words = read(report)
    assert "gemm" in words
    assert "no findings" in words
    assert len(repr(report)) < 200
    finding = Finding("gemm", "exact", "wrong value", "conv", "float32", "contiguous", HOSTILE, {}, 0, reproducer="a = 1\nb < 2")
    report.subjects[0].add(finding)
    assert "b < 2" in read(report)
    assert "wrong value" in read(report)


def test_learned_stencils_and_paintings(rng: np.random.Generator):
    picture = rng.random((3, 20, 24)).astype(np.float32)
    slow, detail = learning.split_slow(picture)
    coded = learning.learn([detail], learning.Options(stencils=4, size=5, steps=3))
    words = read(coded)
    assert "4 of 5 x 5" in words
    assert "3 of 3" in words
    assert len(repr(coded)) < 200
    model = learning.ConvDictionary(3, 5, max_iter=2)
    assert "not fitted" in read(model)
    assert "stencils" in read(model.fit(picture[None]))
    painting = learning.paint_by_numbers(coded, 0, HOSTILE, picture, slow)
    assert f"{painting.psnr:.2f} dB" in read(painting)
    assert len(repr(painting.frames[0])) < 100


def test_runs_say_how_far_they_are_in_about_ten_lines(rng: np.random.Generator, capsys: pytest.CaptureFixture[str]):
    detail = learning.split_slow(rng.random((1, 16, 16)).astype(np.float32))[1]
    learning.learn([detail], learning.Options(stencils=2, size=3, steps=40), progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert 8 <= len(lines) <= 12
    assert lines[-1].startswith("step 40 of 40  objective")
    assert max(map(len, lines)) < 100
    pre.audit.run(["gemm"], geometries=30, checks=["exact"], jobs=0, steer_seconds=0, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert 8 <= len(lines) <= 12
    assert lines[-1] == "case 30 of 30  0 findings"
    learning.learn([detail], learning.Options(stencils=2, size=3, steps=2))
    assert capsys.readouterr().out == ""
    say = progress_lines("x")
    for k in range(1, 1001):
        say(k, 1000, "")
    assert len(capsys.readouterr().out.splitlines()) == 11


def test_the_png_without_pillow_holds_the_pixels(rng: np.random.Generator):
    pixels = rng.integers(0, 256, (7, 5, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)


def shown(html: str) -> np.ndarray:
    found = re.search(r"base64,([^\"]+)", html)
    assert found
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))


def test_heat_is_orange_above_zero_blue_below_and_purple_where_no_number():
    pixels = shown(heat(np.array([[2.0, 0.0, -2.0, np.nan, 1.0]]), "x"))[0].astype(int)
    assert pixels[0, 0] > pixels[0, 2] + 100
    assert list(pixels[1]) == [255, 255, 255]
    assert pixels[2, 2] > pixels[2, 0] + 80
    assert pixels[3, 1] < 60
    assert pixels[0, 2] < pixels[4, 2] < 255
    assert shown(heat(np.array([np.inf, 1.0]), "x")).shape == (1, 2, 3)
    assert planes(np.zeros((0, 3)), "x") == ""
    assert "8 of 12 planes" in planes(np.ones((3, 4, 2, 2)), "x")


def test_long_tables_open_with_a_click_and_huge_ones_are_cut():
    html = table(("a",), [(k,) for k in range(2000)])
    assert html.count("<td>3</td>") == 2
    assert "1,000 more rows" in html
    assert block("a\n<b>") == "<pre>a\n&lt;b&gt;</pre>"
