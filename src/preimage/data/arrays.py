"""Arrays from .npy and .npz files as datasets."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from preimage.data.dataset import Array, ArrayDataset
from preimage.errors import FileFormatError
from preimage.io.weights import load_weights, read_npy

__all__ = ["from_npy", "from_npz"]

StrPath = str | os.PathLike[str]
#: The names that arrays of inputs and of targets have in .npz files, the first that is there is taken.
INPUTS, TARGETS = (
    ("x", "data", "images", "image", "arr_0"),
    ("y", "label", "labels", "target", "targets", "mask", "masks", "arr_1"),
)


def from_npy(inputs: StrPath, targets: StrPath | None = None, *, scale: float | None = None) -> ArrayDataset:
    """Samples from one or two .npy files. Raises: FileFormatError for damaged files, and files that count differently."""
    paths = [inputs] if targets is None else [inputs, targets]
    return _checked([read_npy(path) for path in paths], " and ".join(map(str, paths)), scale)


def from_npz(
    path: StrPath, inputs: str | None = None, targets: str | None = None, *, prefix: str = "", scale: float | None = None
) -> ArrayDataset:
    """Samples from two arrays of an .npz file (one, where it has no other).

    inputs, targets: their names; by default the first that is there of x, data, images, ... and of y, label, labels, mask, ...
    prefix: stands before those names, as in x_train: "x" with the ending, or "train_" with "train_x".

    Raises: FileFormatError for a damaged file, and one without such arrays.
    """
    arrays = load_weights(path) if Path(path).suffix.lower() == ".npz" else {}
    if not arrays:
        raise FileFormatError(f"{path}: is no .npz file, or has no arrays")
    first = _named(arrays, inputs, INPUTS, prefix)
    if first is None:
        raise FileFormatError(
            f"{path}: has no array {inputs or ' or '.join(INPUTS)!r}; its arrays: {', '.join(list(arrays)[:10])}"
        )
    second = _named(arrays, targets, TARGETS, prefix)
    if targets is not None and second is None:
        raise FileFormatError(f"{path}: has no array {targets!r}; its arrays: {', '.join(list(arrays)[:10])}")
    return _checked([arrays[first]] + ([] if second is None else [arrays[second]]), str(path), scale)


def _named(arrays: dict[str, Array], asked: str | None, usual: tuple[str, ...], prefix: str) -> str | None:
    if asked is not None:
        return asked if asked in arrays else None
    word = prefix.strip("_")
    spellings = [f"{word}_{{}}", f"{{}}_{word}"] if word else ["{}"]
    names = [spelling.format(name) for name in usual for spelling in spellings]
    return next((name for name in names if name in arrays), None)


def _checked(arrays: list[Array], said: str, scale: float | None) -> ArrayDataset:
    counts = [len(a) if a.ndim else 0 for a in arrays]
    if not counts[0]:
        raise FileFormatError(f"{said}: holds no samples: shape {arrays[0].shape}")
    if len(set(counts)) > 1:
        raise FileFormatError(f"{said}: {counts[0]} inputs and {counts[1]} targets")
    bad = [a for a in arrays if a.dtype.kind == "f" and not np.isfinite(a.astype(np.float32, copy=False)).all()]
    if bad:
        place = int(np.argmin(np.isfinite(bad[0].reshape(len(bad[0]), -1)).all(axis=1)))
        raise FileFormatError(f"{said}: item {place} holds NaN or infinite values")
    return ArrayDataset(*arrays, scale=scale)
