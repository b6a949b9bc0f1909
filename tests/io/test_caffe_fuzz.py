"""The fuzz in short: mutated nets end in our errors or in right results; and a fuzz that cannot fail would be none."""

import struct
from pathlib import Path
from typing import Any

import fuzz_caffe as fuzz
import numpy as np
import pytest
from fuzz_caffe_nets import SSD

from preimage.errors import FileFormatError, PreimageError
from preimage.io import caffe
from preimage.io.caffe.wire.binary import encode


def test_mutated_nets() -> None:
    counts, offenders = fuzz.fuzz(11_000_000, 250)
    assert offenders == []
    assert counts["ran"] > 20
    assert counts["refused"] > 50


def test_the_same_seed_gives_the_same_case(tmp_path: Path) -> None:
    nets = fuzz.seeds()
    for number in range(20):
        found = []
        for name in "ab":
            (tmp_path / name).mkdir(exist_ok=True)
            model, weights = fuzz.case(nets, number, tmp_path / name)
            found.append((model.name, model.read_bytes(), weights.read_bytes() if weights else b""))
        assert found[0] == found[1]


@pytest.mark.parametrize("defect", ["foreign error", "wrong shape", "wrong weights"])
def test_the_check_sees_defects(defect: str, tmp_path: Path, monkeypatch: Any) -> None:
    text, _ = fuzz.seeds()[0]
    (tmp_path / "net.prototxt").write_text(text)
    assert fuzz.check(tmp_path / "net.prototxt", None) == "ran"
    if defect == "foreign error":
        monkeypatch.setattr(fuzz, "load", lambda *_, **__: {}["x"])
    elif defect == "wrong shape":
        monkeypatch.setattr(caffe.CaffeGraph, "run", lambda self, feeds: {name: np.zeros(1) for name in self.outputs})
    else:
        monkeypatch.setattr(caffe.CaffeGraph, "array", lambda self, name: np.random.default_rng().random(2))
    with pytest.raises((KeyError, AssertionError, PreimageError)):
        fuzz.check(tmp_path / "net.prototxt", None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 1000,
        b"\xff" * 1000,
        b"\xa2\x06" * 50_000,
        b"\x0a\xff\xff\xff\xff\x07",
        b"".join(b"\xa2\x06\x00" for _ in range(30_000)),  # 30,000 empty layers
        encode(
            caffe.Message("NetParameter", layer=[caffe.Message("LayerParameter", name="x", type="ReLU", bottom=["a"] * 9999)])
        ),
    ],
)
def test_bytes_that_are_no_net(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.caffemodel").write_bytes(data)
    try:
        graph = caffe.load(tmp_path / "w.caffemodel")
    except PreimageError:
        return
    assert not graph.nodes  # an empty file is an empty net


def test_shapes_and_data_that_disagree(tmp_path: Path) -> None:
    net = caffe.load(caffe.parse_text("NetParameter", SSD)).to_message()
    net.layer.insert(1, caffe.Message("LayerParameter", name="ip", type="InnerProduct", bottom=["loc"], top=["ip"]))
    net.layer[1].sub("inner_product_param").num_output = 2
    blob = net.layer[1].add("blobs")
    blob.sub("shape").dim = [2, 24]
    bias = net.layer[1].add("blobs")
    bias.sub("shape").dim = [2]
    bias.data = np.zeros(2, np.float32)
    for data in (np.zeros(47, np.float32), np.zeros(49, np.float32), np.zeros(0, np.float32)):
        blob.data = data
        (tmp_path / "w.caffemodel").write_bytes(encode(net))
        with pytest.raises(FileFormatError, match="needs 48 numbers"):
            caffe.load(tmp_path / "w.caffemodel")
    blob.data = np.frombuffer(struct.pack("<48f", *range(48)), np.float32)
    (tmp_path / "w.caffemodel").write_bytes(encode(net))
    assert caffe.load(tmp_path / "w.caffemodel").array("ip.weight")[1, 23] == 47
