"""Every picture of docs/deconvolution.md is made again and compared; the page and the README show just these."""

from __future__ import annotations

import importlib.util
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "figures" / "deconvolution"
MOST_BYTES = 500_000


def load() -> Any:
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


figures = load()


def frames(data: bytes) -> list[np.ndarray]:
    from PIL import Image, ImageSequence

    with Image.open(BytesIO(data)) as image:
        return [np.asarray(f.convert("RGB"), np.float64) for f in ImageSequence.Iterator(image)]


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_is_made_again_byte_for_byte(name: str) -> None:
    there, made = (FOLDER / name).read_bytes(), figures.encoded(name)
    assert len(there) < MOST_BYTES
    if name.endswith(".svg") or (FOLDER / "versions.txt").read_text() == figures.versions():
        assert made == there, f"{name} is not what docs/figures.py makes; `make figures` makes it again"
    else:  # other versions of the libraries may place a letter's pixels otherwise
        ours, theirs = frames(made), frames(there)
        assert [f.shape for f in ours] == [f.shape for f in theirs]
        assert max(float(np.abs(a - b).mean()) for a, b in zip(ours, theirs, strict=True)) < 1


def test_the_pages_show_these_figures_and_no_others() -> None:
    page = (ROOT / "docs" / "deconvolution.md").read_text()
    shown = set(re.findall(r"figures/deconvolution/([\w.]+)", page))
    assert shown == set(figures.FIGURES)
    assert {p.name for p in FOLDER.iterdir()} == shown | {"versions.txt"}
    assert "docs/figures/deconvolution/painting.gif" in (ROOT / "README.md").read_text()


def test_links_of_the_page_lead_somewhere() -> None:
    page = (ROOT / "docs" / "deconvolution.md").read_text()
    places = [p for p in re.findall(r"\]\(([^)#]+)\)", page) if "//" not in p]
    assert len(places) > 15
    assert all((ROOT / "docs" / p).exists() for p in places)
