"""Losses: beside PyTorch and by definition."""

import math

import numpy as np
import pytest

import preimage as pre
from preimage import functional, nn

rng = np.random.default_rng(0)
X, T = rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 4, 5))
P, Q = rng.uniform(0.05, 0.95, (3, 4, 5)), rng.uniform(0, 1, (3, 4, 5))
LABELS = rng.integers(0, 4, (3, 5))
HOLES = LABELS.copy()
HOLES[1, 2:] = -100
W4, PW = np.array([1.0, 2.0, 0.5, 3.0]), rng.uniform(0.5, 2, (4, 1))

#: (ours, torch's function, prediction, target, options, options that are arrays)
CASES = [
    ("mse_loss", "mse_loss", X, T, {}, {}),
    ("l1_loss", "l1_loss", X, T, {}, {}),
    ("huber_loss", "huber_loss", X, T, {"delta": 0.7}, {}),
    ("cross_entropy", "cross_entropy", X, LABELS, {}, {}),
    ("cross_entropy", "cross_entropy", X, HOLES, {"label_smoothing": 0.2}, {}),
    ("cross_entropy", "cross_entropy", X, HOLES, {"label_smoothing": 0.1}, {"weight": W4}),
    ("cross_entropy", "cross_entropy", X, HOLES, {}, {"weight": W4}),
    ("cross_entropy", "cross_entropy", X, Q, {"label_smoothing": 0.3}, {"weight": W4}),
    ("nll_loss", "nll_loss", np.log(P), HOLES, {}, {"weight": W4}),
    ("bce_with_logits_loss", "binary_cross_entropy_with_logits", X, Q, {}, {}),
    ("bce_with_logits_loss", "binary_cross_entropy_with_logits", X, Q, {}, {"pos_weight": PW, "weight": Q + 1}),
    ("bce_loss", "binary_cross_entropy", P, Q, {}, {"weight": Q + 1}),
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", CASES, ids=[f"{c[0]}-{k}" for k, c in enumerate(CASES)])
def test_equals_torch(case, reduction):
    torch = pytest.importorskip("torch")
    name, theirs, prediction, target, options, arrays = case
    x, x_torch = pre.Tensor(prediction, requires_grad=True), torch.tensor(prediction, requires_grad=True)
    loss = getattr(nn, name)(x, target, reduction=reduction, **options, **arrays)
    tensors = {k: torch.tensor(v) for k, v in arrays.items()}
    want = getattr(torch.nn.functional, theirs)(x_torch, torch.tensor(target), reduction=reduction, **options, **tensors)
    assert loss.shape == tuple(want.shape)
    np.testing.assert_allclose(loss.data, want.detach().numpy(), rtol=1e-12, atol=1e-14)
    g = np.random.default_rng(1).standard_normal(loss.shape)
    want.backward(torch.tensor(g))
    np.testing.assert_allclose(pre.grad(loss, x, g).data, x_torch.grad.numpy(), rtol=1e-11, atol=1e-14)


def test_by_definition():
    assert nn.mse_loss([1.0, 3.0], [0.0, 1.0]) == 2.5
    assert nn.l1_loss([1.0, 3.0], [0.0, 1.0]) == 1.5
    logits = np.array([[1.0, 2.0, 0.0]])
    want = -math.log(math.exp(2) / (math.e + math.exp(2) + 1))
    assert nn.cross_entropy(logits, np.array([1])) == pytest.approx(want, rel=1e-15)
    assert nn.cross_entropy(logits, np.array([[0.0, 1.0, 0.0]])) == pytest.approx(want, rel=1e-15)
    assert nn.bce_with_logits_loss(np.array([2.0]), np.array([1.0])) == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-15)


def test_dice():
    p, t = np.array([[[1.0, 0.5, 0.0]]]), np.array([[[1.0, 0.0, 0.0]]])
    assert nn.dice_loss(p, t, smooth=0.0) == pytest.approx(1 - 2 / 2.5)
    assert nn.dice_loss(t, t) == 0
    x = pre.Tensor(P, requires_grad=True)
    per_plane = nn.dice_loss(x, (Q > 0.5).astype(float), reduction="none")
    assert per_plane.shape == (3, 4)
    s, u = P.sum(2), (Q > 0.5).sum(2)
    np.testing.assert_allclose(per_plane.data, 1 - (2 * (P * (Q > 0.5)).sum(2) + 1) / (s + u + 1), rtol=1e-13)
    h = 1e-6 * (np.arange(60).reshape(P.shape) == 7)
    slope = (nn.dice_loss(P + h, Q) - nn.dice_loss(P - h, Q)) / 2e-6
    assert pre.grad(nn.dice_loss(x, Q), x).data.ravel()[7] == pytest.approx(slope, rel=1e-6)


