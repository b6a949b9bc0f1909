"""Every check is shown able to fail: wrong contractions, wrong gradients and wrong adjoints are fed to it, and it must object."""

from __future__ import annotations

import random

import numpy as np
import pytest

import oracle
import preimage as pre
from geometries import operands, random_geometry
from preimage.autograd import primitive
from preimage.errors import CheckError, OptionError, ShapeError
from preimage.ops import relu
from test_adjoint import BOUND, draw, error

NUMBERS = np.random.default_rng(0)


def wrong_rule(name, forward, *rules):
    return primitive(f"test_wrong_{name}", forward, rules)


def flipped(w):
    return w[(..., *[slice(None, None, -1)] * (w.ndim - 2))]


# -- check_grads -------------------------------------------------------------------------------------------------------

_conv = {"x": NUMBERS.standard_normal((2, 3, 8, 7)), "w": NUMBERS.standard_normal((4, 3, 3, 2))}

WRONG = {
    "flipped weights in the input gradient": (
        lambda g, ans, x, w: pre.conv_transpose(g, flipped(w), padding=1),
        lambda g, ans, x, w: pre.conv_weight_grad(x, g, kernel_size=(3, 2), padding=1),
    ),
    "flipped weight gradient": (
        lambda g, ans, x, w: pre.conv_transpose(g, w, padding=1),
        lambda g, ans, x, w: flipped(pre.conv_weight_grad(x, g, kernel_size=(3, 2), padding=1)),
    ),
    "swapped channels": (
        lambda g, ans, x, w: pre.conv_transpose(g, w, padding=1)[:, [1, 0, 2]],
        lambda g, ans, x, w: pre.conv_weight_grad(x, g, kernel_size=(3, 2), padding=1),
    ),
    "padding off by one": (
        lambda g, ans, x, w: pre.conv_transpose(g, w, padding=((2, 0), (1, 1))),
        lambda g, ans, x, w: pre.conv_weight_grad(x, g, kernel_size=(3, 2), padding=1),
    ),
    "one border element": (
        lambda g, ans, x, w: pre.pad(pre.conv_transpose(g, w, padding=1), ((0, 0), (-1, 1))),
        lambda g, ans, x, w: pre.conv_weight_grad(x, g, kernel_size=(3, 2), padding=1),
    ),
    "a factor of 1.00001": (
        lambda g, ans, x, w: pre.conv_transpose(g, w, padding=1),
        lambda g, ans, x, w: pre.conv_weight_grad(x, g, kernel_size=(3, 2), padding=1) * 1.00001,
    ),
    "a missing image of the batch": (
        lambda g, ans, x, w: pre.conv_transpose(g, w, padding=1),
        lambda g, ans, x, w: pre.conv_weight_grad(x[:1], g[:1], kernel_size=(3, 2), padding=1),
    ),
}


@pytest.mark.parametrize("defect", WRONG)
def test_check_grads_finds(defect):
    op = wrong_rule(defect.replace(" ", "_"), lambda x, w: pre.conv(x, w, padding=1), *WRONG[defect])
    with pytest.raises(CheckError, match=r"first derivative: along a random direction of argument [01] .* allowed 1.0e-07"):
        pre.check_grads(op, [_conv["x"], _conv["w"]], order=1)


def test_check_grads_passes_the_right_one():
    rules = (
        lambda g, ans, x, w: pre.conv_transpose(g, w, padding=1),
        lambda g, ans, x, w: pre.conv_weight_grad(x, g, kernel_size=(3, 2), padding=1),
    )
    pre.check_grads(wrong_rule("not", lambda x, w: pre.conv(x, w, padding=1), *rules), [_conv["x"], _conv["w"]])


def test_check_grads_sees_past_a_kink_near_the_point():
    x = np.array([1e-4, -1e-4, 3e-5, 0.7])
    pre.check_grads(relu, [x], order=1)
    crooked = wrong_rule("crooked", relu, lambda g, y, x: g * (y > 0) * (1 + 1e-6))
    with pytest.raises(CheckError, match="off by"):
        pre.check_grads(crooked, [x], order=1)


def test_check_grads_finds_a_gradient_that_does_not_differentiate():
    """The first derivative is right; the rule is written on arrays, so the second is missing."""
    op = wrong_rule("second", lambda x: x**3, lambda g, ans, x: g * pre.Tensor(3 * np.asarray(x) ** 2))
    x = NUMBERS.standard_normal(5)
    pre.check_grads(op, [x], order=1)
    with pytest.raises(CheckError, match="second derivative"):
        pre.check_grads(lambda a: op(a) * a, [x], order=2)


def test_check_grads_finds_what_does_not_record():
    with pytest.raises(CheckError, match="recorded nothing"):
        pre.check_grads(lambda x: pre.Tensor(np.asarray(x) * 2), [np.ones(3)])


def test_check_grads_finds_a_gradient_that_is_left_out():
    """A path cut with detach: the gradient says nothing, the values change."""
    with pytest.raises(CheckError, match="the gradient says 0"):
        pre.check_grads(
            lambda x, y: (x if isinstance(x, np.ndarray) else x.detach()) * 1.0 + y, [np.ones(3), np.ones(3)], order=1
        )


def test_check_grads_finds_a_gradient_of_another_shape():
    op = wrong_rule("shape", lambda x: x * 1.0, lambda g, ans, x: g[:1])
    with pytest.raises(CheckError, match=r"the gradient of argument 0 has \(1,\) float64, the argument \(3,\) float64"):
        pre.check_grads(op, [np.ones(3)], order=1)


