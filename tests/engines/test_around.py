"""Generated kernels around the contractions against NumPy: exact where NumPy's steps round alike, any layout, threads, width."""

from __future__ import annotations

import numpy as np
import pytest
from around_kernels import SHAPE, beside, data, laid, same

import preimage as pre
from preimage import ops
from preimage.engines import around, get

kernels = pytest.importorskip("preimage.engines.jit.compiler.kernels")
if kernels.unavailable():
    pytest.skip(kernels.unavailable(), allow_module_level=True)

EXACT = {
    "relu": ops.relu,
    "leaky_relu": lambda x: ops.leaky_relu(x, 0.1),
    "leaky_relu of slope -2": lambda x: ops.leaky_relu(x, -2.0),
    "hardsigmoid": ops.hardsigmoid,
    "hardswish": ops.hardswish,
    "relu6": ops.relu6,
    "clip": lambda x: ops.clip(x, -1.0, 2.0),
    "clip below": lambda x: ops.clip(x, lo=0.0),
    "clip above": lambda x: ops.clip(x, hi=0.0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("name", EXACT)
def test_steps_round_as_numpy(name, layout, dtype, width):
    got, want = beside(EXACT[name], laid(data(dtype=dtype), layout))
    same(got, want)
    assert got.strides == want.strides


BINARY = {"add": ops.add, "subtract": ops.subtract, "multiply": ops.multiply, "divide": ops.divide, "maximum": ops.maximum,
          "minimum": ops.minimum}  # fmt: skip
#: Shapes that broadcast against SHAPE: all, channels, images and channels, space, images and space, the last axis, one.
OTHERS = [SHAPE, (1, 21, 1, 1), (2, 21, 1, 1), (33, 29), (2, 1, 33, 29), (21, 33, 29), (29,), (2, 1, 1, 1), (1,), ()]


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("shape", OTHERS)
def test_operands_broadcast(shape, layout):
    x, y = laid(data(), layout), np.array(np.random.default_rng(1).standard_normal(shape), np.float32)
    y = laid(y, layout) if y.ndim == 4 else y
    ran = 0
    for name, op in BINARY.items():
        for arguments in ((x, y), (y, x)):
            with np.errstate(all="ignore"):
                made = around.pointwise({"subtract": "sub", "multiply": "mul", "divide": "div"}.get(name, name), *arguments)
            with pre.config(engine="gemm"):
                want = op(*arguments)
            if made is not None:
                ran += 1
                same(made, want)
            with pre.config(threads=2):
                same(op(*arguments), want)
    # in channels-last memory, space without channels is neither a row nor a column together with images
    assert ran or layout == "channels_last"


@pytest.mark.parametrize("shape", [(3,), (2, 3), (4096,), (5000,), (17, 1, 1), (1, 1, 300, 1)])
def test_small_and_odd_shapes(shape):
    x = data(shape, special=False)
    for word in ("exp", "sigmoid", "tanh"):
        a, b = around.function(word, x), around.function(word, x.reshape(-1)[::-1].copy())
        np.testing.assert_array_equal(a.reshape(-1), b[::-1])


def ulps(got, exact):
    """The distance in units of the last place of the exact values."""
    near = exact.astype(got.dtype)
    unit = np.spacing(np.abs(near)).astype(np.longdouble)
    return float((np.abs(got.astype(np.longdouble) - exact) / unit).max())


LIMITS = {"exp": 1.1, "tanh": 1.4, "sigmoid": 2.4}
EXACTLY = {"exp": np.exp, "tanh": np.tanh, "sigmoid": lambda x: np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("word", LIMITS)
def test_functions_are_right_to_the_last_places(word, dtype, width):
    rng = np.random.default_rng(2)
    span = 87 if dtype == np.float32 else 700
    x = np.concatenate([rng.uniform(-span, span, 30000), rng.standard_normal(30000), rng.standard_normal(3000) * 1e-5]).astype(
        dtype
    )
    assert ulps(around.function(word, x), EXACTLY[word](x.astype(np.longdouble))) < LIMITS[word]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_at_the_edges(dtype, width):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, -1e-42, 800, -800], dtype)
    same(around.function("exp", x), np.array([np.nan, np.inf, 0, 1, 1, 1, 1, np.inf, 0], dtype))
    same(around.function("sigmoid", x), np.array([np.nan, 1, 0, 0.5, 0.5, 0.5, 0.5, 1, 0], dtype))
    same(around.function("tanh", x), np.array([np.nan, 1, -1, 0, -0.0, x[5], x[6], 1, -1], dtype))
    low = np.array([-103.5, -88.0] if dtype == np.float32 else [-744.5, -709.0], dtype)  # denormal results
    assert np.all(np.abs(around.function("exp", low) - np.exp(low)) <= np.finfo(dtype).smallest_subnormal)


def test_silu_is_the_product_of_its_steps():
    x = data(seed=20)
    with np.errstate(all="ignore"):
        same(ops.silu(x), np.maximum(x, np.float32(-1000)) * around.function("sigmoid", x))
        same(ops.silu(x[:, :, :1, :3]), ops.silu(x)[:, :, :1, :3])


@pytest.mark.parametrize("word", LIMITS)
def test_functions_have_one_set_of_bits(word):
    """Any position, vector width, layout and number of threads."""
    x = data((3, 5, 61, 47), special=False)
    want = around.function(word, x)
    for target in ("avx512", "avx2"):
        if kernels.named_target(target).runs_here:
            with kernels.use_target(target):
                same(around.function(word, x), want)
    same(around.function(word, laid(x, "channels_last")), want)
    same(around.function(word, x[1:2, :, 1::2]), want[1:2, :, 1::2])
    with pre.config(threads=1):
        same(around.function(word, x), want)


def test_nothing_is_generated_when_another_engine_is_asked_for():
    x = data()
    with pre.config(engine="gemm"):
        assert around.function("exp", x) is None
        assert around.pointwise("leaky_relu", x, numbers=(0.1,)) is None
    assert around.chain((np.zeros(1 << 16, np.float16),), (("relu", (0,)),)) is None


def test_debug_says_what_ran(capsys):
    with pre.config(debug=1):
        ops.sigmoid(data())
    assert "sigmoid of (2, 21, 33, 29) float32 runs on jit" in capsys.readouterr().err


# -- sums per channel --------------------------------------------------------------------------------------------------

SUM_SHAPES = [(2, 21, 33, 29), (1, 24, 80, 90), (3, 5, 7), (1, 1, 1), (4, 33, 1, 1), (2, 3, 100, 101), (9, 40)]


def per_channel(values, ndim):
    return values.reshape(*values.shape, *[1] * (ndim - 2))


def summed(x, mode, images, g, m):
    kept = [] if mode == "plain" else [m]
    return around.channel_sums(x, mode, images, g if mode == "products" else None, *kept)


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("mode", ["plain", "squares", "products"])
@pytest.mark.parametrize("shape", SUM_SHAPES)
def test_channel_sums_are_exact_on_integers(shape, mode, images, width):
    rng = np.random.default_rng(4)
    x, g = (rng.integers(-4, 5, shape).astype(np.float32) for _ in range(2))
    m = rng.integers(-2, 3, shape[1] if images else shape[:2]).astype(np.float32)
    apart = x - per_channel(m, len(shape))
    axes = (*([0] if images else []), *range(2, len(shape)))
    terms = {"plain": [x], "squares": [apart, apart * apart], "products": [g, g * apart]}[mode]
    for layout in ("channels_first", "channels_last"):
        got = summed(laid(x, layout), mode, images, laid(g, layout), m)
        for a, b in zip(got, terms, strict=True):
            np.testing.assert_array_equal(a, b.astype(np.float64).sum(axes))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["plain", "squares", "products"])
