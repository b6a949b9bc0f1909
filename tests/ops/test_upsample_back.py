"""The gradient of repetition, by windows, has the bits of what NumPy adds up."""

import sys

import numpy as np
import pytest

import preimage as pre
from preimage import ops

MODULE = sys.modules["preimage.ops.upsample"]  # the package has a function of this name


def laid_out(a, last):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) if last else a


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize(("size", "factor"), [((37,), 3), ((7, 5), (2, 3)), ((6, 4), (1, 4)), ((3, 2, 5), (2, 1, 3))])
def test_the_bits_are_numpys(size, factor, dtype, last, mode, monkeypatch):
    rng = np.random.default_rng(0)
    x = laid_out(rng.standard_normal((2, 150, *size)).astype(dtype), last)

    def gradient():
        t = pre.Tensor(x, requires_grad=True)
        y = ops.upsample(t, scale_factor=factor, mode=mode)
        g = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
        g[..., ::3] *= 0  # of both signs
        y.backward(laid_out(g, last))
        return t.grad.data

    seen = []
    summed = MODULE._windows_summed
    monkeypatch.setattr(MODULE, "_windows_summed", lambda *a: seen.append(summed(*a)) or seen[-1])
    found = gradient()
    if "jit" in pre.engines() and pre.engines()["jit"] == "available":
        assert seen[-1] is not None
    monkeypatch.setattr(MODULE, "_windows_summed", lambda *a: None)
    wanted = gradient()
    assert found.dtype == wanted.dtype
    assert found.tobytes() == wanted.tobytes()


def test_what_is_no_repetition():
    for size, outputs in ((4, 6), (4, 3), (5, 5 * 65)):
        assert MODULE._repeats(MODULE.Resize(size, MODULE.line(size, outputs, None, "nearest", False), False)) == (0,)
    assert MODULE._repeats(MODULE.Resize(4, MODULE.line(4, 8, None, "linear", False), True)) == (0,)
    assert MODULE._repeats(MODULE.Resize(4, MODULE.line(4, 8, None, "nearest", False), False)) == (2,)
