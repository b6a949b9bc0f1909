"""Every public name has a text and an example that runs: in its docstring, or in docs/reference/examples/."""

from __future__ import annotations

import doctest
import importlib
import inspect
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import preimage as pre

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools" / "site"))

from docstrings import examples, markdown  # noqa: E402
from public_names import SURFACE, public  # noqa: E402

NAMES = [(module, name) for module in SURFACE for name in public(module)]


def failures(code: str, where: str) -> str:
    """What a doctest says of itself; "" where all is well."""
    test = doctest.DocTestParser().get_doctest(code, {"np": np, "pre": pre}, where, None, 0)
    assert test.examples
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False).run(test, out=said.append)
    return "".join(said)


def test_every_public_name_has_a_text_and_an_example() -> None:
    beside = examples()
    assert len(NAMES) > 350
    for module, name in NAMES:
        value = getattr(importlib.import_module(module), name)
        text = (inspect.getdoc(value) if callable(value) else "a constant") or ""
        assert text.strip(), f"{module}.{name} has no docstring"
        assert ">>>" in text or f"{module}.{name}" in beside, f"{module}.{name}: docs/reference/examples/{module}.txt lacks it"


def test_examples_beside_the_code_are_of_public_names_and_needed() -> None:
    known = {f"{module}.{name}" for module, name in NAMES}
    assert not set(examples()) - known


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "reference" / "examples").glob("*.txt")), ids=lambda p: p.stem)
def test_the_examples_are_true(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if file.stem in ("preimage.io", "preimage.io.onnx"):
        pytest.importorskip("onnx")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for number, code in enumerate(dict.fromkeys(v for k, v in examples().items() if k.rpartition(".")[0] == file.stem)):
        said = failures(code, f"{file.stem}[{number}]")
        assert not said, said


def test_a_wrong_example_is_reported() -> None:
    assert "Expected" in failures(">>> 1 + 1\n3", "made up")


def test_docstrings_become_markdown() -> None:
    text = "The sum of a_b.\n\nShapes: x (N, C).\nDefinition: y = *x*\n    and more.\n\nExample:\n    >>> 1 + 1\n    2"
    assert markdown(text) == (
        "The sum of a\\_b.\n\n**Shapes:** x (N, C).\n\n**Definition:** y = \\*x\\*\nand more.\n\n**Example**\n\n```pycon\n>>> 1 + 1\n2\n```"
    )
