"""Losses at the ends of their domain: probabilities of 0 and 1, infinite logits, masked labels, huge differences; values and slopes.

The definitions are in float64, with the limit written down where they have one.
"""

import math

import numpy as np
import pytest

import preimage as pre
from preimage import nn, ops
from preimage.errors import DomainError

INF = math.inf
KINDS = [np.float16, np.float32, np.float64]


def both(loss, x, *args, **options):
    """Value and slope of a loss of one element each, not reduced."""
    t = pre.Tensor(x, requires_grad=True)
    y = loss(t, *args, reduction="none", **options)
    (g,) = pre.grad(y, [t], np.ones(y.shape, y.dtype))
    assert y.dtype == g.dtype == x.dtype
    return y.data.astype(np.float64), g.data.astype(np.float64)


def tolerance(kind):
    return 4 * float(np.finfo(kind).eps)


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_that_have_reached_their_target(kind):
    """At p = t = 0 the slope is 1, at p = t = 1 it is -1: finite, as the definition's limit."""
    value, slope = both(nn.bce_loss, np.array([0, 1, 0.25, 0.25, 0.5], kind), np.array([0, 1, 0, 1, 0.5], kind))
    np.testing.assert_allclose(value, [0, 0, -math.log(0.75), math.log(4), math.log(2)], rtol=tolerance(kind))
    np.testing.assert_allclose(slope, [1, -1, 1 / 0.75, -4, 0], rtol=tolerance(kind), atol=tolerance(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_that_have_reached_the_other_end(kind):
    """The loss is held at 100; the slope is large, finite, and leads back."""
    value, slope = both(nn.bce_loss, np.array([0, 1], kind), np.array([1, 0], kind))
    np.testing.assert_array_equal(value, 100)
    assert np.isfinite(slope).all()
    assert slope[0] < -1000 < 1000 < slope[1]


def test_small_probabilities_keep_their_digits():
    p = np.array([1e-300, 1e-20, 1e-9, 1 - 1e-9])
    value, slope = both(nn.bce_loss, p, np.array([0.0, 1.0, 0.0, 0.0]))
    np.testing.assert_allclose(value, [1e-300, 20 * math.log(10), 1e-9, -math.log(1 - p[3])], rtol=1e-9)
    np.testing.assert_allclose(slope, [1, -1e20, 1 / (1 - p[2]), 1 / (1 - p[3])], rtol=1e-9)


def test_no_probability():
    for p in (1.5, -0.25, INF, 1 + 1e-12):
        with pytest.raises(DomainError, match=r"a probability lies in 0\.\.1"):
            nn.bce_loss(np.array([0.5, p]), np.array([0.0, 1.0]))
        with pytest.raises(ValueError, match="bce_with_logits_loss"):
            nn.BCELoss()(pre.Tensor(np.array([p])), np.array([1.0]))
    assert np.isnan(nn.bce_loss(np.array([np.nan]), np.array([0.5])))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_training_through_a_sigmoid(kind):
    """From x = 20, where p is 1 in float32, to the other side."""
    for start, target in ((20.0, 0.0), (-20.0, 1.0)):
        x = pre.Tensor(np.array([start], kind), requires_grad=True)
        for _ in range(400):
            (g,) = pre.grad(nn.bce_loss(ops.sigmoid(x), np.array([target], kind)), [x])
            assert np.isfinite(g.data).all()
            assert g.data[0] * start > 0
            x = pre.Tensor(x.data - kind(0.5) * g.data, requires_grad=True)
        assert abs(x.data[0] + math.copysign(5, start)) < 3


@pytest.mark.parametrize("kind", KINDS)
def test_infinite_logits(kind):
    x = np.array([INF, INF, -INF, -INF, INF, 0.0, 30.0, -30.0, 30.0], kind)
    t = np.array([1, 0, 0, 1, 0.5, 0.5, 1, 0, 0], kind)
    value, slope = both(nn.bce_with_logits_loss, x, t)
    tiny = math.log1p(math.exp(-30))
    np.testing.assert_allclose(
        value, np.array([0, INF, 0, INF, INF, math.log(2), tiny, tiny, 30 + tiny]).astype(kind), rtol=tolerance(kind)
    )
    s = 1 / (1 + math.exp(-30))
    np.testing.assert_allclose(slope, np.array([0, 1, 0, -1, 0.5, 0, -(1 - s), 1 - s, s]).astype(kind), rtol=0.01, atol=1e-15)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_logits_with_a_weight_of_the_positive_class(kind):
    x = np.array([INF, -INF, INF, -INF, 2.0, -50.0, 50.0, 0.0], kind)
    t = np.array([1, 0, 0, 1, 0.25, 0, 1, 1], kind)
    value, slope = both(nn.bce_with_logits_loss, x, t, pos_weight=np.array(3.0, kind))
    a, b = x.astype(float)[4:], t.astype(float)[4:]
    with np.errstate(all="ignore"):
        wanted = 3 * b * np.logaddexp(0, -a) + (1 - b) * np.logaddexp(0, a)
        by_x = (1 - b) / (1 + np.exp(-a)) - 3 * b / (1 + np.exp(a))
    np.testing.assert_allclose(value, [0, 0, INF, INF, *wanted], rtol=tolerance(kind))
    np.testing.assert_allclose(slope, [0, 0, 1, -3, *by_x], rtol=tolerance(kind), atol=1e-40)
    p = pre.Tensor(np.array(3.0, kind), requires_grad=True)
    (g,) = pre.grad(nn.bce_with_logits_loss(x[4:], t[4:], pos_weight=p, reduction="sum"), [p])
    np.testing.assert_allclose(float(g.data), (b * np.logaddexp(0, -a)).sum(), rtol=tolerance(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_are_ruled_out(kind):
    """Logits of -infinity: a class that is masked takes no part, named by a label of 0 or weighed with 0."""
    x = np.array([[1.0, -INF, 2.0], [-INF, -INF, 3.0], [INF, 0.0, 1.0], [INF, INF, 0.0]], kind)
    limit = np.array([[1 / (1 + math.e), 0, math.e / (1 + math.e)], [0, 0, 1], [1, 0, 0], [0.5, 0.5, 0]])
    labels = np.array([0, 2, 0, 1])
    hot = np.eye(3)[labels]
    exact = np.array([math.log(1 + math.e), 0, 0, math.log(2)])
    for target in (labels, hot.astype(kind)):
        t = pre.Tensor(x, requires_grad=True)
        y = nn.cross_entropy(t, target, reduction="none")
        (g,) = pre.grad(y, [t], np.ones(4, kind))
        np.testing.assert_allclose(y.data, exact.astype(kind), rtol=tolerance(kind))
        np.testing.assert_allclose(g.data, (limit - hot).astype(kind), rtol=tolerance(kind), atol=tolerance(kind))
    np.testing.assert_allclose(ops.softmax(x, 1), limit.astype(kind), rtol=tolerance(kind))
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(ops.log_softmax(x, 1), np.log(limit).astype(kind), rtol=tolerance(kind))
    soft = np.array([[0.5, 0, 0.5], [0, 0, 1], [1, 0, 0], [0.5, 0.5, 0]], kind)
    got = nn.cross_entropy(x, soft, reduction="none")
    np.testing.assert_allclose(
        got, np.array([math.log(1 + math.e) - 0.5, 0, 0, math.log(2)]).astype(kind), rtol=2 * tolerance(kind)
    )
    assert nn.cross_entropy(x, np.array([1, 2, 0, 0]), weight=np.array([1.0, 0.0, 1.0], kind), reduction="sum") < 2
    assert nn.cross_entropy(x, np.array([1, 2, 0, 0])) == INF
    smooth = nn.cross_entropy(x[:1], labels[:1], weight=np.array([1.0, 0.0, 1.0], kind), label_smoothing=0.3)
    assert np.isfinite(np.asarray(smooth, float))


@pytest.mark.parametrize("kind", KINDS)
def test_logsumexp_of_infinities(kind):
    x = np.array([[-INF, -INF], [INF, 1.0], [INF, INF], [-INF, 1.0], [0.0, 0.0], [INF, -INF]], kind)
    t = pre.Tensor(x, requires_grad=True)
    y = ops.logsumexp(t, 1)
    (g,) = pre.grad(y, [t], np.full(6, 2.0, kind))
    np.testing.assert_allclose(y.data, np.array([-INF, INF, INF, 1, math.log(2), INF]).astype(kind))
    np.testing.assert_allclose(g.data, [[0, 0], [2, 0], [1, 1], [0, 2], [1, 1], [2, 0]], rtol=2 * tolerance(kind))
    whole = pre.Tensor(np.full((2, 3), -INF, kind), requires_grad=True)
    (g,) = pre.grad(ops.logsumexp(whole), [whole])
    assert not g.data.any()
    assert ops.logsumexp(np.zeros((3, 0), kind), 1).tolist() == [-INF] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_differences_without_bounds(kind):
    x, t = np.array([INF, -INF, 5.0, -0.25, 0.0], kind), np.zeros(5, kind)
    for loss, value, slope in (
        (nn.huber_loss, [INF, INF, 4.5, 1 / 32, 0], [1, -1, 1, -0.25, 0]),
        (nn.l1_loss, [INF, INF, 5, 0.25, 0], [1, -1, 1, -1, 0]),
        (nn.mse_loss, [INF, INF, 25, 1 / 16, 0], [INF, -INF, 10, -0.5, 0]),
    ):
        got = both(loss, x, t)
        np.testing.assert_allclose(got[0], value, err_msg=loss.__name__)
        np.testing.assert_allclose(got[1], slope, err_msg=loss.__name__)
    top = np.finfo(kind).max
    big = np.array([top, -top], kind)
    value, slope = both(nn.huber_loss, big, np.zeros(2, kind))
    np.testing.assert_allclose(value, top, rtol=1e-3)
    np.testing.assert_array_equal(slope, [1, -1])


def test_second_derivatives_of_the_written_slopes():
    """Of the losses that have rules or forms of their own; away from the ends."""
    rng = np.random.default_rng(0)
    p, t = rng.uniform(0.1, 0.9, 6), rng.uniform(0.1, 0.9, 6)
    x = rng.standard_normal(6) * 3
    pre.check_grads(lambda p, t: nn.bce_loss(p, t), [p, t])
    pre.check_grads(lambda x, t: nn.bce_with_logits_loss(x, t, pos_weight=2.0, weight=t), [x, t])
    pre.check_grads(lambda x: nn.huber_loss(x, t), [x])
    pre.check_grads(lambda x: nn.cross_entropy(x.reshape(2, 3), np.array([0, 2]), label_smoothing=0.2), [x])
