"""Double a picture's size with waifu2x's UpConv7: six convolutions and one deconvolution, weights from an .npz file.

    python examples/double_size.py [--output doubled.png]

Halves scikit-image's astronaut to 256x256, doubles it again with the network and with bicubic interpolation, and says how
near each comes to the original. Needs the packages scikit-image, Pillow and waifu2x (the weights): `make models`.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

import preimage as pre
from preimage.io import load_weights

nn = pre.nn


def weights_file() -> Path:
    spec = find_spec("waifu2x")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the weights come with the package waifu2x: make models")
    return Path(next(iter(spec.submodule_search_locations))) / "models/upconv7/anime_style_scale_rgb.npz"


def upconv7() -> nn.Module:
    """Six 3x3 convolutions without padding, then a 4x4 deconvolution of stride 2 that crops 3."""
    channels = (3, 16, 32, 64, 128, 256, 256)
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3), nn.LeakyReLU(0.1)]
    net = nn.Sequential(*layers, nn.ConvTranspose2d(256, 3, 4, stride=2, padding=3, bias=False))
    stored = load_weights(weights_file())
    for number, layer in enumerate([m for m in net if not isinstance(m, nn.LeakyReLU)], start=1):
        layer.weight.data = stored[f"conv{number}/W"]
        if layer.bias is not None:
            layer.bias.data = stored[f"conv{number}/b"]
    net.eval()
    return net


def double(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) with values 0..1 as (2H, 2W, 3)."""
    x = np.ascontiguousarray(picture.transpose(2, 0, 1)[None]).astype(np.float32)
    with pre.no_grad():
        y = np.asarray(upconv7()(pre.pad(x, 7, mode="replicate")))
    return np.clip(y[0].transpose(1, 2, 0), 0, 1)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two pictures with values 0..1."""
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def halved() -> tuple[np.ndarray, np.ndarray]:
    """The astronaut, values 0..1, and the mean of every 2x2 of its pixels."""
    from skimage import data

    original = data.astronaut().astype(np.float64) / 255
    return original, original.reshape(256, 2, 256, 2, 3).mean((1, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("doubled.png"))
    options = parser.parse_args()
    original, small = halved()
    ours = double(small)
    coarse = Image.fromarray(np.rint(small * 255).astype(np.uint8))
    bicubic = np.asarray(coarse.resize((512, 512), Image.Resampling.BICUBIC)) / 255
    print(f"UpConv7 {psnr(ours, original):.2f} dB, bicubic {psnr(bicubic, original):.2f} dB")
    nearest = np.asarray(coarse.resize((512, 512), Image.Resampling.NEAREST)) / 255
    cut = np.s_[40:200, 140:300]  # the face, enlarged
    panels = np.concatenate([each[cut] for each in (nearest, bicubic, ours, original)], axis=1)
    picture = Image.fromarray(np.rint(panels * 255).astype(np.uint8))
    picture.resize((4 * 480, 480), Image.Resampling.NEAREST).save(options.output)
    print(f"half the size, bicubic, UpConv7 and original side by side (a part of them) in {options.output}")


if __name__ == "__main__":
    main()
