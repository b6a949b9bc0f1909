"""Integer kernels: every element equal to the definition in int64 (`preimage.audit.integers` has the cases and a command for many more)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import preimage as pre
from preimage.audit import integers as audited
from preimage.engines import integers
from preimage.engines.integers import Finish

toolchain = pytest.importorskip("preimage.engines.jit.compiler.toolchain")
import integer_cases  # noqa: E402

from preimage.engines.jit.compiler import kernels  # noqa: E402
from preimage.engines.jit.products.integers.plan import plan_product  # noqa: E402
from preimage.engines.jit.products.integers.product_arguments import ProductSpec  # noqa: E402
from preimage.io.onnx.operators.quantised import dynamically_quantised  # noqa: E402

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("way", "cases"), [(None, 150), ("quads", 30), ("pairs", 30), ("plain", 20)])
def test_random_contractions_are_their_definition(way, cases):
    drawn = audited.Cases(11)
    with integer_cases.added_up(way):
        assert [wrong for _ in range(cases) if (wrong := drawn.run())] == []


@pytest.mark.parametrize("fault", ["the definition adds a bias", "rounds halves up", "forgets a zero point"])
def test_the_cases_notice_faults(fault, monkeypatch):
    plain, centred = audited.finished, audited.centred
    if fault == "the definition adds a bias":
        monkeypatch.setattr(audited, "finished", lambda sums, finish, axis: plain(sums + (sums > 5), finish, axis))
    elif fault == "rounds halves up":
        monkeypatch.setattr(audited.np, "rint", lambda x: np.floor(x + np.float32(0.5)))
    else:
        monkeypatch.setattr(
            audited, "centred", lambda q, zero, form=(): centred(q, None if zero is not None and zero.ndim else zero)
        )
    drawn = audited.Cases(3)
    assert any(drawn.run() for _ in range(100))


def test_sums_of_8192_extreme_products_are_exact_on_any_number_of_threads():
    a, b = np.full((37, 8192), 255, np.uint8), np.full((8192, 41), -128, np.int8)
    a[3], b[:, 7] = RNG.integers(0, 256, 8192), RNG.integers(-128, 128, 8192)
    want = a.astype(np.int64) @ (b.astype(np.int64) - 127)
    for threads in (1, 2, 3):
        with pre.config(threads=threads):
            assert np.array_equal(integers.matmul(a, None, b, np.array(127, np.int8), Finish()), want)


def test_what_integer_kernels_do_not_take_is_left_to_floats():
    a, b = RNG.integers(0, 9, (3, 4)).astype(np.uint8), RNG.integers(0, 9, (4, 5)).astype(np.int8)
    assert integers.matmul(a.astype(np.int16), None, b, None, Finish()) is None
    assert integers.matmul(a, a[:, :1], b, None, Finish()) is None  # a zero point for each row
    assert integers.matmul(a[:0], None, b, None, Finish()) is None
    geometry = pre.ConvGeometry.from_conv((1, 2, 3, 3, 3, 3), (2, 2, 1, 1, 1, 1))
    assert (
        integers.conv(geometry, np.ones((1, 2, 3, 3, 3, 3), np.uint8), None, np.ones((2, 2, 1, 1, 1, 1), np.int8), None, Finish())
        is None
    )
    with pre.config(engine="gemm"):
        assert integers.matmul(a, None, b, None, Finish()) is None


def defined(x):
    """DynamicQuantizeLinear in NumPy, of finite values."""
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = np.float32((high - low) / np.float32(255))
    if not scale:
        return np.zeros(x.shape, np.uint8), scale, 0
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8), scale, zero


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (40, 1003), (2, 300, 401)])
def test_dynamic_quantisation_is_its_definition(shape):
    for x in (
        RNG.standard_normal(shape),
        RNG.random(shape) + 1,
        -RNG.random(shape) * 1e-30,
        np.zeros(shape),
        np.full(shape, -2.5),
    ):
        x = x.astype(np.float32)
        for given in (x, x.T, np.repeat(x, 2, axis=-1)[..., ::2]):
            for threads in (1, 2):
                with pre.config(threads=threads):
                    q, scale, zero = integers.dynamic(given)
                want = defined(given)
                assert (q.dtype, zero.dtype, scale.dtype) == (np.uint8, np.uint8, np.float32)
                assert np.array_equal(q, want[0])
                assert (scale, zero) == want[1:]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_dynamic_quantisation_of_what_has_no_range_is_that_of_numpy(odd):
    x = RNG.standard_normal(3001).astype(np.float32)
    x[1999] = odd
    with pre.config(engine="gemm"), np.errstate(all="ignore"):
        want = dynamically_quantised(x)
    for a, b in zip(integers.dynamic(x), want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_plans_say_how_products_are_added_up():
    avx2 = replace(kernels.named_target("avx2"), features="", l2_bytes=512 << 10)
    assert str(plan_product(1, 400, 384, 1536, 2, avx2)) == (
        "integer product on jit: 1 x (400 x 384) (384 x 1536)\n"
        "  sums: two terms of 16 bits in a 32-bit word, exact in 32 bits\n"
        "  tile: 6 rows x 16 columns  tasks: 14 of 30 rows and 96 panels\n"
        "  packed B: 1179648 bytes a matrix  threads: 2\n"
        "  not quads: this CPU has no VNNI"
    )
    assert plan_product(1, 9, 9, 9, 1, replace(kernels.named_target("avx512"), features="+avx512vnni")).way == "quads"
    assert plan_product(1, 9, 9, 9, 1, replace(avx2, features="+avxvnni")).way == "quads"
    assert plan_product(1, 9, 9, 9, 1, kernels.named_target("neon")).way == "plain"


@pytest.mark.parametrize(
    ("name", "features", "way", "lanes", "instruction"),
    [
        ("avx2", "", "pairs", 8, "vpmaddwd"),
        ("avx2", "+avxvnni", "quads", 8, "vpdpbusd"),
        ("avx512", "", "pairs", 16, "vpmaddwd"),
        ("avx512", "+avx512vnni", "quads", 16, "vpdpbusd"),
        ("neon", "+neon", "plain", 4, "mla"),
    ],
)
def test_machine_code_has_the_instruction(name, features, way, lanes, instruction):
    """The inner loop of a tile of two rows and two vectors: four words, so many of the instruction, and no sums in memory."""
    target = kernels.named_target(name)
    if name != "neon" and not target.triple.startswith("x86_64"):
        pytest.skip("LLVM is here without x86")
    spec = ProductSpec(way, False, lanes, 2, 2, False, "int32", "i32")
    code = kernels.assembly(spec.ir(), replace(target, features=features))
    assert code.count(instruction) >= 16
    if way != "plain":
        loop = code[code.index(instruction) : code.rindex(instruction)]
        assert "rsp" not in loop
