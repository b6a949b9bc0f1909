"""Sparse matrices along axes: the kernels' bits are NumPy's, whose values are those of dense matrices."""

import itertools

import numpy as np
import pytest

import preimage as pre
from preimage import ops
from preimage.engines import around
from preimage.engines.axis_matrix import AxisMatrix


def matrix_of(kind, inputs, outputs, dtype, rng):
    """A matrix, and the dense one."""
    if kind == "single":
        return AxisMatrix(inputs, np.arange(outputs + 1), rng.integers(0, inputs, outputs), None)
    if kind == "margins":
        lo = int(rng.integers(-1, max(outputs - inputs, 0) + 1))
        return AxisMatrix.of_margins(inputs, lo, outputs - inputs - lo)
    if kind == "runs":
        return AxisMatrix(inputs, np.arange(outputs + 1), np.arange(outputs) % inputs, None)
    counts = rng.integers(0 if kind == "gaps" else 1, 5, outputs)
    index = rng.integers(0, inputs, counts.sum())
    weights = None if kind == "plain" else rng.integers(-4, 5, counts.sum()).astype(dtype)
    return AxisMatrix(inputs, np.concatenate(([0], np.cumsum(counts))), index, weights)


def dense(matrix):
    made = np.zeros((matrix.outputs, matrix.inputs))
    rows = np.repeat(np.arange(matrix.outputs), np.diff(matrix.starts))
    np.add.at(made, (rows, matrix.index), 1.0 if matrix.weights is None else matrix.weights)
    return made


KINDS = ("single", "runs", "margins", "plain", "weighted", "gaps")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_values(kind, dtype):
    rng = np.random.default_rng(3)
    matrix = matrix_of(kind, 9, 14, dtype, rng)
    x = rng.integers(-9, 9, (4, 9, 3)).astype(dtype)
    y = rng.integers(-9, 9, (4, 14, 3)).astype(dtype)
    assert np.array_equal(matrix.times(x, 1), np.einsum("oi,nik->nok", dense(matrix), x))
    assert np.array_equal(matrix.transposed().times(y, 1), np.einsum("oi,nok->nik", dense(matrix), y))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(2, 33, 40, 29), (1, 3, 61, 70), (5, 24, 7, 90), (1, 1, 3, 1100), (40, 8, 600)])
def test_the_kernels_bits_are_numpys(shape, last, dtype, threads):
    rng = np.random.default_rng(5)
    x = rng.standard_normal(shape).astype(dtype)
    x[..., ::7] = -0.0
    if last:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    for kinds in itertools.product(KINDS, repeat=len(shape) - 2):
        axes = [(k, matrix_of(kind, shape[k], shape[k] * 2 - 3, dtype, rng)) for k, kind in enumerate(kinds, 2)]
        with pre.config(threads=threads):
            made = around.along_axes(x, axes)
        wanted = x
        for k, matrix in axes:
            wanted = matrix.times(wanted, k)
        assert made.dtype == dtype
        assert made.tobytes() == wanted.tobytes(), kinds
        assert np.argsort(made.strides, kind="stable").tolist() == np.argsort(wanted.strides, kind="stable").tolist()


def test_what_lies_far_apart_and_what_is_no_dense_array():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 1, 5000)).astype(np.float32)
    far = AxisMatrix(5000, np.arange(5001), rng.permutation(5000), None)
    assert np.array_equal(around.along_axes(x, [(2, far)]), x[..., far.index])
    view = x[::2, :, 1::3]
    near = AxisMatrix(
        view.shape[2], np.arange(0, 2 * 1666, 2), np.arange(3330) // 2, rng.standard_normal(3330).astype(np.float32)
    )
    assert around.along_axes(view, [(2, near)]).tobytes() == near.times(view, 2).tobytes()


def test_nothing_but_the_terms_is_read():
    x = np.full((3, 40, 8, 50), np.inf, np.float32)
    x[:, :, ::2, ::2] = 1
    y = ops.upsample(x, size=(4, 25), mode="linear", align_corners=False)
    same = ops.upsample(x, size=(8, 50), mode="linear")
    assert np.array_equal(same, x)
    assert not np.isnan(y).any()
