"""The command line itself: its table, its help, and messages instead of tracebacks."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from preimage import __version__
from preimage.cli import COMMANDS, main


def run(*arguments: str) -> int:
    """The exit status of the command line, in this process."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def test_help_names_every_command_and_imports_none() -> None:
    code = "import sys; sys.argv = ['preimage', '--help']\nfrom preimage.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\nprint(sorted(m for m in sys.modules if m.startswith('preimage.cli.')))\n"
    code += "print([m for m in ('matplotlib', 'PIL', 'onnx', 'llvmlite', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in COMMANDS)
    assert done.stdout.splitlines()[-2:] == ["['preimage.cli.failures']", "[]"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_row_leads_to_a_function_with_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, _, function = COMMANDS[name].place.partition(":")
    assert callable(getattr(import_module(module), function))
    assert run(name, "--help") == 0
    assert f"preimage {name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"preimage {__version__}\n"


def test_a_wrong_name_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lern") == 2
    assert "learn" in capsys.readouterr().err


@pytest.mark.parametrize(("package", "extra"), [("typer", "cli"), ("PIL", "cli"), ("skimage", "demo"), ("safetensors", "cli")])
def test_a_missing_package_names_its_extra(
    package: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == package or name in ("preimage.cli.learn", "preimage.cli.watch"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]  # import raises ModuleNotFoundError
    monkeypatch.chdir(str(tmp_path))
    Path("stencils.safetensors").write_bytes(bytes(8))
    learn = ("learn", "--steps", "1", "--stencils", "2", "--engine", "gemm")
    assert run(*(("rebuild", "stencils.safetensors", "a.png") if package == "safetensors" else learn)) == 2
    assert f"pip install 'preimage[{extra}]'" in capsys.readouterr().err
