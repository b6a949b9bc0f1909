"""NumPy's functions, keywords and number protocols on Tensors: the same values as on arrays, gradients where there is an operation."""

import copy
import math
import operator
import pickle

import numpy as np
import pytest

import preimage as pre
from preimage import nn
from preimage.errors import DTypeError, GraphError, OptionError, PreimageError, ShapeError

A = np.random.default_rng(0).standard_normal((2, 3, 4))
MASK = A > 0

#: Each is called on arrays and on Tensors: equal values; those above the line give Tensors that record.
RECORDED = [
    np.sum, np.mean, np.prod, np.max, np.amax, np.min, np.amin, np.var, np.std, np.ravel, np.transpose, np.exp, np.tanh, np.abs, np.square,
    np.negative, np.positive, np.copy,
    lambda a: np.sum(a, axis=1), lambda a: np.sum(a, 1), lambda a: np.sum(a, axis=(0, 2), keepdims=True), lambda a: np.max(a, 0),
    lambda a: np.mean(a, axis=-1, keepdims=True), lambda a: np.mean(a, None, None, None, True), lambda a: np.max(a, 1, None, True),
    lambda a: np.var(a, 1, None, None, 1), lambda a: np.std(a, axis=2, ddof=1, keepdims=True), lambda a: np.sum(a, dtype=np.float32),
    lambda a: a.mean(axis=0, dtype=None, out=None), lambda a: a.sum(axis=0, keepdims=True), lambda a: a.max(axis=None, out=None),
    lambda a: a.std(axis=1, ddof=1), lambda a: a.prod(axis=0, dtype=np.float32),
    lambda a: np.reshape(a, (4, 6)), lambda a: np.reshape(a, -1), lambda a: np.moveaxis(a, 0, 2), lambda a: np.swapaxes(a, 0, 1),
    lambda a: np.transpose(a, (2, 0, 1)), lambda a: np.expand_dims(a, 1), lambda a: np.squeeze(np.expand_dims(a, 1)),
    lambda a: np.broadcast_to(a, (5, 2, 3, 4)), lambda a: np.flip(a), lambda a: np.flip(a, 1), lambda a: np.roll(a, 2), lambda a: np.roll(a, 1, 2),
    lambda a: np.repeat(a, 2), lambda a: np.repeat(a, 2, axis=1), lambda a: np.tile(a, (2, 1, 1)), lambda a: np.take(a, [5, 1]),
    lambda a: np.take(a, [1, 0], axis=2), lambda a: np.concatenate([a, A], axis=1), lambda a: np.concatenate([A, a], axis=None),
    lambda a: np.stack([a, a], axis=1), lambda a: np.vstack([a, A]), lambda a: np.hstack([A, a]), lambda a: np.vstack([a[0, 0], a[1, 1]]),
    lambda a: np.hstack([a[0, 0], a[1, 1]]), lambda a: np.where(MASK, a, 0.0), lambda a: np.clip(a, -0.5, 0.5), lambda a: np.clip(a, None, A),
    lambda a: np.dot(a, A[0].T), lambda a: np.matmul(A[:, :, :3].swapaxes(1, 2), a), lambda a: np.maximum(a, 0.25), lambda a: np.minimum(A.mean(), a),
    lambda a: np.add(A, a), lambda a: np.subtract(1, a), lambda a: np.multiply(a, [1.0, 2.0, 3.0, 4.0]), lambda a: np.divide(a, np.float64(2)),
    lambda a: np.power(np.abs(a), 1.5), lambda a: A - a, lambda a: np.float64(3) * a, lambda a: np.float32(3) / (a + 9), lambda a: A[0] @ a[0].T,
    lambda a: np.add.reduce(a), lambda a: np.maximum.reduce(a, axis=2), lambda a: np.multiply.reduce(a, axis=1, keepdims=True),
    lambda a: np.sqrt(np.log(np.expm1(np.log1p(np.abs(a))) + 2)), lambda a: np.sin(a) + np.cos(a) + np.sign(a),
    lambda a: np.arctan(np.sinh(a)) + np.tan(np.arcsin(np.tanh(a)) / 2) + np.arccos(a / 9),
    lambda a: np.arctanh(a / 9) + np.arcsinh(np.cosh(a)) + np.arccosh(a * a + 1.1),
    lambda a: np.reciprocal(a),
]  # fmt: skip
PLAIN = [
    np.argmax, np.argmin, np.isnan, np.floor, np.cbrt, np.zeros_like, np.linalg.norm, np.median, np.cumsum, np.shape, np.ndim, np.size, np.argsort,
    np.any, np.count_nonzero, np.unique,
    lambda a: np.argmax(a, axis=1), lambda a: a.argmin(axis=0), lambda a: np.argmax(a, 2, keepdims=True), lambda a: np.allclose(a, A),
    lambda a: np.array_equal(a, A), lambda a: np.percentile(a, [10, 50]), lambda a: np.einsum("ijk->ik", a), lambda a: np.greater(a, 0),
    lambda a: np.where(a), lambda a: np.add.accumulate(a), lambda a: np.multiply.outer(a[0, 0], A[0, 0]), lambda a: np.histogram(a)[0],
    lambda a: np.hypot(a, A), lambda a: np.asarray(a, np.float32), lambda a: np.float64(2) > a, lambda a: np.equal(A, a),
]  # fmt: skip


