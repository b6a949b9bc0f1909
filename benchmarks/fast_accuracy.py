"""The error of accuracy="fast" on dense 3x3 layers, in units of u sum|x||w| (u = 2^-24): rms and worst element, both operands of both
signs, and x positive.

python benchmarks/fast_accuracy.py
"""

from __future__ import annotations

import numpy as np

import preimage as pre

LAYERS = ((64, 224), (64, 56), (256, 56), (256, 14), (512, 32))
CHECKED = 64  # output channels that are compared


def main() -> None:
    """Print a line for every layer and kind of data."""
    for channels, size in LAYERS:
        rng = np.random.default_rng(channels + size)
        w = rng.standard_normal((channels, channels, 3, 3)).astype(np.float32)
        geometry = pre.ConvGeometry.from_conv((1, channels, size, size), w.shape, padding=1)
        with pre.config(accuracy="fast"):
            algorithm = pre.plan(geometry).algorithm
        for signs in ("both signs", "x positive"):
            x = rng.standard_normal(geometry.input_shape).astype(np.float32)
            x = x if signs == "both signs" else np.abs(x)
            got = pre.conv(x, w, padding=1, accuracy="fast")[:, :CHECKED]
            wide, some = x.astype(np.float64), w[:CHECKED].astype(np.float64)
            unit = pre.conv(np.abs(wide), np.abs(some), padding=1) * 2.0**-24
            error = np.abs(got - pre.conv(wide, some, padding=1)) / unit
            rms = np.sqrt(np.mean(error**2))
            print(
                f"{channels:4d} channels, {size:3d} x {size:<3d}  {algorithm}  {signs:10s}  rms {rms:.2f}  worst {error.max():.2f}"
            )


if __name__ == "__main__":
    main()
