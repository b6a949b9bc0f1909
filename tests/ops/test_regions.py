"""Regions and moved taps, beside their definitions in index loops; gradients beside differences, to second order."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import preimage as pre
from preimage.ops.deformable import deform_conv
from preimage.ops.regions import roi_align, roi_pool

RNG = np.random.default_rng(5)
CORNERS = np.array(
    [[0.3, 1.2, 5.1, 6.6], [-3.0, -2.0, 2.5, 1.0], [2.0, 2.0, 2.0, 2.0], [1.0, 0.5, 9.5, 8.0], [4.0, 4.0, 1.0, 2.0]]
)
IMAGES = np.array([1, 0, 2, 1, 0])


def between(plane, y, x):
    """A plane at a place between its elements: 0 more than one element outside, else the nearest inside."""
    h, w = plane.shape
    if y < -1 or y > h or x < -1 or x > w:
        return [0.0] * 4
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    found = []
    for dy, dx in product((0, 1), (0, 1)):
        i, j = min(int(y) + dy, h - 1), min(int(x) + dx, w - 1)
        found.append((y - int(y) if dy else 1 - y + int(y)) * (x - int(x) if dx else 1 - x + int(x)) * plane[i, j])
    return found


def aligned(x, images, corners, pooled, scale, sampling, mode, half_pixel):
    out = np.zeros((len(images), x.shape[1], *pooled))
    for r, (image, corner) in enumerate(zip(images, corners, strict=True)):
        x0, y0, x1, y1 = corner * scale - (0.5 if half_pixel else 0)
        tall, wide = (y1 - y0, x1 - x0) if half_pixel else (max(y1 - y0, 1), max(x1 - x0, 1))
        count = [sampling or max(int(np.ceil(n / p)), 0) for n, p in zip((tall, wide), pooled, strict=True)]
        for c, i, j in np.ndindex(x.shape[1], *pooled):
            values = []
            for a, b in np.ndindex(*count):
                y = y0 + i * tall / pooled[0] + (a + 0.5) * tall / pooled[0] / count[0]
                xx = x0 + j * wide / pooled[1] + (b + 0.5) * wide / pooled[1] / count[1]
                values.append(between(x[image, c], y, xx))
            if values:
                out[r, c, i, j] = np.sum(values) / len(values) if mode == "avg" else np.max(values)
    return out


@pytest.mark.parametrize("half_pixel", [True, False])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("sampling", [0, 2])
def test_roi_align_is_its_definition_and_differentiates(half_pixel, mode, sampling):
    x, options = (
        RNG.standard_normal((3, 2, 7, 6)),
        {"pooled": (3, 2), "sampling": sampling, "mode": mode, "half_pixel": half_pixel},
    )
    for scale in (1.0, 0.7):
        want = aligned(x, IMAGES, CORNERS, (3, 2), scale, sampling, mode, half_pixel)
        assert np.abs(roi_align(x, IMAGES, CORNERS, scale=scale, **options) - want).max() < 1e-12
    pre.check_grads(lambda v: roi_align(v, IMAGES, CORNERS, **options), [x], trials=1, order=2 if mode == "avg" else 1)


def test_regions_do_not_depend_on_those_beside_them(monkeypatch):
    from preimage.ops import regions

    x = RNG.standard_normal((3, 4, 7, 6)).astype(np.float32)
    whole = roi_align(x, IMAGES, CORNERS, pooled=(3, 2))
    each = [roi_align(x, IMAGES[k : k + 1], CORNERS[k : k + 1], pooled=(3, 2)) for k in range(len(IMAGES))]
    assert np.array_equal(whole, np.concatenate(each))
    monkeypatch.setattr(regions, "_CHUNK", 1)
    assert np.array_equal(roi_align(x, IMAGES, CORNERS, pooled=(3, 2)), whole)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: roi_align(x, IMAGES, CORNERS, pooled=(2, 2), mode="mean"), pre.OptionError, "'avg' or 'max', got 'mean'"),
        (lambda x: roi_align(x, IMAGES[:2], CORNERS, pooled=(2, 2)), pre.ShapeError, r"wanted \(regions, 4\)"),
        (lambda x: roi_pool(x, IMAGES + 1, CORNERS, pooled=(2, 2), scale=1.0), pre.ShapeError, "image 1 to 3; there are 3"),
        (lambda x: roi_align(x, IMAGES, CORNERS * np.nan, pooled=(2, 2)), pre.ShapeError, "not finite"),
        (lambda x: deform_conv(x, np.ones((4, 3, 3, 3)), x), pre.PreimageError, "channels"),
        (lambda x: deform_conv(x, np.ones((4, 2, 3, 3)), x), pre.ShapeError, r"offset has shape .*, wanted \(3, 18, 5, 4\)"),
        (
            lambda x: deform_conv(x, np.ones((4, 2, 3, 3)), np.ones((3, 18, 5, 4)), x),
            pre.ShapeError,
            r"mask has shape .*\(3, 9, 5, 4\)",
        ),
        (
            lambda x: deform_conv(x, np.ones((4, 2, 3, 3)), x, offset_groups=3),
            pre.ShapeError,
            "2 channels .* into 3 offset groups",
        ),
    ],
)
def test_what_does_not_fit_is_said(call, error, words):
    with pytest.raises(error, match=words):
        call(np.ones((3, 2, 7, 6)))


def deformed(x, w, offset, mask, b, stride, padding, dilation, groups, parts):
    (n, c, h, v), (o, per, kh, kw) = x.shape, w.shape
    out = np.zeros((n, o, *offset.shape[2:]))
    for k, i, j in np.ndindex(o, *out.shape[2:]):
        for image, a, t in np.ndindex(n, per, kh * kw):
            channel = k // (o // groups) * per + a
            part = channel // (c // parts)
            y = i * stride[0] - padding[0][0] + t // kw * dilation[0] + offset[image, (part * kh * kw + t) * 2, i, j]
            xx = j * stride[1] - padding[1][0] + t % kw * dilation[1] + offset[image, (part * kh * kw + t) * 2 + 1, i, j]
            value, low, left = 0.0, int(np.floor(y)), int(np.floor(xx))
            for dy, dx in product((0, 1), (0, 1)):
                if 0 <= low + dy < h and 0 <= left + dx < v:
                    value += (1 - abs(y - low - dy)) * (1 - abs(xx - left - dx)) * x[image, channel, low + dy, left + dx]
            out[image, k, i, j] += (
                w[k, a, t // kw, t % kw] * value * (1 if mask is None else mask[image, part * kh * kw + t, i, j])
            )
    return out if b is None else out + b[:, None, None]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("groups", "parts"), [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_deformable_convolution_is_its_definition_and_differentiates(groups, parts, masked):
    x, w, b = RNG.standard_normal((2, 4, 7, 6)), RNG.standard_normal((6, 4 // groups, 3, 2)), RNG.standard_normal(6)
    geometry = {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2)}
    out = pre.conv(x, w, groups=groups, **geometry).shape[2:]
    offset = RNG.uniform(-2.5, 2.5, (2, parts * 12, *out))
    offset += (
        0.05 * np.sign(offset - np.rint(offset)) * (np.abs(offset - np.rint(offset)) < 0.05)
    )  # away from elements, where slopes change
    mask = RNG.random((2, parts * 6, *out)) if masked else None
    found = deform_conv(x, w, offset, mask, b, groups=groups, offset_groups=parts, **geometry)
    assert np.abs(found - deformed(x, w, offset, mask, b, *geometry.values(), groups, parts)).max() < 1e-12
    given = [x, w, offset, b] + ([mask] if masked else [])
    pre.check_grads(
        lambda x, w, offset, b, mask=None: deform_conv(x, w, offset, mask, b, groups=groups, offset_groups=parts, **geometry),
        given, trials=1, order=2 if groups == 2 else 1,
    )  # fmt: skip


def test_taps_that_stay_are_a_convolution():
    x, w = (RNG.integers(-4, 5, s).astype(np.float32) for s in ((2, 3, 8, 9), (5, 3, 3, 3)))
    y = pre.conv(x, w, padding=1, stride=2)
    assert np.array_equal(deform_conv(x, w, np.zeros((2, 18, *y.shape[2:]), np.float32), padding=1, stride=2), y)
    one = deform_conv(x[:, :, 0], w[:, :, 0], np.ones((2, 3, 7), np.float32), padding=0)  # one axis, all taps one further
    assert np.array_equal(one, pre.conv(np.pad(x[:, :, 0, 1:], ((0, 0), (0, 0), (0, 1))), w[:, :, 0]))
