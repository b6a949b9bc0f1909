"""Gradients of ONNX's scattering operators: to the updates, and to what they did not replace."""

import numpy as np
import pytest

import preimage as pre
from preimage.io import onnx  # noqa: F401 - registers the operators
from preimage.io.graph import OPS

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
