"""Tiles: how windows cover a phase."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.compiler.costs import AVX512, ZEN4
from preimage.engines.jit.compiler.target import costs_of
from preimage.engines.jit.index.taps import gather_axes
from preimage.engines.jit.index.tiling import Work, choose_tile, cover_size, tile_phase
from preimage.geometry import ConvGeometry


def test_the_size_of_a_cover_is_what_the_cover_has():
    for size, kernel, stride, dilation, padding in product((1, 7, 30), (1, 2, 5), (1, 3), (1, 4), (0, 2)):
        if size + 2 * padding <= (kernel - 1) * dilation:
            continue
        g = ConvGeometry.from_conv((1, 3, size), (2, 3, kernel), stride=stride, dilation=dilation, padding=padding)
        for contraction, every_tap in product(("conv", "conv_transpose"), (False, True)):
            for phase in (p for axis in gather_axes(g, contraction, every_tap) for p in axis.phases if p.count):
                for pixels in range(1, phase.count + 1):
                    tiles = tile_phase(phase, pixels)
                    assert cover_size(phase, pixels) == (int((tiles.last - tiles.first).sum()), len(tiles.starts))


@pytest.mark.parametrize(
    ("cpu", "out_channels", "lanes", "vectors"),
    [("znver4", 16, 8, 2), ("znver5", 16, 16, 1), ("znver4", 32, 16, 2)],
)
def test_a_tile_of_one_wide_vector_is_taken_only_where_its_loads_are_quick(cpu, out_channels, lanes, vectors):
    g = ConvGeometry.from_conv((1, 32, 64, 64), (out_channels, 32, 3, 3), padding=1)
    target = replace(kernels.named_target("avx512"), costs=costs_of(64, cpu))
    found = choose_tile(gather_axes(g, "conv", False), [1], Work(out_channels, 1, 32, 4, target))
    assert (found.lanes, found.vectors) == (lanes, vectors)


def test_a_cpu_that_nobody_measured_has_the_numbers_of_its_registers():
    assert costs_of(64, "znver4") is ZEN4
    assert costs_of(64, "a CPU of next year") is AVX512
