"""Batches of one size without an end: after the last sample the first follows in the same batch, as Caffe's data layers have it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import numpy as np

from preimage.data.dataset import Dataset
from preimage.data.loader import Loader
from preimage.data.transforms import Transform
from preimage.errors import OptionError
from preimage.ops.operands import count_of

__all__ = ["Endless"]


class Endless:
    """`next()` gives the next batch. shuffle: another order in each round, from `seed`; transforms draw from the seed and the batch's number.

    ahead: one batch is made by a thread while the last one is in use. `taken` counts the batches that were given out; setting it moves there.

    Raises: OptionError for an empty dataset.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        transform: Transform | None = None,
        ahead: bool = True,
    ) -> None:
        self.dataset, self.batch_size = dataset, count_of(batch_size, "batch_size", 1)
        if not len(dataset):
            raise OptionError("a dataset without samples has no batches")
        self.shuffle, self.seed = bool(shuffle), count_of(seed, "seed", 0)
        self._loader = Loader(dataset, 1, transform=transform)
        self._taken = 0
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="preimage-data") if ahead else None
        self._waiting: tuple[int, Future[Any]] | None = None
        self._order: tuple[int, Any] = (-1, None)

    def next(self) -> tuple[Any, ...]:
        """The next batch, a tuple of arrays. Raises: what the dataset raises, with the sample's number."""
        number, waiting = self._taken, self._waiting
        batch = waiting[1].result() if waiting is not None and waiting[0] == number else self._batch(number)
        self._taken += 1
        if self._ahead is not None:
            self._waiting = (self._taken, self._ahead.submit(copy_context().run, self._batch, self._taken))
        return batch

    def _batch(self, number: int) -> tuple[Any, ...]:
        count = len(self.dataset)
        places = range(number * self.batch_size, (number + 1) * self.batch_size)
        indices = [self._index(*divmod(place, count)) for place in places]
        return self._loader.together(indices, np.random.default_rng([self.seed, 1, number]))

    def _index(self, round_: int, place: int) -> int:
        if not self.shuffle:
            return place
        if self._order[0] != round_:
            self._order = (round_, np.random.default_rng([self.seed, 0, round_]).permutation(len(self.dataset)))
        return int(self._order[1][place])

    @property
    def taken(self) -> int:
        """How many batches were given out."""
        return self._taken

    def close(self) -> None:
        """End the thread."""
        if self._ahead is not None:
            self._ahead.shutdown(wait=True, cancel_futures=True)
            self._ahead = self._waiting = None

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        return {"taken": self._taken, "batch_size": self.batch_size, "samples": len(self.dataset)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises: OptionError for a state of other data or another batch size."""
        own = self.state_dict()
        if any(state.get(name) != own[name] for name in ("batch_size", "samples")):
            raise OptionError(
                f"the data's state is of {state.get('samples')} samples in batches of {state.get('batch_size')}, "
                f"there are {len(self.dataset)} in batches of {self.batch_size}"
            )
        self._taken = count_of(state["taken"], "taken", 0)
