"""An exponential moving average of a net's weights, which often tests better than the weights themselves (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from preimage.engines.base import accumulator_dtype
from preimage.errors import OptionError, ShapeError
from preimage.nn import Module
from preimage.ops.operands import number_of

__all__ = ["EMA"]


class EMA:
    """average = decay average + (1 - decay) weight, after every step. `applied` puts the averages into the net for a while."""

    def __init__(self, net: Module, decay: float = 0.999) -> None:
        self.decay = number_of(decay, "EMA: decay", 0, 1)
        self._net = net
        self.averages = {name: p.data.astype(accumulator_dtype(p.dtype)) for name, p in net.named_parameters()}

    def update(self) -> None:
        """A step of the optimiser was taken."""
        for name, parameter in self._net.named_parameters():
            held = self.averages[name]
            decay = held.dtype.type(self.decay)
            self.averages[name] = decay * held + (held.dtype.type(1) - decay) * parameter.data.astype(held.dtype)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the net's weights are the averages."""
        parameters = dict(self._net.named_parameters())
        kept = {name: p.data for name, p in parameters.items()}
        for name, p in parameters.items():
            p.assign(self.averages[name].astype(p.dtype))
        try:
            yield
        finally:
            for name, p in parameters.items():
                p.assign(kept[name])

    def state_dict(self) -> dict[str, Any]:
        """Copies of the averages."""
        return {"decay": self.decay, "averages": {name: np.array(a) for name, a in self.averages.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved averages. Raises: OptionError for those of another net, ShapeError for other shapes."""
        saved = state.get("averages", {})
        if set(saved) != set(self.averages):
            raise OptionError(f"the averages are of the weights {sorted(saved)[:5]}, the net has {sorted(self.averages)[:5]}")
        for name, array in saved.items():
            if np.shape(array) != self.averages[name].shape:
                raise ShapeError(f"the average of {name!r} has shape {np.shape(array)}, wanted {self.averages[name].shape}")
        self.averages = {name: np.array(saved[name], self.averages[name].dtype) for name in self.averages}