@pytest.mark.parametrize("function", RECORDED)
def test_functions_that_are_operations(function):
    t = pre.Tensor(A, requires_grad=True)
    got, want = function(t), function(A)
    assert isinstance(got, pre.Tensor)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got.data, want, rtol=1e-6 if got.dtype == np.float32 else 1e-13)
    if got.requires_grad and got is not t:
        cotangent = np.random.default_rng(1).standard_normal(want.shape).astype(want.dtype)
        gradient, direction, h = pre.grad(got, t, cotangent).data, np.random.default_rng(2).standard_normal(A.shape), 1e-5
        slope = float(np.sum((function(A + h * direction) - function(A - h * direction)) / (2 * h) * cotangent))
        if want.dtype == np.float64:
            assert float(np.sum(gradient * direction)) == pytest.approx(slope, rel=1e-6, abs=1e-6)
    with pre.no_grad():
        assert not function(t).requires_grad or function(t) is t


@pytest.mark.parametrize("function", PLAIN)
def test_other_functions_work_on_values(function):
    got, want = function(pre.Tensor(A, requires_grad=True)), function(A)
    assert not isinstance(got, pre.Tensor)
    np.testing.assert_array_equal(got, want)


def test_out():
    t, buffer = pre.Tensor(A), np.zeros(3)
    for call in (
        lambda x, o: np.mean(x, axis=(0, 2), out=o),
        lambda x, o: x.mean(axis=(0, 2), out=o),
        lambda x, o: np.add(x[0, :, 0], 1, out=o),
    ):
        assert call(t, buffer) is buffer
        np.testing.assert_allclose(buffer, call(A, np.zeros(3)), rtol=1e-14)
    with pytest.raises(GraphError, match="out= would lose the gradient"):
        np.sum(pre.Tensor(A, requires_grad=True), axis=(0, 2), out=buffer)
    with pytest.raises(ShapeError, match=r"out has shape \(3,\), the result \(\)"):
        np.sum(t, out=buffer)
    with pytest.raises(OptionError, match="out has dtype int64"):
        np.sum(t, axis=(0, 2), out=np.zeros(3, int))
    with pytest.raises(OptionError, match="out must be a NumPy array, got Tensor"):
        np.sum(t, out=pre.Tensor(np.zeros(())))
    np.testing.assert_array_equal(np.sum(t, axis=1, where=MASK, initial=2.0).data, np.sum(A, axis=1, where=MASK, initial=2.0))
    with pytest.raises(OptionError, match="no gradient goes through where"):
        np.sum(pre.Tensor(A, requires_grad=True), where=MASK)


