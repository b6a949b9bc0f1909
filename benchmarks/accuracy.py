"""How accurate the weight gradient's sums are, beside torch where it is installed.

    python benchmarks/accuracy.py [--batch 1] [--seed 0]

Float32, 3 x 3 taps, 16 to 16 channels, both operands positive (as after a relu), so that all terms add up. The error of every weight is given
in units of u sum |x||y|, u = 2^-24, against float64: the root of the mean square, and the worst.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

import preimage as pre

SIZES = (7, 14, 28, 56, 112, 224)


def units(got: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Root mean square and largest error; of positive terms the sum of magnitudes is the truth itself."""
    error = np.abs(got.astype(np.float64) - truth) / (truth * 2.0**-24)
    return float(np.sqrt(np.mean(error**2))), float(error.max())


def ours(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return pre.conv_weight_grad(x, y, kernel_size=3, padding=1)


def torchs() -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """The same by torch, channels first; None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None

    def gradient(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        shape = (y.shape[1], x.shape[1], 3, 3)
        return torch.nn.grad.conv2d_weight(torch.from_numpy(x), shape, torch.from_numpy(y), padding=1).numpy()

    return gradient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, peer = np.random.default_rng(options.seed), torchs()
    print(f"{'positions':>12} {'ours rms':>9} {'worst':>6}" + (f" {'torch rms':>10} {'worst':>6}" if peer else ""))
    for size in SIZES:
        x, y = (rng.random((options.batch, 16, size, size), np.float32) for _ in range(2))
        truth = ours(x.astype(np.float64), y.astype(np.float64))
        rows = [units(f(x, y), truth) for f in (ours, peer) if f is not None]
        print(
            f"{f'{size} x {size}':>12} {rows[0][0]:9.2f} {rows[0][1]:6.2f}" + "".join(f" {r:10.2f} {w:6.2f}" for r, w in rows[1:])
        )


if __name__ == "__main__":
    main()
