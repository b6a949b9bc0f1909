"""Generated kernels around the contractions against NumPy: exact where NumPy's steps round alike, any layout, threads, width."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage import ops
from preimage.engines import around

llvm = pytest.importorskip("preimage.engines.jit.llvm")
if llvm.unavailable():
    pytest.skip(llvm.unavailable(), allow_module_level=True)

SHAPE = (2, 21, 33, 29)
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, -1e-42, 3e38, -3e38]


@pytest.fixture(params=["avx512", "avx2"])
def width(request):
    target = llvm.named_target(request.param)
    if not target.runs_here:
        pytest.skip(f"no {request.param} here")
    with llvm.use_target(target):
        yield request.param


def data(shape=SHAPE, dtype=np.float32, seed=0, special=True):
    x = (np.random.default_rng(seed).standard_normal(shape) * 4).astype(dtype)
    if special:
        x.reshape(-1)[5 : 5 + len(SPECIAL)] = SPECIAL
    return x


def laid(x, layout):
    if layout == "channels_last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    return x


def same(got, want):
    """The same numbers and signs of zeros; NaN where NaN is."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert np.array_equal(np.isnan(got), np.isnan(want))
    there = ~np.isnan(want)
    np.testing.assert_array_equal(got[there], want[there])
    assert np.array_equal(np.signbit(got[there]), np.signbit(want[there]))


def beside(function, *arrays, threads=2):
    """What the jit engine's kernels give and what NumPy gives; the first must have been asked."""
    made, kept = [], around.told
    around.told = lambda what, *a: made.append(what)
    try:
        with pre.no_grad(), pre.config(threads=threads), np.errstate(all="ignore"):
            got = function(*arrays)
    finally:
        around.told = kept
    assert made, "no generated kernel ran"
    with pre.no_grad(), pre.config(engine="gemm"), np.errstate(all="ignore"):
        return got, function(*arrays)


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
        same(ops.silu(x), x * around.function("sigmoid", x))
        same(ops.silu(x[:, :, :1, :3]), ops.silu(x)[:, :, :1, :3])


@pytest.mark.parametrize("word", LIMITS)
def test_functions_have_one_set_of_bits(word):
    """Any position, vector width, layout and number of threads."""
    x = data((3, 5, 61, 47), special=False)
    want = around.function(word, x)
    for target in ("avx512", "avx2"):
        if llvm.named_target(target).runs_here:
            with llvm.use_target(target):
                same(around.function(word, x), want)
    same(around.function(word, laid(x, "channels_last")), want)
    same(around.function(word, x[1:2, :, 1::2]), want[1:2, :, 1::2])
    with pre.config(threads=1):
        same(around.function(word, x), want)


def test_nothing_is_generated_when_another_engine_is_asked_for():
    x = data()
    with pre.config(engine="gemm"):
        assert around.function("exp", x) is None
        assert around.pointwise("leaky_relu", x, numbers=(0.1,), passes=2) is None
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
    terms = {"plain": [x], "squares": [apart * apart], "products": [g, g * apart]}[mode]
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
                if llvm.named_target(target).runs_here:
                    with llvm.use_target(target), pre.config(threads=threads):
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


# -- copies, windows, resizing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_concatenation(axis, layout, width):
    shapes = [[2, 5, 23, 29] for _ in range(3)]
    shapes[1][axis], shapes[2][axis] = 19, 1
    parts = [laid(data(tuple(s), seed=k), layout) for k, s in enumerate(shapes)]
    got, want = beside(lambda *p: ops.concat(list(p), axis), *parts)
    same(got, want)
    assert got.strides == want.strides


POOLS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (3, 5), "stride": (1, 3), "padding": ((1, 0), (2, 3)), "dilation": (2, 1)},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("options", POOLS)
def test_pooling(options, layout, dtype, width):
    x = laid(data(dtype=dtype), layout)
    for op in (ops.max_pool, ops.sum_pool, ops.avg_pool):
        got, want = beside(lambda v, op=op: op(v, **options), x)
        same(got, want)
        assert got.strides == want.strides


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("options", [*POOLS, {"kernel_size": 5, "stride": 2, "padding": 2}, {"kernel_size": 2, "stride": 3}])
def test_gradient_of_average_pooling(options, layout, width):
    """Windows apart, side by side and overlapping; NaN and infinity go to the positions that their window covers."""

    def gradient(v):
        t = pre.Tensor(v, requires_grad=True)
        with pre.enable_grad():
            y = ops.avg_pool(t, **options)
            return pre.grad(y, t, laid(data(y.shape, seed=19), layout)).data

    got, want = beside(gradient, laid(data((2, 40, 66, 58)), layout))
    same(got, want)


def test_pooling_of_one_and_three_axes():
    for shape in ((3, 10, 700), (2, 9, 7, 20, 11)):
        got, want = beside(lambda v: ops.max_pool(v, 3, stride=2, padding=1), laid(data(shape), "channels_last"))
        same(got, want)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("values", ["ties", "special"])
@pytest.mark.parametrize("options", POOLS)
def test_gradient_of_max_pooling(options, values, layout, width):
    """Ties go to the first element in row-major order, of NaNs to the first; overlapping windows add up in order."""
    rng = np.random.default_rng(10)
    x = laid(data() if values == "special" else rng.integers(0, 4, SHAPE).astype(np.float32), layout)

    def gradient(v):
        t = pre.Tensor(v, requires_grad=True)
        with pre.enable_grad():
            y = ops.max_pool(t, **options)
            g = np.random.default_rng(11).standard_normal(y.shape).astype(np.float32)
            return pre.grad(y, t, g).data

    got, want = beside(gradient, x)
    same(got, want)


