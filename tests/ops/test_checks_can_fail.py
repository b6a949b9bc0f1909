"""The table's checks report what they are for: wrong rules, wrong values, a lost dtype, a changed input."""

import numpy as np
import pytest
import test_table
from row import Row, normal

from preimage import ops
from preimage.autograd import primitive

A = (2, 3, 4)


def row(op, reference=np.square, **options):
    return Row("square", op, normal(A), reference, **options)


wrong_slope = primitive("test_wrong_slope", np.square, [lambda g, ans, x: ops.multiply(g, x)])
transposed = primitive(
    "test_transposed", lambda x: np.swapaxes(x, 0, 1).copy(), [lambda g, ans, x: ops.reshape(g, x.shape)], linear=(0,)
)
constant_rule = primitive(
    "test_constant_rule", np.square, [lambda g, ans, x: np.asarray(getattr(g, "data", g)) * 2 * np.asarray(x)]
)
widening = primitive(
    "test_widening", lambda x: np.square(x, dtype=np.float64), [lambda g, ans, x: ops.multiply(g, ops.multiply(x, 2.0))]
)


def in_place(x):
    np.asarray(x)[0, 0, 0] += 1
    return np.square(x)


changes_input = primitive("test_changes_input", in_place, [lambda g, ans, x: ops.multiply(g, ops.multiply(x, 2.0))])


def test_the_right_one_passes():
    good = row(ops.square)
    for check in (
        test_table.test_value,
        test_table.test_gradient,
        test_table.test_second_derivative,
        test_table.test_tensors_give_what_arrays_give_and_no_input_changes,
    ):
        check(good)
    test_table.test_dtype_is_kept_and_exact_for_it(good, np.float32)
    test_table.test_dot(row(ops.negative, np.negative, linear=(0,)))


@pytest.mark.parametrize(
    ("check", "bad"),
    [
        (test_table.test_value, row(ops.square, np.abs)),
        (test_table.test_value, row(lambda x: ops.sum(ops.square(x), 0))),
        (test_table.test_gradient, row(wrong_slope)),
        (test_table.test_gradient, row(transposed, lambda x: x.swapaxes(0, 1))),
        (test_table.test_second_derivative, row(constant_rule)),
        (test_table.test_dot, row(transposed, lambda x: x.swapaxes(0, 1), linear=(0,))),
        (test_table.test_dot, row(ops.square, linear=(0,))),
    ],
)
def test_the_wrong_one_is_reported(check, bad):
    with pytest.raises(AssertionError):
        check(bad)


def test_a_lost_dtype_is_reported():
    with pytest.raises(AssertionError):
        test_table.test_dtype_is_kept_and_exact_for_it(row(widening), np.float32)


def test_a_changed_input_is_reported():
    with pytest.raises((AssertionError, ValueError)):
        test_table.test_tensors_give_what_arrays_give_and_no_input_changes(row(changes_input))
