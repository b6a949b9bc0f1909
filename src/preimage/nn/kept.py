"""A layer's weights, packed once while they stay what they are."""

from __future__ import annotations

from typing import Any

from preimage.autograd import Tensor
from preimage.engines import PreparedWeight
from preimage.engines.prepared import same_bits

__all__ = ["KeptWeight"]


class KeptWeight:
    """What a layer that records nothing gives to conv in place of its parameter: the same values, packed by an earlier call.

    Whether they are the same is seen from the values: a step of an optimiser assigns a new array, and anyone may write into the old one.
    Comparing reads the weights once, which costs less than packing them.
    """

    __slots__ = ("_prepared",)

    def __init__(self) -> None:
        self._prepared: PreparedWeight | None = None

    def of(self, weight: Tensor) -> PreparedWeight | Tensor:
        """The prepared weight of a parameter's values of now."""
        held = self._prepared
        if held is None or not same_bits(weight.data, held.array):
            held = self._prepared = PreparedWeight(weight.data)
        return held

    @property
    def packed_bytes(self) -> int:
        """Memory held beside the parameter: a copy of it, and its packed forms."""
        held = self._prepared
        return 0 if held is None else held.array.nbytes + held.packed_bytes

    def __reduce__(self) -> tuple[Any, ...]:  # copies and files of a layer pack anew
        return (KeptWeight, ())
