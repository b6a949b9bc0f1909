"""What a foreign file may take: memory, work, time; pictures and arrays that claim more than they hold; where external data may lie."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.errors import FileFormatError, OptionError, ShapeError
from preimage.io import caffe, files, limits
from preimage.io.pictures import picture_size, read_picture, read_pixels
from preimage.io.weights import read_npy

onnx = pytest.importorskip("onnx")
Image = pytest.importorskip("PIL.Image")
MIB = 1 << 20


def model(nodes: list[Any], outputs: list[str], shape: list[int | str], stored: dict[str, np.ndarray] | None = None) -> Any:
    h = onnx.helper
    value = h.make_tensor_value_info
    initializers = [onnx.numpy_helper.from_array(a, k) for k, a in (stored or {}).items()]
    graph = h.make_graph(nodes, "g", [value("x", 1, shape)], [value(o, 1, None) for o in outputs], initializers)
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)


def many(count: int, keep: bool) -> Any:
    """A chain of `count` values of 1 MiB that doubles nothing; kept alive to the end by being outputs, or dropped one by one."""
    nodes = [onnx.helper.make_node("Neg", [f"v{k - 1}" if k else "x"], [f"v{k}"], name=f"n{k}") for k in range(count)]
    return model(nodes, [f"v{k}" for k in range(count)] if keep else [f"v{count - 1}"], ["n"])


def run(proto: Any, size: int = MIB // 4) -> Any:
    from preimage.io.onnx import load

    return load(proto).run({"x": np.ones(size, np.float32)})


def test_values_that_are_alive_together_are_counted() -> None:
    with limits.limits(memory_bytes=10 * MIB):
        assert len(run(many(8, keep=True))) == 8
        assert len(run(many(40, keep=False))) == 1  # no more than two are alive at once
        with pytest.raises(
            FileFormatError,
            match=r"node 'n1\d'.* of memory; .* are allowed \(memory_bytes of preimage.io.limits.limits; --memory",
        ):
            run(many(40, keep=True))


def test_a_small_file_that_asks_for_forty_gibibytes_is_refused_before_it_takes_them() -> None:
    shape = np.array([1, 64, 4096, 2048], np.int64)  # 2 GiB
    nodes = [onnx.helper.make_node("Expand", ["x", "s"], [f"v{k}"], name=f"e{k}") for k in range(20)]
    proto = model(nodes, [f"v{k}" for k in range(20)], [1, 1, 1, 1], {"s": shape})
    assert len(proto.SerializeToString()) < 2500
    with limits.limits(memory_bytes=64 * MIB), pytest.raises(FileFormatError, match=r"2 GiB of memory; 0.0625 GiB are allowed"):
        run_at(proto, np.ones((1, 1, 1, 1), np.float32))


def run_at(proto: Any, x: np.ndarray) -> Any:
    from preimage.io.onnx import load

    return load(proto).run({"x": x})


def test_arguments_that_do_not_broadcast_make_nothing_larger() -> None:
    """A scale along axis 0 of weights whose last axes are 1, indices into a table, weights of channels beside a narrow image."""
    h, rng = onnx.helper, np.random.default_rng(0)
    stored = {
        "q": rng.integers(-9, 9, (96, 64, 1, 1)).astype(np.int8), "s": rng.random(96).astype(np.float32), "z": np.zeros(96, np.int8),
        "table": rng.random((512, 8)).astype(np.float32), "at": rng.integers(0, 512, (1, 64)), "w": np.ones(96, np.float32),
    }  # fmt: skip
    nodes = [
        h.make_node("DequantizeLinear", ["q", "s", "z"], ["a"], axis=0),
        h.make_node("Gather", ["table", "at"], ["b"]),
        h.make_node("InstanceNormalization", ["x", "w", "w"], ["c"]),
        h.make_node("GroupNormalization", ["x", "w", "w"], ["d"], num_groups=4),
    ]
    proto = model(nodes, list("abcd"), [1, 96, 80, 1], stored)
    proto.opset_import[0].version = 21
    with limits.limits(elements=2**13):
        found = run_at(proto, rng.random((1, 96, 80, 1), np.float32))
    assert [found[name].shape for name in "abcd"] == [(96, 64, 1, 1), (1, 64, 8), (1, 96, 80, 1), (1, 96, 80, 1)]
    assert np.array_equal(found["a"], stored["q"] * stored["s"].reshape(-1, 1, 1, 1))
    long = onnx.numpy_helper.from_array(np.ones(2**12, np.float32), "w")
    next(t for t in proto.graph.initializer if t.name == "w").CopyFrom(long)
    with pytest.raises(FileFormatError, match="InstanceNormalization: input"):
        run_at(proto, np.ones((1, 96, 80, 1), np.float32))
    del proto.graph.node[2], proto.graph.output[2]
    with pytest.raises(FileFormatError, match=r"GroupNormalization: input .* scale \(4096,\)"):
        run_at(proto, np.ones((1, 96, 80, 1), np.float32))


def test_work_of_a_whole_run_and_its_time() -> None:
    w = np.ones((8, 8, 3, 3), np.float32)
    nodes = [
        onnx.helper.make_node("Conv", [f"v{k - 1}" if k else "x", "w"], [f"v{k}"], name=f"c{k}", pads=[1, 1, 1, 1])
        for k in range(6)
    ]
    proto = model(nodes, ["v5"], [1, 8, 16, 16], {"w": w})
    x = np.ones((1, 8, 16, 16), np.float32)
    one = 2 * 8 * 8 * 9 * 256  # flop of a convolution, padded taps included
    with pre.config(engine="gemm"):
        with limits.limits(flop=7 * one):
            run_at(proto, x)
        with limits.limits(flop=3 * one), pytest.raises(FileFormatError, match=r"node 'c\d'.* flop in one run .*--flop"):
            run_at(proto, x)
        with (
            limits.limits(seconds=1e-9),
            pytest.raises(FileFormatError, match=r"node 'c0'.* longer than the 1e-09 s allowed .*--seconds"),
        ):
            run_at(proto, x)


def test_a_run_that_has_passed_is_not_counted_again_but_under_other_limits() -> None:
    from preimage.io.onnx import load

    graph, x = load(many(6, keep=True)), {"x": np.ones(MIB // 4, np.float32)}
    graph.run(x)
    graph.run(x)
    with limits.limits(memory_bytes=3 * MIB), pytest.raises(FileFormatError, match="memory"):
        graph.run(x)
    graph.run(x)
    with pytest.raises(FileFormatError, match="memory"), limits.limits(memory_bytes=3 * MIB):
        graph.run({"x": np.ones(MIB // 2, np.float32)})


@pytest.mark.parametrize("given", [{"memory_bytes": 0}, {"flop": -1}, {"seconds": float("nan")}, {"elements": True}])
def test_limits_that_are_none(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="must be positive"), limits.limits(**given):
        pass


def test_without_a_limit_it_is_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_memory", lambda: 10 * MIB)
    assert limits.memory_bytes() == 8 * MIB
    with pytest.raises(FileFormatError, match="are allowed"):
        run(many(40, keep=True))
    text = 'input: "x" input_dim: 1 input_dim: 3 input_dim: 2000 input_dim: 2000 layer { name: "r" type: "ReLU" bottom: "x" top: "y" }'
    with pytest.raises(ShapeError, match=r"memory_bytes of caffe.Limits or io.limits.limits, on the command line --memory"):
        caffe.load(caffe.parse_text("NetParameter", text))
    with limits.limits(memory_bytes=1 << 30):
        caffe.load(caffe.parse_text("NetParameter", text))
    with limits.limits(flop=1000), pytest.raises(ShapeError, match="--flop"):
        caffe.load(caffe.parse_text("NetParameter", text), limits=caffe.Limits(memory_bytes=1 << 30))


# -- stored arrays -----------------------------------------------------------------------------------------------------


def external(folder: Path, location: str, elements: int = 4) -> Path:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[elements], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    proto = model([onnx.helper.make_node("Add", ["x", "w"], ["y"])], ["y"], ["n"])
    proto.graph.initializer.append(tensor)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return folder / "model.onnx"


def test_a_sparse_file_of_any_size_beside_the_model(tmp_path: Path) -> None:
    path = external(tmp_path, "w.bin", elements=2 << 30)
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(8 << 30)
    begin = time.monotonic()
    with (
        limits.limits(memory_bytes=1 << 30),
        pytest.raises(FileFormatError, match="its arrays would take 8 GiB of memory; 1 GiB"),
    ):
        files.load_model(path)
    assert time.monotonic() - begin < 20  # nothing of it was read


def hub(root: Path, target: str = "blobs") -> Path:
    """A model as Hugging Face's cache keeps it: links in snapshots, files in blobs."""
    snapshot, blobs = root / "models--a--b/snapshots/0123abcd/onnx", root / "models--a--b/blobs"
    blobs.mkdir(parents=True)
    path = external(snapshot, "model.onnx_data")
    path.rename(blobs / "aaaa")
    path.symlink_to("../../../blobs/aaaa")
    place = blobs if target == "blobs" else root / target
    place.mkdir(exist_ok=True)
    (place / "bbbb").write_bytes(np.arange(4, dtype="<f4").tobytes())
    (snapshot / "model.onnx_data").symlink_to(os.path.relpath(place / "bbbb", snapshot))
    return path


