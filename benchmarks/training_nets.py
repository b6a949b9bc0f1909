"""Nets for benchmarks/training_step.py, each written once for preimage.nn and torch.nn, whose names are the same.

A builder takes the names of one library and gives its module. DCGAN is a pair: generator and critic.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import preimage
from preimage import ops


class Names(NamedTuple):
    """One library: its layers, and the one operation that is no layer."""

    nn: Any
    concat: Any


OURS = Names(preimage.nn, lambda parts: ops.concat(parts, axis=1))


def torch_names() -> Names:
    """torch's."""
    import torch

    return Names(torch.nn, lambda parts: torch.cat(parts, 1))


def lenet(names: Names) -> Any:
    """Caffe's LeNet: 28 x 28."""
    n = names.nn
    return n.Sequential(
        n.Conv2d(1, 20, 5), n.MaxPool2d(2), n.Conv2d(20, 50, 5), n.MaxPool2d(2),
        n.Flatten(), n.Linear(800, 500), n.ReLU(), n.Linear(500, 10),
    )  # fmt: skip


def autoencoder(names: Names) -> Any:
    """That of examples/autoencoder.py: 28 x 28."""
    n = names.nn
    return n.Sequential(
        n.Conv2d(1, 16, 4, stride=2, padding=1), n.ReLU(), n.Conv2d(16, 32, 4, stride=2, padding=1), n.ReLU(),
        n.Flatten(), n.Linear(32 * 49, 32), n.Linear(32, 32 * 49), n.ReLU(), n.Unflatten(1, (32, 7, 7)),
        n.ConvTranspose2d(32, 16, 4, stride=2, padding=1), n.ReLU(), n.ConvTranspose2d(16, 1, 4, stride=2, padding=1), n.Sigmoid(),
    )  # fmt: skip


def unet(names: Names) -> Any:
    """Three levels of 32, 64 and 128 channels, batch normalisation, 2x2 transposed convolutions."""
    n, c = names.nn, 32

    def block(i: int, o: int) -> Any:
        half = lambda a: [n.Conv2d(a, o, 3, padding=1), n.BatchNorm2d(o), n.ReLU()]  # noqa: E731
        return n.Sequential(*half(i), *half(o))

    class UNet(n.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.e1, self.e2, self.e3 = block(3, c), block(c, 2 * c), block(2 * c, 4 * c)
            self.pool = n.MaxPool2d(2)
            self.u2, self.u1 = n.ConvTranspose2d(4 * c, 2 * c, 2, stride=2), n.ConvTranspose2d(2 * c, c, 2, stride=2)
            self.d2, self.d1 = block(4 * c, 2 * c), block(2 * c, c)
            self.head = n.Conv2d(c, 1, 1)

        def forward(self, x: Any) -> Any:
            a = self.e1(x)
            b = self.e2(self.pool(a))
            h = self.e3(self.pool(b))
            h = self.d2(names.concat([self.u2(h), b]))
            return self.head(self.d1(names.concat([self.u1(h), a])))

    return UNet()


def resnet18(names: Names) -> Any:
    """ResNet-18 for 10 classes, with its 7x7 stem."""
    n = names.nn

    class Block(n.Module):  # type: ignore[misc,name-defined]
        def __init__(self, i: int, o: int, stride: int) -> None:
            super().__init__()
            self.c1, self.b1 = n.Conv2d(i, o, 3, stride=stride, padding=1, bias=False), n.BatchNorm2d(o)
            self.c2, self.b2 = n.Conv2d(o, o, 3, padding=1, bias=False), n.BatchNorm2d(o)
            self.relu = n.ReLU()
            self.short = (
                n.Sequential(n.Conv2d(i, o, 1, stride=stride, bias=False), n.BatchNorm2d(o)) if stride > 1 or i != o else None
            )

        def forward(self, x: Any) -> Any:
            h = self.b2(self.c2(self.relu(self.b1(self.c1(x)))))
            return self.relu(h + (x if self.short is None else self.short(x)))

    layers = [n.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), n.BatchNorm2d(64), n.ReLU(), n.MaxPool2d(3, 2, 1)]
    i = 64
    for o, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(i, o, stride), Block(o, o, 1)]
        i = o
    return n.Sequential(*layers, n.AdaptiveAvgPool2d(1), n.Flatten(), n.Linear(512, 10))


def generator(names: Names) -> Any:
    """DCGAN's generator: 100 numbers to 3 x 64 x 64."""
    n, c = names.nn, 64
    layers = [n.ConvTranspose2d(100, 8 * c, 4, bias=False), n.BatchNorm2d(8 * c), n.ReLU()]
    for i, o in ((8, 4), (4, 2), (2, 1)):
        layers += [n.ConvTranspose2d(i * c, o * c, 4, stride=2, padding=1, bias=False), n.BatchNorm2d(o * c), n.ReLU()]
    return n.Sequential(*layers, n.ConvTranspose2d(c, 3, 4, stride=2, padding=1, bias=False), n.Tanh())


def critic(names: Names) -> Any:
    """DCGAN's critic: 3 x 64 x 64 to one number."""
    n, c = names.nn, 64
    layers = [n.Conv2d(3, c, 4, stride=2, padding=1, bias=False), n.LeakyReLU(0.2)]
    for i, o in ((1, 2), (2, 4), (4, 8)):
        layers += [n.Conv2d(i * c, o * c, 4, stride=2, padding=1, bias=False), n.BatchNorm2d(o * c), n.LeakyReLU(0.2)]
    return n.Sequential(*layers, n.Conv2d(8 * c, 1, 4, bias=False), n.Flatten())


class Setup(NamedTuple):
    """What one row trains: its nets, inputs, targets (classes, or images), the optimiser."""

    nets: tuple[Any, ...]
    shape: tuple[int, ...]
    target: tuple[int, ...]  # () for ten classes
    optimiser: str


SETUPS = {
    "lenet": Setup((lenet,), (1, 28, 28), (), "sgd"),
    "autoencoder": Setup((autoencoder,), (1, 28, 28), (1, 28, 28), "adam"),
    "unet": Setup((unet,), (3, 128, 128), (1, 128, 128), "sgd"),
    "dcgan": Setup((generator, critic), (3, 64, 64), (100, 1, 1), "adam"),  # the "target" is the noise
    "resnet18": Setup((resnet18,), (3, 64, 64), (), "sgd"),
}


def data_of(setup: Setup, batch: int) -> tuple[Any, Any]:
    """Inputs and targets, the same for both libraries."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *setup.shape)).astype(np.float32)
    t = rng.standard_normal((batch, *setup.target)).astype(np.float32) if setup.target else rng.integers(0, 10, batch)
    return x, t
