"""Whole models, ours beside onnxruntime: same threads, one run, interleaved; medians of the paired ratios.

    python benchmarks/models_vs_onnxruntime.py [--threads 1,2] [--rounds 15] [--json FILE]

Needs the models (`make models`) and onnxruntime. Answers are compared before the clock runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

import preimage as pre
from preimage.io import onnx as onnx_io
from preimage.io.graph_passes import optimise

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "io"))
from models import place
from test_onnx import opened, page, vocoder

#: Seconds before a timed call: the workers of the other library still spin after theirs, on the CPU that is wanted now.
SETTLE = 0.02


def subjects() -> dict[str, tuple[onnx.ModelProto, np.ndarray]]:
    """Each model with its input: CenterFace at 512x512, DBNet at 640x640, the vocoder at T = 200; batch 1."""
    from skimage import data

    face = np.ascontiguousarray(data.astronaut().transpose(2, 0, 1)[None]).astype(np.float32)
    latent = np.random.default_rng(0).standard_normal((1, 192, 200)).astype(np.float32)
    return {
        "CenterFace 512x512": (opened("centerface"), face),
        "DBNet 640x640": (onnx.load(place("dbnet")), page(640, 640)),
        "vocoder T=200": (vocoder(Path(tempfile.mkdtemp())), latent),
    }


def measure(proto: onnx.ModelProto, x: np.ndarray, threads: int, rounds: int) -> dict[str, float]:
    """Median times of both, and quartiles of the paired ratios time(onnxruntime) / time(ours)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    net = optimise(onnx_io.load(proto))
    key = net.inputs[0].name
    with pre.no_grad(), pre.config(threads=threads):
        want, got = session.run(None, {key: x}), net.run({key: x})
        worst = max(
            float(np.abs(np.asarray(got[name]) - value).max() / np.ptp(value))
            for name, value in zip(net.outputs, want, strict=True)
        )
        theirs, ours = [], []
        for _ in range(rounds):
            for times, call in ((theirs, lambda: session.run(None, {key: x})), (ours, lambda: net.run({key: x}))):
                time.sleep(SETTLE if threads > 1 else 0)
                start = time.perf_counter_ns()
                call()
                times.append(time.perf_counter_ns() - start)
    low, middle, high = np.percentile(np.array(theirs) / np.array(ours), [25, 50, 75])
    return {
        "onnxruntime_ms": float(np.median(theirs)) / 1e6, "ours_ms": float(np.median(ours)) / 1e6,
        "ratio": float(middle), "ratio_q1": float(low), "ratio_q3": float(high), "largest_difference": worst,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print("| model | threads | onnxruntime ms | ours ms | ratio (quartiles) | difference |\n|---|---|---|---|---|---|")
    for name, (proto, x) in subjects().items():
        for threads in (int(t) for t in options.threads.split(",")):
            row = measure(proto, x, threads, options.rounds)
            rows.append({"model": name, "threads": threads, **row})
            print(
                f"| {name} | {threads} | {row['onnxruntime_ms']:.1f} | {row['ours_ms']:.1f} | {row['ratio']:.2f}"
                f" ({row['ratio_q1']:.2f} to {row['ratio_q3']:.2f}) | {row['largest_difference']:.1e} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
