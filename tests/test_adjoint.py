"""The dot test: <y, conv(x, w)> == <conv_transpose(y, w), x> == <conv_weight_grad(x, y), w>, in float64, over random geometries.

All sizes are unequal; 0 to 4 spatial axes, every padding mode, groups, dilation, unequal and negative padding, both layouts.
The margin of error is relative to sums of absolute values, so that cancellation cannot hide or fake a difference.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

import oracle
import preimage as pre
from geometries import MODES, random_geometry

COUNT, CHUNKS = 2000, 8
BOUND = 1e-12


def options_of(geometry, mode, layout):
    return {
        "stride": geometry.stride, "padding": geometry.padding, "dilation": geometry.dilation, "groups": geometry.groups,
        "padding_mode": mode, "layout": layout,
    }  # fmt: skip


def error(
    geometry, mode, layout, numbers, conv=pre.conv, conv_transpose=pre.conv_transpose, conv_weight_grad=pre.conv_weight_grad
):
    """The largest relative difference between the three inner products."""
    x, w, y = (
        numbers.standard_normal(s) for s in (geometry.input_shape, geometry.weight_shape, geometry.output_shape)
    )  # fmt: skip
    options = options_of(geometry, mode, layout)
    if layout == "channels_last":
        x, y = np.moveaxis(x, 1, -1), np.moveaxis(y, 1, -1)
    forward = conv(x, w, **options)
    back = conv_transpose(y, w, output_size=geometry.input_size, **options)
    weight = conv_weight_grad(x, y, kernel_size=geometry.kernel_size, **options)
    assert (forward.shape, back.shape, weight.shape) == (y.shape, x.shape, w.shape)
    products = [np.sum(forward * y), np.sum(back * x), np.sum(weight * w)]
    sizes = [np.sum(np.abs(a * b)) for a, b in ((forward, y), (back, x), (weight, w))]
    return (max(products) - min(products)) / (max(sizes) + 1e-300)


def draw(rng):
    """A geometry, a mode and a layout that go together."""
    while True:
        geometry, mode = random_geometry(rng), rng.choice(MODES)
        if not geometry.is_conv_size:
            continue
        copies = mode != "zeros" and any(lo or hi for lo, hi in geometry.padding)
        if copies and 0 in geometry.input_size:
            continue
        return geometry, mode, rng.choice(("channels_first", "channels_last"))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_dot(engine, chunk):
    rng, numbers = random.Random(1000 + chunk), np.random.default_rng(chunk)
    worst = 0.0
    for _ in range(COUNT // CHUNKS):
        geometry, mode, layout = draw(rng)
        found = error(geometry, mode, layout, numbers)
        assert found < BOUND, (geometry, mode, layout)
        worst = max(worst, found)
    assert worst > 0.0


def test_dot_of_sizes_that_no_convolution_gives(engine):
    """output_padding between stride and dilation: against the oracle's definition, since conv cannot be asked."""
    rng, numbers = random.Random(4), np.random.default_rng(4)
    seen = 0
    while seen < 100:
        geometry = random_geometry(rng)
        if geometry.is_conv_size:
            continue
        seen += 1
        x, w, y = (
            numbers.integers(-3, 4, s).astype(np.float64)
            for s in (geometry.input_shape, geometry.weight_shape, geometry.output_shape)
        )
        s, options = oracle.sizes_of(geometry), options_of(geometry, "zeros", "channels_first")
        leaf, weight = pre.Tensor(y, requires_grad=True), pre.Tensor(w, requires_grad=True)
        result = pre.conv_transpose(leaf, weight, output_padding=geometry.output_padding, **options)
        assert np.array_equal(result.data, oracle.conv_transpose(y, w, s))
        grad_y, grad_w = pre.grad(result, [leaf, weight], x)
        assert np.array_equal(grad_y.data, oracle.conv(x, w, s))
        assert np.array_equal(grad_w.data, oracle.conv_weight_grad(x, y, s))


def test_padding_modes_against_a_padded_input():
    """conv in a mode is conv without padding on what the oracle pads, exactly."""
    rng, numbers = random.Random(6), np.random.default_rng(6)
    for _ in range(120):
        geometry, mode, _ = draw(rng)
        x = numbers.integers(-3, 4, geometry.input_shape).astype(np.float64)
        w = numbers.integers(-3, 4, geometry.weight_shape).astype(np.float64)
        padded = oracle.pad(x, geometry.padding, mode)
        bare = {"stride": geometry.stride, "dilation": geometry.dilation, "groups": geometry.groups}
        found = pre.conv(x, w, **options_of(geometry, mode, "channels_first"))
        assert np.array_equal(found, pre.conv(padded, w, **bare)[(..., *(slice(n) for n in geometry.output_size))])
