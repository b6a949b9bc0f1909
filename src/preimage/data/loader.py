"""Batches of a dataset: in order or shuffled from a seed, changed by transforms, made ahead by threads; and where one stands among them.

The order of an epoch depends on the seed and the epoch's number alone, what transforms draw on these and the batch's number. So the same
batches come for any number of workers, and a run that goes on in the middle of an epoch gets the batches that it would have got.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import numpy as np

from preimage.autograd import array_of, as_array
from preimage.data.dataset import ArrayDataset, Dataset, Sample
from preimage.data.transforms import Compose, Transform
from preimage.errors import OptionError, PreimageError, ShapeError
from preimage.ops.operands import count_of

__all__ = ["Batches", "Loader", "Stream", "arrays_of", "batches_of"]

Batch = tuple[Any, ...]


class Loader:
    """Batches of a dataset, epoch by epoch: each `for batch in loader` is one epoch, a batch a tuple of arrays.

    shuffle: another order in each epoch, from `seed`. transform: one, or several in a row. workers: threads that make batches ahead (0: none),
    up to `prefetch` of them beside those in work. drop_last: leave out a last batch that is smaller.

    `state_dict` says where the latest epoch stands, counting the batches that were given out; after `load_state_dict` the next epoch goes
    on from there.

    Raises: OptionError for an empty dataset. What a dataset raises comes when its batch is due, with the sample's number.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        *,
        shuffle: bool = False,
        seed: int = 0,
        transform: Transform | Sequence[Transform] | None = None,
        workers: int = 0,
        prefetch: int = 2,
        drop_last: bool = False,
    ) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise OptionError(
                f"a dataset has a length and samples by number, got {type(dataset).__name__}; any iterable of batches needs no Loader"
            )
        self.dataset, self.batch_size = dataset, count_of(batch_size, "batch_size", 1)
        self.shuffle, self.seed, self.drop_last = bool(shuffle), count_of(seed, "seed", 0), bool(drop_last)
        self.workers, self.prefetch = count_of(workers, "workers", 0), count_of(prefetch, "prefetch", 0)
        several = isinstance(transform, Sequence)
        self.transform = None if transform is None else Compose(*transform) if several else Compose(transform)  # type: ignore[misc,arg-type]
        if not len(self):
            raise OptionError(f"a dataset of {len(dataset)} samples has no batch of {self.batch_size}")
        self._at = (0, 0)  # epoch, batches given out
        self._fresh = True  # the next iteration begins at _at

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    @property
    def epoch(self) -> int:
        """The number of the epoch that is under way, or comes next."""
        return self._at[0]

    def __iter__(self) -> Iterator[Batch]:
        if not self._fresh and self._at[1]:  # the epoch before was left in the middle
            self._at = (self._at[0] + 1, 0)
        self._fresh = False
        return self._epoch(*self._at)

    def _epoch(self, epoch: int, first: int) -> Iterator[Batch]:
        order = self._order(epoch)
        numbers = range(first, len(self))
        made = self._ahead(epoch, order, numbers) if self.workers else (self._batch(epoch, order, k) for k in numbers)
        for number, batch in zip(numbers, made, strict=True):
            self._at = (epoch, number + 1) if number + 1 < len(self) else (epoch + 1, 0)
            yield batch

    def _order(self, epoch: int) -> Any:
        if not self.shuffle:
            return range(len(self.dataset))
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset))

    def _batch(self, epoch: int, order: Any, number: int) -> Batch:
        begin = number * self.batch_size
        indices = [int(order[k]) for k in range(begin, min(begin + self.batch_size, len(self.dataset)))]
        return self.together(indices, np.random.default_rng([self.seed, epoch, 1 + number]) if self.transform else None)

    def together(self, indices: Sequence[int], rng: np.random.Generator | None) -> Batch:
        """The samples of these numbers as a batch; transforms draw from `rng`."""
        if rng is None and type(self.dataset) is ArrayDataset and all(map(_is_plain, self.dataset.arrays)):
            return self.dataset.take(indices)
        return _together([self._sample(index, rng) for index in indices], indices)

    def _sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        try:
            found = self.dataset[index]
            sample = tuple(found) if isinstance(found, tuple | list) else (found,)
            return sample if rng is None or self.transform is None else self.transform(sample, rng)
        except PreimageError as error:
            describe = getattr(self.dataset, "describe", None)
            where = f" ({describe(index)})" if describe and str(describe(index)) not in str(error) else ""
            raise type(error)(f"sample {index} of {len(self.dataset)}{where}: {error}") from error

    def _ahead(self, epoch: int, order: Any, numbers: range) -> Iterator[Batch]:
        """Batches in their order, made by threads."""
        waiting: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="preimage-data")
        try:
            for number in numbers:
                waiting.append(pool.submit(copy_context().run, self._batch, epoch, order, number))
                if len(waiting) >= self.workers + self.prefetch:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def state_dict(self) -> dict[str, Any]:
        """Where the latest epoch stands."""
        return {
            "epoch": self._at[0],
            "batch": self._at[1],
            "seed": self.seed,
            "batch_size": self.batch_size,
            "samples": len(self.dataset),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next epoch go on from there. Raises: OptionError for a state of other data, another seed or batch size."""
        own = self.state_dict()
        for name, word in (("samples", "samples"), ("batch_size", "a batch size"), ("seed", "a seed")):
            if state.get(name) != own[name]:
                raise OptionError(
                    f"the data's state is of {word} {state.get(name)}, this loader has {own[name]}: they would not go on alike;"
                    f" go on with {word} {state.get(name)}, or begin anew in another folder"
                )
        epoch, batch = count_of(state["epoch"], "epoch", 0), count_of(state["batch"], "batch", 0)
        if batch >= len(self):
            raise OptionError(f"the data's state is at batch {batch} of {len(self)}")
        self._at, self._fresh = (epoch, batch), True


def _is_plain(array: Any) -> bool:
    """Whether elements taken from an array lie as copies of its samples would."""
    return type(array) is np.ndarray and array.dtype.isnative and array.flags.c_contiguous


def _together(samples: Sequence[Sample], numbers: Sequence[int]) -> Batch:
    """Samples as a batch. Raises: ShapeError that names the sample which differs."""
    first = samples[0]
    if {len(sample) for sample in samples} == {len(first)}:
        parts = [[np.asarray(sample[k]) for sample in samples] for k in range(len(first))]
        if all({part.shape for part in arrays} == {arrays[0].shape} for arrays in parts):
            return tuple(map(np.stack, parts))
    for number, sample in zip(numbers, samples, strict=True):
        if len(sample) != len(first):
            raise ShapeError(f"sample {number} has {len(sample)} parts, sample {numbers[0]} of the same batch {len(first)}")
        for part, (a, b) in enumerate(zip(sample, first, strict=True)):
            if np.shape(a) != np.shape(b):
                raise ShapeError(
                    f"sample {number} has shape {np.shape(a)} in part {part}, sample {numbers[0]} of the same batch {np.shape(b)}; crop them alike"
                )
    raise AssertionError("samples that do not make a batch differ somewhere")


def arrays_of(batch: Any) -> Batch:
    """A batch of anyone's as a tuple of arrays: tuples and lists of arrays or torch tensors, dicts (their values), one array.

    Raises: DTypeError for what is no array.
    """
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    parts = batch if isinstance(batch, tuple | list) else (batch,)
    return tuple(as_array(array_of(part), f"part {k} of a batch", values_only=True) for k, part in enumerate(parts))


class Stream:
    """Any iterable of batches that can start again (a list, a torch DataLoader), epoch by epoch, with a place to go on from.

    To go on in the middle of an epoch it iterates from the start and leaves out what was given before: the same batches come where the iterable
    gives the same ones each time.

    Raises: OptionError for what cannot be iterated, and for an epoch without batches.
    """

    def __init__(self, source: Iterable[Any]) -> None:
        if not isinstance(source, Iterable) or isinstance(source, str | bytes | Mapping):
            raise OptionError(f"data must be a Loader or an iterable of batches, got {type(source).__name__}")
        if isinstance(source, Iterator):
            raise OptionError(
                "the data can be iterated once only; give a list, a Loader, or an object whose __iter__ begins again"
            )
        self.source = source
        self._at, self._fresh = (0, 0), True

    def __iter__(self) -> Iterator[Batch]:
        if not self._fresh and self._at[1]:
            self._at = (self._at[0] + 1, 0)
        self._fresh = False
        return self._epoch(*self._at)

    def _epoch(self, epoch: int, first: int) -> Iterator[Batch]:
        number = -1
        for number, batch in enumerate(self.source):
            if number < first:
                continue
            self._at = (epoch, number + 1)
            yield arrays_of(batch)
        if number < 0:
            raise OptionError("the data have no batches")
        self._at = (epoch + 1, 0)

    def state_dict(self) -> dict[str, Any]:
        """Where the latest epoch stands."""
        return {"epoch": self._at[0], "batch": self._at[1]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next epoch go on from there."""
        self._at, self._fresh = (count_of(state["epoch"], "epoch", 0), count_of(state["batch"], "batch", 0)), True


Batches = Loader | Stream


def batches_of(source: Any) -> Batches:
    """A Loader or Stream as it is, anything else that can be iterated as a Stream."""
    return source if isinstance(source, Loader | Stream) else Stream(source)
