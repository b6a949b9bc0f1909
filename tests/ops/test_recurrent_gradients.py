"""Gradients of recurrent layers as one vertex: the bits of the operations step by step, at every call."""

import numpy as np
import pytest

import preimage as pre
from preimage import ops
from preimage.engines.recording import Recorder
from preimage.engines.replayed import BEFORE

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
OPTIONS = {
    "rnn": [{}, {"reverse": True, "activation": ops.relu}],
    "lstm": [{}, {"reverse": True, "coupled": True}, {"clip": 0.5, "gate_order": "iofg"}, {"peephole": True}],
    "gru": [{}, {"reset_after": False, "reverse": True}],
}
CASES = [(kind, options) for kind, several in OPTIONS.items() for options in several]


def given(kind, options, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    steps, batch, features, hidden, gates = 5, 3, 4, 6, GATES[kind]
    shapes = {
        "x": (steps, batch, features), "weight_ih": (gates * hidden, features), "weight_hh": (gates * hidden, hidden),
        "bias_ih": (gates * hidden,), "bias_hh": (gates * hidden,), "h0": (batch, hidden),
    }  # fmt: skip
    if kind == "lstm":
        shapes["c0"] = (batch, hidden)
        if options.get("peephole"):
            shapes["peephole"] = (3, hidden)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def swept(kind, arrays, options, seed, one_by_one=False):
    """All results, and the gradients of all arrays."""
    tensors = {name: pre.Tensor(a, requires_grad=True) for name, a in arrays.items()}
    others = {name: value for name, value in options.items() if name != "peephole"}
    if one_by_one:
        others["lengths"] = np.full(3, 5)  # the way step by step
    made = getattr(ops, kind)(**tensors, **others)
    rng = np.random.default_rng(seed)
    loss = sum((m * rng.standard_normal(m.shape).astype(m.dtype)).sum() for m in made)
    found = pre.grad(loss, list(tensors.values()))
    return [m.data for m in made] + [g.data for g in found]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_the_bits_are_those_of_the_operations(kind, options, dtype):
    for seed in range(BEFORE + 3):
        arrays = given(kind, options, seed, dtype)
        wanted = swept(kind, arrays, options, seed, one_by_one=True)
        for a, b in zip(swept(kind, arrays, options, seed), wanted, strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)


@pytest.mark.parametrize("kind", GATES)
def test_gradients_of_gradients(kind):
    arrays = given(kind, {}, dtype=np.float64)

    def penalty(one_by_one):
        tensors = {name: pre.Tensor(a, requires_grad=True) for name, a in arrays.items()}
        more = {"lengths": np.full(3, 5)} if one_by_one else {}
        y = getattr(ops, kind)(**tensors, **more)[0]
        first = pre.grad(y.square().sum(), list(tensors.values()), create_graph=True)
        second = pre.grad(sum(g.square().sum() for g in first), list(tensors.values()))
        return [g.data for g in second]

    for a, b in zip(penalty(False), penalty(True), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_frozen_weights_and_arrays():
    arrays = given("lstm", {})
    x = pre.Tensor(arrays["x"], requires_grad=True)
    y, _, _ = ops.lstm(**{**arrays, "x": x})
    (found,) = pre.grad(y.sum(), [x])
    assert np.array_equal(found.data, swept_of_x(arrays))
    plain, *_ = ops.lstm(**arrays)
    assert isinstance(plain, np.ndarray)
    assert np.array_equal(plain, y.data)


def swept_of_x(arrays):
    x = pre.Tensor(arrays["x"], requires_grad=True)
    y, _, _ = ops.lstm(**{**arrays, "x": x}, lengths=np.full(3, 5))
    return pre.grad(y.sum(), [x])[0].data


def test_a_recorder_sees_the_operations():
    arrays = given("gru", {})
    recorder = Recorder(strict=True)
    seen = {name: pre.Tensor(recorder.watch(a), requires_grad=True) for name, a in arrays.items()}
    with recorder:
        y, _ = ops.gru(**seen)
    assert y._node.op.name != "recurrent"
    assert pre.Tensor(1.0)._node is None
    assert ops.gru(**{name: pre.Tensor(a, requires_grad=True) for name, a in arrays.items()})[0]._node.op.name != "stack"
