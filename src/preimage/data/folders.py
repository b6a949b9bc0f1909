"""Pictures in folders: one folder for each class, pictures beside masks, and lists of pictures with labels as Caffe's ImageData reads them.

What lies in a folder is read in the order of the names, whatever order the disk has. Pictures are read when a sample is asked for, under
the limits of io.limits; one that cannot be read is an error that names it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from preimage.data.dataset import Array, Sample
from preimage.errors import FileFormatError, OptionError
from preimage.host import read_bytes
from preimage.io.pictures import read_picture

__all__ = ["ENDINGS", "ImageFolder", "ImageList", "ImageMaskPairs", "pictures_in"]

StrPath = str | os.PathLike[str]
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
#: A list of pictures as text is never larger.
MOST_LIST_BYTES = 256 << 20


def pictures_in(folder: StrPath) -> list[Path]:
    """The pictures that lie in a folder, by name. Raises: FileFormatError for a folder that is missing or has none."""
    place = Path(folder)
    if not place.is_dir():
        raise FileFormatError(f"there is no folder {str(folder)!r}")
    found = sorted(p for p in place.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith("."))
    if not found:
        raise FileFormatError(f"{folder}: the folder holds no pictures ({', '.join(ENDINGS)})")
    return found


def _read(path: Path, colour: bool | None) -> Array:
    """A picture (C, H, W) of 0 .. 1; colour None: as the file is."""
    picture = read_picture(path)
    return picture.values if colour is None else picture.colour() if colour else picture.grey()


class ImageFolder:
    """(image, class) from a folder with one folder of pictures for each class; classes count in the order of their names.

    colour: True for three channels, False for one. `classes` has the names.

    Raises: FileFormatError for a folder that is missing, has no folders, or one of them without pictures.
    """

    def __init__(self, folder: StrPath, *, colour: bool = True) -> None:
        root = Path(folder)
        if not root.is_dir():
            raise FileFormatError(f"there is no folder {str(folder)!r}")
        self.colour = colour
        self.classes = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not self.classes:
            raise FileFormatError(f"{folder}: the folder is empty of classes; wanted one folder of pictures for each class")
        self.files = [(path, k) for k, name in enumerate(self.classes) for path in pictures_in(root / name)]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path, label = self.files[index]
        return _read(path, self.colour), np.int64(label)

    def describe(self, index: int) -> str:
        """The file of a sample."""
        return str(self.files[index][0])


class ImageMaskPairs:
    """(image, mask) from two folders, matched by the names of their files (endings aside).

    classes: None for masks as float32 (1, H, W) of 0 .. 1; a number for masks whose pixel values are classes, int64 (H, W).

    Raises: FileFormatError for pictures without a mask, masks without a picture, a mask of another size, and a class out of range.
    """

    def __init__(self, images: StrPath, masks: StrPath, *, colour: bool | None = None, classes: int | None = None) -> None:
        pictures, others = pictures_in(images), {p.stem: p for p in pictures_in(masks)}
        self.colour, self.classes = colour, classes
        alone = [p.name for p in pictures if p.stem not in others] + sorted({*others} - {p.stem for p in pictures})
        if alone:
            raise FileFormatError(
                f"{images}, {masks}: {len(alone)} files have no partner of the same name: {', '.join(alone[:5])}"
            )
        self.files = [(p, others[p.stem]) for p in pictures]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image, mask = self.files[index]
        pixels = _read(image, self.colour)
        marked = _read(mask, False) if self.classes is None else self._of_classes(mask)
        if marked.shape[-2:] != pixels.shape[-2:]:
            raise FileFormatError(f"{mask}: the mask is {marked.shape[-2:]}, its picture {pixels.shape[-2:]} (height, width)")
        return pixels, marked

    def _of_classes(self, path: Path) -> Array:
        values: Array = np.rint(read_picture(path).grey()[0] * 255).astype(np.int64)
        assert self.classes is not None
        if values.max(initial=0) >= self.classes:
            row, column = np.unravel_index(int(np.argmax(values >= self.classes)), values.shape)
            raise FileFormatError(
                f"{path}: class {values[row, column]} at row {row}, column {column} is out of range; wanted 0 to {self.classes - 1}"
            )
        return values

    def describe(self, index: int) -> str:
        """The file of a sample's picture."""
        return str(self.files[index][0])


class ImageList:
    """(image, label) from a text file of lines `path label`, as Caffe's ImageData reads it; paths count from `root` (default: the list's folder).

    pixels: how a file is read, for nets that want other values: a function of the path.

    Raises: FileFormatError with the line, for one without a label, or with one that is out of range.
    """

    def __init__(
        self, path: StrPath, *, root: StrPath | None = None, colour: bool = True, classes: int | None = None, pixels: Any = None
    ) -> None:
        if pixels is not None and not callable(pixels):
            raise OptionError(f"pixels must be a function of a path, got {type(pixels).__name__}")
        folder = Path(path).parent if root is None or not str(root) else Path(root)
        self.colour, self._pixels = colour, pixels
        self.files: list[tuple[Path, int]] = []
        text = read_bytes(path, MOST_LIST_BYTES).decode("utf-8", "surrogateescape")
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            name, _, label = line.rpartition(" ")
            try:
                value = int(label)
            except ValueError:
                name = ""
            if not name.strip():
                raise FileFormatError(f"{path}: line {number} is {line[:80]!r}, wanted a path, a space and a label")
            if value < 0 or (classes is not None and value >= classes):
                raise FileFormatError(
                    f"{path}: line {number}: label {value} is out of range" + (f"; wanted 0 to {classes - 1}" if classes else "")
                )
            self.files.append((folder / name.strip(), value))
        if not self.files:
            raise FileFormatError(f"{path}: lists no pictures")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path, label = self.files[index]
        return (self._pixels(path) if self._pixels else _read(path, self.colour)), np.int64(label)

    def describe(self, index: int) -> str:
        """The file of a sample."""
        return str(self.files[index][0])
