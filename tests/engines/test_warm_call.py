"""How many of our Python functions a warm call enters: what a tiny layer costs beside its kernels."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import preimage as pre
from preimage import ops

OURS = str(Path(pre.__file__).parent)

pytestmark = pytest.mark.skipif(pre.engines()["jit"] != "available", reason="jit cannot run here")


def entered(call):
    """Our functions that a call enters once it is warm (a generator counts each time that it goes on)."""
    found = []

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            found.append(frame.f_code.co_name)

    for _ in range(4):
        call()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


def test_a_convolution_and_its_gradient():
    x, w, g = np.ones((1, 16, 20, 20), np.float32), np.ones((16, 16, 3, 3), np.float32), np.ones((1, 16, 20, 20), np.float32)

    a, b = pre.Tensor(x, requires_grad=True), pre.Tensor(w, requires_grad=True)

    def forward_and_back():
        pre.conv(a, b, padding=1).backward(g)

    with pre.config(threads=1, engine="auto"):
        assert len(entered(lambda: pre.conv(x, w, padding=1))) <= 6
        assert len(entered(lambda: pre.conv_transpose(x, w, padding=1))) <= 7
        assert len(entered(lambda: pre.conv_weight_grad(x, x[:, :, 1:-1, 1:-1], kernel_size=3))) <= 7
        assert len(entered(forward_and_back)) <= 175


def test_a_product():
    a = np.ones((16, 16), np.float32)
    with pre.config(threads=1, engine="auto"):
        assert len(entered(lambda: ops.matmul(a, a))) <= 4


def test_a_layer():
    x, w, b = np.ones((2, 16), np.float32), np.ones((8, 16), np.float32), np.ones(8, np.float32)
    prepared = pre.prepare(w)
    with pre.config(threads=1, engine="auto"):
        assert len(entered(lambda: ops.linear(x, w, b))) <= 5
        assert len(entered(lambda: ops.linear(x, prepared, b))) <= 8
