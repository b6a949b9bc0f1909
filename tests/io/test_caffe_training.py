"""Solver files as training runs: what data layers give, against NumPy written here; going on to the same bits; missing and bad data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preimage import caffe, data
from preimage.caffe.data_layers import LayerBatches, data_layers
from preimage.caffe.training import SolverTask
from preimage.errors import DivergedError, FileFormatError, OptionError
from preimage.host import write_file
from preimage.io.caffe import parse_text, write_mean
from preimage.io.caffe.wire.binary import encode
from preimage.io.caffe.wire.message import Message
from preimage.io.pictures import write_picture
from preimage.learning import checkpoints
from preimage.learning.training import run

RNG = np.random.default_rng(4)

NET = """
layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TRAIN } transform_param { scale: 0.00390625 mirror: true }
  data_param { source: "nowhere/train_lmdb" batch_size: 6 backend: LMDB } }
layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TEST } transform_param { scale: 0.00390625 }
  data_param { source: "nowhere/test_lmdb" batch_size: 5 backend: LMDB } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "o" type: "Dropout" bottom: "c" top: "c" }
layer { name: "f" type: "InnerProduct" bottom: "c" top: "f" inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "acc" type: "Accuracy" bottom: "f" bottom: "label" top: "acc" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "f" bottom: "label" top: "loss" }
"""


def solver_file(folder: Path, more: str = "", net: str = NET) -> Path:
    write_file(folder / "net.prototxt", net)
    rule = 'net: "net.prototxt" base_lr: 0.05 momentum: 0.9 weight_decay: 0.001 lr_policy: "inv" gamma: 0.01 power: 0.75 max_iter: 12'
    write_file(folder / "s.prototxt", f"{rule} test_iter: 4 test_interval: 5 snapshot: 8 snapshot_prefix: 'a/b/c' {more}")
    return folder / "s.prototxt"


def images(folder: Path, count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """IDX files as MNIST's."""
    folder.mkdir(exist_ok=True)
    pixels, labels = RNG.integers(0, 256, (count, 7, 8), np.uint8), RNG.integers(0, 10, count).astype(np.uint8)
    for start in ("train", "t10k"):
        data.write_idx(pixels, folder / f"{start}-images-idx3-ubyte")
        data.write_idx(labels, folder / f"{start}-labels-idx1-ubyte")
    return pixels, labels


def weights(task: SolverTask) -> list[bytes]:
    return [np.ascontiguousarray(blob.data).tobytes() for blob in task.solver.net._stored.values()]


def finished(place: Path, steps: int = 12, listener: Any = None, **options: Any) -> tuple[SolverTask, Any]:
    task = SolverTask(place / "s.prototxt", data=place / "m", seed=3)
    return task, run(task, steps, task.plan(**options), [listener] if listener else [])


@pytest.mark.parametrize(("rule", "cut"), [("SGD", 1), ("Adam", 5), ("SGD", 9)])
def test_a_solver_goes_on_to_the_same_bits(rule: str, cut: int, tmp_path: Path) -> None:
    solver_file(tmp_path, f'type: "{rule}" iter_size: 2')
    images(tmp_path / "m")
    whole, history = finished(tmp_path)
    assert [e["step"] for e in history.entries if "test acc" in e] == [0, 5, 10, 12]
    first, _ = finished(tmp_path, listener=lambda now: now.step == cut, folder=tmp_path / "run")
    assert first.step == cut
    second, resumed = finished(tmp_path, folder=tmp_path / "run", resume=True)
    assert resumed.resumed_from == cut
    assert weights(second) == weights(whole)
    assert [e["loss"] for e in resumed.entries if "loss" in e] == [e["loss"] for e in history.entries if "loss" in e]
    assert [e["test acc"] for e in resumed.entries if "test acc" in e] == [
        e["test acc"] for e in history.entries if "test acc" in e
    ]


