"""Matrix products: ours, NumPy's (OpenBLAS) and torch's over 30 shapes, in interleaved bursts, the losing rows first.

    python benchmarks/products.py [--threads 1,2] [--rounds 15] [--only WORD] [--cpu] [--markdown FILE]

Every answer is checked before its clock runs. In a round each contestant has one turn, and the order turns with the rounds: a call that is
not timed, then as many timed ones as fill the turn. A row's ratios are medians over rounds of time(peer) / time(ours); above 1 ours is
faster. With several threads a turn begins after a sleep in which the idle workers of the one before stop spinning.
--cpu: by the time of the calling thread's CPU instead of the clock's, for one thread on a machine that others use.

Set OPENBLAS_CORETYPE yourself where OpenBLAS takes a CPU for an older one than it is.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from math import exp, log, prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from contestants import Call, Clock, Times, clock_of, interleaved, ratios, repeated, set_threads, thread_counts, timing_options

import preimage as pre
from preimage import ops

TURN_NS = 2e6

#: name, shape of A, shape of B; "T": B is the transposed view of a matrix that lies by rows, "A": A is;
#: "layer": the same as T by the functions for layers, ours with weights that were packed before, as nn.Linear keeps them.
SHAPES = [
    *[(f"square {n}", (n, n), (n, n), "") for n in (64, 96, 128, 256, 384, 512, 1024, 2048)],
    ("tall", (16384, 64), (64, 64), ""), ("tall, few columns", (4096, 256), (256, 16), ""),
    ("wide", (64, 64), (64, 16384), ""), ("wide, few rows", (16, 256), (256, 4096), ""),
    ("inner axis 1", (512, 1), (1, 512), ""), ("inner axis 8", (512, 8), (8, 512), ""), ("inner axis 32", (512, 32), (32, 512), ""),
    ("inner axis 2048", (128, 2048), (2048, 128), ""), ("inner axis 8192", (64, 8192), (8192, 64), ""),
    ("batch of 512, 8 x 8", (512, 8, 8), (512, 8, 8), ""), ("batch of 256, 16 x 16", (256, 16, 16), (256, 16, 16), ""),
    ("batch of 128, 32 x 32", (128, 32, 32), (128, 32, 32), ""), ("attention, Q K^T", (16, 128, 64), (16, 64, 128), "T"),
    ("attention, weights V", (16, 128, 128), (16, 128, 64), ""),
    ("vector times matrix 512", (1, 512), (512, 512), ""), ("vector times matrix 4096", (1, 4096), (4096, 4096), ""),
    ("matrix times vector 512", (512, 512), (512, 1), ""), ("matrix times vector 4096", (4096, 4096), (4096, 1), ""),
    ("layer, batch of 1", (1, 1024), (1024, 1000), "layer"), ("layer, batch of 8", (8, 1024), (1024, 1000), "layer"),
    ("layer, batch of 64", (64, 1024), (1024, 1000), "layer"), ("gradient of a layer's weights, A^T B", (256, 512), (512, 256), "A"),
]  # fmt: skip


def operands(a_shape: tuple[int, ...], b_shape: tuple[int, ...], view: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)

    def made(shape: tuple[int, ...], turned: bool) -> Any:
        if not turned:
            return rng.standard_normal(shape).astype(np.float32)
        return rng.standard_normal((*shape[:-2], shape[-1], shape[-2])).astype(np.float32).swapaxes(-1, -2)

    return made(a_shape, view == "A"), made(b_shape, view in ("T", "layer"))


def contestants(a: Any, b: Any, view: str) -> dict[str, Call]:
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    if view == "layer":
        packed, weight = pre.prepare(b.T), y.T
        return {
            "ours": lambda: ops.linear(a, packed), "NumPy": lambda: np.matmul(a, b),
            "torch": lambda: torch.nn.functional.linear(x, weight),
        }  # fmt: skip
    return {"ours": lambda: ops.matmul(a, b), "NumPy": lambda: np.matmul(a, b), "torch": lambda: torch.matmul(x, y)}


def row(calls: dict[str, Call], rounds: int, threads: int, clock: Clock) -> Times:
    """Times of the contestants in ns, by round."""
    answers = {name: np.asarray(call()) for name, call in calls.items()}
    for name, answer in answers.items():
        off = np.abs(answer - answers["NumPy"]).max()
        assert off <= 1e-3 * max(1.0, np.abs(answers["NumPy"]).max()), f"{name} differs by {off}"
    begin = time.perf_counter_ns()
    calls["NumPy"]()
    repeats = max(1, min(2000, int(TURN_NS / max(1, time.perf_counter_ns() - begin))))
    turns = {name: repeated(call, clock, repeats) for name, call in calls.items()}
    return interleaved(turns, rounds=rounds, threads=threads)


def measure(threads: int, rounds: int, only: str, clock: Clock) -> list[str]:
    set_threads(threads)
    found = []
    with pre.config(threads=threads):
        for name, a_shape, b_shape, view in SHAPES:
            if only not in name:
                continue
            a, b = operands(a_shape, b_shape, view)
            times = row(contestants(a, b, view), rounds, threads, clock)
            flop = 2 * prod(a_shape) * b_shape[-1]
            slower = [median(ratios(times, peer, "ours")) for peer in ("NumPy", "torch")]
            ours = median(times["ours"])
            found.append((min(slower), name, threads, ours, flop / ours, slower))
            print(f"{name}: {slower[0]:.2f} {slower[1]:.2f}", flush=True)
    lines = ["| product | threads | ours, us | GFLOP/s | NumPy / ours | torch / ours |", "|---|---|---|---|---|---|"]
    for _, name, count, ours, rate, slower in sorted(found):
        lines.append(f"| {name} | {count} | {ours / 1e3:.1f} | {rate:.1f} | {slower[0]:.2f} | {slower[1]:.2f} |")
    means = [exp(sum(log(r[-1][k]) for r in found) / len(found)) for k in (0, 1)]
    below = sum(min(r[-1]) < 0.95 for r in found)
    lines.append(
        f"| **geometric mean of {len(found)}**, {below} rows below 0.95 | {threads} | | | {means[0]:.2f} | {means[1]:.2f} |"
    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    timing_options(parser, threads="1,2", rounds=15)
    parser.add_argument("--only", default="")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    gc.disable()
    print(
        f"OPENBLAS_CORETYPE={os.environ.get('OPENBLAS_CORETYPE', '(its own choice)')}, torch {torch.__version__}, NumPy {np.__version__}"
    )
    clock, lines = clock_of(options.cpu), []
    for threads in thread_counts(options.threads):
        lines += [*measure(threads, options.rounds, options.only, clock), ""]
    print("\n".join(lines))
    if options.markdown is not None:
        options.markdown.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
