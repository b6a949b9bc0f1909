"""The peer's side of learn_vs_sporco.py; runs in an environment with SPORCO 0.2.2 and NumPy below 2, prints one JSON line.

    python sporco_side.py DETAIL.npy SPARSITY ITERATIONS STENCILS SIZE SEED

SPORCO reports an objective of two iterates that do not belong together (the activations' step before the stencils' step); the
callback here measures the objective of the pair that a user gets: its sparse activations with its stencils of norm 1. The
time that this takes is left out of SPORCO's clock.
"""

import json
import sys
import time

import numpy as np
from sporco.dictlrn import cbpdndl

path, sparsity, iterations, stencils, size, seed = sys.argv[1:7]
detail = np.load(path).astype(np.float32)
sparsity, iterations, stencils, size = float(sparsity), int(iterations), int(stencils), int(size)
start_stencils = np.random.default_rng(int(seed)).standard_normal((size, size, stencils)).astype(np.float32)

rows, away, started = [], 0.0, 0.0


def pair(solver):
    """Objective, squared error and non-zeros of the sparse activations with the stencils."""
    d = solver.getdict().squeeze().transpose(2, 0, 1)
    z = np.asarray(solver.getcoef()).squeeze().transpose(2, 0, 1)
    picture = np.zeros((detail.shape[0], detail.shape[1] // 2 + 1), np.complex128)
    for stencil, activation in zip(d, z, strict=True):
        picture += np.fft.rfft2(stencil, s=detail.shape) * np.fft.rfft2(activation)
    error = float(np.square(np.fft.irfft2(picture, s=detail.shape) - detail).sum())
    return 0.5 * error + sparsity * float(np.abs(z).sum(dtype=np.float64)), error, int(np.count_nonzero(z))


def watch(solver):
    global away
    before = time.perf_counter()
    if solver.j % 5 == 4 or solver.j == iterations - 1:
        objective, error, nonzeros = pair(solver)
        rows.append(
            {
                "seconds": before - started - away,
                "objective": objective,
                "psnr": -10 * float(np.log10(error / detail.size)),
                "nonzeros_per_pixel": nonzeros / detail.size,
            }
        )
    away += time.perf_counter() - before
    return False


options = cbpdndl.ConvBPDNDictLearn.Options({"Verbose": False, "MaxMainIter": iterations, "Callback": watch}, dmethod="cns")
solver = cbpdndl.ConvBPDNDictLearn(start_stencils, detail[..., None], sparsity, options, dmethod="cns")
started = time.perf_counter()
solver.solve()
own = solver.getitstat()
print(
    json.dumps(
        {
            "curve": rows,
            "reported": float(own.ObjFun[-1]),
            "reported_curve": [float(v) for v in own.ObjFun],
            "stencils": solver.getdict().squeeze().transpose(2, 0, 1).astype(float).round(5).tolist(),
        }
    )
)
