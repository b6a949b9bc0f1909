"""Random geometries of what is linear over space, dotted with their adjoints; and random nonsense, which must be refused."""

import math

import numpy as np
import pytest

import preimage as pre
from preimage import nn, ops


def adjoint_holds(op, x, rng):
    t = pre.Tensor(x, requires_grad=True)
    y = op(t)
    g = rng.standard_normal(y.shape)
    left, right = np.vdot(y.data, g), np.vdot(x, pre.grad(y, t, g).data)
    assert abs(left - right) <= 1e-13 * (np.linalg.norm(y.data) * np.linalg.norm(g) + 1e-300)
    # the adjoint's adjoint is the operation itself, bit for bit in shape and to rounding in value
    back = pre.Tensor(g, requires_grad=True)
    again = pre.grad(pre.grad(op(t), t, back, create_graph=True), back, x)
    np.testing.assert_allclose(again.data, y.data, rtol=1e-12, atol=1e-13)


def unequal(rng, ndim, low, high):
    return tuple(int(n) for n in rng.permutation(np.arange(low, max(high, low + ndim)))[:ndim])


@pytest.mark.parametrize("ndim", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["sum", "avg", "avg inside", "unpool last", "unpool add"])
def test_pooling_is_linear_and_its_gradient_its_adjoint(kind, ndim):
    rng = np.random.default_rng(ndim)
    for _ in range(12):
        size = unequal(rng, ndim, 3, 8)
        kernel, stride, dilation = (tuple(int(v) for v in rng.integers(1, most, ndim)) for most in (4, 4, 3))
        extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        padding = tuple((int(rng.integers(0, e)), int(rng.integers(0, e))) for e in extent)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": bool(rng.integers(2))}
        if any(n + sum(p) < e for n, p, e in zip(size, padding, extent, strict=True)):
            continue
        x = rng.standard_normal((2, 3, *size))
        if kind == "sum":
            adjoint_holds(lambda t, k=kernel, o=options: ops.sum_pool(t, k, **o), x, rng)
        elif kind.startswith("avg"):
            include = kind == "avg"
            counts = ops.sum_pool(np.ones((1, 1, *size)), kernel, **options)
            if include or counts.all():
                adjoint_holds(lambda t, k=kernel, o=options, i=include: ops.avg_pool(t, k, count_include_pad=i, **o), x, rng)
        else:
            y, where = ops.max_pool(x, kernel, return_switches=True, **options)
            overlap = kind.split()[1]
            adjoint_holds(
                lambda t, w=where, s=size, o=overlap: ops.max_unpool(t, w, s, overlap=o), np.where(np.isinf(y), 0, y), rng
            )


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear", "linear corners"])
def test_resizing_is_linear_and_its_gradient_its_adjoint(mode, ndim):
    rng = np.random.default_rng(ndim)
    options = {"mode": mode.split()[0], "align_corners": mode.endswith("corners")}
    for k in range(12):
        x = rng.standard_normal((2, 1, *unequal(rng, ndim, 1, 7)))
        how = {"size": unequal(rng, ndim, 1, 12)} if k % 2 else {"scale_factor": tuple(rng.uniform(1.0, 3.7, ndim))}
        adjoint_holds(lambda t, how=how: ops.upsample(t, **how, **options), x, rng)


