"""Comparing Tensors: element by element, as in NumPy; told apart by identity in sets and dictionaries."""

import copy
import operator

import numpy as np
import pytest

import preimage as pre
from preimage import nn

OPERATORS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


@pytest.mark.parametrize("compare", OPERATORS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_element_by_element(compare, dtype):
    a, b = np.array([[0.0, 1.0, np.nan, np.inf, -0.0]], dtype), np.array([[0.0], [np.inf]], dtype)
    for other in (b, 1.0, 1, True, np.float32(1), [0.0, 1.0, 2.0, 3.0, 4.0]):
        wanted = compare(a, np.asarray(other))
        for left, right in ((pre.Tensor(a), other), (pre.Tensor(a), pre.Tensor(other) if other is b else other)):
            got = compare(left, right)
            assert type(got) is np.ndarray
            assert got.dtype == bool
            np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(compare(b, pre.Tensor(a)), compare(b, a))  # the array gives way
    assert (pre.Tensor(a) == a).mean() == 0.8


def test_what_is_no_number_is_another_thing():
    t = pre.Tensor(np.ones(3))
    for other in (None, "word", object(), {}):
        assert (t == other) is False
        assert (t != other) is True
    with pytest.raises(TypeError):
        t < None  # noqa: B015
    with pytest.raises(pre.errors.ShapeError, match=r"equal: shapes \(3,\) and \(2,\)"):
        t == np.ones(2)  # noqa: B015


def test_identity_in_sets_and_dictionaries():
    a, b = nn.Parameter(np.ones(3)), nn.Parameter(np.ones(3))
    assert len({a, b, a}) == 2
    assert {a: 1, b: 2}[b] == 2
    assert hash(a) != hash(b)
    layer = nn.Linear(3, 2)
    twin = copy.deepcopy(layer)
    assert not set(layer.parameters()) & set(twin.parameters())
    total = (pre.conv(np.ones((1, 3), np.float32), layer.weight) * layer.weight.sum()).sum() + layer.bias.sum()
    assert [g.shape for g in pre.grad(total, list(layer.parameters()))] == [(2, 3), (2,)]
