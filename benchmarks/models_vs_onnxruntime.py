"""Whole models, ours beside onnxruntime: same threads, one run, interleaved; medians of the paired ratios.

    python benchmarks/models_vs_onnxruntime.py [--threads 1,2] [--rounds 15] [--json FILE]
        [--openvino PYTHON] [--torch PYTHON]        # interpreters that have openvino, or torch and onnx2torch

Needs the models (`make models`) and onnxruntime. Answers are compared before the clock runs. Every time is that of a second run: with
more than one thread there is a pause first, because other libraries' workers spin after a call (onnxruntime's for 40 ms) on the
CPUs that the next contestant wants, and then a run that is not timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from contestants import Process, clock_of, interleaved, median_ms, once, onnxruntime_call, ratios, thread_counts

import preimage as pre
from preimage.io import onnx as onnx_io
from preimage.io.graph import optimise

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "io"))
from models import place
from test_onnx import opened, page, vocoder

HERE = Path(__file__).parent


def subjects() -> dict[str, tuple[onnx.ModelProto, np.ndarray]]:
    """Each model with its input: CenterFace at 512x512, DBNet at 640x640, the classifier at 48x192, the vocoder at T = 200; batch 1."""
    from skimage import data

    face = np.ascontiguousarray(data.astronaut().transpose(2, 0, 1)[None]).astype(np.float32)
    latent = np.random.default_rng(0).standard_normal((1, 192, 200)).astype(np.float32)
    line = np.random.default_rng(1).random((1, 3, 48, 192), np.float32)
    return {
        "CenterFace 512x512": (opened("centerface"), face),
        "DBNet 640x640": (onnx.load(place("dbnet")), page(640, 640)),
        "classifier 48x192": (opened("classifier"), line),
        "vocoder T=200": (vocoder(Path(tempfile.mkdtemp())), latent),
    }


def with_constant_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its stored weights no longer among its inputs, where every library takes them for constants."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    inputs = [each for each in proto.graph.input if each.name not in stored]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return proto


class Side(Process):
    """Another library (models_side.py)."""

    def __init__(self, name: str, python: str, proto: onnx.ModelProto, x: np.ndarray, threads: int) -> None:
        folder = Path(tempfile.mkdtemp())
        onnx.save(proto, folder / "model.onnx")
        np.save(folder / "input.npy", x)
        files = [str(folder / each) for each in ("model.onnx", "input.npy")]
        command = [python, str(HERE / "models_side.py"), name, *files, str(threads), str(folder / "answers.npz")]
        super().__init__(command)
        with np.load(folder / "answers.npz") as found:
            self.answers = [found[key] for key in found.files]


def difference(found: list[Any], wanted: list[Any]) -> float:
    """The largest, in parts of each output's range."""
    return max(float(np.abs(np.asarray(a) - b).max() / np.ptp(b)) for a, b in zip(found, wanted, strict=True))


def measure(
    proto: onnx.ModelProto, x: np.ndarray, threads: int, rounds: int, sides: dict[str, str]
) -> dict[str, dict[str, float]]:
    """For every contestant: its median time, quartiles of the paired ratios time(contestant) / time(ours), and how far its answers
    are from onnxruntime's."""
    net = optimise(onnx_io.load(proto))
    key = net.inputs[0].name
    peer = onnxruntime_call(proto.SerializeToString(), {key: x}, threads)
    others: dict[str, Side] = {}
    for name, python in sides.items():
        try:
            others[name] = Side(name, python, proto, x, threads)
        except RuntimeError as error:
            print(f"{name} cannot run this model: {error}", file=sys.stderr)
    with pre.no_grad(), pre.config(threads=threads):
        want = peer()
        first = net.run({key: x})
        off = {"preimage": difference([first[name] for name in net.outputs], want), "onnxruntime": 0.0}
        off |= {name: difference(side.answers, want) for name, side in others.items()}
        net.run({key: x})
        clock = clock_of(cpu=False)
        turns: dict[str, Callable[[], float]] = {
            "onnxruntime": once(peer, clock), "preimage": once(lambda: net.run({key: x}), clock), **others,
        }  # fmt: skip
        times = interleaved(turns, rounds=rounds, threads=threads)
    for side in others.values():
        side.close()
    rows = {}
    for name in turns:
        low, middle, high = np.percentile(ratios(times, name, "preimage"), [25, 50, 75])
        rows[name] = {
            "ms": median_ms(times[name]), "ratio": float(middle), "ratio_q1": float(low), "ratio_q3": float(high),
            "largest_difference": off[name],
        }  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", default="", help="only models whose names hold this")
    parser.add_argument("--openvino", help="an interpreter that has openvino")
    parser.add_argument("--torch", help="an interpreter that has torch and onnx2torch")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sides = {name: python for name in ("openvino", "torch") if (python := getattr(options, name))}
    rows = []
    print("| model | threads | library | ms | time / ours (quartiles) | difference |\n|---|---|---|---|---|---|")
    for name, (proto, x) in subjects().items():
        if options.models not in name:
            continue
        proto = with_constant_weights(proto)
        for threads in thread_counts(options.threads):
            for library, row in measure(proto, x, threads, options.rounds, sides).items():
                rows.append({"model": name, "threads": threads, "library": library, **row})
                ratio = "" if library == "preimage" else f"{row['ratio']:.2f} ({row['ratio_q1']:.2f} to {row['ratio_q3']:.2f})"
                print(
                    f"| {name} | {threads} | {library} | {row['ms']:.1f} | {ratio} | {row['largest_difference']:.1e} |",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
