"""`preimage run` on models with several inputs, and on those that take pictures with their channels last."""

from __future__ import annotations

import numpy as np
import pytest

from preimage.cli import main

onnx = pytest.importorskip("onnx")
Image = pytest.importorskip("PIL.Image")
helper = onnx.helper


def saved(path, nodes, inputs):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value(*each) for each in inputs], [value("y", 1, None)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return end.value.code or 0


@pytest.fixture
def two(tmp_path):
    """y = x * scale + shift."""
    nodes = [helper.make_node("Mul", ["x", "scale"], ["m"]), helper.make_node("Add", ["m", "shift"], ["y"])]
    return saved(tmp_path / "two.onnx", nodes, [("x", 1, (1, 3, None, None)), ("scale", 1, ()), ("shift", 1, (3, 1, 1))])


def test_inputs_come_by_name_and_by_position(two, tmp_path, capsys):
    x = np.arange(24, dtype=np.float32).reshape(1, 3, 2, 4)
    shift = np.array([1, 2, 3], np.float32).reshape(3, 1, 1)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "shift.npy", shift)
    named = ("-i", "scale=0.5", "-i", f"shift={tmp_path / 'shift.npy'}")
    assert call("run", two, tmp_path / "x.npy", *named, "-o", tmp_path / "out") == 0
    assert np.array_equal(np.load(next((tmp_path / "out").iterdir())), x * 0.5 + shift)
    assert call("run", two, "-i", f"x={tmp_path / 'x.npy'}", *named, "-o", tmp_path / "all") == 0
    assert np.array_equal(np.load(next((tmp_path / "all").iterdir())), x * 0.5 + shift)
    capsys.readouterr()
    for arguments, said in (
        ((tmp_path / "x.npy",), "x, scale, shift"),
        ((tmp_path / "x.npy", "-i", "skale=1"), "name of an input"),
        ((*named,), "no file was given for the input x"),
        ((tmp_path / "x.npy", *named, "-i", f"x={tmp_path / 'x.npy'}"), "none left"),
        ((tmp_path / "x.npy", "-i", "scale=1,2", *named[2:]), "wants a file"),
    ):
        assert call("run", two, *arguments) != 0
        assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("declared", [(1, 4, 6, 3), (None, None, None, 3)])
def test_pictures_have_their_channels_where_the_file_says(tmp_path, declared):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    model = saved(tmp_path / "last.onnx", [helper.make_node("Neg", ["x"], ["y"])], [("x", 1, declared)])
    assert call("run", model, tmp_path / "p.png", "-o", tmp_path / "out") == 0
    assert np.array_equal(np.load(next((tmp_path / "out").iterdir())), -pixels[None].astype(np.float32))
    if declared[1] == 4:  # no picture has so many channels
        assert call("run", model, tmp_path / "p.png", "--layout", "channels_first") != 0
        return
    assert call("run", model, tmp_path / "p.png", "--layout", "channels_first", "-o", tmp_path / "first") == 0
    assert np.load(next((tmp_path / "first").iterdir())).shape == (1, 3, 4, 6)
