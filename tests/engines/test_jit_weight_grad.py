"""The generated weight gradient: exact sums, one order of them whatever the schedule, padding as the definition says.

The long forms:

    PREIMAGE_LONG_TESTS=60 pytest tests/engines/test_jit_weight_grad.py                        (seconds of random geometries)
    PREIMAGE_CONTRACT_CASES=20000 pytest tests/engines/test_jit_weight_grad.py -k definition   (cases against preimage.contract)
"""

from __future__ import annotations

import dataclasses
import math
import os
import time

import numpy as np
import pytest
from tests import oracle

import preimage as pre
from preimage import contract
from preimage.geometry import ConvGeometry

kernels = pytest.importorskip("preimage.engines.jit.compiler.kernels")
if kernels.unavailable():
    pytest.skip(kernels.unavailable(), allow_module_level=True)

from preimage.engines import get  # noqa: E402
from preimage.engines.jit.compiler.costs import PackingCosts  # noqa: E402
from preimage.engines.jit.index import partition  # noqa: E402
from preimage.engines.jit.packing import moves  # noqa: E402
from preimage.engines.jit.request import little_work  # noqa: E402
from preimage.engines.jit.weight_grad import call, tiling  # noqa: E402
from preimage.engines.order import Order  # noqa: E402

SECONDS = float(os.environ.get("PREIMAGE_LONG_TESTS", "2"))
#: Other numbers of the cost model: bands of few pixels, and every operand copied in blocks.
BANDS = {"band_pixels": 3, "band_bytes": 0, "block_band_bytes": 0}
BLOCKS = {"block_image_bytes": 0, "block_far_bytes": 0, "block_products": 0, "few_products": 0}
TARGETS = [name for name in ("host", "avx512", "avx2") if kernels.named_target(name).runs_here]


@pytest.fixture(autouse=True)
def _schedules_of_large_work():
    """These geometries are small, so that every edge is met; here they take the kernels that large ones would."""
    with little_work(0):
        yield


def with_costs(target, change):
    weight_grad = dataclasses.replace(target.costs.weight_grad, **change)
    return dataclasses.replace(target, costs=dataclasses.replace(target.costs, weight_grad=weight_grad))


