"""What a recording is run again on: guards."""

from __future__ import annotations

import numpy as np
import pytest

from preimage.engines.recording import Guard, Recorder


def guard_of(array, within=None):
    recorder = Recorder()
    place = recorder.place_of(recorder.watch(array))
    assert place is not None
    return Guard(place, within)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_seen_wherever_it_stands(kind, wrong):
    x = np.zeros((3, 5, 7), kind)
    x[1, 2, 3] = np.finfo(kind).max
    for view in (x, x.transpose(2, 0, 1), x[:, ::2], x[1, 2, 3]):
        assert guard_of(x).holds(np.asarray(view))
    for place in np.ndindex(x.shape):
        other = x.copy()
        other[place] = wrong
        assert not guard_of(x).holds(other)
        assert not guard_of(x).holds(other.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_integers_lie_within_bounds_that_are_part_of_them(kind):
    first, last = (-3, 90) if np.dtype(kind).kind == "i" else (0, 90)
    guard = guard_of(np.zeros((2, 3), kind), (first, last))
    assert guard.holds(np.array([[first, last, 0], [1, 2, 3]], kind))
    assert guard.holds(np.asarray(last, kind))
    for wrong in (last + 1, np.iinfo(kind).max, *((first - 1, np.iinfo(kind).min) if first else ())):
        assert not guard.holds(np.array([[first, wrong, 0]], kind))
