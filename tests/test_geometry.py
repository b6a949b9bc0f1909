"""ConvGeometry: every size formula against counting, and the text of every error."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from math import prod

import numpy as np
import pytest

from geometries import random_geometry
from preimage.errors import GeometryError, ShapeError
from preimage.geometry import ConvGeometry, normalise_padding, per_axis

conv = ConvGeometry.from_conv
transpose = ConvGeometry.from_conv_transpose


def count_positions(size, lo, hi, kernel, stride, dilation):
    """How often a dilated kernel fits on a padded axis, by trying every position."""
    padded, n = size + lo + hi, 0
    while n * stride + dilation * (kernel - 1) < padded:
        n += 1
    return n


def test_conv_size_by_counting():
    rng = random.Random(1)
    seen = 0
    while seen < 2000:
        size, kernel, stride, dilation = rng.randint(0, 30), rng.randint(1, 7), rng.randint(1, 5), rng.randint(1, 4)
        lo, hi = rng.randint(-3, 8), rng.randint(-3, 8)
        expected = count_positions(size, lo, hi, kernel, stride, dilation)
        options = {"stride": stride, "padding": ((lo, hi),), "dilation": dilation}
        if expected < 1 or size + lo + hi < 0:
            with pytest.raises(GeometryError, match="axis 0: the kernel covers"):
                conv((1, 1, size), (1, 1, kernel), **options)
            continue
        seen += 1
        g = conv((1, 1, size), (1, 1, kernel), **options)
        assert g.output_size == (expected,)
        assert g.kernel_extent == (dilation * (kernel - 1) + 1,)
        assert 0 <= g.remainder[0] < stride
        assert g.is_conv_size
        assert g.transpose_restores_size == (g.remainder[0] == 0)
        inside = sum(
            0 <= p * stride - lo + k * dilation < size for p in range(expected) for k in range(kernel)
        )  # fmt: skip
        assert g.inside_macs == inside
        assert g.macs == expected * kernel
        assert g.work_flop == 2 * expected * kernel
        # the transpose, told the large size or the remainder, gives it back
        small = (1, 1, expected)
        assert transpose(small, (1, 1, kernel), output_size=size, **options) == g
        assert transpose(small, (1, 1, kernel), output_padding=g.remainder, **options) == g
        assert ConvGeometry.from_sizes((1, 1, size), small, kernel, **options) == g


def test_transpose_size_by_scattering():
    """Without padding the large side ends where the last tap of the last position lands; padding crops, output_padding adds."""
    rng = random.Random(2)
    for _ in range(1000):
        small, kernel, stride, dilation = rng.randint(1, 9), rng.randint(1, 6), rng.randint(1, 5), rng.randint(1, 4)
        full = 1 + max(p * stride + k * dilation for p in range(small) for k in range(kernel))
        lo, hi, extra = rng.randint(-2, 4), rng.randint(-2, 4), rng.randint(0, max(stride, dilation) - 1)
        size = full - lo - hi + extra
        options = {"stride": stride, "padding": ((lo, hi),), "dilation": dilation}
        if size < 0:
            with pytest.raises(GeometryError, match="the padding may be at most"):
                transpose((1, 1, small), (1, 1, kernel), output_padding=extra, **options)
            continue
        g = transpose((1, 1, small), (1, 1, kernel), output_padding=extra, **options)
        assert g.input_size == (size,)
        assert g.output_padding == (extra,)
        assert g.is_conv_size == (extra < stride)
        assert transpose((1, 1, small), (1, 1, kernel), output_size=size, **options) == g


@pytest.mark.parametrize(("word", "lo", "hi"), [("same", 1, 2), ("same_upper", 1, 2), ("same_lower", 2, 1), ("SAME", 1, 2)])
def test_same(word, lo, hi):
    assert conv((1, 2, 9), (3, 2, 4), padding=word).padding == ((lo, hi),)
    assert conv((1, 2, 9), (3, 2, 4), padding=word).output_size == (9,)


def test_same_with_stride_and_dilation():
    for size in range(1, 20):
        for stride in range(1, 5):
            for kernel in range(1, 6):
                for dilation in range(1, 4):
                    g = conv((1, 1, size), (1, 1, kernel), stride=stride, dilation=dilation, padding="same")
                    assert g.output_size == (-(-size // stride),)
                    lo, hi = g.padding[0]
                    assert 0 <= hi - lo <= 1
                    back = transpose((1, 1, size), (1, 1, kernel), stride=stride, dilation=dilation, padding="same")
                    if dilation * (kernel - 1) + 1 >= stride:
                        assert back.input_size == (size * stride,)


def test_onnx_examples_of_same():
    """auto_pad SAME_UPPER of ConvTranspose gives input * stride, whatever output_padding says."""
    for extra in (0, 1):
        g = transpose((1, 2, 3, 3), (2, 1, 3, 3), stride=2, padding="same", output_padding=extra)
        assert g.input_size == (6, 6)
    assert transpose((1, 1, 5, 5), (1, 1, 3, 3), stride=2, padding="same").padding == ((0, 1), (0, 1))
    assert transpose((1, 1, 5, 5), (1, 1, 3, 3), stride=2, padding="same_lower").padding == ((1, 0), (1, 0))
    assert transpose((1, 1, 5), (1, 1, 3), stride=2, padding="same", output_size=9).input_size == (9,)


def test_valid_is_no_padding():
    assert conv((1, 1, 9), (1, 1, 4), padding="valid") == conv((1, 1, 9), (1, 1, 4))
    assert transpose((1, 1, 9), (1, 1, 4), padding="valid", stride=3) == transpose((1, 1, 9), (1, 1, 4), stride=3)
    assert ConvGeometry.from_sizes((1, 1, 9), (1, 1, 6), 4, padding="valid") == conv((1, 1, 9), (1, 1, 4))
    assert ConvGeometry.from_sizes((1, 1, 9), (1, 1, 5), 4, stride=2, padding="same") == conv(
        (1, 1, 9), (1, 1, 4), stride=2, padding="same"
    )


def test_shapes_and_costs():
    g = conv((2, 6, 7, 9), (4, 3, 3, 2), stride=(2, 1), padding=((1, 0), (0, 2)), dilation=(1, 3), groups=2)
    assert (g.input_shape, g.weight_shape, g.output_shape) == ((2, 6, 7, 9), (4, 3, 3, 2), (2, 4, 3, 8))
    assert (g.ndim, g.in_channels_per_group, g.out_channels_per_group, g.is_depthwise) == (2, 3, 2, False)
    assert g.array_bytes(4) == 4 * (2 * 6 * 7 * 9 + 4 * 3 * 3 * 2 + 2 * 4 * 3 * 8)
    assert g.work_flop == 2 * 2 * 4 * 3 * 8 * 3 * 3 * 2
    assert conv((2, 6, 7), (12, 1, 3), groups=6).is_depthwise
    assert not conv((2, 1, 7), (12, 1, 3)).is_depthwise


def test_no_spatial_axes():
    g = conv((3, 4), (5, 4))
    assert (g.ndim, g.output_shape, g.macs, g.remainder) == (0, (3, 5), 60, ())
    assert transpose((3, 5), (5, 4)) == g
    assert conv((3, 4), (6, 2), groups=2, stride=7, padding=1, dilation=2).output_shape == (3, 6)


def test_empty_sizes_follow_the_definition():
    assert conv((0, 3, 5), (2, 3, 3)).output_shape == (0, 2, 3)
    assert conv((1, 0, 5), (2, 0, 3)).output_shape == (1, 2, 3)
    assert conv((1, 3, 0), (2, 3, 3), padding=2).output_shape == (1, 2, 2)
    assert transpose((1, 3, 2), (3, 1, 2), stride=2, padding=2).input_shape == (1, 1, 0)
    assert conv((1, 3, 5), (0, 3, 3)).output_shape == (1, 0, 3)


def test_equal_geometries_are_one_key():
    a = conv((1, 2, 9), (3, 2, 4), stride=2)
    b = replace(conv((1, 2, 9), (3, 2, 4), stride=1), output_size=(3,), stride=(2,))
    assert a == b
    assert hash(a) == hash(b)
    assert len({a, b}) == 1
    assert pickle.loads(pickle.dumps(a)) == a
    assert hash(pickle.loads(pickle.dumps(a))) == hash(a)
    assert a != conv((1, 2, 9), (3, 2, 4), stride=(3,))
    seen = {random_geometry(random.Random(k)) for k in range(200)}
    assert len(seen) > 190


def test_numbers_of_any_integer_type():
    plain = conv((1, 2, 9), (3, 2, 4), stride=2, padding=((1, 2),), dilation=2)
    numpy_ints = conv(
        np.array([1, 2, 9]), np.array([3, 2, 4]), stride=np.int64(2), padding=np.array([[1, 2]]), dilation=np.array([2])
    )
    assert plain == numpy_ints
    assert all(type(v) is int for v in (*numpy_ints.stride, *numpy_ints.input_size, *numpy_ints.padding[0]))
    assert conv([1, 2, 9], [3, 2, 4], stride=[2], padding=[(1, 2)], dilation=np.array(2)) == plain


ERRORS = [
    (lambda: conv((1, 3, 2, 2), (1, 3, 3, 3)), r"axis 0: the kernel covers 3 .* only 2 \+ 0 \+ 0 = 2; it needs an input of at least 3"),
    (lambda: conv((1, 1, 9, 4), (1, 1, 3, 3), dilation=2), "axis 1: the kernel covers 5 .kernel size 3, dilation 2"),
    (lambda: conv((1, 4, 5), (6, 1, 3), groups=3), "groups 3 do not divide in_channels 4; the nearest that would do is 3"),
    (lambda: conv((1, 6, 5), (4, 2, 3), groups=3), "groups 3 do not divide out_channels 4; the nearest that would do is 3"),
    (lambda: conv((1, 1, 5), (4, 2, 3), groups=3), "groups 3 do not divide in_channels 1; the nearest that would do is 3"),
    (lambda: conv((1, 8, 5), (4, 2, 3), groups=0), "groups is 0; the least is 1"),
    (lambda: conv((1, 8, 5), (4, 2, 3), groups=-2), "groups is -2; the least is 1"),
    (lambda: conv((1, 8, 5), (4, 2, 3), groups=2.0), "groups must be an integer, got 2.0"),
    (lambda: conv((1, 8, 5), (4, 2, 3), groups=True), "groups must be an integer, got True"),
    (lambda: conv((1, 8, 5), (4, 6, 3)), r"the input has 8 channels, but weight shape \(4, 6, 3\) with groups 1 wants 6"),
    (lambda: conv((1, 8, 5), (4, 8, 3), stride=0), "stride along axis 0 is 0; the least is 1"),
    (lambda: conv((1, 8, 5), (4, 8, 3), stride=-1), "stride along axis 0 is -1; the least is 1"),
    (lambda: conv((1, 8, 5), (4, 8, 3), dilation=0), "dilation along axis 0 is 0; the least is 1"),
    (lambda: conv((1, 8, 5), (4, 8, 3), stride=(1, 2)), r"stride \(1, 2\) has 2 entries, wanted one integer or one per axis \(1\)"),
    (lambda: conv((1, 8, 5), (4, 8, 3), stride="1"), "stride must be an integer, got '1'"),
    (lambda: conv((1, 8, 5), (4, 8, 3), stride=1.5), "must be an integer, got 1.5"),
    (lambda: conv((1, 8, 5), (4, 8, 3), stride=2**50), f"stride along axis 0 is {2**50}; the most is {2**48}"),
    (lambda: conv((1, 8, 5), (4, 8, 3), padding="full"), "padding must be numbers, 'same', 'same_lower' or 'valid', got 'full'"),
    (lambda: conv((1, 8, 5), (4, 8, 3), padding=(1, 2)), r"one axis takes a pair inside: \(\(1, 2\),\)"),
    (lambda: conv((1, 8, 5, 5), (4, 8, 3, 3), padding=(1, 2, 3)), r"has 3 entries, wanted one per axis \(2\)"),
    (lambda: conv((1, 8, 5), (4, 8, 3), padding=((1, 2, 3),)), r"padding\[0\] is \(1, 2, 3\), wanted an integer or a pair"),
    (lambda: conv((1, 8, 5), (4, 8, 3), padding=2**62), "padding along axis 0 is .* the most is"),
    (lambda: conv((1, 8, 5), (4, 8, 3), padding=-(2**62)), "padding along axis 0 is .* the most is"),
    (lambda: conv((1, 8, 5), (4, 8, 0)), "kernel size along axis 0 is 0; the least is 1"),
    (lambda: conv((1, 8, 5), (4, 8, 3, 3)), r"input shape \(1, 8, 5\) has 1 spatial axes, weight shape \(4, 8, 3, 3\) has 2"),
    (lambda: conv((8,), (4, 8)), "needs a batch and a channel axis before its spatial axes"),
    (lambda: conv((1, -8, 5), (4, 8, 3)), "has a negative size"),
    (lambda: conv((1, 1, 2**40), (2, 1, 1)), "more than the 1099511627776 elements that can be indexed"),
    (lambda: conv((1, 1, 4), (1, 1, 3), dilation=2**31), "the kernel covers 4294967297"),
    (lambda: transpose((1, 1, 2), (1, 1, 3), stride=2**40), "more than the 1099511627776 elements that can be indexed"),
    (lambda: transpose((1, 1, 4), (1, 1, 3), stride=2, output_padding=2), r"output_padding along axis 0 is 2; it must be below .* = 2"),
    (lambda: transpose((1, 1, 4), (1, 1, 3), output_padding=-1), "output_padding along axis 0 is -1; the least is 0"),
    (lambda: transpose((1, 1, 2), (1, 1, 2), padding=5), r"\(2 - 1\)\*1 \+ 2 - 5 - 5 \+ 0 = -7; the padding may be at most 3 in all"),
    (lambda: transpose((1, 3, 4), (4, 1, 3)), r"the input has 3 channels, but weight shape \(4, 1, 3\).* wants 4"),
    (lambda: transpose((1, 1, 4), (1, 1, 3), output_padding=1, stride=2, output_size=10), "not both"),
    (lambda: transpose((1, 1, 4), (1, 1, 3), stride=2, output_size=11), "output_size along axis 0 is 11; an input of 4 gives 9 to 10"),
    (lambda: transpose((1, 1, 4), (1, 1, 3), stride=2, output_size=8), "output_size along axis 0 is 8; an input of 4 gives 9 to 10"),
    (lambda: ConvGeometry.from_sizes((1, 1, 9), (1, 1, 5), 3), r"input size 9 and output size 5 do not belong together .* gives 7"),
    (lambda: ConvGeometry.from_sizes((2, 1, 9), (1, 1, 7), 3), "different batch sizes"),
    (lambda: ConvGeometry.from_sizes((1, 1, 9, 9), (1, 1, 7), 3), "different numbers of axes"),
    (lambda: replace(conv((1, 1, 9), (1, 1, 3)), stride=(1, 1)), "has not one entry per spatial axis"),
    (lambda: replace(conv((1, 1, 9), (1, 1, 3)), batch=-1), "batch is -1; the least is 0"),
    (lambda: replace(conv((1, 1, 9), (1, 1, 3)), stride=(0,)), "stride along axis 0 is 0; the least is 1"),
    (lambda: replace(conv((1, 1, 9), (1, 1, 3)), kernel_size=(0,), output_size=(10,)), "kernel_size along axis 0 is 0"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "text"), ERRORS)
def test_errors_say_what_came_and_what_would_do(call, text):
    with pytest.raises(GeometryError, match=text) as caught:
        call()
    assert isinstance(caught.value, ShapeError)
    assert isinstance(caught.value, ValueError)


def test_per_axis_and_normalise_padding():
    assert per_axis(3, 2, "stride") == (3, 3)
    assert per_axis((), 0, "stride") == ()
    assert normalise_padding(2, 2) == ((2, 2), (2, 2))
    assert normalise_padding([1, (2, 3)], 2) == ((1, 1), (2, 3))
    assert normalise_padding("valid", 3) == "valid"


def test_groups_of_the_transpose():
    g = transpose((1, 4, 3), (4, 1, 2), groups=2)
    assert (g.in_channels, g.out_channels, g.in_channels_per_group) == (2, 4, 1)
    assert g == conv((1, 2, 4), (4, 1, 2), groups=2)
    with pytest.raises(GeometryError, match="groups 3 do not divide out_channels 4"):
        transpose((1, 4, 3), (4, 1, 2), groups=3)


def test_the_class_itself_checks_the_remainder():
    """One more than the slack, or one less than nothing, is refused where the fields are given directly."""
    g = conv((1, 1, 10), (1, 1, 3), stride=2)
    assert replace(g, input_size=(9,)).remainder == (0,)
    assert replace(g, input_size=(10,)).remainder == (1,)
    for size in (8, 11):
        with pytest.raises(GeometryError, match="do not belong together"):
            replace(g, input_size=(size,))
    assert "_hash" not in repr(g)


def test_the_largest_parameters_are_taken():
    """At the limits themselves nothing is refused."""
    assert conv((1, 1, 4), (1, 1, 3), stride=2**48).output_size == (1,)
    assert per_axis(2**48, 1, "stride") == (2**48,)
    assert normalise_padding(((2**48, -(2**48)),), 1) == ((2**48, -(2**48)),)
    assert conv((1, 1, 2**40), (1, 1, 1)).output_size == (2**40,)
    for text in ((2**48 + 1, 0), (0, -(2**48) - 1)):
        with pytest.raises(GeometryError, match="the most is"):
            normalise_padding((text,), 1)


def test_the_remainder_can_exceed_the_stride():
    """output_padding between stride and dilation: a large side that no forward convolution gives."""
    g = transpose((1, 1, 3), (1, 1, 3), dilation=4, output_padding=3)
    assert g.input_size == (14,)
    assert not g.is_conv_size
    assert g.output_size == (3,)
    assert conv((1, 1, 14), (1, 1, 3), dilation=4).output_size == (6,)
    assert prod(g.output_shape) == 3
