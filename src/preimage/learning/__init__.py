"""Learning from pictures: convolutional dictionaries.

slow, detail = split_slow(picture)            # (C, H, W)
coded = learn([detail], Options(stencils=64, size=11, sparsity=0.05))
rebuilt = slow + coded.painted[0]
"""

from preimage.learning.dictionary import Coded, Options, encode, first_stencils, learn
from preimage.learning.model import Model
from preimage.learning.painting import (
    Frame,
    Painting,
    Strokes,
    activation_map,
    order_of_use,
    paint_by_numbers,
    psnr,
    shares,
    strokes,
)
from preimage.learning.progress import Progress
from preimage.learning.split import fill_in, noise_level, split_slow

__all__ = [
    "Coded",
    "Frame",
    "Model",
    "Options",
    "Painting",
    "Progress",
    "Strokes",
    "activation_map",
    "encode",
    "fill_in",
    "first_stencils",
    "learn",
    "noise_level",
    "order_of_use",
    "paint_by_numbers",
    "psnr",
    "shares",
    "split_slow",
    "strokes",
]