def last(a: np.ndarray) -> np.ndarray:
    """The same array with channels innermost in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def gradient(geometry, x, y, threads=1):
    with pre.config(engine="jit", threads=threads):
        return get("jit").conv_weight_grad(geometry, x, y)


def program_of(geometry, channels_last, threads):
    with pre.config(threads=threads):
        return get("jit").program(geometry, "conv_weight_grad", np.dtype(np.float32), channels_last)


def forget():
    """Drop the programs that were made, so that a changed plan is used."""
    get("jit").forget()


def integers(rng, shape, dtype, low=-2, high=3):
    return rng.integers(low, high, shape).astype(dtype)


#: name: (input shape, weight shape, stride, padding, dilation, groups); every reading, tile and border is in here
GEOMETRIES = {
    "dense 3x3": ((2, 64, 13, 11), (40, 64, 3, 3), (1, 1), ((1, 1), (2, 0)), (1, 1), 1),
    "dense 1x1": ((3, 48, 9, 7), (70, 48, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "1x1 stride 2": ((1, 33, 9, 8), (17, 33, 1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "stem": ((2, 3, 31, 29), (64, 3, 7, 5), (2, 3), ((3, 3), (2, 2)), (1, 1), 1),
    "patches": ((1, 3, 32, 32), (96, 3, 16, 16), (16, 16), ((0, 0), (0, 0)), (1, 1), 1),
    "rgb head": ((2, 3, 20, 18), (64, 3, 4, 4), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "to rgb": ((1, 128, 10, 9), (3, 128, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "one to many": ((2, 1, 200), (130, 1, 10), (5,), ((0, 0),), (1,), 1),
    "many to one": ((1, 1, 177), (96, 1, 16), (8,), ((0, 0),), (1,), 1),
    "21 classes": ((1, 21, 40, 40), (21, 21, 16, 16), (8, 8), ((0, 0), (0, 0)), (1, 1), 1),
    "dilated, few channels": ((2, 5, 23), (9, 5, 4), (1,), ((6, 0),), (3,), 1),
    "groups": ((2, 24, 9, 8), (36, 8, 3, 2), (2, 1), ((1, 2), (0, 1)), (1, 2), 3),
    "groups of few": ((2, 6, 9, 8), (12, 3, 3, 2), (1, 1), ((1, 2), (0, 1)), (1, 1), 2),
    "long line": ((1, 32, 3000), (32, 32, 2), (1,), ((512, 0),), (512,), 1),
    "strided, dilated line": ((2, 20, 61), (24, 20, 5), (3,), ((4, -1),), (2,), 1),
    "volume": ((2, 17, 5, 6, 7), (20, 17, 2, 3, 2), (2, 1, 2), ((1, 0), (1, 1), (0, 1)), (1, 2, 1), 1),
    "four axes": ((1, 4, 3, 4, 3, 5), (5, 4, 2, 2, 2, 3), (1, 2, 1, 1), ((0, 1), (1, 0), (1, 1), (1, 1)), (1, 1, 1, 1), 1),
    "padding larger than the kernel": ((2, 16, 4, 4), (16, 16, 2, 2), (1, 1), ((3, 4), (5, 2)), (1, 1), 1),
    "cropped": ((2, 3, 14, 13), (16, 3, 3, 3), (1, 1), ((0, 0), (-2, -1)), (1, 1), 1),
    "far channels": ((1, 512, 17, 16), (272, 512, 2, 2), (1, 1), ((1, 0), (0, 1)), (1, 1), 1),
    "many small images": ((40, 32, 2, 2), (48, 32, 2, 2), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "few positions": ((7, 40, 5, 4), (23, 40, 3, 4), (2, 1), ((4, 0), (1, 3)), (1, 1), 1),
    "few positions of groups": ((14, 54, 3, 5), (40, 27, 2, 2), (1, 2), ((0, 1), (1, 0)), (1, 1), 2),
    "few positions of few channels": ((9, 3, 7, 6), (33, 3, 4, 3), (3, 2), ((2, 0), (1, 0)), (1, 1), 1),
    "pixels only": ((7, 20), (13, 20), (), (), (), 1),
}


def made(name):
    shape, weights, stride, padding, dilation, groups = GEOMETRIES[name]
    return ConvGeometry.from_conv(shape, weights, stride=stride, padding=padding, dilation=dilation, groups=groups)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_integers_are_summed_exactly(name):
    geometry, rng = made(name), np.random.default_rng(len(name))
    for dtype in ("float32", "float64"):
        x, y = integers(rng, geometry.input_shape, dtype), integers(rng, geometry.output_shape, dtype)
        wanted = oracle.conv_weight_grad(x, y, oracle.sizes_of(geometry))
        assert np.abs(wanted).max() > 0
        for a, b in ((x, y), (last(x), last(y)), (last(x), y), (x[:, ::-1][:, ::-1], y)):
            got = gradient(geometry, a, b)
            assert got.dtype == dtype
            assert got.shape == geometry.weight_shape
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_floats_are_summed_wide_and_rounded_once(name, dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    geometry, rng = made(name), np.random.default_rng(1)
    x, y = rng.standard_normal(geometry.input_shape).astype(dtype), rng.standard_normal(geometry.output_shape).astype(dtype)
    wide = gradient(geometry, x.astype(np.float32), y.astype(np.float32))
    for a, b in ((x, y), (last(x), last(y))):
        got = gradient(geometry, a, b)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.astype(np.float32), wide.astype(dtype).astype(np.float32))


def bits(a: np.ndarray) -> bytes:
    return np.ascontiguousarray(a).tobytes()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_no_schedule_changes_a_bit(name, monkeypatch, change_costs):
    """Threads, memory layout, vector width, tile, bands and blocks: all give the bits of one chain in the agreed order."""
    geometry, rng = made(name), np.random.default_rng(3)
    x = rng.standard_normal(geometry.input_shape).astype(np.float32)
    y = rng.standard_normal(geometry.output_shape).astype(np.float32)
    wanted = bits(gradient(geometry, x, y))
    monkeypatch.setattr(call, "SMALL_MACS", 0)  # share out even the smallest
    forget()
    layouts = ((x, y), (last(x), last(y)))
    for target in TARGETS:
        with kernels.use_target(target):
            for threads in (1, 2, 3):
                for a, b in layouts:
                    assert bits(gradient(geometry, a, b, threads)) == wanted, (target, threads)
    for change in (BANDS, BLOCKS):
        with kernels.use_target(with_costs(kernels.current_target(), change)):
            forget()
            for a, b in layouts:
                assert bits(gradient(geometry, a, b, 2)) == wanted, change
    change_costs(weight_grad={"far_result": 0})
    forget()
    for a, b in layouts:
        assert bits(gradient(geometry, a, b)) == wanted
    forget()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", ["dense 3x3", "stem", "rgb head", "volume", "groups"])
def test_less_workspace_changes_no_bit(name, dtype):
    geometry, rng = made(name), np.random.default_rng(4)
    x, y = rng.standard_normal(geometry.input_shape).astype(dtype), rng.standard_normal(geometry.output_shape).astype(dtype)
    for a, b in ((x, y), (last(x), last(y))):
        with pre.config(engine="jit", workspace_bytes=64 << 20):
            wanted = get("jit").conv_weight_grad(geometry, a, b)
        with pre.config(engine="jit", workspace_bytes=0):
            assert bits(get("jit").conv_weight_grad(geometry, a, b)) == bits(wanted)


@pytest.mark.parametrize("name", ["dense 3x3", "stem", "rgb head"])
def test_images_in_turns_change_no_bit(name, monkeypatch):
    """More images than one plan speaks of: the sums go on from turn to turn, also where the last turn has one image."""
    geometry, rng = dataclasses.replace(made(name), batch=7), np.random.default_rng(6)
    x, y = (
        rng.standard_normal(geometry.input_shape).astype(np.float32),
        rng.standard_normal(geometry.output_shape).astype(np.float32),
    )
    lines = math.prod(geometry.input_size[:-1])
    for a, b in ((x, y), (last(x), last(y))):
        wanted = bits(gradient(geometry, a, b))
        for images in (1, 2, 3):
            with monkeypatch.context() as patch:
                patch.setattr(partition, "MOST_ROWS", images * lines)
                forget()
                assert partition.images_at_once(geometry) == images
                assert bits(gradient(geometry, a, b)) == wanted, images
    forget()


def test_tables_do_not_grow_with_the_batch():
    sizes = []
    for batch in (1 << 14, 1 << 20):
        geometry = ConvGeometry.from_conv((batch, 16, 14, 14), (32, 16, 3, 3), padding=1)
        sizes.append(program_of(geometry, False, 2).table_bytes)
    assert sizes[0] == sizes[1] < 4 << 20


@pytest.mark.parametrize("name", ["dense 3x3", "rgb head", "dense 1x1", "long line", "many small images"])
def test_tasks_in_step_change_no_bit(name, monkeypatch, change_costs):
    """Parts of the tiles that follow each other from round to round, on any thread: more threads than CPUs, again and again."""
    geometry, rng = made(name), np.random.default_rng(8)
    x = rng.standard_normal(geometry.input_shape).astype(np.float32)
    y = rng.standard_normal(geometry.output_shape).astype(np.float32)
    monkeypatch.setattr(call, "SMALL_MACS", 0)
    change_costs(weight_grad=BANDS)
    forget()
    wanted = bits(gradient(geometry, last(x), last(y)))
    for parts in (1, 3):
        change_costs(weight_grad={"most_turns": 1000, "parts_per_thread": parts})
        forget()
        with pre.config(threads=2):
            plan = get("jit").plan(geometry, "conv_weight_grad", np.dtype(np.float32), True)
        assert int(plan.details["tasks"].split()[7]) > 5
        for _ in range(20):
            for threads in (2, 5):
                assert bits(gradient(geometry, last(x), last(y), threads)) == wanted
    forget()


@pytest.mark.parametrize("name", [name for name in GEOMETRIES if name != "pixels only"])
def test_prefetching_changes_no_bit(name, monkeypatch, change_costs):
    geometry, rng = made(name), np.random.default_rng(9)
    x = rng.standard_normal(geometry.input_shape).astype(np.float32)
    y = rng.standard_normal(geometry.output_shape).astype(np.float32)
    layouts = ((x, y), (last(x), last(y)))
    wanted = bits(gradient(geometry, x, y))
    change_costs(weight_grad=BANDS)
    monkeypatch.setattr(tiling, "prefetches_next_band", lambda *_: True)
    monkeypatch.setattr(call, "SMALL_MACS", 0)
    forget()
    plan = get("jit").plan(geometry, "conv_weight_grad", np.dtype(np.float32), True)
    assert ("meanwhile" in plan.details["bands"]) == ("blocks" not in plan.details["x"] + plan.details["y"])
    for threads in (1, 3):
        for a, b in layouts:
            assert bits(gradient(geometry, a, b, threads)) == wanted, threads
    forget()


def test_what_is_prefetched_is_what_is_read(change_costs):
    """Every band's new rows, joined where they follow each other; together they are the operands, each line once."""
    change_costs(weight_grad={"block_far_bytes": 1024})  # both are read in place, whatever this CPU likes best
    forget()
    geometry = ConvGeometry.from_conv(
        (1, 64, 2, 120, 100), (128, 64, 1, 3, 3), stride=(1, 1, 1), padding=((0, 0), (1, 1), (1, 1))
    )
    x_bytes, y_bytes = 64 * 2 * 120 * 100 * 4, 128 * 2 * 120 * 100 * 4
    program = program_of(geometry, True, 1)
    assert "meanwhile" in program.details["bands"]
    tables = program.calls[-1].values()
    spans, starts = tables["spans"].array, tables["span_bounds"].array
    assert starts[0] == 0
    assert starts[-1] == len(spans)
    for operand, size in ((1, x_bytes), (0, y_bytes)):  # x as vectors, y as scalars
        some = spans[spans["operand"] == operand]
        assert some["offset"].min() == 0
        assert some["lines"].sum() * 64 == size
        assert len(np.unique(some["offset"])) == len(some)
    geometry = ConvGeometry.from_conv((1, 64, 28, 28), (64, 64, 3, 3), padding=1)  # stays in the nearer caches
    assert "meanwhile" not in program_of(geometry, True, 1).details["bands"]
    forget()


