"""The data layers of a net as batches: what Data, ImageData, HDF5Data and MemoryData layers name, read and transformed as Caffe does.

Images are float32 of 0 .. 255 with channels blue, green, red. A batch goes on over the end of the data. transform_param:
minus mean_file or mean_value, crop (anywhere in training, else the middle), mirror, times scale. Draws come from the seed.
Source: BVLC/caffe, layers data, image_data, hdf5_data, and data_transformer (read as facts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from preimage.caffe.errors import MissingFileError
from preimage.data import Endless, ImageFolder, ImageList, LmdbDataset, open_data
from preimage.data.dataset import Dataset, Sample
from preimage.data.hdf5 import from_hdf5, hdf5_list
from preimage.data.transforms import Crop, Flip
from preimage.errors import FileFormatError, ShapeError
from preimage.io.caffe import read_mean
from preimage.io.caffe.wire.message import Message
from preimage.io.pictures import read_pixels

__all__ = ["DATA_LAYERS", "LayerBatches", "data_layers"]

DATA_LAYERS = ("Data", "HDF5Data", "ImageData", "MemoryData")
_PARAMETERS = {
    "Data": "data_param",
    "HDF5Data": "hdf5_data_param",
    "ImageData": "image_data_param",
    "MemoryData": "memory_data_param",
}


def data_layers(layers: Sequence[Message]) -> list[Message]:
    """Those of a net's layers whose data are read here. Raises: FileFormatError for one whose kind is not."""
    for layer in layers:
        if layer.type in ("WindowData", "AnnotatedData"):
            raise FileFormatError(
                f"layer {layer.name!r}: data of {layer.type} layers are not read; give the solver batches (data=)"
            )
    return [layer for layer in layers if layer.type in DATA_LAYERS]


class LayerBatches:
    """The batches that a net's data layers give: call it for the next one, `{top: array}`.

    given: a path that takes the place of the layers' sources. folders: where relative sources are looked for, in this order.

    Raises: MissingFileError for a source that is not there, naming the layer; FileFormatError for one that cannot be read.
    """

    def __init__(
        self,
        layers: Sequence[Message],
        *,
        train: bool,
        given: Path | None,
        folders: Sequence[Path],
        seed: int,
        ahead: bool = True,
    ) -> None:
        self.batch_size = 0
        self._sources: list[tuple[list[str], Endless]] = []
        for number, layer in enumerate(layers):
            parameter = getattr(layer, _PARAMETERS[layer.type])
            if parameter.batch_size < 1:
                raise FileFormatError(f"layer {layer.name!r} ({layer.type}): needs a batch_size")
            dataset = _given(given, train) if given is not None else _named(layer, folders)
            change = None if layer.type == "HDF5Data" else _Transform(layer, train, folders)
            shuffle = layer.type in ("ImageData", "HDF5Data") and bool(parameter.shuffle)
            batches = Endless(dataset, parameter.batch_size, shuffle=shuffle, seed=seed + number, transform=change, ahead=ahead)
            self._sources.append((list(layer.top), batches))
            self.batch_size = max(self.batch_size, parameter.batch_size)

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for tops, batches in self._sources:
            parts = batches.next()
            if len(parts) < len(tops):
                raise ShapeError(f"the layer with tops {', '.join(tops)} wants {len(tops)} arrays, its data give {len(parts)}")
            found |= dict(zip(tops, parts, strict=False))
        return found

    def close(self) -> None:
        """End the threads."""
        for _, batches in self._sources:
            batches.close()

    def state_dict(self) -> dict[str, Any]:
        """Where each layer's data stand."""
        return {"layers": [batches.state_dict() for _, batches in self._sources]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises: OptionError."""
        for (_, batches), held in zip(self._sources, state["layers"], strict=True):
            batches.load_state_dict(held)


class _Bytes:
    """Pictures of 0 .. 1 in red, green, blue as 0 .. 255 in blue, green, red."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        image, *rest = self._dataset[index]
        return (np.rint(image[::-1] * np.float32(255)), *rest)

    def describe(self, index: int) -> str:
        return str(self._dataset.describe(index))


def _given(path: Path, train: bool) -> Dataset:
    dataset = open_data(path, train=train, scale=1.0)
    return _Bytes(dataset) if isinstance(dataset, ImageFolder | ImageList) else dataset


def _named(layer: Message, folders: Sequence[Path]) -> Dataset:
    """The dataset that a layer names."""
    parameter = getattr(layer, _PARAMETERS[layer.type])
    if layer.type == "MemoryData":
        raise MissingFileError(f"layer {layer.name!r} (MemoryData) names no data: give them with --data (in Python data=)")
    source = str(parameter.source)
    place = _place(source, folders)
    if place is None:
        raise MissingFileError(
            f"layer {layer.name!r} ({layer.type}): its source {source!r} is not there: give the data with --data (in Python data=), "
            "such as a folder with MNIST's IDX files"
        )
    if layer.type == "HDF5Data":
        return from_hdf5(hdf5_list(place, place.parent), list(layer.top))
    if layer.type == "ImageData":
        size = (parameter.new_height, parameter.new_width) if parameter.new_height and parameter.new_width else None
        colour = bool(parameter.is_color)

        def pixels(path: Path) -> Any:
            found = read_pixels(path, colour=colour, size=size)
            return np.ascontiguousarray(np.moveaxis(found[..., ::-1], -1, 0)) if colour else found[None]

        root = parameter.root_folder
        return ImageList(place, root=(_place(root, folders, folder=True) or Path(root)) if root else Path(), pixels=pixels)
    if parameter.word("backend") != "LMDB" and not (place / "data.mdb").is_file():
        raise FileFormatError(f"layer {layer.name!r}: LevelDB is not read; give the data with --data, or as LMDB")
    return LmdbDataset(place, scale=1.0)


def _place(source: str, folders: Sequence[Path], folder: bool = False) -> Path | None:
    for start in folders:
        if source and ((start / source).is_dir() if folder else (start / source).exists()):
            return start / source
    return None


class _Transform:
    """transform_param, on a sample."""

    def __init__(self, layer: Message, train: bool, folders: Sequence[Path]) -> None:
        p, self._name = layer.transform_param, layer.name
        self._scale = np.float32(p.scale)
        height, width = p.crop_h or p.crop_size, p.crop_w or p.crop_size
        self._crop = Crop(height, width, random=train) if height and width else None
        self._flip = Flip() if p.mirror else None
        self._mean: Any = None
        if p.has("mean_file"):
            place = _place(p.mean_file, folders)
            if place is None:
                raise MissingFileError(f"layer {layer.name!r}: its mean_file {p.mean_file!r} is not there")
            self._mean = read_mean(place).astype(np.float32)
        elif len(p.mean_value):
            self._mean = np.asarray(list(p.mean_value), np.float32)[:, None, None]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = np.asarray(sample[0], np.float32)
        if self._mean is not None:
            if self._mean.shape[0] not in (1, image.shape[0]) or self._mean.shape[1:] not in ((1, 1), image.shape[1:]):
                raise ShapeError(f"layer {self._name!r}: a mean of {self._mean.shape} for an image of {image.shape}")
            image = image - self._mean  # Caffe takes it off where the crop lies: the same values
        only: Sample = (image,)
        for change in (self._crop, self._flip):
            only = only if change is None else change(only, rng)
        return (only[0] if self._scale == 1 else only[0] * self._scale, *sample[1:])
