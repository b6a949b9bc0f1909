"""One model trained from several seeds by `preimage train`: the mean of a test's value, and its standard deviation.

    python benchmarks/training_seeds.py MODEL --data FOLDER [--seeds 5] [--measure accuracy] [--output seeds] [-- MORE OPTIONS OF preimage train]

What was made stays in the output folder: a second call goes on where the first was stopped, to the same bits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def trained(model: str, data: str, seed: int, folder: Path, more: list[str]) -> dict[str, float]:
    """The last measures of a run."""
    command = [
        sys.executable,
        "-m",
        "preimage",
        "train",
        model,
        "--data",
        data,
        "--seed",
        str(seed),
        "-o",
        str(folder),
        "--resume",
        *more,
    ]
    subprocess.run(command, check=True)
    found: dict[str, float] = json.loads((folder / "run.json").read_text())["last"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--measure", default="accuracy")
    parser.add_argument("--output", type=Path, default=Path("seeds"))
    options, more = parser.parse_known_args()
    more = [word for word in more if word != "--"]
    values = []
    for seed in range(options.seeds):
        last = trained(options.model, options.data, seed, options.output / f"seed-{seed}", more)
        values.append(last[f"test {options.measure}"])
        print(f"seed {seed}: {options.measure} {values[-1]:.4f}", flush=True)
    spread = f", standard deviation {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    print(f"{options.measure} of {len(values)} seeds: mean {statistics.fmean(values):.4f}{spread}")


if __name__ == "__main__":
    main()
