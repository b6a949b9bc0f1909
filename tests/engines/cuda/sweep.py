"""Random geometries, three contractions each, in simulation against jit, bit for bit; threads in random order, copies at once or late.

python tests/engines/cuda/sweep.py --cases 20000 [--seed 1] [--seconds 600] [--state sweep.json]

Case k of a seed is the same geometry and the same data whatever ran before it, so a run with --state goes on where the last one ended.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
from cases import arrays, differing, geometry

import preimage as pre
from preimage.engines.cuda import simulate
from preimage.engines.cuda.cache import source_digest
from preimage.engines.cuda.engine import CudaEngine
from preimage.engines.cuda.simulate import Simulator

DTYPES = (np.float32, np.float32, np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
#: Compiling takes ten times as long as running, so all kernels that a sweep meets stay loaded.
MOST_KERNELS = 4096
#: Seconds between two writings of the state.
WRITE_S = 10.0


def case(seed: int, number: int) -> list[str]:
    """What one case found: a line for each contraction whose bits are not those of jit, or that failed."""
    rng = np.random.default_rng((seed, number))
    engine = CudaEngine(Simulator(rng.permutation, lazy=bool(number % 2)))
    g, dtype = geometry(rng), DTYPES[int(rng.integers(len(DTYPES)))]
    try:
        wrong = differing(engine, g, arrays(rng, g, dtype))
    except Exception as error:
        wrong = [f"{type(error).__name__}: {error}"]
    return [f"case {number} of seed {seed}: {what}, {np.dtype(dtype).name} {g}" for what in wrong]


def begun(path: Path | None, seed: int) -> dict[str, Any]:
    """The state of the run that goes on, or a new one: of other kernels nothing was shown."""
    new = {"seed": seed, "kernels": source_digest(), "done": 0, "found": []}
    if path is None or not path.exists():
        return new
    found: dict[str, Any] = json.loads(path.read_text())
    return found if found["seed"] == seed and found["kernels"] == new["kernels"] else new


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument(
        "--state", type=Path, help="a file with how far the run is; it goes on from there, unless the kernels changed"
    )
    options = parser.parse_args()
    kept = functools.lru_cache(maxsize=MOST_KERNELS)(simulate.SimulatedKernel)
    state, start = begun(options.state, options.seed), time.monotonic()
    written = start
    with pre.config(threads=1), mock.patch.object(simulate, "_compiled", kept):
        while state["done"] < options.cases and (now := time.monotonic()) - start < options.seconds:
            lines = case(options.seed, state["done"])
            state["found"] += lines
            state["done"] += 1
            for line in lines:
                print("DIFFERS:", line, flush=True)
            if options.state and (lines or now - written > WRITE_S):
                written = now
                options.state.write_text(json.dumps(state, indent=1) + "\n")
    if options.state:
        options.state.write_text(json.dumps(state, indent=1) + "\n")
    print(f"{state['done']} geometries, 3 contractions each: {len(state['found'])} results differ from jit or failed")
    return len(state["found"]) > 0


if __name__ == "__main__":
    raise SystemExit(main())
