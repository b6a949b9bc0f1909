"""Images in and out of nets: pycaffe's `caffe.io`.

Resizing is bilinear with pixel centres and repeated edges (pycaffe's scikit-image darkens the edge of an enlarged picture).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import OptionError, ShapeError
from preimage.io.caffe.blobs import array_of_blob, blob_of_array
from preimage.io.caffe.wire.binary import decode, encode
from preimage.io.caffe.wire.message import Message

__all__ = [
    "Transformer",
    "array_to_blobproto",
    "array_to_datum",
    "arraylist_to_blobprotovector_str",
    "blobproto_to_array",
    "blobprotovector_str_to_arraylist",
    "datum_to_array",
    "load_image",
    "oversample",
    "resize_image",
]

Array = NDArray[Any]


def blobproto_to_array(blob: Message, return_diff: bool = False) -> Array:
    """The data (or diff) of a BlobProto in its shape."""
    return array_of_blob(blob, diff=return_diff)


def array_to_blobproto(arr: Array, diff: Array | None = None) -> Message:
    """A BlobProto that holds the array (and diff)."""
    return blob_of_array(np.asarray(arr, np.float32), diff)


def arraylist_to_blobprotovector_str(arraylist: Sequence[Array]) -> bytes:
    """Several arrays as the bytes of a BlobProtoVector."""
    return encode(Message("BlobProtoVector", blobs=[array_to_blobproto(array) for array in arraylist]))


def blobprotovector_str_to_arraylist(text: bytes) -> list[Array]:
    """The arrays of a BlobProtoVector's bytes."""
    return [blobproto_to_array(blob) for blob in decode("BlobProtoVector", text).blobs]


def array_to_datum(arr: Array, label: int | None = None) -> Message:
    """A Datum of a (channels, height, width) array: bytes for uint8, else floats."""
    if arr.ndim != 3:
        raise ShapeError(f"a Datum holds 3 axes (channels, height, width), got {arr.shape}")
    datum = Message("Datum", channels=arr.shape[0], height=arr.shape[1], width=arr.shape[2], label=label)
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data = np.asarray(arr, np.float32).reshape(-1)
    return datum


def datum_to_array(datum: Message) -> Array:
    """The (channels, height, width) array of a Datum."""
    values = np.frombuffer(datum.data, np.uint8) if datum.has("data") else np.asarray(datum.float_data, np.float32)
    if values.size != datum.channels * datum.height * datum.width:
        raise ShapeError(f"a Datum of {datum.channels} x {datum.height} x {datum.width} holds {values.size} values")
    return values.reshape(datum.channels, datum.height, datum.width).astype(values.dtype if datum.has("data") else float)