def test_second_gradient_of_max_pooling():
    x = pre.Tensor(np.random.default_rng(12).standard_normal((2, 3, 60, 50)), requires_grad=True)

    def second():
        (g,) = pre.grad((ops.max_pool(x, 2) ** 3).sum(), [x], create_graph=True)
        return pre.grad((g * g).sum(), x).data

    got = second()
    with pre.config(engine="gemm"):
        np.testing.assert_allclose(got, second(), rtol=1e-12)


RESIZES = [
    {"scale_factor": 2},
    {"scale_factor": (3, 1)},
    {"size": (50, 17)},
    {"scale_factor": 1.5, "mode": "nearest-exact"},
    {"scale_factor": 2, "mode": "linear"},
    {"size": (50, 17), "mode": "linear", "align_corners": True},
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("options", RESIZES)
def test_resizing(options, layout, dtype, width):
    if layout == "channels_first" and options.get("mode") != "linear":
        return  # NumPy's
    got, want = beside(lambda v: ops.upsample(v, **options), laid(data(dtype=dtype), layout))
    same(got, want)
    assert got.strides == want.strides


def test_resizing_of_one_and_three_axes():
    for shape in ((3, 10, 400), (2, 9, 7, 10, 11)):
        for mode, layout in (("nearest", "channels_last"), ("linear", "channels_last"), ("linear", "channels_first")):
            x = laid(data(shape), layout)
            got, want = beside(lambda v, mode=mode: ops.upsample(v, scale_factor=2.5, mode=mode), x)
            same(got, want)


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_gradients_of_relu(slope, layout, dtype):
    x = laid(data(dtype=dtype), layout)
    g = laid(data(dtype=dtype, seed=1), layout)

    def gradient(v):
        t = pre.Tensor(v, requires_grad=True)
        with pre.enable_grad():
            return pre.grad(ops.leaky_relu(t, slope) if slope else ops.relu(t), t, g).data

    same(*beside(gradient, x))


NORMS = {
    "batch": lambda dtype: pre.nn.BatchNorm2d(21, dtype=dtype),
    "batch, plain": lambda dtype: pre.nn.BatchNorm2d(21, affine=False, dtype=dtype),
    "instance": lambda dtype: pre.nn.InstanceNorm2d(21, affine=True, dtype=dtype),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("name", NORMS)
def test_normalisation_and_its_gradients(name, layout, dtype):
    rng = np.random.default_rng(13)
    x = (rng.standard_normal(SHAPE) * 2 + 3).astype(dtype)
    g = rng.standard_normal(SHAPE).astype(dtype)
    w, b = rng.standard_normal(21).astype(dtype), rng.standard_normal(21).astype(dtype)

    def run(v):
        net = NORMS[name](v.dtype)
        if net.weight is not None:
            net.weight.assign(w.astype(v.dtype))
            net.bias.assign(b.astype(v.dtype))
        t = pre.Tensor(v, requires_grad=True)
        with pre.enable_grad():
            y = net(t)
            leaves = [t, *net.parameters()]
            gradients = pre.grad(y, leaves, g.astype(v.dtype))
        running = [np.asarray(net.running_mean), np.asarray(net.running_var)] if name.startswith("batch") else []
        return [y.data, *(a.data for a in gradients), *running]

    got, _ = beside(run, laid(x, layout))
    with pre.config(engine="gemm"):
        want = run(x.astype(np.float64))
    assert got[0].dtype == dtype
    for a, e in zip(got, want, strict=True):
        scale = np.abs(e).max()
        assert np.abs(a - e).max() <= (3e-6 if dtype == np.float32 else 1e-13) * scale
    again = run(laid(x, "channels_first"))
    with pre.config(threads=1), llvm.use_target("avx2"):
        narrow = run(laid(x, "channels_last"))
    for a, e, n in zip(got, again, narrow, strict=True):
        same(a, e)
        same(n, e)


def test_second_gradients_of_normalisation():
    x = pre.Tensor(np.random.default_rng(14).standard_normal((3, 4, 5, 6)), requires_grad=True)
    net = pre.nn.BatchNorm2d(4, dtype=np.float64)

    def second():
        (g,) = pre.grad((net(x) ** 3).sum(), [x], create_graph=True)
        return [g.data, *(a.data for a in pre.grad((g * g).sum(), [x, net.weight]))]

    got = second()
    with pre.config(engine="gemm"):
        want = second()
    for a, e in zip(got, want, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-9)


OPTIMISERS = {
    "sgd": lambda p: pre.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3, dampening=0.2),
    "nesterov": lambda p: pre.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: pre.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: pre.optim.AdamW(p, lr=0.01),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimiser_steps_round_as_numpy(name, dtype):
    rng = np.random.default_rng(15)
    start = rng.standard_normal((40, 30, 3, 3)).astype(dtype)
    gradients = [rng.standard_normal(start.shape).astype(dtype) for _ in range(4)]

    def train(value):
        p = pre.Tensor(value.copy(), requires_grad=True)
        opt = OPTIMISERS[name]([p])
        for g in gradients:
            p.grad = pre.Tensor(g)
            opt.step()
        return p.data

    same(*beside(train, start))


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
                if llvm.named_target(target).runs_here:
                    with llvm.use_target(target), pre.config(threads=threads):
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
