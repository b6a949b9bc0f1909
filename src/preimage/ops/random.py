"""Random numbers: the library's own generator, and values dropped at random."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd.traced import whole
from preimage.engines.recording import recorder
from preimage.errors import OptionError
from preimage.locks import LOCK, hold_over_fork, import_apart
from preimage.ops.broadcast import in_wide
from preimage.ops.operands import Array, count_of, number_of
from preimage.ops.pointwise import select
from preimage.typing import Seed, Value

__all__ = ["chance_of", "dropped", "generator", "manual_seed"]

_own: np.random.Generator | None = None  # made for the first draw: importing numpy.random takes longer than reading a small model
hold_over_fork(
    lambda: None if _own is None else _own.bit_generator.lock
)  # a draw takes it: a child forked in the middle of one could never draw


def manual_seed(seed: int) -> None:
    """Start the library's own generator from a seed."""
    global _own
    _own = np.random.default_rng(count_of(seed, "seed", 0))


def generator(rng: Seed = None) -> np.random.Generator:
    """A Generator from a Generator, a seed, or None (the library's own)."""
    global _own
    if rng is None:
        if _own is None:
            import_apart("numpy.random")
            with LOCK:
                _own = _own or np.random.default_rng(0)
        return _own
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or rng < 0:
        raise OptionError(f"rng must be a numpy Generator, a seed or None, got {type(rng).__name__}")
    return np.random.default_rng(int(rng))


def chance_of(p: object, name: str) -> float:
    """A probability. Raises: OptionError for one outside 0..1."""
    chance = number_of(p, f"{name}: p")
    if not 0 <= chance <= 1:
        raise OptionError(f"{name}: p must lie in 0..1, got {chance}")
    return chance


@whole
def dropped(x: Value, p: float, shape: tuple[int, ...], rng: Any) -> Value:
    """x times 1 / (1 - p), and 0 where one number of so many (they broadcast to x) that the generator draws is below p."""

    def draw() -> Array:
        return np.asarray(generator(rng).random(shape) >= p)

    here = recorder()
    kept = draw() if here is None else here.drawn(draw)
    scale = 0.0 if p == 1 else 1 / (1 - p)
    # chosen, not multiplied by 0: an infinity that is dropped is gone
    return ops.astype(select(kept, ops.multiply(in_wide(x), scale), 0.0), x.dtype)
