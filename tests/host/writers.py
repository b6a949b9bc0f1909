"""Every function of the library that writes a file, in one table: what writes version 0 or 1 to a path, and what tells which one is there.

A new writer gets a row; tests make the n-th write, fsync and rename of each fail, and kill each at random moments.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import page_writers as pages
import pytest
from page_writers import SIZE, one

import preimage as pre
from preimage.errors import OutputError


class Writer(NamedTuple):
    """`write(path, version)`; `read(path)` gives the version, and raises for what is no whole file. synced: it waits for the disk."""

    ending: str
    write: Callable[[Path, int], Any]
    read: Callable[[Path], int]
    synced: bool = True


def _array(version: int) -> np.ndarray:
    return np.full(SIZE, float(version), np.float32)


def _bytes(path: Path, version: int) -> None:
    from preimage.host import write_file

    write_file(path, bytes([version]) * 3_000_000)


def _weights(path: Path, version: int) -> None:
    from preimage.io.files import save_weights

    save_weights({"a": _array(version), "b": _array(version).astype(np.float64)}, path)


def _read_weights(path: Path) -> int:
    from preimage.io.files import load_weights

    return one(np.concatenate([v.astype(np.float64) for v in load_weights(path).values()]))


def _npy(path: Path, version: int) -> None:
    from preimage.io.files import write_array

    write_array(_array(version), path)


def _png(path: Path, version: int) -> None:
    from preimage.io.files import write_array

    write_array(np.full((1, 3, 120, 140), float(version), np.float32), path)


def _read_png(path: Path) -> int:
    from preimage.io.pictures import read_picture

    return one(read_picture(path).values)


def _picture(path: Path, version: int) -> None:
    from preimage.io.pictures import write_picture

    write_picture(path, np.full((3, 120, 140), float(version)))


NET = """
name: "n" layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 300 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: ROWS bias_term: false } }
"""


@cache
def _net(version: int, rows: int = 200) -> Any:
    from preimage.io import caffe

    graph = caffe.load(caffe.parse_text("NetParameter", NET.replace("ROWS", str(rows))))
    graph.put("ip.weight", np.full((rows, 300), float(version), np.float32))
    return graph


def _caffemodel(path: Path, version: int) -> None:
    from preimage.io import caffe

    caffe.save(_net(version), path)


def _save_model(path: Path, version: int) -> None:
    from preimage.io.files import save_model

    save_model(_net(version), path)


def _read_model(path: Path) -> int:
    from preimage.io.files import load_model

    graph = load_model(path)
    stored = [np.asarray(p.data) for p in graph.weights.values()] + [a for a in graph.constants.values() if a.size > 100]
    return one(np.concatenate([a.reshape(-1) for a in stored]))


def _write_net(path: Path, version: int) -> None:
    from preimage.io import caffe

    caffe.write_net(_net(version, 2 if path.suffix == ".prototxt" else 200).to_message(), path)


def _mean(path: Path, version: int) -> None:
    from preimage.io import caffe

    caffe.write_mean(path, np.full((3, 100, 90), float(version), np.float32))


def _read_mean(path: Path) -> int:
    from preimage.io import caffe

    return one(caffe.read_mean(path))


class _Face:
    """A Net of preimage.caffe with one version's weights."""

    @staticmethod
    @cache
    def net(version: int) -> Any:
        from preimage import caffe

        net = caffe.Net(_net(version).assembly.net, caffe.TEST)
        net.params["ip"][0].data[...] = float(version)
        return net


def _face(path: Path, version: int) -> None:
    _Face.net(version).save(path)


def _face_hdf5(path: Path, version: int) -> None:
    _Face.net(version).save_hdf5(path)


def _read_face_hdf5(path: Path) -> int:
    from preimage.io.caffe import hdf5

    return one(hdf5.read_weights(path, {"ip": [(200, 300)]})["ip"][0])


