"""Updates of many parameters in one call have the bits of updates one by one in NumPy."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import preimage as pre
from preimage import optim
from preimage.engines import replayer
from preimage.optim import together

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05),
    "sgd, decay, maximize": lambda p: optim.SGD(p, lr=0.05, weight_decay=0.1, maximize=True),
    "momentum, dampening": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.2),
    "nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adam, maximize": lambda p: optim.Adam(p, lr=0.01, maximize=True),
    "amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01, weight_decay=0.01),
    "rmsprop, momentum": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5),
    "rmsprop, centered": lambda p: optim.RMSprop(p, lr=0.01, centered=True),
    "rmsprop, centered, momentum": lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.01, lr_decay=0.1, weight_decay=0.01),
}
SHAPES = [(3, 5), (7,), (4, 6, 3, 3), (1,), (130, 90), ()]


def stepped(make, monkeypatch, alone, dtype=np.float32, steps=5):
    """Parameters and state after some steps with rates that change; one parameter has no gradient at times."""
    rng = np.random.default_rng(0)
    parameters = [pre.Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True) for shape in SHAPES]
    optimizer = make(parameters)
    calls = []
    run = together.Together.run

    def counted(self, jobs):
        left = run(self, jobs)
        calls.append(len(jobs) - len(left))
        return left

    with monkeypatch.context() as patch:
        patch.setattr(together.Together, "run", counted)
        if alone:
            patch.setattr(type(optimizer), "_written", lambda self, state, group: None)
        for step in range(steps):
            for k, parameter in enumerate(parameters):
                g = rng.standard_normal(parameter.shape).astype(dtype) * 3
                parameter.grad = (
                    None if k == step % 4 else pre.Tensor(np.moveaxis(np.moveaxis(g, 0, -1).copy(), -1, 0) if g.ndim == 4 else g)
                )
            optimizer.lr = 0.01 * (step + 1)
            optimizer.step()
    state = optimizer.state_dict()["state"]
    arrays = [p.data for p in parameters] + [v for held in state.values() for _, v in sorted(held.items())]
    return [np.asarray(a).tobytes() for a in arrays], sum(calls)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bits_of_updates(name, dtype, monkeypatch):
    expected, none = stepped(OPTIMIZERS[name], monkeypatch, True, dtype)
    monkeypatch.setattr(together, "CALL_BYTES", 4000)  # several calls
    found, by_kernels = stepped(OPTIMIZERS[name], monkeypatch, False, dtype)
    assert found == expected
    assert none == 0
    if name != "amsgrad" and not isinstance(replayer(), str):
        assert by_kernels > 10


def test_arrays_that_lie_backwards(monkeypatch):
    made = []
    for alone in (True, False):
        if alone:
            monkeypatch.setattr(optim.SGD, "_written", lambda self, state, group: None)
        p = pre.Tensor(np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::-1], requires_grad=True)
        optimizer = optim.SGD([p], lr=0.1, momentum=0.9)
        for k in range(3):
            p.grad = pre.Tensor(np.arange(12, dtype=np.float32).reshape(4, 3).T[::-1] * k)
            optimizer.step()
        made.append(p.data.tobytes())
        monkeypatch.undo()
    assert made[0] == made[1]


def test_narrow_weights_are_updated_one_by_one(monkeypatch):
    expected, _ = stepped(OPTIMIZERS["adam"], monkeypatch, True, np.float16)
    found, by_kernels = stepped(OPTIMIZERS["adam"], monkeypatch, False, np.float16)
    assert found == expected
    assert by_kernels == 0


def test_values_that_are_not_finite(monkeypatch):
    made = []
    for alone in (True, False):
        p = pre.Tensor(np.array([1, np.inf, -np.inf, np.nan, -0.0, 1e-40], np.float32), requires_grad=True)
        optimizer = optim.SGD([p], lr=0.1, momentum=0.9)
        if alone:
            monkeypatch.setattr(optim.SGD, "_written", lambda self, state, group: None)
        for _ in range(3):
            p.grad = np.array([np.inf, 1, np.inf, 0, 0, 1e-40], np.float32)
            optimizer.step()
        monkeypatch.undo()
        made.append(p.data)
    np.testing.assert_array_equal(made[0], made[1])
    assert (np.signbit(made[0]) == np.signbit(made[1]))[[0, 1, 4, 5]].all()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda held: pickle.loads(pickle.dumps(held))])
def test_copies_of_an_optimiser_go_on(copied):
    p = pre.Tensor(np.ones((20, 3), np.float32), requires_grad=True)
    optimizer = optim.Adam([p])
    for _ in range(3):
        p.grad = np.ones((20, 3), np.float32)
        optimizer.step()
    other = copied(optimizer)
    (q,) = other.parameters()
    for parameter, own in ((p, optimizer), (q, other)):
        parameter.grad = np.full((20, 3), 2, np.float32)
        own.step()
    assert p.data.tobytes() == q.data.tobytes()
