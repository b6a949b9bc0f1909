"""Schedules: Caffe's policies by their formulas, from a solver's fields, with warm-up and saved state."""

import math

import numpy as np
import pytest

import preimage as pre
from preimage import nn, optim


def sgd(lr=0.5):
    return optim.SGD([nn.Parameter(np.ones(1))], lr=lr)


#: name, options, the formula of caffe.proto for a base rate of 1
POLICIES = [
    ("fixed", {}, lambda i: 1.0),
    ("step", {"gamma": 0.3, "stepsize": 4}, lambda i: 0.3 ** math.floor(i / 4)),
    ("multistep", {"gamma": 0.5, "stepvalues": [3, 4, 9]}, lambda i: 0.5 ** sum(i >= v for v in (3, 4, 9))),
    ("exp", {"gamma": 0.9}, lambda i: 0.9**i),
    ("inv", {"gamma": 0.1, "power": 0.75}, lambda i: (1 + 0.1 * i) ** -0.75),
    ("poly", {"max_iter": 20, "power": 0.9}, lambda i: (1 - i / 20) ** 0.9 if i < 20 else 0.0),
    ("sigmoid", {"gamma": -0.5, "stepsize": 8}, lambda i: 1 / (1 + math.exp(0.5 * (i - 8)))),
    ("cosine", {"max_iter": 16, "low": 0.1}, lambda i: 0.1 + 0.9 * (1 + math.cos(math.pi * min(i, 16) / 16)) / 2),
]


@pytest.mark.parametrize(("name", "options", "formula"), POLICIES, ids=[p[0] for p in POLICIES])
def test_policy(name, options, formula):
    optimizer = sgd()
    schedule = getattr(optim, name)(optimizer, **options)
    for i in range(25):
        assert schedule.lr == optimizer.lr == pytest.approx(0.5 * formula(i), rel=1e-13, abs=1e-300)
        schedule.step()


@pytest.mark.parametrize(("name", "options", "formula"), POLICIES[:-1], ids=[p[0] for p in POLICIES[:-1]])
def test_from_a_caffe_solver(name, options, formula):
    solver = {"lr_policy": name, "base_lr": 0.5, **options}
    if name == "multistep":
        solver["stepvalue"] = solver.pop("stepvalues")
    schedule = optim.from_caffe(sgd(), solver)
    for i in range(12):
        assert schedule.lr == pytest.approx(0.5 * formula(i), rel=1e-13)
        schedule.step()


def test_sigmoid_does_not_overflow():
    schedule = optim.sigmoid(sgd(), gamma=-10.0, stepsize=100)
    for _ in range(300):
        schedule.step()
    assert 0 <= schedule.lr < 1e-300
    assert optim.sigmoid(sgd(), gamma=10.0, stepsize=1e6).lr == 0


def test_warm_up_and_groups():
    a, b = nn.Parameter(np.ones(1)), nn.Parameter(np.ones(1))
    optimizer = optim.SGD([{"params": [a], "lr": 1.0}, {"params": [b]}], lr=0.1)
    schedule = optim.fixed(optimizer, warmup=4)
    seen = []
    for _ in range(6):
        seen.append([g["lr"] for g in optimizer.groups])
        schedule.step()
    np.testing.assert_allclose(seen, [[r, r / 10] for r in (0.2, 0.4, 0.6, 0.8, 1, 1)])


def test_saved_state_goes_on():
    first = optim.exp(sgd(), gamma=0.5)
    for _ in range(3):
        first.step()
    second = optim.exp(sgd(99.0), gamma=0.5)
    second.load_state_dict(first.state_dict())
    assert second.lr == first.lr == 0.0625
    with pytest.raises(pre.OptionError, match="of 2 groups"):
        second.load_state_dict({"count": 1, "base": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda o: optim.step(o, stepsize=0), "stepsize must be"),
        (lambda o: optim.multistep(o, stepvalues=[3, 2]), "must rise"),
        (lambda o: optim.poly(o, max_iter=0), "max_iter must be"),
        (lambda o: optim.cosine(o, max_iter=0), "max_iter must be"),
        (lambda o: optim.fixed(o, warmup=-1), "warmup must be"),
        (lambda o: optim.from_caffe(o, {"lr_policy": "linear"}), "lr_policy must be one of"),
        (lambda o: optim.from_caffe(o, {"lr_policy": "step", "gamma": 0.1}), "'step' needs stepsize"),
    ],
)
def test_wrong_calls_name_what_is_wrong(build, text):
    with pytest.raises(pre.OptionError, match=text):
        build(sgd())
