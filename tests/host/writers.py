"""Every function of the library that writes a file, in one table: what writes version 0 or 1 to a path, and what tells which one is there.

A new writer gets a row; tests make the n-th write, fsync and rename of each fail, and kill each at random moments.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import preimage as pre

#: Each version holds as many numbers as this: enough for several writes of a buffer.
SIZE = 70_000


class Writer(NamedTuple):
    """`write(path, version)`; `read(path)` gives the version, and raises for what is no whole file."""

    ending: str
    write: Callable[[Path, int], Any]
    read: Callable[[Path], int]


def _array(version: int) -> np.ndarray:
    return np.full(SIZE, float(version), np.float32)


def _one(values: Any) -> int:
    """The version of an array: all its numbers are the same."""
    numbers = np.unique(np.asarray(values))
    assert numbers.size == 1
    return int(numbers[0])


def _bytes(path: Path, version: int) -> None:
    from preimage.host import write_file

    write_file(path, bytes([version]) * 3_000_000)


def _weights(path: Path, version: int) -> None:
    from preimage.io.files import save_weights

    save_weights({"a": _array(version), "b": _array(version).astype(np.float64)}, path)


def _read_weights(path: Path) -> int:
    from preimage.io.files import load_weights

    return _one(np.concatenate([v.astype(np.float64) for v in load_weights(path).values()]))


def _npy(path: Path, version: int) -> None:
    from preimage.io.files import write_array

    write_array(_array(version), path)


def _png(path: Path, version: int) -> None:
    from preimage.io.files import write_array

    write_array(np.full((1, 3, 120, 140), float(version), np.float32), path)


def _read_png(path: Path) -> int:
    from preimage.io.pictures import read_picture

    return _one(read_picture(path).values)


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
    return _one(np.concatenate([a.reshape(-1) for a in stored]))


def _write_net(path: Path, version: int) -> None:
    from preimage.io import caffe

    caffe.write_net(_net(version, 2 if path.suffix == ".prototxt" else 200).to_message(), path)


def _mean(path: Path, version: int) -> None:
    from preimage.io import caffe

    caffe.write_mean(path, np.full((3, 100, 90), float(version), np.float32))


def _read_mean(path: Path) -> int:
    from preimage.io import caffe

    return _one(caffe.read_mean(path))


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


def _snapshot(path: Path, version: int) -> None:
    """Solver.snapshot chooses the name: PREFIX_iter_N.caffemodel, here the path of the table."""
    from preimage import caffe

    class Plain(caffe.Solver):
        def __init__(self) -> None:
            self.net, self.iter = _Face.net(version), 3
            self.history: dict[str, Any] = {}
            self.param = type("P", (), {"snapshot_prefix": str(path).removesuffix("_iter_3.caffemodel")})()

    Plain().snapshot()


@cache
def _graph(version: int) -> Any:
    from preimage.io.trace import trace

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


def _run(version: int) -> Any:
    from preimage.bench import Row, Run

    rows = [
        Row(f"layer{k}", "conv", "core", str(version), "forward", "conv", "float32", 1, name, "channels_last", 9, 9, 9, (1, 1), [2.0 + version])
        for k in range(100) for name in ("jit", "torch")
    ]  # fmt: skip
    machine = {"cpu": "c", "target": "t", "system": "s", "denormals": "kept", "versions": {"numpy": "2"}, "affinity": [0]}
    memory = {"dtype": "float32", "threads": 1, "peak_gflops": 9.0, "peaks": [9.0], "how": "", "memory_gbytes": {"1024": 5.0}}
    return Run(machine, {}, [memory], rows)


def _bench_json(path: Path, version: int) -> None:
    _run(version).save(path)


def _read_bench_json(path: Path) -> int:
    from preimage.bench import Run

    return _one([int(row.label) for row in Run.load(path).rows])


def _bench_html(path: Path, version: int) -> None:
    from preimage.report.bench import write_html

    write_html(_run(version), path)


def _bench_markdown(path: Path, version: int) -> None:
    from preimage.report.bench_markdown import write_markdown

    write_markdown(_run(version), path)


def _read_page(end: str, write: Callable[[Any], str]) -> Callable[[Path], int]:
    @cache
    def wanted(version: int) -> str:
        return write(_run(version))

    def read(path: Path) -> int:
        text = path.read_text()
        assert text.endswith(end)
        return [wanted(0), wanted(1)].index(text)

    return read


def _html(run: Any) -> str:
    from preimage.report.bench import render

    return render(run)


def _markdown(run: Any) -> str:
    from preimage.report.bench_markdown import markdown

    return markdown(run)


def _tuning(path: Path, version: int) -> None:
    from preimage.engines.jit import autotune

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREIMAGE_TUNING", str(path))
        autotune.save({f"key {k}": (16, 1, version) for k in range(2000)})


def _read_tuning(path: Path) -> int:
    tiles = json.loads(path.read_text())["tiles"]
    assert len(tiles) == 2000
    return _one([tile[2] for tile in tiles.values()])


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
    return _one([_one(json.loads((path / name).read_text())) for name in names])


WRITERS = {
    "write_file": Writer(".bin", _bytes, lambda path: _one(np.frombuffer(path.read_bytes(), np.uint8))),
    "save_weights npz": Writer(".npz", _weights, _read_weights),
    "save_weights safetensors": Writer(".safetensors", _weights, _read_weights),
    "write_array npy": Writer(".npy", _npy, lambda path: _one(np.load(path))),
    "write_array png": Writer(".png", _png, _read_png),
    "write_picture": Writer(".png", _picture, _read_png),
    "caffe.save": Writer(".caffemodel", _caffemodel, _read_model),
    "save_model": Writer(".caffemodel", _save_model, _read_model),
    "caffe.write_net": Writer(".caffemodel", _write_net, _read_model),
    "caffe.write_net text": Writer(".prototxt", _write_net, _read_model),
    "caffe.write_mean": Writer(".binaryproto", _mean, _read_mean),
    "Net.save": Writer(".caffemodel", _face, _read_model),
    "Solver.snapshot": Writer("_iter_3.caffemodel", _snapshot, _read_model),
    "onnx export.save": Writer(".onnx", _onnx, _read_model),
    "convert": Writer(".onnx", _convert, _read_model),
    "bench json": Writer(".json", _bench_json, _read_bench_json),
    "bench html": Writer(".html", _bench_html, _read_page("</html>\n", _html)),
    "bench markdown": Writer(".md", _bench_markdown, _read_page("\n", _markdown)),
    "tuning file": Writer(".json", _tuning, _read_tuning),
    "learn folder": Writer("", _folder, _read_folder),
}


def leftovers(folder: Path) -> list[str]:
    """Temporaries that lie in a folder."""
    return sorted(p.name for p in folder.iterdir() if "preimage-tmp" in p.name or p.name.startswith(".") or p.suffix == ".tmp")
