"""Batch normalisation and the ReLU after it in one: the bits of one after the other, forward and back, wherever `Sequential` puts them together."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage import nn, ops
from preimage.nn.container import Sequential
from preimage.ops.normalise import normalise

RNG = np.random.default_rng(0)


def run(net: Any, x: np.ndarray, g: np.ndarray) -> list[np.ndarray]:
    """The result, all gradients and the running values."""
    for p in net.parameters():
        p.grad = None
    t = pre.Tensor(x, requires_grad=True)
    y = net(t)
    y.backward(g)
    assert t.grad is not None
    return [y.data, t.grad.data, *[p.grad.data for p in net.parameters()], *[np.asarray(b) for b in net.state_dict().values()]]


def pair(channels: int, after: nn.Module, dtype: Any) -> tuple[nn.Module, nn.Module]:
    """The same two layers, of which the second net's run one by one."""
    nets = []
    for _ in range(2):
        norm = nn.BatchNorm2d(channels, dtype=dtype)
        rng = np.random.default_rng(1)
        norm.weight.assign(rng.standard_normal(channels).astype(dtype))
        norm.bias.assign(rng.standard_normal(channels).astype(dtype))
        nets.append(nn.Sequential(norm, copy.deepcopy(after)))
    nets[1][1].register_forward_hook(lambda *_: None)  # whoever looks at a layer's result gets it
    return nets[0], nets[1]


@pytest.mark.parametrize("shape", [(3, 5, 4, 7), (2, 20, 24, 24), (2, 3, 45, 31)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("slope", [0.0, 0.2, -0.3])
def test_bits_of_one_after_the_other(
    shape: tuple[int, ...], last: bool, dtype: type, slope: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("preimage.nn.norm.normalise", lambda *a, **k: (seen.append(k["slope"]), normalise(*a, **k))[1])
    x, g = (RNG.standard_normal(shape).astype(dtype) for _ in range(2))
    x[:, 1] += 300
    if last:
        x, g = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in (x, g))
    together, apart = pair(shape[1], nn.LeakyReLU(slope) if slope else nn.ReLU(), dtype)
    with pre.config(threads=1 + last):
        found, wanted = run(together, x, g), run(apart, x, g)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert seen == [slope, None]
    assert (wanted[1] != run(nn.Sequential(nn.BatchNorm2d(shape[1], dtype=dtype)), x, g)[1]).any()


@pytest.mark.parametrize("after", [nn.ReLU(), nn.LeakyReLU(0.1)])
def test_channels_that_overflow_infinities_and_other_engines(after: nn.Module) -> None:
    x, g = (RNG.standard_normal((4, 3, 6, 5)).astype(np.float32) for _ in range(2))
    x[:, 0] *= np.float32(1e30)
    x[1, 2, 3, 3] = np.nan
    for engine in ("jit", "gemm"):
        with pre.config(engine=engine):
            for a, b in zip(*[run(net, x, g) for net in pair(3, after, np.float32)], strict=True):
                np.testing.assert_array_equal(a, b)
    with np.errstate(all="ignore"):
        narrow = x.astype(np.float16)
        for a, b in zip(*[run(net, narrow, g.astype(np.float16)) for net in pair(3, after, np.float32)], strict=True):
            np.testing.assert_array_equal(a, b)


def test_derivatives_of_second_order() -> None:
    x, w, b = RNG.standard_normal((3, 2, 4, 3)), RNG.standard_normal(2), RNG.standard_normal(2)

    def value(t: Any, v: Any, c: Any) -> Any:
        return normalise(t, v, c, images=True, eps=1e-5, slope=0.2)[0]

    def slopes(t: Any, v: Any, c: Any) -> Any:
        given = t if isinstance(t, pre.Tensor) else pre.Tensor(t, requires_grad=True)
        slope = pre.grad(ops.sum(value(given, v, c) ** 3), given, create_graph=True)
        return slope if isinstance(t, pre.Tensor) else slope.data

    pre.check_grads(value, (x, w, b))
    pre.check_grads(slopes, (x, w, b))


def test_what_is_not_put_together() -> None:
    """Evaluation, subclasses, a slope of 0 (which is no relu at infinities), what is observed, what records nothing."""

    class Own(nn.BatchNorm2d):
        pass

    x = pre.Tensor(RNG.standard_normal((2, 3, 4, 4)), requires_grad=True)
    norm = nn.BatchNorm2d(3)
    net = nn.Sequential(norm, nn.ReLU())
    assert Sequential._fusible(net, norm, net[1], x) == {"slope": 0.0}
    assert Sequential._fusible(net, Own(3), net[1], x) is None
    assert Sequential._fusible(net, norm, nn.LeakyReLU(0.0), x) is None
    assert Sequential._fusible(net, norm, nn.ReLU6(), x) is None
    assert Sequential._fusible(net, norm.eval(), net[1], x) is None
