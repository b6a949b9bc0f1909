"""Measures of a net's outputs over a whole set: accuracy, Dice, PSNR, and the mean of any function.

Each adds up over batches and is read at the end, so that the size of the batches does not matter (but for the mean of a function that is
itself a mean). `metric_of` makes one of a word or a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from preimage.autograd import array_of
from preimage.errors import OptionError, ShapeError

__all__ = ["PSNR", "Accuracy", "Average", "Dice", "Metric", "metric_of"]


class Metric(Protocol):
    """What is added up over batches: `update` takes a batch's outputs and targets, `value` gives the result, `reset` begins anew."""

    def reset(self) -> None: ...

    def update(self, output: Any, target: Any) -> None: ...

    def value(self) -> float: ...


class Accuracy:
    """The share of labels that have the largest score; top_k: that are among the k largest. Scores (N, classes, ...), labels (N, ...)."""

    def __init__(self, top_k: int = 1) -> None:
        self.top_k = top_k
        self.reset()

    def reset(self) -> None:
        self.right = self.count = 0

    def update(self, output: Any, target: Any) -> None:
        scores, labels = np.asarray(array_of(output)), np.asarray(array_of(target))
        if scores.ndim < 2 or labels.shape != (scores.shape[0], *scores.shape[2:]):
            raise ShapeError(
                f"accuracy takes scores (N, classes, ...) and labels (N, ...), got {scores.shape} and {labels.shape}"
            )
        labels = labels.astype(np.int64)[:, None]
        own = np.take_along_axis(scores, labels, axis=1)
        before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]).reshape(-1, *(1,) * (scores.ndim - 2)) < labels))
        self.right += int((before.sum(axis=1) < self.top_k).sum())
        self.count += labels.size

    def value(self) -> float:
        return self.right / self.count if self.count else math.nan


class Dice:
    """2 |A and B| / (|A| + |B|) over all pixels of the set: outputs above `threshold` against masks above one half; 1 where both are empty.

    threshold: 0 for logits, 0.5 for probabilities.
    """

    def __init__(self, threshold: float = 0.0) -> None:
        self.threshold = threshold
        self.reset()

    def reset(self) -> None:
        self.both = self.all = 0

    def update(self, output: Any, target: Any) -> None:
        found, wanted = np.asarray(array_of(output)) > self.threshold, np.asarray(array_of(target)) > 0.5
        if found.shape != wanted.shape:
            raise ShapeError(f"Dice takes outputs and masks of one shape, got {found.shape} and {wanted.shape}")
        self.both += int((found & wanted).sum())
        self.all += int(found.sum()) + int(wanted.sum())

    def value(self) -> float:
        return 2 * self.both / self.all if self.all else 1.0


class PSNR:
    """10 log10(peak^2 / mean squared error) in dB, over all values of the set."""

    def __init__(self, peak: float = 1.0) -> None:
        self.peak = peak
        self.reset()

    def reset(self) -> None:
        self.squares, self.count = 0.0, 0

    def update(self, output: Any, target: Any) -> None:
        a, b = (np.asarray(array_of(v), np.float64) for v in (output, target))
        if a.shape != b.shape:
            raise ShapeError(f"PSNR takes two arrays of one shape, got {a.shape} and {b.shape}")
        self.squares += float(np.square(a - b).sum())
        self.count += a.size

    def value(self) -> float:
        if not self.count:
            return math.nan
        return 10 * math.log10(self.peak**2 * self.count / self.squares) if self.squares else math.inf


class Average:
    """The mean of function(output, target) over the batches, each weighted by its number of samples."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function = function
        self.reset()

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, output: Any, target: Any) -> None:
        size = len(array_of(output))
        self.total += float(np.asarray(array_of(self.function(output, target)), np.float64)) * size
        self.count += size

    def value(self) -> float:
        return self.total / self.count if self.count else math.nan


_WORDS: dict[str, Callable[[], Metric]] = {"accuracy": Accuracy, "dice": Dice, "psnr": PSNR}


def metric_of(value: Any) -> Metric:
    """The measure that a word names (accuracy, dice, psnr), a measure as it is, a function as its mean. Raises: OptionError."""
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]()
    if all(callable(getattr(value, name, None)) for name in ("reset", "update", "value")):
        return value  # type: ignore[no-any-return]
    if callable(value) and not isinstance(value, type):
        return Average(value)
    raise OptionError(
        f"a metric is one of {', '.join(_WORDS)}, a function of output and target, or has reset, update and value; got {value!r}"
    )
