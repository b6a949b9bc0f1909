"""What the wheel holds: the package and its data, and none of the tools that test it. hatchling packs the folder that pyproject.toml names."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/preimage"
#: Folders (or files) with anything but modules, and the endings that they may hold.
DATA = {
    "audit": {".json"},
    "bench/data": {".json"},
    "engines/jit": {".md"},
    "io/onnx": {".txt"},  # what ONNX says of its operators
    "report": {".css", ".js"},
    "report/explain/assets": {".css", ".html", ".js"},
    "report/learned": {".css", ".js"},
}


def strangers(package: Path) -> list[str]:
    """Files that have no place in a wheel: tests, fuzzers, data that nobody named."""
    found = []
    for path in sorted(p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        name = path.relative_to(package)
        if path.suffix == ".py":
            tool = name.stem.startswith(("test_", "conftest", "fuzz")) or name.stem.endswith("_test")
            if tool or imported(path) & {"pytest", "hypothesis", "tests"}:
                found.append(str(name))
        elif name != Path("py.typed") and path.suffix != ".pyi" and path.suffix not in DATA.get(name.parent.as_posix(), ()):
            found.append(str(name))
    return found


def imported(path: Path) -> set[str]:
    """The packages that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names


def test_the_wheel_holds_the_package_alone() -> None:
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"] == {"packages": ["src/preimage"]}
    assert strangers(PACKAGE) == []


def test_a_stranger_is_seen(tmp_path: Path) -> None:
    for name, text in {
        "ok.py": "import numpy",
        "fuzz_nets.py": "",
        "a.py": "import pytest",
        "b/c.json": "{}",
        "py.typed": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert strangers(tmp_path) == ["a.py", "b/c.json", "fuzz_nets.py"]
