"""Beside torch, where it is installed: forward and all gradients, first and second order, over random geometries."""

from __future__ import annotations

import random

import numpy as np
import pytest

import preimage as pre
from geometries import random_geometry

torch = pytest.importorskip("torch")
F = torch.nn.functional
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def usable(g):
    """torch takes one padding for both ends, none negative, and no empty sizes."""
    return (
        all(lo == hi >= 0 for lo, hi in g.padding)
        and min((*g.input_size, *g.output_size)) > 0
        and all(n + 2 * p >= e for n, (p, _), e in zip(g.input_size, g.padding, g.kernel_extent, strict=True))
    )


def symmetric(rng):
    while True:
        g = random_geometry(rng, ndim=rng.choice((1, 2, 3)))
        padding = [rng.randint(0, 3) for _ in range(g.ndim)]
        shape = (g.batch, g.in_channels, *[n + 3 for n in g.input_size])
        options = {"stride": list(g.stride), "padding": padding, "dilation": list(g.dilation), "groups": g.groups}
        try:
            geometry = pre.ConvGeometry.from_conv(shape, g.weight_shape, **options)
        except pre.errors.GeometryError:
            continue
        if usable(geometry):
            return geometry, options


def both(ours, theirs, arrays, cotangent, second):
    """(value, gradients, gradients of a quadratic form of the gradients) of both libraries."""
    t = [pre.Tensor(a, requires_grad=True) for a in arrays]
    u = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, v = ours(*t), theirs(*u)
    g = pre.grad(y, t, cotangent, create_graph=True)
    h = torch.autograd.grad(v, u, torch.tensor(cotangent), create_graph=True)
    results = [(y.data, v.detach().numpy()), *((a.data, b.detach().numpy()) for a, b in zip(g, h, strict=True))]
    if second:
        gg = pre.grad(sum(((a * a).sum() for a in g[1:2]), (g[0] * g[0]).sum()), t[:2])
        hh = torch.autograd.grad(sum((a * a).sum() for a in h[:2]), u[:2])
        results += [(a.data, b.numpy()) for a, b in zip(gg, hh, strict=True)]
    return results


def test_conv(engine):
    rng, numbers = random.Random(0), np.random.default_rng(0)
    for k in range(24):
        g, options = symmetric(rng)
        arrays = [numbers.standard_normal(s) for s in (g.input_shape, g.weight_shape, (g.out_channels,))]
        pairs = both(
            lambda x, w, b, options=options: pre.conv(x, w, b, **options),
            lambda x, w, b, options=options, g=g: CONV[g.ndim](x, w, b, **options),
            arrays, numbers.standard_normal(g.output_shape), k % 4 == 0,
        )  # fmt: skip
        for ours, theirs in pairs:
            assert np.allclose(ours, theirs, rtol=1e-10, atol=1e-10), g


def test_conv_transpose(engine):
    rng, numbers = random.Random(1), np.random.default_rng(1)
    for k in range(24):
        g, options = symmetric(rng)
        options["output_padding"] = list(g.remainder)
        arrays = [numbers.standard_normal(s) for s in (g.output_shape, g.weight_shape, (g.in_channels,))]
        pairs = both(
            lambda y, w, b, options=options: pre.conv_transpose(y, w, b, **options),
            lambda y, w, b, options=options, g=g: TRANSPOSE[g.ndim](y, w, b, **options),
            arrays, numbers.standard_normal(g.input_shape), k % 4 == 0,
        )  # fmt: skip
        for ours, theirs in pairs:
            assert np.allclose(ours, theirs, rtol=1e-10, atol=1e-10), g


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes(mode):
    numbers = np.random.default_rng(2)
    x, w, b = (numbers.standard_normal(s) for s in ((2, 4, 9, 8), (6, 2, 3, 2), (6,)))
    layer = torch.nn.Conv2d(4, 6, (3, 2), padding=(2, 3), stride=(2, 1), groups=2, padding_mode=mode, dtype=torch.float64)
    layer.weight.data, layer.bias.data = torch.tensor(w), torch.tensor(b)

    def ours(x, w, b):
        return pre.conv(x, w, b, padding=(2, 3), stride=(2, 1), groups=2, padding_mode=mode)

    leaves = [pre.Tensor(a, requires_grad=True) for a in (x, w, b)]
    y = ours(*leaves)
    t = torch.tensor(x, requires_grad=True)
    v = layer(t)
    cotangent = numbers.standard_normal(y.shape)
    grads = pre.grad(y, leaves, cotangent)
    theirs = torch.autograd.grad(v, [t, layer.weight, layer.bias], torch.tensor(cotangent))
    assert np.allclose(y.data, v.detach().numpy(), rtol=1e-12)
    for a, c in zip(grads, theirs, strict=True):
        assert np.allclose(a.data, c.numpy(), rtol=1e-11, atol=1e-12)


def test_unfold_and_fold():
    x = np.random.default_rng(3).standard_normal((2, 3, 9, 8))
    options = {"dilation": (2, 1), "padding": (1, 2), "stride": (2, 3)}
    ours, theirs = pre.unfold(x, (3, 2), **options), F.unfold(torch.tensor(x), (3, 2), **options).numpy()
    assert np.array_equal(ours, theirs)
    assert np.allclose(pre.fold(ours, (9, 8), (3, 2), **options), F.fold(torch.tensor(theirs), (9, 8), (3, 2), **options).numpy())
