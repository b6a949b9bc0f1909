"""Linear operators: adjoint to rounding in every option, equal to their matrices, closed under the algebra."""

from __future__ import annotations

import random

import numpy as np
import pytest

import preimage as pre
from geometries import MODES
from preimage import linop
from preimage.errors import DTypeError, GeometryError, OptionError, ShapeError
from test_adjoint import draw

NUMBERS = np.random.default_rng(0)


def operator(rng, dtype=np.float64):
    geometry, mode, layout = draw(rng)
    w = NUMBERS.standard_normal(geometry.weight_shape).astype(dtype)
    return linop.Conv(
        w, input_size=geometry.input_size, batch=geometry.batch, stride=geometry.stride, padding=geometry.padding,
        dilation=geometry.dilation, groups=geometry.groups, padding_mode=mode, layout=layout,
    )  # fmt: skip


def test_adjoint_in_every_option():
    rng = random.Random(0)
    for k in range(300):
        A = operator(rng, np.float32 if k % 4 == 0 else np.float64)
        pre.check_adjoint(A, trials=1, seed=k)
        pre.check_adjoint(A.T, trials=1, seed=k)
        assert A.T.T is A
        assert A.T.shape == A.shape[::-1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_the_matrix(mode, layout):
    w = NUMBERS.standard_normal((4, 1, 3, 2))
    A = linop.Conv(
        w, input_size=(5, 4), batch=2, stride=(2, 1), padding=((1, 2), (0, 3)), groups=2, padding_mode=mode, layout=layout
    )
    M = A.to_matrix()
    assert M.shape == A.shape
    x, y = NUMBERS.standard_normal(A.input_shape), NUMBERS.standard_normal(A.output_shape)
    assert np.allclose((A @ x).reshape(-1), M @ x.reshape(-1), rtol=1e-12)
    assert np.allclose((A.T @ y).reshape(-1), M.T @ y.reshape(-1), rtol=1e-12)
    assert np.allclose(A.T.to_matrix(), M.T, rtol=1e-12)
    assert np.isclose(A.norm(), np.linalg.norm(M, 2), rtol=1e-4)
    assert A.norm() <= np.linalg.norm(M, 2) * (1 + 1e-12)


def test_algebra():
    rng = np.random.default_rng(1)
    A = linop.Conv(rng.standard_normal((4, 3, 3)), input_size=9, padding=1)
    B = linop.Conv(rng.standard_normal((4, 3, 5)), input_size=9, padding=2)
    C = linop.Conv(rng.standard_normal((2, 4, 2)), input_size=9, stride=2)
    D = linop.Diagonal(rng.standard_normal(A.output_shape))
    expected = {
        "sum": (A + B, A.to_matrix() + B.to_matrix()),
        "difference": (A - B, A.to_matrix() - B.to_matrix()),
        "scaled": (2.5 * A, 2.5 * A.to_matrix()),
        "times": (A * 3, 3 * A.to_matrix()),
        "divided": (A / 4, A.to_matrix() / 4),
        "negative": (-A, -A.to_matrix()),
        "composed": (C @ A, C.to_matrix() @ A.to_matrix()),
        "normal": (A.T @ A + 0.1 * linop.Identity(A.input_shape), A.to_matrix().T @ A.to_matrix() + 0.1 * np.eye(27)),
        "weighted": (A.T @ D @ B, A.to_matrix().T @ D.to_matrix() @ B.to_matrix()),
        "padded": (
            linop.Conv(rng.standard_normal((1, 3, 2)), input_size=12) @ linop.Pad((1, 3, 9), ((1, 2),), mode="circular"), None
        ),
    }  # fmt: skip
    for name, (op, matrix) in expected.items():
        pre.check_adjoint(op)
        if matrix is not None:
            assert np.allclose(op.to_matrix(), matrix, rtol=1e-12, atol=1e-12), name
            assert np.allclose(op.T.to_matrix(), matrix.T, rtol=1e-12, atol=1e-12), name
        assert type(op).__name__ in repr(op)


def test_flat_vectors_and_tensors():
    A = linop.Conv(NUMBERS.standard_normal((2, 3, 3)), input_size=(8,), stride=2)
    x = NUMBERS.standard_normal((1, 3, 8))
    assert np.array_equal(A @ x.reshape(-1), (A @ x).reshape(-1))
    assert np.array_equal(A(x), A @ x)
    assert np.allclose(A @ x.tolist(), A @ x)
    t = pre.Tensor(x, requires_grad=True)
    loss = ((A @ t) * (A @ t)).sum()
    loss.backward()
    assert np.allclose(t.grad.data, 2 * (A.T @ (A @ x)))
    w = pre.Tensor(NUMBERS.standard_normal((2, 3, 3)), requires_grad=True)
    (linop.Conv(w, input_size=(8,)) @ x).sum().backward()
    assert w.grad.shape == w.shape


def test_scipy_solves_with_it():
    from scipy.sparse.linalg import lsqr

    A = linop.Conv(NUMBERS.standard_normal((4, 2, 3)), input_size=(11,), padding=2)
    S = A.to_scipy()
    pre.check_adjoint(S)
    assert S.shape == A.shape
    x = NUMBERS.standard_normal(22)
    assert np.allclose(S.matvec(x), A @ x)
    assert np.allclose(lsqr(S, A @ x, atol=1e-13, btol=1e-13)[0], x, atol=1e-8)
    narrow = linop.Conv(NUMBERS.standard_normal((4, 2, 3)).astype(np.float32), input_size=(11,)).to_scipy()
    assert narrow.matvec(x).dtype == np.float32


def test_norm_of_nothing():
    assert linop.Conv(np.zeros((2, 3, 3)), input_size=5).norm() == 0
    assert linop.Conv(np.ones((2, 3, 3)), input_size=5, batch=0).norm() == 0
    assert np.isclose(linop.Conv(np.ones((1, 1, 1), np.float16), input_size=5).norm(), 1, rtol=1e-3)


def test_errors():
    w = NUMBERS.standard_normal((4, 3, 3))
    A = linop.Conv(w, input_size=9)
    with pytest.raises(
        ShapeError, match=r"Conv\(\(1, 4, 7\) <- \(1, 3, 9\), float64\) takes shape \(1, 3, 9\) .*, got \(1, 3, 8\)"
    ):
        A @ np.ones((1, 3, 8))
    with pytest.raises(DTypeError, match="works in float64, got float32"):
        A @ np.ones((1, 3, 9), np.float32)
    with pytest.raises(ShapeError, match="input of the left and output of the right one"):
        A @ A
    with pytest.raises(ShapeError, match="outputs are"):
        A + linop.Conv(w, input_size=9, padding=1)
    with pytest.raises(ShapeError, match="inputs are"):
        A + linop.Conv(w, input_size=8)
    with pytest.raises(DTypeError, match="different dtypes"):
        A + linop.Conv(w.astype(np.float32), input_size=9)
    with pytest.raises(OptionError, match="to_matrix allows"):
        A.to_matrix(most=10)
    with pytest.raises(ShapeError, match="one size per spatial axis"):
        linop.Conv(w, input_size=(9, 9))
    with pytest.raises(GeometryError, match="the kernel covers 3"):
        linop.Conv(w, input_size=2)
    with pytest.raises(OptionError, match="padding mode must be one of"):
        linop.Conv(w, input_size=9, padding=1, padding_mode="wrap")
    with pytest.raises(DTypeError, match="w has dtype int64"):
        linop.Conv(np.ones((4, 3, 3), np.int64), input_size=9)
    with pytest.raises(GeometryError, match="groups must be an integer"):
        linop.Conv(w, input_size=9, groups="1")
    for wrong in (lambda: A + 1, lambda: A - 1, lambda: A * "2", lambda: A / "2"):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(NotImplementedError):
        linop.Operator()._forward(np.ones(1))
    with pytest.raises(NotImplementedError):
        linop.Operator()._adjoint(np.ones(1))


def scipy_solvers(dtype):
    """A square, well-conditioned operator made of open dtypes, its dense matrix, and a right-hand side."""
    w = NUMBERS.standard_normal((3, 2, 3)).astype(dtype)
    A = linop.Conv(w, input_size=(7,), padding=1)
    return A.T @ A + 0.5 * linop.Identity(A.input_shape), NUMBERS.standard_normal(14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_open_dtypes_follow_the_others(dtype):
    B, _ = scipy_solvers(dtype)
    assert B.dtype == dtype
    pre.check_adjoint(B)
    A = linop.Conv(np.ones((1, 2, 2), dtype), input_size=(6,))
    eye, pad = linop.Identity((1, 2, 6)), linop.Pad((1, 2, 4), 1)
    for op in (A @ pad, A @ eye, (A @ (2 * eye - eye.T)), eye + A.T @ A, A @ (eye @ pad), (pad.T @ A.T), -(eye / 2) + A.T @ A):
        assert op.dtype == dtype
        pre.check_adjoint(op)
    assert (eye + eye).dtype == np.float64
    assert (eye @ pad).dtype == np.float64
    if dtype == np.float32:
        for fixed in (linop.Identity((1, 2, 6), np.float64), linop.Pad((1, 2, 4), 1, dtype=np.float64)):
            with pytest.raises(DTypeError, match="different dtypes"):
                A @ fixed


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scipy_takes_it_as_it_is(dtype):
    from scipy.sparse import linalg

    B, b = scipy_solvers(dtype)
    M = B.to_matrix()
    S = linalg.aslinearoperator(B)
    assert (S.shape, S.dtype) == (M.shape, dtype)
    X = NUMBERS.standard_normal((14, 3))
    for got, want in (
        (S @ b, M @ b), (S.H @ b, M.T @ b), (S.matmat(X), M @ X), (S.rmatmat(X), M.T @ X), (B.matvec(b), M @ b), (B.rmatvec(b), M.T @ b),
        (B.matmat(X), M @ X), (B.matvec(b[:, None]), M @ b[:, None]), (B.dot(b.astype(dtype)), M @ b), (B.H.matvec(b), M.T @ b),
        (b.astype(dtype) @ B, b @ M), (X.T.astype(dtype) @ B, X.T @ M), (B @ X.astype(dtype), M @ X), (B * b.astype(dtype), M @ b),
        ((B.dot(B)).matvec(b), M @ M @ b), ((B * 2).matvec(b), 2 * M @ b), (B.adjoint().matvec(b), M.T @ b),
    ):  # fmt: skip
        np.testing.assert_allclose(
            got, want, rtol=1e-4 if dtype == np.float32 else 1e-11, atol=1e-3 if dtype == np.float32 else 1e-11
        )
    for solve in (linalg.cg, linalg.gmres, linalg.minres):
        x, info = solve(B, b)
        assert info == 0
        np.testing.assert_allclose(M @ x, b, atol=1e-3)
    np.testing.assert_allclose(linalg.svds(B, k=2, return_singular_vectors=False).max(), np.linalg.norm(M, 2), rtol=1e-3)
    assert (B.dims, B.dimsd) == (B.input_shape, B.output_shape)


def test_numpy_numbers_are_numbers():
    w = NUMBERS.standard_normal((4, 1, 3))
    same = linop.Conv(w, input_size=9, groups=2, batch=2, stride=2)
    for one in (np.int64, np.uint8, np.array):
        A = linop.Conv(w, input_size=one(9), groups=one(2), batch=one(2), stride=one(2))
        assert (A.input_shape, A.output_shape, A.geometry) == (same.input_shape, same.output_shape, same.geometry)
        assert all(type(n) is int for n in A.input_shape)
    assert linop.Conv(w, input_size=np.array([9]), groups=2).input_shape == (1, 2, 9)
    assert linop.Identity(np.array([2, 3])).input_shape == linop.Pad(np.array([2, 3]), 0, axes=(1,)).input_shape == (2, 3)
    x = NUMBERS.standard_normal(same.input_shape)
    for half in (0.5, np.float32(0.5), np.array(0.5), np.float64(0.5)):
        for scaled in (half * same, same * half, same / (1 / half)):
            np.testing.assert_array_equal(scaled @ x, 0.5 * (same @ x))


def test_to_scipy_without_scipy(monkeypatch):
    import sys

    for name in [n for n in sys.modules if n.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(pre.errors.MissingPackageError, match=r"pip install 'preimage\[scipy\]'"):
        linop.Identity((3,)).to_scipy()


def test_what_is_no_vector_or_number():
    A = linop.Conv(NUMBERS.standard_normal((4, 3, 3)), input_size=9)
    for call, kind in (
        (lambda: A.matvec(np.ones(26)), ShapeError), (lambda: A.matvec(["a"] * 27), DTypeError), (lambda: A.matmat(np.ones(27)), ShapeError),
        (lambda: A @ "x", DTypeError), (lambda: A / 0, OptionError), (lambda: A / "2", DTypeError), (lambda: linop.Sum(A, 2), DTypeError),
        (lambda: linop.Identity((2, -1)), ShapeError), (lambda: linop.Identity((2,), int), DTypeError), (lambda: linop.Identity("ab"), OptionError),
        (lambda: A.norm(iterations=0), OptionError), (lambda: A.to_matrix(most="x"), OptionError), (lambda: linop.Diagonal([1j]), DTypeError),
    ):  # fmt: skip
        with pytest.raises(kind):
            call()
