"""The slow part of a picture: against the equations solved densely, and against SPORCO's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from preimage.errors import OptionError, ShapeError
from preimage.learning import fill_in, noise_level, split_slow


def differences(height: int, width: int, circular: bool) -> np.ndarray:
    """All differences of neighbours as a matrix, one row each, from index loops."""
    rows = []
    for i in range(height):
        for j in range(width):
            for a, b in ((i + 1, j), (i, j + 1)):
                if circular:
                    a, b = a % height, b % width
                elif a >= height or b >= width:
                    continue
                row = np.zeros((height, width))
                row[a, b] += 1
                row[i, j] -= 1
                rows.append(row.ravel())
    return np.array(rows)


@pytest.mark.parametrize(("height", "width", "margin"), [(7, 5, 2), (4, 9, 3), (5, 6, 0)])
def test_split_solves_its_equations(rng: np.random.Generator, height: int, width: int, margin: int) -> None:
    x = rng.random((height, width))
    slow, detail = split_slow(x, weight=3.0, margin=margin)
    mirrored = np.pad(x, margin, "symmetric")
    d = differences(*mirrored.shape, circular=True)
    dense = np.linalg.solve(np.eye(mirrored.size) + 3.0 * d.T @ d, mirrored.ravel()).reshape(mirrored.shape)
    np.testing.assert_allclose(slow, dense[margin : margin + height, margin : margin + width], atol=1e-12)
    np.testing.assert_array_equal(slow + detail, slow + (x - slow))


def test_split_agrees_with_sporco() -> None:
    """Numbers printed by sporco 0.2.2, sporco.signal.tikhonov_filter(x, 5, 16), for this formula."""
    i, j = np.mgrid[0:20, 0:17]
    x = 0.5 + 0.3 * np.sin(0.7 * i + 0.2 * j * j) * np.cos(0.31 * j)
    theirs = [
        [0.5838637107837851, 0.5123921544362672, 0.5146503746434422],
        [0.5145169722413424, 0.5032702212872096, 0.5044716333457921],
        [0.5460067224580138, 0.5056995849980089, 0.502942686074285],
    ]
    slow, _ = split_slow(x)
    np.testing.assert_allclose(slow[np.ix_((0, 9, 19), (0, 5, 16))], theirs, atol=1e-12)


def test_split_works_on_every_channel_alone(rng: np.random.Generator) -> None:
    x = rng.random((3, 12, 9)).astype(np.float32)
    slow, detail = split_slow(x)
    assert slow.dtype == detail.dtype == np.float32
    for channel in range(3):
        np.testing.assert_array_equal(slow[channel], split_slow(x[channel])[0])


def test_a_constant_picture_has_no_detail() -> None:
    _, detail = split_slow(np.full((6, 30), 0.25))
    assert np.abs(detail).max() < 1e-12


@pytest.mark.parametrize(("options", "error", "text"), [
    ({"weight": -1.0}, OptionError, "must not be negative"),
    ({"weight": float("nan")}, OptionError, "must not be negative"),
    ({"margin": -1}, OptionError, "must not be negative"),
])  # fmt: skip
def test_split_refuses(options: dict[str, float], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        split_slow(np.zeros((4, 4)), **options)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="a height and a width"):
        split_slow(np.zeros(4))


def test_fill_in_solves_its_equations(rng: np.random.Generator) -> None:
    x, known = rng.random((2, 6, 5)), rng.random((6, 5)) > 0.5
    known[0, 0], known[1, 1] = True, False
    filled = fill_in(x, known, weight=2.0, tolerance=1e-12)
    d = differences(6, 5, circular=False)
    matrix = np.diag(known.ravel().astype(float)) + 2.0 * d.T @ d
    for channel in range(2):
        dense = np.linalg.solve(matrix, (known * x[channel]).ravel()).reshape(6, 5)
        np.testing.assert_allclose(filled[channel], dense, atol=1e-9)


def test_what_lies_under_the_mask_does_not_matter(rng: np.random.Generator) -> None:
    x, known = rng.random((1, 9, 8)), rng.random((9, 8)) > 0.4
    other = np.where(known, x, 77.0)
    np.testing.assert_array_equal(fill_in(x, known), fill_in(other, known))


def test_fill_in_refuses() -> None:
    with pytest.raises(ShapeError, match="same height and width"):
        fill_in(np.zeros((1, 4, 4)), np.ones((4, 5), bool))
    with pytest.raises(OptionError, match="no pixel known"):
        fill_in(np.zeros((1, 4, 4)), np.zeros((4, 4), bool))


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_noise_level_is_found_in_spite_of_edges(rng: np.random.Generator, sigma: float) -> None:
    x = np.add.outer(np.arange(128) // 24, np.arange(96) // 24) % 2 * 0.5 + np.linspace(0, 0.3, 96)
    known = rng.random(x.shape) > 0.2
    noisy = x + sigma * rng.standard_normal(x.shape)
    assert abs(noise_level(noisy) / sigma - 1) < 0.1
    assert abs(noise_level(np.where(known, noisy, 50.0), known) / sigma - 1) < 0.15
    assert noise_level(np.zeros((1, 1))) == 0
