"""What plans say of kernels for which adding up taps is the slow way."""

from __future__ import annotations

import pytest

import preimage as pre


def plan(size, channels, kernel):
    padding = kernel // 2
    geometry = pre.ConvGeometry.from_conv((1, channels, size, size), (channels, channels, kernel, kernel), padding=padding)
    return pre.plan(geometry)


@pytest.mark.parametrize(("size", "kernel"), [(256, 256), (512, 63), (64, 64)])
def test_a_kernel_as_large_as_the_picture_is_called_slow(engine, size, kernel):
    said = str(plan(size, 1, kernel))
    assert "large kernel: slow" in said
    assert f"{kernel * kernel} taps" in said


@pytest.mark.parametrize(("size", "channels", "kernel"), [(56, 64, 3), (224, 3, 7), (28, 128, 5), (512, 1, 11)])
def test_a_usual_one_is_not(engine, size, channels, kernel):
    assert "large kernel" not in plan(size, channels, kernel).details


def test_the_gradients_and_the_transpose_say_so_too(engine):
    geometry = pre.ConvGeometry.from_conv((1, 1, 96, 96), (1, 1, 96, 96), padding=48)
    for contraction in ("conv", "conv_transpose", "conv_weight_grad"):
        assert "Fourier" in pre.plan(geometry, contraction=contraction).details["large kernel"]
