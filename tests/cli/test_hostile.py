"""Hostile calls of the command line: a slice of `python tests/cli/hostile.py`, another one every run of a day; what a failure looks like."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from hostile import calls, prepared, run

import preimage as pre
from preimage.cli import failures, main

pytest.importorskip("onnx")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the calls run in forks")
EVERY = 25


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("hostile"))


def test_there_are_hundreds_of_calls() -> None:
    assert len(set(calls())) > 300


def test_hostile_calls_end_with_a_line(template: Path) -> None:
    chosen = [call for call in calls() if call[:1] not in (("audit",), ("tune",))][date.today().toordinal() % EVERY :: EVERY]
    found = [run(call, template) for call in chosen]
    assert [(o.fault, o.arguments, o.output[-400:]) for o in found if o.fault] == []
    assert {o.status for o in found} <= {0, 1, 2}


def test_the_check_sees_a_traceback_a_signal_and_a_control_character(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise KeyError("x")

    monkeypatch.setattr(failures, "exit_status", broken)
    assert run(("--version",), template).fault == "exit status 99"
    monkeypatch.setattr(failures, "exit_status", lambda *_, **__: os.kill(os.getpid(), 9))  # 11 has the fault handler print
    assert run(("--version",), template).fault == "exit status -9"
    monkeypatch.setattr(failures, "exit_status", lambda *_, **__: print("\x1b[2J"))
    assert run(("--version",), template).fault == "prints '\\x1b'"


def test_a_full_device_and_a_reader_that_went_away(template: Path) -> None:
    outcome = run(("bench", "--load", "run.json"), template, full=True)
    assert outcome.status == 1
    assert "No space left on device" in outcome.output
    command = f"{sys.executable} -m preimage --help | true; {sys.executable} -m preimage --version >&-; echo $?"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def ended(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


@pytest.mark.parametrize(("error", "status", "text"), [
    (KeyError("a\x1bb"), 70, "error: KeyError: 'a\\x1bb' (a fault of preimage; `preimage --traceback ...` shows where: please report it)"),
    (ValueError("two\nlines"), 70, "error: ValueError: two lines (a fault"), (RecursionError("deep"), 70, "error: RecursionError"),
    (MemoryError(), 1, "error: there is not enough memory for this"), (KeyboardInterrupt(), 130, "interrupted"),
    (FileNotFoundError(2, "No such file", "x\x1b"), 1, "error: x\\x1b: No such file"), (OSError(28, "No space left"), 1, "error: No space left"),
    (pre.OptionError("wrong [/red]"), 2, "error: wrong [/red]"), (pre.FileFormatError("two\nlines"), 2, "error: two\nlines"),
])  # fmt: skip
def test_every_error_is_a_line_and_a_status(
    error: BaseException, status: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("preimage.cli._app", lambda _: fails)
    assert ended("cache") == status
    assert capsys.readouterr().err.startswith(text)
    assert ended("--traceback", "cache") == status
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    monkeypatch.setenv("PREIMAGE_DEBUG", "1")
    assert ended("cache") == status
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("audit", "-n", "0", "--cases", "deep.json"), "nested too deeply"),
        (("audit", "-n", "0", "--cases", "pipe"), "is a pipe"),
        (("audit", "-n", "1", "--state", "deep.json"), "nested too deeply"),
        (("audit", "os:system", "-n", "1"), "'os:system' has none of the contractions"),
    ],
)
def test_what_an_audit_is_given_may_be_hostile_too(template: Path, arguments: tuple[str, ...], text: str) -> None:
    outcome = run(arguments, template)
    assert outcome.fault == ""
    assert text in outcome.output
