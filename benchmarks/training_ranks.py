"""Training on several MPI ranks of one thread each beside one process of one thread: samples per second of `preimage train`, and their ratio.

    python benchmarks/training_ranks.py [--ranks 2] [--steps 40] [--rounds 3] [--batch 64] [--net autoencoder]

NET: lenet, autoencoder or resnet18 (benchmarks/training_nets.py). Strong scaling: the same batch, cut into as many shards as there are ranks, by one
process and by all ranks. Weak scaling: a batch for every rank. Runs alternate; a run's rate is the median over its steps but the first ten. Needs
mpirun and mpi4py, and a machine with nothing else at work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from training_nets import SETUPS

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np
from preimage import data as datasets, nn, optim
from training_nets import OURS, SETUPS, data_of
setup = SETUPS[{name!r}]
batch_size, epochs, metrics = {batch}, 1000, {{}}
loss = nn.mse_loss if setup.target else nn.cross_entropy
def net():
    return setup.nets[0](OURS)
def optimizer(parameters):
    return optim.SGD(parameters, lr=0.01, momentum=0.9)
def data(path, train):
    return datasets.ArrayDataset(*data_of(setup, batch_size)) if train else None
"""
WARM_UP = 10


def rate(place: Path, name: str, batch: int, shards: int, ranks: int, steps: int) -> float:
    """Samples per second of a run."""
    text = PROGRAM.format(folder=str(Path(__file__).parent.absolute()), name=name, batch=batch)
    (place / "net.py").write_text(text)
    folder = Path(tempfile.mkdtemp(dir=place)) / "run"
    before = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    command = [
        sys.executable,
        "-m",
        "preimage",
        "train",
        "net.py",
        "--threads",
        "1",
        "--workers",
        "0",
        "--save-every",
        str(10 * steps),
    ]
    done = subprocess.run(
        [*before, *command, "--shards", str(shards), "-n", str(steps + WARM_UP), "-o", str(folder)],
        cwd=place, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(line["samples_per_second"] for line in lines if line["step"] > WARM_UP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--net", choices=[name for name, setup in SETUPS.items() if len(setup.nets) == 1], default="autoencoder")
    options = parser.parse_args()
    n, batch = options.ranks, options.batch
    rows = {"one rank": (batch, n, 1), f"{n} ranks, the same batch": (batch, n, n), f"{n} ranks, a batch each": (n * batch, n, n)}
    found: dict[str, list[float]] = {title: [] for title in rows}
    with tempfile.TemporaryDirectory() as made:
        for _ in range(options.rounds):
            for title, (size, shards, ranks) in rows.items():
                found[title].append(rate(Path(made), options.net, size, shards, ranks, options.steps))
    one = found["one rank"]
    for title, rates in found.items():
        ratios = [a / b for a, b in zip(rates, one, strict=True)]
        print(
            f"{options.net:12} {title:24} {statistics.median(rates):8.1f} samples/s, {statistics.median(ratios):.2f} times one rank"
        )


if __name__ == "__main__":
    main()
