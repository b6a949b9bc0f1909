"""Optimisers: equal to PyTorch's over 50 steps, and to their definitions."""

import numpy as np
import pytest

import preimage as pre
from preimage import nn, optim

#: (ours, theirs, options)
CASES = [
    ("SGD", "SGD", {"lr": 0.05}),
    ("SGD", "SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", "SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.02}),
    ("SGD", "SGD", {"lr": 0.05, "momentum": 0.8, "dampening": 0.3}),
    ("SGD", "SGD", {"lr": 1e-4, "momentum": 0.5, "maximize": True}),
    ("Adam", "Adam", {"lr": 0.02}),
    ("Adam", "Adam", {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.05}),
    ("Adam", "Adam", {"lr": 0.02, "amsgrad": True}),
    ("AdamW", "AdamW", {"lr": 0.02}),
    ("AdamW", "AdamW", {"lr": 1e-3, "weight_decay": 0.3, "amsgrad": True, "maximize": True}),
    ("RMSProp", "RMSprop", {"lr": 0.01}),
    ("RMSProp", "RMSprop", {"lr": 0.01, "alpha": 0.9, "momentum": 0.8, "centered": True, "weight_decay": 0.01, "eps": 1e-4}),
    ("AdaGrad", "Adagrad", {"lr": 0.1}),
    ("AdaGrad", "Adagrad", {"lr": 0.1, "lr_decay": 0.05, "weight_decay": 0.01, "initial_accumulator_value": 0.2, "eps": 1e-6}),
]
IDS = [f"{c[0]}-{k}" for k, c in enumerate(CASES)]


def problem():
    rng = np.random.default_rng(7)
    return rng.standard_normal((6, 4)), rng.standard_normal(6), rng.standard_normal(4), rng.standard_normal((1, 1))


def loss_of(A, b, x, c):
    """A quartic in two leaves; the second scales."""
    r = A @ x * c.reshape(1) - b
    return (r**2).sum() + (x**4).sum() * 0.1


def run(optimizer, x, c, A, b, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(A, b, x, c).backward()
        optimizer.step()


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_fifty_steps_equal_torch(case):
    torch = pytest.importorskip("torch")
    ours, theirs, options = case
    A, b, x0, c0 = problem()
    x, c = nn.Parameter(x0.copy()), nn.Parameter(c0.copy())
    X, C = torch.tensor(x0, requires_grad=True), torch.tensor(c0, requires_grad=True)
    run(getattr(optim, ours)([x, c], **options), x, c, A, b, 50)
    run(getattr(torch.optim, theirs)([X, C], **options), X, C, torch.tensor(A), torch.tensor(b), 50)
    np.testing.assert_allclose(x.data, X.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(c.data, C.detach().numpy(), rtol=1e-10, atol=1e-12)
    assert not np.allclose(x.data, x0)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_going_on_from_a_saved_state_is_going_on(case):
    name, _, options = case
    A, b, x0, c0 = problem()
    x, c = nn.Parameter(x0.copy()), nn.Parameter(c0.copy())
    optimizer = getattr(optim, name)([x, c], **options)
    run(optimizer, x, c, A, b, 5)
    saved, values = optimizer.state_dict(), (x.data.copy(), c.data.copy())
    run(optimizer, x, c, A, b, 5)
    y, d = nn.Parameter(values[0]), nn.Parameter(values[1])
    again = getattr(optim, name)([y, d], lr=99.0)
    again.load_state_dict(saved)
    run(again, y, d, A, b, 5)
    np.testing.assert_array_equal(y.data, x.data)
    np.testing.assert_array_equal(d.data, c.data)


def test_one_step_by_definition():
    p = nn.Parameter(np.array([1.0, -2.0]))
    g = np.array([0.5, 4.0])

    def step(optimizer):
        p.assign(np.array([1.0, -2.0]))
        p.grad = pre.Tensor(g)
        optimizer.step()
        return p.data

    np.testing.assert_allclose(step(optim.SGD([p], lr=0.1)), [0.95, -2.4])
    # Adam's first step has the size lr, whatever the gradient
    np.testing.assert_allclose(step(optim.Adam([p], lr=0.1)), [0.9, -2.1], rtol=1e-7)
    np.testing.assert_allclose(step(optim.AdamW([p], lr=0.1, weight_decay=0.5)), [0.95 - 0.1, -1.9 - 0.1], rtol=1e-7)
    np.testing.assert_allclose(step(optim.AdaGrad([p], lr=0.1)), [0.9, -2.1], rtol=1e-7)
    np.testing.assert_allclose(step(optim.RMSProp([p], lr=0.1, alpha=0.75)), [0.8, -2.2], rtol=1e-7)


def test_groups_rates_and_parameters_without_gradient():
    a, b, c = (nn.Parameter(np.ones(2)) for _ in range(3))
    optimizer = optim.SGD([{"params": [a], "lr": 1.0}, {"params": b}, {"params": [c], "weight_decay": 1.0}], lr=0.5)
    for p in (a, b):
        p.grad = pre.Tensor(np.ones(2))
    optimizer.step()
    assert [p.data[0] for p in (a, b, c)] == [0.0, 0.5, 1.0]
    assert optimizer.lr == 1.0
    optimizer.lr = 0.25
    assert [g["lr"] for g in optimizer.groups] == [0.25] * 3
    optimizer.zero_grad()
    assert a.grad is None
    assert "SGD(lr=0.25" in repr(optimizer)
    assert "3 parameters" in repr(optimizer)


def test_a_step_does_not_touch_what_a_graph_still_needs():
    w = nn.Parameter(np.ones(2))
    before = w.data
    loss = (w * w).sum()
    w.grad = pre.Tensor(np.ones(2))
    optim.SGD([w], lr=0.1).step()
    assert before.tolist() == [1, 1]
    with pytest.raises(pre.GraphError, match="changed in place"):
        loss.backward()


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSProp", "AdaGrad"])
def test_narrow_parameters_keep_their_dtype_and_have_wide_state(name):
    p = nn.Parameter(np.ones(3, np.float16))
    optimizer = getattr(optim, name)([p], lr=0.01, **({"momentum": 0.9} if name == "SGD" else {}))
    for _ in range(3):
        p.grad = pre.Tensor(np.full(3, 0.5, np.float16))
        optimizer.step()
    assert p.dtype == np.float16
    assert (p.data < 1).all()
    for state in optimizer.state_dict()["state"].values():
        assert all(v.dtype == np.float32 for v in state.values() if isinstance(v, np.ndarray))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda p: optim.SGD([]), "no parameters"),
        (lambda p: optim.SGD([p, p]), "comes twice"),
        (lambda p: optim.SGD([np.ones(2)]), "changes leaves"),
        (lambda p: optim.SGD([p * 2]), "changes leaves"),
        (lambda p: optim.SGD([p], lr=-1), "lr must be at least 0"),
        (lambda p: optim.SGD([p], lr=float("nan")), "lr must be at least 0"),
        (lambda p: optim.SGD([p], nesterov=True), "nesterov needs"),
        (lambda p: optim.Adam([p], betas=(0.9, 1.0)), "betas must lie"),
        (lambda p: optim.RMSProp([p], alpha=1.5), "alpha must lie"),
        (lambda p: optim.SGD([{"params": [p], "beta": 1}]), "no option beta"),
        (lambda p: optim.clip_grad_norm(p, 0), "must be positive"),
        (lambda p: optim.clip_grad_value(p, -1), "at least 0"),
    ],
)
def test_wrong_calls_name_what_is_wrong(build, text):
    with pytest.raises(pre.OptionError, match=text):
        build(nn.Parameter(np.ones(2)))


