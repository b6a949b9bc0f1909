"""Kill a training run (signal 9) at random moments, let it go on each time, and compare its last weights with those of a run left alone, bit for bit.

python tests/learning/kill_run.py --count 100            # exit status 1 for other bits, or a run that could not go on
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from preimage import data, learning, nn, optim
from preimage.learning import checkpoints

STEPS = 24


def trainer() -> learning.Trainer:
    """A net with all that has a state: batch normalisation, dropout, momentum, a schedule, an average of the weights."""
    nn.init.manual_seed(3)
    layers = [
        nn.Conv2d(1, 8, 3, rng=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(200, 5, rng=2),
    ]
    net = nn.Sequential(*layers)
    optimizer = optim.Adam(net.parameters(), lr=0.01)
    return learning.Trainer(
        net, nn.cross_entropy, optimizer, schedule=optim.cosine(optimizer, max_iter=STEPS), accumulate=2, ema=0.95
    )


def loader(workers: int) -> data.Loader:
    """Shuffled batches, changed at random."""
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((70, 1, 12, 12)).astype(np.float32), rng.integers(0, 5, 70)
    return data.Loader(data.ArrayDataset(images, labels), 8, shuffle=True, seed=1, transform=data.Flip(), workers=workers)


def train(folder: Path) -> None:
    """From wherever the folder stands to the end."""
    trainer().fit(loader(os.getpid() % 3), iterations=STEPS, folder=folder, resume=True, save_every=4, keep=2)


def alone() -> dict[str, Any]:
    """The weights and averages of a run that nothing interrupts."""
    made = trainer()
    made.fit(loader(0), iterations=STEPS)
    return checkpoints.states(made.parts())


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal, arrays bit for bit."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        x, y = np.asarray(a), np.asarray(b)
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def kills(count: int, root: Path, seed: int = 0, longest: float = 0.5, work: Callable[[Path], None] = train) -> Iterator[str]:
    """What became of each child, until `count` were killed: "killed", or of one that came to the end "same bits" or "other bits"."""
    wanted, rng = alone(), np.random.default_rng(seed)
    killed = runs = 0
    while killed < count:
        folder = root / f"run{runs}"
        child = os.fork()
        if not child:
            code = 1
            try:
                work(folder)
                code = 0
            finally:
                os._exit(code)
        end = time.monotonic() + rng.uniform(0, longest)
        while time.monotonic() < end and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
            yield "killed"
        elif os.WEXITSTATUS(status):
            yield "could not go on"
            runs += 1
        else:
            found = checkpoints.newest(folder)
            right = found.step == STEPS and all(same(found.parts[name], wanted[name]) for name in wanted)
            yield "same bits" if right else "other bits"
            runs += 1
    work(root / f"run{runs}")
    found = checkpoints.newest(root / f"run{runs}")
    yield "same bits" if all(same(found.parts[name], wanted[name]) for name in wanted) else "other bits"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=1.0, help="seconds until a kill, at most")
    options = parser.parse_args()
    found: dict[str, int] = dict.fromkeys(("killed", "same bits", "other bits", "could not go on"), 0)
    with tempfile.TemporaryDirectory() as folder:
        for what in kills(options.count, Path(folder), options.seed, options.longest):
            found[what] += 1
    print(", ".join(f"{n} {what}" for what, n in found.items()))
    return 1 if found["other bits"] or found["could not go on"] else 0


if __name__ == "__main__":
    sys.exit(main())
