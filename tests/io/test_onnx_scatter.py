"""Gradients of ONNX's scattering operators: to the updates, and to what they did not replace."""

import numpy as np
import pytest

import preimage as pre
from preimage.io import onnx  # noqa: F401 - registers the operators
from preimage.io.graph import OPS
from preimage.io.onnx.operators import indexing

INDICES = np.array([[4, 0, 2], [1, 3, 0]])


@pytest.mark.parametrize("reduction", ["none", "add"])
@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_gradients_go_where_values_went(op: str, reduction: str) -> None:
    rng = np.random.default_rng(0)
    x = pre.Tensor(rng.standard_normal((2, 5)).astype(np.float32), requires_grad=True)
    if op == "ScatterElements":
        updates = pre.Tensor(rng.standard_normal((2, 3)).astype(np.float32), requires_grad=True)
        where, given, options = (np.arange(2)[:, None], INDICES), INDICES, {"axis": 1}
    else:
        updates = pre.Tensor(rng.standard_normal(3).astype(np.float32), requires_grad=True)
        given, options = np.array([[1, 4], [0, 0], [1, 2]]), {}
        where = tuple(given.T)
    result = OPS[f"onnx.{op}"].function(x, given, updates, reduction=reduction, **options)
    wanted = x.data.copy()
    if reduction == "add":
        wanted[where] += updates.data
    else:
        wanted[where] = updates.data
    assert np.allclose(result.data, wanted, atol=1e-6)
    cotangent = rng.standard_normal(x.shape).astype(np.float32)
    to_x, to_updates = pre.grad(result, [x, updates], pre.Tensor(cotangent))
    left = cotangent.copy()
    if reduction == "none":
        left[where] = 0
    assert np.array_equal(to_x.data, left)
    assert np.array_equal(to_updates.data, cotangent[where])


def test_updates_that_meet_have_no_gradient() -> None:
    x, updates = (pre.Tensor(np.ones(n, np.float32), requires_grad=True) for n in (4, 2))
    with pytest.raises(pre.PreimageError, match="no gradient where several updates meet"):
        OPS["onnx.ScatterElements"].function(x, np.array([1, 1]), updates)
    added = OPS["onnx.ScatterElements"].function(x, np.array([1, 1]), updates, reduction="add")
    assert added.data.tolist() == [1.0, 3.0, 1.0, 1.0]
    assert pre.grad(added.sum(), updates).data.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
@pytest.mark.parametrize("most", [64, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_whole_lines_are_reduced_in_their_order(axis: int, most: int, reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of an array to places of an axis, several to one: every element as one update after the other gives it, with its bits."""
    monkeypatch.setattr(indexing, "MOST_TURNS", most)
    rng = np.random.default_rng(axis + 5)
    x = (rng.standard_normal((4, 7, 5)) * 10.0 ** rng.integers(-4, 5, (4, 7, 5))).astype(np.float32)
    count = 23
    shape = [count if k == axis % 3 else n for k, n in enumerate(x.shape)]
    updates = (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 5, shape)).astype(np.float32)
    updates.reshape(-1)[[3, 40]] = np.nan, np.inf
    at = rng.integers(-x.shape[axis], x.shape[axis], count)
    index = np.broadcast_to(at.reshape([-1 if k == axis % 3 else 1 for k in range(3)]), shape)
    wanted, into = x.copy(), {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[reduction]
    with np.errstate(all="ignore"):
        for k, place in enumerate(at):
            line = tuple([slice(None)] * (axis % 3) + [place])
            wanted[line] = into(wanted[line], updates[(*line[:-1], k)])
        for given in (index, np.array(index)):
            found = OPS["onnx.ScatterElements"].function(x, given, updates, axis=axis, reduction=reduction)
            assert np.array_equal(found, wanted, equal_nan=True)
        if axis == 0:
            found = OPS["onnx.ScatterND"].function(x, at[:, None], updates, reduction=reduction)
            assert np.array_equal(found, wanted, equal_nan=True)


def test_no_lines_and_lines_in_part() -> None:
    x, none = np.ones((3, 4), np.float32), np.zeros((0, 4), np.float32)
    scatter = OPS["onnx.ScatterElements"].function
    assert np.array_equal(scatter(x, np.zeros((0, 4), np.int64), none, reduction="add"), x)
    part = scatter(x, np.full((2, 3), 1), np.ones((2, 3), np.float32), reduction="add")
    assert part.tolist() == [[1, 1, 1, 1], [3, 3, 3, 1], [1, 1, 1, 1]]
