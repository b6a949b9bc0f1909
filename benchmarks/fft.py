"""Where Fourier transforms overtake sums of products: the exact path, the fft engine and scipy.signal.fftconvolve over kernels of rising size.

    python benchmarks/fft.py [--threads 1] [--dtype float32] [--rounds 9] [--cpu] [--only WORD] [--json FILE] [--plot FILE.png]

Answers are compared before any clock runs. In a round each contestant has one turn; a time is the median over rounds. Both engines get prepared
weights, as layers and linop.Conv keep them. --cpu: by the CPU time of the calling thread, for one thread on a machine that others use.
The plot has a panel a layer: measured times, and where `accuracy="fast"` begins to take transforms, by the geometry alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from contestants import Clock, clock_of, interleaved, median_ms, once
from scipy.signal import fftconvolve

import preimage as pre
from preimage.engines import choose, get
from preimage.engines.prepared import PreparedWeight
from preimage.geometry import ConvGeometry

#: name, channels in, out, groups, size of the picture, sides of kernels.
LAYERS: list[tuple[str, int, int, int, tuple[int, ...], tuple[int, ...]]] = [
    ("one picture of 256 x 256", 1, 1, 1, (256, 256), (3, 5, 9, 15, 21, 31, 45, 64, 91, 128, 181, 256)),
    ("64 channels of 56 x 56, depthwise", 64, 64, 64, (56, 56), (3, 5, 9, 13, 21, 31, 43, 55)),
    ("32 to 32 channels of 56 x 56", 32, 32, 1, (56, 56), (3, 5, 7, 9, 13, 21, 31)),
    ("a signal of 100,000", 1, 1, 1, (100_000,), (9, 31, 100, 316, 1000, 3162)),
    ("a volume of 64 x 64 x 64", 1, 1, 1, (64, 64, 64), (3, 5, 7, 9, 13)),
]  # fmt: skip
EXACT, FFT, SCIPY = "exact path", 'accuracy="fast", transforms', "scipy.signal.fftconvolve"


def geometry(inner: int, outer: int, groups: int, size: tuple[int, ...], side: int) -> ConvGeometry:
    """A convolution that keeps the size."""
    padding = ((side - 1) // 2, side - 1 - (side - 1) // 2)
    return ConvGeometry.from_conv(
        (1, inner, *size), (outer, inner // groups, *(side,) * len(size)), padding=(padding,) * len(size), groups=groups
    )


def contestants(g: ConvGeometry, dtype: str) -> dict[str, Callable[[], Any]]:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in (g.input_shape, g.weight_shape))
    prepared, exact, fft = PreparedWeight(w), get("jit"), get("fft")
    found = {EXACT: lambda: exact.conv(g, x, prepared), FFT: lambda: fft.conv(g, x, prepared)}
    if g.in_channels_per_group == g.out_channels_per_group == 1:
        flipped = np.flip(w[:, 0], tuple(range(1, w.ndim - 1)))
        pairs = list(zip(x[0], flipped, strict=True))
        found[SCIPY] = lambda: np.stack([_same(a, b, g) for a, b in pairs])[None]
    answers = [call() for call in found.values()]
    for answer in answers[1:]:
        assert np.abs(answer - answers[0]).max() <= (1e-12 if dtype == "float64" else 1e-3) * np.abs(answers[0]).max()
    return found


def _same(a: Any, b: Any, g: ConvGeometry) -> Any:
    full = fftconvolve(a, b)
    return full[
        tuple(slice(k - 1 - lo, k - 1 - lo + n) for k, (lo, _), n in zip(g.kernel_size, g.padding, g.output_size, strict=True))
    ]


def measure(calls: dict[str, Callable[[], Any]], rounds: int, threads: int, clock: Clock) -> dict[str, float]:
    """Median milliseconds."""
    turns = {name: once(call, clock, warm=False) for name, call in calls.items()}
    return {name: median_ms(taken) for name, taken in interleaved(turns, rounds=rounds, threads=threads).items()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--cpu", action="store_true")
    options.add_argument("--only", default="")
    options.add_argument("--json", type=Path)
    options.add_argument("--plot", type=Path)
    given = options.parse_args()
    rows: list[dict[str, Any]] = []
    with pre.config(threads=given.threads, accuracy="fast"):
        for name, inner, outer, groups, size, sides in LAYERS:
            for side in sides if given.only in name else ():
                g = geometry(inner, outer, groups, size, side)
                taken = choose(g, "conv", np.dtype(given.dtype)).name
                times = measure(contestants(g, given.dtype), given.rounds, given.threads, clock_of(given.cpu))
                rows.append({"layer": name, "side": side, "taken": taken, **times})
                said = "  ".join(f"{who} {ms:.3f} ms" for who, ms in times.items())
                print(f"{name}, kernel {side}: {said}  taken: {taken}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    if given.plot:
        plot(rows, given.plot, given.dtype)


def plot(rows: list[dict[str, Any]], path: Path, dtype: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["layer"] for row in rows))
    figure = Figure(figsize=(4.2 * min(len(names), 3), 3.4 * -(-len(names) // 3)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(-(-len(names) // 3), min(len(names), 3), squeeze=False).ravel()
    for ax in axes[len(names) :]:
        ax.axis("off")
    for ax, name in zip(axes, names, strict=False):
        own = [row for row in rows if row["layer"] == name]
        for who, colour, marker in ((EXACT, "#8c510a", "o"), (FFT, "#01665e", "s"), (SCIPY, "#7f7f7f", "^")):
            points = [(row["side"], row[who]) for row in own if who in row]
            if points:
                ax.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=3.5, linewidth=1.3, label=who)
        first = next((row["side"] for row in own if row["taken"] == "fft"), None)
        if first is not None:
            ax.axvspan(
                first, own[-1]["side"] * 1.1, color="#01665e", alpha=0.08, linewidth=0, label="taken under accuracy='fast'"
            )
        ax.set(xscale="log", yscale="log", title=name, xlabel="side of the kernel", ylabel="milliseconds")
        ax.set_xticks([row["side"] for row in own][::2], [str(row["side"]) for row in own][::2])
        ax.minorticks_off()
        ax.grid(alpha=0.25)
        ax.title.set_fontsize(10)
    handles: dict[str, Any] = {}
    for ax in axes[: len(names)]:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    where = axes[-1] if len(axes) > len(names) else axes[0]
    where.legend(
        handles.values(), handles.keys(), loc="center" if len(axes) > len(names) else "upper left", fontsize=9, frameon=False
    )
    figure.suptitle(f"One convolution of {dtype} by kernels of rising size", fontsize=11)
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