def test_the_changes_of_the_schedule_are_real(change_costs):
    """The check above would prove nothing if bands and blocks were not used."""
    geometry = made("dense 3x3")
    change_costs(weight_grad=BANDS)
    forget()
    plan = get("jit").plan(geometry, "conv_weight_grad", np.dtype(np.float32), True)
    assert int(plan.details["bands"].split()[0]) == len(Order.of(geometry.output_size[::-1]).blocks()) > 5
    change_costs(weight_grad=BLOCKS)
    forget()
    plan = get("jit").plan(geometry, "conv_weight_grad", np.dtype(np.float32), True)
    assert "blocks" in plan.details["x"]
    assert "by phase" not in plan.details["x"]
    plan = get("jit").plan(made("strided, dilated line"), "conv_weight_grad", np.dtype(np.float32), True)
    assert "by phase" in plan.details["x"]
    forget()


def drawn(rng, case):
    """A geometry of unequal sizes, small enough for the executable definition, with one to some hundred blocks of positions."""
    while True:
        ndim, groups = int(rng.integers(0, 4)), int(rng.choice([1, 1, 2, 3]))
        i, o = int(rng.choice([1, 1, 2, 5, 8, 17])), int(rng.choice([1, 2, 3, 7, 16]))
        sizes = rng.integers(1, (2, 2500, 50, 14)[ndim], ndim).tolist()
        batch = int(rng.integers(1, 10 if ndim else 70)) if math.prod(sizes) < 200 or rng.random() < 0.2 else 1 + case % 2
        options = {
            "stride": tuple(rng.integers(1, 4, ndim).tolist()), "dilation": tuple(rng.integers(1, 3, ndim).tolist()), "groups": groups,
            "padding": tuple(tuple(pair) for pair in rng.integers(-1, 4, (ndim, 2)).tolist()),
        }  # fmt: skip
        try:
            geometry = ConvGeometry.from_conv(
                (batch, i * groups, *sizes), (o * groups, i, *rng.integers(1, 4, ndim).tolist()), **options
            )
        except pre.PreimageError:
            continue
        if 0 < math.prod(geometry.output_size) * batch <= 3000 and geometry.inside_macs < 400_000:
            return geometry, options


