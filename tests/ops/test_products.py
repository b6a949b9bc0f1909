"""Matrix products: exact on integers in every form, the same bits alone and in a batch, in any memory order, on any number of threads."""

import glob
import os

import ml_dtypes
import numpy as np
import pytest

import preimage as pre
from preimage import nn, ops

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
SHAPES = [
    ((3, 4), (4, 2)), ((1, 7), (7, 5)), ((6, 1), (1, 3)), ((5,), (5, 2)), ((3, 5), (5,)), ((5,), (5,)), ((2, 3, 4), (4, 6)),
    ((2, 3, 4), (2, 4, 5)), ((3, 4), (2, 4, 5)), ((1, 3, 4), (6, 4, 2)), ((5, 1, 3, 4), (2, 4, 2)), ((4,), (3, 4, 2)), ((2, 3, 4), (4,)),
    ((4, 2, 3, 1), (2, 1, 5)), ((1, 1, 2, 3), (1, 3, 2)), ((17, 33), (33, 19)), ((3, 2, 40), (40, 9)),
    ((3, 0), (0, 2)), ((0, 4), (4, 2)), ((2, 4), (4, 0)), ((0, 2, 4), (4, 3)), ((2, 0, 3, 4), (4, 2)), ((0,), (0,)), ((0,), (0, 2)),
]  # fmt: skip


def whole_numbers(rng, shape, dtype):
    return rng.integers(-3, 4, shape).astype(dtype)


def placed(a):
    """The same values in several memory orders."""
    yield a
    yield np.asfortranarray(a)
    yield a[..., ::-1][..., ::-1].copy()[..., ::-1][..., ::-1]
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1] + 1), a.dtype)
    wide[..., 1::2] = a
    yield wide[..., 1::2]
    if a.ndim > 1:
        yield np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2)
        yield np.broadcast_to(a[..., :1, :], a.shape) if (a == a[..., :1, :]).all() else a