@cache
def _solver(version: int) -> Any:
    from preimage import caffe

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "net.prototxt").write_text(NET.replace("ROWS", "200"))
        (Path(folder) / "solver.prototxt").write_text(
            'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" snapshot_after_train: false'
        )
        solver = caffe.get_solver(Path(folder) / "solver.prototxt")
    weight = solver.net.params["ip"][0].data
    weight[...] = float(version)
    solver.iter, solver.history = 3, {"ip.weight": (np.array(weight), np.zeros_like(weight))}
    return solver


def _snapshot(path: Path, version: int) -> None:
    """Solver.snapshot chooses the names: PREFIX_iter_N.caffemodel, here the path of the table, and .solverstate."""
    solver, (prefix, _, ending) = _solver(version), str(path).partition("_iter_3.caffemodel")
    solver._file = None
    solver.param.snapshot_prefix, solver.param.snapshot_format = prefix, "HDF5" if ending else "BINARYPROTO"
    solver.snapshot()


def _read_snapshot(path: Path) -> int:
    """The version of the state, which is written last; the weights are whole too, of that version or the one before."""
    from preimage.caffe.solver_state import read_state

    (_read_face_hdf5 if path.suffix == ".h5" else _read_model)(path)
    return one(read_state(str(path).replace(".caffemodel", ".solverstate"), [(200, 300)]).history[0])


@cache
def _graph(version: int) -> Any:
    from preimage.io.onnx.tracing import trace

    net = pre.nn.Sequential(pre.nn.Conv2d(40, 50, 6, bias=False, rng=0))
    for parameter in net.parameters():
        parameter.data[...] = float(version)
    return trace(net, np.zeros((1, 40, 8, 8), np.float32))


def _onnx(path: Path, version: int) -> None:
    from preimage.io.onnx import export

    export.save(_graph(version), path)


def _convert(path: Path, version: int) -> None:
    """From a caffemodel beside it."""
    from preimage.io import caffe
    from preimage.io.convert import convert

    source = path.with_name(f"source{version}.caffemodel")
    if not source.exists():
        caffe.save(_net(version), source)
    assert convert(source, path).ok


def _stencils(path: Path, version: int) -> None:
    from preimage.io.stencils import save_stencils

    save_stencils(path, np.full((64, 3, 9, 9), float(version), np.float32), {"how": version})


def _read_stencils(path: Path) -> int:
    from preimage.io.stencils import load_stencils

    return one(load_stencils(path)[0])


def _cached(path: Path, call: Callable[[Any], Any]) -> Any:
    from preimage.engines import disk_cache

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREIMAGE_CACHE_DIR", str(path))
        return call(disk_cache)


def _kernel(path: Path, version: int) -> None:
    """A cache may fail to keep a kernel; it may not keep a part of one."""
    stored = _cached(path, lambda disk_cache: disk_cache.write("key", bytes([version]) * SIZE))
    if not stored:
        raise OutputError("not kept")


def _read_kernel(path: Path) -> int:
    code = _cached(path, lambda disk_cache: disk_cache.read("key"))
    return one(np.frombuffer(code, np.uint8))


def _tuning(path: Path, version: int) -> None:
    from preimage.engines.jit.conv import autotune

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREIMAGE_TUNING", str(path))
        autotune.save({f"key {k}": (16, 1, version) for k in range(2000)})


def _read_tuning(path: Path) -> int:
    tiles = json.loads(path.read_text())["tiles"]
    assert len(tiles) == 2000
    return one([tile[2] for tile in tiles.values()])


def _net_picture(path: Path, version: int) -> None:
    from preimage import caffe

    net = caffe.proto.caffe_pb2.NetParameter()
    for k in range(8):
        net.layer.add(name=f"layer {k} of {version}", type="ReLU", bottom=[f"b{k}"], top=[f"b{k + 1}"])
    caffe.draw.draw_net_to_file(net, path)


def _read_net_picture(path: Path) -> int:
    titles = [element.text or "" for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}title")]
    versions = [int(title.split()[3]) for title in titles if title.startswith("layer ")]
    assert len(versions) == 8
    return one(versions)


def _folder(path: Path, version: int) -> None:
    """As `preimage learn` and `rebuild` write their results."""
    from preimage.cli.output import OutputFolder
    from preimage.host import write_file

    with OutputFolder(path, overwrite=True) as folder:
        for name in ("metrics.json", "a.png", "report.html"):
            write_file(folder.folder / name, json.dumps([version] * 5000))
        folder.finish()


