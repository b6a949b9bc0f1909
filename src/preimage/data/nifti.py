"""Volumes of NIfTI files (.nii, .nii.gz), by nibabel, which is imported on first use; slices of them as pictures with masks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from preimage.data.dataset import Array, Sample
from preimage.errors import FileFormatError, MissingPackageError, OptionError, ShapeError
from preimage.io import limits

__all__ = ["SliceDataset", "read_nifti"]

StrPath = str | os.PathLike[str]


def read_nifti(path: StrPath) -> Array:
    """The volume of a NIfTI file as float32, its scale applied, axes as the file has them.

    Raises: MissingPackageError without nibabel; FileFormatError for a file that is missing, damaged, or larger than the limits.
    """
    try:
        import nibabel
    except ImportError:
        raise MissingPackageError("NIfTI files need the package nibabel: pip install 'preimage[data]'") from None
    source = Path(path)
    if not source.is_file():
        raise FileFormatError(f"there is no file {str(path)!r}")
    try:
        image = nibabel.Nifti1Image.from_filename(str(source))
        shape = tuple(int(n) for n in image.shape)
        if not shape or min(shape) < 1:
            raise FileFormatError(f"{path}: a volume of shape {shape}")
        limits.check_bytes(8 * int(np.prod(np.asarray(shape, np.float64))), f"{path}: a volume of {' x '.join(map(str, shape))}")
        volume: Array = np.asarray(image.dataobj, np.float32)
    except FileFormatError:
        raise
    except Exception as error:  # nibabel, gzip and zlib each have their own
        raise FileFormatError(f"{path}: cannot be read as NIfTI: {error}") from None
    if not np.isfinite(volume).all():
        place = np.unravel_index(int(np.argmin(np.isfinite(volume))), volume.shape)
        raise FileFormatError(f"{path}: voxel {tuple(int(i) for i in place)} is NaN or infinite")
    return volume


class SliceDataset:
    """Slices of volumes across one axis as (image, mask): each (1, H, W), padded with zeros to multiples of `multiple`.

    volume, mask: arrays of the same three axes. least: slices whose mask adds up to less are left out.

    Raises: ShapeError for volumes of other shapes; OptionError where no slice is left.
    """

    def __init__(self, volume: Any, mask: Any, *, axis: int = 2, multiple: int = 1, least: float = 0.0) -> None:
        first, second = np.asarray(volume, np.float32), np.asarray(mask, np.float32)
        if first.ndim != 3 or first.shape != second.shape:
            raise ShapeError(f"slices are taken of two volumes of the same three axes, got {first.shape} and {second.shape}")
        if not -3 <= axis < 3:
            raise OptionError(f"axis must be 0, 1 or 2, got {axis}")
        self.volume, self.mask = (np.moveaxis(v, axis, 0) for v in (first, second))
        self.multiple = multiple
        self.slices = [k for k, s in enumerate(self.mask) if float(s.sum(dtype=np.float64)) >= least]
        if not self.slices:
            raise OptionError(f"no slice has a mask of at least {least}")

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> Sample:
        number = self.slices[index]
        return self._padded(self.volume[number]), self._padded(self.mask[number])

    def _padded(self, plane: Array) -> Array:
        height, width = plane.shape
        return np.pad(plane, ((0, -height % self.multiple), (0, -width % self.multiple)))[None]

    def describe(self, index: int) -> str:
        """Which slice a sample is."""
        return f"slice {self.slices[index]}"
