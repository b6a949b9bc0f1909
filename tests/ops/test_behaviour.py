"""What the table does not say: operators, dtypes that meet, extremes, ties, views, methods."""

import math

import numpy as np
import pytest

import preimage as pre
from preimage import ops


def leaf(values, dtype=np.float64):
    return pre.Tensor(np.asarray(values, dtype), requires_grad=True)


# -- operators and dtypes ----------------------------------------------------------------------------------------------


def test_operators():
    t, a = leaf([1.0, 2.0, 4.0]), np.array([3.0, 5.0, 7.0])
    for got, want in [
        (t + 1, t.data + 1), (1 + t, t.data + 1), (t - a, t.data - a), (a - t, a - t.data), (t * a, t.data * a),
        (2 * t, 2 * t.data), (t / 2, t.data / 2), (a / t, a / t.data), (-t, -t.data), (t**2, t.data**2), (2**t, 2**t.data),
        (abs(-t), t.data), (t @ a, t.data @ a), (a @ t, a @ t.data), (t[1:], t.data[1:]), (t**t, t.data**t.data),
    ]:  # fmt: skip
        assert isinstance(got, pre.Tensor)
        np.testing.assert_allclose(got.data, want)
    assert (t > 1.5).tolist() == [False, True, True]
    assert (t <= leaf([1, 1, 9])).tolist() == [True, False, True]
    assert (t < 2).tolist() == [True, False, False]
    assert (t >= 2).tolist() == [False, True, True]
    assert [u.item() for u in t] == [1.0, 2.0, 4.0]
    with pytest.raises(pre.ShapeError, match="cannot be iterated"):
        iter(leaf(1.0))


@pytest.mark.parametrize("other", [2, 2.0, True, np.float64(2), np.int64(2), [2.0, 3.0], (2, 3), np.array([True, False])])
def test_numbers_lists_and_masks_take_the_tensor_s_dtype(other):
    t = leaf([1.0, 2.0], np.float32)
    result = ops.multiply(t, other)
    assert result.dtype == np.float32
    assert (other * t if not isinstance(other, (list, tuple)) else result).dtype == np.float32
    np.testing.assert_array_equal(result.data, np.float32([1, 2]) * np.asarray(other, np.float32))


def test_float_arrays_promote_and_gradients_come_back_in_their_own_dtype():
    a, b = leaf([1.0, 2.0], np.float32), leaf([3.0, 4.0], np.float64)
    product = a * b
    assert product.dtype == np.float64
    ga, gb = pre.grad(product.sum(), [a, b])
    assert (ga.dtype, gb.dtype) == (np.float32, np.float64)
    assert ops.add(1, 2).dtype == np.float64
    assert ops.add(np.float32(1), 2).dtype == np.float32


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.add(np.arange(3), leaf([1, 2, 3])),
        lambda: ops.relu(np.arange(3)),
        lambda: ops.exp(np.array([1j])),
        lambda: ops.exp("text"),
        lambda: ops.add(leaf([1.0]), "text"),
        lambda: ops.add(leaf([1.0]), np.array([None])),
        lambda: ops.astype(leaf([1.0]), np.int32),
        lambda: ops.astype(leaf([1.0]), "no dtype"),
        lambda: ops.where(np.array([1, 0]), 1.0, leaf([1, 2])),
        lambda: ops.power(leaf([1.0]), "text"),
        lambda: ops.power(leaf([1.0]), None),
    ],
)
def test_what_is_no_float_is_refused(call):
    with pytest.raises(pre.DTypeError):
        call()


def test_float_types_that_do_not_mix_say_so():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    half, brain = np.ones(2, np.float16), np.ones(2, bfloat16)
    with pytest.raises(pre.DTypeError, match="cannot mix float16 and bfloat16"):
        ops.add(half, brain)
    assert ops.add(brain, np.ones(2, np.float32)).dtype == np.float32
    assert ops.multiply(leaf(brain, bfloat16), 3.0).dtype == bfloat16