def _read_folder(path: Path) -> int:
    names = sorted(p.name for p in path.iterdir())
    assert names == ["a.png", "metrics.json", "report.html"]
    return one([one(json.loads((path / name).read_text())) for name in names])


def _idx(path: Path, version: int) -> None:
    from preimage.data import write_idx

    write_idx(np.full((300, 200), version, np.uint8), path)


def _read_idx(path: Path) -> int:
    from preimage.data import read_idx

    return one(read_idx(path))


def _checkpoint(path: Path, version: int) -> None:
    """One more in a folder, the one before it gone when it is whole; every other time of the same step as that."""
    from preimage.learning import checkpoints

    steps = [int(p.stem.split("-")[1]) for p in path.glob("step-*.json")] if path.is_dir() else []
    checkpoints.save(path, step=max(steps, default=0) + version, keep=1, x=_array(version))


def _read_checkpoint(path: Path) -> int:
    from preimage.learning import checkpoints

    return one(checkpoints.newest(path).parts["x"])


WRITERS = {
    "write_file": Writer(".bin", _bytes, lambda path: one(np.frombuffer(path.read_bytes(), np.uint8))),
    "save_weights npz": Writer(".npz", _weights, _read_weights),
    "save_weights safetensors": Writer(".safetensors", _weights, _read_weights),
    "write_idx": Writer(".idx", _idx, _read_idx),
    "checkpoint": Writer("", _checkpoint, _read_checkpoint),
    "write_array npy": Writer(".npy", _npy, lambda path: one(np.load(path))),
    "write_array png": Writer(".png", _png, _read_png),
    "write_picture": Writer(".png", _picture, _read_png),
    "caffe.save": Writer(".caffemodel", _caffemodel, _read_model),
    "save_model": Writer(".caffemodel", _save_model, _read_model),
    "caffe.write_net": Writer(".caffemodel", _write_net, _read_model),
    "caffe.write_net text": Writer(".prototxt", _write_net, _read_model),
    "caffe.write_mean": Writer(".binaryproto", _mean, _read_mean),
    "Net.save": Writer(".caffemodel", _face, _read_model),
    "Net.save_hdf5": Writer(".caffemodel.h5", _face_hdf5, _read_face_hdf5),
    "Solver.snapshot": Writer("_iter_3.caffemodel", _snapshot, _read_snapshot),
    "Solver.snapshot HDF5": Writer("_iter_3.caffemodel.h5", _snapshot, _read_snapshot),
    "draw_net_to_file": Writer(".svg", _net_picture, _read_net_picture),
    "onnx export.save": Writer(".onnx", _onnx, _read_model),
    "convert": Writer(".onnx", _convert, _read_model),
    "bench json": Writer(".json", pages.bench_json, pages.read_bench_json),
    "bench html": Writer(".html", pages.bench_html, pages.read_page(pages.html)),
    "bench markdown": Writer(".md", pages.bench_markdown, pages.read_page(pages.markdown)),
    "audit json": Writer(".json", pages.audit_json, lambda path: int(json.loads(path.read_text())["seed"])),
    "audit html": Writer(".html", pages.audit_html, pages.read_page(pages.audit_page)),
    "audit state": Writer(".json", pages.audit_state, pages.read_audit_state),
    "explain page": Writer(".html", pages.explain, pages.read_page(pages.explain_page)),
    "draw": Writer(".apng", pages.draw, pages.read_drawing),
    "stencils": Writer(".safetensors", _stencils, _read_stencils),
    "kernel cache": Writer("", _kernel, _read_kernel, synced=False),
    "tuning file": Writer(".json", _tuning, _read_tuning),
    "learn folder": Writer("", _folder, _read_folder),
}


def leftovers(folder: Path) -> list[str]:
    """Temporaries that lie in a folder."""
    return sorted(p.name for p in folder.iterdir() if "preimage-tmp" in p.name or p.name.startswith(".") or p.suffix == ".tmp")
