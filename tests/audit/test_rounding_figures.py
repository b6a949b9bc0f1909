"""Rounding errors as figures: what they are of subjects whose error is known."""

import numpy as np
import pytest

from preimage import audit
from preimage.audit import figures
from preimage.audit.oracle import Truth
from preimage.audit.subjects import Subject
from preimage.report.audit import accuracy_table


class Exact(Subject):
    """Float64, each result rounded once more to float32 towards zero by `steps` units in the last place."""

    def __init__(self, name, steps=0):
        self.name, self.steps = name, steps

    def _rounded(self, exact):
        return (exact * (1 - self.steps * 2.0**-24)).astype(np.float32)

    def run(self, case, result, *operands, bias=None):
        named = {"conv": ("x", "w"), "conv_transpose": ("y", "w"), "conv_weight_grad": ("x", "y")}[result]
        arrays = {name: a.astype(np.float64) for name, a in zip(named, operands, strict=True)}
        return self._rounded(Truth(case, *(arrays.get(name) for name in "xwy"))[result])

    def product(self, a, b):
        return self._rounded(a.astype(np.float64) @ b)

    def total(self, x, axes):
        return self._rounded(x.sum(axes, dtype=np.float64))


@pytest.fixture(autouse=True)
def _little(monkeypatch):
    monkeypatch.setattr(figures, "LAYERS", {"3x3": figures._layer((12, 10), 9, 3)})
    monkeypatch.setattr(figures, "PRODUCTS", {"6 x 300 x 7": (6, 300, 7)})
    monkeypatch.setattr(figures, "SUMS", {"rows of 1,000": ((30, 1000), (1,))})


def test_exact_results_and_shifted_ones():
    """One rounding is at most one unit; ten units' shift of a positive sum is ten of them."""
    found = figures.summary(audit.accuracy([Exact("exact"), Exact("shifted", 10)]))
    assert len(found["exact"]) == 6
    assert all(0 < rms < 0.8 and worst <= 1 for rms, worst in found["exact"].values())
    assert found["shifted"]["sum", "positive"][0] == pytest.approx(10, abs=0.5)
    assert found["shifted"]["conv_weight_grad", "both positive"][1] == pytest.approx(10, abs=1.5)


def test_ours_beside_peers():
    rows = audit.accuracy(["jit", "gemm", *audit.PEERS])
    found = figures.summary(rows)
    assert set(found["jit"]) == set(found["gemm"])
    assert len(found["jit"]) == 6
    assert found["jit"]["sum", "positive"][1] <= 2.5
    table = accuracy_table(rows)
    assert table.row_count == len(found)
