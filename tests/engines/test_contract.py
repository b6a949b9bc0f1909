"""The order of sums: `engines/order.py` cuts as `preimage.contract` does, and jit gives the bits of the definition."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

import preimage as pre
from preimage import contract
from preimage.engines.jit.engine import JitEngine
from preimage.engines.order import Order

UNAVAILABLE = JitEngine().unavailable()


def test_the_planners_cut_as_the_definition_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        axes = tuple(int(n) for n in rng.choice([1, 2, 3, 5, 7, 9, 16, 33, 64, 130], rng.integers(1, 5)))
        if prod(axes) > 20_000:
            continue
        order = Order.of(axes)
        blocks, outer = contract.cut(axes, contract.block_limit(prod(axes)))
        assert order.blocks() == blocks
        members, level = blocks, int(len(blocks) > 1)
        while True:
            for number, (first, end) in enumerate(members if level else ()):
                assert {int(order.member(_index(axes, t), level)) for t in (first, end - 1)} == {number}, (axes, level)
            if len(members) == 1 or not level:
                break
            groups, outer = contract.cut(outer, contract.GROUP)
            members = [(members[a][0], members[b - 1][1]) for a, b in groups]
            level += 1
            if level > order.depth:
                assert len(members) == 1, axes
                break


def _index(axes: tuple[int, ...], term: int) -> list[int]:
    found = []
    for size in axes:
        term, place = divmod(term, size)
        found.append(place)
    return found


def test_a_fused_multiply_add_rounds_once() -> None:
    rng = np.random.default_rng(1)
    for dtype, digits in ((np.float32, 24), (np.float64, 53)):
        x, y = (rng.standard_normal(200).astype(dtype) for _ in range(2))
        z = (-(x * y) * (1 + rng.integers(-3, 4, 200) * 2.0**-digits)).astype(dtype)
        got = contract.fma(x, y, z)
        for a, b, c, d in zip(x.tolist(), y.tolist(), z.tolist(), got.tolist(), strict=True):
            (an, ad), (bn, bd), (cn, cd) = (v.as_integer_ratio() for v in (a, b, c))
            exact = (an * bn * cd + cn * ad * bd) / (ad * bd * cd)
            assert d == dtype(exact)


#: Geometries that reach every strategy: x, w, options of conv.
CASES = {
    "pieces of channels": ((2, 70, 6, 7), (9, 70, 3, 3), {"padding": 1}),
    "taps in a block": ((1, 9, 8, 9), (12, 9, 3, 5), {"stride": (1, 2), "padding": (1, 2)}),
    "joined taps": ((1, 3, 20, 21), (16, 3, 7, 7), {"stride": 2, "padding": 3}),
    "long joined lines": ((1, 12, 9, 40), (9, 12, 2, 9), {"padding": 1}),
    "few outputs": ((1, 40, 12, 19), (3, 40, 3, 3), {"padding": 1}),
    "strided, dilated, groups": ((2, 24, 13, 12), (22, 12, 3, 3), {"stride": 2, "dilation": 2, "padding": 2, "groups": 2}),
    "depthwise, large": ((1, 10, 17, 18), (10, 1, 9, 11), {"padding": (4, 5), "groups": 10}),
    "depthwise, long": ((1, 6, 90), (6, 1, 70), {"padding": 20, "groups": 6}),
    "depthwise, long stride": ((1, 5, 24, 26), (5, 1, 16, 16), {"stride": 8, "padding": 4, "groups": 5}),
    "three axes": ((1, 6, 5, 6, 7), (11, 6, 3, 2, 3), {"padding": 1}),
    "no axis": ((3, 300), (17, 300), {}),
}


@pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("name", CASES)
def test_jit_has_the_bits_of_the_definition(name: str, layout: str) -> None:
    x_shape, w_shape, options = CASES[name]
    rng = np.random.default_rng(2)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, w_shape))
    geometry = pre.ConvGeometry.from_conv(x_shape, w_shape, **options)
    y = rng.standard_normal(geometry.output_shape).astype(np.float32)
    extra = {"output_padding": geometry.output_padding} if len(x_shape) > 2 else {}
    with pre.config(engine="jit", threads=2):
        got = pre.conv(_laid(x, layout), w, **options)
        back = pre.conv_transpose(_laid(y, layout), w, **options, **extra)
    np.testing.assert_array_equal(_bits(got), _bits(contract.conv(x, w, **options)))
    np.testing.assert_array_equal(_bits(back), _bits(contract.conv_transpose(y, w, **options, **extra)))


def test_another_order_has_other_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison would see a sum that is one chain."""
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((1, 70, 6, 7)).astype(np.float32), rng.standard_normal((9, 70, 3, 3)).astype(np.float32)
    right = contract.conv(x, w, padding=1)
    monkeypatch.setattr(contract, "block_limit", lambda terms: terms)
    assert (_bits(right) != _bits(contract.conv(x, w, padding=1))).mean() > 0.2


def _laid(a: np.ndarray, layout: str) -> np.ndarray:
    return a if layout == "first" else np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def _bits(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a).view(np.uint32)
