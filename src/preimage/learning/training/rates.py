"""A learning rate found by trying: rates from low to high, one a step, until the loss grows (Smith 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from preimage.data import batches_of
from preimage.errors import DivergedError, OptionError
from preimage.learning.checkpoints import restored, states
from preimage.learning.training.trainer import Trainer
from preimage.ops.operands import count_of, number_of

__all__ = ["RateSearch", "find_lr"]


@dataclass(frozen=True, slots=True)
class RateSearch:
    """The rates that were tried, the loss after each, smoothed, and a tenth of the rate at which it was lowest."""

    rates: list[float]
    losses: list[float]
    suggestion: float


def find_lr(
    trainer: Trainer, data: Any, *, low: float = 1e-6, high: float = 1.0, steps: int = 60, smooth: float = 0.8
) -> RateSearch:
    """Try rates from low to high, each a constant factor above the last; net, optimiser, schedule and data are then as they were.

    Ends early where the loss is four times the lowest, or no number. Raises: OptionError for an empty range, and where no rate made the loss fall.
    """
    low, high, steps = number_of(low, "low", 0), number_of(high, "high", 0), count_of(steps, "steps", 3)
    if not 0 < low < high:
        raise OptionError(f"find_lr takes 0 < low < high, got {low} and {high}")
    kept, schedule, ema, step = trainer._data, trainer.schedule, trainer.ema, trainer.step
    trainer._data = batches_of(data)
    parts = trainer.parts()
    before = states(parts)
    trainer.schedule = trainer.ema = None
    rates: list[float] = []
    losses: list[float] = []
    try:
        mean = 0.0
        for k in range(steps):
            rate = low * (high / low) ** (k / (steps - 1))
            trainer.optimizer.lr = rate
            try:
                loss = trainer.advance()["loss"]
            except DivergedError:
                break
            mean = smooth * mean + (1 - smooth) * loss
            rates.append(rate)
            losses.append(mean / (1 - smooth ** (k + 1)))
            if losses[-1] > 4 * min(losses):
                break
    finally:
        trainer.close()
        trainer.schedule, trainer.ema, trainer.step = schedule, ema, step
        restored(parts, before)
        trainer._data = kept
    if len(rates) < 3:
        raise OptionError(f"the loss grew at once, at a rate of {low:g}: give a smaller low")
    lowest = int(np.argmin(losses))
    if not lowest:
        raise OptionError(f"no rate of {low:g} to {high:g} made the loss fall")
    return RateSearch(rates, losses, rates[lowest] / 10)
