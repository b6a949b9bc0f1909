"""Sums as the aligned tree by a kernel: the bits of `preimage.reduction.tree_sum`, for every number of values up to a few nodes."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage.engines import get
from preimage.reduction import tree_sum


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 3])
def test_bits_of_the_tree(dtype: type, threads: int) -> None:
    kernels = get("jit").kernels
    assert kernels is not None
    rng = np.random.default_rng(0)
    sizes = [*range(1, 41), 63, 64, 65, 255, 1000, 4097]
    with pre.config(threads=threads):
        for count in sizes:
            outer, width = (1, 3, 7)[count % 3], (1, 5, 19, 70)[count % 4]
            x = (rng.standard_normal((outer, count, width)) * 10.0 ** rng.integers(-4, 5, (outer, count, width))).astype(dtype)
            np.testing.assert_array_equal(kernels.tree_sums(x), tree_sum(x, axis=1), err_msg=str(x.shape))
    big = rng.standard_normal((1, 9, 20_000)).astype(dtype)
    with pre.config(threads=threads):
        np.testing.assert_array_equal(kernels.tree_sums(big), tree_sum(big, axis=1))
    swapped = big[:, [1, 3, 2, 0, *range(4, 9)]]  # another pairing has other bits: the comparison can fail
    assert (tree_sum(swapped, axis=1) != tree_sum(big, axis=1)).any()
