"""The dense schedules of the jit engine: exact on integer data, and the same bits for everything that must not matter."""

from dataclasses import replace

import numpy as np
import pytest

from geometries import operands
from preimage.engines import Epilogue
from preimage.engines.base import apply_epilogue
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.jit import select
from preimage.engines.jit.compiler import kernels, toolchain
from preimage.engines.jit.compiler.costs import PackingCosts
from preimage.engines.jit.conv import across_pixels, direct, direct_kernel, direct_layout, streamed_weights_kernel
from preimage.engines.jit.conv import across_pixels_kernel as across_pixels_kernel
from preimage.engines.jit.conv.across_pixels import AcrossPixelsPlan, across_pixels_plan
from preimage.engines.jit.engine import JitEngine
from preimage.engines.jit.index import partition
from preimage.engines.jit.index.partition import cut, images_at_once
from preimage.engines.jit.index.taps import fold_phases, gather_axes
from preimage.engines.jit.index.tiling import tile_phase
from preimage.engines.jit.packing import copy_kernel, moves, weights_kernel
from preimage.engines.jit.packing.moves import weight_call
from preimage.engines.jit.program import Program
from preimage.engines.jit.request import little_work
from preimage.engines.jit.runtime.link import link
from preimage.engines.prepared import PreparedWeight
from preimage.engines.reference import ReferenceEngine
from preimage.geometry import ConvGeometry
from preimage.settings import config

JIT = JitEngine()
ONE, EDGES = (((0, 0),),), (((0, 0),), ((0, 0), (1, 1)), ((1, 0),))
REFERENCE = ReferenceEngine()
pytestmark = pytest.mark.skipif(JIT.unavailable() is not None, reason=str(JIT.unavailable()))


@pytest.fixture(autouse=True)
def _schedules_of_large_work():
    """These geometries are small, so that every edge is met; here they take the kernels that large ones would."""
    with little_work(0):
        yield


def forward(x, w, **options):
    return ConvGeometry.from_conv(x, w, **options)


def transposed(y, w, **options):
    return ConvGeometry.from_conv_transpose(y, w, **options)


# One for every way that the plan can go: full and ragged blocks, tiles that overlap, joined taps, folded phases with taps
# that some phases lack, few output channels, groups, 1x1 as one long row, the batch as the pixels' axis, runs of equal
# taps, padding beyond the kernel, cropping, long kernels, one and three axes, no axis, pixels a page apart.
CASES = {
    "3x3": forward((2, 35, 13, 17), (40, 35, 3, 3), padding=1),
    "3x3 s2, unequal padding": forward((1, 16, 15, 18), (33, 16, 3, 3), stride=2, padding=((0, 1), (2, 0))),
    "stem": forward((1, 3, 30, 29), (24, 3, 7, 7), stride=2, padding=3),
    "stem of one channel": forward((2, 1, 12, 40), (32, 1, 5, 20), stride=2),
    "1x1": forward((2, 48, 7, 9), (70, 48, 1, 1)),
    "1x1 s2": forward((1, 20, 9, 9), (16, 20, 1, 1), stride=2),
    "RGB head": forward((1, 24, 20, 37), (3, 24, 3, 3), padding=1),
    "groups": forward((1, 24, 9, 10), (36, 8, 3, 2), padding=(1, 0), groups=3),
    "dilated over the input": forward((1, 18, 21, 21), (20, 18, 3, 3), padding=12, dilation=12),
    "kernel over the input": forward((1, 5, 4, 3), (6, 5, 5, 4), padding=3),
    "one pixel": forward((9, 40, 4, 4), (17, 40, 4, 4)),
    "cropping": forward((1, 16, 12, 12), (16, 16, 3, 3), padding=((-2, 1), (1, -3))),
    "padding beyond the kernel": forward((1, 16, 5, 6), (9, 16, 2, 2), padding=((3, 4), (5, 3))),
    "1-D": forward((1, 20, 200), (24, 20, 11), padding=25, dilation=5),
    "ends of rows": forward((2, 20, 3, 150), (24, 20, 3, 4), padding=((1, 0), (2, 5)), stride=(1, 2)),
    "ends of rows, one side": forward((1, 32, 400), (32, 16, 3), padding=((40, 0),), dilation=20, groups=2),
    "1-D, long kernel": forward((1, 12, 49), (30, 6, 40), padding=20, groups=2),
    "3-D": forward((1, 6, 6, 7, 9), (18, 6, 3, 2, 3), stride=(1, 2, 1), padding=((1, 1), (0, 1), (2, 0))),
    "inner product": forward((5, 33), (17, 33)),
    "pixels a page apart": forward((1, 1024, 2, 9), (16, 1024, 1, 1)),
    "up 1-D, ends of rows": transposed((2, 24, 190), (24, 36, 5), stride=2, padding=((2, 1),), dilation=3),
    "up 2x2": transposed((1, 20, 9, 11), (20, 33, 2, 2), stride=2),
    "up 4x4 to RGB": transposed((2, 20, 16, 16), (20, 3, 4, 4), stride=2, padding=1),
    "up 3x3": transposed((1, 17, 9, 8), (17, 12, 3, 3), stride=2, padding=1, output_padding=1),
    "up 7x7 to RGB": transposed((1, 12, 20, 21), (12, 3, 7, 7), stride=2, padding=3, output_padding=1),
    "up 16x16 s8": transposed((1, 21, 10, 9), (21, 21, 16, 16), stride=8),
    "up s3 with holes": transposed((1, 8, 9, 10), (8, 5, 2, 2), stride=3, output_padding=(2, 1)),
    "up 1-D": transposed((1, 40, 30), (40, 1, 16), stride=8),
    "up 1-D, end cropped": transposed((1, 24, 25), (24, 18, 16), stride=8, padding=((0, 8),)),
    "up dilated": transposed((1, 10, 8, 9), (10, 12, 3, 3), stride=2, dilation=2, padding=1),
    "up from one pixel": transposed((16, 30, 1, 1), (30, 40, 4, 4)),
    "up 3-D": transposed((1, 9, 4, 5, 6), (9, 11, 2, 2, 2), stride=2),
}


