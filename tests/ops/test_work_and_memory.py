"""Work and memory grow with arguments and results, not with windows, lengths or sizes that were asked for before."""

from __future__ import annotations

import sys
import tracemalloc
from fractions import Fraction
from importlib import import_module

import numpy as np
import pytest

import preimage as pre
from preimage import ops
from preimage.engines.kept_tables import TABLE_BYTES, kept_tables
from preimage.resources import release_memory

resizing = import_module("preimage.ops.upsample")  # the name is the operation's in preimage.ops


def peak(function) -> int:
    """Bytes that a call has allocated at most at one time."""
    function()  # kernels are compiled, modules imported
    release_memory()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def calls(function) -> int:
    """Calls of Python and C functions inside."""
    count = 0

    def seen(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    function()
    sys.setprofile(seen)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("pool", [ops.max_pool, ops.avg_pool])
def test_long_windows_take_no_table_of_taps(pool):
    x = np.ones((1, 1, 6000, 8), np.float32)
    assert peak(lambda: pool(x, (601, 1), stride=1, padding=(300, 0))) < 8 * x.nbytes


def test_the_gradient_of_a_large_window_takes_no_table_of_taps():
    x = np.random.default_rng(0).standard_normal((1, 1, 160, 160)).astype(np.float32)

    def back():
        t = pre.Tensor(x, requires_grad=True)
        return pre.grad(ops.max_pool(t, 21, stride=1), t, np.ones((1, 1, 140, 140), np.float32)).data

    assert peak(back) < 40 * x.nbytes  # the table: 245 times
    windows = np.lib.stride_tricks.sliding_window_view(x[0, 0], (21, 21)).reshape(140, 140, -1)
    rows, columns = np.divmod(windows.argmax(-1), 21)
    want = np.zeros((160, 160))
    np.add.at(want, (rows + np.arange(140)[:, None], columns + np.arange(140)), 1)
    np.testing.assert_array_equal(back()[0, 0], want)


def test_switches_are_the_first_maximum_in_row_major_order():
    """Ties, NaNs and -infinity on purpose, against a loop over windows."""
    rng = np.random.default_rng(1)
    for padding, dilation in (((1, 0), (1, 1)), ((2, 1), (1, 2)), ((0, 2), (3, 2))):
        x = rng.choice([0.0, 1.0, 2.0, -np.inf, np.nan], (1, 2, 8, 7), p=[0.3, 0.3, 0.2, 0.1, 0.1])
        got = ops.max_pool(x, (3, 3), stride=(2, 1), padding=padding, dilation=dilation, return_switches=True)[1]
        for c, oh, ow in np.ndindex(*got.shape[1:]):
            places = [
                (oh * 2 - padding[0] + a * dilation[0], ow - padding[1] + b * dilation[1]) for a in range(3) for b in range(3)
            ]
            places = [(r, s) for r, s in places if 0 <= r < 8 and 0 <= s < 7]
            values = [x[0, c, r, s] for r, s in places]
            best = int(np.argmax(values)) if values else -1  # the first NaN, else the first of the largest
            assert got[0, c, oh, ow] == (places[best][0] * 7 + places[best][1] if values else -1)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resizing_by_any_ratio_takes_no_call_for_each_element(mode):
    x = np.random.default_rng(0).standard_normal((1, 1, 6000))
    for outputs in (6001, 5003, 16537):

        def there_and_back(outputs=outputs):
            resizing._matrix.kept.clear()
            t = pre.Tensor(x, requires_grad=True)
            with pre.config(engine="gemm"):
                y = ops.upsample(t, size=outputs, mode=mode)
                return y, pre.grad(y, t, np.ones(y.shape)).data

        assert calls(there_and_back) < 4000
        y, back = there_and_back()
        assert np.vdot(y.data, np.ones(y.shape)) == pytest.approx(np.vdot(x, back), rel=1e-11)


@pytest.mark.parametrize("engine", ["gemm", "auto"])
def test_an_infinity_beside_an_element_that_is_not_blended_is_not_read(engine):
    x = np.array([[[1.0, np.inf, 2.0]]])
    for channels in (1, 5000):
        with pre.config(engine=engine):
            y = ops.upsample(x.repeat(channels, 1), size=5, mode="linear", align_corners=True)
        np.testing.assert_array_equal(y, np.array([[[1.0, np.inf, np.inf, np.inf, 2.0]]]).repeat(channels, 1))


def test_tables_are_kept_by_their_bytes():
    made = []

    @kept_tables
    def table(n: int):
        made.append(n)
        return np.zeros(n), [np.zeros(n)]

    table(10)
    table(10)
    assert made == [10]
    size = TABLE_BYTES // 16 // 4
    for k in range(12):
        table(size - k)
        assert sum(n for _, n in table.kept.values.values()) <= TABLE_BYTES
    assert len(table.kept.values) == 3
    table(TABLE_BYTES)  # more than all: made, and not kept
    assert len(table.kept.values) == 3
    assert table.kept.clear() > 0
    assert not table.kept.values


def test_many_lengths_leave_little():
    x = np.ones((1, 1, 40_000))
    tracemalloc.start()
    try:
        for k in range(40):
            ops.upsample(x, size=40_001 + k, mode="linear")
            ops.pad(x, k + 1, mode="reflect")
            pre.conv(np.ones((1, 1, 60_000 + k)), np.ones((1, 1, 5)), padding=2)
        assert tracemalloc.get_traced_memory()[0] < 4 * TABLE_BYTES
    finally:
        tracemalloc.stop()


# -- adaptive pooling --------------------------------------------------------------------------------------------------


def _bins(n: int, m: int) -> list[slice]:
    return [slice(int(Fraction(o * n, m)), -int(-Fraction((o + 1) * n, m) // 1)) for o in range(m)]


@pytest.mark.parametrize(("n", "m"), [(7, 3), (7, 7), (5, 12), (40, 2), (40, 23), (3, 1), (1, 4), (9, 8)])
def test_adaptive_pooling(n, m):
    rng = np.random.default_rng(n)
    x = np.round(rng.standard_normal((2, 3, n, 4)), 1)
    want = np.stack([x[:, :, part].mean(2) for part in _bins(n, m)], 2)
    np.testing.assert_allclose(ops.adaptive_avg_pool(x, (m, None)), want, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(
        ops.adaptive_max_pool(x, (m, None)), np.stack([x[:, :, part].max(2) for part in _bins(n, m)], 2)
    )
    t = pre.Tensor(x, requires_grad=True)
    g = rng.standard_normal(want.shape)
    back = pre.grad(ops.adaptive_avg_pool(t, (m, None)), t, g).data
    assert np.vdot(back, x) == pytest.approx(np.vdot(want, g), rel=1e-12)
    back, right = pre.grad(ops.adaptive_max_pool(t, (m, None)), t, g).data, np.zeros(x.shape)
    for o, part in enumerate(_bins(n, m)):
        first = part.start + x[:, :, part].argmax(2)
        for i, c, k in np.ndindex(2, 3, 4):
            right[i, c, first[i, c, k], k] += g[i, c, o, k]
    np.testing.assert_allclose(back, right, rtol=1e-13, atol=1e-15)


def test_adaptive_pooling_takes_no_node_for_each_window():
    x = np.ones((1, 1, 4000))

    def there_and_back():
        t = pre.Tensor(x, requires_grad=True)
        return pre.grad(ops.adaptive_avg_pool(t, 1999), t, np.ones((1, 1, 1999)))

    assert calls(there_and_back) < 1000
    assert calls(lambda: ops.adaptive_max_pool(x, 1999)) < 1000


@pytest.mark.parametrize("size", [10**12, 10**30])
def test_sizes_that_nothing_could_hold_are_refused_at_once(size):
    x = np.ones((1, 1, 4), np.float32)
    with pytest.raises(pre.OutOfMemoryError, match="windows over spatial axis 0"):
        ops.adaptive_avg_pool(x, size)
    with pytest.raises(pre.OutOfMemoryError, match="windows over spatial axis 1"):
        ops.adaptive_max_pool(x[None], (1, size))
    with pytest.raises((pre.OutOfMemoryError, pre.ShapeError), match="result"):
        ops.max_unpool(x, np.zeros(x.shape, np.int64), size)
    with pytest.raises(pre.PreimageError):
        ops.upsample(x, size=size)
    with pytest.raises(pre.PreimageError):
        ops.pad(x, size)
