"""The constants and the one global of pycaffe: phases and the random seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["TEST", "TRAIN", "next_seed", "set_random_seed"]

TRAIN, TEST = 0, 1


@dataclass(slots=True)
class _Seeds:
    rng: np.random.Generator


_seeds = _Seeds(np.random.default_rng())


def set_random_seed(seed: int) -> None:
    """Make nets that are built from now on repeatable: their fillers, and what Dropout and DummyData draw."""
    _seeds.rng = np.random.default_rng(seed)


def next_seed() -> int:
    """A seed for one net."""
    return int(_seeds.rng.integers(1 << 31))
