"""The conformance pack: its answers are the definition's, PyTorch passes it by a script that imports nothing of ours, defects are found."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preimage.audit.export import pack
from preimage.cli import main
from preimage.errors import OptionError

SCRIPT = Path(__file__).parents[2] / "examples" / "conformance_torch.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("packs") / "pack"
    with pytest.raises(SystemExit) as end:
        main(["audit", "--export", str(place), "-n", "60", "--seed", "1"])
    assert not end.value.code
    return place


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these layers are tiny
    spec = importlib.util.spec_from_file_location("conformance_torch", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    torch.set_num_threads(threads)


def read(folder: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    rows = []
    for case in json.loads((folder / "index.json").read_text())["cases"]:
        with np.load(folder / case["file"]) as arrays:
            rows.append((case, {name: arrays[name] for name in arrays.files}))
    return rows


def by_loops(case: dict[str, Any], x: Any, w: Any, y: Any) -> dict[str, Any]:
    """The definition in README.md over Python's integers, number by number."""
    per_group = case["out_channels"] // case["groups"]
    found = {
        "conv": np.zeros(y.shape, object), "conv_transpose": np.zeros(x.shape, object), "conv_weight_grad": np.zeros(w.shape, object),
    }  # fmt: skip
    taps = list(product(*map(range, case["kernel_size"])))
    for n, o, i in product(range(case["batch"]), range(case["out_channels"]), range(w.shape[1])):
        channel = o // per_group * w.shape[1] + i
        for p, k in product(product(*map(range, case["output_size"])), taps):
            rows = zip(p, case["stride"], case["padding"], k, case["dilation"], strict=True)
            at = tuple(q * s - lo + t * d for q, s, (lo, _), t, d in rows)
            if all(0 <= a < size for a, size in zip(at, case["input_size"], strict=True)):
                left, right, out = int(x[(n, channel, *at)]), int(w[(o, i, *k)]), int(y[(n, o, *p)])
                found["conv"][(n, o, *p)] += left * right
                found["conv_transpose"][(n, channel, *at)] += out * right
                found["conv_weight_grad"][(o, i, *k)] += left * out
    return found


def test_the_answers_are_those_of_the_definition(folder: Path) -> None:
    compared = 0
    for case, arrays in read(folder):
        if arrays["y"].size * arrays["w"].size // case["out_channels"] > 4_000:
            continue
        compared += 1
        for name, want in by_loops(case, arrays["x"], arrays["w"], arrays["y"]).items():
            assert (arrays[name].astype(object) == want).all(), (case["file"], name)
        assert (arrays["bias_grad"] == arrays["y"].sum(axis=(0, *range(2, arrays["y"].ndim)))).all()
    assert compared > 10


def test_the_data_are_such_that_every_sum_is_exact(folder: Path) -> None:
    rows = read(folder)
    assert len(rows) == 60
    assert {len(case["kernel_size"]) for case, _ in rows} == {1, 2, 3}
    for name in ("groups", "batch"):
        assert {case[name] > 1 for case, _ in rows} == {True, False}
    assert any(max(case["output_padding"]) > 0 for case, _ in rows)
    assert any(lo != hi for case, _ in rows for lo, hi in case["padding"])
    for _, arrays in rows:
        assert all(
            a.dtype == np.float32 and (a == np.rint(a)).all() and np.abs(a).max(initial=0) <= 2**24 for a in arrays.values()
        )


def test_torch_passes(folder: Path, script: Any) -> None:
    count, wrong = script.check(folder)
    assert count == 240
    assert not wrong


def test_the_script_is_short_and_imports_nothing_of_ours() -> None:
    lines = [line for line in SCRIPT.read_text().split('"""', 2)[2].splitlines() if line.strip()]
    assert len(lines) <= 40
    assert "preimage" not in "".join(lines)


def flipped(case: dict[str, Any], w: Any) -> Any:
    return w[(slice(None), slice(None), *[slice(None, None, -1)] * len(case["kernel_size"]))].copy()


@pytest.mark.parametrize("defect", ["flipped weights", "padding swapped", "one tap lost", "dilation as stride"])
def test_a_planted_defect_is_found(folder: Path, script: Any, defect: str) -> None:
    def wrong(case: dict[str, Any], x: Any, w: Any, y: Any) -> Any:
        if defect == "flipped weights":
            return script.library(case, x, flipped(case, w), y)
        if defect == "padding swapped":
            return script.library({**case, "padding": [pair[::-1] for pair in case["padding"]]}, x, w, y)
        if defect == "one tap lost":
            w[(..., *[-1] * len(case["kernel_size"]))] = 0
            return script.library(case, x, w, y)
        right = script.library(case, x, w, y)
        return right | ({"conv": right["conv"] + 1} if case["dilation"] == case["stride"] and max(case["stride"]) > 1 else {})

    _, found = script.check(folder, wrong)
    assert found


def test_the_script_as_a_command(
    tmp_path: Path, script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in pack(3):
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert not end.value.code
    assert capsys.readouterr().out.splitlines() == ["12 results compared, 0 wrong"]


def test_the_same_bytes_each_time_and_clear_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dict(pack(5, 3)) == dict(pack(5, 3))
    assert dict(pack(5, 3)) != dict(pack(5, 4))
    with pytest.raises(OptionError, match="at least 1"):
        next(pack(0))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    for options in ([], ["--overwrite"]):
        with pytest.raises(SystemExit) as end:
            main(["audit", "--export", str(tmp_path / "mine"), "-n", "2", *options])
        assert end.value.code
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"
    for options in ([], ["--overwrite"]):
        with pytest.raises(SystemExit) as end:
            main(["audit", "--export", str(tmp_path / "pack"), "-n", "2", *options])
        assert not end.value.code
    assert len(list((tmp_path / "pack").iterdir())) == 4
    capsys.readouterr()
