"""A layer's weights, packed once while they stay what they are."""

from __future__ import annotations

from typing import Any

from preimage.autograd import array_of
from preimage.engines import PreparedWeight
from preimage.engines.prepared import is_fixed, same_bits
from preimage.engines.recording import recorder
from preimage.typing import Value

__all__ = ["KeptWeight"]


class KeptWeight:
    """What a layer that records nothing gives to conv in place of its parameter: the same values, packed by an earlier call.

    Whether they are the same is seen from the values: a step of an optimiser assigns a new array, and anyone may write into the old one.
    Comparing reads the weights once, which costs less than packing them; an array that nobody can write to needs no look.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: tuple[Any, PreparedWeight] | None = None

    def of(self, weight: Value) -> PreparedWeight:
        """The prepared weight for the values that a parameter or array has now."""
        array, held = array_of(weight), self._held
        if held is not None and ((held[0] is array and is_fixed(array)) or same_bits(array, held[1].array)):
            return held[1]
        prepared = PreparedWeight(array)
        self._held = (array if is_fixed(array) else None, prepared)  # an optimiser writes into arrays that nobody else holds
        return prepared

    def in_place_of(self, weight: Value) -> Value | PreparedWeight:
        """The same for a layer; for a recorder whose runs meet other values, the weight itself."""
        here = recorder()
        return weight if here is not None and here.strict else self.of(weight)

    @property
    def packed_bytes(self) -> int:
        """Memory held beside the parameter: a copy of it, and its packed forms."""
        held = self._held
        return 0 if held is None else held[1].array.nbytes + held[1].packed_bytes

    def __reduce__(self) -> tuple[Any, ...]:  # copies and files of a layer pack anew
        return (KeptWeight, ())