def test_no_overflow():
    big = np.array([1e4, -1e4])
    assert nn.bce_with_logits_loss(big, np.array([1.0, 0.0])) == 0
    assert nn.bce_with_logits_loss(big, np.array([0.0, 1.0])) == 1e4
    assert nn.bce_loss(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0
    assert nn.bce_loss(np.array([0.0]), np.array([1.0])) == 100
    assert nn.cross_entropy(np.array([[1e4, 0.0]]), np.array([0])) == 0


def test_ignored_positions_bring_nothing_along():
    logits = np.array([[0.0, 1.0], [np.nan, np.inf]])
    loss = nn.cross_entropy(pre.Tensor(logits, requires_grad=True), np.array([1, -100]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert np.isnan(nn.cross_entropy(logits, np.array([-100, -100])))


def test_modules_are_the_functions():
    pairs = [
        (nn.MSELoss(), nn.mse_loss, X, T), (nn.L1Loss("sum"), lambda a, b: nn.l1_loss(a, b, reduction="sum"), X, T),
        (nn.HuberLoss(delta=0.3), lambda a, b: nn.huber_loss(a, b, delta=0.3), X, T), (nn.NLLLoss(), nn.nll_loss, np.log(P), LABELS),
        (nn.CrossEntropyLoss(weight=W4), lambda a, b: nn.cross_entropy(a, b, weight=W4), X, LABELS), (nn.BCELoss(), nn.bce_loss, P, Q),
        (nn.BCEWithLogitsLoss(), nn.bce_with_logits_loss, X, Q),
        (nn.SmoothL1Loss(beta=0.3), lambda a, b: functional.smooth_l1_loss(a, b, beta=0.3), X, T),
        (nn.KLDivLoss("batchmean"), lambda a, b: functional.kl_div(a, b, reduction="batchmean"), np.log(P), Q),
        (nn.DiceLoss(2.0), lambda a, b: nn.dice_loss(a, b, smooth=2.0), P, Q),
    ]  # fmt: skip
    for module, function, a, b in pairs:
        assert module(a, b) == function(a, b)
        assert isinstance(module, nn.Module)
    assert "delta=0.3" in repr(nn.HuberLoss(delta=0.3))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: nn.mse_loss(X, T[:1]), "they must be equal"),
        (lambda: nn.mse_loss(X, T, reduction="median"), "reduction must be"),
        (lambda: nn.huber_loss(X, T, delta=0), "delta must be positive"),
        (lambda: nn.cross_entropy(X, LABELS, label_smoothing=2), "label_smoothing must lie"),
        (
            lambda: nn.cross_entropy(X, np.where(np.arange(15).reshape(3, 5) == 8, 7, 3)),
            r"target\[1, 3\] is 7; there are 4 classes, 0 to 3",
        ),
        (lambda: nn.cross_entropy(X, np.where(np.arange(15).reshape(3, 5) == 8, -1, 3)), r"target\[1, 3\] is -1; there are 4"),
        (lambda: nn.cross_entropy(X, LABELS.astype(np.float32)), "integer classes, got float32"),
        (lambda: nn.cross_entropy(X, LABELS[:, :2]), r"wanted \(3, 5\)"),
        (lambda: nn.cross_entropy(X[0, 0], LABELS), r"wanted \(N, classes"),
        (lambda: nn.cross_entropy(X, LABELS, weight=np.ones(3)), "one per class"),
        (lambda: nn.nll_loss(X, Q[:, 0]), "integer classes"),
        (lambda: nn.dice_loss(X[0], T[0]), r"wanted \(N, C, \*spatial\)"),
        (lambda: nn.DiceLoss(-1), "must not be negative"),
    ],
)
def test_wrong_calls_name_what_is_wrong(call, text):
    with pytest.raises(pre.PreimageError, match=text):
        call()
