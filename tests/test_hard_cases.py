"""The properties that the bug reports of the collection name, each as a test of its own (values: test_cases.py)."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import oracle
import preimage as pre
from geometries import batch_of, cases, geometry_of, laid_out, operands
from preimage.engines.base import Epilogue
from preimage.errors import DTypeError, GeometryError, ShapeError
from preimage.geometry import ConvGeometry

CASE = {c["name"]: c for c in cases("hard_cases")}


def set_up(name, dtype=np.float32):
    """(geometry, x, w, y) of a case, small integers; x is the large side."""
    case = CASE[name]
    geometry = geometry_of(case, batch_of(case, most=case["batch"] or 1))
    return geometry, *operands(geometry, np.random.default_rng(0), dtype)


def three(engine, geometry, x, w, y):
    return engine.conv(geometry, x, w), engine.conv_transpose(geometry, y, w), engine.conv_weight_grad(geometry, x, y)


def truth(geometry, x, w, y):
    s = oracle.sizes_of(geometry)
    return oracle.conv(x, w, s), oracle.conv_transpose(y, w, s), oracle.conv_weight_grad(x, y, s)


def assert_right(engine, geometry, x, w, y):
    for found, right in zip(three(engine, geometry, x, w, y), truth(geometry, x, w, y), strict=True):
        assert np.array_equal(found, right)


# -- empty -------------------------------------------------------------------------------------------------------------


def test_empty_batch(engine):
    geometry, x, w, y = set_up("empty_01")
    assert geometry.output_shape == (0, 3, 1, 1)
    leaf, weight, bias = (pre.Tensor(a, requires_grad=True) for a in (x, w, np.ones(3, np.float32)))
    result = pre.conv(leaf, weight, bias)
    result.backward(y)
    assert result.shape == (0, 3, 1, 1)
    assert leaf.grad.shape == (0, 3, 3, 3)
    assert np.array_equal(weight.grad.data, np.zeros((3, 3, 3, 3)))
    assert np.array_equal(bias.grad.data, np.zeros(3))


def test_empty_batch_after_a_full_one(engine):
    geometry, _, w, y = set_up("empty_02")
    full = ConvGeometry.from_conv_transpose((2, 1, 7, 7), w.shape, stride=2)
    engine.conv_transpose(full, np.ones((2, 1, 7, 7), np.float32), w)
    assert engine.conv_transpose(geometry, y, w).shape == (0, 16, 17, 17)


def test_no_input_channels_give_the_bias(engine):
    geometry, x, w, _ = set_up("empty_03")
    bias = np.arange(8, dtype=np.float32)
    found = engine.conv(geometry, x, w, Epilogue(bias=bias))
    assert np.array_equal(found, np.broadcast_to(bias[:, None], (2, 8, 7)))


def test_empty_output_is_empty_everywhere(engine):
    geometry, _, w, y = set_up("empty_04")
    assert engine.conv_transpose(geometry, y, w).shape == (1, 1, 0, 0)


def test_spatial_size_zero_made_non_empty_by_padding(engine):
    geometry, x, w, _ = set_up("empty_07")
    bias = np.array([2, -3], np.float32)
    found = engine.conv(geometry, x, w, Epilogue(bias=bias))
    assert np.array_equal(found, np.broadcast_to(bias[:, None, None], (1, 2, 2, 7)))


# -- strides, remainders, output_padding -------------------------------------------------------------------------------


def test_unread_inputs_get_gradient_zero(engine):
    geometry, _, w, y = set_up("stride_gt_kernel_01")
    grad = engine.conv_transpose(geometry, y, w)
    assert not grad[:, :, 1::2].any()
    assert not grad[:, :, :, 1::2].any()
    geometry, _, w, y = set_up("stride_gt_kernel_02")
    grad = engine.conv_transpose(geometry, np.ones_like(y), np.ones_like(w))
    assert not grad[..., [2, 5, 6]].any()
    assert grad[..., [0, 1, 3, 4]].all()


def test_gaps_and_the_output_padding_tail_hold_the_bias(engine):
    geometry, _, _, _ = set_up("stride_gt_kernel_04")
    ones = np.ones((1, 1, 3), np.float32), np.ones((1, 1, 2), np.float32)
    found = engine.conv_transpose(geometry, *ones, Epilogue(bias=np.array([5], np.float32)))
    assert np.array_equal(found[0, 0], [6, 6, 5, 6, 6, 5, 6, 6, 5, 5])


@pytest.mark.parametrize("channels", [23, 24, 25, 48])
@pytest.mark.parametrize("dilation", [1, 2])
def test_depthwise_weight_gradient(engine, channels, dilation):
    geometry = ConvGeometry.from_conv(
        (1, channels, 6, 6), (channels, 1, 3, 3), stride=2, padding=dilation, dilation=dilation, groups=channels
    )
    assert_right(engine, geometry, *operands(geometry, np.random.default_rng(0)))


def test_weight_gradient_does_not_grow_by_the_remainder(engine):
    geometry, x, _, y = set_up("strided_grad_07")
    assert engine.conv_weight_grad(geometry, x, y).shape == (6, 3, 3)


def test_last_rows_of_output_padding_are_values(engine):
    geometry, _, _, y = set_up("output_padding_05")
    w = np.ones(geometry.weight_shape, np.float32)
    found = engine.conv_transpose(geometry, np.abs(y) + 1, w)
    assert found[:, :, -1, :].all()
    assert found[:, :, :, -1].all()


def test_output_padding_between_stride_and_dilation_carries_taps(engine):
    for name in ("output_padding_02", "output_padding_03", "output_padding_04"):
        geometry, x, w, y = set_up(name)
        assert not geometry.is_conv_size
        assert_right(engine, geometry, x, w, y)


def test_stride_two_with_dilation_two_leaves_every_second_output_to_the_bias(engine):
    geometry, _, _, y = set_up("dilated_deconv_01")
    found = engine.conv_transpose(geometry, y * 0 + 1, np.ones((1, 1, 3), np.float32), Epilogue(bias=np.array([7], np.float32)))
    landed = [p * 2 - 1 + k * 2 for p in range(6) for k in range(3)]
    assert all((found[0, 0, q] == 7) == (q not in landed) for q in range(14))
    assert (found[0, 0] == 7).sum() == 7


def test_a_tap_that_is_always_in_the_padding_gets_gradient_zero(engine):
    geometry, x, _, y = set_up("dilated_deconv_04")
    grad = engine.conv_weight_grad(geometry, x, y)
    assert not grad[:, :, 0].any()
    assert grad[:, :, 1].any()


# -- padding -----------------------------------------------------------------------------------------------------------


def test_border_of_a_wide_padding_is_the_bias_alone(engine):
    geometry, x, w, _ = set_up("padding_01")
    bias = np.arange(16, dtype=np.float32)
    found = engine.conv(geometry, x, w, Epilogue(bias=bias))
    assert np.array_equal(found[:, :, 0, :], np.broadcast_to(bias[:, None], (1, 16, 20)))
    assert np.array_equal(found[:, :, :, -2:], np.broadcast_to(bias[:, None, None], (1, 16, 20, 2)))


def test_wide_padding_on_a_permuted_view_is_the_same_twenty_times(engine):
    geometry, x, w, y = set_up("padding_04")
    first = engine.conv(geometry, laid_out(x, 1), w)
    assert np.array_equal(first, truth(geometry, x, w, y)[0])
    assert all(np.array_equal(engine.conv(geometry, laid_out(x, 1), w), first) for _ in range(20))


def test_one_sample_groups_16():
    x, w = np.arange(16, dtype=np.float32).reshape(1, 16, 1), np.ones((16, 1, 32), np.float32)
    assert np.array_equal(pre.conv(x, w, padding=16, groups=16), np.repeat(x, 2, axis=2))


def test_crop_larger_than_the_kernel_is_a_slice_of_the_full_result(engine):
    geometry, _, w, y = set_up("padding_07")
    full = ConvGeometry.from_conv_transpose(y.shape, w.shape)
    assert np.array_equal(engine.conv_transpose(geometry, y, w), engine.conv_transpose(full, y, w)[:, :, 3:-3, 3:-3])


def test_negative_padding_crops(engine):
    """Where others refuse it, it is the documented crop."""
    case = CASE["padding_08"]
    geometry = geometry_of(case, 1)
    x, w, _ = operands(geometry, np.random.default_rng(0))
    bare = ConvGeometry.from_conv((1, 1, 9, 8), (1, 1, 3, 3))
    cropped = np.concatenate([x[:, :, 1:], np.zeros((1, 1, 2, 8), np.float32)], axis=2)
    assert np.array_equal(engine.conv(geometry, x, w), engine.conv(bare, cropped, w))


# -- groups, layouts, sizes --------------------------------------------------------------------------------------------


def test_depthwise_weight_gradient_is_linear(engine):
    geometry, x, _, y = set_up("groups_07")
    assert np.array_equal(engine.conv_weight_grad(geometry, x, 4 * y), 4 * engine.conv_weight_grad(geometry, x, y))


def test_group_weight_order(engine):
    """2 channels in and 2 out a group: only the own group's channels are mixed."""
    geometry, _, w, y = set_up("groups_05")
    y[:, 4:] = 0
    found = engine.conv_transpose(geometry, y, w)
    assert found[:, :4].any()
    assert not found[:, 4:].any()


