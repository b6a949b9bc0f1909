"""Classifier: images in, class probabilities out, as pycaffe's."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

from preimage import ops
from preimage.caffe import io
from preimage.caffe.net import Net
from preimage.caffe.state import TEST

__all__ = ["Classifier"]


class Classifier(Net):
    """A net for image classification with its preprocessing: image_dims (height, width), mean, input_scale, raw_scale, channel_swap."""

    def __init__(
        self,
        model_file: str | PathLike[str],
        pretrained_file: str | PathLike[str],
        image_dims: Sequence[int] | None = None,
        mean: Any = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        name = self.inputs[0]
        self.transformer = io.prepared(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[name].data.shape[2:])
        self.image_dims = np.array(image_dims) if image_dims else self.crop_dims

    def predict(self, inputs: Sequence[Any], oversample: bool = True) -> Any:
        """(images, classes) probabilities of (H, W, K) images; oversample averages ten crops of each, else the centre is taken."""
        images = np.stack([io.resize_image(image, tuple(self.image_dims)) for image in inputs]).astype(np.float32)
        if oversample:
            crops = io.oversample(list(images), self.crop_dims.tolist())
        else:
            begin = (self.image_dims // 2) - self.crop_dims // 2
            crops = images[:, begin[0] : begin[0] + self.crop_dims[0], begin[1] : begin[1] + self.crop_dims[1]]
        name = self.inputs[0]
        ready = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        fed: dict[str, Any] = {name: ready}
        scores = self.forward_all(**fed)[self.outputs[0]]
        return ops.mean(scores.reshape(len(inputs), 10, -1), 1) if oversample else scores
