"""The notebook of examples/ runs without Jupyter and shows what is stored in it; what it says it found, it found."""

import copy
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "deconvolution.ipynb"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("notebook_tool", ROOT / "tools" / "notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def notebook():
    return json.loads(NOTEBOOK.read_text("utf-8"))


@pytest.fixture(scope="module")
def ran(tool, notebook):
    space = {}
    return tool.run(notebook, space), space


def test_every_cell_shows_what_is_stored(tool, notebook, ran):
    assert "IPython" not in sys.modules
    assert tool.differing(notebook, ran[0]) == [], (
        "python tools/notebook.py examples/deconvolution.ipynb stores what is shown now"
    )


def test_the_check_sees_another_number_and_not_another_style(tool, notebook, ran):
    changed = copy.deepcopy(notebook)
    pictures = [n for n, cell in enumerate(changed["cells"]) if "image/svg+xml" in json.dumps(cell.get("outputs", []))]
    data = changed["cells"][pictures[0]]["outputs"][0]["data"]
    data["image/svg+xml"] = [line.replace(">8<", ">9<") for line in data["image/svg+xml"]]
    assert tool.differing(changed, ran[0]) == pictures[:1]
    restyled = json.loads(json.dumps(notebook).replace("border-collapse", "border-spacing"))
    assert restyled != notebook
    assert tool.differing(restyled, ran[0]) == []


def test_it_is_a_notebook_of_moderate_size(notebook):
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert {"cell_type", "id", "metadata", "source"} <= set(cell)
        assert cell["cell_type"] in ("markdown", "code")
        assert not any(output["output_type"] == "error" for output in cell.get("outputs", []))
    assert NOTEBOOK.stat().st_size < 400_000
    kinds = json.dumps(notebook)
    assert kinds.count('"image/svg+xml"') >= 6
    assert kinds.count('"text/html"') >= 6


def test_links_lead_somewhere(notebook):
    text = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert all((NOTEBOOK.parent / link).exists() for link in links)


def likeness(stencil, secret):
    """The cosine between a secret stencil and a learned one, wherever in it the secret one lies."""
    padded, (a, b) = np.pad(stencil, 2), secret.shape
    windows = np.lib.stride_tricks.sliding_window_view(padded, (a, b))
    return np.abs((windows * secret).sum(axis=(2, 3))).max() / np.linalg.norm(stencil) / np.linalg.norm(secret)


def test_the_three_numbers_of_the_dot_test_are_one_and_the_stencils_were_found(notebook, ran):
    outputs, space = ran
    printed = ["".join(o["text"]) for cell in outputs for o in cell if o["output_type"] == "stream"]
    numbers = re.findall(r"(-?\d+\.\d+)$", next(t for t in printed if t.startswith("<y,")), flags=re.MULTILINE)
    assert len(numbers) == 3
    assert len(set(numbers)) == 1
    for secret in space["secret"]:
        assert max(likeness(stencil[0], secret[0]) for stencil in space["learned"].stencils) > 0.98
    steps = next(t for t in printed if t.startswith("step 1 "))
    assert len(steps.splitlines()) <= 12
