"""Random geometries for the GPU's kernels, and their results on the CPU's engine."""

from __future__ import annotations

import numpy as np

import preimage as pre
from preimage.engines import get
from preimage.errors import PreimageError

CONTRACTIONS = ("conv", "conv_transpose", "conv_weight_grad")


def geometry(rng: np.random.Generator, ndim: int | None = None) -> pre.ConvGeometry:
    """Unequal sizes, strides, paddings (cropping ones too) and dilations; up to three axes; some depthwise."""
    while True:
        axes = ndim or int(rng.choice([1, 2, 2, 3]))
        groups = int(rng.choice([1, 1, 1, 2, 3]))
        most = 200 if rng.random() < 0.2 else 20
        inner, outer = groups * int(rng.integers(1, most)), groups * int(rng.integers(1, 40))
        if rng.random() < 0.15:  # depthwise
            inner = groups = int(rng.integers(2, 60))
            outer = groups * int(rng.integers(1, 3))
        size, kernel = rng.integers(1, 18 if axes < 3 else 7, axes), rng.integers(1, 6 if axes < 3 else 4, axes)
        padding = tuple((int(a), int(b)) for a, b in rng.integers(-1, 4, (axes, 2)))
        try:
            g = pre.ConvGeometry.from_conv(
                (int(rng.integers(1, 4)), inner, *map(int, size)),
                (outer, inner // groups, *map(int, kernel)),
                stride=tuple(map(int, rng.integers(1, 4, axes))),
                padding=padding,
                dilation=tuple(map(int, rng.integers(1, 3, axes))),
                groups=groups,
            )
        except PreimageError:
            continue
        if 0 not in g.output_size:
            return g


def arrays(rng: np.random.Generator, g: pre.ConvGeometry, dtype: object) -> list[np.ndarray]:
    """x, w and y of a geometry; x lies channels last now and then."""
    made = [rng.standard_normal(shape).astype(dtype) for shape in (g.input_shape, g.weight_shape, g.output_shape)]
    if rng.random() < 0.3:
        made[0] = np.moveaxis(np.ascontiguousarray(np.moveaxis(made[0], 1, -1)), -1, 1)
    return made


def results(engine: object, g: pre.ConvGeometry, x: np.ndarray, w: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """All three contractions."""
    return [engine.conv(g, x, w), engine.conv_transpose(g, y, w), engine.conv_weight_grad(g, x, y)]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """The same shape and bits, NaN as NaN whatever its bits."""
    kind = f"u{a.itemsize}"
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return a.shape == b.shape and bool(((a.view(kind) == b.view(kind)) | ((a != a) & (b != b))).all())


def differing(engine: object, g: pre.ConvGeometry, made: list[np.ndarray]) -> list[str]:
    """The contractions whose bits are not those of jit."""
    pairs = zip(CONTRACTIONS, results(engine, g, *made), results(get("jit"), g, *made), strict=True)
    return [name for name, got, wanted in pairs if not same_bits(got, wanted)]
