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
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
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

SETTLE = 0.06  # seconds in which another library's threads come to rest


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


def onnxruntime(path: Path, x: np.ndarray, threads: int) -> Callable[[], Any] | None:
    """A run of the file; None where onnxruntime is not installed or does not take it."""
    try:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        key = session.get_inputs()[0].name
        session.run(None, {key: x})
    except Exception as error:  # its own errors derive from nothing else
        print(f"onnxruntime: {error}", file=sys.stderr)
        return None
    return lambda: session.run(None, {key: x})


def measure(net: Any, x: np.ndarray, path: Path, threads: int, given: argparse.Namespace) -> str:
    """The cells of a row."""
    graphs = {accuracy: pre.optimise(net, example=x, accuracy=accuracy) for accuracy in ("exact", "fast")}  # type: ignore[arg-type]
    clock = time.thread_time_ns if given.cpu else time.perf_counter_ns
    with pre.no_grad(), pre.config(threads=threads):
        runs: dict[str, Callable[[], Any]] = {
            accuracy: lambda graph=graph: graph.run({graph.inputs[0].name: x})  # type: ignore[misc]
            for accuracy, graph in graphs.items()
        }
        peer = onnxruntime(path, x, threads)
        if peer is not None:
            runs["onnxruntime"] = peer
        wanted, found = (runs[accuracy]() for accuracy in ("exact", "fast"))
        pairs = [(np.asarray(found[key]), np.asarray(wanted[key])) for key in wanted]
        off = max(float(np.abs(a - b).max() / max(np.ptp(b), 1e-30)) for a, b in pairs if b.dtype.kind == "f")
        times: dict[str, list[int]] = {name: [] for name in runs}
        for number in range(given.rounds + 1):  # the first is not counted: programs are recorded
            for name, run in runs.items():
                time.sleep(SETTLE if threads > 1 else 0)
                run()
                start = clock()
                run()
                if number:
                    times[name].append(clock() - start)
        fast = np.array(times["fast"])
        ratios = {name: float(np.median(np.array(t) / fast)) for name, t in times.items()}
        ort = f"{ratios['onnxruntime']:.2f}" if peer is not None else ""
        return f"{np.median(fast) / 1e6:.1f} | {ratios['exact']:.2f} | {ort} | {off:.1e} | {tiled(graphs['fast'], x)}"


def main() -> None:
    """Print a row for every net and number of threads."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("files", nargs="*")
    options.add_argument("--nets", default=",".join(NETS))
    options.add_argument("--threads", default="1")
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--cpu", action="store_true")
    given = options.parse_args()
    print(
        "| net | threads | ms | exact / fast | onnxruntime / fast | difference | what is computed by tiles |\n|---|---|---|---|---|---|---|"
    )
    for threads in map(int, given.threads.split(",")):
        for name, net, x, path in subjects([n for n in given.nets.split(",") if n], given.files):
            print(f"| {name} | {threads} | {measure(net, x, path, threads, given)} |", flush=True)


if __name__ == "__main__":
    main()