def test_byte_order_is_made_native():
    foreign = np.arange(3.0).astype(">f8")
    assert ops.multiply(foreign, 2.0).tolist() == [0, 2, 4]
    assert ops.exp(foreign).dtype.isnative


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: ops.add(x, np.ones(5)), "do not broadcast"),
        (lambda x: ops.where(np.ones(5, bool), x, x), "do not broadcast"),
        (lambda x: ops.sum(x, 3), "axis 3 does not exist in 3 dimensions"),
        (lambda x: ops.sum(x, (0, -3)), "axis given twice"),
        (lambda x: ops.sum(x, "a"), "an axis is an integer"),
        (lambda x: ops.max(x[:0]), "no max over no elements"),
        (lambda x: ops.min(x[:0], 0), "no min over no elements"),
        (lambda x: ops.reshape(x, 5), "24 elements of shape"),
        (lambda x: ops.reshape(x, -1, -1), "do not fit"),
        (lambda x: ops.reshape(x, "ab"), "sizes are integers"),
        (lambda x: ops.squeeze(x, 1), "has size 3, not 1"),
        (lambda x: ops.transpose(x, (0, 1)), "no order of the 3 axes"),
        (lambda x: ops.moveaxis(x, (0, 1), (2,)), "does not pair distinct axes"),
        (lambda x: ops.flatten(x, 2, 1), "comes after end_axis"),
        (lambda x: ops.broadcast_to(x, (3, 4)), "cannot be repeated"),
        (lambda x: ops.sum_to(x, (5, 4)), "does not broadcast to"),
        (lambda x: ops.concat([x, x[:, :1]], 0), "differ elsewhere"),
        (lambda x: ops.concat([x, x[0]], 0), "differ elsewhere"),
        (lambda x: ops.concat([]), "at least one array"),
        (lambda x: ops.concat(x), "at least one array"),
        (lambda x: ops.concat([x, x.astype(np.float32)]), "one dtype"),
        (lambda x: ops.stack([]), "at least one array"),
        (lambda x: ops.stack([x, x[:1]]), "differ"),
        (lambda x: ops.split(x, (1, 5), 2), "do not add up to 4"),
        (lambda x: ops.split(x, 0, 2), "at least 1"),
        (lambda x: ops.tile(x, -1), "must not be negative"),
        (lambda x: ops.repeat(x, -1, 0), "must not be negative"),
        (lambda x: ops.matmul(x, x), "inner sizes differ"),
        (lambda x: ops.matmul(x, 2.0), "at least one axis"),
        (lambda x: ops.matmul(x, np.ones((5, 4, 2))), "do not broadcast"),
        (lambda x: ops.linear(x, np.ones((5, 3))), "do not fit"),
        (lambda x: ops.linear(x, np.ones((5, 4)), np.ones(4)), "bias has shape"),
        (lambda x: ops.getitem(x, 7), "out of bounds"),
        (lambda x: ops.getitem(x, [9]), "out of bounds"),
        (lambda x: ops.getitem(x, np.ones(3)), "getitem"),
        (lambda x: ops.getitem(x, "a"), "getitem"),
        (lambda x: ops.getitem(x, slice("a", None)), "getitem"),
        (lambda x: ops.put(x, (5, 5), 0), "takes"),
        (lambda x: ops.clip(x, 2, 1), "lo 2 is above hi 1"),
        (lambda x: ops.hardtanh(x, 2, 1), "is above hi"),
        (lambda x: ops.softplus(x, 0), "beta must not be 0"),
        (lambda x: ops.celu(x, 0), "alpha must not be 0"),
        (lambda x: ops.gelu(x, "cubic"), "approximate must be"),
        (lambda x: ops.prelu(x, np.ones(2)), "one per channel"),
        (lambda x: ops.standardize(x, 0, -1), "eps must not be negative"),
        (lambda x: ops.add([[1.0], [1.0, 2.0]], x), "regular"),
    ],
)
def test_wrong_calls_name_what_is_wrong(call, text):
    x = np.arange(24.0).reshape(2, 3, 4)
    for argument in (x, pre.Tensor(x)):
        with pytest.raises(pre.PreimageError, match=text):
            call(argument)


# -- extremes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_no_overflow_and_nan_stays(dtype):
    big = np.array([-np.inf, -1e4, -50.0, 50.0, 1e4, np.inf, np.nan], dtype)
    for op, low, high in [
        (ops.sigmoid, 0.0, 1.0), (ops.tanh, -1.0, 1.0), (ops.relu, 0.0, np.inf), (ops.softplus, 0.0, np.inf),
        (ops.erf, -1.0, 1.0), (ops.normal_cdf, 0.0, 1.0), (ops.elu, -1.0, np.inf), (ops.hardsigmoid, 0.0, 1.0),
    ]:  # fmt: skip
        got = op(big)
        assert got.dtype == dtype
        assert got[0] == low, op
        assert got[5] == high, op
        assert np.isnan(got[6]), op
        assert not np.isnan(got[1:5]).any(), op
    for op in (ops.gelu, ops.silu, ops.mish, lambda x: ops.gelu(x, "tanh")):
        got = op(big[1:5])
        np.testing.assert_allclose(got.astype(np.float64), [0, 0, 50, 1e4], atol=1e-3)
        t = pre.Tensor(big[1:5], requires_grad=True)
        np.testing.assert_allclose(pre.grad(op(t).sum(), t).data.astype(np.float64), [0, 0, 1, 1], atol=2e-3)


