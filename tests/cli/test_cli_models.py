"""`preimage run`, `convert`, `info`, `cache`: as a user calls them."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage.cli import main

pytest.importorskip("onnx")
pytest.importorskip("PIL")


@pytest.fixture
def model(tmp_path):
    from preimage.io.onnx import export

    nn = pre.nn
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, rng=0), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2, stride=2, rng=1))
    export.save(net, tmp_path / "net.onnx", example=np.zeros((1, 3, 8, 8), np.float32))
    return tmp_path / "net.onnx"


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return end.value.code or 0


def picture(path, size=(8, 8), mode="RGB"):
    from PIL import Image

    Image.fromarray(np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(*size, 3)).convert(mode).save(path)
    return path


def test_run_writes_arrays_and_pictures(model, tmp_path, capsys):
    picture(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.ones((2, 3, 8, 8), np.float32))
    assert call("run", model, tmp_path / "a.png", tmp_path / "b.npy", "-o", tmp_path / "out", "--png", "--profile") == 0
    said = capsys.readouterr().out
    assert "1x3x16x16" in said
    assert "2x3x16x16" in said
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert [n.split(".")[0] + n[-4:] for n in names] == ["a.png", "b.npy"]


@pytest.mark.parametrize("flags", [("--scale", "x"), ("--size", "0x5"), ("--mean", "1,b"), ("--engine", "nope")])
def test_wrong_options_are_said_in_a_line(model, tmp_path, flags, capsys):
    assert call("run", model, picture(tmp_path / "a.png"), *flags) != 0
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing.png", "text.txt", "broken.png", "broken.npy"])
def test_inputs_that_cannot_be_read_are_named(model, tmp_path, name, capsys):
    if name != "missing.png":
        (tmp_path / name).write_bytes(b"neither a picture nor an array")
    assert call("run", model, tmp_path / name) != 0
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("name", ["other.safetensors", "nothing.onnx", "damaged.onnx"])
def test_models_that_cannot_be_read_are_named(tmp_path, name, capsys):
    if name != "nothing.onnx":
        (tmp_path / name).write_bytes(b"\xff" * 40)
    assert call("info", tmp_path / name) != 0
    assert name in capsys.readouterr().err


def test_convert_verifies(model, tmp_path, capsys):
    assert call("convert", model, tmp_path / "w.safetensors") == 0
    assert "4 weights compared: same bits" in capsys.readouterr().out
    assert call("convert", model, tmp_path / "again.onnx", "--shape", "input=2,3,8,8") == 0
    assert "1 outputs compared: same bits" in capsys.readouterr().out
    assert call("convert", model, tmp_path / "w.pickle") != 0
    assert not (tmp_path / "w.pickle").exists()


def test_convert_needs_open_sizes_said(model, tmp_path, capsys):
    assert call("convert", model, tmp_path / "again.onnx") != 0
    assert "input=1,3,224,224" in capsys.readouterr().err
    assert not (tmp_path / "again.onnx").exists()


def test_info_says_what_the_layers_are(model, capsys):
    assert call("info", model, "--shape", "input=1,3,8,8") == 0
    said = capsys.readouterr().out
    assert "conv_transpose" in said
    assert "163 parameters" in said
    assert "3x3" in said  # the receptive field
    assert "held between runs: packed weights " in said


def test_cache_shows_its_folder_and_clears(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", str(tmp_path / "kernels"))
    assert call("cache") == 0
    assert call("cache", "--clear") == 0
    assert "stored kernels removed" in capsys.readouterr().out