def test_channel_sums_have_one_set_of_bits(mode, dtype):
    x, g = data((3, 37, 50, 61), dtype, 5, special=False), data((3, 37, 50, 61), dtype, 6, special=False)
    m = x.mean((2, 3))
    want = summed(x, mode, False, g, m)
    for layout in ("channels_first", "channels_last"):
        for target in ("avx512", "avx2"):
            for threads in (1, 2):
                if kernels.named_target(target).runs_here:
                    with kernels.use_target(target), pre.config(threads=threads):
                        got = summed(laid(x, layout), mode, False, laid(g, layout), m)
                    for a, b in zip(got, want, strict=True):
                        same(a, b)
    for a, b in zip(summed(x[1:2], mode, False, g[1:2], m[1:2]), want, strict=True):
        same(a, b[1:2])
    for a, b in zip(summed(x[:, ::2], mode, False, g[:, ::2], m[:, ::2]), want, strict=True):
        same(a, b[:, ::2])


def test_sums_are_near_the_exact_ones():
    x = np.random.default_rng(7).random((1, 2, 700, 900)).astype(np.float32)
    (got,) = around.channel_sums(x, "plain", False)
    exact = x.astype(np.float64).sum((2, 3))
    assert np.abs(got / exact - 1).max() < 4e-7