def test_softmax_family_at_the_edges():
    x = np.array([[1e4, 1e4 - 1, -np.inf], [-1e4, -1e4, -1e4]])
    np.testing.assert_allclose(ops.softmax(x), [[1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0], [1 / 3] * 3])
    assert ops.log_softmax(x)[0, 2] == -np.inf
    np.testing.assert_allclose(ops.logsumexp(x, 1), [1e4 + math.log1p(math.exp(-1)), -1e4 + math.log(3)])
    assert ops.logsumexp(np.full(3, -np.inf)) == -np.inf
    assert ops.logsumexp(np.array([np.inf, 1.0])) == np.inf
    assert np.isnan(ops.logsumexp(np.array([np.nan, 1.0])))


def test_error_function_to_the_last_bits():
    x = np.concatenate([np.linspace(-6.5, 6.5, 4001), np.logspace(-320, 0, 300)])
    want = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(ops.erf(x), want, rtol=6e-16, atol=0)
    single = x.astype(np.float32)
    want = np.array([math.erf(float(v)) for v in single])
    with pre.config(engine="gemm"):
        np.testing.assert_allclose(ops.erf(single), want, rtol=6.1e-8, atol=2e-45)
    np.testing.assert_allclose(ops.erf(single), want, rtol=1.1e-7, atol=2e-45)  # generated: nine tenths of the last place
    tail = np.linspace(-26, -1, 500)
    np.testing.assert_allclose(
        ops.normal_cdf(tail), [0.5 * math.erfc(-v / math.sqrt(2)) for v in tail], rtol=3e-13
    )  # both round x / sqrt(2)


def test_narrow_sums_are_kept_in_float32():
    ones = np.ones(70_000, np.float16) * np.float16(0.5)
    assert ops.sum(ones[:60_000]) == 30_000
    assert ops.mean(ones) == 0.5
    assert ops.matmul(ones[None], ones[:, None]).dtype == np.float16
    assert ops.matmul(ones[None, :4096], ones[:4096, None])[0, 0] == 1024
    bias = leaf(0.0, np.float16)
    assert pre.grad((bias + ones[:60_000] * 0).sum(), bias).item() == 60_000


def test_empty_reductions():
    empty = np.zeros((0, 3))
    assert ops.sum(empty) == 0
    assert ops.prod(empty) == 1
    assert np.isnan(ops.mean(empty))
    assert ops.logsumexp(empty) == -np.inf
    assert ops.prod(empty, 1).shape == (0,)


def test_var_of_values_with_a_large_mean():
    x = np.float32(1e4) + np.arange(8, dtype=np.float32) / 8
    assert ops.var(x) == pytest.approx(np.var(x.astype(np.float64)), rel=1e-5)
    assert ops.var(x, correction=1) == pytest.approx(np.var(x.astype(np.float64), ddof=1), rel=1e-5)


# -- gradients in corners ----------------------------------------------------------------------------------------------


def test_ties_share_and_nan_takes_the_gradient():
    t = leaf([1.0, 3.0, 3.0])
    np.testing.assert_array_equal(pre.grad(t.max(), t).data, [0, 0.5, 0.5])
    a, b = leaf([1.0, 2.0, np.nan, np.nan]), leaf([1.0, 1.0, 0.0, np.nan])
    ga, gb = pre.grad(ops.maximum(a, b).sum(), [a, b])
    np.testing.assert_array_equal(ga.data, [0.5, 1, 1, 1])
    np.testing.assert_array_equal(gb.data, [0.5, 0, 0, 1])
    t = leaf([np.nan, 1.0])
    np.testing.assert_array_equal(pre.grad(t.max(), t).data, [1, 0])


def test_power_where_it_is_constant():
    x = leaf([0.0, 0.0, 2.0])
    np.testing.assert_array_equal(pre.grad((x**0).sum(), x).data, [0, 0, 0])
    np.testing.assert_array_equal((x**1).data, x.data)
    base, exponent = leaf([0.0, 0.0, 2.0]), leaf([0.0, 2.0, 0.0])
    gb, ge = pre.grad((base**exponent).sum(), [base, exponent])
    np.testing.assert_array_equal(gb.data, [0, 0, 0])
    np.testing.assert_allclose(ge.data, [0, 0, math.log(2)])


