"""Where a NaN or infinity came from: the batch, a weight, the first layer that made it from finite numbers, or the loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from preimage.autograd import Tensor, array_of, no_grad
from preimage.learning.training.recorded import input_of
from preimage.nn import Module

__all__ = ["finite", "first_gradient", "origin"]


def finite(array: Any) -> bool:
    """Whether all values are finite: by their sum, and one by one where that overflowed."""
    values = np.asarray(array)
    if values.dtype.kind not in "fV":
        return True
    with np.errstate(all="ignore"):
        total = (
            float(np.add.reduce(values.ravel(order="K"), dtype=np.float32 if values.dtype.itemsize <= 4 else np.float64))
            if values.size
            else 0.0
        )
    return bool(np.isfinite(total) or np.isfinite(values.astype(np.float64)).all())


def first_gradient(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """The first weight whose gradient is not finite; None if all are."""
    for name, parameter in named:
        if parameter.grad is not None and not finite(parameter.grad.data):
            return name
    return None


def origin(net: Module, batch: Sequence[Any], call: Any = None) -> str:
    """In words, where the first NaN or infinity of a pass is: runs the net once more on the batch and looks at every layer's result.

    call: how the net is run on the batch; default: on its first part.
    """
    for part, array in enumerate(batch):
        if not finite(array):
            values = np.asarray(array, np.float64)
            sample = int(np.argmin(np.isfinite(values.reshape(len(values), -1)).all(axis=1)))
            return f"part {part} of the batch holds it already, in its sample {sample}"
    for name, parameter in net.named_parameters():
        if not finite(parameter.data):
            return f"the weight {name!r} holds it already, since the update before"
    found: list[str] = []
    names = {id(m): name for name, m in net.named_modules()}

    def look(module: Module, arguments: tuple[Any, ...], result: Any) -> None:
        if not found and not _all_finite(result):
            found.append(f"layer {names[id(module)] or '(the net)'!r} ({type(module).__name__}) gave it from finite numbers")

    hooks = [module.register_forward_hook(look) for module in net.modules()]
    try:
        with no_grad(), np.errstate(all="ignore"):
            if call is None:
                net(input_of(array_of(batch[0])))
            else:
                call()
    finally:
        for remove in hooks:
            remove()
    return found[0] if found else "every layer's result is finite: the loss itself gave it"


def _all_finite(result: Any) -> bool:
    if isinstance(result, list | tuple):
        return all(map(_all_finite, result))
    return finite(array_of(result)) if isinstance(result, Tensor | np.ndarray) else True
