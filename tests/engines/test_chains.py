"""Chains of steps on arrays of any shapes, strides and dtypes; their functions against NumPy's long doubles and C's erf."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from around_kernels import same

import preimage as pre
from preimage import ops
from preimage.engines import around
from preimage.engines.recording import Recorder

kernels = pytest.importorskip("preimage.engines.jit.compiler.kernels")
if kernels.unavailable():
    pytest.skip(kernels.unavailable(), allow_module_level=True)
from preimage.engines.jit.elementwise.chain import run_chain  # noqa: E402

BOTH = (np.float32, np.float64)
SPECIAL = [0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-42, -1e-42, 2, 0.5, -0.5, 1.5, 2.5, -2.5, 100, -100, 3e38, -3e38, 5e30]

# -- functions ---------------------------------------------------------------------------------------------------------

by_c = np.vectorize(math.erf, otypes=[float])
complement = np.vectorize(math.erfc, otypes=[float])
long = np.longdouble


def _cdf(x):
    return complement(-x.astype(float) / math.sqrt(2)) / 2


#: The definition, the largest error in units in the last place (float32, float64), and where arguments are drawn from.
FUNCTIONS = {
    "log": (np.log, (0.9, 0.9), "positive"),
    "log1p": (np.log1p, (0.9, 0.9), "above -1"),
    "expm1": (np.expm1, (1.4, 2.0), "small"),
    "sin": (np.sin, (0.51, 0.8), "turns"),
    "cos": (np.cos, (0.51, 0.8), "turns"),
    "asin": (np.arcsin, (0.501, 3.0), "ratios"),
    "acos": (np.arccos, (0.501, 3.0), "ratios"),
    "atan": (np.arctan, (0.501, 3.0), "signed"),
    "sinh": (np.sinh, (0.501, 3.4), "powers of e"),
    "cosh": (np.cosh, (0.501, 3.4), "powers of e"),
    "asinh": (np.arcsinh, (0.501, 2.0), "signed"),
    "acosh": (np.arccosh, (0.501, 2.6), "above 1"),
    "atanh": (np.arctanh, (0.501, 2.0), "ratios"),
    "erf": (by_c, (1.1, 2.5), "small"),
    "normal_cdf": (_cdf, (5, None), "small"),
    "gelu": (lambda x: x * _cdf(x), (5, None), "small"),
    "softplus": (lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), (1.8, 1.8), "small"),
    "mish": (lambda x: x * np.tanh(np.log1p(np.exp(x))), (3.5, 3.5), "small"),
    "silu": (lambda x: x / (1 + np.exp(-x)), (3.2, 3.2), "small"),
}


def arguments(kind, dtype):
    rng = np.random.default_rng(5)
    n, normal = 4000, rng.standard_normal(4000)
    small = [normal, normal * 3, normal * 1e-3, normal * 1e-9, rng.uniform(-12, 12, n)]
    wide = np.exp(rng.uniform(-85, 85, n))
    drawn = {
        "small": small,
        "positive": [wide, 1 + normal * 1e-3, rng.uniform(0.5, 1.6, n), np.full(9, 3e-41)],
        "above -1": [wide, normal * 1e-3, rng.uniform(-0.999, 2, n)],
        "ratios": [rng.uniform(-1, 1, n), np.tanh(normal * 1.5), normal * 1e-9],
        "signed": [*small, wide, -wide],
        "powers of e": [*small, rng.uniform(-88, 88, n)],
        "above 1": [1 + wide, 1 + abs(normal), 1 + abs(normal) * 1e-6, np.float64([1])],
        "turns": [normal, normal * 100, np.round(normal * 1000) * (math.pi / 2), wide[wide < 2**40]],
    }
    return np.concatenate(drawn[kind]).astype(dtype)


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("word", FUNCTIONS)
def test_functions_are_right_to_the_last_places(word, dtype, width):
    definition, limits, kind = FUNCTIONS[word]
    limit = limits[dtype == np.float64]
    if limit is None:  # C's erfc in double is no better
        pytest.skip("the definition has no more digits")
    x = arguments(kind, dtype)
    exact = definition(x.astype(long))
    got = around.function(word, x)
    unit = np.spacing(np.abs(exact.astype(dtype))).astype(long)
    assert float((np.abs(got.astype(long) - exact) / unit).max()) < limit


def test_the_left_tail_of_the_normal_distribution_keeps_its_digits():
    x = np.linspace(-36, -1, 700)
    np.testing.assert_allclose(around.function("normal_cdf", x), _cdf(x), rtol=3e-13)  # the reference rounds x / sqrt(2)
    far = np.array([-np.inf, -50, 50, np.inf])
    np.testing.assert_array_equal(around.function("normal_cdf", far), [0, 0, 1, 1])


#: sin of 2^k, k = 30, 40, ..., 120 and of the double nearest to a multiple of pi/2, by 300 digits (mpmath).
FAR = [
    (2.0**30, -0.6173264150460421), (2.0**40, -0.40570501153282873), (2.0**60, -0.8306492176372546), (2.0**120, 0.377820109360752),
    (1e22, -0.8522008497671888), (6381956970095103.0 * 2.0**797, 1.0), (-(2.0**60), 0.8306492176372546),
]  # fmt: skip


@pytest.mark.parametrize("dtype", BOTH)
def test_large_arguments_of_sine_and_cosine_are_reduced_exactly(dtype):
    taken = [(x, s) for x, s in FAR if dtype == np.float64 or x in (2.0**30, 2.0**40, 2.0**60, 2.0**120)]
    x, want = (np.array(v, np.float64) for v in zip(*taken, strict=True))
    np.testing.assert_allclose(around.function("sin", x.astype(dtype)), want, rtol=2e-7 if dtype == np.float32 else 4e-16)
    # the cosine of the famous double is 2^-61: all its digits come from the reduction
    near = around.function("cos", np.array([6381956970095103.0 * 2.0**797]))[0]
    assert abs(near / -4.6871659242546276e-19 - 1) < 1e-15


NUMPY = {
    "log": np.log, "log1p": np.log1p, "expm1": np.expm1, "sin": np.sin, "cos": np.cos, "erf": by_c, "floor": np.floor, "ceil": np.ceil,
    "trunc": np.trunc, "round": np.rint, "sign": np.sign, "neg": np.negative, "reciprocal": np.reciprocal, "square": np.square,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh,
    "atanh": np.arctanh,
    "rsqrt": lambda x: 1 / np.sqrt(x), "abs": np.abs, "sqrt": np.sqrt, "softsign": lambda x: np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(x))),
}  # fmt: skip


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("word", NUMPY)
def test_special_values(word, dtype, width):
    x = np.array(SPECIAL, dtype)
    with np.errstate(all="ignore"):
        want = np.asarray(NUMPY[word](x)).astype(dtype)
    got = around.function(word, x)
    near = np.isfinite(want) & (want != 0) & np.isfinite(got)
    np.testing.assert_allclose(got[near], want[near], rtol=1e-6)
    same(np.where(near, 0, got), np.where(near, 0, want))


@pytest.mark.parametrize("dtype", BOTH)
def test_powers(dtype, width):
    rng = np.random.default_rng(6)
    x = np.exp(rng.uniform(-20, 20, 3000)).astype(dtype)
    y = (rng.uniform(-80, 80, 3000) / np.log(x)).astype(dtype)
    exact = np.power(x.astype(long), y.astype(long))
    got = around.function("power", x, y)
    assert float((np.abs(got - exact) / np.spacing(exact.astype(dtype))).max()) < (0.6 if dtype == np.float32 else 1.3)
    a, b = (np.ascontiguousarray(v.ravel()) for v in np.meshgrid(*[np.array(SPECIAL, dtype)] * 2))
    with np.errstate(all="ignore"):
        want = np.power(a.astype(long), b.astype(long)).astype(dtype)
    got = around.function("power", a, b)
    near = np.isfinite(want) & (want != 0)
    np.testing.assert_allclose(got[near], want[near], rtol=1e-6)
    same(np.where(near, 0, got), np.where(near, 0, want))


WORDS = [
    "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "erf", "expm1", "gelu", "gelu_tanh", "log", "log1p", "mish",
    "normal_cdf", "silu", "sin", "sinh", "softplus", "tan",
]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_no_vector_width_changes_a_bit(word, monkeypatch):
    from preimage.engines.jit.elementwise import chain

    x = np.concatenate([arguments("small", np.float32)[::7], np.array(SPECIAL, np.float32)])
    want = around.function(word, x)
    for lanes in (1, 8):
        monkeypatch.setattr(chain, "lanes_for", lambda *_, n=lanes: n)
        monkeypatch.setattr(chain, "_ready", {})
        same(around.function(word, x), want)


# -- shapes, strides, dtypes -------------------------------------------------------------------------------------------

DTYPES = (np.float32, np.float64, np.uint8, np.int32, np.int64, np.float16, np.int16, np.int8)


def anyhow(rng, shape, dtype):
    """Values that broadcast to the shape, in any order of axes, with gaps and negative strides."""
    own = tuple(1 if rng.random() < 0.3 else n for n in shape)
    own = own[rng.integers(0, len(shape)) :] if rng.random() < 0.3 else own
    order = rng.permutation(len(own))
    data = (rng.standard_normal([2 * own[k] for k in order]) * 50).astype(dtype).transpose(np.argsort(order))
    cut = (lambda n: slice(0, n), lambda n: slice(None, None, 2), lambda n: slice(n - 1, None, -1))
    return data[tuple(cut[rng.integers(3)](n) for n in own)]


@pytest.mark.parametrize("seed", range(40))
def test_any_arrays_as_numpy_has_them(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 8, rng.integers(1, 6)))
    a, b = (anyhow(rng, shape, DTYPES[rng.integers(8)]) for _ in range(2))
    chosen = anyhow(rng, shape, np.int8) > 0
    dtype = np.dtype(BOTH[rng.integers(2)])
    steps = (("sub", (0, 1)), ("where", (2, 3, 0)), ("less", (0, 1)))
    got = run_chain((a, b, chosen), steps, (), (4, 5), dtype, (dtype, np.dtype(bool)))
    x, y = a.astype(dtype), b.astype(dtype)
    for made, want in zip(got, np.broadcast_arrays(np.where(chosen, x - y, x), x < y, chosen)[:2], strict=True):
        np.testing.assert_array_equal(made, want)
    (copied,) = run_chain((a,), (), out=(np.zeros(a.shape[::-1], a.dtype).T,))
    np.testing.assert_array_equal(copied, a)
    with pre.config(threads=3):
        again = run_chain((a, b, chosen), steps, (), (4, 5), dtype, (dtype, np.dtype(bool)))
    for one, other in zip(got, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("turn", [(0, 3, 1, 2), (0, 2, 3, 1), (3, 2, 1, 0)])
def test_large_copies_in_another_order(turn, threads):
    x = np.random.default_rng(3).standard_normal((3, 37, 45, 29)).astype(np.float32)
    with pre.config(threads=threads):
        (made,) = run_chain((x.transpose(turn),), (), out=(np.empty([x.shape[k] for k in turn], np.float32),))
    np.testing.assert_array_equal(made, x.transpose(turn))


def test_casts_round_once():
    rng = np.random.default_rng(4)
    x = np.concatenate([rng.standard_normal(9000) * 300, SPECIAL]).astype(np.float32)
    with np.errstate(all="ignore"):
        half = x.astype(np.float16)
    same(around.cast(x, np.dtype(np.float16)), half)
    same(around.cast(half, np.dtype(np.float32)), half.astype(np.float32))
    finite = x[np.abs(x) < 1e9]
    for kind in (np.int32, np.int64, np.int16, np.uint8):
        np.testing.assert_array_equal(
            run_chain((finite,), (), dtype=x.dtype, dtypes=(np.dtype(kind),))[0], finite.astype(np.int64).astype(kind)
        )
    whole = rng.integers(-(2**62), 2**62, 9000)
    for kind in BOTH:
        same(around.cast(whole, np.dtype(kind)), whole.astype(kind))
    picture = rng.integers(0, 256, (3, 61, 70), np.uint8)
    same(around.cast(picture.transpose(1, 2, 0), np.dtype(np.float32)), picture.transpose(1, 2, 0).astype(np.float32))
    assert around.cast(x.astype(np.float64), np.dtype(np.float16)) is None  # would be rounded twice


def test_results_may_be_operands():
    x = np.random.default_rng(8).standard_normal((50, 400)).astype(np.float32)
    want, held = around.function("exp", x), x.copy()
    run_chain((held,), (("exp", (0,)),), out=(held,))
    np.testing.assert_array_equal(held, want)


def test_nothing_to_compute():
    for shape in ((0,), (3, 0, 2), (0, 5)):
        assert (
            run_chain((np.zeros(shape, np.float32), np.zeros((1,) * len(shape), np.float32)), (("add", (0, 1)),))[0].shape
            == shape
        )
    assert ops.erf(np.zeros((0, 3), np.float32)).shape == (0, 3)
    assert run_chain((np.zeros(3, complex),), (("add", (0, 0)),)) is None


def test_a_wrong_stride_is_seen(monkeypatch):
    """The comparisons above can fail: with two strides of the first operand exchanged they do."""
    from preimage.engines.jit.elementwise import chain

    joined = chain._joined
    x = np.random.default_rng(9).standard_normal((9, 9, 9)).astype(np.float32)
    y = x.transpose(2, 0, 1)
    np.testing.assert_array_equal(run_chain((x, y), (("sub", (0, 1)),))[0], x - y)
    monkeypatch.setattr(chain, "_ready", {})

    def exchanged(sizes, strides):
        sizes, (a, b, *others) = joined(sizes, strides)
        return sizes, [(b[0], *a[1:]), (a[0], *b[1:]), *others]

    monkeypatch.setattr(chain, "_joined", exchanged)
    assert not np.array_equal(run_chain((x, y), (("sub", (0, 1)),))[0], x - y)


def test_planned_for_narrower_registers(monkeypatch):
    """A target with NEON's registers plans and writes its kernels (nothing of it can run here)."""
    from preimage.engines.jit.elementwise import chain

    specs, narrow = [], replace(kernels.current_target(), vector_bytes=16)
    monkeypatch.setattr(chain, "kept_kernel", specs.append)
    monkeypatch.setattr(chain.kernels, "current_target", lambda: narrow)
    x = np.zeros((4, 5), np.float32)
    for word in ("add", "power"):
        chain.Chain((x, x), ((word, (0, 1)),), 0, (2,), x.dtype, (x.dtype,), None)
    assert [spec.lanes for spec in specs] == [4, 16]
    assert all(spec.ir().startswith("define void @kernel") for spec in specs)


@pytest.mark.parametrize(
    ("word", "elements", "sleeping"), [("add", 1 << 17, 1), ("add", 1 << 19, 2), ("tanh", 1 << 15, 1), ("tanh", 1 << 17, 2)]
)
def test_threads_that_may_be_asleep_are_woken_for_much_only(word, elements, sleeping, monkeypatch):
    from preimage.engines.jit.elementwise import chain

    asked = []
    launch = chain.launch_arrays
    monkeypatch.setattr(chain, "launch_arrays", lambda *given: asked.append(given[3]) or launch(*given))
    x = np.linspace(-3, 3, elements, dtype=np.float32)
    operands = (x, x) if word == "add" else (x,)
    recorder = Recorder()
    with pre.config(threads=2, engine="jit"):
        (alone,) = chain.run_chain(operands, ((word, tuple(range(len(operands)))),))
        known = [recorder.watch(each) for each in operands]
        with recorder:
            (shared,) = chain.run_chain(known, ((word, tuple(range(len(operands)))),))
    assert asked == [sleeping, 2]
    assert alone.tobytes() == shared.tobytes()
