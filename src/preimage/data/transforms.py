"""What happens to a sample on its way to the net: crop, flip, scale, mean, colour; any function (sample, rng) -> sample does as well.

A transform draws from the generator that it is given, and keeps none: the same sample of the same epoch is changed alike, whichever thread does it.
Crops and flips change the image and everything of the same height and width with it (its mask); the others change the image alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from preimage.data.dataset import Array, Sample
from preimage.errors import OptionError, ShapeError
from preimage.ops.operands import count_of, number_of

__all__ = ["Colour", "Compose", "Crop", "Flip", "Mean", "Scale", "Transform"]


class Transform(Protocol):
    """What happens to a sample: a function of it and a generator to draw from, that gives the sample changed."""

    def __call__(self, sample: Sample, rng: np.random.Generator, /) -> Sample: ...


def _over_space(sample: Sample, change: Callable[[Array], Array]) -> Sample:
    """The sample with everything that is as high and wide as its image changed."""
    size = np.shape(sample[0])[-2:]
    return tuple(change(np.asarray(part)) if np.ndim(part) >= 2 and np.shape(part)[-2:] == size else part for part in sample)


def _with_image(sample: Sample, image: Array) -> Sample:
    return (image, *sample[1:])


class Compose:
    """One transform after the other."""

    def __init__(self, *transforms: Transform) -> None:
        for transform in transforms:
            if not callable(transform):
                raise OptionError(f"a transform is a function of a sample and a generator, got {type(transform).__name__}")
        self.transforms = transforms

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample


class Crop:
    """A part of height x width: anywhere (random), else from the middle. Zeros are padded around first, `padding` on each side.

    Raises: ShapeError for an image that is smaller.
    """

    def __init__(self, height: int, width: int | None = None, *, random: bool = True, padding: int = 0) -> None:
        self.height = count_of(height, "Crop: height", 1)
        self.width = self.height if width is None else count_of(width, "Crop: width", 1)
        self.random, self.padding = bool(random), count_of(padding, "Crop: padding", 0)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        tall, wide = (n + 2 * self.padding for n in np.shape(sample[0])[-2:])
        if tall < self.height or wide < self.width:
            raise ShapeError(f"an image of {tall} x {wide} has no part of {self.height} x {self.width}")
        if self.random:
            top, left = int(rng.integers(tall - self.height + 1)), int(rng.integers(wide - self.width + 1))
        else:
            top, left = (tall - self.height) // 2, (wide - self.width) // 2

        def cut(part: Array) -> Array:
            if self.padding:
                part = np.pad(part, [(0, 0)] * (part.ndim - 2) + [(self.padding, self.padding)] * 2)
            return part[..., top : top + self.height, left : left + self.width]

        return _over_space(sample, cut)


class Flip:
    """Left and right exchanged with probability p; vertical=True: top and bottom."""

    def __init__(self, p: float = 0.5, *, vertical: bool = False) -> None:
        self.p, self.vertical = number_of(p, "Flip: p", 0, 1), bool(vertical)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.p:
            return sample
        return _over_space(sample, lambda part: part[..., ::-1, :] if self.vertical else part[..., ::-1])


class Scale:
    """The image times a factor; with `spread`, times a random one of factor * (1 - spread) .. factor * (1 + spread)."""

    def __init__(self, factor: float = 1.0, *, spread: float = 0.0) -> None:
        self.factor, self.spread = number_of(factor, "Scale: factor"), number_of(spread, "Scale: spread", 0, 1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        factor = self.factor * (1 + self.spread * rng.uniform(-1, 1)) if self.spread else self.factor
        return _with_image(sample, np.asarray(sample[0], np.float32) * np.float32(factor))


class Mean:
    """The image minus a mean (one number, one for each channel, or an image), then divided by `std` where that is given."""

    def __init__(self, mean: Any, std: Any = None) -> None:
        self.mean, self.std = self._shaped(mean), None if std is None else self._shaped(std)
        if self.std is not None and not np.all(self.std > 0):
            raise OptionError(f"Mean: std must be positive, got {std}")

    @staticmethod
    def _shaped(value: Any) -> Array:
        array = np.asarray(value, np.float32)
        if array.ndim not in (0, 1, 3):
            raise ShapeError(f"a mean is a number, one for each channel, or an image (C, H, W); got shape {array.shape}")
        return array[:, None, None] if array.ndim == 1 else array

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = np.asarray(sample[0], np.float32)
        if self.mean.ndim and len(self.mean) not in (1, len(image)):
            raise ShapeError(f"a mean of {len(self.mean)} channels for an image of {len(image)}")
        if self.mean.ndim and self.mean.shape[1:] not in ((1, 1), image.shape[1:]):
            raise ShapeError(f"a mean image of {self.mean.shape[1:]} for an image of {image.shape[1:]}")
        image = image - self.mean
        return _with_image(sample, image if self.std is None else image / self.std)


class Colour:
    """Brightness, contrast and saturation changed at random by up to these shares; grey=True makes one channel instead (ITU-R BT.601).

    channels: "bgr" for images whose first channel is blue.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        grey: bool = False,
        channels: str = "rgb",
    ) -> None:
        spreads = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.brightness, self.contrast, self.saturation = (number_of(v, f"Colour: {k}", 0, 1) for k, v in spreads.items())
        if not isinstance(channels, str) or channels not in ("rgb", "bgr"):
            raise OptionError(f"Colour: channels must be 'rgb' or 'bgr', got {channels!r}")
        weights: Sequence[float] = (0.299, 0.587, 0.114)
        self._weights = np.asarray(weights if channels == "rgb" else weights[::-1], np.float32)[:, None, None]
        self.grey = bool(grey)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = np.asarray(sample[0], np.float32)
        factors = [np.float32(1 + s * rng.uniform(-1, 1)) for s in (self.brightness, self.contrast, self.saturation)]
        image = image * factors[0]
        if self.contrast:
            middle = self._luma(image).mean(dtype=np.float32)
            image = middle + (image - middle) * factors[1]
        if self.saturation and len(image) == 3:
            luma = self._luma(image)
            image = luma + (image - luma) * factors[2]
        return _with_image(sample, self._luma(image) if self.grey else image)

    def _luma(self, image: Array) -> Array:
        return (image * self._weights).sum(axis=0, keepdims=True) if len(image) == 3 else image[:1]
