"""Vectors across pixels: blocks of columns of any length against padding, dilation and kernels of any length."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

import oracle
from geometries import operands
from preimage.engines.jit import select
from preimage.engines.jit.conv import across_pixels
from preimage.engines.jit.conv.across_pixels import AcrossPixelsPlan
from preimage.engines.jit.engine import JitEngine
from preimage.engines.jit.request import little_work
from preimage.errors import GeometryError
from preimage.geometry import ConvGeometry

JIT = JitEngine()
pytestmark = pytest.mark.skipif(JIT.unavailable() is not None, reason=str(JIT.unavailable()))


def last(a):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def check(engine, g, names):
    x, w, y = operands(g, np.random.default_rng(g.macs))
    for name in names:
        a = x if name == "conv" else y
        wanted = getattr(oracle, name)(a, w, oracle.sizes_of(g))
        for place in (np.ascontiguousarray, last):
            assert np.array_equal(getattr(engine, name)(g, place(a), w), wanted), (name, place.__name__, g)


@pytest.mark.parametrize("kernel", [(5, 25, 50), (4, 30, 45), (21, 6, 60)])
def test_a_block_shorter_than_the_padding_it_reads(kernel):
    """So many input channels that a block of columns is one tile, and taps that reach further left than that: blocks behind the
    first still read columns before 0. They were once filled from a place where one vector held columns on both sides of 0.
    """
    size, dilation, padding = kernel
    g = ConvGeometry.from_conv((1, 4096, 120), (1, 4096, size), padding=padding, dilation=dilation)
    assert "across pixels" in JIT.plan(g, "conv", np.dtype(np.float32)).algorithm
    check(JIT, g, ["conv"])


@pytest.mark.parametrize("stride", [15, 16, 17, 27, 28])
def test_as_many_stride_phases_as_there_are_registers(monkeypatch, stride):
    """A word of 64 bits says of every phase which sums end: with registers for more phases (AVX-512 has 32) it had too few bits."""
    planned = across_pixels.across_pixels_plan

    def first_choice(r, axes):
        found = planned(r, axes)
        return found if isinstance(found, str) else replace(found, cost=-1.0)

    monkeypatch.setattr(select, "across_pixels_plan", first_choice)
    with little_work(0):
        check(JitEngine(), ConvGeometry.from_conv((2, 1, 8 * stride), (2, 1, 2 * stride), stride=stride), ["conv_transpose"])


def test_blocks_of_any_length(change_costs, monkeypatch):
    """The schedule wherever it fits, in scratch memory so small that there are many blocks."""
    rng, count = random.Random(1), 0
    planned = across_pixels.across_pixels_plan

    def first_choice(r, axes):
        nonlocal count
        found = planned(r, axes)
        count += isinstance(found, AcrossPixelsPlan)
        return found if isinstance(found, str) else replace(found, cost=-1.0)

    monkeypatch.setattr(select, "across_pixels_plan", first_choice)
    with little_work(0):
        for _ in range(60):
            ndim = rng.choice((1, 1, 2))
            kernel = [rng.choice((1, 3, 5, 9, 17)) for _ in range(ndim)]
            dilation = [rng.choice((1, 1, 2, 4, 7)) for _ in range(ndim)]
            padding = [tuple(rng.randint(0, (k - 1) * d + 1) for _ in range(2)) for k, d in zip(kernel, dilation, strict=True)]
            size = [rng.choice((1, 2, 5)) for _ in range(ndim - 1)] + [rng.choice((1, 7, 20, 33, 64, 90))]
            options = {"dilation": dilation, "padding": padding}
            channels, many = rng.choice((1, 2, 3, 12, 13)), rng.choice((1, 4, 9))
            change_costs(across_pixels={"scratch_bytes": rng.choice((1, 1 << 10, 1 << 12))})
            try:
                if rng.random() < 0.5:
                    g = ConvGeometry.from_conv((2, many, *size), (channels, many, *kernel), **options)
                    check(JitEngine(), g, ["conv"])
                else:
                    stride = [rng.choice((1, 2, 3)) for _ in range(ndim)]
                    weight = (many, channels, *kernel)
                    g = ConvGeometry.from_conv_transpose((2, many, *size), weight, stride=stride, **options)
                    check(JitEngine(), g, ["conv_transpose"])
            except GeometryError:
                continue
    assert count > 40
