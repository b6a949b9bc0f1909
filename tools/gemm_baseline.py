"""gemm beside torch over the core tier of the benchmark suite: forward and both gradients, interleaved, answers compared.

    python tools/gemm_baseline.py SUITE.json [--threads 1] [--rounds 3] [--seconds 50] > table.md

Both libraries are given both layouts and the better one counts. The time is the median over the rounds; in a round every contestant
has one call after one that is not timed. Layers that do not fit into --seconds are left out, and counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from math import exp, log
from pathlib import Path
from statistics import median

import numpy as np
import torch

import preimage as pre
from preimage.engines import get
from preimage.geometry import ConvGeometry

PASSES = ("forward", "grad_input", "grad_weight")


def geometry_of(case: dict) -> ConvGeometry:
    options = {"stride": case["stride"], "padding": case["padding"], "dilation": case["dilation"], "groups": case["groups"]}
    shape, groups = (case["batch"], case["in_channels"], *case["input"]), case["groups"]
    if case["kind"] == "conv":
        return ConvGeometry.from_conv(shape, (case["out_channels"], case["in_channels"] // groups, *case["kernel"]), **options)
    weight = (case["in_channels"], case["out_channels"] // groups, *case["kernel"])
    return ConvGeometry.from_conv_transpose(shape, weight, output_padding=case["output_padding"], **options)


def last(a: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def torch_call(case: dict, which: str, x, w, g):
    """One pass as torch runs it, for tensors of either memory order; layers with unequal padding are left out."""
    n = case["ndim"]
    padding = [lo for lo, _ in case["padding"]]
    deconv = case["kind"] == "deconv"
    extra = case["output_padding"] if deconv else [0] * n
    if which == "forward":
        return lambda: torch.convolution(x, w, None, case["stride"], padding, case["dilation"], deconv, extra, case["groups"])
    mask = [which == "grad_input", which == "grad_weight", False]
    take = 0 if mask[0] else 1
    return lambda: torch.ops.aten.convolution_backward(
        g, x, w, None, case["stride"], padding, case["dilation"], deconv, extra, case["groups"], mask
    )[take]


def ours_call(engine, g: ConvGeometry, deconv: bool, which: str, large, w, small):
    if which == "grad_weight":
        return lambda: engine.conv_weight_grad(g, large, small)
    if (which == "forward") != deconv:
        return lambda: engine.conv(g, large, w)
    return lambda: engine.conv_transpose(g, small, w)


def measure(case: dict, which: str, rounds: int) -> tuple[float, float, str, str]:
    """(ms of gemm, ms of torch, better layout of each)."""
    g, deconv = geometry_of(case), case["kind"] == "deconv"
    numbers = np.random.default_rng(0)
    large, w, small = (
        numbers.integers(-2, 3, s).astype(np.float32) for s in (g.input_shape, g.weight_shape, g.output_shape)
    )  # fmt: skip
    calls = {}
    for layout in ("first", "last"):
        a, b = (large, small) if layout == "first" else (last(large), last(small))
        calls["gemm", layout] = ours_call(get("gemm"), g, deconv, which, a, w, b)
        x, grad = (torch.from_numpy(v) for v in ((b, a) if deconv else (a, b)))
        calls["torch", layout] = torch_call(case, which, x, torch.from_numpy(w), grad)
    answers = {key: np.asarray(call()) for key, call in calls.items()}  # also the calls that are not timed
    reference = answers["gemm", "first"]
    assert all(np.array_equal(a, reference) for a in answers.values()), (case["name"], which)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            times[key].append(time.perf_counter() - start)
    best = {}
    for library in ("gemm", "torch"):
        best[library] = min((median(times[library, layout]) * 1e3, layout) for layout in ("first", "last"))
    return best["gemm"][0], best["torch"][0], best["gemm"][1], best["torch"][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=50)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    core = [c for c in json.loads(options.suite.read_text())["cases"] if c.get("tier") == "core"]
    cases = [c for c in core if all(lo == hi for lo, hi in c["padding"])]  # torch has no unequal padding in one call
    rows, left_out, start = [], 0, time.monotonic()
    with pre.config(engine="gemm", threads=options.threads), torch.no_grad():
        for case in cases:
            for which in PASSES:
                if time.monotonic() - start > options.seconds:
                    left_out += 1
                    continue
                ours, theirs, a, b = measure(case, which, options.rounds)
                flop = geometry_of(case).work_flop
                rows.append((theirs / ours, case["name"], which, flop / ours / 1e6, flop / theirs / 1e6, a, b, case["kind"]))
    mean = lambda chosen: exp(sum(log(r[0]) for r in chosen) / len(chosen)) if chosen else float("nan")  # noqa: E731
    print(
        f"numpy {np.__version__}, torch {torch.__version__}, {platform.machine()}, {options.threads} thread(s), {options.rounds} rounds,"
    )
    print(f"median; {len(rows)} cells, {left_out} left out for time, {3 * (len(core) - len(cases))} for unequal padding.")
    print("Ratio = time of torch / time of gemm, best layout of each.\n")
    print("| geometric mean of the ratio | cells | mean | worst |\n|---|---|---|---|")
    for which in PASSES:
        chosen = [r for r in rows if r[2] == which]
        print(f"| {which} | {len(chosen)} | {mean(chosen):.2f} | {min((r[0] for r in chosen), default=0):.2f} |")
    chosen = [r for r in rows if r[2] == "forward" and r[7] == "deconv"]
    print(f"| deconvolutions, forward | {len(chosen)} | {mean(chosen):.2f} | {min((r[0] for r in chosen), default=0):.2f} |")
    print("\n| layer | pass | gemm GFLOP/s | torch GFLOP/s | ratio | layouts |\n|---|---|---|---|---|---|")
    for ratio, name, which, ours, theirs, a, b, _ in sorted(rows):
        print(f"| {name} | {which} | {ours:.1f} | {theirs:.1f} | {ratio:.2f} | {a}, {b} |")
    if left_out:
        print(f"{left_out} cells were left out", file=sys.stderr)


if __name__ == "__main__":
    main()
