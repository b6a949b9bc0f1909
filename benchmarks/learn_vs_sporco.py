"""Convolutional dictionary learning: preimage beside SPORCO 0.2.2, one after the other in one run, on the same cores.

    python -m venv peer && peer/bin/pip install sporco==0.2.2 'numpy<2' filetype
    python benchmarks/learn_vs_sporco.py --peer peer/bin/python --sparsity 0.05 --out docs/figures

The same picture (scikit-image's camera), the same split (its Tikhonov split with weight 5, checked against SPORCO's own is a
test), 64 stencils of 11x11. Both clocks leave out imports and the splitting. Writes learn_vs_sporco_SPARSITY.json and .png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import preimage as pre
from preimage.io.pictures import demo_picture
from preimage.learning import Options, learn, split_slow

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="", help="a Python with sporco==0.2.2; none: our side alone")
    parser.add_argument("--sparsity", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--iterations", type=int, default=60, help="of the peer")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--border", default="full", help="full, or circular as SPORCO has it")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    given = parser.parse_args()

    picture = demo_picture().values
    _, detail = split_slow(picture)
    threads = given.threads or len(os.sched_getaffinity(0))
    ours = our_side(detail, given)
    theirs = peer_side(detail[0], given, threads) if given.peer else None
    result: dict[str, Any] = {
        "sparsity": given.sparsity, "engine": given.engine, "threads": threads, "border": given.border, "seed": given.seed,
        "machine": f"{platform.processor() or platform.machine()}, {platform.system()}", "numpy": np.__version__,
        "preimage": ours, "sporco": theirs,
    }  # fmt: skip
    last = ours["curve"][-1]
    print(f"preimage: {describe(last)}")
    if theirs:
        peer_last = theirs["curve"][-1]
        print(f"sporco:   {describe(peer_last)}; it reports {theirs['reported']:.2f} itself")
        for name, goal in (("its final pair", peer_last["objective"]), ("what it reports", theirs["reported"])):
            reached = next(
                (p["seconds"] for p in ours["curve"] if p["objective"] <= goal and p["sparsity"] <= given.sparsity), None
            )
            if reached is None:
                print(f"ours did not reach the objective of {name} ({goal:.2f})")
                result[f"times_sooner: {name}"] = None
            else:
                print(
                    f"objective of {name} ({goal:.2f}) after {reached:.1f} s: {peer_last['seconds'] / reached:.1f} times sooner"
                )
                result[f"times_sooner: {name}"] = peer_last["seconds"] / reached
        result["objective_ratio"] = last["objective"] / peer_last["objective"]
        print(f"final objective, ours / theirs: {result['objective_ratio']:.4f}")
    given.out.mkdir(parents=True, exist_ok=True)
    stem = given.out / f"learn_vs_sporco_{given.sparsity:g}"
    stem.with_suffix(stem.suffix + ".json").write_text(json.dumps(result, indent=1) + "\n")
    draw(result, stem.with_suffix(stem.suffix + ".png"))


def describe(p: dict[str, float]) -> str:
    return f"objective {p['objective']:.2f}, {p['psnr']:.2f} dB, {p['nonzeros_per_pixel']:.3f} non-zeros per pixel, {p['seconds']:.1f} s"


def our_side(detail: np.ndarray, given: argparse.Namespace) -> dict[str, Any]:
    settings = {"threads": given.threads} | ({"engine": given.engine} if given.engine != "auto" else {})
    with pre.config(**settings):
        options = Options(sparsity=given.sparsity, steps=given.steps, border=given.border, seed=given.seed)
        coded = learn([detail], options)
    return {"curve": [p.as_dict() for p in coded.curve]}


def peer_side(detail: np.ndarray, given: argparse.Namespace, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detail.npy"
        np.save(path, detail)
        arguments = [str(path), str(given.sparsity), str(given.iterations), "64", "11", str(given.seed)]
        environment = {
            **os.environ,
            **{name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")},
        }
        done = subprocess.run(
            [given.peer, str(HERE / "sporco_side.py"), *arguments], capture_output=True, text=True, env=environment, check=False
        )
    if done.returncode:
        sys.exit(f"the peer failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def draw(result: dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.6), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for name, colour in (("preimage", "#c4560a"), ("sporco", "#1f6f8b")):
        if not result[name]:
            continue
        curve = [p for p in result[name]["curve"] if p.get("sparsity", 0) <= result["sparsity"]]
        seconds = [p["seconds"] for p in curve]
        axes[0].plot(seconds, [p["objective"] for p in curve], color=colour, label=name, lw=1.8)
        axes[1].plot(seconds, [p["psnr"] for p in curve], color=colour, label=name, lw=1.8)
    if result["sporco"]:
        axes[0].axhline(result["sporco"]["curve"][-1]["objective"], color="#1f6f8b", lw=0.8, ls=":")
    axes[0].set(title=f"objective, sparsity {result['sparsity']:g}", xlabel="seconds", yscale="log")
    axes[1].set(title="PSNR, dB", xlabel="seconds")
    for ax in axes:
        ax.grid(alpha=0.3, which="both")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
