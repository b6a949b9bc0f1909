"""Bits depend on the values alone: every operation, layer, loss, optimiser and imported node, in some of the variants of promise.py.

All variants in all dtypes: python tests/promise/promise.py
"""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from entries import ENTRIES
from entries_graphs import NO_ARITHMETIC

import promise
from preimage import nn, ops, optim, settings
from preimage.engines import around
from preimage.io.caffe import LAYERS
from preimage.io.onnx.importer import supported_ops
from promise import BATCH, Entry

KINDS = {
    "operations": set(ops.__all__),
    "layers and losses": set(nn.__all__),
    "optimisers": set(optim.__all__),
    "onnx": {f"onnx.{op}" for op in supported_ops()},
    "caffe": {f"caffe.{name}" for name in LAYERS},
}
#: What computes nothing itself.
NOTHING = {
    "layers and losses": {"LoadReport", "Module", "ModuleDict", "ModuleList", "Parameter", "Summary", "init", "summary"},
    "optimisers": {
        "Optimizer",
        "Schedule",
        "cosine",
        "exp",
        "fixed",
        "from_caffe",
        "inv",
        "multistep",
        "poly",
        "schedule",
        "sigmoid",
        "step",
    },
    **{kind: {f"{kind}.{name}" for name in names} for kind, names in NO_ARITHMETIC.items()},
}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_public_has_an_entry(kind):
    missing = KINDS[kind] - NOTHING.get(kind, set()) - {e.name for e in ENTRIES}
    assert not missing, f"add an entry to tests/promise/entries_*.py for {sorted(missing)}"
    assert NOTHING.get(kind, set()) <= KINDS[kind]


@pytest.mark.parametrize("part", range(4))
def test_the_bits_of_every_entry(part):
    assert promise.broken(ENTRIES[part::4], quick=True) == []


def test_the_documentation_says_so():
    page = (Path(__file__).parents[2] / "docs" / "contract.md").read_text(encoding="utf-8")
    assert promise.report([]) in page


SHAPE = (BATCH, 3, 40, 40)
PLANTED = {
    "layout": lambda x: np.add.reduce(x, (2, 3)),
    "batch": lambda x: x - x.mean(),
    "place": lambda x: x + np.arange(len(x), dtype=x.dtype).reshape(-1, 1, 1, 1),
    "threads": lambda x: x + np.float32(settings.thread_count()),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_found(fault):
    assert promise.broken([Entry(fault, PLANTED[fault], (SHAPE,), diff=())], quick=True)


def test_numpys_reductions_are_found(monkeypatch):
    """With NumPy's own sums, which depend on the order in memory, the reductions break the promise."""
    assert "axis" in inspect.signature(around.sum_over).parameters
    monkeypatch.setattr(around, "sum_over", lambda x, axis: np.asarray(np.add.reduce(x, axis=axis)))
    wrong = promise.broken([e for e in ENTRIES if e.name in ("mean", "log_softmax", "GroupNorm", "global_avg_pool")], quick=True)
    assert {line.split()[0] for line in wrong} == {"mean", "log_softmax", "GroupNorm", "global_avg_pool"}
