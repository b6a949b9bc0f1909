"""Pure sums are the contract's, bit for bit: a slice of what `python tests/promise/sum_cases.py` compares by the ten thousand."""

import numpy as np
import sum_cases

from preimage.engines import around, sums


def test_sums_are_the_definition():
    seen, wrong = sum_cases.differing(range(180))
    assert wrong == []
    assert len(seen) == len(sum_cases.KINDS)


def test_another_order_is_seen(monkeypatch):
    """NumPy's own reduction, and blocks of another length, are found to differ."""
    plain = range(0, 300, len(sum_cases.KINDS))
    with monkeypatch.context() as patch:
        patch.setattr(around, "sum_over", lambda x, axis: np.add.reduce(x, axis))
        assert sum_cases.differing(plain)[1]
    with monkeypatch.context() as patch:
        patch.setattr(around, "active", lambda: None)
        assert not sum_cases.differing(plain)[1]
        patch.setattr(sums, "BLOCK", 256)
        assert sum_cases.differing(range(0, 600, len(sum_cases.KINDS)))[1]
