"""Where the inputs of a net come from: batches given by the caller, in place of Caffe's databases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from preimage.errors import OptionError

__all__ = ["Feed", "Source"]

Batch = Mapping[str, Any]
Source = Callable[[], Batch] | Iterable[Batch]


class Feed:
    """Batches, each `{"data": array, "label": array}`: from a function called for each, or an iterable that starts again at its end.

    Arrays are as the net takes them: what transform_param of a data layer says (scale, mean, crop, mirror) is done already.
    """

    def __init__(self, source: Source) -> None:
        if not callable(source) and not isinstance(source, Iterable):
            raise OptionError(f"data must be an iterable of batches or a function that gives one, got {type(source).__name__}")
        self._source = source
        self._batches: Iterator[Any] | None = None
        self._waiting: list[dict[str, Any]] = []

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the next batch, which stays the next."""
        if not self._waiting:
            self._waiting.append(self.next())
        return {name: tuple(np.shape(value)) for name, value in self._waiting[0].items()}

    def next(self) -> dict[str, Any]:
        """The next batch."""
        if self._waiting:
            return self._waiting.pop()
        batch = self._source() if callable(self._source) else self._advance()
        if not isinstance(batch, Mapping):
            raise OptionError(
                f"a batch must be a mapping of input names to arrays, {{'data': ..., 'label': ...}}, got {type(batch).__name__}"
            )
        return {str(name): np.asarray(value, np.float32) for name, value in batch.items()}

    def _advance(self) -> Any:
        assert not callable(self._source)
        end = object()
        for _ in range(2):
            if self._batches is None:
                self._batches = iter(self._source)
            batch = next(self._batches, end)
            if batch is not end:
                return batch
            self._batches = None
        raise OptionError("the data have no more batches: give a list or another iterable that can start again, or a function")