def test_it_is_caffes_solver_on_the_same_batches(tmp_path: Path) -> None:
    """The oracle takes its batches from NumPy, through the pycaffe-shaped face."""
    plain = NET.replace("mirror: true", "").replace('layer { name: "o" type: "Dropout" bottom: "c" top: "c" }', "")
    solver_file(tmp_path, "random_seed: 3", plain)
    pixels, labels = images(tmp_path / "m")
    places = np.arange(12 * 6).reshape(12, 6) % 20
    batches = [{"data": pixels[p][:, None] * np.float32(1 / 256), "label": labels[p]} for p in places]
    param = parse_text("SolverParameter", (tmp_path / "s.prototxt").read_text())
    param.test_iter, param.test_interval, param.snapshot = [], 0, 0
    oracle = caffe.Solver(param, data=batches, file=tmp_path / "s.prototxt")
    oracle.step(12)
    task, _ = finished(tmp_path)
    for (name, blob), other in zip(task.solver.net._stored.items(), oracle.net._stored.values(), strict=True):
        np.testing.assert_array_equal(blob.data, other.data, err_msg=name)


def test_snapshots_go_into_the_runs_folder(tmp_path: Path) -> None:
    solver_file(tmp_path)
    images(tmp_path / "m")
    task = SolverTask(tmp_path / "s.prototxt", data=tmp_path / "m", folder=tmp_path / "out")
    run(task, 12, task.plan(folder=tmp_path / "out"))
    assert {"s_iter_8.caffemodel", "s_iter_8.solverstate"} <= {p.name for p in (tmp_path / "out").iterdir()}


def layer(text: str) -> list[Message]:
    return data_layers(list(parse_text("NetParameter", text).layer))


