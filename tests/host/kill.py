"""Kill writers (signal 9) at random moments: the file must be the whole old or the whole new one, and the next writer cleans up.

python tests/host/kill.py --count 100            # every writer; prints a line for each, exit status 1 for a damaged file
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from writers import WRITERS, leftovers

#: What must not be found.
FAULTS = ("damaged", "absent", "temporaries after the next write")


def kills(name: str, count: int, folder: Path, seed: int = 0, longest: float = 0.05) -> dict[str, int]:
    """Fork, write versions 0 and 1 in turn, kill after a random time; `count` times. Gives what was found."""
    writer, rng = WRITERS[name], np.random.default_rng(seed)
    path = folder / f"file{writer.ending}"
    for version in (0, 1, 0):  # what is loaded or remembered on the way is there before the fork
        writer.write(path, version)
        writer.read(path)
    found = dict.fromkeys(("whole", *FAULTS, "temporaries of the killed"), 0)
    for _ in range(count):
        child = os.fork()
        if not child:
            try:
                while True:
                    for version in (1, 0):
                        writer.write(path, version)
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"{name}: the writer ended by itself"
        found["temporaries of the killed"] += len(leftovers(folder))
        if not path.exists():
            found["absent"] += 1
        else:
            try:
                writer.read(path)
                found["whole"] += 1
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
                found["damaged"] += 1
        writer.write(path, 0)
        assert writer.read(path) == 0
        found["temporaries after the next write"] += len(leftovers(folder))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("writers", nargs="*", help="names; default: all")
    options = parser.parse_args()
    total = Counter[str]()
    names = options.writers or list(WRITERS)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found = kills(name, options.count, Path(folder), options.seed)
        total.update(found)
        print(f"{name:26} {options.count} kills: {_listed(found)}", flush=True)
    print(f"{options.count * len(names)} kills over {len(names)} writers: {_listed(total)}")
    return 1 if any(total[what] for what in FAULTS) else 0


def _listed(found: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {what}" for what, n in found.items())


if __name__ == "__main__":
    sys.exit(main())
