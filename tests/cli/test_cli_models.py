"""`preimage run`, `convert`, `info`, `cache`: as a user calls them."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage.cli import main
from preimage.io.inspection import inspect_model

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


def test_info_says_why_strategies_were_refused(model, capsys):
    """Every reason of the plans is there, beside the layer; without plans none is."""
    graph = pre.load_model(model)
    feeds = {"input": np.zeros((1, 3, 8, 8), np.float32)}
    with pre.config(engine="jit"):
        layers = inspect_model(graph, feeds).layers
        conv = next(layer for layer in layers if layer.op == "conv")
        geometry = pre.ConvGeometry.from_conv((1, 3, 8, 8), graph.weights[graph.nodes[0].inputs[1]].shape, padding=1)
        assert dict(conv.refused) == dict(pre.plan(geometry, np.float32).refused) != {}
    assert call("info", model, "--shape", "input=1,3,8,8") == 0
    text = " ".join(capsys.readouterr().out.split())
    for reason in {why for layer in layers for why in layer.refused.values()}:
        assert reason in text
    assert conv.name in text.partition("strategies refused")[2]
    assert call("info", model, "--shape", "input=1,3,8,8", "--no-plans") == 0
    assert "strategies refused" not in capsys.readouterr().out


def test_cache_shows_its_folder_and_clears(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", str(tmp_path / "kernels"))
    assert call("cache") == 0
    assert call("cache", "--clear") == 0
    assert "stored kernels removed" in capsys.readouterr().out


# -- what a user would believe, and it is not so -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "ok"),
    [
        ([1.0, 2.0], [np.nan, 2.0], False),
        ([np.nan, 1.0], [np.nan, 100.0], False),
        ([np.inf, 1.0], [np.inf, 50.0], False),
        ([np.inf, 1.0], [-np.inf, 1.0], False),
        ([1.0, 2.0], [1.0, np.inf], False),
        ([np.nan, np.inf, 1.0], [np.nan, np.inf, 1.0], True),
        ([1.0, 2.0], [1.0, 2.0 + 1e-7], True),
    ],
)
def test_convert_compares_what_is_not_finite(before, after, ok):
    from preimage.io.convert import _compare_outputs

    class Fixed:
        outputs, inputs = ("y",), ()

        def __init__(self, value):
            self.value = np.array(value)

        def run(self, _):
            return {"y": self.value}

    verdict = _compare_outputs("a", "b", Fixed(before), Fixed(after), {})
    assert verdict.ok == ok
    assert verdict.problem or verdict.largest_difference <= 1e-3 or not ok


def test_convert_writes_nothing_that_gives_nan_where_the_original_does_not(model, tmp_path, monkeypatch, capsys):
    from preimage.io import convert

    real, loads = convert.load_model, []

    def broken(path, *arguments, **options):
        graph = real(path, *arguments, **options)
        loads.append(path)
        if len(loads) == 2:
            for parameter in graph.weights.values():
                parameter.data[...] = np.nan
        return graph

    monkeypatch.setattr(convert, "load_model", broken)
    (tmp_path / "there.onnx").write_text("mine")
    assert call("convert", model, tmp_path / "new.onnx", "--shape", "input=1,3,8,8") == 1
    assert "NaN" in "".join(capsys.readouterr())
    assert not (tmp_path / "new.onnx").exists()
    loads.clear()
    assert call("convert", model, tmp_path / "there.onnx", "--shape", "input=1,3,8,8", "--overwrite") == 1
    assert (tmp_path / "there.onnx").read_text() == "mine"


def hostile_model(path, names):
    """A net whose outputs have these names."""
    import onnx
    from onnx import helper

    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Mul", ["x", f"c{k}"], [name]) for k, name in enumerate(names)]
    scales = [helper.make_tensor(f"c{k}", 1, [1], [float(k + 1)]) for k in range(len(names))]
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1, 3, 4, 4])], [value(n, 1, [1, 3, 4, 4]) for n in names], scales)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_results_never_take_one_another_s_place(tmp_path, capsys):
    names = ["a.b", "a_b", "A/B", "out[logits]", "[/red]", "\x1b[2J"]
    model = hostile_model(tmp_path / "m.onnx", names)
    for k in (1, 2):
        (tmp_path / str(k)).mkdir()
        np.save(tmp_path / str(k) / "p.npy", np.full((1, 3, 4, 4), 10.0**k, np.float32))
    given = [tmp_path / "1/p.npy", tmp_path / "2/p.npy"]
    assert call("run", model, *given, "-o", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "out[logits]" in said
    assert "[/red]" in said
    assert "\x1b" not in said
    found = sorted(float(np.load(p).flat[0]) for p in (tmp_path / "out").iterdir())
    assert found == sorted(10.0**k * (n + 1) for k in (1, 2) for n in range(len(names)))
    assert call("run", model, *given, "-o", tmp_path / "out") == 2  # what is there stays
    assert "--overwrite" in capsys.readouterr().err
    assert call("run", model, *given, "-o", tmp_path / "out", "--overwrite") == 0
