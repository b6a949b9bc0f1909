"""Dense 3x3 layers with accuracy="fast": beside ncnn's Winograd, and beside the exact path in all three passes. Float32, batch 1.

    python benchmarks/fast_vs_ncnn.py [--ncnn PYTHON] [--threads 1,2] [--rounds 9] [--cpu] [--layers 64x56,256x14] [--json FILE]

PYTHON: an interpreter that has ncnn; without one the exact path alone is compared. Contestants have bursts of about 50 ms in turn; ratios are
taken round by round, their median counts. Answers are compared with float64 first. Arrays: channels-last ours, packed ncnn's; weights are prepared.
--cpu: the CPU time of one thread, on a machine with other work.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from contestants import Process, burst, clock_of, interleaved, ratios, thread_counts, timing_options

import preimage as pre

LAYERS = ((64, 224), (64, 56), (256, 56), (256, 14), (512, 7), (512, 32))
CHECKED = 32  # output channels whose answers are compared


class Side(Process):
    """ncnn (ncnn_side.py)."""

    def __init__(self, python: str, w: np.ndarray, x: np.ndarray, threads: int, cpu: bool) -> None:
        folder = Path(tempfile.mkdtemp())
        np.save(folder / "w.npy", w)
        np.save(folder / "x.npy", x)
        command = [python, str(Path(__file__).with_name("ncnn_side.py")), str(len(x)), str(x.shape[1]), str(folder / "w.npy"),
                   str(folder / "x.npy"), str(threads), "cpu" if cpu else "wall", str(folder / "y.npy")]  # fmt: skip
        super().__init__(command, lines=1)
        (self.choice,) = self.said
        self.answer: np.ndarray = np.load(folder / "y.npy")


def channels_last(x: np.ndarray) -> np.ndarray:
    """The same numbers, the channels of a position side by side in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def passes(x: np.ndarray, y: np.ndarray, w: np.ndarray, accuracy: Any) -> dict[str, Callable[[], np.ndarray]]:
    """The three contractions of the layer."""
    with pre.config(accuracy=accuracy):
        packed = pre.prepare(w)
    return {
        "forward": lambda: pre.conv(x, packed, padding=1, accuracy=accuracy),
        "grad_input": lambda: pre.conv_transpose(y, packed, padding=1, accuracy=accuracy),
        "grad_weight": lambda: pre.conv_weight_grad(x, y, kernel_size=3, padding=1, accuracy=accuracy),
    }


def errors(found: np.ndarray, x: np.ndarray, w: np.ndarray) -> tuple[float, float]:
    """rms and worst, in units of u sum|x||w|."""
    wide, some = x.astype(np.float64), w[:CHECKED].astype(np.float64)
    unit = pre.conv(np.abs(wide), np.abs(some), padding=1) * 2.0**-24
    error = np.abs(found[:, :CHECKED] - pre.conv(wide, some, padding=1)) / unit
    return float(np.sqrt(np.mean(error**2))), float(error.max())


def measure(channels: int, size: int, threads: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each pass of a layer."""
    rng = np.random.default_rng(channels + size)
    w = rng.standard_normal((channels, channels, 3, 3)).astype(np.float32)
    x, y = (channels_last(rng.standard_normal((1, channels, size, size)).astype(np.float32)) for _ in range(2))
    clock = clock_of(given.cpu)
    side = Side(given.ncnn, w, np.ascontiguousarray(x[0]), threads, given.cpu) if given.ncnn else None
    rows = []
    with pre.config(threads=threads):
        ours = {accuracy: passes(x, y, w, accuracy) for accuracy in ("exact", "fast")}
        for name in ours["fast"]:
            turns: dict[str, Callable[[], float]] = {accuracy: burst(ours[accuracy][name], clock) for accuracy in ours}
            if side is not None and name == "forward":
                turns["ncnn"] = side
            times = interleaved(turns, rounds=given.rounds, threads=threads)
            row: dict[str, Any] = {"layer": f"{channels}x{size}", "threads": threads, "pass": name}
            row["fast_gflops"] = 18 * channels**2 * size**2 / median(times["fast"])
            row |= {f"{each} / fast": median(ratios(times, each, "fast")) for each in times if each != "fast"}
            if name == "forward":
                row["rms"], row["worst"] = errors(ours["fast"][name](), x, w)
                if side is not None:
                    row["ncnn_rms"], row["ncnn_worst"] = errors(side.answer[None], x, w)
                    row["ncnn_choice"] = side.choice
                    assert row["ncnn_worst"] < 64, "ncnn's answer is not the layer's"
            rows.append(row)
    if side is not None:
        side.close()
    return rows


def main() -> None:
    """Print a line for every layer, pass and number of threads; those that lose to something first."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ncnn", default="")
    timing_options(options)
    options.add_argument("--layers", default="")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    wanted = given.layers.split(",") if given.layers else [f"{c}x{s}" for c, s in LAYERS]
    rows = [
        row
        for threads in thread_counts(given.threads)
        for channels, size in LAYERS
        if f"{channels}x{size}" in wanted
        for row in measure(channels, size, threads, given)
    ]
    rows.sort(key=lambda row: min(value for key, value in row.items() if key.endswith(" / fast")))
    print(
        "| layer | threads | pass | GFLOP/s | exact / fast | ncnn / fast | rms, worst | ncnn's |\n|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        ncnn = f"{row['ncnn / fast']:.2f}" if "ncnn / fast" in row else ""
        error = f"{row['rms']:.2f}, {row['worst']:.1f}" if "rms" in row else ""
        theirs = f"{row['ncnn_rms']:.2f}, {row['ncnn_worst']:.1f} ({row['ncnn_choice']})" if "ncnn_rms" in row else ""
        head = f"| {row['layer']} | {row['threads']} | {row['pass']} | {row['fast_gflops']:.0f} |"
        print(f"{head} {row['exact / fast']:.2f} | {ncnn} | {error} | {theirs} |")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
