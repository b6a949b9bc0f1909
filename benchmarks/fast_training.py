"""A small U-Net trained exactly and with accuracy="fast" from the same seeds: Dice on held-out images, and how far seeds lie apart.

    python benchmarks/fast_training.py [--seeds 3] [--steps 60] [--size 64]

Discs are told from squares of the same grey, in noise; data, weights and order depend on the seed alone. Also said: which contractions of
the net are computed by tiles, and LeNet's (20 and 50 channels: none, so its training has the same bits either way).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np

import preimage as pre
from preimage import nn
from preimage.io.inspection import inspect_model
from preimage.io.onnx.tracing import trace
from preimage.learning import Trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).parent))
import training_nets
import unet

WIDTHS = (16, 32, 64)


def pictures(rng: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images with two discs and two squares each, and the masks of the discs."""
    x = rng.standard_normal((count, 1, size, size)).astype(np.float32) * 0.3
    mask = np.zeros((count, 1, size, size), np.float32)
    rows, columns = np.ogrid[:size, :size]
    for image in range(count):
        for number in range(4):
            radius = rng.uniform(size / 12, size / 6)
            a, b = rng.uniform(radius, size - radius, 2)
            if number % 2:
                inside = (rows - a) ** 2 + (columns - b) ** 2 < radius**2
                mask[image, 0][inside] = 1
            else:
                inside = (np.abs(rows - a) < 0.886 * radius) & (np.abs(columns - b) < 0.886 * radius)
                mask[image, 0][inside] = 0
            x[image, 0][inside] += 1
    return x, mask


def dice(net: nn.Module, x: np.ndarray, mask: np.ndarray) -> float:
    """Of the net's discs with the true ones."""
    with pre.no_grad():
        found = np.asarray(net(x)) > 0
    return float(2 * (found * mask).sum() / (found.sum() + mask.sum()))


def trained(seed: int, accuracy: str, given: argparse.Namespace) -> float:
    """Dice after the steps."""
    rng = np.random.default_rng(seed)
    with pre.config(accuracy=accuracy):
        nn.init.manual_seed(seed)
        net = unet.UNet(WIDTHS)
        trainer = Trainer(net, unet.loss, unet.optimizer(net.parameters()))
        trainer.fit([pictures(rng, 8, given.size) for _ in range(given.steps)], iterations=given.steps)
        net.eval()
        return dice(net, *pictures(np.random.default_rng(10**6), 32, given.size))


def tiled(net: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """The net's 3x3 and 5x5 layers, with the contractions that tiles compute."""
    graph = trace(net.eval(), np.zeros(shape, np.float32))
    with pre.config(accuracy="fast"):
        layers = inspect_model(graph, {"input": np.zeros(shape, np.float32)}).layers
    return [f"{layer.name.split('#')[0]} {layer.schedule}" for layer in layers if layer.op == "conv"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--size", type=int, default=64)
    given = options.parse_args()
    print("U-Net:", "; ".join(tiled(unet.UNet(WIDTHS), (1, 1, given.size, given.size))))
    print("LeNet:", "; ".join(tiled(training_nets.lenet(training_nets.OURS), (1, 1, 28, 28))))
    found: dict[str, list[float]] = {"exact": [], "fast": []}
    for seed in range(given.seeds):
        for accuracy, values in found.items():
            values.append(trained(seed, accuracy, given))
            print(f"seed {seed}: {accuracy} Dice {values[-1]:.4f}", flush=True)
    for accuracy, values in found.items():
        spread = f", standard deviation {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        print(f"{accuracy}: mean {statistics.fmean(values):.4f}{spread}")
    print("fast - exact by seed:", " ".join(f"{b - a:+.4f}" for a, b in zip(*found.values(), strict=True)))


if __name__ == "__main__":
    main()
