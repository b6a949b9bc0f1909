"""Tutorials and gallery: the code runs, prints what the page says, and leaves the pictures that the page shows."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage")
Image = pytest.importorskip("PIL.Image")

sys.path.insert(0, str(Path(__file__).parent))

from pages import DOCS, PICTURES, pages, run, shown  # noqa: E402


def pixels(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), np.float64)


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.stem)
def test_the_page_is_true(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.stem == "onnx":
        pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    for printed, said in run(page.read_text()):
        assert printed == said
    names = shown(page.read_text())
    assert names
    for name in names:
        made, there = (tmp_path / name).read_bytes(), (PICTURES / name).read_bytes()
        if name.endswith(".svg"):
            assert made == there
        else:  # the compression depends on libraries, the pixels hardly
            a, b = pixels(made), pixels(there)
            assert a.shape == b.shape
            assert float(np.abs(a - b).mean()) < 1


def test_every_picture_is_shown_and_small() -> None:
    used = set().union(*(shown(p.read_text()) for p in pages()))
    assert {p.name for p in PICTURES.iterdir()} == used
    assert all(p.stat().st_size < 300_000 for p in PICTURES.iterdir())


def test_every_tutorial_ends_in_a_picture_and_is_listed() -> None:
    listed = (DOCS / "tutorials" / "index.md").read_text()
    for page in pages():
        text = page.read_text()
        assert text.rindex("](../figures/pages/") > text.rindex("```")
        if page.parent.name == "tutorials":
            assert f"]({page.name})" in listed


def test_a_wrong_page_is_noticed() -> None:
    assert run("```python\nprint(1)\n```\n\n```text\n2\n```\n") == [("1\n", "2\n")]
