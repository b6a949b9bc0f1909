"""The model: a picture is painted by stencils, picture = conv_transpose(activations, stencils), and its three contractions.

With activations z (1, K, h, w) and stencils d (K, C, k, k), one trilinear form again:

    paint(z, d)         = conv_transpose(z, d)      the picture that they give
    match(r, d)         = conv(r, d)                minus the gradient of 1/2 |r|^2 in z, where r = x - paint(z, d)
    stencil_grad(r, z)  = conv_weight_grad(r, z)    minus the gradient in d

Border "full": an activation stands wherever its stencil touches the picture, also beyond the edge (padding k - 1), and what
is painted outside is cropped. Border "circular": the picture's right edge continues on its left, as Fourier methods have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import OptionError
from preimage.ops import conv, conv_transpose, conv_weight_grad

__all__ = ["BORDERS", "Model"]

Array = NDArray[Any]
BORDERS = ("full", "circular")


@dataclass(frozen=True, slots=True)
class Model:
    """How activations and stencils give a picture: the stencils' side in pixels, the stride of the activations, the border.

    signals: the pictures are signals (C, 1, L), and the stencils (K, C, 1, k).
    """

    size: int
    stride: int = 1
    border: str = "full"
    signals: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or self.stride < 1:
            raise OptionError(f"size and stride must be at least 1, got size={self.size}, stride={self.stride}")
        if self.stride > self.size:
            raise OptionError(f"stride {self.stride} is larger than the stencils' side {self.size}: pixels would go unpainted")
        if self.border not in BORDERS:
            raise OptionError(f"border must be one of {', '.join(BORDERS)}, got {self.border!r}")

    @property
    def kernel(self) -> tuple[int, int]:
        """The stencils' height and width."""
        return (1 if self.signals else self.size), self.size

    @property
    def strides(self) -> tuple[int, int]:
        """The stride down and across."""
        return (1 if self.signals else self.stride), self.stride

    def _options(self) -> dict[str, Any]:
        margins = [k - 1 for k in self.kernel]
        if self.border == "full":
            return {"stride": self.strides, "padding": tuple(margins)}
        return {"stride": self.strides, "padding": tuple((0, k) for k in margins), "padding_mode": "circular"}

    def activation_size(self, height: int, width: int) -> tuple[int, int]:
        """How many activations of one stencil a picture of that size has, down and across."""
        extra = [k - 1 if self.border == "full" else 0 for k in self.kernel]
        down, across = ((n + e - 1) // s + 1 for n, e, s in zip((height, width), extra, self.strides, strict=True))
        return down, across

    def paint(self, z: Array, stencils: Array, height: int, width: int) -> Array:
        """The picture (C, H, W) that the activations z (K, h, w) give."""
        painted: Array = conv_transpose(z[None], stencils, output_size=(height, width), **self._options())
        result: Array = painted[0]
        return result

    def match(self, r: Array, stencils: Array) -> Array:
        """How well every patch of the picture r (C, H, W) matches every stencil: (K, h, w)."""
        degrees: Array = conv(r[None], stencils, **self._options())
        result: Array = degrees[0]
        return result

    def stencil_grad(self, r: Array, z: Array) -> Array:
        """How much of r (C, H, W) lies under the activations z (K, h, w), for every pixel of every stencil: (K, C, k, k)."""
        gradient: Array = conv_weight_grad(r[None], z[None], kernel_size=self.kernel, **self._options())
        return gradient

    def curvature(self, stencils: Array) -> Array:
        """For every stencil a bound of how strongly the model curves along its activations: (K,).

        With S_k the stencil's spectrum, paint* paint has at the frequency f the matrix S(f)* S(f), and for any exponent
        that lies below diag_k(|S_k|^p sum_j |S_j|^(2-p)); the largest over f holds for all. Here p = 3/2.
        """
        sides = [1 if k == 1 else 4 * k for k in self.kernel]
        spectrum = np.abs(np.fft.rfft2(stencils.astype(np.float64), s=sides))
        if self.stride > 1:  # aliased frequencies add up: bound by the largest, once for each alias
            spectrum = np.broadcast_to(spectrum.max(axis=(2, 3), keepdims=True), spectrum.shape)
        heavy = np.sqrt((spectrum**2).sum(axis=1))
        bound: Array = (heavy**1.5 * (heavy**0.5).sum(axis=0)).max(axis=(1, 2))
        return bound
