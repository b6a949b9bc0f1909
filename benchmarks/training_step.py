"""A training step of a small U-Net, ours beside torch: same weights, same answers first, then interleaved, and where our time goes.

    python benchmarks/training_step.py [--threads 1] [--rounds 15] [--width 32] [--optimiser sgd|adam] [--profile]

Three levels, batch normalisation, max-pooling, 2x2 transposed convolutions; batch 4, 64 x 64. One thread is timed by the thread's
CPU time, so that other processes do not show; more by the clock. --profile sorts our functions by the time spent in them.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import preimage as pre
from preimage import nn, ops

SIZE, BATCH = 64, 4


class UNet(nn.Module):
    """The net, in our modules."""

    def __init__(self, c: int) -> None:
        super().__init__()

        def block(i: int, o: int) -> nn.Module:
            half = lambda a: [nn.Conv2d(a, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()]  # noqa: E731
            return nn.Sequential(*half(i), *half(o))

        self.e1, self.e2, self.e3 = block(3, c), block(c, 2 * c), block(2 * c, 4 * c)
        self.pool = nn.MaxPool2d(2)
        self.u2, self.u1 = nn.ConvTranspose2d(4 * c, 2 * c, 2, stride=2), nn.ConvTranspose2d(2 * c, c, 2, stride=2)
        self.d2, self.d1 = block(4 * c, 2 * c), block(2 * c, c)
        self.head = nn.Conv2d(c, 1, 1)

    def forward(self, x: Any) -> Any:
        a = self.e1(x)
        b = self.e2(self.pool(a))
        h = self.e3(self.pool(b))
        h = self.d2(ops.concat([self.u2(h), b], axis=1))
        return self.head(self.d1(ops.concat([self.u1(h), a], axis=1)))


class TorchUNet(torch.nn.Module):
    """The same in torch's."""

    def __init__(self, c: int) -> None:
        super().__init__()
        n = torch.nn

        def block(i: int, o: int) -> torch.nn.Module:
            half = lambda a: [n.Conv2d(a, o, 3, padding=1), n.BatchNorm2d(o), n.ReLU()]  # noqa: E731
            return n.Sequential(*half(i), *half(o))

        self.e1, self.e2, self.e3 = block(3, c), block(c, 2 * c), block(2 * c, 4 * c)
        self.pool = n.MaxPool2d(2)
        self.u2, self.u1 = n.ConvTranspose2d(4 * c, 2 * c, 2, stride=2), n.ConvTranspose2d(2 * c, c, 2, stride=2)
        self.d2, self.d1 = block(4 * c, 2 * c), block(2 * c, c)
        self.head = n.Conv2d(c, 1, 1)

    def forward(self, x: Any) -> Any:
        a = self.e1(x)
        b = self.e2(self.pool(a))
        h = self.e3(self.pool(b))
        h = self.d2(torch.cat([self.u2(h), b], 1))
        return self.head(self.d1(torch.cat([self.u1(h), a], 1)))


def steps(width: int, optimiser: str, last: bool) -> tuple[Callable[[], float], Callable[[], float]]:
    """One training step of ours and one of torch's, from the same start; each gives its loss. last: torch's in channels-last."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, 3, SIZE, SIZE)).astype(np.float32)
    t = rng.standard_normal((BATCH, 1, SIZE, SIZE)).astype(np.float32)
    ours, theirs = UNet(width), TorchUNet(width)
    theirs.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in ours.state_dict().items()})
    tx, tt = torch.from_numpy(x), torch.from_numpy(t)
    if last:
        theirs, tx = theirs.to(memory_format=torch.channels_last), tx.to(memory_format=torch.channels_last)
    if optimiser == "sgd":
        a: Any = pre.optim.SGD(ours.parameters(), lr=0.01, momentum=0.9)
        b: Any = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)
    else:
        a, b = pre.optim.Adam(ours.parameters(), lr=1e-3), torch.optim.Adam(theirs.parameters(), lr=1e-3)

    def step_ours() -> float:
        a.zero_grad()
        loss = ((ours(x) - t) ** 2).mean()
        loss.backward()
        a.step()
        return float(loss.data)

    def step_theirs() -> float:
        b.zero_grad()
        loss = ((theirs(tx) - tt) ** 2).mean()
        loss.backward()
        b.step()
        return float(loss.detach())

    return step_ours, step_theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--optimiser", choices=("sgd", "adam"), default="sgd")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.thread_time_ns if options.threads == 1 else time.perf_counter_ns
    with pre.config(threads=options.threads):
        for last in (False, True):
            ours, theirs = steps(options.width, options.optimiser, last)
            first = [(ours(), theirs()) for _ in range(4)]
            assert all(abs(p - q) < 2e-3 * abs(q) for p, q in first), f"the losses differ: {first}"
            times: tuple[list[int], list[int]] = ([], [])
            for _ in range(options.rounds):
                for taken, step in zip(times, (ours, theirs), strict=True):
                    if options.threads > 1:
                        time.sleep(0.02)  # the other's workers spin for a while after their last job
                    begin = clock()
                    step()
                    taken.append(clock() - begin)
            a, b = (np.array(taken) / 1e6 for taken in times)
            low, middle, high = np.percentile(b / a, [25, 50, 75])
            print(
                f"ours {np.median(a):.1f} ms, torch {'channels_last' if last else 'channels_first'} {np.median(b):.1f} ms;"
                f" torch / ours {middle:.2f} (quartiles {low:.2f} to {high:.2f}); {options.threads} threads, {options.optimiser},"
                f" losses {first[-1][0]:.5f} and {first[-1][1]:.5f}"
            )
        if options.profile:
            profile = cProfile.Profile(time.thread_time if options.threads == 1 else time.perf_counter)
            with profile:
                for _ in range(5):
                    ours()
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    main()
