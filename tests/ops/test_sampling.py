"""Which pixels resizing reads: all pairs of sizes and many factors against the definition in fractions, and against torch."""

from fractions import Fraction

import numpy as np
import pytest

from preimage import ops
from preimage.ops.sampling import ROUNDINGS, Positions, simplest_fraction
from preimage.ops.upsample import Resize, line

MOST = 130


def taken(n, mode, **how):
    """The index that every output of a resized axis of n elements is."""
    return ops.upsample(np.arange(n, dtype=np.float64).reshape(1, 1, n), mode=mode, **how)[0, 0].astype(int)


def definition(n, m, mode):
    o = np.arange(m)
    return o * n // m if mode == "nearest" else (2 * o + 1) * n // (2 * m)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_all_pairs_of_sizes(mode):
    """The indices of every pair; what the operation then does with them, for one in ten."""
    for n in range(1, MOST + 1):
        for m in range(1, MOST + 1):
            low, high, t = Resize(n, line(n, m, None, mode, False), False).weights()
            assert low is high
            assert not t.any()
            assert (low == definition(n, m, mode)).all(), (n, m)
        for m in range(1 + n % 10, MOST + 1, 10):
            np.testing.assert_array_equal(taken(n, mode, size=m), definition(n, m, mode), f"{n} -> {m}")


def test_torch_agrees_with_the_definition():
    torch = pytest.importorskip("torch")
    for n in range(1, MOST + 1):
        x = torch.arange(n, dtype=torch.float64).reshape(1, 1, n)
        for m in range(1 + n % 4, MOST + 1, 4):
            theirs = torch.nn.functional.interpolate(x, size=m, mode="nearest-exact")[0, 0].numpy()
            assert (theirs == definition(n, m, "nearest-exact")).all(), (n, m)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_factors(mode):
    """Whole numbers, their inverses, and what a decimal or a quotient stands for."""
    factors = [(float(k), Fraction(k)) for k in range(1, 201)] + [(1 / k, Fraction(1, k)) for k in range(2, 40)]
    factors += [(k / 10, Fraction(k, 10)) for k in range(1, 60)] + [(5 / k, Fraction(5, k)) for k in (3, 6, 7, 9)]
    for factor, meant in factors:
        for n in (3, 10, 41)[factors.index((factor, meant)) % 3 :][:1]:
            m = int(n * factor)
            if m < 1:
                continue
            half = Fraction(1, 2) if mode == "nearest-exact" else 0
            wanted = [min(int((o + half) / meant), n - 1) for o in range(m)]
            assert taken(n, mode, scale_factor=factor).tolist() == wanted, (factor, n)


def test_factors_as_torch_has_them():
    torch = pytest.importorskip("torch")
    for factor in [*range(1, 60), *(k / 4 for k in range(1, 30)), *(k / 10 for k in range(1, 30))]:
        for n in (7, 20, 33):
            if int(n * factor) < 1:
                continue
            x = torch.arange(n, dtype=torch.float64).reshape(1, 1, n)
            theirs = torch.nn.functional.interpolate(x, scale_factor=float(factor), mode="nearest-exact")[0, 0].numpy()
            np.testing.assert_array_equal(taken(n, "nearest-exact", scale_factor=factor), theirs.astype(int), f"{n} * {factor}")


@pytest.mark.parametrize("corners", [False, True])
def test_blends_meet_the_elements_exactly(corners):
    """Linear weights are the exact fractions, rounded once; where a position is an element nothing else is read."""
    for n in (1, 2, 5, 7, 14):
        for m in (1, 2, 9, 13, 18, 29, 31):
            step = Fraction(n - 1, max(m - 1, 1)) if corners else Fraction(n, m)
            places = [min(max(o * step if corners else (o + Fraction(1, 2)) * step - Fraction(1, 2), 0), n - 1) for o in range(m)]
            for k in range(n):
                x = np.zeros((1, 1, n))
                x[0, 0, k] = 1.0
                got = ops.upsample(x, size=m, mode="linear", align_corners=corners)[0, 0]
                wanted = [float(max(0, 1 - abs(p - k))) for p in places]
                np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-16)
                x[0, 0, k] = np.inf
                got = ops.upsample(x, size=m, mode="linear", align_corners=corners)[0, 0]
                np.testing.assert_array_equal(got, [np.inf if w else 0.0 for w in wanted])


def test_roundings():
    """Against rounding in fractions; ties, negative positions and denominators beyond 64 bits among them."""
    exact = {
        "floor": lambda p: p.__floor__(),
        "ceil": lambda p: p.__ceil__(),
        "round_prefer_floor": lambda p: (p - Fraction(1, 2)).__ceil__(),
        "round_prefer_ceil": lambda p: (p + Fraction(1, 2)).__floor__(),
    }
    lines = [
        (Fraction(-7, 2), Fraction(1, 2)),
        (Fraction(-1, 3), Fraction(7, 29)),
        (Fraction(0.1), Fraction(0.3)),
        (Fraction(3), Fraction(0)),
    ]
    for start, step in lines:
        for rounding in ROUNDINGS:
            got = Positions(40, start, step).rounded(rounding)
            assert got.dtype == np.int64
            assert got.tolist() == [exact[rounding](start + o * step) for o in range(40)], (start, step, rounding)
        low, t = Positions(40, start, step).blended()
        assert low.tolist() == [exact["floor"](start + o * step) for o in range(40)]
        assert t.tolist() == [float(start + o * step - k) for o, k in enumerate(low.tolist())]


def test_simplest_fractions():
    for p in range(1, 60):
        for q in range(1, 60):
            assert simplest_fraction(p / q) == Fraction(p, q)
            assert simplest_fraction(np.float32(p / q)) == Fraction(p, q)
    for value in (1e-300, 2.0**-1074, 1e300, np.pi):
        assert float(simplest_fraction(value)) == value


def test_plans_grow_with_the_length_alone():
    """A million outputs, of a factor that repeats late: the stretches are found in one pass."""
    x = np.arange(30_011, dtype=np.float64).reshape(1, 1, -1)
    m = 100_003
    np.testing.assert_array_equal(ops.upsample(x, size=m)[0, 0], np.arange(m) * 30_011 // m)
