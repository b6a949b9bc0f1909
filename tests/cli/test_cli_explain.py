"""`preimage explain`: the drawing of an axis against the definition, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.cli import main
from preimage.geometry import ConvGeometry
from preimage.report.mechanics import axis_picture, axis_summary


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
    for o, line in enumerate(axis_picture(g, 0)):
        cells = line.split("|")[1]
        assert len(cells) == size
        for i in range(size):
            x = np.zeros((1, 1, size))
            x[0, 0, i] = 1
            with pre.config(engine="reference"):
                y = pre.conv(x, np.ones((1, 1, kernel)), stride=stride, padding=[padding], dilation=dilation)
            assert (cells[i] == "#") == bool(y[0, 0, o])


def test_uneven_and_unseen_cells_are_told() -> None:
    even = ConvGeometry.from_conv((1, 1, 40), (1, 1, 4), stride=2)
    uneven = ConvGeometry.from_conv((1, 1, 40), (1, 1, 3), stride=2)
    gaps = ConvGeometry.from_conv((1, 1, 40), (1, 1, 1), stride=2)
    assert axis_summary(even, 0) == "a cell is seen by 2 outputs in the middle"
    assert "1 to 2 outputs" in axis_summary(uneven, 0)
    assert "checkerboard" in axis_summary(uneven, 0)
    assert "20 of 40 cells are never seen" in axis_summary(gaps, 0)


def test_explain_names_the_roles(capsys: pytest.CaptureFixture[str]) -> None:
    layer = ("--input", "1,6,9,8", "--weight", "6,4,3,3", "--stride", "2", "--padding", "1:0,2:1", "--engine", "gemm")
    assert run("explain", *layer, "--transpose") == 0
    text = capsys.readouterr().out
    assert "1 x 4 x " in text
    assert "conv_transpose: large side from small side and weight; the forward pass" in text
    assert "conv: small side from large side and weight; the gradient of the input" in text
    assert text.count("gemm") == 3


@pytest.mark.parametrize(("arguments", "text"), [
    (("--input", "1,6,9", "--weight", "6,4,3,3"), "spatial"), (("--input", "a", "--weight", "1"), "no list of integers"),
    (("--input", "1,4,9", "--weight", "6,4,3", "--padding", "wide"), "padding"),
    (("--input", "1,4,9", "--weight", "6,4,3", "--dtype", "int8"), "dtype must be"),
    (("--input", "1,4,9", "--weight", "6,4,3", "--engine", "x"), "no engine is called"),
])  # fmt: skip
def test_explain_refuses(arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", *arguments) == 2
    assert text in capsys.readouterr().err
