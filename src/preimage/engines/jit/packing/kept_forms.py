"""Packed forms of weights that nobody can change, kept as long as the weights live."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

from preimage.engines.base import Array
from preimage.resources import register_keeper

__all__ = ["KeptForms"]

F = TypeVar("F")


class KeptForms(Generic[F]):
    """Packed forms, by the array whose memory the weights are; they go when it does. bytes_of: of one form."""

    def __init__(self, bytes_of: Callable[[F], int]) -> None:
        self._found: dict[int, tuple[weakref.ref[Array], dict[Any, F]]] = {}
        self._bytes_of = bytes_of
        register_keeper(self)

    def of(self, weight: Array) -> dict[Any, F]:
        """The forms of all weights in this memory."""
        root = weight
        while isinstance(root.base, np.ndarray):
            root = root.base
        number, found = id(root), self._found.get(id(root))
        if found is None or found[0]() is not root:
            found = self._found[number] = weakref.ref(root, lambda _: self._found.pop(number, None)), {}
        return found[1]

    def clear(self) -> int:
        """Let go of them; returns how many bytes."""
        before, self._found = self._found, {}
        return sum([self._bytes_of(form) for _, forms in list(before.values()) for form in list(forms.values())])
