"""Small worlds: the stacked truth, a slice on our engines, and that it can fail."""

from __future__ import annotations

import defects
import numpy as np
import pytest

from preimage.audit.draft import Draft
from preimage.audit.exhaustive import SETTINGS, WHOLE, Setting, World, axes_of_world, exhaust, truths
from preimage.audit.oracle import Truth

SLICE = World(size=4, kernel=3, stride=2, dilation=3, padding=2)
SMALLER = World(size=3, kernel=3, stride=2, dilation=3, padding=1)


def test_the_stacked_truth_is_the_oracle():
    rng = np.random.default_rng(0)
    for setting in (Setting("", 1, 2, 3), Setting("", 2, 1, 2), Setting("", 3, 2, 1)):
        for n, k in ((1, 1), (3, 2), (4, 3)):
            by_size = {}
            for axis in axes_of_world(SLICE, n, k):
                by_size.setdefault(axis.small, []).append(axis)
            for axes in by_size.values():
                made = [Draft(2, setting.groups, setting.large, setting.small, [a], forward=False).case("") for a in axes]
                x, w, y = (rng.integers(-9, 10, s) for s in (made[0].x_shape, made[0].w_shape, made[0].y_shape))
                found = truths(axes, setting, x, w, y)
                for number, case in enumerate(made):
                    truth = Truth(case, x, w, y)
                    for result, stacked in found.items():
                        assert np.array_equal(stacked[number], truth[result]), (case, result)


def test_a_world_is_all_of_it():
    axes = list(axes_of_world(SLICE, 4, 2))
    assert len(set(axes)) == len(axes)
    wanted = 0  # by brute force
    for s in (1, 2):
        for d in (1, 2, 3):
            for lo in range(3):
                for hi in range(3):
                    wanted += sum(0 <= 4 + lo + hi - (m - 1) * s - d - 1 < max(s, d) for m in range(1, 20))
    assert len(axes) == wanted
    assert all(a.large == 4 and a.sound for a in axes)
    assert sum(1 for n in range(1, 9) for k in range(1, 5) for _ in axes_of_world(WHOLE, n, k)) > 10_000


@pytest.mark.parametrize("number", [4, 6, 10], ids=lambda n: SETTINGS[n].name)
def test_a_slice_of_the_small_worlds(number):
    report = exhaust(["jit"], SMALLER, [SETTINGS[number]], jobs=0)
    assert report.ok, report.findings[0].reproducer
    assert report.subjects[0].tally.runs["exhaustive"] == 3 * report.cases > 500


def test_it_can_fail():
    report = exhaust([defects.KernelBeyondInput()], World(3, 4, 1, 1, 2), [SETTINGS[0]], jobs=0, shrink_seconds=0.3)
    assert {f.result for f in report.findings} == {"conv"}
    assert "KernelBeyondInput().conv(geometry" in report.findings[0].reproducer