def test_transforms_of_a_lists_pictures(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (5, 9, 11, 3), np.uint8)
    for k in range(5):
        write_picture(tmp_path / f"{k}.png", pixels[k])
    write_file(tmp_path / "list.txt", "".join(f"{k}.png {k + 2}\n" for k in range(5)))
    mean = RNG.random((3, 9, 11)).astype(np.float32) * 100
    write_mean(tmp_path / "mean.binaryproto", mean)
    text = """layer { name: "i" type: "ImageData" top: "x" top: "y" transform_param { scale: 0.5 crop_size: 4 mean_file: "mean.binaryproto" MIRROR }
        image_data_param { source: "list.txt" batch_size: 3 root_folder: "." } }"""
    options: dict[str, Any] = {"given": None, "folders": [tmp_path], "seed": 0}
    batches = LayerBatches(layer(text.replace("MIRROR", "")), train=False, **options)
    bgr = pixels[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    wanted = ((bgr - mean) * 0.5)[:, :, 2:6, 3:7]
    for places in ([0, 1, 2], [3, 4, 0], [1, 2, 3]):  # a batch goes on over the end
        batch = batches()
        np.testing.assert_allclose(batch["x"], wanted[places], rtol=1e-6)
        assert batch["y"].tolist() == [p + 2 for p in places]
    batches.close()
    cut = (bgr - mean) * 0.5
    seen = set()
    training = LayerBatches(layer(text.replace("MIRROR", "mirror: true")), train=True, **options)
    for _ in range(30):
        for image, label in zip(*training().values(), strict=True):
            spots = [
                (top, left, flip)
                for top in range(6) for left in range(8) for flip in (False, True)
                if np.allclose(cut[int(label) - 2][:, top : top + 4, left : left + 4], image[..., ::-1] if flip else image)
            ]  # fmt: skip
            assert len(spots) == 1
            seen.update(spots)
    assert len({s[:2] for s in seen}) > 30
    assert {s[2] for s in seen} == {False, True}
    training.close()


def test_hdf5_lmdb_and_memory_data(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    values = RNG.standard_normal((7, 3)).astype(np.float32)
    for k, part in enumerate((np.s_[:4], np.s_[4:])):
        with h5py.File(tmp_path / f"{k}.h5", "w") as file:
            file["v"], file["t"] = values[part], values[part, 0]
    write_file(tmp_path / "files.txt", "0.h5\n1.h5\n")
    text = 'layer { name: "h" type: "HDF5Data" top: "v" top: "t" hdf5_data_param { source: "files.txt" batch_size: 4 SHUFFLE } }'
    options: dict[str, Any] = {"train": True, "given": None, "folders": [tmp_path], "seed": 0, "ahead": False}
    batches = LayerBatches(layer(text.replace("SHUFFLE", "")), **options)
    np.testing.assert_array_equal(np.concatenate([batches()["v"], batches()["v"]])[:7], values)
    shuffled = LayerBatches(layer(text.replace("SHUFFLE", "shuffle: true")), **options)
    rows = np.concatenate([shuffled()["v"] for _ in range(7)])
    for k in range(4):
        assert sorted(map(tuple, rows[7 * k : 7 * k + 7])) == sorted(map(tuple, values))
    assert not np.array_equal(rows[:7], rows[7:14])

    lmdb = pytest.importorskip("lmdb")
    pixels = RNG.integers(0, 256, (5, 2, 3, 4), np.uint8)
    env = lmdb.open(str(tmp_path / "db"), map_size=1 << 22)
    with env.begin(write=True) as transaction:
        for k, image in enumerate(pixels):
            transaction.put(b"%08d" % k, encode(Message("Datum", channels=2, height=3, width=4, data=image.tobytes(), label=k)))
    env.close()
    text = """layer { name: "l" type: "Data" top: "x" top: "y" transform_param { mean_value: 10 mean_value: 20 }
        data_param { source: "db" batch_size: 2 backend: LMDB } }"""
    batch = LayerBatches(layer(text), **options)()
    np.testing.assert_array_equal(batch["x"], pixels[:2] - np.array([10, 20], np.float32)[:, None, None])
    memory = 'layer { name: "m" type: "MemoryData" top: "x" top: "y" memory_data_param { batch_size: 2 channels: 2 height: 3 width: 4 } }'
    with pytest.raises(FileFormatError, match=r"'m' \(MemoryData\) names no data: give them with --data"):
        LayerBatches(layer(memory), **options)
    np.testing.assert_array_equal(LayerBatches(layer(memory), **options | {"given": tmp_path / "db"})()["x"], pixels[:2])


def test_what_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    solver_file(tmp_path)
    with pytest.raises(
        FileFormatError, match=r"layer 'd' \(Data\): its source 'nowhere/train_lmdb' is not there: give the data with --data"
    ):
        SolverTask(tmp_path / "s.prototxt")
    with pytest.raises(FileFormatError, match="no file or folder"):
        SolverTask(tmp_path / "s.prototxt", data=tmp_path / "none")
    window = parse_text("NetParameter", 'layer { name: "w" type: "WindowData" top: "x" }')
    with pytest.raises(FileFormatError, match="data of WindowData layers are not read"):
        data_layers(list(window.layer))
    images(tmp_path / "m")
    _, _ = finished(tmp_path, steps=2, folder=tmp_path / "run")
    solver_file(tmp_path, 'type: "Adam"')
    with pytest.raises(OptionError, match="the checkpoint is of a SGD solver of other weights; this one is Adam"):
        finished(tmp_path, folder=tmp_path / "run", resume=True)


def test_a_nan_names_the_layer_and_the_weights_stay(tmp_path: Path) -> None:
    log = """layer { name: "g" type: "Log" bottom: "f" top: "g" }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "g" bottom: "label" top: "loss" }"""
    net = NET[: NET.index('layer { name: "acc"')] + log
    solver_file(tmp_path, "", net)
    images(tmp_path / "m")
    task = SolverTask(tmp_path / "s.prototxt", data=tmp_path / "m")
    before = weights(task)
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step 1: layer 'g' \(Log\) gave it, in blob 'g'"):
        run(task, 5, task.plan(test_first=False, folder=tmp_path / "run"))
    assert weights(task) == before
    assert not checkpoints.steps_in(tmp_path / "run")
