"""The README's, docs/index.md's, docs/explain.md's and docs/onnx.md's code is run, and what it prints is what the text block behind it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(text: str) -> list[tuple[str, str]]:
    """What every python block printed beside what the text block right behind it says ("" where there is none)."""
    names: dict[str, object] = {}
    results = []
    for match in re.finditer(r"^```python\n(.*?)^```\n(?:\s*^```text\n(.*?)^```)?", text, re.MULTILINE | re.DOTALL):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(match.group(1), "readme", "exec"), names)
        results.append((printed.getvalue(), match.group(2) or ""))
    return results


@pytest.mark.parametrize("file", ["README.md", "docs/index.md", "docs/explain.md", "docs/onnx.md"])
def test_the_code_prints_what_the_page_says(file, tmp_path, monkeypatch):
    if file in ("README.md", "docs/onnx.md"):
        pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    results = run((ROOT / file).read_text())
    assert results
    for printed, said in results:
        assert printed == said


def test_a_wrong_page_is_noticed():
    assert run("```python\nprint(1)\n```\n\n```text\n2\n```\n") == [("1\n", "2\n")]


def test_every_file_that_the_readme_links_to_is_there():
    for link in re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text()):
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link
