"""`preimage explain`: drawings against the definition, verdicts, spellings, models, pages, and what it refuses."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.cli import main
from preimage.errors import PreimageError
from preimage.geometry import ConvGeometry
from preimage.report.mechanics import axis_picture, axis_summary, coverage_lines, verdict


@pytest.fixture(autouse=True)
def _settings() -> Any:
    """A command leaves the process's settings as they were."""
    before = pre.config.current()
    yield
    assert pre.config.current() is before


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation"), [
    (12, 3, 1, (0, 0), 1), (13, 4, 2, (1, 2), 1), (11, 2, 3, (0, 1), 4), (9, 3, 2, (2, 0), 2),
])  # fmt: skip
def test_the_drawing_shows_the_taps_of_the_convolution(
    size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int
) -> None:
    g = ConvGeometry.from_conv((1, 1, size), (1, 1, kernel), stride=stride, padding=[padding], dilation=dilation)
    options: dict[str, Any] = {"stride": stride, "padding": [padding], "dilation": dilation}
    for o, line in enumerate(axis_picture(g, 0)):
        cells = line.split("|")[1]
        assert len(cells) == size
        for i in range(size):
            x = np.zeros((1, 1, size))
            x[0, 0, i] = 1
            with pre.config(engine="reference"):
                y = pre.conv(x, np.ones((1, 1, kernel)), **options)
            assert (cells[i] == "#") == bool(y[0, 0, o])
    with pre.config(engine="reference"):
        small = np.ones(g.output_shape)
        back = pre.conv_transpose(small, np.ones((1, 1, kernel)), output_size=g.input_size, **options)
    counts = coverage_lines(g, 0)[0].split("|")[1]
    assert [int(c) for c in counts] == back[0, 0].astype(int).tolist()


def test_verdicts() -> None:
    """Even, uneven and gaps by the interior; nothing where there is none; the numbers from test_coverage.py's brute force in tests/analysis."""

    def conv(size: int, kernel: int, stride: int) -> ConvGeometry:
        return ConvGeometry.from_conv((1, 1, size), (1, 1, kernel), stride=stride)

    assert axis_summary(conv(40, 4, 2), 0) == "even: 2 taps on every cell of the interior"
    assert axis_summary(conv(40, 3, 2), 0) == "uneven: 1 to 2 taps a cell, again every 2 cells"
    assert axis_summary(conv(40, 1, 2), 0) == "gaps: 1 of every 2 cells meet no tap"
    assert axis_summary(conv(5, 3, 1), 0) == "even: 3 taps on every cell of the interior"
    assert axis_summary(conv(3, 3, 1), 0).startswith("too small to tell")
    assert "(4)" in verdict(conv(41, 3, 2), True)[1]