@pytest.mark.parametrize("case", range(int(os.environ.get("PREIMAGE_CONTRACT_CASES", "24"))))
def test_the_bits_are_those_of_the_executable_definition(case, monkeypatch):
    """Whatever the layout, threads, workspace, vectors and bands."""
    rng = np.random.default_rng((12, case))
    geometry, options = drawn(rng, case)
    dtype = np.dtype(["float32", "float32", "float16", "float64"][case % 4 if geometry.inside_macs < 3000 else case % 3])
    x, y = (rng.standard_normal(shape).astype(dtype) for shape in (geometry.input_shape, geometry.output_shape))
    wide = np.promote_types(dtype, np.float32)
    wanted = bits(contract.conv_weight_grad(x.astype(wide), y.astype(wide), geometry.kernel_size, **options).astype(dtype))
    monkeypatch.setattr(call, "SMALL_MACS", 0)
    for change in ({}, BANDS):
        forget()
        for number, (a, b) in enumerate(((x, y), (last(x), last(y)), (last(x), y))):
            threads = number + 1
            with (
                kernels.use_target(with_costs(kernels.named_target(TARGETS[(case + number) % len(TARGETS)]), change)),
                little_work(1 << 20 if number == 1 else 0),
                pre.config(workspace_bytes=0 if case % 3 == number else 64 << 20),
            ):
                assert bits(gradient(geometry, a, b, threads)) == wanted, (geometry, dtype, change, threads)
    forget()


