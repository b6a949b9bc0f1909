"""BLAS runs on as many threads as the setting says, and afterwards on as many as before."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import preimage as pre
from preimage.engines import get
from preimage.engines.blas import SMALL_FLOP, blas_thread_control, blas_thread_count, blas_threads
from preimage.geometry import ConvGeometry

GEOMETRY = ConvGeometry.from_conv((1, 32, 40, 40), (32, 32, 3, 3))


@pytest.fixture
def control():
    found = blas_thread_control()
    if found is None:
        pytest.skip("NumPy's BLAS here is not an OpenBLAS that can be reached")
    before = found[0]()
    yield found
    found[1](before)


def test_the_number_is_set_and_put_back(control):
    get_threads, set_threads = control
    for before in (1, 2):
        set_threads(before)
        for wanted in (1, 2):
            with blas_threads(wanted, SMALL_FLOP):
                assert get_threads() == wanted
            assert get_threads() == before
        with blas_threads(0, SMALL_FLOP):
            assert get_threads() == before, "0 leaves it as it is"
        with blas_threads(3 - before, SMALL_FLOP - 1):
            assert get_threads() == before, "small products are left alone"


def test_it_is_put_back_after_an_error(control):
    get_threads, set_threads = control
    set_threads(2)
    with pytest.raises(ZeroDivisionError), blas_threads(1, SMALL_FLOP):
        raise ZeroDivisionError
    assert get_threads() == 2


def test_the_plan_says_it(control):
    control[1](2)
    for setting, said in ((1, 1), (2, 2), (0, 2)):
        with pre.config(threads=setting):
            assert get("gemm").plan(GEOMETRY, "conv", np.dtype(np.float32)).threads == said
    assert blas_thread_count(5) == 5


def test_without_control(monkeypatch):
    monkeypatch.setattr(sys.modules["preimage.engines.blas"], "blas_thread_control", lambda: None)
    assert blas_thread_count(0) >= 1
    with blas_threads(1, SMALL_FLOP):
        pass