class Transformer:
    """Brings (H, W, K) images into the form of a net's inputs: resize, transpose, swap channels, raw scale, minus mean, input scale.

    `inputs` maps input names to blob shapes, as in `Transformer({"data": net.blobs["data"].data.shape})`.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, Array] = {}
        self.input_scale: dict[str, float] = {}

    def _shape(self, in_: str) -> tuple[int, ...]:
        if in_ not in self.inputs:
            raise OptionError(f"{in_!r} is not one of the net's inputs: {sorted(self.inputs)}")
        return self.inputs[in_]

    def preprocess(self, in_: str, data: Array) -> Array:
        """The image as the net takes it, float32 (K, H, W)."""
        size = self._shape(in_)[2:]
        out = np.asarray(data).astype(np.float32)
        if out.shape[:2] != size:
            out = resize_image(out, size)
        if in_ in self.transpose:
            out = out.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            out = out[list(self.channel_swap[in_])]
        if in_ in self.raw_scale:
            out = out * np.float32(self.raw_scale[in_])
        if in_ in self.mean:
            out = out - self.mean[in_].astype(np.float32)
        if in_ in self.input_scale:
            out = out * np.float32(self.input_scale[in_])
        return np.ascontiguousarray(out)

    def deprocess(self, in_: str, data: Array) -> Array:
        """An input of the net as an image again."""
        self._shape(in_)
        out = np.array(data).squeeze()
        if in_ in self.input_scale:
            out = out / self.input_scale[in_]
        if in_ in self.mean:
            out = out + self.mean[in_]
        if in_ in self.raw_scale:
            out = out / self.raw_scale[in_]
        if in_ in self.channel_swap:
            out = out[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            out = out.transpose(np.argsort(self.transpose[in_]))
        return out

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """The order of axes: (2, 0, 1) makes (K, H, W) of (H, W, K)."""
        if len(order) != len(self._shape(in_)) - 1:
            raise ShapeError(f"order {tuple(order)} must name the {len(self._shape(in_)) - 1} axes of an image")
        self.transpose[in_] = tuple(order)

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """The order of channels after the transpose: (2, 1, 0) makes BGR of RGB."""
        if len(order) != self._shape(in_)[1]:
            raise ShapeError(f"order {tuple(order)} must name the {self._shape(in_)[1]} channels")
        self.channel_swap[in_] = tuple(order)

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """A factor before the mean is taken off: 255 for images in 0..1 and nets that want 0..255."""
        self._shape(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: Array) -> None:
        """What is taken off: one number per channel, or an image (resized if need be)."""
        shape = self._shape(in_)
        mean = np.asarray(mean)
        if mean.ndim == 1:
            if mean.shape[0] != shape[1]:
                raise ShapeError(f"the mean has {mean.shape[0]} channels, the input {shape[1]}")
            mean = mean[:, None, None]
        else:
            mean = mean[None] if mean.ndim == 2 else mean
            if mean.ndim != 3:
                raise ShapeError(f"a mean has 1, 2 or 3 axes, got {mean.shape}")
            if mean.shape[1:] != shape[2:]:
                mean = resize_image(mean.transpose(1, 2, 0), shape[2:]).transpose(2, 0, 1)
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """A factor after everything else."""
        self._shape(in_)
        self.input_scale[in_] = scale


def prepared(
    net: Any, mean: Any, input_scale: float | None, raw_scale: float | None, channel_swap: Sequence[int] | None
) -> Transformer:
    """The Transformer of a net's first input for (H, W, K) images; None leaves a step out."""
    name = net.inputs[0]
    made = Transformer({name: net.blobs[name].data.shape})
    made.set_transpose(name, (2, 0, 1))
    settings = {"mean": mean, "input_scale": input_scale, "raw_scale": raw_scale, "channel_swap": channel_swap}
    for setting, value in settings.items():
        if value is not None:
            getattr(made, f"set_{setting}")(name, value)
    return made


def load_image(filename: str | PathLike[str], color: bool = True) -> Array:
    """An image file as float32 (H, W, 3) in 0..1, or (H, W, 1) with color=False. Needs Pillow."""
    from preimage.io.pictures import read_pixels

    array = read_pixels(Path(filename), colour=color) / np.float32(255)
    return array if color else array[:, :, None]


def resize_image(im: Array, new_dims: Sequence[int], interp_order: int = 1) -> Array:
    """An (H, W, K) array at another size: nearest (order 0) or bilinear (order 1)."""
    if interp_order not in (0, 1):
        raise OptionError(f"interp_order {interp_order} is not supported; 0 (nearest) and 1 (bilinear) are")
    out = np.asarray(im, np.float32)
    for axis, size in enumerate(new_dims[:2]):
        length = out.shape[axis]
        if length == size:
            continue
        place = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        if interp_order == 0:
            out = np.take(out, np.floor(place + 0.5).astype(int), axis=axis)
            continue
        low = np.floor(place).astype(int)
        part = (place - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(out.ndim)])
        out = np.take(out, low, axis=axis) * (1 - part) + np.take(out, np.minimum(low + 1, length - 1), axis=axis) * part
    return out.astype(np.float32)


def oversample(images: Sequence[Array], crop_dims: Sequence[int]) -> Array:
    """Ten crops of each image: the corners, the centre, and their mirror images."""
    height, width = np.asarray(images[0]).shape[:2]
    tall, wide = int(crop_dims[0]), int(crop_dims[1])
    corners = [(y, x) for y in (0, height - tall) for x in (0, width - wide)]
    corners.append((int(height / 2 - tall / 2), int(width / 2 - wide / 2)))
    crops = []
    for image in images:
        five = [np.asarray(image)[y : y + tall, x : x + wide] for y, x in corners]
        crops += five + [crop[:, ::-1] for crop in five]
    return np.stack(crops).astype(np.float32)