def test_external_data_in_hugging_face_s_cache(tmp_path: Path) -> None:
    graph = files.load_model(hub(tmp_path))
    np.testing.assert_array_equal(graph.run({"x": np.zeros(4, np.float32)})["y"], [0, 1, 2, 3])
    (tmp_path / "alias").symlink_to(tmp_path / "models--a--b")
    files.load_model(tmp_path / "alias/snapshots/0123abcd/onnx/model.onnx")


@pytest.mark.parametrize("kind", ["another folder", "a link in a plain folder", "up", "a folder inside blobs"])
def test_no_other_link_leads_out_of_the_model_s_folder(kind: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(np.zeros(4, "<f4").tobytes())
    if kind == "another folder":
        path = hub(tmp_path, "elsewhere")
    elif kind == "a folder inside blobs":
        path = hub(tmp_path, "models--a--b/blobs/deeper")
    elif kind == "up":
        path = external(tmp_path / "m", "../secret")
    else:
        path = external(tmp_path / "m", "w.bin")
        (tmp_path / "m/w.bin").symlink_to("../secret")
    with pytest.raises(FileFormatError, match="own folder"):
        files.load_model(path)


def npy(path: Path, shape: str, data: bytes = bytes(8), descr: str = "<f4") -> Path:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(118) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)
    return path