@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("axes", [(2, 3), (0, 2, 3)])
def test_the_operations_sum_so(axes, keepdims):
    x = laid(np.random.default_rng(8).integers(-9, 9, SHAPE).astype(np.float32), "channels_last")
    got, want = beside(lambda v: ops.sum(v, axes, keepdims), x)
    same(got, want)
    rows = np.random.default_rng(9).integers(-9, 9, (300, 40)).astype(np.float64)
    got, want = beside(lambda v: ops.sum(v, 0), rows)
    same(got, want)


def test_infinities_and_nans_go_where_they_belong():
    x = np.ones((2, 20, 5, 7), np.float32)
    x[0, 3, 4, 6], x[1, 5, 0, 0], x[1, 5, 4, 6], x[1, 19, 2, 2] = np.inf, np.inf, -np.inf, np.nan
    for layout in ("channels_first", "channels_last"):
        got = around.channel_sums(laid(x, layout), "plain", False)[0]
        want = np.full((2, 20), 35, np.float32)
        want[0, 3], want[1, 5], want[1, 19] = np.inf, np.nan, np.nan
        np.testing.assert_array_equal(got, want)


# -- softmax -----------------------------------------------------------------------------------------------------------

SOFTMAX = [
    ((2, 21, 33, 29), 1),
    ((2, 21, 33, 29), 3),
    ((2, 21, 33, 29), 0),
    ((64, 1000), 1),
    ((5, 16), 1),
    ((3,), 0),
    ((7, 1), 1),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), SOFTMAX)
def test_softmax_and_its_gradient(shape, axis, dtype, width):
    rng = np.random.default_rng(16)
    x, g = (rng.standard_normal(shape) * 5).astype(dtype), rng.standard_normal(shape).astype(dtype)
    exact = np.exp((x - x.max(axis, keepdims=True)).astype(np.longdouble))  # the difference rounds in the array's dtype
    exact /= exact.sum(axis, keepdims=True)
    got = around.softmax(x, axis)
    eps = np.finfo(dtype).eps
    assert np.abs(got / exact - 1).max() < 6 * eps
    slope = exact * (g - (g * exact).sum(axis, keepdims=True))
    assert np.abs(around.softmax(got, axis, g) - slope).max() < 8 * eps * np.abs(g).max()


@pytest.mark.parametrize(("shape", "axis"), SOFTMAX[:5])
def test_softmax_has_one_set_of_bits(shape, axis):
    x, g = data(shape, seed=17, special=False), data(shape, seed=18, special=False)
    want = around.softmax(x, axis)
    back = around.softmax(want, axis, g)
    places = ["channels_first", "channels_last"] if len(shape) == 4 else ["channels_first"]
    for layout in places:
        for target in ("avx512", "avx2"):
            for threads in (1, 2):
                if kernels.named_target(target).runs_here:
                    with kernels.use_target(target), pre.config(threads=threads):
                        same(around.softmax(laid(x, layout), axis), want)
                        same(around.softmax(laid(want, layout), axis, laid(g, layout)), back)
    if axis:
        same(around.softmax(x[1:2], axis), want[1:2])
    same(around.softmax(np.swapaxes(x, 0, axis).copy(), 0), np.swapaxes(want, 0, axis))


def test_softmax_at_the_edges():
    x = np.array([[np.inf, 0, 1], [np.nan, 0, 1], [-np.inf, 0, -np.inf], [-np.inf] * 3, [3e38, -3e38, 3e38]], np.float32)
    for values in (x, np.asfortranarray(x)):
        got, want = beside(lambda v: ops.softmax(v, 1), values)
        np.testing.assert_array_equal(got, want)


def test_gradient_of_softmax_as_recorded():
    x, g = data((3, 40, 9), np.float64, special=False), data((3, 40, 9), np.float64, seed=3, special=False)
    t = pre.Tensor(x, requires_grad=True)
    (fused,), (recorded,) = (pre.grad(ops.softmax(t, 1), [t], g, create_graph=c) for c in (False, True))
    np.testing.assert_allclose(fused.data, recorded.data, rtol=0, atol=1e-14)


def test_any_engine_may_offer_kernels(monkeypatch):
    """What an engine computes beside the contractions is asked of the engine that the settings choose."""

    class Doubled:
        def run_chain(self, operands, steps, numbers=(), results=None):
            return (2 * operands[0],)

    x = np.arange(1.0, 9.0)
    monkeypatch.setattr(around, "_found", {})
    with pre.config(engine="gemm"):
        assert around.function("exp", x) is None
        monkeypatch.setattr(get("gemm"), "kernels", Doubled(), raising=False)
        np.testing.assert_array_equal(around.function("exp", x), 2 * x)
