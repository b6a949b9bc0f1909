"""The lowest versions of other packages: declared for each, and read by the command that tries them (`make floors`)."""

from __future__ import annotations

import runpy
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def test_every_package_has_a_lowest_version_and_what_is_installed_is_none_below() -> None:
    floors = runpy.run_path(str(ROOT / "tools/floors.py"))["floors"]
    versions = floors((ROOT / "pyproject.toml").read_text())
    assert {"numpy", "llvmlite", "typer", "pillow", "onnx"} <= set(versions)
    for name, version in versions.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        assert _numbers(installed) >= _numbers(version), name


def test_a_package_without_a_lowest_version_is_seen() -> None:
    floors = runpy.run_path(str(ROOT / "tools/floors.py"))["floors"]
    text = (ROOT / "pyproject.toml").read_text()
    with pytest.raises(ValueError, match="declares no lowest version"):
        floors(text.replace("pillow>=", "pillow<"))
