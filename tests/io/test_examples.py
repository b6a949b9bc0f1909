"""The examples with real models: each runs, and finds what it should."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("skimage")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))


def test_the_astronauts_face_is_found(monkeypatch, tmp_path, capsys):
    import find_face
    from models import place

    place("centerface")
    monkeypatch.setattr(sys, "argv", ["find_face.py", "--output", str(tmp_path / "face.png")])
    find_face.main()
    said = capsys.readouterr().out
    assert "face at x 182..270, y 58..178, score 0.929" in said
    assert (tmp_path / "face.png").stat().st_size > 10_000


def test_the_seven_lines_of_the_page_are_found(monkeypatch, tmp_path, capsys):
    pytest.importorskip("scipy")
    import find_text
    from models import place

    place("dbnet")
    monkeypatch.setattr(sys, "argv", ["find_text.py", "--output", str(tmp_path / "text.png")])
    find_text.main()
    assert capsys.readouterr().out.startswith("7 pieces of text")


def test_the_doubled_astronaut_has_33_06_decibels():
    import double_size
    from models import place

    place("upconv7")
    original, small = double_size.halved()
    assert abs(double_size.psnr(double_size.double(small), original) - 33.06) < 0.02
