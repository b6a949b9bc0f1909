"""`preimage learn` and `preimage rebuild`: what they write, what they refuse, and that nothing is half-written."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import preimage as pre
from preimage.cli import main
from preimage.cli.inputs import check_memory, larger_would_take, longest_by_default
from preimage.cli.watch import Watch
from preimage.errors import OptionError
from preimage.io.stencils import load_stencils, save_stencils
from preimage.learning import Model, Progress, psnr
from preimage.report.terminal import Terminal

QUICK = ("--steps", "6", "--stencils", "4", "--size", "5", "--engine", "gemm", "--threads", "1")


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A command leaves the process's settings as they were; each test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    before = pre.config.current()
    yield
    assert pre.config.current() is before


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message with which a call is refused; no traceback, and nothing is left behind."""
    before = sorted(Path().rglob("*"))
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert sorted(Path().rglob("*")) == before
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", captured.err).split())


def picture(rng: np.random.Generator, height: int = 40, width: int = 33) -> np.ndarray:
    x = 90 + 12 * rng.standard_normal((height, width))
    x[10:16] += 80
    x[:, 14:18] -= 60
    return np.clip(x, 0, 255).astype(np.uint8)


def test_learn_writes_all_that_it_promises(rng: np.random.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture(rng)).save("a.png")
    assert run("learn", "a.png", *QUICK, "-o", "out") == 0
    names = {p.name for p in Path("out").iterdir()}
    pngs = {"original.png", "rebuilt.png", "difference.png", "stencils.png", "activations.png", "painted.png", "objective.png"}
    assert names == pngs | {"report.html", "metrics.json", "stencils.safetensors"}
    metrics = json.loads(Path("out/metrics.json").read_text())
    stencils, notes = load_stencils("out")
    assert stencils.shape == (4, 1, 5, 5)
    assert notes["sparsity"] == "0.05"
    assert len(metrics["curve"]) == 6
    assert metrics["engine"] == "gemm"
    assert sum(metrics["shares"]) == pytest.approx(1)
    original, rebuilt = (np.asarray(Image.open(f"out/{n}.png"), np.float64)[..., 0] / 255 for n in ("original", "rebuilt"))
    np.testing.assert_array_equal(np.rint(original * 255), picture(np.random.default_rng(20)))
    assert psnr(original, rebuilt) == pytest.approx(metrics["final"]["psnr"], abs=0.3)
    assert "report: out/report.html" in capsys.readouterr().out
    assert sorted(p.name for p in Path().iterdir()) == ["a.png", "out"]


def test_the_page_stands_alone(rng: np.random.Generator) -> None:
    Image.fromarray(picture(rng)).save("a <b>&.png")
    assert run("learn", "a <b>&.png", *QUICK, "-o", "out") == 0
    page = Path("out/report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)|url\(|@import|https?://""", page)
    assert "a &lt;b&gt;&amp;" in page
    assert "a <b>" not in page
    for what in ("The stencils", "Painted stroke by stroke", "The strongest activation maps", "The run over time"):
        assert what in page
    assert page.count("<figure") > 10


