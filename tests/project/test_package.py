"""Wheel and sdist hold what they should and are the same bytes twice; the files of .github are well-formed."""

from __future__ import annotations

import importlib.util
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def load() -> Any:
    spec = importlib.util.spec_from_file_location("package", ROOT / "tools" / "package.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


package = load()


def test_two_builds_are_the_same_and_hold_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    assert not package.main(tmp_path / "dist")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert "preimage/bench/data/perf_suite.json" in names
    assert "preimage/py.typed" in names
    assert re.search(r"^License-Expression: Apache-2.0$", metadata, re.MULTILINE)
    assert re.search(r"^Author: ", metadata, re.MULTILINE)


def test_what_does_not_belong_there_is_noticed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        for name in ("preimage/a.py", "preimage/__pycache__/a.pyc", "tests/test_a.py", "preimage-1.dist-info/METADATA"):
            archive.writestr(name, "")
    assert package.unwanted(tmp_path / "x.whl") == ["tests/test_a.py", "preimage/__pycache__/a.pyc"]


def test_the_workflows_run_commands_that_there_are() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used: list[str] = []
    for file in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        text = file.read_text()
        assert "\t" not in text
        assert "permissions:" in text
        used += re.findall(r"run: make ([a-z]+)", text)
        for script in re.findall(r"run: python (tools/\S+)", text):
            assert (ROOT / script).is_file()
        for words in re.findall(r"pytest (.+)", text):
            assert all((ROOT / word).exists() for word in words.split() if word.startswith("tests"))
    assert set(used) <= targets
    assert {"test", "check", "site", "floors"} <= set(used)


def test_versions_agree() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert version is not None
    assert cited is not None
    assert version.group(1) == cited.group(1)


def test_the_bill_of_materials_names_what_is_needed() -> None:
    pytest.importorskip("onnx")
    sys.path.insert(0, str(ROOT / "tools"))
    from sbom import bill

    found: Any = bill({"onnx"})
    names = [c["name"] for c in found["components"]]
    assert {"numpy", "llvmlite", "onnx", "protobuf"} <= set(names)
    assert "pytest" not in names
    assert names == sorted(names)
    assert found["metadata"]["component"]["name"] == "preimage"
    assert {"numpy", "llvmlite"} <= set(next(d for d in found["dependencies"] if d["ref"] == "preimage")["dependsOn"])
    assert "onnx" not in [c["name"] for c in bill(set())["components"]]  # type: ignore[attr-defined,index]