@pytest.mark.parametrize(("shape", "text"), [
    ("(99999999999, 9999999999)", "needs"), ("(-1, 4)", "needs"), ("(3,)", "needs 12 bytes, the file has 8"), ("(1,)", "needs 4 bytes"),
    ("[2]", "no array file"), ("(2.0,)", "no array file"), ("(" * 200, "no array file"), ("__import__('os')", "no array file"),
    ("(9" + "9" * 4400 + ",)", "no array file|needs"),
])  # fmt: skip
def test_arrays_whose_header_does_not_fit_their_bytes(shape: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=text):
        read_npy(npy(tmp_path / "a.npy", shape))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "a.npy")
    with pytest.raises(FileFormatError, match=text):
        files.load_weights(tmp_path / "a.npz")


def test_arrays_as_numpy_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k, array in enumerate((
        rng.standard_normal((3, 4, 5)), np.asfortranarray(rng.standard_normal((3, 4))), np.array(2.5), np.zeros((0, 3)), np.array(["ab", "c"]),
        rng.standard_normal(4).astype(">f4"), np.array([True, False]), np.zeros(3, [("a", "i4"), ("b", "f8", 2)]),
    )):  # fmt: skip
        np.save(tmp_path / f"{k}.npy", array)
        found = read_npy(tmp_path / f"{k}.npy")
        assert found.dtype == array.dtype
        assert found.flags.writeable
        np.testing.assert_array_equal(found, np.load(tmp_path / f"{k}.npy"))
    np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(FileFormatError, match="never loaded"):
        read_npy(tmp_path / "o.npy")
    with limits.limits(memory_bytes=100), pytest.raises(FileFormatError, match="--memory"):
        read_npy(tmp_path / "0.npy")


def test_an_archive_that_unpacks_to_more_than_is_allowed(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(4 * MIB))
    assert (tmp_path / "a.npz").stat().st_size < MIB
    with limits.limits(memory_bytes=8 * MIB), pytest.raises(FileFormatError, match=r"unpacked, would take 0.0313 GiB"):
        files.load_weights(tmp_path / "a.npz")


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_an_eps_starts_no_program_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gs").write_text("#!/bin/sh\ntouch started\n")
    (tmp_path / "bin/gs").chmod(0o755)
    eps = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%Page: 1 1\nshowpage\n%%EOF\n"
    (tmp_path / "a.png").write_text(eps)
    code = """
import sys
sys.path.insert(0, "")
from preimage.io.pictures import read_picture, read_pixels
from preimage.caffe.io import load_image
for read in (read_picture, read_pixels, load_image):
    try: read("a.png")
    except Exception as error: print(type(error).__name__)
from PIL import Image
try: Image.open("a.png").load()
except Exception: pass
"""
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    before = code.partition("from PIL")[0]
    done = subprocess.run([sys.executable, "-c", before], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["FileFormatError"] * 3
    assert not (tmp_path / "started").exists()
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, check=True)
    assert (tmp_path / "started").exists()  # the test can see it: this is what Pillow by itself does