def last(a):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) if a.ndim > 2 else a


def calls(geometry, dtype=np.float32, seed=0):
    x, w, y = operands(geometry, np.random.default_rng(seed), dtype)
    return (("conv", x, w), ("conv_transpose", y, w))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_exact_on_integers(name, dtype):
    for contraction, a, w in calls(CASES[name], dtype):
        want = getattr(REFERENCE, contraction)(CASES[name], a, w)
        for array in (a, last(a)):
            np.testing.assert_array_equal(getattr(JIT, contraction)(CASES[name], array, w), want)


@pytest.mark.parametrize("name", CASES)
def test_same_bits(name):
    """Threads, layout, batch, scratch limit, the vectors of a narrower CPU, weights packed before: not one bit differs."""
    geometry = CASES[name]
    rng = np.random.default_rng(1)
    for contraction, a, w in calls(geometry):
        a = rng.standard_normal(a.shape).astype(np.float32)
        w = rng.standard_normal(w.shape).astype(np.float32)
        run = getattr(JIT, contraction)
        with config(threads=1):
            want = run(geometry, a, w)
        assert want.flags.c_contiguous
        with config(threads=2):
            assert np.array_equal(run(geometry, last(a), w), want)
            assert np.array_equal(run(geometry, a, PreparedWeight(w)), want)
            assert np.array_equal(run(geometry, last(a), np.asfortranarray(w)), want)
        with config(threads=1, workspace_bytes=1000):
            assert np.array_equal(run(geometry, a, w), want)
        if kernels.named_target("avx2").runs_here:
            with kernels.use_target("avx2"):
                assert np.array_equal(run(geometry, a, w), want)
                assert np.array_equal(run(geometry, last(a), w), want)


