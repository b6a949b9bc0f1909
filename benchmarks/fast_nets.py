"""Whole nets with accuracy="fast" beside the exact path and onnxruntime, interleaved; medians of the paired ratios. Batch 1, float32.

    python benchmarks/fast_nets.py [--threads 1,2] [--rounds 9] [--cpu] [--nets unet,resnet18] [MODEL.onnx=1,3,512,512 ...]

Nets: U-Nets of 32 to 128 and of 64 to 512 channels, UpConv7 (super-resolution) and ResNet-18, with random weights, and model files with the
size of their input. Answers are compared first: the largest difference between fast and exact, in parts of an output's range. Also said: how many
contractions are computed by tiles, and their share of the work. --cpu: the CPU time of one thread, on a machine with other work.
"""

from __future__ import annotations

import argparse
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
from contestants import Call, clock_of, interleaved, median_ms, once, onnxruntime_call, ratios, thread_counts, timing_options


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
        yield Path(file).name, pre.load_model(file, open_sizes=True), x, Path(file)


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


def measure(net: Any, x: np.ndarray, path: Path, threads: int, given: argparse.Namespace) -> str:
    """The cells of a row."""
    graphs = {accuracy: pre.optimise(net, example=x, accuracy=accuracy) for accuracy in ("exact", "fast")}  # type: ignore[arg-type]
    with pre.no_grad(), pre.config(threads=threads):
        runs: dict[str, Call] = {
            accuracy: lambda graph=graph: graph.run({graph.inputs[0].name: x})  # type: ignore[misc]
            for accuracy, graph in graphs.items()
        }
        peer = onnxruntime(path, graphs["exact"].inputs[0].name, x, threads)
        if peer is not None:
            runs["onnxruntime"] = peer
        wanted, found = (runs[accuracy]() for accuracy in ("exact", "fast"))
        pairs = [(np.asarray(found[key]), np.asarray(wanted[key])) for key in wanted]
        off = max(float(np.abs(a - b).max() / max(np.ptp(b), 1e-30)) for a, b in pairs if b.dtype.kind == "f")
        turns = {name: once(run, clock_of(given.cpu)) for name, run in runs.items()}
        times = interleaved(turns, rounds=given.rounds, threads=threads, uncounted=1)  # in the first, programs are recorded
        slower = {name: median(ratios(times, name, "fast")) for name in runs}
        ort = f"{slower['onnxruntime']:.2f}" if peer is not None else ""
        return f"{median_ms(times['fast']):.1f} | {slower['exact']:.2f} | {ort} | {off:.1e} | {tiled(graphs['fast'], x)}"


def main() -> None:
    """Print a row for every net and number of threads."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("files", nargs="*")
    options.add_argument("--nets", default=",".join(NETS))
    timing_options(options)
    given = options.parse_args()
    print(
        "| net | threads | ms | exact / fast | onnxruntime / fast | difference | what is computed by tiles |\n|---|---|---|---|---|---|---|"
    )
    for threads in thread_counts(given.threads):
        for name, net, x, path in subjects([n for n in given.nets.split(",") if n], given.files):
            print(f"| {name} | {threads} | {measure(net, x, path, threads, given)} |", flush=True)


if __name__ == "__main__":
    main()