def test_a_picture_of_more_pixels_than_memory_allows_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (13_000, 13_000)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < MIB
    assert picture_size(tmp_path / "a.png") == (13_000, 13_000)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for read in (read_picture, read_pixels):
        with (
            limits.limits(memory_bytes=1 << 30),
            pytest.raises(FileFormatError, match=r"13000x13000 would take 6.3 GiB of memory"),
        ):
            read(tmp_path / "a.png")


def test_frames_are_not_counted_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("L", (4, 4), k % 256) for k in range(300)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    seen = []
    plugin = pytest.importorskip("PIL.TiffImagePlugin").TiffImageFile
    seek = plugin.seek
    monkeypatch.setattr(plugin, "seek", lambda self, frame: (seen.append(frame), seek(self, frame))[1])
    assert "the first of more than 100 frames" in read_picture(tmp_path / "a.tif").notes
    assert len(seen) < 110


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "tif", "webp", "bmp", "ppm"])
def test_damaged_pictures_give_errors_of_ours(ending: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(len(ending))
    image = Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8))
    image.save(tmp_path / f"good.{ending}")
    good = (tmp_path / f"good.{ending}").read_bytes()
    path = tmp_path / f"a.{ending}"
    for _ in range(150):
        data = bytearray(good[: int(rng.integers(1, len(good) + 1))] if rng.random() < 0.3 else good)
        for place in rng.integers(0, len(data), int(rng.integers(1, 9))):
            data[place] = int(rng.integers(256))
        path.write_bytes(data)
        for read in (read_picture, read_pixels):
            said = str(path)
            with limits.limits(memory_bytes=1 << 28):
                try:
                    read(path)
                except FileFormatError as error:
                    said = str(error)
            assert str(path) in said


# -- sizes and settings that only a hostile file has -------------------------------------------------------------------


@pytest.mark.parametrize("pool", [pre.ops.adaptive_avg_pool, pre.ops.adaptive_max_pool])
def test_a_pool_of_more_windows_than_memory_holds_is_refused(pool: Any) -> None:
    with pytest.raises(pre.OutOfMemoryError, match="windows over spatial axis 0"):
        pool(np.ones((1, 2, 5, 5), np.float32), 10**30)


@pytest.mark.parametrize(("text", "said"), [
    ('lr_policy: "inv" gamma: -1 power: 0.5', "no learning rate at iteration 1"),
    ('lr_policy: "inv" gamma: -1 power: -0.5', "the power of a negative number"),
    ('lr_policy: "poly" max_iter: 1 power: -1', "no learning rate at iteration 1"),
    ('lr_policy: "sigmoid" gamma: -1e30 stepsize: 0', "no learning rate at iteration 1"),
    ('lr_policy: "fixed" type: "Adam" momentum: 1', "below 1, got 1"),
    ('lr_policy: "fixed" type: "Adam" momentum: 1.5 momentum2: 1.5', "below 1, got 1.5"),
])  # fmt: skip
def test_a_solver_s_settings_that_give_no_number(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "in" type: "Input" top: "x" top: "t" input_param { shape { dim: 2 dim: 3 } shape { dim: 2 dim: 2 } } } '
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 } } '
        'layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }'
    )
    (tmp_path / "solver.prototxt").write_text(f'net: "net.prototxt" base_lr: 0.1 {text}')
    solver = pre.caffe.get_solver(tmp_path / "solver.prototxt")
    solver.net.blobs["x"].data[...] = 1
    with np.errstate(all="ignore"), pytest.raises(FileFormatError, match=said):
        solver.step(4)


def test_no_images_give_no_detections() -> None:
    net = """layer { name: "in" type: "Input" top: "a" top: "b" top: "c"
      input_param { shape { dim: 0 dim: 8 } shape { dim: 0 dim: 6 } shape { dim: 1 dim: 2 dim: 8 } } }
    layer { name: "d" type: "DetectionOutput" bottom: "a" bottom: "b" bottom: "c" top: "y"
      detection_output_param { num_classes: 3 keep_top_k: 5 nms_param { nms_threshold: 0.4 } } }"""
    graph = caffe.load(caffe.parse_text("NetParameter", net))
    found = graph.run({"a": np.zeros((0, 8), "f4"), "b": np.zeros((0, 6), "f4"), "c": np.ones((1, 2, 8), "f4")})["y"]
    assert (found[..., 1:] == -1).all()
