"""Every row of the table through every check: value, gradient, second derivative, dot test, dtypes, Tensors, empty axes."""

from __future__ import annotations

import numpy as np
import pytest
from row import Row
from table import ELSEWHERE, ROWS

import preimage as pre
from preimage import ops

try:
    import ml_dtypes
except ImportError:
    ml_dtypes = None

NARROW = [np.float16] + ([ml_dtypes.bfloat16] if ml_dtypes else [])
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}

counts: dict[str, int] = {}
IDS = []
for row in ROWS:
    counts[row.name] = counts.get(row.name, 0) + 1
    IDS.append(f"{row.name}{counts[row.name]}" if counts[row.name] > 1 else row.name)
every_row = pytest.mark.parametrize("row", ROWS, ids=IDS)


def generator(row: Row) -> np.random.Generator:
    return np.random.default_rng(sum(map(ord, row.name)))


def tensors(arrays, wanted):
    return [pre.Tensor(a, requires_grad=k in wanted) for k, a in enumerate(arrays)]


def difference(function, arrays, directions, h):
    """The derivative of a number along directions, from five points: the error is of order h^4."""
    at = lambda t: function(*[a + t * h * d for a, d in zip(arrays, directions, strict=True)])  # noqa: E731
    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)


def check_directional(function, gradient, arrays, wanted, rng, h=2e-3, tolerance=1e-6):
    """<gradient, direction> against the difference, for each argument by itself."""
    for k in wanted:
        directions = [rng.standard_normal(a.shape) if j == k else np.zeros(a.shape) for j, a in enumerate(arrays)]
        got = sum(float(np.vdot(g, d)) for g, d in zip(gradient, [directions[j] for j in wanted], strict=True))
        want = difference(function, arrays, directions, h)
        assert got == pytest.approx(want, rel=tolerance, abs=tolerance), f"argument {k}"


def test_every_operation_has_a_row():
    assert set(ops.__all__) - ELSEWHERE == set(counts)


@every_row
def test_value(row):
    arrays = row.inputs(generator(row))
    got = row.op(*arrays)
    want = np.asarray(row.reference(*arrays))
    assert got.shape == want.shape
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


@every_row
def test_tensors_give_what_arrays_give_and_no_input_changes(row):
    arrays = row.inputs(generator(row))
    before = [a.copy() for a in arrays]
    plain = row.op(*arrays)
    for a in arrays:
        a.flags.writeable = False
    recorded = row.op(*tensors(arrays, row.diff))
    assert isinstance(recorded, pre.Tensor)
    assert recorded.requires_grad or plain.size == 0
    np.testing.assert_array_equal(recorded.data, plain)
    with pre.no_grad():
        np.testing.assert_array_equal(row.op(*tensors(arrays, row.diff)).data, plain)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


@every_row
def test_gradient(row):
    rng = generator(row)
    arrays = row.inputs(rng)
    inputs = tensors(arrays, row.diff)
    result = row.op(*inputs)
    cotangent = rng.standard_normal(result.shape)
    gradient = pre.grad(result, [inputs[k] for k in row.diff], cotangent)
    assert [g.shape for g in gradient] == [arrays[k].shape for k in row.diff]
    check_directional(lambda *a: float(np.vdot(row.op(*a), cotangent)), [g.data for g in gradient], arrays, row.diff, rng)


@pytest.mark.parametrize("row", [r for r in ROWS if r.second], ids=[i for r, i in zip(ROWS, IDS, strict=True) if r.second])
def test_second_derivative(row):
    """The gradient of <gradient, v> with respect to the arguments and the cotangent."""
    rng = generator(row)
    arrays = row.inputs(rng)
    v = [rng.standard_normal(arrays[k].shape) for k in row.diff]
    seed = rng.standard_normal(np.shape(row.op(*arrays)))

    def along(*values):
        inputs = tensors(values[:-1], row.diff)
        g = pre.Tensor(values[-1], requires_grad=True)
        first = pre.grad(row.op(*inputs), [inputs[k] for k in row.diff], g, create_graph=True)
        total = sum((ops.sum(ops.multiply(a, b)) for a, b in zip(first, v, strict=True)), start=pre.Tensor(0.0))
        return inputs, g, total

    inputs, g, total = along(*arrays, seed)
    wanted = (*row.diff, len(arrays))
    second = pre.grad(total, [*(inputs[k] for k in row.diff), g], allow_unused=True)
    values = [*arrays, seed]
    second = [np.zeros(values[k].shape) if s is None else s.data for k, s in zip(wanted, second, strict=True)]
    check_directional(lambda *a: along(*a)[2].item(), second, values, wanted, rng, tolerance=1e-5)


@every_row
def test_dot(row):
    """<op(x), g> = <x, gradient> for each argument that the result is linear in."""
    rng = generator(row)
    arrays = row.inputs(rng)
    for k in row.linear:
        inputs = tensors(arrays, (k,))
        result = row.op(*inputs)
        g = rng.standard_normal(result.shape)
        left = np.vdot(result.data, g)
        right = np.vdot(arrays[k], pre.grad(result, inputs[k], g).data)
        scale = np.linalg.norm(result.data) * np.linalg.norm(g)
        assert abs(left - right) <= 1e-13 * scale


@every_row
@pytest.mark.parametrize("dtype", [np.float32, *NARROW], ids=lambda d: np.dtype(d).name)
def test_dtype_is_kept_and_exact_for_it(row, dtype):
    arrays = [a.astype(dtype) for a in row.inputs(generator(row))]
    inputs = tensors(arrays, row.diff)
    result = row.op(*inputs)
    assert result.dtype == dtype
    want = np.asarray(row.reference(*[a.astype(np.float64) for a in arrays]))
    scale = max(1e-3, float(np.abs(want).max()))
    error = np.abs(result.data.astype(np.float64) - want).max()
    assert error <= row.narrow * EPS[np.dtype(dtype).name] * scale
    for g in pre.grad(result, [inputs[k] for k in row.diff], np.ones(result.shape, dtype)):
        assert g.dtype == dtype
        assert np.isfinite(g.data.astype(np.float64)).all()


@pytest.mark.parametrize("row", [r for r in ROWS if r.empty], ids=[i for r, i in zip(ROWS, IDS, strict=True) if r.empty])
def test_zero_size_axes(row):
    assert row.empty is not None
    arrays = [np.ones(s) for s in row.empty]
    inputs = tensors(arrays, row.diff)
    result = row.op(*inputs)
    assert result.shape == np.shape(row.op(*arrays))
    for k, g in zip(row.diff, pre.grad(result, [inputs[k] for k in row.diff], np.ones(result.shape)), strict=True):
        assert g.shape == arrays[k].shape