@pytest.mark.parametrize(("tile", "scratch"), [((16, 1, 4), 384 << 10), ((8, 2, 2), 1 << 10), ((4, 3, 1), 384 << 10)])
def test_no_tile_of_few_channels_changes_a_bit(tile, scratch, monkeypatch, change_costs):
    """Vectors across pixels against vectors across channels: every case that the first can take, with tiles of its own; with
    little scratch in several blocks of columns.
    """
    taken = 0
    change_costs(across_pixels={"scratch_bytes": scratch})

    def planned(r, axes):
        nonlocal taken
        found = across_pixels_plan(r, axes)
        rows = across_pixels.row_axis(across_pixels.Laid.of(r, axes).axes)
        if isinstance(found, str) or tile[2] > rows.out_size or (len(rows.phases) % tile[2] and tile[2] % len(rows.phases)):
            return found
        taken += 1
        return AcrossPixelsPlan(*tile, found.channels, 0.0)

    for name, geometry in CASES.items():
        for contraction, a, w in calls(geometry):
            a, w = a + np.float32(0.1), w * np.float32(0.3)
            monkeypatch.setattr(select, "across_pixels_plan", lambda r, axes: "not here")
            want = getattr(JitEngine(), contraction)(geometry, a, w)
            monkeypatch.setattr(select, "across_pixels_plan", planned)
            for threads in (1, 2):
                with config(threads=threads):
                    for array in (a, last(a)):
                        assert np.array_equal(getattr(JitEngine(), contraction)(geometry, array, w), want), (name, contraction)
    assert taken > 20