def test_the_order_shows():
    """The test above would prove nothing if another order gave the same bits."""
    geometry = ConvGeometry.from_conv((4, 3, 13, 11), (2, 3, 3, 2))
    rng = np.random.default_rng(5)
    x = rng.standard_normal(geometry.input_shape).astype(np.float32)
    y = rng.standard_normal(geometry.output_shape).astype(np.float32)
    wanted = gradient(geometry, x, y)
    one_by_one = np.zeros_like(wanted)
    for n in range(4):
        one_by_one += gradient(dataclasses.replace(geometry, batch=1), x[n : n + 1], y[n : n + 1])
    assert not np.array_equal(one_by_one, wanted)
    assert not np.array_equal(gradient(geometry, x[..., ::-1], y[..., ::-1])[..., ::-1], wanted)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
    "name", ["dense 3x3", "stem", "rgb head", "to rgb", "groups", "long line", "volume", "padding larger than the kernel"]
)
def test_padding_takes_part_where_y_is_not_finite(name, bad):
    """0 * inf is NaN: as if x had been padded with zeros in memory."""
    geometry, rng = made(name), np.random.default_rng(7)
    wide = [(0, 0), (0, 0), *((max(0, lo), max(0, hi)) for lo, hi in geometry.padding)]
    without = ConvGeometry.from_conv(
        tuple(n + a + b for n, (a, b) in zip(geometry.input_shape, wide, strict=True)),
        geometry.weight_shape,
        stride=geometry.stride,
        dilation=geometry.dilation,
        groups=geometry.groups,
    )
    assert without.output_size == geometry.output_size
    corners = [(0,) * geometry.ndim, tuple(n - 1 for n in geometry.output_size), tuple(n // 2 for n in geometry.output_size)]
    for corner in corners:
        x = integers(rng, geometry.input_shape, np.float32)
        y = integers(rng, geometry.output_shape, np.float32)
        y[(geometry.batch - 1, 1 % geometry.out_channels, *corner)] = bad
        with np.errstate(invalid="ignore"):
            wanted = oracle.conv_weight_grad(np.pad(x, wide), y, oracle.sizes_of(without))
        assert not np.isfinite(wanted).all()
        for a, b in ((x, y), (last(x), last(y))):
            np.testing.assert_array_equal(gradient(geometry, a, b, 2), wanted)


def test_infinities_in_x_stay_where_the_definition_sends_them():
    geometry, rng = made("stem"), np.random.default_rng(9)
    x, y = integers(rng, geometry.input_shape, np.float32), integers(rng, geometry.output_shape, np.float32, 1, 3)
    x[1, 2, 0, 0] = np.inf  # at the border: taps that do not reach it stay finite
    with np.errstate(invalid="ignore"):
        wanted = oracle.conv_weight_grad(x, y, oracle.sizes_of(geometry))
    assert np.isfinite(wanted).any()
    assert not np.isfinite(wanted).all()
    np.testing.assert_array_equal(gradient(geometry, x, y), wanted)
    np.testing.assert_array_equal(gradient(geometry, last(x), last(y)), wanted)


@pytest.mark.parametrize("name", ["dense 3x3", "patches", "many to one", "groups", "volume", "to rgb"])
@pytest.mark.parametrize("view", [(slice(None, None, 2),), (slice(None, None, -1),), (slice(1, None),)])
def test_channels_first_scalars_are_read_in_place(name, view):
    """A stream for each channel, wherever it lies: every second channel, channels backwards (copied), channels of a larger array."""
    geometry, rng = made(name), np.random.default_rng(12)
    x = rng.standard_normal(geometry.input_shape).astype(np.float32)
    many = (geometry.batch, 2 * geometry.out_channels + 1, *geometry.output_size)
    y = rng.standard_normal(many).astype(np.float32)[(slice(None), *view)][:, : geometry.out_channels]
    wanted = bits(gradient(geometry, last(x), last(y)))
    for threads in (1, 2):
        assert bits(gradient(geometry, x, y, threads)) == wanted
    same = np.broadcast_to(y[:, :1], y.shape)
    assert bits(gradient(geometry, x, same)) == bits(gradient(geometry, last(x), last(same)))
    plan = get("jit").plan(geometry, "conv_weight_grad", np.dtype(np.float32), False)
    assert (plan.details["y"] == "in place") == ("outputs" not in plan.details["reading"])


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_large_arrays_are_transposed_by_whole_cache_lines(dtype):
    """Of channels and pixels that no square divides, on the way in and (forward) on the way out; both layouts agree."""
    geometry, rng = ConvGeometry.from_conv((2, 41, 87, 91), (37, 41, 3, 2), padding=1), np.random.default_rng(11)
    x, y = integers(rng, geometry.input_shape, dtype), integers(rng, geometry.output_shape, dtype)
    w = integers(rng, geometry.weight_shape, dtype)
    wide = np.dtype(np.float64 if dtype == "float64" else np.float32).itemsize
    sides = [moves.block_side(wide, PackingCosts(), 41, positions) for positions in (91, 2 * 87 * 91)]
    assert sides == [32 // wide, 64 // wide]
    with pre.config(engine="jit", threads=2):
        for call, arrays in (("conv_weight_grad", (x, y)), ("conv", (x, w)), ("conv_transpose", (y, w))):
            first = getattr(get("jit"), call)(geometry, *arrays)
            second = getattr(get("jit"), call)(geometry, *(a if a is w else last(a) for a in arrays))
            assert bits(first) == bits(second), call


@pytest.mark.parametrize("shape", [(0, 4, 5, 5), (2, 4, 5, 5)])
def test_nothing_to_sum_gives_zeros(shape):
    geometry = ConvGeometry.from_conv(shape, (3, 4, 2, 2), padding=((4, 0), (0, 0)))
    x, y = np.ones(geometry.input_shape, np.float32), np.ones(geometry.output_shape, np.float32)
    wanted = oracle.conv_weight_grad(x, y, oracle.sizes_of(geometry))
    np.testing.assert_array_equal(gradient(geometry, x, y), wanted)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_input_of_size_zero_is_all_padding():
    geometry = ConvGeometry.from_conv((2, 3, 0), (4, 3, 2), padding=((2, 3),))
    x, y = np.zeros(geometry.input_shape, np.float32), np.ones(geometry.output_shape, np.float32)
    assert (gradient(geometry, x, y) == 0).all()
    y[1, 2, 0] = np.inf
    got = gradient(geometry, x, y)
    assert np.isnan(got[2]).all()
    assert (np.delete(got, 2, axis=0) == 0).all()


def test_inputs_are_only_read():
    geometry, rng = made("stem"), np.random.default_rng(11)
    x, y = integers(rng, geometry.input_shape, np.float32), integers(rng, geometry.output_shape, np.float32)
    before = bits(x), bits(y)
    x.flags.writeable = y.flags.writeable = False
    result = gradient(geometry, x, y)
    assert (bits(x), bits(y)) == before
    assert not np.shares_memory(result, x)


def test_new_sizes_compile_nothing():
    rng, loaded = np.random.default_rng(13), []
    for turn in range(30):
        size = (int(rng.integers(20, 60)), int(rng.integers(20, 60)))
        geometry = ConvGeometry.from_conv((2, 16, *size), (32, 16, 3, 3), padding=1)
        x, y = np.ones(geometry.input_shape, np.float32), np.ones(geometry.output_shape, np.float32)
        gradient(geometry, last(x), last(y))
        if turn == 3:
            loaded.append(kernels.loaded_count())
    assert kernels.loaded_count() <= loaded[0]


def test_random_geometries_exactly():
    rng, stop, done = np.random.default_rng(int(os.environ.get("PREIMAGE_SEED", "0"))), time.monotonic() + SECONDS, 0
    while time.monotonic() < stop or done < 5:
        ndim, groups = int(rng.integers(1, 4)), int(rng.choice([1, 1, 1, 2, 3]))
        i, o = int(rng.choice([1, 2, 3, 5, 8, 16, 17, 21, 33, 48])), int(rng.choice([1, 2, 3, 4, 12, 16, 24, 37]))
        kernel, stride = rng.integers(1, 5, ndim).tolist(), rng.integers(1, 4, ndim).tolist()
        padding = [tuple(pair) for pair in rng.integers(-1, 4, (ndim, 2)).tolist()]
        shape = (int(rng.integers(1, 4)), i * groups, *rng.integers(4, 12, ndim).tolist())
        try:
            geometry = ConvGeometry.from_conv(
                shape, (o * groups, i, *kernel), stride=stride, padding=padding,
                dilation=rng.integers(1, 3, ndim).tolist(), groups=groups,
            )  # fmt: skip
        except pre.PreimageError:
            continue
        x, y = integers(rng, geometry.input_shape, np.float32), integers(rng, geometry.output_shape, np.float32)
        wanted = oracle.conv_weight_grad(x, y, oracle.sizes_of(geometry))
        layout = [last, np.asarray][int(rng.integers(2))], [last, np.asarray][int(rng.integers(2))]
        with kernels.use_target(TARGETS[done % len(TARGETS)]):
            got = gradient(geometry, layout[0](x), layout[1](y), int(rng.integers(1, 4)))
        np.testing.assert_array_equal(got, wanted, err_msg=str(geometry))
        done += 1