def test_a_state_of_something_else_is_refused():
    saved = optim.SGD([nn.Parameter(np.ones(2))], momentum=0.9)
    saved.parameters()[0].grad = pre.Tensor(np.ones(2))
    saved.step()
    with pytest.raises(pre.OptionError, match="parameters per group"):
        optim.SGD([nn.Parameter(np.ones(2)), nn.Parameter(np.ones(2))]).load_state_dict(saved.state_dict())
    with pytest.raises(pre.ShapeError, match=r"has shape \(2,\), wanted \(3,\)"):
        optim.SGD([nn.Parameter(np.ones(3))]).load_state_dict(saved.state_dict())


# -- clipping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, float("inf")])
def test_clip_grad_norm_equals_torch(norm_type):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    ours = [nn.Parameter(np.ones((3, 2))), nn.Parameter(np.ones(5)), nn.Parameter(np.ones(1))]
    theirs = [torch.nn.Parameter(torch.ones(tuple(p.shape), dtype=torch.float64)) for p in ours]
    for p, q in zip(ours[:2], theirs[:2], strict=True):
        g = rng.standard_normal(p.shape)
        p.grad, q.grad = pre.Tensor(g), torch.tensor(g)
    for bound in (100.0, 0.5):
        norm = optim.clip_grad_norm(ours, bound, norm_type)
        assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, bound, norm_type).item(), rel=1e-12)
        for p, q in zip(ours[:2], theirs[:2], strict=True):
            np.testing.assert_allclose(p.grad.data, q.grad.numpy(), rtol=1e-12)
    assert optim.clip_grad_norm(ours[2], 1.0, norm_type) == 0


def test_clip_grad_value():
    p = nn.Parameter(np.ones(3, np.float32))
    p.grad = pre.Tensor(np.array([-5, 0.5, np.nan], np.float32))
    optim.clip_grad_value([p], 1.0)
    np.testing.assert_array_equal(p.grad.data, np.float32([-1, 0.5, np.nan]))
    assert p.grad.dtype == np.float32
