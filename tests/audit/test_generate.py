"""The generator: seeded, sound, bounded, and rich in what engines get wrong, alone and together."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from preimage.audit.axes import axes_of, with_axes
from preimage.audit.case import Case
from preimage.audit.draft import LIMITS, draft_of, fit, split
from preimage.audit.extremes import EXTREMES
from preimage.audit.generate import LARGE_EVERY, LARGE_LIMITS, case_at, cases
from preimage.audit.known import known_cases, near_case


def some(c, holds):
    """Whether an axis has it: holds(size, positions, kernel, stride, lo, hi, dilation, extent)."""
    rows = zip(c.input_size, c.output_size, c.kernel_size, c.stride, c.padding, c.dilation, strict=True)
    return any(holds(n, m, k, s, lo, hi, d, (k - 1) * d + 1) for n, m, k, s, (lo, hi), d in rows)


EDGES = {
    "stride > kernel": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: s > k),
    "stride > extent": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: s > e > 1 and m > 1),
    "padding >= kernel": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: lo >= k),
    "padding >= extent at both ends": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: min(lo, hi) >= e > 1),
    "padding at one end alone": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: (lo == 0) != (hi == 0)),
    "negative padding": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: min(lo, hi) < 0),
    "deep negative padding": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: min(lo, hi) < -4),
    "remainder": lambda c: any(c.remainder),
    "no forward convolution": lambda c: not c.is_conv,
    "dilation with stride": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: s > 1 and d > 1),
    "dilation over 4": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: d > 4 and k > 1),
    "dilation over 20": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: d > 20 and k > 1),
    "dilation over 4 with one position": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: d > 4 and k > 1 and m == 1),
    "one input position": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: n == 1),
    "more taps than input": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: k > n),
    "extent beyond input": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: e > n and k > 1),
    "one output": lambda c: c.ndim > 0 and set(c.output_size) == {1},
    "long stride": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: s > 16 and m > 1),
    "long kernel": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: k > 20),
    "long axis": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: max(n, m) > 500),
    "numbers that must not matter": lambda c: some(c, lambda n, m, k, s, lo, hi, d, e: s > 10**4 or d > 10**4),
    "large batch": lambda c: c.batch > 8,
    "many channels": lambda c: max(c.group_in, c.group_out) > 100,
    "channels of no block": lambda c: c.group_in > 33 and c.group_in % 8 and c.group_in not in (63, 65),
    "many groups": lambda c: c.groups > 70,
    "depthwise with multiplier": lambda c: c.groups > 1 and c.group_in == 1 and c.group_out > 1,
    "groups": lambda c: c.groups > 1 and c.group_in > 1,
    "empty": lambda c: 0 in (*c.x_shape, *c.y_shape),
    "no axis": lambda c: c.ndim == 0,
    "4 axes": lambda c: c.ndim == 4,
    "unit stride": lambda c: c.ndim > 1 and set(c.stride) == {1},
    "unequal strides": lambda c: len(set(c.stride)) > 1,
    "near a known one": lambda c: "(near)" in c.label,
    "five extremes": lambda c: c.label.count(",") >= 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def made():
    return list(cases(2000, seed=4))


def test_case_i_depends_on_seed_and_i_alone(made):
    assert made == list(cases(2000, seed=4))
    assert made[900] == case_at(900, 4)
    assert made != list(cases(2000, seed=5))


@pytest.mark.parametrize("name", EDGES)
def test_rare_kinds_come_often(made, name):
    assert sum(map(EDGES[name], made)) >= 20, name


def test_every_extreme_comes_and_pairs_of_them_too(made):
    drawn = [set(c.label.partition("(")[2].rstrip(")").split(", ")) for c in made]
    for name in EXTREMES:
        assert sum(name in d for d in drawn) >= 60, name
    for a, b in pairwise(EXTREMES):
        assert sum({a, b} <= d for d in drawn) >= 10, (a, b)


def test_cases_are_sound_and_bounded(made):
    for i, case in enumerate(made):
        case.geometry()
        costs = draft_of(case).costs()
        limits = LARGE_LIMITS if i % LARGE_EVERY == LARGE_EVERY - 1 else LIMITS
        for name in ("macs", "elements", "padded", "taps"):
            assert getattr(costs, name) <= getattr(limits, name), (case, name)
    large = made[LARGE_EVERY - 1 :: LARGE_EVERY]
    assert sum(c.macs > 500_000 for c in large) > len(large) // 2, "too few are worth handing out to threads"


def test_what_is_too_large_is_made_smaller_what_is_held_last():
    draft = draft_of(Case.of_conv(8, 64, 512, 1, (40, 40), (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1)))
    draft.held.add("small")
    fit(draft, LIMITS)
    assert draft.case("").macs <= LIMITS.macs
    assert draft.small == 512
    assert draft.batch < 8


def test_axes_say_what_the_case_says():
    rng = random.Random(1)
    for case in cases(300, seed=1):
        assert with_axes(case, axes_of(case)) == case
        for axis in axes_of(case):
            if axis.small:
                large = rng.randint(1, 9)
                assert split(rng, axis, large).large == large


def test_known_geometries_are_sound_and_their_neighbours_near():
    assert len(known_cases()) > 300
    for k, case in enumerate(known_cases()):
        case.geometry()
        near = near_case(case, k, 0)
        near.geometry()
        assert near_case(case, k, 0) == near
    small = Case.of_conv(1, 3, 4, 1, (9, 8), (3, 2), (2, 1), ((1, 1), (0, 0)), (1, 2))
    neighbours = {near_case(small, k, 0).with_(label="") for k in range(40)}
    assert len(neighbours) > 25