def test_a_large_photograph_is_made_smaller_unless_asked_otherwise(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("preimage.cli.inputs.LONGEST", 80)
    Image.fromarray(picture(rng, 100, 125)).save("big.png")
    quick = ("--steps", "1", "--stencils", "2", "--size", "3", "--stride", "3", "--engine", "gemm")
    assert run("learn", "big.png", *quick, "-o", "small") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "made smaller: 125x100 to 80x64" in said
    assert "--longest 125 takes them as they are: 2.4 times the work" in said
    assert run("learn", "big.png", *quick, "-o", "whole", "--longest", "125") == 0
    said = capsys.readouterr().out
    assert "made smaller" not in said
    assert "125x100" in said


def test_scarce_memory_makes_pictures_smaller_still(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = Model(11), [(3000, 4000)] * 3
    assert longest_by_default(sizes[:1], 64, 3, model) == 1024
    assert longest_by_default([(20, 30)], 64, 3, model) == 1024
    monkeypatch.setattr("preimage.cli.inputs.available_memory", lambda: 2**30)
    longest = longest_by_default(sizes, 64, 3, model)
    assert 64 < longest < 500
    check_memory([(longest * 3 // 4, longest)] * 3, 64, 3, model)
    with pytest.raises(OptionError):
        check_memory([(longest, longest * 4 // 3)] * 3, 64, 3, model)
    assert larger_would_take([(20, 30)], 1024, 64, 3, model) == ""


def test_the_report_can_be_opened_with_a_click(rng: np.random.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture(rng)).save("a.png")
    assert run("learn", "a.png", *QUICK, "-o", "out put") == 0
    (address,) = [line.strip() for line in capsys.readouterr().out.splitlines() if "file://" in line]
    assert address == (Path("out put") / "report.html").absolute().as_uri()
    assert " " not in address
    assert "<html" in urllib.request.urlopen(address).read().decode()


def test_a_run_says_once_how_long_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(Terminal(), "learn", 200)
    for step in range(1, 201):  # the first step, which compiles, takes 4 s, the others 1 s each
        watch(Progress(step, 200, 3.0 + step, 1.0, 1.0, 1.0, 30.0, 0.1, 0.05))
    out = capsys.readouterr().out
    assert out.count("Ctrl-C") == 1
    assert "200 steps take about 3 min" in out  # 4 + 199 s


def test_several_pictures_in_colour(rng: np.random.Generator) -> None:
    grey = picture(rng)
    colour = np.stack([grey, grey[::-1], 255 - grey], axis=-1)
    Image.fromarray(colour).save("c.png")
    Path("sub").mkdir()
    Image.fromarray(grey).save("sub/c.png")
    assert run("learn", "c.png", "sub/c.png", *QUICK, "-o", "out") == 0
    assert load_stencils("out")[0].shape == (4, 3, 5, 5)
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert [p["name"] for p in metrics["pictures"]] == ["c", "c 2"]
    assert Path("out/c-rebuilt.png").is_file()
    assert Path("out/c-2-rebuilt.png").is_file()
    assert run("learn", "c.png", "--grey", *QUICK, "-o", "grey") == 0
    assert load_stencils("grey")[0].shape == (4, 1, 5, 5)


def test_the_photograph_of_scikit_image_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("skimage")
    assert run("learn", "--steps", "1", "--stencils", "2", "--size", "3", "--stride", "3", "--engine", "gemm") == 0
    assert "camera (512x512)" in capsys.readouterr().out
    assert Path("preimage-learn/report.html").is_file()


def test_a_folder_that_is_there_is_never_touched_without_leave(
    rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(picture(rng)).save("a.png")
    assert run("learn", "a.png", *QUICK, "-o", "out") == 0
    first = Path("out/metrics.json").read_text()
    assert "--overwrite" in refused(capsys, "learn", "a.png", *QUICK, "-o", "out")
    assert Path("out/metrics.json").read_text() == first
    assert run("learn", "a.png", *QUICK, "--seed", "3", "-o", "out", "--overwrite") == 0
    assert Path("out/metrics.json").read_text() != first
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    assert "not ours" in refused(capsys, "learn", "a.png", *QUICK, "-o", "mine", "--overwrite")
    assert "a file, not a folder" in refused(capsys, "learn", "a.png", *QUICK, "-o", "a.png", "--overwrite")
    Path("link").symlink_to("out")
    assert "a link" in refused(capsys, "learn", "a.png", *QUICK, "-o", "link", "--overwrite")
    Path("empty").mkdir()
    assert run("learn", "a.png", *QUICK, "-o", "empty") == 0
    assert sorted(p.name for p in Path().iterdir()) == ["a.png", "empty", "link", "mine", "out"]


def test_without_an_output_the_next_free_name_is_taken(rng: np.random.Generator) -> None:
    Image.fromarray(picture(rng)).save("a.png")
    for _ in range(2):
        assert run("learn", "a.png", *QUICK) == 0
    assert Path("preimage-learn/report.html").is_file()
    assert Path("preimage-learn-2/report.html").is_file()


def test_nothing_is_left_where_a_run_fails(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(picture(rng)).save("a.png")
    Path("out").mkdir()
    Path("out/metrics.json").write_text("old")

    def broken(*_: object) -> str:
        raise RuntimeError("the page broke")

    monkeypatch.setattr("preimage.cli.learn.render_learned", broken)
    assert run("learn", "a.png", *QUICK, "-o", "out", "--overwrite") == 70
    message = capsys.readouterr().err
    assert message.startswith("error: RuntimeError: the page broke (a fault of preimage")
    assert message.count("\n") == 1
    assert Path("out/metrics.json").read_text() == "old"
    assert sorted(p.name for p in Path().iterdir()) == ["a.png", "out"]


def test_ctrl_c_ends_cleanly_with_what_is_there(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from preimage.cli import watch

    Image.fromarray(picture(rng)).save("a.png")
    as_it_was = watch.Watch.__call__

    def interrupt_at_three(self: Any, step: Any) -> bool:
        if step.step == 3:
            signal.raise_signal(signal.SIGINT)
        return as_it_was(self, step)

    monkeypatch.setattr(watch.Watch, "__call__", interrupt_at_three)
    handler = signal.getsignal(signal.SIGINT)
    assert run("learn", "a.png", *QUICK, "-o", "out") == 0
    assert "stopped after 3 steps of 6" in capsys.readouterr().out
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert metrics["stopped"] is True
    assert len(metrics["curve"]) == 3
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(("arguments", "text"), [
    (["missing.png"], "missing.png: there is no such file"),
    (["empty.png"], "the file is empty"),
    (["text.png"], "no picture that Pillow can read"),
    (["cut.png"], "the picture is broken"),
    (["folder"], "is a folder"),
    (["one.png"], "1x1 pixels are fewer than one stencil"),
    (["line.png"], "fewer than one stencil"),
    (["small.png", "--size", "11"], "--size 8 would do"),
    (["flat.png"], "nothing to learn from"),
    (["good.png", "--sparsity", "0"], "sparsity must be positive"),
    (["good.png", "--sparsity", "nan"], "sparsity must be positive"),
    (["good.png", "--stride", "9"], "larger than the stencils' side"),
    (["good.png", "--engine", "mkl"], "no engine is called 'mkl'"),
    (["good.png", "--border", "round"], "border must be one of"),
    (["good.png", "--steps", "0"], "Invalid value"),
    (["good.png", "-o", "text.png/out"], "cannot be written"),
])  # fmt: skip
def test_learn_refuses(arguments: list[str], text: str, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture(rng)).save("good.png")
    Path("empty.png").touch()
    Path("text.png").write_text("not a picture")
    Path("cut.png").write_bytes(Path("good.png").read_bytes()[:200])
    Path("folder").mkdir()
    Image.new("L", (1, 1)).save("one.png")
    Image.new("L", (30, 1)).save("line.png")
    Image.fromarray(picture(rng)[:8, :9]).save("small.png")
    Image.new("L", (30, 30), 99).save("flat.png")
    assert text in refused(capsys, "learn", *([] if "--size" in arguments else ["--size", "5"]), "--stencils", 4, *arguments)


def test_pictures_that_need_more_memory_than_there_is_are_refused() -> None:
    with pytest.raises(OptionError, match=r"GiB are free: use --longest \d+"):
        check_memory([(100_000, 80_000)], 64, 1, Model(11))
    check_memory([(64, 64)], 64, 1, Model(11))


def test_longest_makes_pictures_smaller(rng: np.random.Generator) -> None:
    Image.fromarray(picture(rng, 80, 66)).save("a.png")
    assert run("learn", "a.png", *QUICK, "--longest", "40", "-o", "out") == 0
    assert json.loads(Path("out/metrics.json").read_text())["pictures"][0]["shape"] == [1, 40, 33]


# -- rebuild -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def learned(rng: np.random.Generator) -> Path:
    """A picture a.png, and stencils that were learned from it in out/."""
    Image.fromarray(picture(rng)).save("a.png")
    assert run("learn", "a.png", *QUICK[2:], "--steps", "40", "-o", "out") == 0
    return Path("out")


def rebuilt(folder: str) -> np.ndarray:
    return np.asarray(Image.open(f"{folder}/rebuilt.png"), np.float64)[..., 0]


def test_rebuild_paints_the_picture(learned: Path) -> None:
    assert run("rebuild", learned, "a.png", "-n", "40", "--engine", "gemm", "-o", "again") == 0
    metrics = json.loads(Path("again/metrics.json").read_text())
    first = json.loads(Path("out/metrics.json").read_text())
    assert metrics["sparsity"] == 0.05
    assert metrics["psnr_against_given"] > first["final"]["psnr"] - 0.5
    assert Path("again/report.html").is_file()


def test_a_mask_is_filled_in_and_known_pixels_stay(learned: Path, rng: np.random.Generator) -> None:
    x = np.asarray(Image.open("a.png"), np.float64)
    known = rng.random(x.shape) > 0.3
    Image.fromarray((known * 255).astype(np.uint8)).save("mask.png")
    Image.fromarray(np.where(known, x, 255).astype(np.uint8)).save("holes.png")
    arguments = ("--mask", "mask.png", "--truth", "a.png", "-n", "60", "--engine", "gemm", "-o", "filled")
    assert run("rebuild", learned / "stencils.safetensors", "holes.png", *arguments) == 0
    result = rebuilt("filled")
    np.testing.assert_array_equal(result[known], x[known])
    metrics = json.loads(Path("filled/metrics.json").read_text())
    assert metrics["masked"] == pytest.approx(1 - known.mean())
    error = np.sqrt(((result - x)[~known] ** 2).mean())
    assert error < 0.6 * x.std()
    assert metrics["psnr_filled"] == pytest.approx(20 * np.log10(255 / error), abs=0.2)


@pytest.mark.parametrize("noise", ["20", "0.0784", "auto"])
def test_noise_is_left_behind(learned: Path, rng: np.random.Generator, noise: str) -> None:
    x = np.asarray(Image.open("a.png"), np.float64)
    noisy = np.clip(x + 20 * rng.standard_normal(x.shape), 0, 255)
    Image.fromarray(noisy.astype(np.uint8)).save("noisy.png")
    arguments = ("--noise", noise, "--truth", "a.png", "-n", "30", "--engine", "gemm", "-o", "clean")
    assert run("rebuild", learned, "noisy.png", *arguments) == 0
    metrics = json.loads(Path("clean/metrics.json").read_text())
    assert metrics["noise"] == pytest.approx(20 / 255, rel=0.3)
    assert metrics["psnr"] > metrics["psnr_given"] + 1


def test_grey_stencils_paint_a_colour_picture_plane_by_plane(learned: Path) -> None:
    x = np.asarray(Image.open("a.png"))
    Image.fromarray(np.stack([x, 255 - x, x[::-1]], axis=-1)).save("c.png")
    assert run("rebuild", learned, "c.png", "-n", "40", "--engine", "gemm", "-o", "colour") == 0
    result, given = (np.asarray(Image.open(n), np.float64) for n in ("colour/rebuilt.png", "c.png"))
    assert result.shape == given.shape
    assert psnr(result / 255, given / 255) > 20


def test_rebuild_refuses(learned: Path, capsys: pytest.CaptureFixture[str], rng: np.random.Generator) -> None:
    Image.new("L", (7, 9), 255).save("other.png")
    Image.new("L", (33, 40), 0).save("black.png")
    Path("junk.safetensors").write_bytes(b"\x10junk")
    save_stencils("flat.safetensors", np.zeros((4, 25)), {})
    save_stencils("nan.safetensors", np.full((2, 1, 3, 3), np.nan), {})
    for arguments, text in [
        (["out", "missing.png"], "no such file"),
        (["nothing", "a.png"], "no such file"),
        (["junk.safetensors", "a.png"], "no readable safetensors file"),
        (["flat.safetensors", "a.png"], "stencils are (K, 1 or 3, k, k)"),
        (["nan.safetensors", "a.png"], "not finite"),
        (["out", "a.png", "--mask", "other.png"], "must be equal"),
        (["out", "a.png", "--mask", "black.png"], "black everywhere"),
        (["out", "a.png", "--truth", "other.png"], "must be equal"),
        (["out", "a.png", "--noise", "loud"], "--noise takes"),
        (["out", "a.png", "--noise", "-3"], "--noise must lie"),
        (["out", "a.png", "--sparsity", "-1"], "sparsity must be positive"),
    ]:
        assert text in refused(capsys, "rebuild", *arguments, "--engine", "gemm")


def test_engine_and_threads_are_the_users_choice(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    from preimage.engines.gemm import GemmEngine

    as_it_was = GemmEngine.conv

    def watched(self: Any, *arguments: Any) -> Any:
        seen.add(pre.config.current().threads)
        return as_it_was(self, *arguments)

    monkeypatch.setattr(GemmEngine, "conv", watched)
    Image.fromarray(picture(rng)).save("a.png")
    assert run("learn", "a.png", *QUICK, "-o", "out") == 0
    assert seen == {1}
