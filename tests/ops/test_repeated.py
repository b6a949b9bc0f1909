"""Recurrent layers by a recorded step: the bits of the steps one by one, whatever the options; and what is never recorded."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from preimage import ops
from preimage.engines import replayer
from preimage.ops import recurrent, repeated

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
OPTIONS = {
    "rnn": [{}, {"clip": 1.5}],
    "lstm": [{}, {"clip": 1.5, "coupled": True}, {"peephole": 3, "gate_order": "iofg"}],
    "gru": [{}, {"reset_after": False}, {"gate_order": "zrn"}],
}

pytestmark = pytest.mark.skipif(isinstance(replayer(), str), reason="no engine here runs recorded kernels")


def drawn(kind, steps, batch, dtype, seed, **options):
    rng = np.random.default_rng(seed)
    hidden, rows = 9, GATES[kind] * 9
    shapes = ((steps, batch, 5), (rows, 5), (rows, hidden), (rows,), (rows,))
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    given = dict(options)
    if "peephole" in given:
        given["peephole"] = rng.standard_normal((3, hidden)).astype(dtype)
    return arrays, given | {"h0": rng.standard_normal((batch, hidden)).astype(dtype)}


def one_by_one(monkeypatch, kind, arrays, options):
    with monkeypatch.context() as patch:
        patch.setattr(recurrent, "LEAST_STEPS", 1 << 30)
        return getattr(ops, kind)(*arrays, **options)


@pytest.fixture
def recordings(monkeypatch):
    """The recordings that are made, in order."""
    made, of = [], repeated.RecordedSteps.of.__func__

    def noted(cls, *arguments):
        made.append(of(cls, *arguments))
        return made[-1]

    monkeypatch.setattr(repeated.RecordedSteps, "of", classmethod(noted))
    return made


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_recorded_step_has_the_bits_of_each_step(kind, dtype, monkeypatch, recordings):
    for case, (options, reverse, steps) in enumerate(product(OPTIONS[kind], (False, True), (6, 33, 71))):
        arrays, given = drawn(kind, steps, 1 + case % 3, dtype, case, **options, reverse=reverse)
        if case % 2:
            given["lengths"] = np.random.default_rng(case).integers(6, steps + 1, 1 + case % 3)
        got = getattr(ops, kind)(*arrays, **given)
        assert recordings.pop() is not None
        for a, b in zip(got, one_by_one(monkeypatch, kind, arrays, given), strict=True):
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes(), (options, reverse, steps)


def test_weights_that_may_change_are_read_anew(recordings):
    arrays, given = drawn("gru", 20, 2, np.float32, 1)
    before = ops.gru(*arrays, **given)[0].copy()
    arrays[2] *= 2
    after = ops.gru(*arrays, **given)[0]
    assert not np.array_equal(before, after)
    assert np.array_equal(after, ops.gru(*[a.copy() for a in arrays], **given)[0])
    assert len(recordings) == 3


def test_weights_that_nobody_can_change_are_recorded_once(monkeypatch, recordings):
    arrays, given = drawn("lstm", 40, 2, np.float32, 2)
    for array in arrays[1:]:
        array.flags.writeable = False
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal(arrays[0].shape).astype(np.float32)
        got = ops.lstm(x, *arrays[1:], **given)
        for a, b in zip(got, one_by_one(monkeypatch, "lstm", [x, *arrays[1:]], given), strict=True):
            assert a.tobytes() == b.tobytes()
    assert len(recordings) == 1
    ops.lstm(x, *arrays[1:], **given, clip=0.5)  # another step
    assert len(recordings) == 2


def test_a_function_of_the_callers_is_called_at_every_step(recordings):
    calls = []

    def own(value):
        calls.append(1)
        return ops.tanh(value)

    arrays, given = drawn("rnn", 12, 1, np.float32, 3)
    ops.rnn(*arrays, **given, activation=own)
    assert len(calls) == 12
    assert not recordings
