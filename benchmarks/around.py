"""What networks need around the contractions: our generated kernels, NumPy, and torch, by the time of one thread's CPU.

    python benchmarks/around.py [--rounds 30] [--only WORD]

Each row checks that torch's answer and ours agree before anything is timed. "NumPy" is our definition under engine="gemm". Arrays are
(1, 96, 80, 80), or (4, 32, 64, 64) for training; times in us are medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from contestants import Call, clock_of, interleaved, once, set_threads
from torch.nn import functional as F  # noqa: N812 - its usual name

import preimage as pre
from preimage import ops


def placed(x: np.ndarray, last: bool) -> np.ndarray:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if last else x


def forward_rows(last: bool) -> Iterator[tuple[str, Call, Call]]:
    """(name, ours, torch's) of operations of inference."""
    rng = np.random.default_rng(0)
    x = placed(rng.standard_normal((1, 96, 80, 80)).astype(np.float32), last)
    y = placed(rng.standard_normal((1, 96, 80, 80)).astype(np.float32), last)
    gate = rng.random((1, 96, 1, 1)).astype(np.float32)
    tx, ty, tg = (torch.from_numpy(np.ascontiguousarray(a)) for a in (x, y, gate))
    if last:
        tx, ty = (t.to(memory_format=torch.channels_last) for t in (tx, ty))
    yield "add", lambda: ops.add(x, y), lambda: tx + ty
    yield "multiply by channels", lambda: ops.multiply(x, gate), lambda: tx * tg
    yield "leaky_relu", lambda: ops.leaky_relu(x, 0.1), lambda: F.leaky_relu(tx, 0.1)
    yield "hardswish", lambda: ops.hardswish(x), lambda: F.hardswish(tx)
    yield "exp", lambda: ops.exp(x), lambda: torch.exp(tx)
    yield "sigmoid", lambda: ops.sigmoid(x), lambda: torch.sigmoid(tx)
    yield "tanh", lambda: ops.tanh(x), lambda: torch.tanh(tx)
    yield "silu", lambda: ops.silu(x), lambda: F.silu(tx)
    yield "softmax over channels", lambda: ops.softmax(x, 1), lambda: torch.softmax(tx, 1)
    yield "concat", lambda: ops.concat([x, y], 1), lambda: torch.cat([tx, ty], 1)
    yield "mean over space", lambda: ops.global_avg_pool(x), lambda: F.adaptive_avg_pool2d(tx, 1)
    yield "max_pool 3, stride 2", lambda: ops.max_pool(x, 3, stride=2, padding=1), lambda: F.max_pool2d(tx, 3, 2, 1)
    yield "avg_pool 2", lambda: ops.avg_pool(x, 2), lambda: F.avg_pool2d(tx, 2)
    yield "nearest, 2", lambda: ops.upsample(x, scale_factor=2), lambda: F.interpolate(tx, scale_factor=2)
    yield (
        "bilinear, 2",
        lambda: ops.upsample(x, scale_factor=2, mode="linear"),
        lambda: F.interpolate(tx, scale_factor=2, mode="bilinear"),
    )


def training_rows(last: bool) -> Iterator[tuple[str, Call, Call]]:
    """The same of gradients: of the input, after a forward pass."""
    rng = np.random.default_rng(1)
    x = placed(rng.standard_normal((4, 32, 64, 64)).astype(np.float32), last)
    for array in (x, x.base):
        if array is not None:
            array.flags.writeable = False  # as results of operations are: the graph need not watch it
    tx = torch.from_numpy(np.array(x, order="C"))
    tx = tx.to(memory_format=torch.channels_last) if last else tx
    norm, theirs = pre.nn.BatchNorm2d(32), torch.nn.BatchNorm2d(32)
    pairs: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
        "relu, there and back": (ops.relu, F.relu),
        "leaky_relu, there and back": (lambda t: ops.leaky_relu(t, 0.1), lambda t: F.leaky_relu(t, 0.1)),
        "batch norm, there and back": (norm, theirs),
        "max_pool 2, there and back": (lambda t: ops.max_pool(t, 2), lambda t: F.max_pool2d(t, 2)),
        "avg_pool 2, there and back": (lambda t: ops.avg_pool(t, 2), lambda t: F.avg_pool2d(t, 2)),
        "softmax over channels, there and back": (lambda t: ops.softmax(t, 1), lambda t: torch.softmax(t, 1)),
    }
    for name, (a, b) in pairs.items():
        shape = tuple(b(tx).shape)
        g = placed(rng.standard_normal(shape).astype(np.float32), last)
        tg = torch.from_numpy(np.ascontiguousarray(g))
        tg = tg.to(memory_format=torch.channels_last) if last else tg

        def ours(a: Any = a, g: np.ndarray = g) -> Any:
            t = pre.Tensor(x, requires_grad=True)
            return pre.grad(a(t), t, g).data

        def torchs(b: Any = b, tg: Any = tg) -> Any:
            t = tx.detach().requires_grad_()
            return torch.autograd.grad(b(t), t, tg)[0]

        yield name, ours, torchs


def optimiser_rows(last: bool) -> Iterator[tuple[str, Call, Call]]:
    del last
    rng = np.random.default_rng(2)
    start, g = (rng.standard_normal((256, 256, 3, 3)).astype(np.float32) for _ in range(2))
    for name, a, b in (
        (
            "SGD with momentum, 590 k",
            lambda p: pre.optim.SGD(p, 0.1, momentum=0.9),
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        ),
        ("Adam, 590 k", lambda p: pre.optim.Adam(p), lambda p: torch.optim.Adam(p)),
    ):
        p, q = pre.Tensor(start.copy(), requires_grad=True), torch.from_numpy(start.copy()).requires_grad_()
        p.grad, q.grad = pre.Tensor(g), torch.from_numpy(g.copy())
        ours, theirs = a([p]), b([q])
        yield name, lambda o=ours, p=p: (o.step(), p.data)[1], lambda o=theirs, q=q: (o.step(), q.detach())[1]


def by_definition(call: Call) -> Call:
    """The call by NumPy's functions."""

    def run() -> Any:
        with pre.config(engine="gemm"):
            return call()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=36)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    set_threads(1)
    print("| operation | layout | ours us | NumPy us | torch us | NumPy / ours | torch / ours |\n|---|---|---|---|---|---|---|")
    for rows in (forward_rows, training_rows, optimiser_rows):
        for last in (False, True) if rows is not optimiser_rows else (False,):
            for name, ours, theirs in rows(last):
                if options.only not in name:
                    continue
                with pre.config(threads=1):
                    a, b = np.asarray(ours()), theirs().numpy()
                    assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max(), f"{name}: the answers differ"
                    calls = {"ours": ours, "NumPy": by_definition(ours), "torch": theirs}
                    turns = {who: once(call, clock_of(cpu=True), warm=False) for who, call in calls.items()}
                    times = interleaved(turns, rounds=options.rounds, uncounted=2)
                mine, numpy_, torch_ = (float(np.median(taken)) / 1e3 for taken in times.values())
                layout = "channels_last" if last else "channels_first"
                print(
                    f"| {name} | {layout} | {mine:.0f} | {numpy_:.0f} | {torch_:.0f} | {numpy_ / mine:.2f} | {torch_ / mine:.2f} |"
                )


if __name__ == "__main__":
    main()
