"""Kill a rank (signal 9) of runs of `preimage train` on 1, 2 or 4 ranks, let the run go on with another number of them each time, and compare its
last weights with those of one process that was left alone, bit for bit. Needs mpirun and mpi4py.

python tests/learning/kill_ranks.py --count 20            # exit status 1 for other bits, or ranks that outlive one by 10 seconds

One process without ranks: kill_run.py. A slice without MPI, whose ranks are forked processes: test_kill_ranks.py.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NET = """
import numpy as np
from preimage import data as datasets, nn
batch_size, epochs = 16, 250
def net():
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(100, 3))
def data(path, train):
    rng = np.random.default_rng(3)
    return datasets.ArrayDataset(rng.standard_normal((64, 2, 6, 7)).astype(np.float32), rng.integers(0, 3, 64))
"""
COMMAND = [sys.executable, "-m", "preimage", "train", "net.py", "--shards", "4", "--threads", "1", "--save-every", "15"]
MOST_SECONDS = 10


def started(place: Path, folder: str, ranks: int) -> subprocess.Popen[str]:
    """A run, in a session of its own, by which its ranks are found."""
    before = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    return subprocess.Popen(
        [*before, *COMMAND, "--test-every", "100", "--resume", "-o", folder],
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def ranks_of(place: Path) -> list[int]:
    """The numbers of the processes that train there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"train" in words and b"mpirun" not in words[0] and (entry / "cwd").resolve() == place.resolve():
                    found.append(int(entry.name))
            except OSError:  # it has ended
                continue
    return [pid for pid in found if b"-m" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:2]]


def steps(place: Path) -> int:
    """How long the journal of the run is."""
    path = place / "killed" / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def killed(place: Path, ranks: int) -> float | None:
    """A run that loses a rank: seconds until all had ended; None where it came to its end before. Raises: RuntimeError where it could not go on."""
    before, run = steps(place), started(place, "killed", ranks)
    while run.poll() is None and steps(place) == before:
        time.sleep(0.05)
    time.sleep(random.uniform(0, 1.5))
    found = ranks_of(place)
    if run.poll() is not None or not found:
        printed = run.communicate(timeout=60)[0]
        if run.returncode:
            raise RuntimeError(f"a run on {ranks} ranks ended with {run.returncode}:\n{printed}")
        return None
    began = time.monotonic()
    os.kill(random.choice(found), signal.SIGKILL)
    run.communicate(timeout=60)
    return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        (place / "net.py").write_text(NET)
        weights, numbers, longest, finished = [], list[int](), 0.0, 0
        while len(numbers) < options.count:
            ranks = random.choice([1, 2, 2, 4])
            seconds = killed(place, ranks)
            if (
                seconds is None
            ):  # it came to its end before it was killed: the next one begins anew, and has to come to the same bits
                weights.append((place / "killed" / "weights.safetensors").read_bytes())
                shutil.rmtree(place / "killed")
                finished += 1
                continue
            numbers.append(ranks)
            longest = max(longest, seconds)
        for folder, ranks in (("killed", 2), ("alone", 1)):
            run = started(place, folder, ranks)
            printed = run.communicate()[0]
            if run.returncode:
                print(printed)
                return 1
            weights.append((place / folder / "weights.safetensors").read_bytes())
    same = all(found == weights[-1] for found in weights)
    print(
        f"{len(numbers)} kills, on {numbers} ranks; runs that came to their end: {finished + 1}; the others ended within {longest:.2f} s;"
        f" the same bits: {same}"
    )
    return 0 if same and longest < MOST_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
