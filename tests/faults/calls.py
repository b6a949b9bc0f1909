"""The calls that the faults meet: every engine, each contraction, with threads, gradients, a network and its arena.

They run under the settings of the process, which `use` sets: in Python 3.11 a `with config(...)` may crash the interpreter where a
finaliser enters another in the middle of it (the collector runs inside ContextVar.set; from 3.12 on it does not).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import preimage as pre
from preimage.engines.buffers import Arenas

Call = Callable[[], bytes]


def _numbers(*shape: int, seed: int = 0, dtype: str = "f4") -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def conv(channels: int = 16, size: int = 14) -> Call:
    x, w = _numbers(2, channels, size, size), _numbers(channels + 3, channels, 3, 3, seed=1)

    def call() -> bytes:
        return pre.conv(x, w, padding=1).tobytes()

    return call


def transpose() -> Call:
    y, w = _numbers(2, 12, 9, 9), _numbers(12, 7, 4, 4, seed=1)

    def call() -> bytes:
        return pre.conv_transpose(y, w, stride=2, padding=1).tobytes()

    return call


def weight_grad(channels: int = 12) -> Call:
    x, y = _numbers(3, channels, 15, 15), _numbers(3, 10, 13, 13, seed=1)

    def call() -> bytes:
        return pre.conv_weight_grad(x, y, kernel_size=3).tobytes()

    return call


def prepared() -> Call:
    """Weights that are not finite take another recipe, found out as they are packed."""
    x, w = _numbers(1, 8, 12, 12), _numbers(8, 8, 3, 3, seed=1)
    w[3, 2, 1, 1] = np.inf

    def call() -> bytes:
        return pre.conv(x, pre.prepare(w), padding=1).tobytes()

    return call


def gradients() -> Call:
    """A network in a step of training: convolution, normalisation, pooling, softmax."""
    x, w, v = _numbers(2, 8, 12, 12), _numbers(8, 8, 3, 3, seed=1), _numbers(8, 4, 2, 2, seed=2)

    def call() -> bytes:
        a, b, c = (pre.Tensor(v, requires_grad=True) for v in (x, w, v))
        y = pre.ops.max_pool(pre.ops.relu(pre.conv(a, b, padding=1)), 2)
        z = pre.ops.softmax(pre.conv_transpose(y, c, stride=2), axis=1)
        return b"".join(g.numpy().tobytes() for g in pre.grad((z * z).sum(), [a, b, c]))

    return call


def arena() -> Call:
    """Runs of one computation in the memory that is planned for them."""
    arenas, x, w = Arenas(), _numbers(1, 8, 30, 30), _numbers(8, 8, 3, 3, seed=1) / 8

    def call() -> bytes:
        with arenas.arena("key"):
            y = x
            for _ in range(4):
                y = pre.ops.relu(pre.conv(y, w, padding=1)) + y
            return y.tobytes()

    return call


class Row(NamedTuple):
    """A call, and the settings that it runs under."""

    make: Callable[[], Call]
    engine: str = "jit"
    threads: int = 1

    def use(self) -> Call:
        """The call; from here on the process has the settings."""
        pre.config.set(engine=self.engine, threads=self.threads)
        return self.make()


CALLS = {
    "conv": Row(conv),
    "conv by 2 threads": Row(lambda: conv(32, 40), threads=2),
    "conv_transpose": Row(transpose),
    "conv_weight_grad": Row(weight_grad),
    "conv_weight_grad by 2 threads": Row(lambda: weight_grad(40), threads=2),
    "prepared weights that are not finite": Row(prepared),
    "gradients": Row(gradients),
    "arena": Row(arena),
    "gemm conv": Row(conv, "gemm"),
    "gemm conv_transpose": Row(transpose, "gemm"),
    "gemm conv_weight_grad": Row(weight_grad, "gemm"),
}