def test_strided_views(engine):
    geometry, x, w, y = set_up("layout_01")
    wide = np.zeros((3, 3, 2, 4), np.float32)
    wide[..., ::2] = w
    assert_right(engine, geometry, x, wide[..., ::2], y)
    geometry, x, w, y = set_up("layout_02")
    wide = np.zeros((32, 16, 1, 2), np.float32)
    wide[..., ::2] = w
    assert_right(engine, geometry, x, wide[..., ::2], y)
    for name in ("layout_03", "layout_04", "layout_05", "layout_06", "layout_07"):
        geometry, x, w, y = set_up(name)
        for how in (1, 2, 3, 4, 5):
            assert_right(engine, geometry, laid_out(x, how), laid_out(w, how), laid_out(y, how))


def test_size_one_axes_with_any_stride(engine):
    geometry, x, w, y = set_up("layout_06")
    odd = np.lib.stride_tricks.as_strided
    assert_right(
        engine, geometry, odd(x, x.shape, (-12, *x.strides[1:])), odd(w, w.shape, (4096, w.strides[1], -8, 0)),
        odd(y, y.shape, (0, -400, *y.strides[2:])),
    )  # fmt: skip
    zeros = np.zeros((1, 10, 20), np.float32)[::-1]
    assert np.array_equal(
        engine.conv(ConvGeometry.from_conv((1, 10, 20), (3, 10, 2)), zeros, np.ones((3, 10, 2), np.float32)), np.zeros((1, 3, 19))
    )