def test_check_grads_in_float32_still_sees_a_percent():
    op = wrong_rule("percent", lambda x: x * 2.0, lambda g, ans, x: g * 2.02)
    with pytest.raises(CheckError):
        pre.check_grads(op, [np.ones(30, np.float32)], order=1)
    pre.check_grads(lambda x: x * 2.0, [np.ones(30, np.float32)])


def test_check_grads_arguments():
    with pytest.raises(OptionError, match="order must be 1 or 2"):
        pre.check_grads(lambda x: x * 1.0, [np.ones(3)], order=3)
    pre.check_grads(lambda x, y: x * y, [np.ones(3), np.ones(3)], argnums=[1])
    pre.check_grads(lambda x: (x * 2.0, x * x), [np.ones(3)])
    pre.check_grads(lambda x: x * 2.0, [np.ones((0, 3))])


# -- check_adjoint -----------------------------------------------------------------------------------------------------


class Pair:
    """An operator of two functions."""

    dtype = np.dtype(np.float64)

    def __init__(self, forward, back, shape):
        self.forward, self.back, self.input_shape = forward, back, shape

    def __matmul__(self, x):
        return self.forward(x)

    @property
    def T(self):  # noqa: N802
        return Pair(self.back, self.forward, None)


def test_check_adjoint():
    w = NUMBERS.standard_normal((4, 3, 3, 2))
    options = {"stride": 2, "padding": ((1, 0), (0, 2)), "padding_mode": "reflect"}

    def forward(x):
        return pre.conv(x, w, **options)

    def right(y):
        return pre.conv_transpose(y, w, output_size=(8, 7), **options)

    shape = (2, 3, 8, 7)
    pre.check_adjoint(Pair(forward, right, shape))
    for wrong in (
        lambda y: pre.conv_transpose(y, flipped(w), output_size=(8, 7), **options),
        lambda y: pre.conv_transpose(y, w, output_size=(8, 7), **{**options, "padding_mode": "zeros"}),
        lambda y: pre.conv_transpose(y, w, output_size=(8, 7), **{**options, "padding_mode": "circular"}),
        lambda y: right(y)[:, [0, 2, 1]],
        lambda y: right(y) * (1 + 1e-9),
    ):
        with pytest.raises(CheckError, match=r"not adjoint: <A x, y> = .*, <x, A.T y> = .*; off by .* allowed 1.0e-12"):
            pre.check_adjoint(Pair(forward, wrong, shape))
    with pytest.raises(ShapeError, match="y has shape"):
        pre.check_adjoint(Pair(forward, lambda y: right(y)[:1], shape))


def test_check_adjoint_of_matrices_and_functions():
    matrix = NUMBERS.standard_normal((3, 5))
    pre.check_adjoint(matrix)
    pre.check_adjoint(lambda x: x * 2.0, np.ones(4, np.float32))
    with pytest.raises(OptionError, match="needs x"):
        pre.check_adjoint(lambda x: x)
    with pytest.raises(OptionError, match="takes an operator, a matrix or a linear function, got str"):
        pre.check_adjoint("A")
    with pytest.raises(CheckError):
        pre.check_adjoint(lambda x: x * x, np.ones(4))


# -- the suite's own instruments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "defect",
    [
        {"conv_transpose": lambda y, w, **o: pre.conv_transpose(y, flipped(w), **o)},
        {"conv_weight_grad": lambda x, y, **o: flipped(pre.conv_weight_grad(x, y, **o))},
        {"conv": lambda x, w, **o: pre.conv(x, w[:, ::-1], **o)},
        {"conv_transpose": lambda y, w, **o: pre.conv_transpose(y, w, **{**o, "padding_mode": "zeros"})},
        {"conv": lambda x, w, **o: pre.conv(x, w, **o) * (1 + 1e-10)},
    ],
)
def test_the_dot_test_objects(defect):
    rng, numbers = random.Random(0), np.random.default_rng(0)
    errors = []
    while len(errors) < 60:
        geometry, mode, layout = draw(rng)
        if min(geometry.kernel_size, default=0) > 1 and geometry.in_channels_per_group > 1:
            errors.append(error(geometry, mode, layout, numbers, **defect))
    assert max(errors) > BOUND
    if "padding_mode" not in str(defect):
        assert np.mean(np.array(errors) > BOUND) > 0.4


def test_the_oracle_and_the_data_see_wrong_contractions(engine):
    """What test_cases.py compares with would differ for a flipped kernel, a swapped channel and a shifted padding."""
    rng, numbers = random.Random(5), np.random.default_rng(5)
    seen = dict.fromkeys(("flip", "swap", "shift"), 0)
    for _ in range(40):
        g = random_geometry(rng, ndim=2)
        x, w, _ = operands(g, numbers)
        s = oracle.sizes_of(g)
        right = oracle.conv(x, w, s)
        if not right.any():
            continue
        seen["flip"] += not np.array_equal(engine.conv(g, x, flipped(w)), right)
        seen["swap"] += not np.array_equal(engine.conv(g, x, w[:, ::-1]), right)
        shifted = oracle.Sizes(s.groups, s.large, s.small, s.kernel, s.stride, tuple(v + 1 for v in s.lo), s.dilation)
        seen["shift"] += not np.array_equal(oracle.conv(x, w, shifted), right)
    assert min(seen.values()) > 20, seen