def test_no_small_layer_is_called_a_checkerboard_that_is_none() -> None:
    """Every small layer: the word stands only where the interior of a larger layer of the same kind is uneven, never at stride 1."""
    said = 0
    for n, k, s, p, d in product(range(1, 9), range(1, 7), range(1, 5), range(4), (1, 2)):
        try:
            g = ConvGeometry.from_conv_transpose((1, 1, n), (1, 1, k), stride=s, padding=p, dilation=d)
        except PreimageError:
            continue
        large = ConvGeometry.from_conv_transpose((1, 1, n + 40), (1, 1, k), stride=s, padding=p, dilation=d)
        with pre.config(engine="reference"):
            out = pre.conv_transpose(np.ones((1, 1, n + 40)), np.ones((1, 1, k)), stride=s, padding=p, dilation=d)[0, 0]
        middle = out[(k * d // s + 2) * s : -(k * d // s + 2) * s]
        called = any("heckerboard:" in line for line in verdict(g, True))
        said += called
        if called:
            assert len(set(middle)) > 1, (n, k, s, p, d)
            assert s > 1
        assert any("heckerboard:" in line for line in verdict(large, True)) == (len(set(middle)) > 1 and 0 not in middle)
    assert said > 20


def test_called_bare_it_explains_a_deconvolution(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain") == 0
    text = capsys.readouterr().out
    assert "A deconvolution (transposed convolution), 2-D" in text
    assert re.search(r"output +1 x 1 x 8 x 8", text)
    assert "taps   |12222221|" in text
    assert "engine" not in text


def test_options_say_a_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("explain", "--kernel", "4", "--stride", "2", "--padding", "1", "--transposed", "--channels", "64,3", "--size", "8,8")
        == 0
    )
    text = capsys.readouterr().out
    assert re.search(r"input +1 x 64 x 8 x 8", text)
    assert re.search(r"output +1 x 3 x 16 x 16", text)
    assert "forward" in text
    assert "393 kflop" in text


def test_explain_names_the_roles(capsys: pytest.CaptureFixture[str]) -> None:
    layer = ("--input", "1,6,9,8", "--weight", "6,4,3,3", "--stride", "2", "--padding", "1:0,2:1", "--engine", "gemm")
    assert run("explain", *layer, "--transpose", "--plan") == 0
    text = capsys.readouterr().out
    assert "1 x 4 x " in text
    assert "conv_transpose: large side from small side and weight; the forward pass" in text
    assert "conv: small side from large side and weight; the gradient of the input" in text
    assert text.count("gemm") == 3


def test_spellings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "--from", "ConvTranspose2d(64, 3, 4, 2, 1)", "--to", "keras") == 0
    assert 'Conv2DTranspose(3, 4, strides=2, padding="same")' in capsys.readouterr().out
    assert (
        run("explain", "--from", 'Conv2D(8, 3, strides=2, padding="SAME")', "--size", "9", "--channels", "3", "--to", "all") == 0
    )
    text = capsys.readouterr().out
    assert "Conv2d(3, 8, kernel_size=3, stride=2, padding=1)" in text
    assert "caffe" in text
    assert run("explain", "--from", "Conv2d(3, 8, 3, padding_mode='reflect')", "--to", "onnx") == 2
    assert "no exact counterpart" in capsys.readouterr().err


def test_a_page_is_written(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "--kernel", "3", "--stride", "2", "--transposed", "--html", str(tmp_path / "page.html")) == 0
    assert "file://" in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text()
    assert '"kind":"conv_transpose"' in page
    assert '"stride":[2' in page


@pytest.fixture
def model(tmp_path: Any) -> Any:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    w = rng.standard_normal((6, 3, 3, 3)).astype(np.float32)
    v = rng.standard_normal((6, 4, 3, 3)).astype(np.float32)
    b = rng.standard_normal(6).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], "first", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "on"), helper.make_node("ConvTranspose", ["r", "v"], ["y"], "up", strides=[2, 2]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 20, 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, k) for k, a in (("w", w), ("v", v), ("b", b))],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_model(model: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", str(model)) == 0
    text = capsys.readouterr().out
    assert re.search(r"first +conv +1x6x10x10 +3 +2 +0", text)
    assert re.search(r"up +conv_transpose +1x4x21x21 +5", text)
    assert "memory" in text


def test_a_layer_of_a_model_on_a_picture(model: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    page = tmp_path / "page.html"
    assert run(
        "explain", str(model), "--layer", "first", "--input", str(tmp_path / "p.png"), "--at", "0,2,4,4", "--html", str(page), "--to", "torch",
    ) == 0  # fmt: skip
    text = capsys.readouterr().out
    assert "y[0, 2, 4, 4] = " in text
    assert "27 terms x x w, largest first" in text
    assert "Conv2d(3, 6, kernel_size=3, stride=2, padding=1)" in text
    assert "part of the layer" in text
    # the value is that of the net on this picture
    onnxruntime = pytest.importorskip("onnxruntime")

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    x = (pixels.astype(np.float32) / 255).transpose(2, 0, 1)[None]
    assert session.run(None, {"x": x})[0].shape == (1, 4, 21, 21)
    from preimage.analysis import analyse
    from preimage.io.files import load_model, read_input

    x = read_input(tmp_path / "p.png", channels=3, size=(20, 20), scale=1 / 255)
    value = analyse(load_model(model), x).trace("first").slide((0, 2, 4, 4)).value
    assert f"= {value:.8g}:" in text
    assert '"kind":"conv"' in page.read_text()


@pytest.mark.parametrize(("arguments", "text"), [
    (("--input", "1,6,9", "--weight", "6,4,3,3"), "spatial"), (("--input", "a", "--weight", "1"), "no list of integers"),
    (("--input", "1,4,9", "--weight", "6,4,3", "--padding", "wide"), "padding"),
    (("--input", "1,4,9", "--weight", "6,4,3", "--dtype", "int8"), "dtype must be"),
    (("--input", "1,4,9", "--weight", "6,4,3", "--engine", "x"), "no engine is called"),
    (("--input", "1,4,9"), "needs --weight"), (("--stride", "2"), "say the kernel's size"), (("--layer", "a"), "name one"),
    (("--kernel", "3", "--channels", "3"), "--channels wants"), (("--from", "Dense(3)"), "no layer that is known"),
    (("--from", "Conv2d(3, 8, 3)", "--size", "3,3,3"), "--size has 3"), (("--from", "Conv2d(3, 8, 3)", "--to", "latin"), "no library"),
    (("nothing.onnx",), "nothing.onnx"), (("nothing.onnx", "--kernel", "3"), "not both"),
])  # fmt: skip
def test_explain_refuses(arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", *arguments) == 2
    assert text in capsys.readouterr().err


def test_a_model_says_which_layers_it_has(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", str(model), "--layer", "down") == 2
    assert "first, on, up" in capsys.readouterr().err
    assert run("explain", str(model), "--layer", "on") == 2
    assert "no convolution" in capsys.readouterr().err
    assert run("explain", str(model), "--html", "x.html") == 2
    assert "--layer NAME" in capsys.readouterr().err