@pytest.mark.parametrize("name", ["3x3", "up 4x4 to RGB", "RGB head", "1x1"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_epilogue(name, dtype):
    geometry = CASES[name]
    rng = np.random.default_rng(2)
    for contraction, a, w in calls(geometry, dtype):
        shape = geometry.output_shape if contraction == "conv" else geometry.input_shape
        bias, residual = rng.integers(-5, 6, shape[1]).astype(dtype), rng.integers(-5, 6, shape).astype(dtype)
        plain = getattr(REFERENCE, contraction)(geometry, a.astype(np.float64), w.astype(np.float64))
        for activation in (None, "relu", "clip", "leaky_relu"):
            epilogue = Epilogue(bias, residual, activation, slope=0.25, lo=-2, hi=3)
            wide = Epilogue(bias.astype(np.float64), residual.astype(np.float64), activation, slope=0.25, lo=-2, hi=3)
            want = apply_epilogue(plain.copy(), wide).astype(dtype)
            for array in (a, last(a)):
                np.testing.assert_array_equal(getattr(JIT, contraction)(geometry, array, w, epilogue), want)


def test_weights_that_are_not_finite():
    """An infinite weight over the padding gives NaN in a conv; a transpose multiplies no zero that is not there."""
    for name in ("3x3", "up 4x4 to RGB", "stem", "RGB head", "up 7x7 to RGB"):
        geometry = CASES[name]
        for contraction, a, w in calls(geometry):
            a = np.abs(a) + 1
            w = w.copy()
            w.reshape(-1)[0] = np.inf
            w.reshape(-1)[-1] = np.nan
            with np.errstate(invalid="ignore"):
                want = getattr(REFERENCE, contraction)(geometry, a, w)
            assert np.isnan(want).any()
            assert not np.isnan(want).all()
            for weight in (w, PreparedWeight(w)):
                np.testing.assert_array_equal(getattr(JIT, contraction)(geometry, last(a), weight), want)


def test_a_prepared_weight_is_packed_once():
    geometry = CASES["3x3"]
    (contraction, x, w), _ = calls(geometry)
    prepared = PreparedWeight(w)
    first = getattr(JIT, contraction)(geometry, x, prepared)
    held = prepared.packed_bytes
    assert held > 0
    w[...] = 0  # it has a copy
    np.testing.assert_array_equal(getattr(JIT, contraction)(geometry, x, prepared), first)
    assert prepared.packed_bytes == held
    prepared.refresh(w)
    assert not getattr(JIT, contraction)(geometry, x, prepared).any()


def test_a_new_size_compiles_nothing():
    rng = np.random.default_rng(3)
    w = rng.standard_normal((32, 16, 3, 3)).astype(np.float32)

    def run(height, width):
        x = last(rng.standard_normal((1, 16, height, width)).astype(np.float32))
        JIT.conv(ConvGeometry.from_conv(x.shape, w.shape, padding=1), x, w)

    for width in range(28, 60):
        run(30, width)
    before = kernels.loaded_count()
    for height in range(31, 60):
        run(height, 2 * height - 20)
    assert kernels.loaded_count() == before


@pytest.mark.parametrize("name", ["3x3", "inner product", "up 3x3", "1x1", "RGB head"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_arrays_with_gaps(name, dtype):
    """Slices of larger arrays, reversed axes, repeated values: any strides."""
    geometry = CASES[name]
    for contraction, a, w in calls(geometry, dtype):
        want = getattr(REFERENCE, contraction)(geometry, a, w)
        inside = np.pad(a, 1)[(slice(1, -1),) * a.ndim]
        backwards = np.ascontiguousarray(a[..., ::-1])[..., ::-1]
        spread = np.repeat(a, 2, axis=1)[:, ::2]
        for array in (inside, backwards, spread, last(inside)):
            np.testing.assert_array_equal(getattr(JIT, contraction)(geometry, array, w), want)
        same = np.broadcast_to(a[..., :1], a.shape)
        want = getattr(REFERENCE, contraction)(geometry, same, w)
        np.testing.assert_array_equal(getattr(JIT, contraction)(geometry, same, w), want)


def test_bands_are_the_same_convolution():
    for name in ("3x3 s2, unequal padding", "up 3x3", "kernel over the input", "up s3 with holes"):
        geometry = CASES[name]
        for contraction, a, w in calls(geometry):
            run = getattr(REFERENCE, contraction)
            want = run(geometry, a, w)
            for pieces in (2, 3, 100):
                parts = cut(geometry, contraction, pieces)
                assert parts is not None
                assert len(parts) > 1
                for part, read, written in parts:
                    np.testing.assert_array_equal(run(part, np.ascontiguousarray(a[read]), w), want[written])


@pytest.mark.parametrize("contraction", ["conv", "conv_transpose"])
@pytest.mark.parametrize("name", ["3x3", "1x1", "up 4x4 to RGB", "RGB head"])
def test_tables_do_not_grow_with_the_batch(name, contraction):
    """A batch of a million is planned as one of a few hundred: the bytes of all tables are bounded."""
    sizes = []
    for batch in (1 << 14, 1 << 20):
        geometry = replace(CASES[name], batch=batch)
        sizes.append(JIT.program(geometry, contraction, np.dtype(np.float32)).table_bytes)
    assert sizes[0] == sizes[1] < 4 << 20


def test_images_in_turn_give_the_same(monkeypatch):
    """More images than one plan speaks of: an answer put together from several runs, with and without an epilogue."""
    monkeypatch.setattr(partition, "MOST_ROWS", 40)
    rng = np.random.default_rng(9)
    geometry = ConvGeometry.from_conv((7, 16, 11, 12), (24, 16, 3, 3), padding=1)
    assert images_at_once(geometry, "conv") == 3
    x, w = (rng.integers(-3, 4, shape).astype(np.float32) for shape in (geometry.input_shape, geometry.weight_shape))
    want = REFERENCE.conv(geometry, x, w)
    np.testing.assert_array_equal(JIT.conv(geometry, x, w), want)
    np.testing.assert_array_equal(JIT.conv(geometry, last(x), PreparedWeight(w)), want)
    residual = rng.integers(-3, 4, geometry.output_shape).astype(np.float32)
    epilogue = Epilogue(bias=np.arange(24, dtype=np.float32), residual=residual, activation="relu")
    np.testing.assert_array_equal(JIT.conv(geometry, x, w, epilogue), apply_epilogue(want.copy(), epilogue))


def test_phases_of_a_transpose_share_out_the_taps():
    geometry = transposed((1, 4, 9), (4, 5, 7), stride=3, padding=2)
    axis = gather_axes(geometry, "conv_transpose")[1]
    assert sorted(k for phase in axis.phases for k, _ in phase.taps) == list(range(7))
    assert sum(phase.count for phase in axis.phases) == geometry.input_size[0]
    folded = fold_phases(geometry)
    assert folded is not None
    assert sum(folded.phases_of_tap) == 7
    covered = set()
    for start in tile_phase(axis.phases[0], 4).starts:
        covered |= set(range(start, start + 4))
    assert covered == set(range(axis.phases[0].count))


def test_plan_says_what_runs():
    text = str(JIT.plan(CASES["3x3"], "conv", np.dtype(np.float32), channels_last=True))
    assert "direct" in text
    assert "pixels x" in text
    assert "same bits for any: repeat, batch, threads, layout, tiling, cpu" in text
    assert "stored in place" in text
    assert "stored in place" not in str(JIT.plan(CASES["3x3"], "conv", np.dtype(np.float32)))


def test_kernels_keep_the_chain():
    """One multiply-add an accumulator and channel, no fast-math flag, no product or sum outside the epilogue."""
    spec = direct_kernel.DirectSpec("f32", "f32", 16, 2, 5, 1, 1, 0, False, 64, False, False, False, False, EpilogueSpec())
    text = direct_kernel.build(spec)
    assert text.count("call <16 x float> @preimage.accumulate.v16f32") == 10
    assert text.count(" fadd <16 x float>") == 10  # + 0, at the store
    for word in (" fmul", " fast ", "reassoc", "contract", " nnan", " nsz"):
        assert word not in text


@pytest.mark.parametrize("target", ["avx512", "avx2", "neon"])
def test_compiles_for_every_target(target):
    machine = kernels.named_target(target)
    lanes = machine.vector_bytes // 4
    for text in (
        direct_kernel.build(
            direct_kernel.DirectSpec(
                "f32", "f32", lanes, 1, 4, 8, 8, 0, False, 8, True, True, True, False, EpilogueSpec(True, True, "relu")
            )
        ),
        direct_kernel.build(
            direct_kernel.DirectSpec("f32", "f16", lanes, 1, 8, 8, 8, 1, False, 8, True, False, False, True, EpilogueSpec())
        ),
        direct_kernel.build(
            direct_kernel.DirectSpec(
                "f32", "bf16", lanes, 2, 3, 0, 3, 2, True, 8, False, False, False, False, EpilogueSpec(activation="clip")
            )
        ),
        direct_kernel.build(
            direct_kernel.DirectSpec(
                "f32", "f32", lanes, 2, 4, 8, 8, 2, False, 8, True, False, False, False, EpilogueSpec(True), True
            )
        ),
        direct_kernel.build(
            direct_kernel.DirectSpec("f32", "f32", lanes, 2, 8, 8, 8, 0, False, 8, True, False, False, True, EpilogueSpec(), True)
        ),
        streamed_weights_kernel.build_streamed_weights(streamed_weights_kernel.StreamedWeightsSpec()),
        across_pixels_kernel.build(
            across_pixels_kernel.AcrossPixelsSpec(
                "f64",
                "f64",
                "f64",
                lanes // 2,
                2,
                1,
                2,
                3,
                "one",
                8,
                8,
                8,
                0,
                4,
                ONE,
                EDGES,
                True,
                True,
                True,
                EpilogueSpec(True),
            )
        ),
        across_pixels_kernel.build(
            across_pixels_kernel.AcrossPixelsSpec(
                "f16",
                "f16",
                "f32",
                lanes,
                1,
                2,
                1,
                3,
                "ragged",
                7,
                0,
                1,
                2,
                3,
                EDGES,
                ONE,
                False,
                False,
                False,
                EpilogueSpec(False, True),
            )
        ),
        copy_kernel.build_swap(copy_kernel.SwapSpec("f16", "f32", min(8, lanes), EpilogueSpec())),
        weights_kernel.build_weight(weights_kernel.WeightSpec("bf16", "f32", min(8, lanes), 0, True)),
    ):
        assert len(kernels.object_code(text, machine)) > 500


@pytest.mark.parametrize("target", ["avx512", "avx2"])
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 6, 9, 16, 17, 25, 40])
@pytest.mark.parametrize("contraction", ["conv", "conv_transpose"])
def test_weights_are_packed_block_by_block(contraction, taps, target):
    """[group][block][tap][i][width] holds weight (o, i, tap) of its channel; lanes without a channel hold something finite."""
    machine = kernels.named_target(target)
    if not machine.runs_here:
        pytest.skip(f"this CPU has no {target}")
    for width, source, inner in ((48, "f32", 3), (24, "f64", 3), (5, "f32", 3), (32, "f32", 16), (24, "f64", 17)):
        dtype, groups = {"f32": np.float32, "f64": np.float64}[source], 2
        channels = 2 * width + width // 2 + 1
        shape = (groups * channels, inner, taps) if contraction == "conv" else (groups * inner, channels, taps)
        w = np.arange(1, 1 + int(np.prod(shape)), dtype=dtype).reshape(shape)
        with kernels.use_target(machine):
            call, block_bytes = weight_call(
                contraction, shape, groups, source, source, machine.vector_bytes // w.itemsize, width, PackingCosts(), True
            )
            packed, flag = np.full(3 * groups * block_bytes // w.itemsize, -1, dtype), np.zeros(1, np.int64)
            here = {"w": w.ctypes.data, "packed": packed.ctypes.data, "flag": flag.ctypes.data}
            link(Program("packing", (call,)), 1).run(here, 1)
        assert block_bytes >= taps * inner * width * w.itemsize
        assert inner < 16 or block_bytes // taps // 64 % 2  # taps lie an odd number of cache lines apart
        by_tap = packed.reshape(groups, 3, taps, -1)[..., : inner * width]
        got = by_tap.reshape(groups, 3, taps, inner, width).transpose(0, 1, 4, 3, 2).reshape(groups, 3 * width, inner, taps)
        by_group = w.reshape(groups, -1, *shape[1:])
        wanted = by_group if contraction == "conv" else by_group.swapaxes(1, 2)
        np.testing.assert_array_equal(got[:, :channels], wanted)
        assert not flag[0]
        w.flat[-1] = np.nan
        link(Program("packing", (call,)), 1).run(here, 1)
        assert flag[0]


@pytest.mark.parametrize("name", ["ends of rows", "ends of rows, one side", "up 1-D, ends of rows"])
@pytest.mark.parametrize("contraction", ["conv", "conv_transpose"])
def test_ends_of_rows_are_computed_apart(name, contraction, monkeypatch):
    """The rows' insides are read in place; the bits are those of a copy of the whole input, and a margin is never a weight's NaN."""
    g = CASES[name]
    x, w, y = operands(g, np.random.default_rng(5))
    a = x if contraction == "conv" else y
    a = np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) * np.float32(0.37)
    whole = JitEngine()
    with monkeypatch.context() as patch:
        patch.setattr(direct_layout, "find_edges", lambda *_: None)
        wanted = getattr(whole, contraction)(g, a, w)
    for threads in (1, 2):
        engine = JitEngine()
        with config(threads=threads):
            got = getattr(engine, contraction)(g, a, w)
            assert got.tobytes() == wanted.tobytes()
    used = [linked.program.details["input"] for linked in engine._programs.values()]
    if name.startswith("up") == (contraction == "conv_transpose"):
        assert used == [direct.ENDS]
    w[:, :, ..., -1] = np.nan
    got, wanted = (np.isnan(getattr(engine, contraction)(g, a, w)) for engine in (JitEngine(), REFERENCE))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("target", ["avx512", "avx2"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_folded_weights_are_packed_the_same_in_vectors(target, dtype, monkeypatch):
    """Interleaved in registers or gathered one by one; a weight that is not finite is found by both."""
    if not kernels.named_target(target).runs_here:
        pytest.skip(f"this CPU has no {target}")
    source, inner = {2: ("f16", "f32"), 4: ("f32", "f32"), 8: ("f64", "f64")}[np.dtype(dtype).itemsize]
    item = 8 if inner == "f64" else 4
    for channels, kernel, stride, width in (
        (3, (4, 16), 16, 48),
        (21, (9,), 4, 16),
        (5, (2, 7), 3, 8),
        (1, (33,), 32, 16),
        (14, (5,), 2, 24),
    ):
        geometry = transposed((1, 6, *[9] * len(kernel)), (6, channels, *kernel), stride=stride)
        folded, shape = fold_phases(geometry), (6, channels, *kernel)
        w = np.random.default_rng(3).standard_normal(shape).astype(dtype)
        results = []
        for many in (0, 1 << 40):
            with kernels.use_target(target):
                call, block_bytes = moves.folded_weight_call(shape, folded, source, inner, width, PackingCosts(many_weights=many))
                packed, flag = (
                    np.full(-(-channels * stride // width) * block_bytes // item, 7.0, f"f{item}"),
                    np.zeros(1, np.int64),
                )
                here = {"w": w.ctypes.data, "packed": packed.ctypes.data, "flag": flag.ctypes.data}
                link(Program("packing", (call,)), 1).run(here, 1)
                assert not flag[0]
                bad, room = w.copy(), packed.copy()
                bad.flat[-1] = np.inf
                link(Program("packing", (call,)), 1).run(here | {"w": bad.ctypes.data, "packed": room.ctypes.data}, 1)
                assert flag[0]
            results.append(packed)
        np.testing.assert_array_equal(*results)
        assert len(set(results[0].tolist())) > w.size // 2


PIECES = {
    "1-D, groups": forward((1, 34, 49), (30, 17, 70), padding=40, groups=2),
    "3-D": forward((2, 17, 9, 6, 9), (21, 17, 4, 3, 6), stride=(2, 1, 2), padding=((3, 1), (0, 1), (2, 2))),
    "taps that nothing reads": forward((1, 33, 3, 4), (19, 33, 7, 10), padding=((5, 3), (6, 8))),
    "up 3-D": transposed((1, 19, 4, 5, 3), (19, 20, 4, 4, 4), stride=2, padding=1),
    "up, phases without taps": transposed((1, 18, 5, 4), (18, 35, 5, 13), stride=(7, 2), padding=(2, 4)),
}


@pytest.mark.parametrize("name", PIECES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_taps_in_pieces_keep_the_chain(name, dtype, monkeypatch):
    """Sums put down between pieces of the taps and taken up again: the bits of sums that never left the registers."""
    g, rng, cut = PIECES[name], np.random.default_rng(8), 0
    monkeypatch.setattr(select, "across_pixels_plan", lambda r, axes: "not here")
    for contraction, a, w in calls(g):
        a, w = (rng.standard_normal(v.shape).astype(dtype) for v in (a, w))
        epilogue = Epilogue(
            rng.standard_normal(w.shape[0] if contraction == "conv" else g.in_channels).astype(dtype), None, "relu"
        )
        wanted = getattr(JitEngine(), contraction)(g, a, w, epilogue)
        with monkeypatch.context() as patch:
            target = kernels.current_target()
            streaming = replace(target.costs.streaming, least_bytes=0, piece_bytes=1, most_uneven=9)
            patch.setattr(toolchain, "_chosen", replace(target, costs=replace(target.costs, streaming=streaming)))
            for threads, array, place in ((1, a, 0), (2, last(a), 16), (3, a, 32), (1, last(a), 48), (1, a, 8)):
                engine, memory = JitEngine(), np.empty(w.nbytes + 128, np.uint8)
                start = -memory.ctypes.data % 64 + place  # the cuts depend on where in a cache line the weights begin
                moved = memory[start : start + w.nbytes].view(dtype).reshape(w.shape)
                moved[...] = w
                with config(threads=threads):
                    got = getattr(engine, contraction)(g, array, moved, epilogue)
                assert got.tobytes() == wanted.tobytes()
                cut += any("pieces" in linked.program.details.get("weights", "") for linked in engine._programs.values())
            if kernels.named_target("avx2").runs_here:
                with kernels.use_target("avx2"):
                    assert getattr(JitEngine(), contraction)(g, a, w, epilogue).tobytes() == wanted.tobytes()
            nan = w.copy()
            nan.flat[nan.size // 2] = np.inf
            with np.errstate(invalid="ignore"):
                got, wanted = (np.isnan(getattr(engine, contraction)(g, a, nan)) for engine in (JitEngine(), REFERENCE))
            np.testing.assert_array_equal(got, wanted)
    assert cut


def test_lines_that_no_tap_reads_are_not_copied():
    """A 1x1 layer with strides copies the lines that it reads; its pixels, taken a stride apart, do not fall on the same sets."""
    g = forward((1, 256, 56, 56), (16, 256, 1, 1), stride=2)
    program = JitEngine().program(g, "conv", np.dtype(np.float64))
    lines, columns, channels = 28, 56, 256
    assert {b.name: b.size for b in program.buffers}["slab"] == lines * columns * (channels * 8 + 64)
    deep = forward((2, 17, 7, 9, 5), (18, 17, 1, 1, 1), stride=(3, 2, 2))
    short = forward((2, 17, 6, 8, 5), (18, 17, 1, 1, 2), stride=(3, 2, 2), padding=((0, 4), (0, 0), (1, 0)))
    for g in (deep, short):
        for contraction, a, w in calls(g):
            for array in (a, last(a)):
                np.testing.assert_array_equal(
                    getattr(JIT, contraction)(g, array, w), getattr(REFERENCE, contraction)(g, array, w)
                )