def test_broadcast_arrays(engine):
    geometry, _, _, _ = set_up("layout_07")
    x = np.broadcast_to(np.float32(2), geometry.input_shape)
    w = np.broadcast_to(np.arange(3, dtype=np.float32), geometry.weight_shape)
    y = np.broadcast_to(np.arange(10, dtype=np.float32), geometry.output_shape)
    assert_right(engine, geometry, x, w, y)


def test_unaligned_and_foreign_byte_order():
    x, w = np.arange(30, dtype=np.float32).reshape(1, 3, 10), np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    expected = pre.conv(x, w)
    raw = np.empty(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(x.shape)
    unaligned[...] = x
    assert not unaligned.flags.aligned
    assert np.array_equal(pre.conv(unaligned, w), expected)
    assert np.array_equal(pre.conv(x.astype(">f4"), w.astype(">f4")), expected)
    leaf = pre.Tensor(unaligned, requires_grad=True)
    pre.conv(leaf, w).sum().backward()
    assert leaf.grad.shape == x.shape


@pytest.mark.parametrize("name", [n for n, c in CASE.items() if c.get("big") and n != "huge_kernel_05"])
def test_sizes_beyond_32_bits_are_planned(engine, name):
    """Arrays of gigabytes: sizes, work and workspace are computed without wrapping; the work itself is not done here."""
    geometry = geometry_of(CASE[name], CASE[name]["batch"])
    assert list(geometry.output_size) == CASE[name]["output"]
    for contraction in ("conv", "conv_transpose", "conv_weight_grad"):
        plan = engine.plan(geometry, contraction, np.dtype(np.float32), False)
        assert plan.work_flop == geometry.work_flop > 0
        assert plan.array_bytes >= 4 * geometry.batch * geometry.in_channels
    if engine.name == "gemm":
        with pre.config(workspace_bytes=1 << 20):
            columns = engine.plan(geometry, "conv", np.dtype(np.float32)).details["columns"]
        assert int(columns.split()[0]) <= 1 << 20


def test_a_stride_beyond_32_bits(engine):
    geometry, x, w, y = set_up("overflow_arguments_04")
    assert_right(engine, geometry, x, w, y)


# -- hard values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nonfinite_02", "nonfinite_03", "nonfinite_04", "nonfinite_05", "nonfinite_06"])
def test_one_rule_for_padded_taps_at_every_channel_count(engine, name):
    """Zeros of the padding take part: an infinite weight over the padding gives NaN."""
    geometry, x, w, _ = set_up(name)
    x, w = np.abs(x) + 1, np.abs(w) + 1
    w[:, :, 0, 0] = np.inf
    found = engine.conv(geometry, x, w)
    border = np.zeros((6, 6), bool)
    border[0] = border[:, 0] = True
    assert np.array_equal(np.isnan(found), np.broadcast_to(border, found.shape))
    assert np.isposinf(found[:, :, 1:, 1:]).all()


def test_infinity_stays_infinity(engine):
    geometry, x, w, _ = set_up("nonfinite_07")
    assert np.isposinf(engine.conv(geometry, np.full_like(x, np.inf), np.abs(w) + 1)).all()


def test_denormal_weights_are_kept(engine):
    geometry, x, w, _ = set_up("denormal_01")
    tiny = engine.conv(geometry, np.full_like(x, 1e-3), np.full_like(w, 1e-40))
    assert (tiny > 0).all()
    product = engine.conv(geometry, np.full_like(x, 1e-20), np.full_like(w, 1e-20))
    assert np.allclose(product[0, 0, 5, 5], 144 * 1e-40, rtol=1e-3, atol=0)


def test_weight_gradient_is_the_same_a_hundred_times(engine):
    geometry, _, _, _ = set_up("threads_01")
    numbers = np.random.default_rng(0)
    x, y = (numbers.standard_normal(s).astype(np.float32) for s in (geometry.input_shape, geometry.output_shape))
    first = engine.conv_weight_grad(geometry, x, y)
    assert all(np.array_equal(engine.conv_weight_grad(geometry, x, y), first) for _ in range(100))


def test_concurrent_calls_of_different_shapes(engine):
    jobs = [set_up(name) for name in ("threads_02", "groups_05", "strided_grad_01", "layout_03")]
    expected = [truth(*job) for job in jobs]
    wrong = []

    def work(k):
        for _ in range(10):
            for found, right in zip(three(engine, *jobs[k]), expected[k], strict=True):
                if not np.array_equal(found, right):
                    wrong.append(k)

    threads = [threading.Thread(target=work, args=(k % 4,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_long_reductions_agree_over_split_batches(engine):
    geometry, _, _, _ = set_up("accuracy_03")
    numbers = np.random.default_rng(0)
    x, y = (numbers.standard_normal(s).astype(np.float32) for s in (geometry.input_shape, geometry.output_shape))
    half = ConvGeometry.from_conv((16, 2, 64, 64), (2, 2, 3, 3), padding=1)
    whole = engine.conv_weight_grad(geometry, x, y).astype(np.float64)
    parts = sum(engine.conv_weight_grad(half, x[k : k + 16], y[k : k + 16]).astype(np.float64) for k in (0, 16))
    exact = oracle.conv_weight_grad(x, y, oracle.sizes_of(geometry))
    sizes = oracle.conv_weight_grad(np.abs(x), np.abs(y), oracle.sizes_of(geometry))
    bound = np.finfo(np.float32).eps * np.sqrt(32 * 64 * 64) * sizes
    assert (np.abs(whole - exact) < bound).all()
    assert (np.abs(parts - exact) < bound).all()


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_dtypes_do_not_promote():
    with pytest.raises(DTypeError, match="one dtype"):
        pre.conv(np.ones((4, 1, 7, 7), np.float32), np.ones((1, 1, 3, 3)))


@pytest.mark.parametrize("bias", [np.ones(1), np.ones(3), np.ones((4, 1))])
def test_bias_of_another_shape(bias):
    with pytest.raises(ShapeError, match="one value per channel"):
        pre.conv(np.ones((1, 3, 5, 5)), np.ones((4, 3, 3, 3)), bias)


def test_bias_of_the_transpose_counts_its_outputs():
    with pytest.raises(ShapeError, match=r"wanted \(4,\)"):
        pre.conv_transpose(np.ones((1, 3, 5, 5)), np.ones((3, 4, 3, 3)), np.ones(3))


@pytest.mark.parametrize("wrong", [{"stride": 0}, {"stride": -1}, {"dilation": 0}, {"groups": 0}])
def test_zero_arguments(wrong):
    with pytest.raises(GeometryError, match="the least is 1"):
        pre.conv(np.ones((1, 3, 5, 5)), np.ones((4, 3, 3, 3)), **wrong)


@pytest.mark.parametrize("subset", range(1, 8))
def test_any_subset_of_gradients(subset):
    geometry, x, w, y = set_up("partial_grad_01", np.float64)
    leaves = [pre.Tensor(a, requires_grad=bool(subset >> k & 1)) for k, a in enumerate((x, w, np.ones(3)))]
    pre.conv(*leaves).backward(y)
    s = oracle.sizes_of(geometry)
    right = (oracle.conv_transpose(y, w, s), oracle.conv_weight_grad(x, y, s), oracle.bias_grad(y))
    for k, leaf in enumerate(leaves):
        if subset >> k & 1:
            assert np.array_equal(leaf.grad.data, right[k])
        else:
            assert leaf.grad is None


def test_double_backward_with_groups():
    _, _, w, y = set_up("partial_grad_02", np.float64)
    options = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}
    pre.check_grads(lambda a, b: pre.conv_transpose(a, b, **options), [y, w], order=2)


def test_onnx_same():
    assert pre.conv(np.ones((1, 16, 16, 16)), np.ones((16, 16, 3, 3)), padding="same", dilation=2).shape == (1, 16, 16, 16)
    assert pre.conv_transpose(np.ones((1, 1, 2, 2)), np.ones((1, 1, 3, 3)), padding="same").shape == (1, 1, 2, 2)
    assert pre.conv_transpose(np.ones((1, 2, 3, 3)), np.ones((2, 1, 3, 3)), padding="same", stride=2).shape == (1, 1, 6, 6)


@pytest.mark.parametrize("name", ["huge_kernel_04", "huge_kernel_05"])
def test_columns_are_bounded(name):
    """Deconvolutions whose columns would be far larger than their result."""
    geometry = geometry_of(CASE[name], 1)
    from preimage.engines import get

    with pre.config(workspace_bytes=4 << 20):
        plan = get("gemm").plan(geometry, "conv_transpose", np.dtype(np.float32))
        assert int(plan.details["columns"].split()[0]) <= 4 << 20