@pytest.mark.simulated
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("engine")
def test_exact_on_whole_numbers(dtype):
    rng = np.random.default_rng(0)
    for left, right in SHAPES:
        a, b = whole_numbers(rng, left, dtype), whole_numbers(rng, right, dtype)
        wanted = np.matmul(a.astype(np.int64), b.astype(np.int64))
        for x, y in zip(placed(a), placed(b), strict=False):
            got = ops.matmul(x, y)
            assert got.dtype == dtype
            np.testing.assert_array_equal(np.asarray(got, np.float64), wanted, f"{left} @ {right}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_exact_too(dtype):
    """Against the definition: grad A = g B^T and grad B = A^T g, summed over what was broadcast; second order by the adjoint."""
    rng = np.random.default_rng(1)
    for left, right in SHAPES:
        a, b = whole_numbers(rng, left, dtype), whole_numbers(rng, right, dtype)
        ta, tb = pre.Tensor(a, requires_grad=True), pre.Tensor(b, requires_grad=True)
        y = ops.matmul(ta, tb)
        g = whole_numbers(rng, y.shape, dtype)
        ga, gb = pre.grad(y, [ta, tb], g, create_graph=True)
        wide_a = a[None, :] if a.ndim == 1 else a
        wide_b = b[:, None] if b.ndim == 1 else b
        wide_g = g.reshape(np.matmul(wide_a, wide_b).shape)
        for got, full, like in (
            (ga, np.matmul(wide_g, wide_b.swapaxes(-1, -2)), wide_a),
            (gb, np.matmul(wide_a.swapaxes(-1, -2), wide_g), wide_b),
        ):
            extra = full.ndim - like.ndim
            axes = (*range(extra), *(extra + k for k in range(like.ndim) if like.shape[k] == 1 and full.shape[extra + k] != 1))
            np.testing.assert_array_equal(got.data.reshape(like.shape), full.sum(axes).reshape(like.shape), f"{left} @ {right}")
        if a.size and b.size:  # bilinear: d<ga, a>/dg = y
            tg = pre.Tensor(g, requires_grad=True)
            back = pre.grad(ops.matmul(ta, tb), ta, tg, create_graph=True)
            np.testing.assert_array_equal(pre.grad(back, tg, a).data, y.data)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_alone_and_in_a_batch_on_any_number_of_threads_in_any_order(dtype):
    rng = np.random.default_rng(2)
    for rows, inner, columns in ((8, 576, 128), (5, 33, 7), (64, 130, 1), (3, 1000, 257)):
        x, w = rng.standard_normal((rows, inner)).astype(dtype), rng.standard_normal((columns, inner)).astype(dtype)
        b = rng.standard_normal(columns).astype(dtype)
        with pre.config(threads=1):
            whole = ops.linear(x, w, b)
            product = ops.matmul(x, w.T)
        for threads in (1, 2, 3):
            with pre.config(threads=threads):
                for k in range(0, rows, max(1, rows // 8)):
                    assert ops.linear(x[k : k + 1], w, b).tobytes() == whole[k : k + 1].tobytes()
                    assert ops.linear(x[k], w, b).tobytes() == whole[k].tobytes()
                    assert ops.matmul(x[k], w.T).tobytes() == product[k].tobytes()
                assert ops.linear(np.stack([x[::-1], x]), w, b)[1].tobytes() == whole.tobytes()
                assert ops.linear(x, pre.prepare(w), b).tobytes() == whole.tobytes()
                batched = ops.matmul(np.stack([x, x[::-1]]), np.stack([w.T, w.T]))
                shared = ops.matmul(x, np.stack([w.T, -w.T]))
                assert batched[0].tobytes() == shared[0].tobytes() == product.tobytes()
                for other, again in zip(placed(x), placed(w.T), strict=False):
                    assert np.ascontiguousarray(ops.matmul(other, again)).tobytes() == product.tobytes()


def test_gradients_have_the_same_bits_on_any_number_of_threads():
    rng = np.random.default_rng(3)
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((70, 300), (90, 300), (90,)))
    g = rng.standard_normal((70, 90)).astype(np.float32)
    seen = set()
    for threads in (1, 2, 3):
        with pre.config(threads=threads):
            leaves = [pre.Tensor(v, requires_grad=True) for v in (x, w, b)]
            found = pre.grad(ops.linear(*leaves), leaves, g)
            pair = pre.grad(ops.matmul(leaves[0], leaves[1].T), leaves[:2], g)
            seen.add(b"".join(v.data.tobytes() for v in (*found, *pair)))
    assert len(seen) == 1


def test_infinity_and_nan_go_where_the_definition_sends_them():
    rng = np.random.default_rng(4)
    for dtype in DTYPES:
        a, b = rng.standard_normal((5, 6)).astype(dtype), rng.standard_normal((6, 4)).astype(dtype)
        a[1, 2], a[3, 3], b[4, 1], a[0, 4] = np.inf, np.nan, -np.inf, 0.0
        b[2, 0] = 0.0
        with np.errstate(all="ignore"):
            terms = a.astype(np.float64)[:, :, None] * b.astype(np.float64)[None]
            wanted = terms.sum(1)
        for got in (ops.matmul(a, b), ops.linear(a, np.ascontiguousarray(b.T)), ops.matmul(a[None], b[None])[0]):
            got = np.asarray(got, np.float64)
            np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
            np.testing.assert_array_equal(got[np.isinf(wanted)], wanted[np.isinf(wanted)])


def test_narrow_products_are_rounded_once():
    """Sums that float32 holds exactly, and the narrow format does not."""
    rng = np.random.default_rng(5)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        a, b = rng.integers(-100, 101, (9, 50)).astype(dtype), rng.integers(-50, 51, (50, 8)).astype(dtype)
        wanted = np.matmul(a.astype(np.int64), b.astype(np.int64))
        c = rng.integers(-60, 61, 8).astype(dtype)
        assert ops.matmul(a, b).tobytes() == wanted.astype(np.float32).astype(dtype).tobytes()
        got = ops.linear(a, np.ascontiguousarray(b.T), c)
        assert got.tobytes() == (wanted + c.astype(np.int64)).astype(np.float32).astype(dtype).tobytes()


def test_mixed_dtypes():
    x, w = np.full((2, 3), 1.5, np.float16), np.full((4, 3), 2.0**-12, np.float64)
    assert ops.matmul(x, w.T).dtype == np.float64
    got = ops.linear(x, w, np.ones(4, np.float32))
    assert got.dtype == np.float16
    leaves = [pre.Tensor(x, requires_grad=True), pre.Tensor(w, requires_grad=True)]
    gx, gw = pre.grad(ops.linear(*leaves).sum(), leaves)
    assert (gx.dtype, gw.dtype) == (np.float16, np.float64)
    assert ops.linear(x, pre.prepare(w)).dtype == np.float16


@pytest.mark.parametrize(
    "other", ["a bias of other type", "a bias turned round", "a weight of other type", "a weight by columns", "x by columns"]
)
def test_layers_like_one_before_take_the_arrays_that_they_are_given(other):
    """The shorter way of calls of plain arrays: new values of weights, prepared ones too, and arrays that differ in one thing."""
    rng = np.random.default_rng(8)
    x, w, b = (rng.integers(-9, 10, shape).astype(np.float32) for shape in ((3, 50), (20, 50), (20,)))
    prepared = pre.prepare(w)
    with pre.config(engine="jit", threads=1):
        for repeat in range(4):
            if repeat == 3:
                w, b = w + 1, b - 1
                prepared.refresh(w)
            for weight in (w, prepared):
                np.testing.assert_array_equal(ops.linear(x, weight, b), x @ w.T + b)
                np.testing.assert_array_equal(ops.linear(x, weight), x @ w.T)
            args = {
                "a bias of other type": (x, w, b.astype(np.float64)), "a bias turned round": (x, prepared, b[::-1]),
                "a weight of other type": (x, w.astype(np.float64), b), "a weight by columns": (x, np.asfortranarray(w), b),
                "x by columns": (np.asfortranarray(x), prepared, b),
            }[other]  # fmt: skip
            got = ops.linear(*args)
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, x @ w.T + args[2])


def test_the_layer_holds_its_packed_weight():
    rng = np.random.default_rng(6)
    layer = nn.Linear(40, 24, rng=0)
    x = rng.standard_normal((6, 40)).astype(np.float32)
    recorded = layer(x)
    with pre.no_grad():
        assert layer.packed_bytes == 0
        first = layer(x)
        assert layer.packed_bytes > layer.weight.data.nbytes
        assert first.tobytes() == recorded.data.tobytes() == layer(x).tobytes()
        layer.weight.data[0, 0] += 1.0  # in place: seen from the values
        np.testing.assert_allclose(layer(x)[:, 0] - first[:, 0], x[:, 0], atol=1e-5)
        layer.weight.assign(np.zeros((24, 40), np.float32))
        np.testing.assert_array_equal(layer(x), np.broadcast_to(layer.bias.data, (6, 24)))
        assert isinstance(nn.Linear(40, 24, bias=False, rng=0)(x), np.ndarray)
        assert nn.Linear(40, 24, rng=0)(x[0]).shape == (24,)


@pytest.mark.skipif(not glob.glob("/proc/self/task/*/stat"), reason="threads are counted in /proc")
def test_one_thread_runs_where_one_is_asked_for():
    """CPU time by thread, as the system counts it: none but the caller's grows."""

    def spent():
        found = {}
        for path in glob.glob("/proc/self/task/*/schedstat"):
            with open(path) as file:
                found[int(path.split("/")[4])] = int(file.read().split()[0])
        return found

    rng = np.random.default_rng(7)
    x, w = rng.standard_normal((256, 512)).astype(np.float32), rng.standard_normal((512, 512)).astype(np.float32)
    layer = nn.Linear(512, 512)
    tx, tw = pre.Tensor(x, requires_grad=True), pre.Tensor(w, requires_grad=True)
    with pre.config(threads=1):
        for repeat in range(2):  # kernels are compiled in the first round
            before = spent() if repeat else {}
            for _ in range(12):
                ops.matmul(x, w)
                ops.linear(x, w)
                ops.matmul(x.reshape(4, 64, 512), np.broadcast_to(w, (4, 512, 512)))
                layer(x)
                pre.grad(ops.matmul(tx, tw), [tx, tw], x)
        after = spent()
    mine = after[os.getpid()] - before[os.getpid()]
    others = {k: v - before.get(k, 0) for k, v in after.items() if k != os.getpid()}
    assert mine > 0
    assert all(v < mine / 20 for v in others.values()), (mine, others)
