"""Every row of docs/porting.md: both sides are computed where the other library is installed, and compared."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "porting.md"
_ROW = re.compile(r"^\| `([^|]+)` \| `([^|]+)` \|$", re.MULTILINE)
PACKAGES = {"PyTorch": "torch", "Keras": "keras", "SciPy": "scipy", "PyLops": "pylops", "SigPy": "sigpy", "pycaffe": "preimage"}


def sections(text: str) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Title -> (the code at its head, its rows)."""
    found = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        code = "".join(re.findall(r"^```python\n(.*?)^```$", part, re.MULTILINE | re.DOTALL))
        found[part.partition("\n")[0]] = (code, _ROW.findall(part))
    return found


SECTIONS = sections(PAGE.read_text())


def plain(value: Any) -> Any:
    """An array of numbers, or a list of words as it is."""
    value = value.detach().numpy() if hasattr(value, "detach") else value
    value = list(value) if isinstance(value, list | tuple) else value
    return value if isinstance(value, list) and value and isinstance(value[0], str) else np.asarray(value)


def same(theirs: Any, ours: Any) -> bool:
    a, b = plain(theirs), plain(ours)
    if isinstance(a, list) or isinstance(b, list):
        return bool(a == b)
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=2e-5, atol=2e-6))


@pytest.mark.parametrize("title", SECTIONS)
def test_both_sides_of_every_row_agree(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "KERAS_BACKEND" not in os.environ:  # as the page sets it: without it Keras asks for TensorFlow
        monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip(PACKAGES[title])
    code, rows = SECTIONS[title]
    assert len(rows) >= 4
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other libraries' own
        exec(compile(code, title, "exec"), names)
        wrong = [row for row in rows if not same(eval(row[0], names), eval(row[1], names))]
    assert not wrong


def test_no_row_is_overlooked() -> None:
    count = sum(line.startswith("| `") for line in PAGE.read_text().splitlines())
    assert sum(len(rows) for _, rows in SECTIONS.values()) == count > 60


def test_a_wrong_row_is_noticed() -> None:
    assert not same(np.ones(3), np.array([1, 1, 1.01]))
    assert not same(np.ones((3, 1)), np.ones(3))
    assert not same(["weight"], ["weight", "bias"])
