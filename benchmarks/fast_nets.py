"""Whole nets with accuracy="fast" beside the exact path and other libraries, interleaved; medians of the paired ratios. Batch 1, float32.

    python benchmarks/fast_nets.py [--threads 1,2] [--rounds 9] [--cpu] [--nets unet,resnet18] [--python openvino=PYTHON ncnn=PYTHON]
        [--pnnx PNNX] [MODEL.onnx=1,3,512,512 ...]

Nets: U-Nets of 32 to 128 and of 64 to 512 channels, UpConv7 (super-resolution) and ResNet-18, with random weights, and model files with the
size of their input. Answers are compared first: the largest difference between fast and exact, in parts of an output's range. Also said: how many
contractions are computed by tiles, and their share of the work. --python: interpreters that have OpenVINO or ncnn; ncnn takes what PNNX, the
program of that name, makes of the model. A peer that does not take a model, or gives other answers, has no ratio. --cpu: the CPU time of one
thread, on a machine with other work; without peers in processes of their own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import preimage as pre
from preimage import nn
from preimage.io.graph import Graph
from preimage.io.inspection import inspect_model

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).parent))
import training_nets
import unet
from contestants import (
    Call,
    Process,
    clock_of,
    interleaved,
    median_ms,
    once,
    onnxruntime_call,
    ratios,
    thread_counts,
    timing_options,
)


def upconv7() -> nn.Module:
    """UpConv7 of waifu2x: six convolutions without padding, one transposed."""
    channels = [3, 16, 32, 64, 128, 128, 256]
    layers: list[nn.Module] = []
    for i, o in pairwise(channels):
        layers += [nn.Conv2d(i, o, 3), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(256, 3, 4, stride=2, padding=3))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "unet": (lambda: training_nets.unet(training_nets.OURS), (1, 3, 256, 256)),
    "unet64": (lambda: unet.UNet((64, 128, 256, 512)), (1, 1, 256, 256)),
    "upconv7": (upconv7, (1, 3, 142, 142)),
    "resnet18": (lambda: training_nets.resnet18(training_nets.OURS), (1, 3, 224, 224)),
}


def subjects(names: list[str], files: list[str]) -> Iterator[tuple[str, Any, np.ndarray, Path]]:
    """Name, net, input, and the net as an ONNX file."""
    rng = np.random.default_rng(0)
    folder = Path(tempfile.mkdtemp())
    for name in names:
        make, shape = NETS[name]
        x = rng.standard_normal(shape).astype(np.float32)
        net = make().eval()
        pre.save_model(net, folder / f"{name}.onnx", example=x)
        yield name, net, x, folder / f"{name}.onnx"
    for given in files:
        file, _, sizes = given.rpartition("=")
        x = rng.random(tuple(map(int, sizes.split(","))), np.float32)
        net = pre.load_model(file, open_sizes=True)
        pre.save_model(net, folder / Path(file).name, example=x)  # of this size: some files name another, which peers insist on
        yield Path(file).name, net, x, folder / Path(file).name


def tiled(graph: Graph, x: np.ndarray) -> str:
    """How many of the graph's contractions are computed by tiles, and their share of the multiply-adds."""
    layers = [layer for layer in inspect_model(graph, {graph.inputs[0].name: x}).layers if layer.work_flop]
    some = [layer for layer in layers if "Winograd" in layer.schedule]
    share = sum(layer.work_flop for layer in some) / sum(layer.work_flop for layer in layers)
    return f"{len(some)} of {len(layers)} by tiles, {share:.0%} of the work"


def onnxruntime(path: Path, key: str, x: np.ndarray, threads: int) -> Call | None:
    """A run of the file; None where onnxruntime is not installed or does not take it."""
    try:
        call = onnxruntime_call(str(path), {key: x}, threads)
        call()
    except Exception as error:  # its own errors derive from nothing else
        print(f"onnxruntime: {error}", file=sys.stderr)
        return None
    return call


