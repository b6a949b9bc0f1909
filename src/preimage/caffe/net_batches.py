"""Many inputs through a Net: in batches of its size, or from the caller's data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from preimage.caffe.errors import MemoryDataError
from preimage.caffe.feeds import Feed, Source
from preimage.errors import OptionError
from preimage.io.caffe.python_layers import Blob

__all__ = ["NetBatches"]


class NetBatches:
    """What a Net can do with more inputs than one batch."""

    blobs: Mapping[str, Blob]
    inputs: list[str]
    outputs: list[str]
    layers: list[Any]
    top_names: Mapping[str, list[str]]
    _layer_names: list[str]
    _feed: Feed | None

    def forward(self, blobs: Sequence[str] | None = None, **options: Any) -> dict[str, Any]:
        raise NotImplementedError

    def backward(self, diffs: Sequence[str] | None = None, **options: Any) -> dict[str, Any]:
        raise NotImplementedError

    def set_data(self, data: Source | None) -> None:
        """Where each whole forward pass takes its inputs from: batches `{"data": array, ...}`, a function that gives them, or None."""
        self._feed = None if data is None else Feed(data)

    def _fill(self) -> None:
        """The next batch into the input blobs."""
        if self._feed is None:
            return
        batch = self._feed.next()
        if strangers := [name for name in batch if name not in self.inputs]:
            raise OptionError(f"the batch has {strangers[0]!r}, the net's inputs are {self.inputs}")
        for name, value in batch.items():
            self.blobs[name].reshape(*value.shape)
            self.blobs[name].data[...] = value

    def set_input_arrays(self, data: Any, labels: Any) -> None:
        """The images (N, C, H, W) and labels (N,) or (N, 1, 1, 1) that a MemoryData layer, the first, gives batch by batch, again and again.

        Raises: MemoryDataError (a RuntimeError) for arrays that are not float32, of other sizes, or no whole number of batches.
        """
        if not self.layers or self.layers[0].type != "MemoryData":
            raise MemoryDataError("set_input_arrays needs a net whose first layer is a MemoryData layer")
        tops = self.top_names[self._layer_names[0]]
        batch, *sizes = self.blobs[tops[0]].shape
        labels = np.asarray(labels).reshape(-1, 1, 1, 1) if np.ndim(labels) == 1 else labels
        for word, array, wanted in (("data", data, tuple(sizes)), ("labels", labels, (1, 1, 1))):
            if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != 4 or array.shape[1:] != wanted:
                got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
                raise MemoryDataError(f"{word} must be a float32 array of shape {('N', *wanted)}, got {got}")
            if not array.flags.c_contiguous:
                raise MemoryDataError(f"{word} must be C contiguous; numpy.ascontiguousarray makes a copy that is")
        if len(data) != len(labels) or not len(data) or len(data) % batch:
            raise MemoryDataError(
                f"{len(data)} images and {len(labels)} labels: wanted as many, a multiple of the batch size {batch}"
            )
        rows = labels.reshape(-1)
        self.set_data(
            [dict(zip(tops, (data[k : k + batch], rows[k : k + batch]), strict=False)) for k in range(0, len(data), batch)]
        )

    def forward_all(self, blobs: Sequence[str] | None = None, **inputs: Any) -> dict[str, Any]:
        """Run any number of inputs, in batches of the input blob's size; the last batch is padded and cut."""
        names = list(dict.fromkeys([*self.outputs, *(blobs or [])]))
        collected: dict[str, list[Any]] = {name: [] for name in names}
        for batch in self._batch(inputs):
            for name, value in self.forward(blobs=blobs, **batch).items():
                collected[name].extend(np.array(value))
        count = len(next(iter(inputs.values())))
        return {name: np.asarray(rows[:count]) for name, rows in collected.items()}

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **arrays: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Forward and backward in batches; keywords are inputs and diffs of outputs."""
        values: dict[str, list[Any]] = {name: [] for name in dict.fromkeys([*self.outputs, *(blobs or [])])}
        slopes: dict[str, list[Any]] = {name: [] for name in dict.fromkeys([*self.inputs, *(diffs or [])])}
        fed = {name: value for name, value in arrays.items() if name in self.inputs}
        seeded = {name: value for name, value in arrays.items() if name in self.outputs}
        tops = self._batch(seeded) if seeded else iter(())
        for batch in self._batch(fed):
            for name, value in self.forward(blobs=blobs, **batch).items():
                values[name].extend(np.array(value))
            for name, value in self.backward(diffs=diffs, **next(tops, {})).items():
                slopes[name].extend(np.array(value))
        count = len(next(iter(fed.values())))
        return ({k: np.asarray(v[:count]) for k, v in values.items()}, {k: np.asarray(v[:count]) for k, v in slopes.items()})

    def _batch(self, arrays: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The arrays in pieces of the net's batch size, the last one padded with zeros."""
        if not arrays:
            raise OptionError(f"no arrays were given; the net's inputs are {self.inputs}")
        size = self.blobs[self.inputs[0]].shape[0]
        lengths = {name: len(value) for name, value in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise OptionError(f"the arrays must be as long as one another, got {lengths}")
        for begin in range(0, next(iter(lengths.values())), size):
            batch = {name: np.asarray(value[begin : begin + size]) for name, value in arrays.items()}
            short = size - len(next(iter(batch.values())))
            if short:
                batch = {k: np.concatenate([v, np.zeros((short, *v.shape[1:]), v.dtype)]) for k, v in batch.items()}
            yield batch
