"""What `preimage bench` and `preimage tune` refuse in their options: with a message of ours and status 2, before anything is measured."""

from __future__ import annotations

import pytest

from preimage.cli import main, text
from preimage.errors import OptionError

BAD = {"--threads": "a", "--dtype": "int8", "--layout": "NHWC"}


@pytest.mark.parametrize("command", ["bench", "tune"])
@pytest.mark.parametrize("option", BAD)
def test_a_bad_option_is_an_error_of_ours(command, option, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "mobilenet_dw_14", option, BAD[option]])
    assert end.value.code == 2
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said
    assert BAD[option] in said


@pytest.mark.parametrize(
    ("words", "stray"),
    [
        ("bench --models list.toml second.toml", "second.toml"),
        ("bench --models list.toml --only MobileNet ResNet", "ResNet"),
        ("bench --models list.toml --install second.toml", "second.toml"),
        ("bench --model net.onnx --only MobileNet", "MobileNet"),
        ("bench mobilenet_dw_14 --input 1,2,5,5 --weight 3,2,3,3", "mobilenet_dw_14"),
        ("tune mobilenet_dw_14 --input 1,2,5,5 --weight 3,2,3,3", "mobilenet_dw_14"),
        ("audit jit --list", "jit"),
        ("audit jit --export pack", "jit"),
        ("audit integers jit", "jit"),
        ("audit products -n 3 --checks exact", "--checks"),
        ("info net.onnx second.onnx", "second.onnx"),
        ("convert net.onnx net.npz third.npz", "third.npz"),
        ("rebuild stencils one.png two.png", "two.png"),
        ("draw slide paint --output out.svg", "paint"),
        ("explain net.onnx second.onnx", "second.onnx"),
        ("train net.py second.py", "second.py"),
        ("cache second", "second"),
        ("doctor second", "second"),
    ],
)
def test_an_argument_that_nothing_takes_is_refused_by_name(words, stray, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 2
    said = "".join(capsys.readouterr())
    assert stray in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "words", ["--model a.onnx b.onnx c.onnx", "--model a.onnx --model b.onnx c.onnx", "a.onnx --model b.onnx c.onnx"]
)
def test_every_file_behind_model_is_timed(words, monkeypatch):
    from preimage.cli import bench_models

    seen = []
    monkeypatch.setattr(bench_models, "bench_models", lambda files, *args, **options: seen.extend(map(str, files)))
    with pytest.raises(SystemExit) as end:
        main(["bench", *words.split()])
    assert not end.value.code
    assert sorted(seen) == ["a.onnx", "b.onnx", "c.onnx"]


def test_every_file_behind_load_is_shown(monkeypatch, capsys):
    from preimage.bench import Run

    seen = []
    monkeypatch.setattr(Run, "load", lambda *paths: seen.extend(map(str, paths)) or Run({}, {}))
    monkeypatch.setattr("preimage.report.bench.print_run", lambda *args, **options: None)
    with pytest.raises(SystemExit) as end:
        main(["bench", "--load", "one.json", "two.json", "three.json"])
    assert not end.value.code, "".join(capsys.readouterr())
    assert sorted(seen) == ["one.json", "three.json", "two.json"]


def test_lists_and_counts():
    assert text.words("float64,float32", "dtype", text.DTYPES) == ("float64", "float32")
    assert text.layouts("both") == ("channels_last", "channels_first")
    assert text.layouts("channels_first") == ("channels_first",)
    assert text.threads("1,2") == (1, 2)
    for call, match in (
        (lambda: text.threads("1,0"), "at least 1"),
        (lambda: text.layouts("both,channels_last"), "'both'"),
        (lambda: text.words("x", "pass", ("forward",)), "no pass is called 'x'; there are forward"),
    ):
        with pytest.raises(OptionError, match=match):
            call()
