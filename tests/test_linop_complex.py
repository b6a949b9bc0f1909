"""Real operators on complex arrays: both parts, in one array."""

import numpy as np
import pytest

from preimage import linop
from preimage.errors import DTypeError

RNG = np.random.default_rng(0)


def operators(dtype):
    w = RNG.standard_normal((3, 2, 3, 2)).astype(dtype)
    A = linop.Conv(w, input_size=(7, 6), stride=2, padding=1)
    return {
        "Conv": A,
        "normal equations": A.T @ A + 0.3 * linop.Identity(A.input_shape, dtype=dtype),
        "reflecting Conv": linop.Conv(w[:, :, :, :1], input_size=(7, 6), padding=(1, 0), padding_mode="reflect"),
        "Gradient": linop.Gradient((5, 4), dtype=dtype),
        "Diagonal": linop.Diagonal(RNG.standard_normal((4, 3)).astype(dtype)),
        "stack": linop.VStack([A, 2 * A]),
    }


def random(shape, dtype):
    return (RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize(("dtype", "complex_dtype"), [(np.float64, np.complex128), (np.float32, np.complex64)])
@pytest.mark.parametrize("name", operators(np.float64))
def test_as_the_matrix(name, dtype, complex_dtype):
    A = operators(dtype)[name]
    M, tolerance = A.to_matrix(), 1e-12 if dtype == np.float64 else 1e-4
    x, y = random(A.input_shape, complex_dtype), random(A.output_shape, complex_dtype)
    made = A @ x
    assert made.dtype == complex_dtype
    assert made.shape == A.output_shape
    np.testing.assert_allclose(made.ravel(), M @ x.ravel(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(A @ x.ravel(), M @ x.ravel(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(y @ A, (A.T @ y))
    np.testing.assert_allclose(A.matvec(x.reshape(-1, 1)), M @ x.reshape(-1, 1), rtol=tolerance, atol=tolerance)
    assert np.array_equal(A.matvec(x.ravel()), (A @ x).ravel())
    X = random((A.shape[1], 3), complex_dtype)
    np.testing.assert_allclose(A @ X, M @ X, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(A.matmat(X), M @ X, rtol=tolerance, atol=tolerance)
    # the adjoint, of the complex product
    assert abs(np.vdot(made, y) - np.vdot(x, A.H @ y)) <= tolerance * np.linalg.norm(x) * np.linalg.norm(y)


def test_scipys_solvers_take_complex_data():
    solvers = pytest.importorskip("scipy.sparse.linalg")
    A = linop.Conv(RNG.standard_normal((1, 1, 3, 3)), input_size=(8, 8), padding=1)
    x = random(A.input_shape, np.complex128)
    found = solvers.lsmr(A.to_scipy(), (A @ x).ravel(), atol=1e-13, btol=1e-13, maxiter=2000)[0]
    np.testing.assert_allclose(A @ found, (A @ x).ravel(), atol=1e-8)


def test_what_does_not_fit():
    A = linop.Identity((3,))
    with pytest.raises(DTypeError, match=r"works in float64, got float32"):
        A @ np.ones(3, np.complex64)
    with pytest.raises(DTypeError):
        A.matvec(np.array(["a", "b", "c"]))
    with pytest.raises(DTypeError):
        linop.Conv(np.ones((1, 1, 3)) * 1j, input_size=(8,))