def test_adding_to_an_array_in_place():
    t = pre.Tensor(A, requires_grad=True)
    total = kept = np.ones_like(A)
    total *= t
    total += t
    np.testing.assert_array_equal(kept, A)  # what the array alone did: 1 * A
    np.testing.assert_array_equal(total.data, 2 * A)
    total.sum().backward()
    np.testing.assert_array_equal(t.grad.data, 2 * np.ones_like(A))
    plain = array = np.zeros_like(A)
    plain += pre.Tensor(A)
    assert plain is array
    np.testing.assert_array_equal(array, A)


def test_one_number():
    t = pre.Tensor(np.array([[2.71828]]), requires_grad=True)
    assert (f"{t:.3f}", f"{t.sum():8.1e}", f"{t:+g}") == ("2.718", " 2.7e+00", "+2.71828")
    assert f"{t}" == str(t)
    assert (int(t), float(t), complex(t), round(t, 2), round(t), bool(t), bool(t * 0)) == (
        2,
        2.71828,
        2.71828 + 0j,
        2.72,
        2,
        True,
        False,
    )
    assert (math.floor(t), math.ceil(t), t.tolist(), t.numel(), t.dim()) == (2, 3, [[2.71828]], 1, 2)
    several = pre.Tensor(A)
    for use in (int, float, complex, round, bool, lambda v: f"{v:.2f}", lambda v: v.item()):
        with pytest.raises(ShapeError):
            use(several)
    with pytest.raises(DTypeError, match="is no index; int"):
        operator.index(t)
    with pytest.raises(TypeError):
        [1, 2][t]
    with pytest.raises(ValueError, match="is no integer"):
        int(t * np.inf)
    assert 2.71828 in t
    assert 3.0 not in t
    with pytest.raises(ShapeError, match="no length"):
        len(t.sum())


def test_methods_of_torch_and_numpy():
    t = pre.Tensor(A, requires_grad=True)
    np.testing.assert_array_equal(t.permute(2, 0, 1).data, A.transpose(2, 0, 1))
    np.testing.assert_array_equal(t.permute((1, 0, 2)).data, A.transpose(1, 0, 2))
    np.testing.assert_array_equal(t.view(6, -1).data, A.reshape(6, 4))
    np.testing.assert_array_equal(t.unsqueeze(1).data, A[:, None])
    np.testing.assert_array_equal(t.argmax(dim=1, keepdim=True), A.argmax(1, keepdims=True))
    np.testing.assert_allclose(t.std(dim=(0, 1)).data, A.std((0, 1)), rtol=1e-13)
    np.testing.assert_allclose(t.sum(dim=1, keepdim=True).data, A.sum(1, keepdims=True), rtol=1e-14)
    assert t.ravel().shape == (24,)
    with pytest.raises(OptionError, match="keepdims must be True or False"):
        t.mean(0, np.float64)
    flat = pre.Tensor(np.full((3, 2), 4.0), requires_grad=True)
    flat.std(axis=0).sum().backward()
    np.testing.assert_array_equal(flat.grad.data, np.zeros((3, 2)))
    assert pre.ops.argmax(np.array([1.0, np.nan, 2.0])) == 1
    with pytest.raises(ShapeError, match="no max over no elements"):
        pre.ops.argmax(np.zeros((0, 2)), 0)


def test_setting_elements_of_a_leaf():
    t = pre.Tensor(np.zeros((2, 3)), requires_grad=True)
    y = (t * t).sum()
    t[0, 1], t[1] = 5, [1.0, 2.0, 3.0]
    np.testing.assert_array_equal(t.data, [[0, 5, 0], [1, 2, 3]])
    with pytest.raises(GraphError, match="changed in place"):
        y.backward()
    for key, value, kind in (
        (5, 1.0, ShapeError),
        (0, np.ones(2), ShapeError),
        ("x", 1.0, OptionError),
        (0, 1j, DTypeError),
        (0, "a", DTypeError),
    ):
        with pytest.raises(kind):
            t[key] = value
    with pytest.raises(GraphError, match="only a leaf"):
        (t * 2)[0] = 1.0
    with pytest.raises(GraphError, match="gradient of what is assigned"):
        t[0] = (t * 2)[0]


