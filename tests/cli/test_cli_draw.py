"""`preimage draw`: every kind, the files that it writes, and what it refuses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import preimage as pre
from preimage.cli import main
from preimage.cli.draw import KINDS

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(("draw", *arguments))
    return int(end.value.code or 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "layer", ["--kernel 3 --size 9 --bias --depth 1", "--from ConvTranspose1d(2,2,4,2,1,groups=2) --size 5 --depth 2"]
)
def test_every_kind_is_drawn(kind: str, layer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(kind, "-o", "a.svg", *layer.split()) == 0
    assert Path("a.svg").read_text().startswith("<svg xmlns=")
    assert capsys.readouterr().out.startswith("a.svg")


def test_bare_it_draws_the_layer_that_doubles_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("checkerboard", "-o", "a.svg") == 0
    assert "Kernel 4×4, stride 2×2" in Path("a.svg").read_text()
    assert run("taps", "-o", "a.gif") == 0
    assert capsys.readouterr().out.endswith("a.gif: 4 frames\n")


def test_the_numbers_of_files_are_drawn() -> None:
    x, w = np.arange(5.0)[None, None], np.array([[[2.0, -1.0]]])
    np.save("x.npy", x)
    np.save("w.npy", w)
    y = pre.conv(x, w)[0, 0]
    options = ("--kernel", "2", "--size", "5", "--input", "x.npy", "--weight", "w.npy")
    for k in range(4):
        assert run("slide", "-o", "a.svg", *options, "--frame", str(k), "--overwrite") == 0
        line = re.search(r">(y\[.*?)<", Path("a.svg").read_text())
        assert line is not None
        assert line[1].startswith(f"y[0,{k}] = ")
        assert line[1].endswith(f" = {y[k]:.0f}".replace("-", "−"))


def test_the_same_call_writes_the_same_bytes_and_another_seed_others() -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert run("paint", "-o", f"{name}.svg", "--seed", seed) == 0
    a, b, c = (Path(f"{n}.svg").read_bytes() for n in "abc")
    assert a == b != c


def test_the_commands_of_the_page_run() -> None:
    page = (Path(__file__).parents[2] / "docs" / "deconvolution.md").read_text()
    commands = re.findall(r"^\$ preimage draw (.*)$", page, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert run(*shlex.split(command)) == 0
    assert {p.name for p in Path().iterdir()} == {"paint.gif", "gradients.svg", "taps.svg"}


@pytest.mark.parametrize(("call", "message"), [
    ("nope -o a.svg", "no kind of picture is called 'nope'; there are slide, paint,"),
    ("slide -o a.jpg", "a.jpg: the name must end in one of .svg, .png, .apng, .gif"),
    ("slide -o a.svg --seed -1", "--seed must not be negative, got -1"),
    ("slide -o a.svg --stride 3", "say the kernel's size: --kernel 4"),
    ("slide -o a.svg --kernel 3 --size 60,60", "at most 2500 are drawn"),
    ("slide -o a.svg --kernel 3 --size 900", "do not fit side by side"),
    ("slide -o a.svg --kernel 3 --size 4 --frame 9", "frame 9 is not there: the drawing has 2, 0 to 1"),
    ("slide -o a.gif --kernel 3 --size 4 --frame 1", ".gif holds all frames"),
    ("slide -o a.png --kernel 3 --size 4 --scale 9", "scale must be a whole number from 1 to 8"),
    ("taps -o a.svg --axis 2", "axis is 2; the layer has 2 spatial axes"),
    ("field -o a.svg --depth 0", "--depth must be from 1 to 20"),
    ("field -o a.svg --kernel 3 --channels 2,1", "as many input as output channels, got 2 and 1"),
    ("slide -o a.svg --kernel 3 --size 4 --input x.npy", "x.npy: has shape (3,); the layer's input has (1, 1, 4)"),
    ("slide -o a.svg --kernel 3 --size 4 --input absent.npy", "absent.npy"),
    ("slide -o there.svg", "there.svg"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_one_line(call: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", np.ones(3))
    Path("there.svg").write_text("mine")
    assert run(*call.split()) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert {p.name for p in Path().iterdir()} == {"x.npy", "there.svg"}
    assert Path("there.svg").read_text() == "mine"
