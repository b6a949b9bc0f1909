"""What asv follows from commit to commit: layers of known networks, a net and its training step, a tiny call, the import, memory.

One thread, float32, channels first, as a user has them. docs/bench.md says how to run it. It measures this library alone, and says what
became slower when; how fast it is beside others `preimage bench` says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import preimage as pre
from preimage import linop, nn, ops, optim

#: Name -> input, weight, options of a convolution.
LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "stem 7x7 s2, 224": ((1, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
    "3x3, 56, 64": ((1, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    "1x1, 14, 1024 to 256": ((1, 1024, 14, 14), (256, 1024, 1, 1), {}),
    "depthwise 3x3, 56, 96": ((1, 96, 56, 56), (96, 1, 3, 3), {"padding": 1, "groups": 96}),
    "4x4 s2, 128 (its input gradient: an up-sampling layer)": ((1, 32, 128, 128), (64, 32, 4, 4), {"stride": 2, "padding": 1}),
    "dilated 1-D, 8000": ((1, 32, 8000), (32, 32, 3), {"padding": 8, "dilation": 8}),
    "3-D 3x3x3, 16": ((1, 16, 16, 32, 32), (16, 16, 3, 3, 3), {"padding": 1}),
}


def _random(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class _OneThread:
    """Everything in one thread: the number of cores says nothing."""

    def setup(self, *_: str) -> None:
        self.settings = pre.config(threads=1)
        self.settings.__enter__()

    def teardown(self, *_: str) -> None:
        self.settings.__exit__(None, None, None)


class Contractions(_OneThread):
    """The three contractions of each layer, once they are compiled."""

    params = (list(LAYERS),)
    param_names = ("layer",)

    def setup(self, layer: str) -> None:
        super().setup()
        x, w, self.options = LAYERS[layer]
        self.x, self.w = _random(*x), _random(*w)
        self.y = pre.conv(self.x, self.w, **self.options)
        self.time_input_gradient(layer)
        self.time_weight_gradient(layer)

    def time_forward(self, layer: str) -> None:
        pre.conv(self.x, self.w, **self.options)

    def time_input_gradient(self, layer: str) -> None:
        pre.conv_transpose(self.y, self.w, output_size=self.x.shape[2:], **self.options)

    def time_weight_gradient(self, layer: str) -> None:
        pre.conv_weight_grad(self.x, self.y, kernel_size=self.w.shape[2:], **self.options)


class Nets(_OneThread):
    """A small net: a warm run, and a training step; how much memory it takes."""

    def setup(self) -> None:
        super().setup()
        self.net = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1, rng=0), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1, rng=1),
            nn.ReLU(), nn.ConvTranspose2d(64, 3, 4, stride=2, padding=1, rng=2),
        )  # fmt: skip
        self.optimiser = optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)
        self.x = _random(4, 3, 64, 64)
        for _ in range(3):
            self.time_training_step()

    def time_training_step(self) -> None:
        self.optimiser.zero_grad()
        ops.mean(ops.square(ops.subtract(self.net(pre.Tensor(self.x)), self.x))).backward()
        self.optimiser.step()

    def time_forward(self) -> None:
        with pre.no_grad():
            self.net(self.x)

    def peakmem_training_step(self) -> None:
        self.time_training_step()


class Small(_OneThread):
    """What a call costs beside its arithmetic."""

    def setup(self) -> None:
        super().setup()
        self.x, self.w = _random(1, 4, 8, 8), _random(4, 4, 3, 3)
        self.blur = linop.Conv(np.ones((1, 1, 9, 9)), input_size=(256, 256))
        self.picture = np.ones(self.blur.input_shape)
        self.time_tiny_conv()
        self.time_blur()

    def time_tiny_conv(self) -> None:
        pre.conv(self.x, self.w)

    def time_blur(self) -> None:
        self.blur @ self.picture


def timeraw_import() -> str:
    """`import preimage` in a process of its own."""
    return "import preimage"
