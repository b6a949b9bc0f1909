"""Random geometries, three contractions each, in simulation against jit, bit for bit; threads in random order, copies at once or late.

python tests/engines/cuda/sweep.py --cases 20000 [--seed 1] [--seconds 600]
"""

from __future__ import annotations

import argparse
import time

import ml_dtypes
import numpy as np
from cases import arrays, differing, geometry

import preimage as pre
from preimage.engines.cuda.engine import CudaEngine
from preimage.engines.cuda.simulate import Simulator

DTYPES = (np.float32, np.float32, np.float32, np.float64, np.float16, ml_dtypes.bfloat16)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9)
    options = parser.parse_args()
    rng, begun, done, bad = np.random.default_rng(options.seed), time.monotonic(), 0, 0
    engines = [CudaEngine(Simulator(rng.permutation, lazy=lazy)) for lazy in (False, True)]
    with pre.config(threads=1):
        while done < options.cases and time.monotonic() - begun < options.seconds:
            g, dtype = geometry(rng), DTYPES[int(rng.integers(len(DTYPES)))]
            wrong = differing(engines[done % 2], g, arrays(rng, g, dtype))
            done += 1
            bad += len(wrong)
            if wrong:
                print(f"DIFFERS: {', '.join(wrong)} {np.dtype(dtype).name} {g}", flush=True)
    print(f"{done} geometries, 3 contractions each: {bad} results differ from jit")
    return bad > 0


if __name__ == "__main__":
    raise SystemExit(main())