def peer(name: str, python: str, path: Path, x: np.ndarray, threads: int, wanted: list[np.ndarray]) -> Process | None:
    """Another library in a process of its own; None where it does not take the model, or gives other answers."""
    folder = Path(tempfile.mkdtemp())
    np.save(folder / "x.npy", x)
    side = [
        python,
        Path(__file__).with_name("models_side.py"),
        name,
        path,
        folder / "x.npy",
        str(threads),
        folder / "answers.npz",
    ]
    try:
        process = Process(side)
    except RuntimeError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None
    found = np.load(folder / "answers.npz")
    for value, answer in zip(wanted, found.values(), strict=False):
        off = np.abs(value.ravel() - answer.ravel()).max() / max(np.ptp(value), 1e-30) if value.size == answer.size else np.inf
        if not off < 1e-2:
            print(f"{name}: another answer to {path.name}, off by {off:.1e} of its range", file=sys.stderr)
            process.close()
            return None
    return process


def convert(pnnx: str, path: Path, x: np.ndarray) -> Path:
    """A copy of the model in a folder of its own, with ncnn's files beside it."""
    copy = Path(tempfile.mkdtemp()) / path.name
    copy.write_bytes(path.read_bytes())
    shape = ",".join(map(str, x.shape))
    subprocess.run([pnnx, copy, f"inputshape=[{shape}]f32", "fp16=0"], cwd=copy.parent, capture_output=True, check=False)
    return copy


def measure(net: Any, x: np.ndarray, path: Path, threads: int, given: argparse.Namespace) -> str:
    """The cells of a row."""
    graphs = {accuracy: pre.optimise(net, example=x, accuracy=accuracy) for accuracy in ("exact", "fast")}  # type: ignore[arg-type]
    with pre.no_grad(), pre.config(threads=threads):
        runs: dict[str, Call] = {
            accuracy: lambda graph=graph: graph.run({graph.inputs[0].name: x})  # type: ignore[misc]
            for accuracy, graph in graphs.items()
        }
        ort = onnxruntime(path, graphs["exact"].inputs[0].name, x, threads)
        if ort is not None:
            runs["onnxruntime"] = ort
        wanted, found = (runs[accuracy]() for accuracy in ("exact", "fast"))
        pairs = [(np.asarray(found[key]), np.asarray(wanted[key])) for key in wanted]
        off = max(float(np.abs(a - b).max() / max(np.ptp(b), 1e-30)) for a, b in pairs if b.dtype.kind == "f")
        turns: dict[str, Callable[[], float]] = {name: once(run, clock_of(given.cpu)) for name, run in runs.items()}
        sides = {}
        for name, python in given.peers.items():
            file = convert(given.pnnx, path, x) if name == "ncnn" else path
            side = None if given.cpu else peer(name, python, file, x, threads, [np.asarray(value) for value in wanted.values()])
            if side is not None:
                turns[name] = sides[name] = side
        times = interleaved(turns, rounds=given.rounds, threads=threads, uncounted=1)  # in the first, programs are recorded
        for side in sides.values():
            side.close()
        slower = {name: f"{median(ratios(times, name, 'fast')):.2f}" for name in turns}
        cells = " | ".join(slower.get(name, "") for name in ("exact", "onnxruntime", "openvino", "ncnn"))
        return f"{median_ms(times['fast']):.1f} | {cells} | {off:.1e} | {tiled(graphs['fast'], x)}"


def main() -> None:
    """Print a row for every net and number of threads."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("files", nargs="*")
    options.add_argument("--nets", default=",".join(NETS))
    options.add_argument("--python", nargs="*", default=[], help="openvino=PYTHON, ncnn=PYTHON")
    options.add_argument("--pnnx", default="pnnx")
    timing_options(options)
    given = options.parse_args()
    given.peers = dict(each.split("=", 1) for each in given.python)
    head = ["net", "threads", "ms", *(f"{name} / fast" for name in ("exact", "onnxruntime", "openvino", "ncnn"))]
    head += ["difference", "what is computed by tiles"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for threads in thread_counts(given.threads):
        for name, net, x, path in subjects([n for n in given.nets.split(",") if n], given.files):
            print(f"| {name} | {threads} | {measure(net, x, path, threads, given)} |", flush=True)


if __name__ == "__main__":
    main()
