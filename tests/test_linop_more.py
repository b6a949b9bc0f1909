"""Stacks, differences, foreign operators and norms: against matrices, by dot tests, and beside SciPy and PyLops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage import linop
from preimage.errors import DTypeError, OptionError, PreimageError, ShapeError
from preimage.linop import BlockDiag, Gradient, HStack, Laplacian, VStack, aslinearoperator

RNG = np.random.default_rng(5)
KERNEL = RNG.standard_normal((3, 2, 3, 2))


def conv(**options: Any) -> linop.Conv:
    return linop.Conv(KERNEL, input_size=(5, 4), **options)


def matrix(rows: int, columns: int) -> np.ndarray:
    return RNG.standard_normal((rows, columns))


M, N, K = matrix(4, 6), matrix(5, 6), matrix(4, 3)
#: Operators, and the matrices that they are, made without them.
CASES: dict[str, tuple[linop.Operator, np.ndarray]] = {
    "vertical": (VStack([aslinearoperator(M), aslinearoperator(N)]), np.vstack([M, N])),
    "horizontal": (HStack([aslinearoperator(M), aslinearoperator(K)]), np.hstack([M, K])),
    "blocks": (BlockDiag([aslinearoperator(M), aslinearoperator(K)]), np.block([[M, np.zeros((4, 3))], [np.zeros((4, 6)), K]])),
    "of convolutions": (VStack([conv(), 2 * conv(padding=1), linop.Identity((1, 2, 5, 4))]),
                        np.vstack([conv().to_matrix(), 2 * conv(padding=1).to_matrix(), np.eye(40)])),
    "nested": (HStack([VStack([aslinearoperator(M), aslinearoperator(N)]), aslinearoperator(matrix(9, 2) * 0 + 1)]),
               np.hstack([np.vstack([M, N]), np.ones((9, 2))])),
    "normal": (aslinearoperator(M).T @ aslinearoperator(M) + 0.1 * linop.Identity((6,)), M.T @ M + 0.1 * np.eye(6)),
}  # fmt: skip


def difference(n: int, *, circular: bool, spacing: float) -> np.ndarray:
    d = np.eye(n, k=1) - np.eye(n)
    d[-1] = 0
    if circular:
        d[-1, 0] += 1
        d[-1, -1] -= 1
    return d / spacing


def gradient_matrix(shape: tuple[int, ...], axes: tuple[int, ...], spacing: tuple[float, ...], mode: str) -> np.ndarray:
    rows = []
    for axis, h in zip(axes, spacing, strict=True):
        made = np.eye(1)
        for k, n in enumerate(shape):
            made = np.kron(made, difference(n, circular=mode == "circular", spacing=h) if k == axis else np.eye(n))
        rows.append(made)
    return np.vstack(rows)


GRADIENTS = [
    ((7,), (0,), (1.0,), "replicate"), ((7,), (0,), (0.5,), "circular"), ((4, 5), (0, 1), (1.0, 1.0), "replicate"),
    ((4, 5), (0, 1), (1.0, 2.0), "circular"),
    ((3, 4, 2), (0, 2), (0.3, 1.5), "replicate"), ((3, 1, 5), (0, 1, 2), (1.0, 1.0, 1.0), "replicate"), ((3, 1, 5), (1,), (1.0,), "circular"),
]  # fmt: skip
for shape, axes, spacing, mode in GRADIENTS:
    D = gradient_matrix(shape, axes, spacing, mode)
    options: Any = {"axes": axes, "spacing": spacing, "mode": mode}
    CASES[f"gradient {shape} {axes} {mode}"] = Gradient(shape, **options), D
    CASES[f"laplacian {shape} {axes} {mode}"] = Laplacian(shape, **options), -D.T @ D


@pytest.mark.parametrize("name", CASES)
def test_it_is_its_matrix(name: str) -> None:
    A, wanted = CASES[name]
    assert A.shape == wanted.shape
    np.testing.assert_allclose(A.to_matrix(), wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(A.T.to_matrix(), wanted.T, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        A.H.matmat(np.ones((wanted.shape[0], 2))), wanted.T @ np.ones((wanted.shape[0], 2)), rtol=1e-11, atol=1e-11
    )
    x, y = RNG.standard_normal(A.input_shape), RNG.standard_normal(A.output_shape)
    assert abs(np.vdot(A @ x, y) - np.vdot(x, A.T @ y)) <= 1e-12 * np.linalg.norm(wanted) * np.linalg.norm(x) * np.linalg.norm(y)
    pre.check_adjoint(A)
    t = pre.Tensor(x, requires_grad=True)
    (A @ t).backward(y)
    np.testing.assert_allclose(t.grad.data.reshape(-1), wanted.T @ y.reshape(-1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_norms_are_those_of_the_matrix(name: str) -> None:
    A, wanted = CASES[name]
    largest = np.linalg.norm(wanted, 2)
    known = A._known_norm()
    if known is not None:
        assert abs(known - largest) <= 1e-12 * max(largest, 1)
    assert abs(A.norm() - largest) <= 1e-3 * max(largest, 1)  # where it iterates, two close singular values take long


def test_norms_in_closed_form() -> None:
    D, d = Gradient((6, 5)), RNG.standard_normal((3, 4))
    circular = [conv(padding=((1, 1), (0, 1)), padding_mode="circular"), linop.Conv(RNG.standard_normal((4, 2, 3)), input_size=7, padding=2,
                dilation=2, groups=2, padding_mode="circular"), linop.Conv(RNG.standard_normal((3, 2, 1, 1)), input_size=(3, 4))]  # fmt: skip
    for A in (
        D,
        D.T,
        -3 * D,
        D.T @ D,
        D @ D.T,
        linop.Identity((3, 2)),
        linop.Diagonal(d),
        BlockDiag([D, linop.Diagonal(d)]),
        *circular,
    ):
        assert A._known_norm() is not None
        assert abs(A.norm() - np.linalg.norm(A.to_matrix(), 2)) <= 1e-12 * A.norm()
    for A in (conv(), conv(stride=2, padding_mode="circular"), VStack([D, D]), D.T @ linop.Identity(D.output_shape) @ D):
        assert A._known_norm() is None or abs(A.norm() - np.linalg.norm(A.to_matrix(), 2)) <= 1e-12 * A.norm()
    assert Gradient((0, 4)).norm() == 0


def test_parts_in_their_shapes() -> None:
    A = VStack([conv(), linop.Identity((1, 2, 5, 4))])
    x = RNG.standard_normal(A.input_shape)
    first, second = A.split(A @ x)
    np.testing.assert_array_equal(first, conv() @ x)
    np.testing.assert_array_equal(second, x)
    B = HStack([linop.Identity((2, 3)), Gradient((2, 3)).T])
    assert [p.shape for p in B.split(np.ones(18))] == [(2, 3), (2, 2, 3)]


def test_dtypes_follow_those_beside_them() -> None:
    A = linop.Conv(KERNEL.astype(np.float32), input_size=(5, 4))
    for made in (VStack([linop.Identity(A.input_shape), A]), Gradient(A.output_shape) @ A, BlockDiag([Gradient((3,)), A])):
        assert made.dtype == np.float32
        assert made.matvec(np.ones(made.shape[1])).dtype == np.float32
    with pytest.raises(DTypeError, match="float32 and float64"):
        VStack([A, conv()])


def test_operators_of_scipy_come_and_go() -> None:
    scipy = pytest.importorskip("scipy.sparse.linalg")
    import scipy.sparse as sparse

    for theirs in (scipy.aslinearoperator(M), sparse.csr_array(M), sparse.coo_matrix(M)):
        A = aslinearoperator(theirs)
        np.testing.assert_allclose(A.to_matrix(), M, rtol=1e-13)
        np.testing.assert_allclose(A.T.to_matrix(), M.T, rtol=1e-13)
    A = VStack([conv(padding=1), 0.3 * Gradient((1, 2, 5, 4))])
    b = A.matvec(RNG.standard_normal(A.shape[1]))
    found = scipy.lsqr(A, b, atol=1e-13, btol=1e-13)[0]  # our operator as it is
    wanted = np.linalg.lstsq(A.to_matrix(), b, rcond=None)[0]
    np.testing.assert_allclose(A.matvec(found), A.matvec(wanted), atol=1e-8)
    twice = aslinearoperator(scipy.aslinearoperator(A))
    np.testing.assert_array_equal(twice.to_matrix(), A.to_matrix())
    assert aslinearoperator(A) is A


def test_operators_of_pylops_come_and_go() -> None:
    pylops = pytest.importorskip("pylops")
    theirs = pylops.FirstDerivative((4, 5), axis=1, kind="forward", dtype="float64")
    A = aslinearoperator(theirs)
    assert (A.input_shape, A.output_shape) == ((4, 5), (4, 5))
    np.testing.assert_allclose(A.to_matrix(), theirs.todense(), atol=1e-14)
    pre.check_adjoint(A)
    np.testing.assert_allclose(
        (A.T @ A + linop.Identity((4, 5))).to_matrix(), theirs.todense().T @ theirs.todense() + np.eye(20), atol=1e-12
    )


@pytest.mark.parametrize(("make", "kind", "text"), [
    (lambda: VStack([]), OptionError, "got none"), (lambda: VStack([M]), DTypeError, "ndarray"),
    (lambda: VStack([conv(), linop.Identity((3,))]), ShapeError, "inputs are"),
    (lambda: HStack([conv(), linop.Identity((3,))]), ShapeError, "outputs are"), (lambda: Gradient((3, 4), axes=(2,)), PreimageError, "axis 2"),
    (lambda: Gradient((3, 4), spacing=(1.0,)), OptionError, "1 values for 2 axes"),
    (lambda: Gradient((3,), spacing=0.0), OptionError, "positive"),
    (lambda: Gradient((3,), mode="zeros"), OptionError, "'replicate' or 'circular', got 'zeros'"),
    (lambda: Gradient((), axes=()), OptionError, "0 axes"),
    (lambda: aslinearoperator("ab"), DTypeError, "got str"), (lambda: aslinearoperator(np.ones(3)), DTypeError, "matrix"),
    (lambda: aslinearoperator(np.ones((2, 2)) * 1j), DTypeError, "real"), (lambda: Gradient((3,)) @ np.ones(4), ShapeError, "takes shape"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(make: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        make()


def test_a_foreign_operator_that_is_wrong_is_found() -> None:
    class Wrong:
        shape, dtype = (3, 3), np.dtype(float)

        def matvec(self, x: np.ndarray) -> np.ndarray:
            return x * 2

        def rmatvec(self, y: np.ndarray) -> np.ndarray:
            return y[::-1] * 2

    with pytest.raises(pre.CheckError):
        pre.check_adjoint(aslinearoperator(Wrong()))