def test_long_axes_and_odd_factors():
    """The stretches that resizing works in, against numpy.interp."""
    x = np.random.default_rng(0).standard_normal(97)
    for outputs in (1, 2, 89, 96, 97, 98, 194, 291, 1000):
        got = ops.upsample(x[None, None], size=outputs, mode="linear")[0, 0]
        places = np.maximum((np.arange(outputs) + 0.5) * 97 / outputs - 0.5, 0)
        np.testing.assert_allclose(got, np.interp(places, np.arange(97), x), rtol=1e-12, atol=1e-13)
        near = ops.upsample(x[None, None], size=outputs)[0, 0]
        np.testing.assert_array_equal(near, x[np.arange(outputs) * 97 // outputs])


def test_what_an_addition_does_not_need_is_not_kept():
    a = pre.Tensor(np.ones((50, 50)), requires_grad=True)
    total = a + np.ones((50, 50))
    assert all(not hasattr(arg, "value") for arg in total._node.args)
    product = a * np.ones((50, 50))
    assert any(hasattr(arg, "value") for arg in product._node.args)


def test_the_public_check_agrees_with_the_table():
    rng = np.random.default_rng(0)
    image = rng.permutation(2 * 2 * 7 * 6).reshape(2, 2, 7, 6) * 0.125
    pre.check_grads(lambda x: ops.max_pool(x, 3, stride=2, padding=1), [image])
    pre.check_grads(lambda x: ops.upsample(x, scale_factor=1.5, mode="linear"), [image])
    pre.check_grads(lambda x: ops.softmax(x, 1), [rng.standard_normal((3, 4))])
    pre.check_grads(lambda x, w: ops.prelu(x, w), [rng.standard_normal((3, 4)) + 0.01, np.full(4, 0.3)])
    pre.check_grads(
        lambda x, w, b: nn.cross_entropy(ops.linear(x, w, b), np.array([1, 0])),
        [rng.standard_normal(s) for s in ((2, 3), (4, 3), (4,))],
    )


# -- nonsense ----------------------------------------------------------------------------------------------------------

VALUES = [
    None,
    True,
    0,
    1,
    -1,
    2,
    7,
    2.5,
    math.nan,
    math.inf,
    "same",
    "linear",
    "x",
    (),
    (1,),
    (2, 1),
    (0, -1),
    (1, 2, 3),
    ((0, 1), (1, 0)),
    [],
    [[1.0], [2.0, 3.0]],
    np.ones(3),
    np.ones((2, 3, 4)),
    np.ones((1, 2, 5, 4), np.float32),
    np.zeros((0, 2)),
    np.arange(6).reshape(2, 3),
    np.array([True, False]),
    np.array("a"),
    np.array(2.0),
    np.array([None]),
    slice(1, None),
    Ellipsis,
    {},
    object(),
    1j,
    np.float32(2),
    np.int64(3),
    pre.Tensor(np.ones((2, 3))),
    pre.Tensor(np.ones((2, 3, 4)), requires_grad=True),
]
OPTIONS = {
    "axis": VALUES,
    "keepdims": [True, False],
    "stride": VALUES,
    "padding": VALUES,
    "dilation": VALUES,
    "ceil_mode": [True, False],
    "size": VALUES,
    "scale_factor": VALUES,
    "mode": VALUES,
    "align_corners": [True, False],
    "output_size": VALUES,
    "approximate": VALUES,
    "layout": VALUES,
}
ARITY = {
    "rnn": 3,
    "gru": 3,
    "lstm": 3,
    "add": 2,
    "subtract": 2,
    "multiply": 2,
    "divide": 2,
    "power": 2,
    "maximum": 2,
    "minimum": 2,
    "where": 3,
    "matmul": 2,
    "linear": 3,
    "prelu": 2,
    "reshape": 2,
    "transpose": 2,
    "moveaxis": 3,
    "swapaxes": 3,
    "getitem": 2,
    "put": 3,
    "take": 3,
    "concat": 2,
    "stack": 2,
    "split": 3,
    "tile": 2,
    "repeat": 3,
    "roll": 3,
    "expand_dims": 2,
    "broadcast_to": 2,
    "sum_to": 2,
    "astype": 2,
    "max_pool": 2,
    "avg_pool": 2,
    "sum_pool": 2,
    "max_unpool": 3,
    "adaptive_avg_pool": 2,
    "adaptive_max_pool": 2,
    "pixel_shuffle": 2,
    "pixel_unshuffle": 2,
    "standardize": 2,
}
TAKES = {
    "sum": ["axis", "keepdims"],
    "mean": ["axis", "keepdims"],
    "var": ["axis"],
    "prod": ["axis"],
    "max": ["axis"],
    "min": ["axis"],
    "softmax": ["axis"],
    "log_softmax": ["axis"],
    "logsumexp": ["axis", "keepdims"],
    "flip": ["axis"],
    "squeeze": ["axis"],
    "max_pool": ["stride", "padding", "dilation", "ceil_mode", "layout"],
    "avg_pool": ["stride", "padding", "dilation", "ceil_mode"],
    "sum_pool": ["stride", "padding"],
    "gelu": ["approximate"],
    "upsample": ["size", "scale_factor", "mode", "align_corners", "layout"],
}
OURS = sorted(set(ops.__all__) - {"conv", "conv_transpose", "conv_weight_grad", "pad", "fold_margin", "unfold", "fold"})


@pytest.mark.parametrize("name", OURS)
def test_nonsense_is_refused_or_right_but_never_a_foreign_error(name):
    rng = np.random.default_rng(sum(map(ord, name)))
    op = getattr(ops, name)
    refused = 0
    for _ in range(200):
        args = [VALUES[k] for k in rng.integers(0, len(VALUES), ARITY.get(name, 1))]
        options = {}
        for key in TAKES.get(name, ()):
            if rng.random() < 0.4:
                options[key] = OPTIONS[key][rng.integers(0, len(OPTIONS[key]))]
        try:
            result = op(*args, **options)
        except pre.PreimageError:
            refused += 1
        except Exception as error:
            pytest.fail(f"{name}(*{args!r}, **{options!r}) gave {type(error).__name__}: {error}")
        else:
            assert isinstance(result, (np.ndarray, pre.Tensor, list, tuple)), (args, options)
    assert refused
