"""Geometries for the tests: those of the cases files, and random ones with all sizes unequal."""

from __future__ import annotations

import gzip
import json
import random
from functools import cache
from math import isqrt, prod
from pathlib import Path

import numpy as np

from preimage.errors import GeometryError
from preimage.geometry import ConvGeometry

MODES = ("zeros", "reflect", "replicate", "circular")


@cache
def cases(name: str) -> list[dict]:
    """The cases of one file of the collection (see data/README.md)."""
    path = Path(__file__).parent / "data" / "cases.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))[name]


def batch_of(case: dict, most: int = 2) -> int:
    if "test_batch" in case:
        return case["test_batch"]
    return most if case["batch"] is None else min(case["batch"], most)


def geometry_of(case: dict, batch: int) -> ConvGeometry:
    """The geometry that a case describes, through the constructor that a user's call would take."""
    groups = case["groups"]
    common = {"stride": case["stride"], "padding": case["padding"], "dilation": case["dilation"], "groups": groups}
    kernel = case["kernel"]
    if case["kind"] == "conv":
        weight = (case["out_channels"], case["in_channels"] // max(groups, 1), *kernel)
        return ConvGeometry.from_conv((batch, case["in_channels"], *case["input"]), weight, **common)
    weight = (case["in_channels"], case["out_channels"] // max(groups, 1), *kernel)
    return ConvGeometry.from_conv_transpose(
        (batch, case["in_channels"], *case["input"]), weight, output_padding=case["output_padding"], **common
    )


def integers(rng: np.random.Generator, shape, dtype, terms: int) -> np.ndarray:
    """Random small integers such that sums of `terms` products are exact in the dtype that the sum is kept in."""
    exact = 2**53 if np.dtype(dtype).itemsize == 8 else 2**24
    most = max(1, min(3, isqrt(exact // max(terms, 1))))
    return rng.integers(-most, most + 1, shape, dtype=np.int8).astype(dtype)


def operands(geometry: ConvGeometry, rng: np.random.Generator, dtype=np.float32):
    """x, w, y of small integers for which all three contractions are exact in any order of summation."""
    g = geometry
    taps = prod(g.kernel_size)
    terms = max(g.in_channels_per_group * taps, g.out_channels_per_group * taps, g.batch * prod(g.output_size))
    return (
        integers(rng, g.input_shape, dtype, terms),
        integers(rng, g.weight_shape, dtype, terms),
        integers(rng, g.output_shape, dtype, terms),
    )


def random_geometry(rng: random.Random, ndim: int | None = None) -> ConvGeometry:
    """A valid geometry whose sizes differ wherever they can: channels, kernel, stride, dilation and both ends of the padding."""
    while True:
        n = rng.choice((0, 1, 1, 2, 2, 2, 3, 4)) if ndim is None else ndim
        groups = rng.choice((1, 1, 2, 3))
        inner, outer = rng.sample(range(1, 5), 2)
        kernel = rng.sample(range(1, 6), n) if n < 4 else [rng.randint(1, 3) for _ in range(n)]
        stride = rng.sample(range(1, 5), n)
        dilation = [rng.randint(1, 3) for _ in range(n)]
        padding = [tuple(rng.sample(range(-1, 6), 2)) for _ in range(n)]
        size = rng.sample(range(1, 12), n) if n < 4 else rng.sample(range(1, 7), n)
        common = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        weight = (groups * outer, groups * inner // groups, *kernel)
        try:
            if rng.random() < 0.5:
                return ConvGeometry.from_conv((rng.randint(1, 3), groups * inner, *size), weight, **common)
            extra = [rng.randint(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)]
            small = [max(1, v // 2) for v in size]
            return ConvGeometry.from_conv_transpose(
                (rng.randint(1, 3), groups * outer, *small), weight, output_padding=extra, **common
            )
        except GeometryError:
            continue


def laid_out(a: np.ndarray, how: int) -> np.ndarray:
    """The same values in another memory: 0 C order, 1 channels last, 2 reversed, 3 every second one, 4 Fortran, 5 read-only."""
    if how == 1 and a.ndim > 2:
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)
    if how == 2:
        back = tuple(slice(None, None, -1) for _ in a.shape)
        return np.ascontiguousarray(a[back])[back]
    if how == 3:
        wide = np.zeros([2 * n for n in a.shape], a.dtype)
        view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
        view[...] = a
        return view
    if how == 4:
        return np.asfortranarray(a)
    a = a.copy()
    if how == 5:
        a.flags.writeable = False
    return a


LAYOUTS = range(6)