def test_product_with_zeros():
    x = leaf([2.0, 0.0, 5.0, 1.0])
    np.testing.assert_array_equal(pre.grad(x.prod(), x).data, [0, 10, 0, 0])
    x = leaf([2.0, 0.0, 0.0])
    np.testing.assert_array_equal(pre.grad(x.prod(), x).data, [0, 0, 0])


def test_an_index_taken_twice_counts_twice():
    x = leaf([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(pre.grad(x[[0, 0, 2]].sum(), x).data, [2, 0, 1])
    assert x[np.int64(1)].item() == 2
    assert x[True].shape == (1, 3)
    assert x[[]].shape == (0,)


def test_a_mask_may_change_after_the_call():
    x, mask = leaf([1.0, 2.0]), np.array([True, False])
    chosen = ops.where(mask, x, 0.0)
    mask[:] = False
    np.testing.assert_array_equal(pre.grad(chosen.sum(), x).data, [1, 0])
    index = np.array([1])
    taken = x[index]
    index[0] = 0
    np.testing.assert_array_equal(pre.grad(taken.sum(), x).data, [0, 1])


def test_methods():
    t = leaf(np.arange(6.0).reshape(2, 3) + 1)
    assert t.sum().item() == 21
    np.testing.assert_array_equal(t.T.data, t.data.T)
    assert t.mean(0).shape == (3,)
    assert t.reshape(3, 2).transpose().flatten().shape == (6,)
    assert t.astype(np.float32).dtype == np.float32
    assert t.moveaxis(0, 1).swapaxes(0, 1).expand_dims(0).squeeze(0).shape == (2, 3)
    assert t.broadcast_to((4, 2, 3)).shape == (4, 2, 3)
    for name in ("exp", "log", "log1p", "sqrt", "square", "abs", "relu", "sigmoid", "tanh", "softmax", "log_softmax"):
        np.testing.assert_array_equal(getattr(t, name)().data, getattr(ops, name)(t.data))
    for name in ("max", "min", "prod", "var", "logsumexp"):
        np.testing.assert_array_equal(getattr(t, name)(0).data, getattr(ops, name)(t.data, 0))
    np.testing.assert_array_equal(t.clip(2, 5).data, t.data.clip(2, 5))
    np.testing.assert_array_equal(t.matmul(t.transpose()).data, t.data @ t.data.T)


def test_nothing_to_do_gives_the_same_tensor_back():
    t = leaf(np.ones((2, 3)))
    for op in (lambda x: x.reshape(2, 3), lambda x: x.transpose(0, 1), lambda x: x.astype(np.float64)):
        assert op(t) is t
    assert ops.roll(t, 3, 1) is t
    assert [p.shape for p in ops.split(t, (0, 3, 0), 1)] == [(2, 0), (2, 3), (2, 0)]
    assert ops.flatten(leaf(2.0)).shape == (1,)


@pytest.mark.parametrize(
    ("op", "at", "slope"),
    [
        (ops.relu, 0.0, 0.0),
        (lambda x: ops.leaky_relu(x, 0.2), 0.0, 0.2),
        (lambda x: ops.prelu(x, [0.3]), 0.0, 0.3),
        (ops.abs, 0.0, 0.0),
        (lambda x: ops.elu(x, 0.7), 0.0, 0.7),
        (ops.hardtanh, 1.0, 0.0),
        (ops.hardtanh, -1.0, 0.0),
        (ops.relu6, 6.0, 0.0),
        (ops.relu6, 0.0, 0.0),
        (ops.hardsigmoid, 3.0, 0.0),
        (ops.hardsigmoid, -3.0, 0.0),
        (lambda x: ops.clip(x, -1, 1), 1.0, 1.0),
        (lambda x: ops.clip(x, -1, 1), -1.0, 1.0),
        (lambda x: ops.clip(x, -1, 1), 1.5, 0.0),
        (lambda x: ops.clip(x, -1, 1), -1.5, 0.0),
        (ops.sign, 2.0, 0.0),
    ],
)
def test_slopes_at_kinks(op, at, slope):
    x = leaf([at])
    assert pre.grad(op(x).sum(), x).item() == slope


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_without_axes(dtype):
    """NumPy makes numbers of them on the way, whose memory is no array's: gelu's kernel once read through a wild pointer."""
    for op in (
        lambda v: ops.gelu(v, approximate="tanh"),
        ops.gelu,
        ops.sigmoid,
        ops.tanh,
        ops.exp,
        ops.silu,
        ops.mish,
        ops.hardswish,
        ops.softplus,
    ):
        np.testing.assert_array_equal(op(np.array(0.5, dtype)), op(np.array([0.5], dtype))[0])
