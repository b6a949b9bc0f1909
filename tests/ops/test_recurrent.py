"""ops.rnn, lstm and gru: index loops in NumPy as their definition, gradients to second order, sequences that end early."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage import ops

STEPS, BATCH, FEATURES, HIDDEN = 3, 3, 2, 4
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
NUMBERS = np.random.default_rng(0)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def loop(kind, x, w, r, b, c, h, state, *, reset_after=True, peephole=None, coupled=False):
    """One sequence, one unit at a time."""
    y = []
    for step in x:
        old, old_c, h, state = h, state, np.zeros(HIDDEN), np.zeros(HIDDEN)
        gate = lambda k, j, old=old: b[k * HIDDEN + j] + c[k * HIDDEN + j] + w[k * HIDDEN + j] @ step + r[k * HIDDEN + j] @ old  # noqa: B023, E731
        for j in range(HIDDEN):
            if kind == "rnn":
                h[j] = np.tanh(gate(0, j))
            elif kind == "gru":
                reset, z = sigmoid(gate(0, j)), sigmoid(gate(1, j))
                row = 2 * HIDDEN + j
                if reset_after:
                    inner = reset * (r[row] @ old + c[row])
                else:
                    resets = np.array([sigmoid(gate(0, i)) for i in range(HIDDEN)])
                    inner = r[row] @ (resets * old) + c[row]
                h[j] = (1 - z) * np.tanh(w[row] @ step + b[row] + inner) + z * old[j]
            else:
                p = np.zeros((3, HIDDEN)) if peephole is None else peephole
                i = sigmoid(gate(0, j) + p[0, j] * old_c[j])
                f = 1 - i if coupled else sigmoid(gate(1, j) + p[1, j] * old_c[j])
                state[j] = f * old_c[j] + i * np.tanh(gate(2, j))
                h[j] = sigmoid(gate(3, j) + p[2, j] * state[j]) * np.tanh(state[j])
        y.append(h)
    return np.array(y), h, state


def arguments(kind):
    rows = GATES[kind] * HIDDEN
    shapes = [(STEPS, BATCH, FEATURES), (rows, FEATURES), (rows, HIDDEN), (rows,), (rows,)]
    states = [(BATCH, HIDDEN)] * (2 if kind == "lstm" else 1)
    return [NUMBERS.standard_normal(s) for s in (*shapes, *states)]


def call(kind, x, w, r, b, c, h, state=None, **options):
    states = {"h0": h} if state is None else {"h0": h, "c0": state}
    return getattr(ops, kind)(x, w, r, b, c, **states, **options)


FORMS = [
    ("rnn", {}),
    ("gru", {}),
    ("gru", {"reset_after": False}),
    ("lstm", {}),
    ("lstm", {"coupled": True}),
    ("lstm", {"peephole": NUMBERS.standard_normal((3, HIDDEN))}),
]


@pytest.mark.parametrize(("kind", "options"), FORMS)
@pytest.mark.parametrize("reverse", [False, True])
def test_every_sequence_is_its_definition_up_to_its_own_length(kind, options, reverse):
    given = arguments(kind)
    lengths = np.array([STEPS, 1, STEPS - 1])
    y, *last = call(kind, *given, lengths=lengths, reverse=reverse, **options)
    x, w, r, b, c, *states = given
    for n, count in enumerate(lengths):
        steps = x[:count, n][::-1] if reverse else x[:count, n]
        start = [s[n] for s in states]
        want, *ends = loop(kind, steps, w, r, b, c, *start, *[None] * (2 - len(start)), **options)
        np.testing.assert_allclose(y[:count, n], want[::-1] if reverse else want, rtol=1e-12)
        assert not np.any(y[count:, n])
        for a, z in zip(last, ends, strict=False):
            np.testing.assert_allclose(a[n], z, rtol=1e-12)


@pytest.mark.parametrize(("kind", "options"), FORMS)
def test_gradients_to_second_order(kind, options):
    options = dict(options, lengths=np.array([STEPS, 1, STEPS - 1]), reverse=kind == "gru")
    pre.check_grads(lambda *args: call(kind, *args, **options), arguments(kind), trials=1)


@pytest.mark.parametrize(("kind", "options"), FORMS)
def test_arrays_and_tensors_give_the_same_bits_at_any_place_of_a_batch(kind, options):
    given = [a.astype(np.float32) for a in arguments(kind)]
    options = {k: v.astype(np.float32) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    found = call(kind, *given, **options)
    recorded = call(kind, *(pre.Tensor(a, requires_grad=True) for a in given), **options)
    x, w, r, b, c, *states = given
    alone = call(kind, x[:, 1:2], w, r, b, c, *(s[1:2] for s in states), **options)
    for a, t, one in zip(found, recorded, alone, strict=True):
        assert a.dtype == np.float32
        assert np.array_equal(a, t.data)
        assert np.array_equal(a[..., 1:2, :], one)


def test_an_empty_sequence_gives_the_first_state():
    x, w, r, b, c, h = arguments("gru")
    y, last = ops.gru(x[:0], w, r, b, c, h0=h)
    assert y.shape == (0, BATCH, HIDDEN)
    assert np.array_equal(last, h)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": np.zeros((2, 3))}, r"x has shape \(2, 3\), wanted \(steps, batch, features\)"),
        ({"weight_ih": np.zeros((5, 3))}, r"weight_ih has shape \(5, 3\), wanted \(4, 2\)"),
        ({"weight_hh": np.zeros((5, 3))}, "weight_hh has shape"),
        ({"h0": np.zeros((1, 4))}, "state 0 has shape"),
        ({"x": np.zeros((3, 3, 2), np.float32)}, "one dtype, got float32 and float64"),
        ({"lengths": [3, 4, 0]}, r"lengths must lie in 0..3, got 0..4"),
        ({"lengths": [1.0, 2.0, 3.0]}, "3 integers"),
        ({"activation": "tanh"}, "activations must be 1 functions"),
        ({"clip": -1}, "clip"),
    ],
)
def test_wrong_arguments_are_named(change, words):
    x, w, r, b, c, h = arguments("rnn")
    given = {"x": x, "weight_ih": w, "weight_hh": r, "bias_ih": b, "bias_hh": c, "h0": h} | change
    with pytest.raises(pre.PreimageError, match=words):
        ops.rnn(given.pop("x"), given.pop("weight_ih"), given.pop("weight_hh"), **given)


def test_gates_are_named_in_an_order():
    x, w, r, b, c, h, state = arguments("lstm")
    order = [0, 3, 1, 2]  # i, o, f, g
    moved = [np.concatenate([np.split(v, 4)[k] for k in order]) for v in (w, r, b, c)]
    assert np.array_equal(ops.lstm(x, *moved, h0=h, c0=state, gate_order="iofg")[0], ops.lstm(x, w, r, b, c, h0=h, c0=state)[0])
    assert not np.allclose(ops.lstm(x, *moved, h0=h, c0=state)[0], ops.lstm(x, w, r, b, c, h0=h, c0=state)[0])
    with pytest.raises(pre.OptionError, match="gate_order must name the gates"):
        ops.lstm(x, w, r, gate_order="iffo")
