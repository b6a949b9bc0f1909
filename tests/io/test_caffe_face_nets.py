"""Nets as scripts for pycaffe make and use them: files of any name, levels and stages, names and positions, weights in files, data."""

import gc
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preimage import caffe
from preimage.caffe import hdf5
from preimage.errors import FileFormatError, OptionError, PreimageError, ShapeError

RNG = np.random.default_rng(5)
NET = """
name: 'small' force_backward: true
layer { type: 'DummyData' name: 'source' top: 'x' top: 't'
  dummy_data_param { num: 4 channels: 3 height: 5 width: 6 num: 4 channels: 1 height: 1 width: 1
    data_filler { type: 'gaussian' std: 2 } data_filler { type: 'constant' } } }
layer { type: 'Convolution' name: 'c' bottom: 'x' top: 'c' convolution_param { num_output: 7 kernel_size: 3 pad: 2
  weight_filler { type: 'gaussian' std: 1 } bias_filler { type: 'constant' value: 2 } } }
layer { type: 'InnerProduct' name: 'f' bottom: 'c' top: 'scores' inner_product_param { num_output: 9
  weight_filler { type: 'gaussian' std: 0.5 } bias_filler { type: 'constant' value: -1 } } }
layer { type: 'SoftmaxWithLoss' name: 'loss' bottom: 'scores' bottom: 't' top: 'loss' }
"""


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.fixture
def net(tmp_path: Path) -> Any:
    made = caffe.Net(written(tmp_path / "tmpq1w2e3", NET), caffe.TRAIN)
    made.blobs["t"].data[...] = RNG.integers(0, 9, made.blobs["t"].shape)
    return made


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_description_may_have_any_name(tmp_path: Path) -> None:
    for name in ("tmpab12", "net.txt", "net.caffemodel", "net.prototxt.bak", "net.onnx"):
        assert caffe.Net(written(tmp_path / name, NET), caffe.TEST).outputs == ["loss"]
    with pytest.raises(RuntimeError, match="prototxt cannot be read"):
        caffe.Net(str(tmp_path / "none.prototxt"), caffe.TEST)
    with pytest.raises(RuntimeError, match="caffemodel cannot be read"):
        caffe.Net(str(tmp_path / "tmpab12"), str(tmp_path / "none.caffemodel"), caffe.TEST)
    with pytest.raises(FileFormatError, match="line 2"):
        caffe.Net(written(tmp_path / "broken", "name: 'a'\nlayer { tpye: 'ReLU' }"), caffe.TEST)


def test_weights_are_written_and_read_in_every_way(net: Any, tmp_path: Path) -> None:
    description, weights = str(tmp_path / "tmpq1w2e3"), str(tmp_path / "tmpweights")
    net.save(weights)
    for other in (
        caffe.Net(description, weights, caffe.TRAIN),
        caffe.Net(description, caffe.TRAIN, weights=weights),
        caffe.Net(network_file=description, phase=caffe.TEST, weights=weights),
        caffe.Net(description, caffe.TEST, 0, None, weights),
    ):
        for layer, blobs in net.params.items():
            for mine, theirs in zip(blobs, other.params[layer], strict=True):
                assert np.array_equal(mine.data, theirs.data)
    net.save(tmp_path / "w.prototxt")  # weights, whatever the name
    assert (tmp_path / "w.prototxt").read_bytes() == Path(weights).read_bytes()


def test_weights_are_copied_into_the_arrays_that_scripts_hold(net: Any, tmp_path: Path) -> None:
    net.save(tmp_path / "w")
    view = net.params["c"][0].data
    before = view.copy()
    view[...] = 0
    net.copy_from(str(tmp_path / "w"))
    assert net.params["c"][0].data is view
    assert np.array_equal(view, before)
    with pytest.raises(RuntimeError, match="cannot be read"):
        net.copy_from(str(tmp_path / "none"))
    other = caffe.Net(written(tmp_path / "other", NET.replace("num_output: 9", "num_output: 8")), caffe.TEST)
    other_view = other.params["c"][0].data.copy()
    with pytest.raises(ShapeError, match="layer 'f'"):
        other.copy_from(str(tmp_path / "w"))
    assert np.array_equal(other.params["c"][0].data, other_view)


