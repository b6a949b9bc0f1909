"""How `engines/jit` is built: short functions and files, few rooms. That there is no circle, and who may import whom, is in import-linter's
contracts (pyproject.toml)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import preimage

ENGINES = Path(preimage.__file__).parent / "engines"
FILES = sorted([*(ENGINES / "jit").rglob("*.py"), *(ENGINES / "ir").rglob("*.py")])


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ENGINES).as_posix())
def test_functions_and_files_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


def test_the_top_level_has_few_rooms():
    rooms = [p.name for p in (ENGINES / "jit").iterdir() if p.suffix == ".py" or (p.is_dir() and (p / "__init__.py").exists())]
    assert len(set(rooms) - {"__init__.py"}) <= 14
