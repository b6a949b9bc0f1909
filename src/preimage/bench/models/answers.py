"""How far two lists of outputs are apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["FLOOR", "difference"]

#: Answers whose range is smaller are compared in parts of this: probabilities near zero are known to two units in the last place of 1 at best,
#: where an activation is computed as 1 / (1 + exp(-x)).
FLOOR = 2e-3


def difference(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The largest difference, in parts of each output's range; or of a tenth of its largest magnitude, or of FLOOR, where that is more.

    Infinity where shapes, or the places of NaN and infinities, are others. Whole numbers and booleans (indices, labels) count by the share
    of elements that are not the same.
    """
    if len(found) != len(wanted):
        return float("inf")
    return max((_one(np.asarray(a), np.asarray(b)) for a, b in zip(found, wanted, strict=True)), default=0.0)


def _one(found: np.ndarray, wanted: np.ndarray) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    if wanted.dtype.kind not in "fc":
        return float(np.mean(found != wanted))
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    a, b = a[finite], b[finite]
    spread = max(float(np.ptp(b)), 0.1 * float(np.abs(b).max()), FLOOR)
    return float(np.abs(a - b).max()) / spread
