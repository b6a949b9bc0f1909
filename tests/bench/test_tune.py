"""`preimage tune`: measured tiles are kept in a file, read by the plan, and change no bit."""

import json
import os

import numpy as np
import pytest

from preimage.bench import tune as tuning_bench
from preimage.bench.suite import layer_from_sizes
from preimage.bench.tune import tune_layer
from preimage.cli import main
from preimage.engines.jit.conv import autotune
from preimage.engines.jit.engine import JitEngine
from preimage.errors import EngineError
from preimage.settings import config

pytestmark = pytest.mark.skipif(JitEngine().unavailable() is not None, reason=str(JitEngine().unavailable()))
LAYER = layer_from_sizes((2, 24, 9, 21), (40, 24, 3, 3), padding=1, stride=(1, 2))
F32 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("PREIMAGE_TUNING", str(tmp_path / "deep" / "tuning.json"))
    with config(threads=1):
        yield tmp_path / "deep" / "tuning.json"


def always(number):
    """A clock by which the candidate of that number is twice as fast as the plan's own choice."""

    def fastest(turns, clock):
        turns[0].times, turns[number].times = [2.0, 2.0], [1.0, 1.0]
        return turns[number]

    return fastest


def test_a_measured_tile_is_used_and_changes_no_bit(place, monkeypatch):
    g, rng = LAYER.geometry, np.random.default_rng(0)
    x, w, y = (rng.standard_normal(s).astype(np.float32) for s in (g.input_shape, g.weight_shape, g.output_shape))
    before, plans = (JitEngine().conv(g, x, w), JitEngine().conv_transpose(g, y, w)), []
    for number in (1, 2, 3):
        monkeypatch.setattr(tuning_bench, "_fastest", always(number))
        forward, back = tune_layer(LAYER, layouts=("channels_first",), most=4)
        assert (forward.what, back.what, forward.gain) == ("forward", "grad_input", 2.0)
        engine = JitEngine()
        assert engine.conv(g, x, w).tobytes() == before[0].tobytes()
        assert engine.conv_transpose(g, y, w).tobytes() == before[1].tobytes()
        lanes, vectors, pixels = forward.tile
        plans.append(engine.plan(g, "conv", F32).details["tile"])
        assert plans[-1] == f"{pixels} pixels x {vectors} vectors of {lanes} channels, tuned"
        assert "tuned" in engine.plan(g, "conv_transpose", F32).details["tile"]
        assert "tuned" not in engine.plan(g, "conv", F32, True).details["tile"]  # measured for the other layout
        assert "tuned" not in JitEngine(tuned=False).plan(g, "conv", F32).details["tile"]
        with config(threads=2):
            assert "tuned" not in JitEngine().plan(g, "conv", F32).details["tile"]
    assert len(set(plans)) == 3
    assert len(json.loads(place.read_text())["tiles"]) == 2
    assert [file.name for file in place.parent.iterdir()] == ["tuning.json"]


def test_the_plans_own_choice_takes_the_entry_away(place, monkeypatch):
    monkeypatch.setattr(tuning_bench, "_fastest", always(1))
    tune_layer(LAYER, passes=("forward",), layouts=("channels_last",), most=2)
    assert len(json.loads(place.read_text())["tiles"]) == 1
    monkeypatch.setattr(tuning_bench, "_fastest", lambda turns, clock: always(0)(turns, clock))
    (finding,) = tune_layer(LAYER, passes=("forward",), layouts=("channels_last",), most=2)
    assert (finding.tile, finding.gain) == (None, 1.0)
    assert json.loads(place.read_text())["tiles"] == {}


def test_a_tile_that_changes_bits_is_an_error(place, monkeypatch):
    made = []

    def call(engine, contraction, g, a, w):
        made.append(engine)
        result = getattr(engine, contraction)(g, a, w)
        if len(made) == 4:
            result.flat[-1] = np.nextafter(result.flat[-1], np.float32(np.inf))
        return lambda: result

    monkeypatch.setattr(tuning_bench, "_call", call)
    with pytest.raises(EngineError, match="changes bits"):
        tune_layer(LAYER, passes=("forward",), layouts=("channels_last",), most=4)
    assert not place.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"format": "another", "tiles": {}}', '{"tiles": 3', "[" * 5000])
def test_a_file_that_is_none_counts_as_absent(text, place):
    place.parent.mkdir()
    place.write_text(text)
    assert "tuned" not in JitEngine().plan(LAYER.geometry, "conv", F32).details["tile"]
    request = JitEngine().request(LAYER.geometry, "conv", F32)
    autotune.save({autotune.key_of(request): (request.target.vector_bytes // 4, 1, 3)})
    assert "tuned" in JitEngine().plan(LAYER.geometry, "conv", F32).details["tile"]


@pytest.mark.parametrize("tile", [[16, 1], [16, 2, 40], [16, 9, 9], [7, 1, 4], [16, 1, 0], ["16", 1, 4], [16, True, 4], 5, None])
def test_an_entry_that_is_no_tile_counts_as_absent(tile, place):
    request = JitEngine().request(LAYER.geometry, "conv", F32)
    place.parent.mkdir()
    place.write_text(json.dumps({"format": autotune.FORMAT, "tiles": {autotune.key_of(request): tile}}))
    assert "tuned" not in JitEngine().plan(LAYER.geometry, "conv", F32).details["tile"]


def test_off_means_no_file(monkeypatch):
    monkeypatch.setenv("PREIMAGE_TUNING", "off")
    assert autotune.path() is None
    with pytest.raises(EngineError, match="PREIMAGE_TUNING"):
        autotune.save({})


def test_depthwise_layers_have_nothing_to_choose():
    layer = layer_from_sizes((1, 32, 9, 9), (32, 1, 3, 3), groups=32)
    (finding,) = tune_layer(layer, passes=("forward",), layouts=("channels_last",))
    assert (finding.tried, finding.tile) == (1, None)


def test_the_command(place, capsys):
    line = "tune --input 1,16,12,12 --weight 24,16,3,3 --padding 1 --layout channels_last --passes forward --most 2"
    with pytest.raises(SystemExit) as end:
        main(line.split())
    assert end.value.code in (0, None)
    assert "the same bits from all that were tried" in capsys.readouterr().out
    assert json.loads(place.read_text())["format"] == autotune.FORMAT
    with pytest.raises(SystemExit) as end:
        main([*line.split(), "--passes", "grad_weight"])
    assert end.value.code == 2
    assert "tiles to choose from" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no such device here")
@pytest.mark.parametrize("name", ["/dev/zero", "pipe"])
def test_what_never_ends_counts_as_absent(name, tmp_path, monkeypatch):
    if name == "pipe":
        name = str(tmp_path / name)
        os.mkfifo(name)
    monkeypatch.setenv("PREIMAGE_TUNING", name)
    assert "tuned" not in JitEngine().plan(LAYER.geometry, "conv", F32).details["tile"]
