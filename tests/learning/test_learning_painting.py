"""The story of a run: shares, order, where activations stand, and frames that end in the whole picture."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage.learning import Coded, Options, Strokes, activation_map, order_of_use, paint_by_numbers, psnr, shares, strokes


def coded_by_hand(border: str = "full", stride: int = 1) -> Coded:
    options = Options(stencils=3, size=3, stride=stride, border=border)
    rng, model = np.random.default_rng(1), options.model()
    stencils = rng.standard_normal((3, 1, 3, 3)).astype(np.float32)
    z = np.zeros((3, *model.activation_size(11, 10)), np.float32)
    z[0, 4, 4], z[1, 2, 3], z[1, 3, 3], z[2, 4, 1] = 0.5, -3.0, 1.0, 1.5
    return Coded(stencils, [z], [model.paint(z, stencils, 11, 10)], [], options)


def test_shares_and_order() -> None:
    coded = coded_by_hand()
    np.testing.assert_allclose(shares(coded), np.array([0.5, 4.0, 1.5]) / 6)
    np.testing.assert_array_equal(order_of_use(coded), [1, 2, 0])


@pytest.mark.parametrize("border", ["full", "circular"])
@pytest.mark.parametrize("stride", [1, 2])
def test_an_activation_stands_under_the_middle_of_its_stencil(border: str, stride: int) -> None:
    coded = coded_by_hand(border, stride)
    ones = np.ones((3, 1, 3, 3), np.float32)
    z = np.zeros_like(coded.activations[0])
    z[1, 2, 2] = 1.0
    painted = coded.options.model().paint(z, ones, 11, 10)[0]
    rows, columns = np.nonzero(painted)
    middle = (round(rows.mean()), round(columns.mean()))
    coded.activations[0][...] = z
    found = activation_map(coded, 0, 1)
    assert found[middle] == 1.0
    assert np.count_nonzero(found) == 1


def test_the_frames_end_in_the_rebuilt_picture() -> None:
    coded = coded_by_hand()
    slow = np.full((1, 11, 10), 0.3, np.float32)
    original = slow + coded.painted[0]
    with pre.config(engine="gemm"):
        story = paint_by_numbers(coded, 0, "name", original, slow)
    assert [f.count for f in story.frames] == [0, 1, 2, 3]
    np.testing.assert_allclose(story.frames[-1].picture, story.rebuilt, atol=1e-6)
    np.testing.assert_allclose(story.rebuilt, original, atol=1e-6)
    assert [f.psnr for f in story.frames] == sorted(f.psnr for f in story.frames)
    assert story.nonzeros_per_pixel == 4 / 110
    assert [k for k, _ in story.maps] == [1, 2, 0]


def test_psnr() -> None:
    a, b = np.zeros((1, 2, 2)), np.array([[[0.1, 0.1], [0.1, 0.3]]])
    assert psnr(a, b) == pytest.approx(-10 * np.log10(0.12 / 4))
    assert psnr(a, b, np.array([[True, True], [True, False]])) == pytest.approx(20.0)


@pytest.mark.parametrize("border", ["full", "circular"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_strokes_add_up_to_what_is_painted(border: str, stride: int, channels: int) -> None:
    """Whole numbers, so that every order of adding gives the same sum; the loop here shares nothing with the model."""
    options = Options(stencils=4, size=3, stride=stride, border=border)
    rng, model = np.random.default_rng(2), options.model()
    stencils = rng.integers(-5, 6, (4, channels, 3, 3)).astype(np.float32)
    z = rng.integers(-3, 4, (4, *model.activation_size(11, 10))).astype(np.float32)
    coded = Coded(stencils, [z], [model.paint(z, stencils, 11, 10)], [], options)
    found = strokes(coded, 0)
    assert len(found) == np.count_nonzero(z)
    assert np.all(np.diff(np.abs(found.value)) <= 0)
    out = np.zeros((channels, 11, 10))
    for k, row, column, value in zip(found.stencil, found.row, found.column, found.value, strict=True):
        for a in range(3):
            for b in range(3):
                y, x = row + a, column + b
                if found.wraps:
                    y, x = y % 11, x % 10
                if 0 <= y < 11 and 0 <= x < 10:
                    out[:, y, x] += value * stencils[k, :, a, b]
    np.testing.assert_array_equal(out, coded.painted[0])


def test_strokes_of_planes_are_joined_the_strongest_first() -> None:
    parts = [strokes(coded_by_hand(), 0), strokes(coded_by_hand(stride=2), 0)]
    whole = Strokes.joined(parts)
    assert len(whole) == len(parts[0]) + len(parts[1])
    assert np.all(np.diff(np.abs(whole.value)) <= 0)
    for n, part in enumerate(parts):
        mine = whole.plane == n
        for name in ("stencil", "row", "column", "value"):
            np.testing.assert_array_equal(getattr(whole, name)[mine], getattr(part, name))
