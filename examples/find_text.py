"""Find the lines of text in scikit-image's page with DBNet, a text detector that comes as an ONNX file.

    python examples/find_text.py [--output text.png]

Needs the packages onnx, scikit-image, SciPy, Pillow and rapidocr-onnxruntime (the model): `make models` installs them.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

import preimage as pre
from preimage.io import load_model
from preimage.io.graph import optimise


def model_file() -> Path:
    spec = find_spec("rapidocr_onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the model comes with the package rapidocr-onnxruntime: make models")
    return Path(next(iter(spec.submodule_search_locations))) / "models/ch_PP-OCRv4_det_infer.onnx"


def text_map(picture: np.ndarray) -> np.ndarray:
    """How much every pixel of (H, W, 3) looks like text, 0..1; sides are multiples of 32."""
    net = optimise(load_model(model_file()))
    scaled = (picture.astype(np.float32) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with pre.no_grad():
        return np.asarray(net(np.ascontiguousarray(scaled.transpose(2, 0, 1)[None]).astype(np.float32)))[0, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("text.png"))
    options = parser.parse_args()
    from skimage import data

    page = Image.fromarray(data.page()).convert("RGB")
    width, height = (2 * -(-n // 32) * 32 for n in page.size)  # twice as large: its letters are small
    likely = text_map(np.asarray(page.resize((width, height), Image.Resampling.BICUBIC)))
    regions, count = ndimage.label(likely > 0.3)
    draw = ImageDraw.Draw(page)
    lines = 0
    for rows, columns in ndimage.find_objects(regions):
        if (rows.stop - rows.start) * (columns.stop - columns.start) < 100:
            continue
        grow = 0.3 * (rows.stop - rows.start)  # the network marks the middle of a line, shrunk
        box = np.array([columns.start - grow, rows.start - grow, columns.stop + grow, rows.stop + grow])
        draw.rectangle(_scaled(box, page.size, (width, height)), outline=(220, 40, 40), width=2)
        lines += 1
    page.save(options.output)
    print(
        f"{lines} pieces of text ({100 * np.mean(likely > 0.3):.0f} % of the pixels, {count} regions); picture written to {options.output}"
    )


def _scaled(box: np.ndarray, to: tuple[int, int], of: tuple[int, int]) -> list[float]:
    factors = np.array([to[0] / of[0], to[1] / of[1]] * 2)
    return [float(v) for v in box * factors]


if __name__ == "__main__":
    main()
