"""Eight Python threads call mixed geometries of all three contractions, with forks in between: all right, no hang.

The long form:  PREIMAGE_LONG_TESTS=60 pytest tests/engines/test_jit_storm.py     (seconds)
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time

import numpy as np
import pytest
from tests import oracle

import preimage as pre
from preimage.geometry import ConvGeometry

kernels = pytest.importorskip("preimage.engines.jit.compiler.kernels")
if kernels.unavailable():
    pytest.skip(kernels.unavailable(), allow_module_level=True)

from preimage.engines import get  # noqa: E402

SECONDS = float(os.environ.get("PREIMAGE_LONG_TESTS", "3"))

SHAPES = [
    ((2, 8, 9, 8), (16, 8, 3, 3), {"padding": 1}),
    ((1, 3, 20, 21), (32, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((2, 16, 11, 11), (5, 16, 4, 4), {"stride": 2, "padding": 1}),
    ((1, 12, 14, 9), (12, 1, 3, 3), {"padding": 1, "groups": 12}),
    ((1, 24, 10, 9), (12, 8, 3, 2), {"groups": 3}),
    ((1, 1, 300), (40, 1, 10), {"stride": 5}),
    ((1, 6, 6, 5, 7), (9, 6, 2, 3, 2), {"stride": (2, 1, 2)}),
    ((4, 64, 6, 6), (64, 64, 1, 1), {}),
]


def cases():
    """(contraction, geometry, first array, second array, what must come out), small integers: every sum is exact."""
    rng, made = np.random.default_rng(17), []
    for shape, weights, options in SHAPES:
        geometry = ConvGeometry.from_conv(shape, weights, **options)
        sizes = oracle.sizes_of(geometry)
        x, w, y = (rng.integers(-2, 3, s).astype(np.float32) for s in (shape, weights, geometry.output_shape))
        made += [
            ("conv", geometry, x, w, oracle.conv(x, w, sizes)),
            ("conv_transpose", geometry, y, w, oracle.conv_transpose(y, w, sizes)),
            ("conv_weight_grad", geometry, x, y, oracle.conv_weight_grad(x, y, sizes)),
        ]
    return made


def right(case, threads: int) -> bool:
    contraction, geometry, a, b, wanted = case
    with pre.config(engine="jit", threads=threads):
        return np.array_equal(getattr(get("jit"), contraction)(geometry, a, b), wanted)


def test_a_wrong_result_would_be_seen():
    case = cases()[0]
    assert right(case, 1)
    assert not right((*case[:4], case[4] + 1), 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_storm_of_mixed_geometries_with_forks():
    all_cases, stop, wrong = cases(), time.monotonic() + SECONDS, []
    calls = [0] * 8

    def caller(number: int) -> None:
        rng = np.random.default_rng(number)
        try:
            while time.monotonic() < stop:
                case = all_cases[rng.integers(len(all_cases))]
                if not right(case, int(rng.integers(1, 4))):
                    wrong.append(case[:2])
                calls[number] += 1
        except BaseException as error:  # a thread's exception must not pass unseen
            wrong.append(error)
            raise

    callers = [threading.Thread(target=caller, args=(n,)) for n in range(8)]
    for thread in callers:
        thread.start()
    children = 0
    while time.monotonic() < stop:
        child = os.fork()
        if child == 0:
            faulthandler.register(signal.SIGUSR1, all_threads=True)
            fine = all(right(case, 2) for case in all_cases[children % 3 :: 3])
            os._exit(0 if fine else 1)
        assert finished(child, 60) == 0
        children += 1
        time.sleep(0.05)
    for thread in callers:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a caller hangs"
    assert not wrong
    assert min(calls) > 0
    assert children > 0


def finished(child: int, seconds: float) -> int:
    """The exit status of a child, which is ended if it hangs."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    os.kill(child, signal.SIGUSR1)  # say where
    time.sleep(0.5)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1
