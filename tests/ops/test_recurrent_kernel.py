"""Recurrent layers by one kernel: the bits of the steps one by one, whatever the options, the place in a batch and the number of threads."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import preimage as pre
from preimage import ops
from preimage.engines import around
from preimage.engines.jit.products.recurrent import layer
from preimage.ops import recurrent, recurrent_layer
from preimage.resources import release_memory

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
OPTIONS = {
    "rnn": [{}, {"clip": 0.7, "activation": ops.relu}],
    "lstm": [{}, {"clip": 0.7, "coupled": True}, {"peephole": True, "gate_order": "iofg"}],
    "gru": [{}, {"reset_after": False, "clip": 0.7}, {"gate_order": "zrn"}],
}
#: Steps, batch, features, hidden: one block of terms and several, groups of blocks, parts of a vector and of a tile.
SIZES = [(1, 1, 3, 1), (6, 2, 5, 9), (3, 5, 2, 33), (2, 3, 4, 100), (2, 1, 3, 300)]

pytestmark = pytest.mark.skipif(not around.runs_recurrent(np.ones(1)), reason="no engine here runs recurrent layers")


def drawn(kind, sizes, dtype, seed, *, peephole=False, lengths=False, **options):
    steps, batch, features, hidden = sizes
    rng, rows = np.random.default_rng(seed), GATES[kind] * hidden
    shapes = ((steps, batch, features), (rows, features), (rows, hidden), (rows,), (rows,))
    arrays = [(rng.standard_normal(shape) * 0.5).astype(dtype) for shape in shapes]
    given = options | {"h0": rng.standard_normal((batch, hidden)).astype(dtype)}
    if kind == "lstm":
        given["c0"] = rng.standard_normal((batch, hidden)).astype(dtype)
    if peephole:
        given["peephole"] = rng.standard_normal((3, hidden)).astype(dtype)
    if lengths:
        given["lengths"] = rng.integers(0, steps + 1, batch)
    return arrays, given


def one_by_one(monkeypatch, kind, arrays, options):
    with monkeypatch.context() as patch:
        for module in (recurrent, recurrent_layer):
            patch.setattr(module, "by_kernel", lambda layers, axis: None)
        return getattr(ops, kind)(*arrays, **options)


def same(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()


@pytest.fixture
def launches(monkeypatch):
    """The directions that kernels ran."""
    made, run = [], around.recurrent
    monkeypatch.setattr(around, "recurrent", lambda directions: made.extend(directions) or run(directions))
    return made


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_kernel_has_the_bits_of_each_step(kind, dtype, monkeypatch, launches):
    cases = list(product(OPTIONS[kind], SIZES if dtype == np.float32 else SIZES[2:3]))
    for case, (options, sizes) in enumerate(cases):
        reverse, lengths = bool(case & 1), bool(case & 2)
        arrays, given = drawn(kind, sizes, dtype, case, **options, reverse=reverse, lengths=lengths)
        same(getattr(ops, kind)(*arrays, **given), one_by_one(monkeypatch, kind, arrays, given))
    assert len(launches) == len(cases)


@pytest.mark.parametrize("kind", GATES)
def test_alone_in_a_batch_and_on_any_number_of_threads(kind):
    arrays, given = drawn(kind, (9, 7, 40, 64), np.float32, 5)
    with pre.config(threads=1):
        found = getattr(ops, kind)(*arrays, **given)
    for threads in (2, 3):
        with pre.config(threads=threads):
            same(getattr(ops, kind)(*arrays, **given), found)
    for n in (0, 6):
        own = {k: v[n : n + 1] if k in ("h0", "c0") else v for k, v in given.items()}
        alone = getattr(ops, kind)(arrays[0][:, n : n + 1], *arrays[1:], **own)
        same([np.ascontiguousarray(a) for a in alone], [np.ascontiguousarray(a[..., n : n + 1, :]) for a in found])


@pytest.mark.parametrize("kind", GATES)
def test_fewer_sequences_than_threads_share_the_units(kind, monkeypatch):
    made, direction = [], layer._launch
    monkeypatch.setattr(layer, "LEAST_SHARED_STEP", 1)
    monkeypatch.setattr(layer, "SMALL_MACS", 1)
    monkeypatch.setattr(layer, "_launch", lambda *a: made.append(direction(*a)) or made[-1])
    cases = product(OPTIONS[kind], [(1, 1, 3, 130), (7, 1, 2, 300), (4, 2, 3, 100), (2, 1, 3, 5)], (np.float32, np.float64))
    for case, (options, sizes, dtype) in enumerate(cases):
        reverse, lengths = bool(case & 1), bool(case & 2)
        arrays, given = drawn(kind, sizes, dtype, case, **options, reverse=reverse, lengths=lengths)
        wanted = one_by_one(monkeypatch, kind, arrays, given)
        for threads in (2, 3, 5):
            with pre.config(threads=threads):
                same(getattr(ops, kind)(*arrays, **given), wanted)
    assert {launched.tasks for launched in made} >= {1, 2, 3, 5}


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("axis", [1, 2])
def test_two_directions_at_once_are_each_of_them(kind, axis, launches):
    arrays, given = drawn(kind, (5, 2, 3, 11), np.float32, 6)
    others, more = drawn(kind, (5, 2, 3, 11), np.float32, 7, reverse=True)
    bare = {"lengths": None, "reverse": False}
    for threads in (1, 2):
        with pre.config(threads=threads):
            found = recurrent.layers_side_by_side(
                kind, arrays[0], [(arrays[1:], bare | given), (others[1:], bare | more)], axis
            )  # fmt: skip
            wanted = [getattr(ops, kind)(arrays[0], *w, **o) for w, o in ((arrays[1:], given), (others[1:], more))]
        y, *last = zip(*wanted, strict=True)
        same(found, [np.stack(y, axis), *(np.stack(s) for s in last)])
    assert len(launches) == 2 * 4


def test_arrays_that_lie_anyhow(monkeypatch):
    arrays, given = drawn("lstm", (4, 3, 5, 10), np.float32, 8, peephole=True)
    spread = [np.asfortranarray(a) for a in arrays]
    own = {k: np.asfortranarray(v) for k, v in given.items()}
    same(ops.lstm(*spread, **own), one_by_one(monkeypatch, "lstm", arrays, given))


def test_weights_that_change_are_read_anew_and_those_that_nobody_can_change_packed_once(monkeypatch):
    from preimage.engines.jit.products.recurrent import weights

    packed, pack = [], weights._packed
    monkeypatch.setattr(weights, "_packed", lambda *a: packed.append(1) or pack(*a))
    arrays, given = drawn("gru", (3, 2, 5, 9), np.float32, 1)
    before = ops.gru(*arrays, **given)[0].copy()
    arrays[2] *= 2
    after = ops.gru(*arrays, **given)[0]
    assert not np.array_equal(before, after)
    assert len(packed) == 2
    held = arrays[2].copy()
    held.flags.writeable = False
    for _ in range(3):
        assert np.array_equal(ops.gru(*arrays[:2], held, *arrays[3:], **given)[0], after)
    assert len(packed) == 3
    release_memory()
    assert np.array_equal(ops.gru(*arrays[:2], held, *arrays[3:], **given)[0], after)
    assert len(packed) == 4


def test_a_function_of_the_callers_is_called_at_every_step(launches):
    calls = []

    def own(value):
        calls.append(1)
        return ops.tanh(value)

    arrays, given = drawn("rnn", (12, 1, 5, 9), np.float32, 3)
    ops.rnn(*arrays, **given, activation=own)
    assert len(calls) == 12
    assert not launches


def test_numbers_of_16_bits_and_empty_batches_take_the_steps_one_by_one(launches):
    arrays, given = drawn("gru", (2, 1, 3, 4), np.float16, 4)
    assert ops.gru(*arrays, **given)[0].dtype == np.float16
    arrays, given = drawn("gru", (2, 0, 3, 4), np.float32, 4)
    assert ops.gru(*arrays, **given)[0].shape == (2, 0, 4)
    assert not launches
