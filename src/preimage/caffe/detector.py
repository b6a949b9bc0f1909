"""Detector: windows of images in, the net's predictions of each out, as pycaffe's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

import numpy as np

from preimage.caffe import io
from preimage.caffe.net import Net
from preimage.caffe.state import TEST
from preimage.errors import OptionError, ShapeError

__all__ = ["Detector"]

StrPath = str | PathLike[str]
Windows = Iterable[tuple[StrPath, Sequence[Any]]]


class Detector(Net):
    """A net that classifies windows of images: each is cut out, brought to the net's input size and run.

    mean, input_scale, raw_scale, channel_swap: as of io.Transformer. context_pad: how many pixels of the net's input, on each side, show
    what lies around the window (R-CNN); outside of the image they hold the mean.
    """

    def __init__(
        self,
        model_file: StrPath,
        pretrained_file: StrPath,
        mean: Any = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = io.prepared(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def configure_crop(self, context_pad: int | None) -> None:
        """Choose how much context is shown around windows, and find the mean image that fills what lies outside."""
        name = self.inputs[0]
        channels, *size = self.blobs[name].shape[1:]
        if context_pad and (context_pad < 0 or 2 * context_pad >= min(size)):
            raise OptionError(f"context_pad {context_pad} leaves nothing of an input of {size[0]} x {size[1]}")
        self.context_pad = context_pad or 0
        self.crop_dims = np.array([*size, channels])
        mean, order = self.transformer.mean.get(name), self.transformer.channel_swap.get(name)
        filled = np.zeros((channels, *size), np.float32)
        if mean is not None:
            filled[...] = mean / self.transformer.raw_scale.get(name, 1.0)
        if order is not None:
            filled = filled[np.argsort(order)]
        self.crop_mean = filled.transpose(1, 2, 0)

    def crop(self, im: Any, window: Sequence[float]) -> Any:
        """The window (ymin, xmin, ymax, xmax) of an (H, W, K) image; with context_pad it has the net's input size.

        Raises: ShapeError for a window that lies outside of the image.
        """
        ymin, xmin, ymax, xmax = (int(value) for value in window)
        height, width = im.shape[:2]
        if not (0 <= ymin < min(ymax, height) and 0 <= xmin < min(xmax, width)):
            raise ShapeError(f"window {(ymin, xmin, ymax, xmax)} does not lie in an image of {height} x {width}")
        return self._with_context(im, (ymin, xmin, ymax, xmax)) if self.context_pad else im[ymin:ymax, xmin:xmax]

    def _with_context(self, im: Any, window: Sequence[int]) -> Any:
        """Along each axis: the window grown about its middle, its part in the image resized, the rest filled with the mean."""
        out = np.array(self.crop_mean, np.float32)
        inside, places = [], []
        for axis in (0, 1):
            size, low, high = int(self.crop_dims[axis]), window[axis], window[axis + 2]
            half = (high - low + 1) / 2
            grown = half * size / (size - 2 * self.context_pad)
            begin, end = int(np.round(low + half - grown)), int(np.round(low + half + grown))
            scale = size / (end - begin + 1)
            first, last = max(begin, 0), min(end, im.shape[axis])
            start = min(round((first - begin) * scale), size - 1)
            places.append(slice(start, start + max(1, min(round((last - first + 1) * scale), size - start))))
            inside.append(slice(first, last))
        out[tuple(places)] = io.resize_image(im[tuple(inside)], [place.stop - place.start for place in places])
        return out

    def detect_windows(self, images_windows: Windows) -> list[dict[str, Any]]:
        """The prediction for each window of each image: `{"window": ..., "prediction": ..., "filename": ...}`, in order.

        images_windows: pairs of an image's file name and its windows (ymin, xmin, ymax, xmax).
        """
        listed = [(filename, list(windows)) for filename, windows in images_windows]
        name, ready = self.inputs[0], []
        for filename, windows in listed:
            image = io.load_image(filename)
            ready += [self.transformer.preprocess(name, self.crop(image, window)) for window in windows]
        if not ready:
            return []
        fed: dict[str, Any] = {name: np.stack(ready)}
        predictions = iter(self.forward_all(**fed)[self.outputs[0]])
        return [
            {"window": window, "prediction": next(predictions), "filename": filename}
            for filename, windows in listed
            for window in windows
        ]

    def detect_selective_search(self, image_fnames: Iterable[StrPath]) -> list[dict[str, Any]]:
        """Refuses: the proposals of selective search come from a program for MATLAB. Give detect_windows windows of your own."""
        raise OptionError("selective search is not here; pass windows (ymin, xmin, ymax, xmax) of your own to detect_windows")
