"""Optimisers that are copied, saved and loaded go on as if nothing had happened; long runs of hard gradients stay numbers."""

import copy
import pickle

import numpy as np
import pytest

import preimage as pre
from preimage import nn, optim
from preimage.optim import clip_grad_norm, schedule

OPTIMISERS = [
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.1, "amsgrad": True}),
    ("AdamW", {"lr": 0.1}),
    ("RMSProp", {"lr": 0.1, "momentum": 0.5}),
    ("RMSProp", {"lr": 0.1, "momentum": 0.5, "centered": True}),
    ("AdaGrad", {"lr": 0.1, "lr_decay": 0.1}),
]
SCHEDULES = {
    "fixed": {}, "step": {"stepsize": 2}, "multistep": {"stepvalues": [2, 4]}, "exp": {"gamma": 0.9}, "inv": {"gamma": 0.1, "power": 0.5},
    "poly": {"max_iter": 9}, "sigmoid": {"gamma": -0.5, "stepsize": 4}, "cosine": {"max_iter": 9},
}  # fmt: skip


def start(name, options):
    w = [nn.Parameter(np.array([1.0, -2.0])), nn.Parameter(np.array([[0.5]]))]
    return w, getattr(optim, name)([{"params": w[:1]}, {"params": w[1:], "lr": 0.05}], **options)


def steps(w, optimiser, count, first=0):
    for k in range(first, first + count):
        for p in w:
            p.grad = pre.Tensor(np.cos(p.data * (k + 1)))
        optimiser.step()
    return [p.data.copy() for p in w]


@pytest.mark.parametrize(("name", "options"), OPTIMISERS)
def test_a_copy_goes_on_from_where_it_was_made(name, options):
    w, optimiser = start(name, options)
    wanted = steps(w, optimiser, 6)
    ways = {
        "deepcopy": lambda w, o: copy.deepcopy((w, o)),
        "deepcopy of the optimiser": lambda w, o: (lambda c: (c.parameters(), c))(copy.deepcopy(o)),
        "pickle": lambda w, o: pickle.loads(pickle.dumps((w, o))),
        "state_dict of a copy": lambda w, o: loaded(copy.deepcopy((w, o))),
        "state_dict": lambda w, o: loaded((w, o)),
    }

    def loaded(pair):
        fresh, other = start(name, options)
        for p, q in zip(fresh, pair[0], strict=True):
            p.assign(q.data)
        other.load_state_dict(pair[1].state_dict())
        return fresh, other

    for way, make in ways.items():
        w, optimiser = start(name, options)
        steps(w, optimiser, 3)
        other_w, other = make(w, optimiser)
        assert all(p is not q for p, q in zip(w, other_w, strict=True))
        for got in (steps(other_w, other, 3, 3), steps(w, optimiser, 3, 3)):
            assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True)), way


def test_momentum_after_a_deepcopy_by_hand():
    """v = g, then 0.9 g + g: 1 - 0.1 - 0.19 = 0.71."""
    w = nn.Parameter(np.ones(1))
    optimiser = optim.SGD([w], lr=0.1, momentum=0.9)
    w.grad = pre.Tensor(np.ones(1))
    optimiser.step()
    twin = copy.deepcopy(optimiser)
    twin.step()
    np.testing.assert_allclose(twin.parameters()[0].data, 0.71)
    np.testing.assert_allclose(w.data, 0.9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_copied_with_their_optimisers(name):
    w, optimiser = start("SGD", {"lr": 0.1, "momentum": 0.9})
    plan = getattr(schedule, name)(optimiser, **SCHEDULES[name])
    steps(w, optimiser, 2)
    plan.step()
    plan.step()
    twin_w, twin, twin_plan = copy.deepcopy((w, optimiser, plan))
    assert twin_plan.optimizer is twin
    for k in range(3):
        a, b = steps(w, optimiser, 1, k), steps(twin_w, twin, 1, k)
        plan.step()
        twin_plan.step()
        assert plan.lr == twin_plan.lr
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_state_of_parameters_that_are_not_there():
    w, optimiser = start("Adam", {})
    steps(w, optimiser, 1)
    saved = optimiser.state_dict()
    saved["state"][7] = saved["state"].pop(0)
    with pytest.raises(pre.errors.OptionError, match="parameter 7; there are 2"):
        optimiser.load_state_dict(saved)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gradient", [1e-3, 0.1, 7.0, 1e4])
def test_centred_rmsprop_on_a_constant_gradient(dtype, gradient):
    """The variance is alpha^t (1 - alpha^t) g^2 to the last digits, never negative."""
    w = nn.Parameter(np.zeros(1, dtype))
    optimiser = optim.RMSProp([w], lr=0.0, centered=True, eps=0.0, alpha=0.9)
    for t in range(1, 60):
        w.grad = pre.Tensor(np.full(1, gradient, dtype))
        optimiser.step()
        wanted = 0.9**t * (1 - 0.9**t) * float(dtype(gradient)) ** 2
        np.testing.assert_allclose(
            optimiser.state_dict()["state"][0]["variance"], wanted, rtol=3e-5 if dtype is np.float32 else 1e-13
        )


def test_centred_rmsprop_takes_the_state_of_squares():
    w = nn.Parameter(np.zeros(1))
    optimiser = optim.RMSProp([w], centered=True, alpha=0.5)
    w.grad = pre.Tensor(np.array([2.0]))
    optimiser.step()
    optimiser.load_state_dict(
        {**optimiser.state_dict(), "state": {0: {"step": 1, "square": np.array([5.0]), "mean": np.array([1.0])}}}
    )
    optimiser.step()
    np.testing.assert_allclose(optimiser.state_dict()["state"][0]["variance"], (5 + 4) / 2 - 1.5**2)


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1.0, 1e30, 1e200])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.5, np.inf])
def test_norms_of_huge_and_tiny_gradients(size, p):
    w = nn.Parameter(np.zeros(2))
    w.grad = pre.Tensor(np.array([3.0, -4.0]) * size)
    wanted = 4.0 if p == np.inf else (3**p + 4**p) ** (1 / p)
    np.testing.assert_allclose(clip_grad_norm([w], 1.0, p), wanted * size, rtol=1e-14)
    held = min(1.0, wanted * size)
    np.testing.assert_allclose(np.linalg.norm(w.grad.data / held, p), 1.0, rtol=1e-5)
