"""States of layers that torch trained under weight normalisation: the direction v and the length g of a weight, in place of the weight.

weight = g v / |v|, with the norm over all axes along which g has one entry (Salimans and Kingma 2016). Files of vocoders hold it so,
under one of two pairs of names: `weight_g` and `weight_v` (torch.nn.utils.weight_norm), or `parametrizations.weight.original0` and `original1`
(torch.nn.utils.parametrizations.weight_norm).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from preimage import ops
from preimage.autograd import array_of, as_array
from preimage.errors import ShapeError
from preimage.typing import Array, Operand

__all__ = ["with_weights"]


def with_weights(state: Mapping[str, Operand], wanted: Iterable[str]) -> Mapping[str, Operand]:
    """The state with a weight in place of each g and v, for those of the wanted names that the state itself has not.

    Raises: ShapeError for a g that does not fit its v.
    """
    found: dict[str, Operand] = {}
    used: set[str] = set()
    for name in wanted:
        if name in state:
            continue
        for pair in _pairs(name):
            if all(key in state for key in pair):
                found[name] = _weight(name, *(as_array(array_of(state[key]), key, values_only=True) for key in pair))
                used |= set(pair)
    return {**{key: value for key, value in state.items() if key not in used}, **found} if found else state


def _pairs(name: str) -> list[tuple[str, str]]:
    """The names under which the length and the direction of a weight may stand."""
    path, dot, last = name.rpartition(".")
    within = f"{path}{dot}parametrizations.{last}.original"
    return [(f"{name}_g", f"{name}_v"), (f"{within}0", f"{within}1")]


def _weight(name: str, length: Array, direction: Array) -> Array:
    """In float64, whatever the arrays are: rounded once, by who stores it. Where v is 0, so is the weight's direction: NaN, as in torch."""
    if length.ndim not in (0, direction.ndim) or any(
        n not in (1, m) for n, m in zip(length.shape, direction.shape, strict=False)
    ):
        raise ShapeError(f"{name}: the lengths have shape {length.shape}, which does not fit the directions' {direction.shape}")
    axes = tuple(k for k in range(direction.ndim) if not length.ndim or length.shape[k] == 1)
    v = direction.astype(np.float64)
    norm = np.asarray(array_of(ops.sqrt(ops.sum(ops.square(v), axes, keepdims=True))))
    with np.errstate(all="ignore"):
        return np.asarray(v * (length.astype(np.float64) / norm))
