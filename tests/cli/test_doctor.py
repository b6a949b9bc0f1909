"""`preimage doctor`: says what is here, and notices an engine that computes wrongly."""

from __future__ import annotations

import numpy as np
import pytest

from preimage.cli import main
from preimage.engines.gemm import GemmEngine


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["doctor", *arguments])
    return int(end.value.code or 0)


def test_it_says_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-n", "2") == 0
    said = capsys.readouterr().out
    for word in (
        "preimage",
        "python",
        "numpy",
        "threads",
        "kernel cache",
        "typer",
        "engine jit",
        "engine gemm",
        "engine reference",
        "all is well",
    ):
        assert word in said


def test_a_wrong_engine_is_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = GemmEngine.conv
    monkeypatch.setattr(GemmEngine, "conv", lambda *a, **k: np.negative(right(*a, **k)))
    assert run("-n", "3") == 1
    said = capsys.readouterr().out
    assert "something is wrong" in said
    assert " wrong, first: " in said