def test_sharing_shares_memory(net: Any, tmp_path: Path) -> None:
    other = caffe.Net(str(tmp_path / "tmpq1w2e3"), caffe.TEST)
    other.share_with(net)
    net.params["f"][1].data[...] = 3
    assert other.params["f"][1].data is net.params["f"][1].data
    assert (other.layers[2].blobs[1].data == 3).all()
    narrow = caffe.Net(written(tmp_path / "narrow", NET.replace("num_output: 9", "num_output: 8")), caffe.TEST)
    with pytest.raises(ShapeError, match="layer 'f'"):
        narrow.share_with(net)


def test_blobs_outlive_their_net(net: Any) -> None:
    wanted = net.params["c"][0].data.copy()
    params, blobs = [blob for blobs in net.params.values() for blob in blobs], list(net.blobs.values())
    net.forward()
    net.backward()
    del net
    gc.collect()
    assert np.array_equal(params[0].data, wanted)
    assert all(np.isfinite(blob.data).all() and np.isfinite(blob.diff).all() for blob in params + blobs)


# -- HDF5 --------------------------------------------------------------------------------------------------------------


def test_hdf5_weights(net: Any, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is an extra")
    net.forward()
    net.backward()
    net.save_hdf5(tmp_path / "w", diffs=True)
    with h5py.File(tmp_path / "w") as file:  # the layout that Caffe writes
        assert {layer: sorted(group) for layer, group in file["data"].items()} == {
            "source": [], "c": ["0", "1"], "f": ["0", "1"], "loss": [],
        }  # fmt: skip
        assert file["data/c/0"].dtype == np.float32
        assert np.array_equal(file["diff/f/0"][()], net.params["f"][0].diff)
    other = caffe.Net(str(tmp_path / "tmpq1w2e3"), caffe.TRAIN)
    view = other.params["c"][0].data
    for read in (other.load_hdf5, other.copy_from):
        view[...] = 0
        read(str(tmp_path / "w"))
        assert np.array_equal(view, net.params["c"][0].data)
    by_option = caffe.Net(str(tmp_path / "tmpq1w2e3"), caffe.TEST, weights=str(tmp_path / "w"))
    assert np.array_equal(by_option.params["f"][1].data, net.params["f"][1].data)
    assert by_option._graph.missing == []
    narrow = caffe.Net(written(tmp_path / "narrow", NET.replace("num_output: 9", "num_output: 8")), caffe.TEST)
    with pytest.raises(ShapeError, match="layer 'f': blob 0 has shape"):
        narrow.load_hdf5(tmp_path / "w")


def test_hdf5_shared_blobs_are_stored_once(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is an extra")
    text = "input: 'x' input_shape { dim: 2 dim: 3 } " + "".join(
        f"layer {{ name: '{name}' type: 'InnerProduct' bottom: '{bottom}' top: '{name}' param {{ name: 'w' }} "
        "inner_product_param { num_output: 3 weight_filler { type: 'xavier' } } }"
        for name, bottom in (("a/b", "x"), ("c", "a/b"))
    )
    net = caffe.Net(written(tmp_path / "n", text), caffe.TEST)
    net.save_hdf5(tmp_path / "w")
    with h5py.File(tmp_path / "w") as file:
        assert (sorted(file["data/a/b"]), sorted(file["data/c"])) == (["0", "1"], ["1"])
    other = caffe.Net(str(tmp_path / "n"), caffe.TEST)
    other.load_hdf5(tmp_path / "w")
    assert np.array_equal(other.params["c"][0].data, net.params["a/b"][0].data)


def test_hdf5_files_from_strangers(net: Any, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is an extra")
    net.save_hdf5(tmp_path / "good.h5")

    def make(name: str, change: Any) -> Path:
        path = tmp_path / name
        path.write_bytes((tmp_path / "good.h5").read_bytes())
        with h5py.File(path, "a") as file:
            change(file)
        return path

    def replaced(value: Any) -> Any:
        def change(file: Any) -> None:
            del file["data/c/0"]
            file["data/c"][("0")] = value

        return change

    def outside(file: Any) -> None:
        (tmp_path / "raw").write_bytes(bytes(4 * 7 * 3 * 3 * 3))
        del file["data/c/0"]
        file["data/c"].create_dataset("0", (7, 3, 3, 3), "f4", external=[(str(tmp_path / "raw"), 0, 4 * 7 * 27)])

    cases = {
        "external": (replaced(h5py.ExternalLink(str(tmp_path / "good.h5"), "data/c/0")), "links are not followed"),
        "soft": (replaced(h5py.SoftLink("/data/f/0")), "links are not followed"),
        "text": (replaced(np.full((7, 3, 3, 3), b"x")), "holds no numbers"),
        "outside": (outside, "other files"),
        "missing": (lambda file: file["data/c"].pop("1"), "has no blob 1"),
        "more": (lambda file: file["data/c"].create_dataset("2", (1,), "f4"), "has 3 blobs"),
        "no group": (lambda file: file.pop("data"), "no group 'data'"),
        "dataset": (lambda file: (file.pop("data"), file.create_dataset("data", (1,), "f4")), "a group was expected"),
        "number": (replaced(0), "has shape"),
        "type": (replaced(np.dtype("f4")), "is no array"),
        "group": (lambda file: (file["data/c"].pop("0"), file["data/c"].create_group("0")), "is no array"),
    }  # fmt: skip
    for name, (change, problem) in cases.items():
        with pytest.raises(PreimageError, match=problem):
            net.load_hdf5(make(name, change))
    data = (tmp_path / "good.h5").read_bytes()
    for cut in (0, 5, 100, len(data) // 2):
        (tmp_path / "cut").write_bytes(data[:cut])
        with pytest.raises(FileFormatError):
            net.load_hdf5(tmp_path / "cut")
    for _ in range(60):
        damaged = bytearray(data)
        for place in RNG.integers(0, len(data), 4):
            damaged[place] = RNG.integers(256)
        (tmp_path / "damaged").write_bytes(damaged)
        with suppress(PreimageError):  # nothing else, whatever is damaged
            net.load_hdf5(tmp_path / "damaged")
    assert not hdf5.is_hdf5(tmp_path / "none")


def test_without_h5py_the_message_says_what_to_install(net: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(FileFormatError, match=r"pip install 'preimage\[hdf5\]'"):
        net.save_hdf5(tmp_path / "w")
    assert not (tmp_path / "w").exists()


# -- names, positions --------------------------------------------------------------------------------------------------


def test_names_and_positions(net: Any) -> None:
    assert (net.inputs, net.outputs) == ([], ["loss"])
    assert net.top_names == OrderedDict(source=["x", "t"], c=["c"], f=["scores"], loss=["loss"])
    assert net.bottom_names == OrderedDict(source=[], c=["x"], f=["c"], loss=["scores", "t"])
    assert list(net.layer_dict) == net._layer_names == ["source", "c", "f", "loss"]
    assert [net.layer_dict[name].type for name in net._layer_names] == [layer.type for layer in net.layers]
    assert net._blob_names == ["x", "t", "c", "scores", "loss"]
    assert [blob is net.blobs[name] for blob, name in zip(net._blobs, net._blob_names, strict=True)] == [True] * 5
    assert (net._inputs, net._outputs, net._top_ids(0), net._bottom_ids(3)) == ([], [4], [0, 1], [3, 1])
    assert net._blob_loss_weights == [0, 0, 0, 0, 1]
    assert net.blob_loss_weights["loss"] == 1
    loss = net._forward(0, 3)
    assert loss == pytest.approx(float(net.blobs["loss"].data))
    net._backward(3, 0)
    assert np.abs(net.params["c"][0].diff).max() > 0


LEVELS = "".join(
    f"layer {{ name: '{name}' type: 'InnerProduct' bottom: 'x' top: '{name}' inner_product_param {{ num_output: 1 }} {rule} }}"
    for name, rule in (
        ("every", ""), ("zero", "include { min_level: 0 max_level: 0 }"), ("one", "include { min_level: 1 max_level: 1 }"),
        ("from0", "include { min_level: 0 }"), ("from1", "include { min_level: 1 }"),
    )
)  # fmt: skip
STAGES = "".join(
    f"layer {{ name: '{name}' type: 'InnerProduct' bottom: 'x' top: '{name}' inner_product_param {{ num_output: 1 }} {rule} }}"
    for name, rule in (
        ("a", "include { stage: 'A' }"), ("b", "include { stage: 'B' }"), ("either", "include { stage: 'A' } include { stage: 'B' }"),
        ("both", "include { stage: 'A' stage: 'B' }"), ("notA", "include { not_stage: 'A' }"),
    )
)  # fmt: skip
INPUT = "layer { name: 'in' type: 'DummyData' top: 'x' dummy_data_param { shape { dim: 1 dim: 1 dim: 10 dim: 10 } } }"


@pytest.mark.parametrize(
    ("options", "wanted"), [({}, ["every", "zero", "from0"]), ({"level": 1}, ["every", "one", "from0", "from1"])]
)
def test_levels(options: dict[str, Any], wanted: list[str], tmp_path: Path) -> None:
    net = caffe.Net(written(tmp_path / "n", INPUT + LEVELS), caffe.TEST, **options)
    assert list(net.blobs)[1:] == wanted


@pytest.mark.parametrize(
    ("stages", "wanted"),
    [(["A"], ["a", "either"]), (["B"], ["b", "either", "notA"]), (["A", "B"], ["a", "b", "either", "both"]), ([], ["notA"])],
)
def test_stages(stages: list[str], wanted: list[str], tmp_path: Path) -> None:
    net = caffe.Net(written(tmp_path / "n", INPUT + STAGES), caffe.TEST, stages=stages)
    assert list(net.blobs)[1:] == wanted
    if stages:  # the file's own state says some of them
        own = caffe.Net(
            written(tmp_path / "m", f"state {{ stage: '{stages[0]}' }}" + INPUT + STAGES), caffe.TEST, stages=stages[1:]
        )
        assert list(own.blobs)[1:] == wanted
    with pytest.raises(OptionError, match="list of names"):
        caffe.Net(str(tmp_path / "n"), caffe.TEST, stages="A")


def test_one_file_for_training_validation_and_deployment(tmp_path: Path) -> None:
    shapes = "shape { dim: 1 dim: 1 dim: 10 dim: 10 } shape { dim: 1 dim: 1 dim: 1 dim: 1 }"
    text = (
        f"layer {{ name: 'a' type: 'DummyData' top: 'x' top: 't' dummy_data_param {{ {shapes} }} include {{ phase: TRAIN stage: 'fit' }} }}"
        f"layer {{ name: 'b' type: 'DummyData' top: 'x' top: 't' dummy_data_param {{ {shapes} }} include {{ phase: TEST stage: 'val' }} }}"
        "layer { name: 'c' type: 'Input' top: 'x' input_param { shape { dim: 1 dim: 1 dim: 10 dim: 10 } } include { phase: TEST stage: 'use' } }"
        "layer { name: 'f' type: 'InnerProduct' bottom: 'x' top: 'f' inner_product_param { num_output: 2 } }"
        "layer { name: 'l' type: 'SoftmaxWithLoss' bottom: 'f' bottom: 't' top: 'loss' "
        "include: { phase: TRAIN stage: 'fit' } include: { phase: TEST stage: 'val' } }"
        "layer { name: 'p' type: 'Softmax' bottom: 'f' top: 'p' include: { phase: TEST stage: 'use' } }"
    )
    path = written(tmp_path / "all", text)
    for phase, stage, wanted in ((caffe.TRAIN, "fit", ["loss"]), (caffe.TEST, "val", ["loss"]), (caffe.TEST, "use", ["p"])):
        net = caffe.Net(path, phase, stages=[stage])
        assert (net.blobs["x"].shape, net.outputs) == ((1, 1, 10, 10), wanted)


# -- passes ------------------------------------------------------------------------------------------------------------


def test_one_layer_forward_and_backward(net: Any) -> None:
    net.blobs["c"].data[...] = RNG.standard_normal(net.blobs["c"].shape)
    assert list(net.forward(start="f", end="f")) == ["scores"]
    w, b = (blob.data.astype(np.float64) for blob in net.params["f"])
    flat = net.blobs["c"].data.reshape(4, -1)
    assert np.allclose(net.blobs["scores"].data, flat @ w.T + b, rtol=1e-4, atol=1e-4)
    slope = RNG.standard_normal((4, 9))
    net.blobs["scores"].diff[...] = slope
    assert list(net.backward(start="f", end="f")) == ["c"]
    assert np.allclose(net.blobs["c"].diff.reshape(4, -1), slope @ w, rtol=1e-4, atol=1e-4)
    net.clear_param_diffs()
    assert all((blob.diff == 0).all() for blobs in net.params.values() for blob in blobs)


def test_constant_data_are_made_once_and_random_data_anew(net: Any) -> None:
    labels = net.blobs["t"].data.copy()
    net.forward()
    first = net.blobs["x"].data.copy()
    net.forward()
    assert np.array_equal(net.blobs["t"].data, labels)
    assert not np.array_equal(net.blobs["x"].data, first)
    assert first.std() == pytest.approx(2, rel=0.2)


def test_a_seed_makes_weights_data_and_dropout_repeatable(tmp_path: Path) -> None:
    text = NET.replace(
        "layer { type: 'SoftmaxWithLoss'",
        "layer { type: 'Dropout' name: 'd' bottom: 'scores' top: 'scores' } layer { type: 'SoftmaxWithLoss'",
    )
    path = written(tmp_path / "n", text)

    def passes(seed: int) -> list[Any]:
        caffe.set_random_seed(seed)
        net = caffe.Net(path, caffe.TRAIN)
        return [net.forward(blobs=["scores"])["scores"].copy() for _ in range(2)]

    first, again, other = passes(7), passes(7), passes(8)
    assert [np.array_equal(a, b) for a, b in zip(first, again, strict=True)] == [True, True]
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])
    assert (first[0] == 0).any()


MEMORY = """
layer { name: 'm' type: 'MemoryData' top: 'x' top: 't' memory_data_param { batch_size: 2 channels: 1 height: 3 width: 4 } }
layer { name: 'p' type: 'Power' bottom: 'x' top: 'y' power_param { scale: 2 } }
layer { name: 'q' type: 'Power' bottom: 't' top: 'z' power_param { shift: 1 } }
"""


def test_set_input_arrays(tmp_path: Path) -> None:
    net = caffe.Net(written(tmp_path / "n", MEMORY), caffe.TEST)
    images, labels = RNG.random((6, 1, 3, 4)).astype(np.float32), np.arange(6, dtype=np.float32)
    net.set_input_arrays(images, labels)
    for start in (0, 2, 4, 0):
        out = net.forward()
        assert np.array_equal(out["y"], 2 * images[start : start + 2])
        assert np.array_equal(out["z"].reshape(-1), labels[start : start + 2] + 1)
    for bad, problem in (
        ((images[:5], labels[:5]), "multiple of the batch size"),
        ((images, labels[:4]), "as many"),
        ((images.astype(float), labels), "float32"),
        ((images[:, :, :2], labels), "shape"),
        ((images[:, :, :, ::-1], labels), "contiguous"),
        ((images.tolist(), labels), "got list"),
    ):
        with pytest.raises(RuntimeError, match=problem):
            net.set_input_arrays(*bad)
    with pytest.raises(RuntimeError, match="MemoryData"):
        caffe.Net(written(tmp_path / "m", INPUT), caffe.TEST).set_input_arrays(images, labels)


def test_data_in_place_of_a_database(tmp_path: Path) -> None:
    text = (
        "layer { name: 'd' type: 'Data' top: 'x' top: 't' data_param { source: 'lmdb' batch_size: 64 } }"
        + MEMORY.split("\n", 2)[2]
    )
    path = written(tmp_path / "n", text)
    with pytest.raises(FileFormatError, match="input_shapes"):
        caffe.Net(path, caffe.TEST)
    batches = [{"x": RNG.random((n, 1, 2, 2)), "t": np.full(n, n)} for n in (3, 3, 2)]
    net = caffe.Net(path, caffe.TEST, data=batches)
    assert net.blobs["x"].shape == (3, 1, 2, 2)
    for wanted in [*batches, batches[0]]:
        out = net.forward()
        assert np.array_equal(out["y"], 2 * wanted["x"].astype(np.float32))
        assert np.array_equal(out["z"], wanted["t"] + 1)
    net.forward(start="p")  # part of a pass takes no batch
    assert np.array_equal(net.forward()["y"], 2 * batches[1]["x"].astype(np.float32))
    asked = []
    net.set_data(lambda: asked.append(1) or batches[2])  # type: ignore[func-returns-value]
    net.forward()
    assert (net.blobs["x"].shape[0], len(asked)) == (2, 1)
    for bad, problem in (([], "no more batches"), (iter([]), "no more batches"), ([1], "mapping"), ([{"q": 1}], "'q'")):
        net.set_data(bad)
        with pytest.raises(OptionError, match=problem):
            net.forward()
    with pytest.raises(OptionError, match="got int"):
        net.set_data(3)
    net.set_data(None)
    net.forward()
