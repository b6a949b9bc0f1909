"""Tensor's methods under PyTorch's names: values and gradients beside torch's."""

import numpy as np
import pytest

import preimage as pre
from preimage.errors import PreimageError, ShapeError

X = np.random.default_rng(0).integers(-9, 9, (3, 1, 7, 4)).astype(np.float64)
MASK = X > 2

#: (what is called, on either side; whether it gives a list)
CALLS = [
    (lambda t: t.transpose(1, 2), False),
    (lambda t: t.transpose(-1, -3), False),
    (lambda t: t[0, 0].transpose(1, 0), False),
    (lambda t: t.split(3, dim=2), True),
    (lambda t: t.split([2, 1, 4], 2), True),
    (lambda t: t.chunk(3, 2), True),
    (lambda t: t.chunk(9), True),
    (lambda t: t.unbind(-1), True),
    (lambda t: t.clamp(-2, 3), False),
    (lambda t: t.clamp(min=1), False),
    (lambda t: t.pow(2), False),
    (lambda t: t.expand(3, 5, 7, 4), False),
    (lambda t: t.expand(2, -1, -1, 7, -1), False),
    (lambda t: t.contiguous().view(3, -1), False),
    (lambda t: t.softmax(dim=2), False),
    (lambda t: t.clone(), False),
    (lambda t: t.repeat(1, 3, 1, 2), False),
    (lambda t: t.repeat((2, 1, 1, 1, 1)), False),
    (lambda t: t.tile(2, 3), False),
    (lambda t: t.flip(1, 2), False),
    (lambda t: t.flip((0, -1)), False),
    (lambda t: t.roll(2, -1), False),
    (lambda t: t.roll((1, -2), (0, 2)), False),
    (lambda t: t.roll(5), False),
    (lambda t: t.narrow(2, 1, 4), False),
    (lambda t: t.narrow(-1, -3, 2), False),
    (lambda t: t.unflatten(3, (2, -1)), False),
    (lambda t: t[:, :, :1].expand_as(t) * t, False),
    (lambda t: t[0].view_as(t[1]) + t[2].reshape_as(t[1]), False),
    (lambda t: t.movedim(1, -1), False),
    (lambda t: t.amax(2), False),
    (lambda t: t.amax(dim=(1, 3), keepdim=True), False),
    (lambda t: t.amin(), False),
    (lambda t: t.add(t[:1], alpha=3).sub(2.0).mul(t).div(4.0).neg(), False),
    (lambda t: t.sub(t[:1], alpha=0.5), False),
    (lambda t: t.maximum(t[:1]) + t.minimum(t[1:2]), False),
    (lambda t: t[:, 0].bmm(t[:, 0].transpose(1, 2)), False),
    (lambda t: t[0, 0].mm(t[0, 0].T), False),
    (lambda t: t.sin() + t.cos() + (t / 9).expm1() + t.sign(), False),
    (lambda t: (t * t + 1).rsqrt() + (t * t + 1).reciprocal(), False),
    (lambda t: t.log_softmax(dim=-2), False),
]


@pytest.mark.parametrize(("call", "several"), CALLS)
def test_as_torch(call, several):
    torch = pytest.importorskip("torch")
    ours, theirs = pre.Tensor(X, requires_grad=True), torch.tensor(X, requires_grad=True)
    made, wanted = call(ours), call(theirs)
    parts = list(zip(made, wanted, strict=True)) if several else [(made, wanted)]
    total, total_theirs = 0, 0
    rng = np.random.default_rng(1)
    for part, theirs_part in parts:
        np.testing.assert_allclose(part.data, theirs_part.detach().numpy(), rtol=1e-12)
        g = rng.integers(-3, 4, part.shape).astype(np.float64)
        total, total_theirs = total + (part * g).sum(), total_theirs + (theirs_part * torch.tensor(g)).sum()
    total.backward()
    total_theirs.backward()
    np.testing.assert_allclose(ours.grad.data, theirs.grad.numpy(), rtol=1e-13, atol=1e-13)


def test_masked_fill():
    t = pre.Tensor(X, requires_grad=True)
    y = t.masked_fill(MASK, -5.0)
    assert np.array_equal(y.data, np.where(MASK, -5.0, X))
    y.sum().backward()
    assert np.array_equal(t.grad.data, 1.0 - MASK)


def test_of_two_axes_transpose_is_numpys():
    assert np.array_equal(pre.Tensor(X[:, 0, :, 0]).transpose(0, 1).data, X[:, 0, :, 0].transpose(0, 1))


def test_repeat_with_an_axis_is_numpys():
    assert np.array_equal(pre.Tensor(X).repeat(2, axis=2).data, X.repeat(2, axis=2))


def test_bad_arguments():
    t = pre.Tensor(X)
    for call in (lambda: t.split(0), lambda: t.split([1, 1]), lambda: t.chunk(0), lambda: t.expand(3, 2), lambda: t.unbind(9)):
        with pytest.raises(PreimageError):
            call()
    with pytest.raises(ShapeError, match="no order"):
        t.transpose((1, 2))
