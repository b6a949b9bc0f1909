"""Training on several MPI ranks of one thread each beside one process of one thread: samples per second of `preimage train`, and their ratio.

    python benchmarks/training_ranks.py [--ranks 2] [--steps N] [--rounds 3] [--batch 64] [--net autoencoder]

NET: lenet, autoencoder, unet or resnet18 (benchmarks/training_nets.py). Strong scaling: the same batch, cut into as many shards as there are
ranks, by one process and by all ranks. Weak scaling: a batch for every rank. The bound: as many processes at the same time as there are ranks,
each doing what one process does and none knowing of the others; they share caches and memory, so even they do not give `ranks` times as much.
Runs alternate; a run's rate is the median over its steps but the first ones, in which the net is recorded. Needs mpirun and mpi4py, and a
machine with nothing else at work. A ResNet-18 takes about four minutes, an autoencoder two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

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
WARM_UP = 8
#: Steps of a run, by default: more of the short ones, whose times vary.
STEPS = {"lenet": 100, "autoencoder": 200, "unet": 6, "resnet18": 12}


class Row(NamedTuple):
    """What one run does: so many processes at the same time, each of so many ranks."""

    batch: int
    shards: int
    ranks: int = 1
    processes: int = 1


def rate(place: Path, name: str, row: Row, steps: int) -> float:
    """Samples per second of a run, of all its processes together."""
    text = PROGRAM.format(folder=str(Path(__file__).parent.absolute()), name=name, batch=row.batch)
    (place / "net.py").write_text(text)
    before = ["mpirun", "-n", str(row.ranks)] if row.ranks > 1 else []
    command = [
        sys.executable, "-m", "preimage", "train", "net.py", "--threads", "1", "--workers", "0", "--save-every", str(10 * steps),
        "--shards", str(row.shards), "-n", str(steps + WARM_UP),
    ]  # fmt: skip
    folders = [Path(tempfile.mkdtemp(dir=place)) / "run" for _ in range(row.processes)]
    running = [
        subprocess.Popen(
            [*before, *command, "-o", str(folder)], cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for folder in folders
    ]
    said = [process.communicate()[1] for process in running]
    for process, errors in zip(running, said, strict=True):
        if process.returncode:
            raise SystemExit(errors)
    return sum(map(_rate_of, folders))


def _rate_of(folder: Path) -> float:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(line["samples_per_second"] for line in lines if line["step"] > WARM_UP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--net", choices=[name for name, setup in SETUPS.items() if len(setup.nets) == 1], default="autoencoder")
    options = parser.parse_args()
    n, batch, steps = options.ranks, options.batch, options.steps or STEPS[options.net]
    rows = {
        "one rank": Row(batch, n),
        f"{n} ranks, the same batch": Row(batch, n, n),
        f"{n} ranks, a batch each": Row(n * batch, n, n),
        f"{n} processes apart": Row(batch, n, processes=n),
    }
    found: dict[str, list[float]] = {title: [] for title in rows}
    with tempfile.TemporaryDirectory() as made:
        for number in range(options.rounds):
            for title, row in rows.items():
                found[title].append(rate(Path(made), options.net, row, steps))
                print(f"  round {number + 1} of {options.rounds}: {title:24} {found[title][-1]:8.1f} samples/s", flush=True)
    one = found["one rank"]
    for title, rates in found.items():
        ratios = [a / b for a, b in zip(rates, one, strict=True)]
        print(
            f"{options.net:12} {title:24} {statistics.median(rates):8.1f} samples/s, {statistics.median(ratios):.2f} times one rank"
        )


if __name__ == "__main__":
    main()