def test_gradients_that_are_assigned():
    w = nn.Parameter(np.ones(3, np.float32))
    w.grad = np.array([1, 2, 3])
    pre.optim.SGD([w], lr=0.5).step()
    np.testing.assert_array_equal(w.data, [0.5, 0.0, -0.5])
    assert (type(w.grad), w.grad.dtype) == (pre.Tensor, np.float32)
    w.grad = [0.0, 1.0, 0.0]
    w.grad = pre.Tensor(np.ones(3))
    for value, kind in (
        (np.ones(2), ShapeError),
        (1j * np.ones(3), DTypeError),
        ("abc", DTypeError),
        (pre.Tensor(1.0), ShapeError),
    ):
        with pytest.raises(kind):
            w.grad = value
    w.grad = None


def test_copies_and_pickles():
    t = pre.Tensor(A, requires_grad=True, name="t")
    y = (t * t).sum()
    kept = pickle.loads(pickle.dumps(y))
    assert (kept.item(), kept.requires_grad, kept.is_leaf) == (y.item(), False, True)
    assert pickle.loads(pickle.dumps(t)).requires_grad
    twin = copy.deepcopy([t, y])
    twin[1].backward()
    np.testing.assert_array_equal(twin[0].grad.data, 2 * A)
    assert t.grad is None
    copy.copy(y).backward()
    np.testing.assert_array_equal(t.grad.data, 2 * A)
    again = pickle.loads(pickle.dumps(t))
    assert (again.name, again.grad.shape) == ("t", A.shape)
    assert type(pickle.loads(pickle.dumps(nn.Parameter(A)))) is nn.Parameter


def test_arrays_of_other_libraries():
    torch = pytest.importorskip("torch")
    x = torch.arange(6.0).reshape(1, 2, 3)
    assert pre.ops.relu(x).dtype == np.float32
    assert pre.Tensor(x).dtype == np.float32
    w = torch.ones(4, 2, 2)
    np.testing.assert_array_equal(pre.conv(x, w), torch.nn.functional.conv1d(x, w).numpy())
    np.testing.assert_array_equal((pre.Tensor(np.ones((2, 3), np.float32)) + x).data, x.numpy() + 1)
    for call in (
        pre.Tensor,
        pre.ops.relu,
        lambda v: pre.conv(v, w),
        lambda v: pre.conv(x, v),
        lambda v: pre.Tensor(np.ones(3)) * v,
    ):
        with pytest.raises(DTypeError, match=r"torch tensor that requires grad.*\.detach\(\)"):
            call(torch.ones(4, 2, 2, requires_grad=True))
    with pytest.raises(DTypeError, match="torch tensor that NumPy cannot hold"):
        pre.Tensor(torch.ones(3).to_sparse())
    pytest.importorskip("ml_dtypes")
    narrow = torch.tensor([1.5, -0.1, 3e38], dtype=torch.bfloat16)
    assert pre.Tensor(narrow).dtype.name == "bfloat16"
    assert pre.Tensor(narrow).data.astype(np.float64).tolist() == narrow.double().tolist()
    assert pre.ops.relu(narrow).dtype.name == "bfloat16"


def test_what_would_be_lost_is_refused():
    t = pre.Tensor(np.ones(2), requires_grad=True)
    for call in (lambda: pre.Tensor([t, t]), lambda: pre.ops.sum([t, t])):
        with pytest.raises(DTypeError, match=r"would be lost; join them with ops\.stack"):
            call()

    class Odd:
        def __array__(self, *_, **__):
            raise RuntimeError("not today")

    for call in (pre.Tensor, pre.ops.exp, lambda v: pre.conv(v, v), lambda v: t * v):
        with pytest.raises(PreimageError, match="cannot be read as an array: not today"):
            call(Odd())
    for value in (1e39, [np.float64(-1e39)] * 2):
        with pytest.raises(DTypeError, match="float32 cannot hold"):
            pre.Tensor(np.zeros(np.shape(value), np.float32)).assign(value)
