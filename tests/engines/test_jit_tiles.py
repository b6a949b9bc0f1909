"""Tiles: how windows cover a phase."""

from __future__ import annotations

from itertools import product

from preimage.engines.jit.index.taps import gather_axes
from preimage.engines.jit.index.tiling import cover_size, tile_phase
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
