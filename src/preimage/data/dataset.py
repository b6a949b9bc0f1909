"""Datasets: samples by number. A sample is a tuple of arrays, the input first: (image, label), (image, mask), or (image,).

Images are (channels, height, width); labels are integers, masks (1, height, width) or, as classes, (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from preimage.autograd import array_of, as_array
from preimage.errors import FileFormatError, OptionError, ShapeError
from preimage.ops.operands import count_of, number_of

__all__ = ["ArrayDataset", "Dataset", "Sample", "Subset", "check_labels", "split"]

Array = NDArray[Any]
Sample = tuple[Any, ...]


class Dataset(Protocol):
    """What a Loader takes: a length, and samples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def check_labels(labels: Array, classes: int | None, what: str) -> None:
    """Refuse a label outside 0 .. classes - 1, naming its place. Raises: FileFormatError."""
    if labels.dtype.kind not in "iu":
        whole = labels == np.floor(labels) if labels.dtype.kind == "f" else np.zeros(labels.shape, bool)
        if not whole.all():
            place = int(np.argmin(whole.reshape(-1)))
            raise FileFormatError(f"{what}: label {labels.reshape(-1)[place]} at item {place} is no whole number")
    wrong = labels < 0 if classes is None else (labels < 0) | (labels >= classes)
    if wrong.any():
        place = int(np.argmax(wrong.reshape(-1)))
        span = "0 or more" if classes is None else f"0 to {classes - 1}"
        raise FileFormatError(f"{what}: label {labels.reshape(-1)[place]} at item {place} is out of range; wanted {span}")


class ArrayDataset:
    """Samples from arrays whose first axis counts them: ArrayDataset(images, labels).

    scale: the first array becomes float32 times this as a sample is taken; by default bytes become 0 .. 1, and other types stay as they are.

    Raises: OptionError for no arrays; ShapeError where they count differently.
    """

    def __init__(self, *arrays: Any, scale: float | None = None) -> None:
        if not arrays:
            raise OptionError("ArrayDataset takes at least one array")
        self.arrays = tuple(as_array(array_of(a), f"array {k}") for k, a in enumerate(arrays))
        counts = [a.shape[0] if a.ndim else None for a in self.arrays]
        if None in counts or len(set(counts)) > 1:
            raise ShapeError(
                f"the arrays of a dataset count their samples along the first axis; their shapes are {[a.shape for a in self.arrays]}"
            )
        if scale is None and self.arrays[0].dtype == np.uint8:
            scale = 1 / 255
        self.scale = None if scale is None else np.float32(number_of(scale, "scale"))

    def __len__(self) -> int:
        return int(self.arrays[0].shape[0])

    def __getitem__(self, index: int) -> Sample:
        first = self.arrays[0][index]
        if self.scale is not None:
            first = first.astype(np.float32) * self.scale
        return (first, *(a[index] for a in self.arrays[1:]))

    def take(self, indices: Sequence[int]) -> Sample:
        """Samples of these numbers, one after another along a new first axis: what stacking them gives, in a tenth of the time."""
        first, *others = [np.take(a, indices, axis=0) for a in self.arrays]
        if self.scale is not None:
            first = first.astype(np.float32) * self.scale
        return (first, *others)

    def describe(self, index: int) -> str:
        """Where a sample comes from."""
        return f"item {index}"


class Subset:
    """Some samples of a dataset, by their numbers. Raises: OptionError for a number that the dataset does not have."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, [count_of(i, "a sample's number", 0) for i in indices]
        if self.indices and max(self.indices) >= len(dataset):
            raise OptionError(f"sample {max(self.indices)} of a dataset of {len(dataset)}, counted from 0")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]

    def describe(self, index: int) -> str:
        """Where a sample comes from."""
        describe = getattr(self.dataset, "describe", None)
        return str(describe(self.indices[index])) if describe else f"item {self.indices[index]}"


def split(dataset: Dataset, share: float, *, seed: int = 0) -> tuple[Subset, Subset]:
    """Two parts without a common sample, the second with `share` of all (at least one); drawn from the seed.

    Raises: OptionError for a share outside 0 .. 1, or where a part would be empty.
    """
    share = number_of(share, "share", 0, 1)
    count = max(1, round(share * len(dataset)))
    if count >= len(dataset):
        raise OptionError(f"a share of {share:g} of {len(dataset)} samples leaves none for the other part")
    order = np.random.default_rng(count_of(seed, "seed", 0)).permutation(len(dataset))
    return Subset(dataset, sorted(order[count:].tolist())), Subset(dataset, sorted(order[:count].tolist()))
