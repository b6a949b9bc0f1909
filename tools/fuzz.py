"""All fuzzers, one after the other, by one seed: `python tools/fuzz.py --seed N [--share S]`. Another seed, other inputs.

Damaged model files (ONNX, Caffe, torch), files of weights and data (safetensors, npz, npy, IDX, LMDB, HDF5, NIfTI, checkpoints), pictures; odd
calls of the whole interface, hostile command lines. Each prints what it found and the seeds that show it again; the exit status is 1 where one
found anything.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Each command, how it is told its number of cases (None: it has a fixed list), and that number.
FUZZERS: tuple[tuple[str, str | None, int], ...] = (
    ("tests/io/fuzz_onnx.py", "--count", 20_000),
    ("tests/io/fuzz_caffe.py", "--count", 20_000),
    ("tests/io/fuzz_torch.py", "--count", 20_000),
    ("tests/io/fuzz_files.py", "--count", 20_000),
    ("tests/io/fuzz_pictures.py", "--count", 20_000),
    ("tests/surface/api_fuzz.py", "--calls", 20_000),
    ("tests/cli/hostile.py", None, 0),
)
#: Fuzzers number their cases from the seed on: seeds this far apart share none.
APART = 1_000_000


def commands(seed: int, share: float) -> list[list[str]]:
    """What to run."""
    return [
        [
            sys.executable,
            str(ROOT / file),
            *([option, str(max(1, int(count * share))), "--seed", str(seed * APART)] if option else []),
        ]
        for file, option, count in FUZZERS
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of cases")
    options = parser.parse_args()
    failed = []
    for command in commands(options.seed, options.share):
        begin = time.monotonic()
        print(f"$ {' '.join(command[1:])}", flush=True)
        status = subprocess.run(command, cwd=ROOT).returncode
        print(f"exit status {status}, {time.monotonic() - begin:.0f} s\n", flush=True)
        failed += [command[1]] * (status != 0)
    print("\n".join(f"found something: {name}" for name in failed) or "nothing found")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
