"""Rows of pooling and resizing."""

from __future__ import annotations

import math
from typing import Any

import naive
import numpy as np
from row import IMAGE, Row, distinct, normal

from preimage import ops


def _max(values: Any, taps: int, places: Any) -> float:
    return max(values, default=-math.inf)


def _mean(values: Any, taps: int, places: Any) -> float:
    return sum(values) / taps


def _pool(k: Any, s: Any, p: Any, d: Any, ceil: bool, reduce: Any) -> Any:
    return lambda x: naive.pool(x, k, s, p, d, ceil, reduce)


def _unpool(y: Any, where: Any, size: tuple[int, ...], add: bool) -> Any:
    out = np.zeros((*y.shape[:2], math.prod(size)))
    for n, c in np.ndindex(*y.shape[:2]):
        for value, place in zip(y[n, c].flat, where[n, c].flat, strict=True):
            out[n, c, place] = value + (out[n, c, place] if add else 0)
    return out.reshape(*y.shape[:2], *size)


_switches = np.array([[[[0, 3], [3, 11]]] * 2] * 2).reshape(2, 2, 2, 2)
_bins = lambda n, m: [slice(o * n // m, -(-(o + 1) * n // m)) for o in range(m)]  # noqa: E731


def _adaptive(x: Any, sizes: tuple[int, int], reduce: Any) -> Any:
    rows, columns = _bins(x.shape[2], sizes[0]), _bins(x.shape[3], sizes[1])
    return np.stack([np.stack([reduce(x[:, :, r, c], (2, 3)) for c in columns], -1) for r in rows], -2)


POOLS = [
    Row(
        "max_pool",
        lambda x: ops.max_pool(x, (3, 2), stride=(2, 1), padding=((1, 0), (0, 1))),
        distinct(IMAGE),
        _pool((3, 2), (2, 1), [(1, 0), (0, 1)], (1, 1), False, _max),
        second=False,
        empty=((0, 3, 7, 6),),
    ),
    Row(
        "max_pool",
        lambda x: ops.max_pool(x, 2, stride=3, dilation=2, ceil_mode=True, return_switches=True)[0],
        distinct((2, 2, 8)),
        _pool((2,), (3,), [(0, 0)], (2,), True, _max),
        second=False,
        empty=((0, 2, 8),),
    ),
    Row(
        "max_pool",
        lambda x: ops.max_pool(x, 2),
        distinct((1, 2, 4, 5, 4)),
        _pool((2,) * 3, (2,) * 3, [(0, 0)] * 3, (1,) * 3, False, _max),
        second=False,
        empty=((2, 0, 4, 5, 4),),
    ),
    Row("max_pool", lambda x: ops.max_pool(x, ()), distinct((2, 3)), lambda x: x, linear=(0,), second=False, empty=((0, 3),)),
    Row(
        "avg_pool",
        lambda x: ops.avg_pool(x, (3, 2), stride=(2, 3), padding=(1, 0), ceil_mode=True),
        normal(IMAGE),
        _pool((3, 2), (2, 3), [(1, 1), (0, 0)], (1, 1), True, _mean),
        linear=(0,),
        empty=((0, 3, 7, 6),),
    ),
    Row(
        "avg_pool",
        lambda x: ops.avg_pool(x, 3, stride=1, padding=1, count_include_pad=False),
        normal((2, 2, 5, 4)),
        _pool((3, 3), (1, 1), [(1, 1)] * 2, (1, 1), False, lambda v, t, p: sum(v) / len(v)),
        linear=(0,),
        empty=((0, 3, 7, 6),),
    ),
    Row(
        "avg_pool",
        lambda x: ops.avg_pool(x, 3, padding="same", stride=2, divisor_override=5),
        normal((2, 2, 6)),
        _pool((3,), (2,), [(0, 1)], (1,), False, lambda v, t, p: sum(v) / 5),
        linear=(0,),
        empty=((0, 2, 6),),
    ),
    Row(
        "sum_pool",
        lambda x: ops.sum_pool(x, (2, 3), dilation=(2, 1), padding="valid"),
        normal(IMAGE),
        _pool((2, 3), (2, 3), [(0, 0)] * 2, (2, 1), False, lambda v, t, p: sum(v)),
        linear=(0,),
        empty=((0, 3, 7, 6),),
    ),
    Row("sum_pool", lambda x: ops.sum_pool(x, ()), normal((2, 3)), lambda x: x, linear=(0,), empty=((0, 3),)),
    Row(
        "max_unpool",
        lambda y: ops.max_unpool(y, _switches, (4, 3)),
        normal((2, 2, 2, 2)),
        lambda y: _unpool(y, _switches, (4, 3), False),
        linear=(0,),
        empty=None,
    ),
    Row(
        "max_unpool",
        lambda y: ops.max_unpool(y, _switches, (4, 3), overlap="add"),
        normal((2, 2, 2, 2)),
        lambda y: _unpool(y, _switches, (4, 3), True),
        linear=(0,),
        empty=None,
    ),
    Row(
        "global_avg_pool",
        ops.global_avg_pool,
        normal(IMAGE),
        lambda x: x.sum((2, 3)).reshape(2, 3, 1, 1) / 42,
        linear=(0,),
        empty=((0, 3, 2, 2),),
    ),
    Row(
        "global_max_pool",
        ops.global_max_pool,
        distinct(IMAGE),
        lambda x: x.max((2, 3)).reshape(2, 3, 1, 1),
        second=False,
        empty=((0, 3, 2, 2),),
    ),
    Row(
        "adaptive_avg_pool",
        lambda x: ops.adaptive_avg_pool(x, (3, None)),
        normal(IMAGE),
        lambda x: _adaptive(x, (3, 6), np.mean),
        linear=(0,),
        empty=((0, 3, 7, 6),),
    ),
    Row(
        "adaptive_avg_pool",
        lambda x: ops.adaptive_avg_pool(x, (4, 17)),  # more windows than positions
        normal(IMAGE),
        lambda x: _adaptive(x, (4, 17), np.mean),
        linear=(0,),
        empty=((0, 3, 7, 6),),
    ),
    Row(
        "adaptive_avg_pool",
        lambda x: ops.adaptive_avg_pool(x, (2, 3, 2)),
        normal((1, 2, 3, 4, 5)),
        lambda x: np.stack(
            [
                np.stack([np.stack([x[:, :, d, r, c].mean((2, 3, 4)) for c in _bins(5, 2)], -1) for r in _bins(4, 3)], -2)
                for d in _bins(3, 2)
            ],
            -3,
        ),
        linear=(0,),
        empty=((0, 2, 3, 4, 5),),
    ),
    Row(
        "adaptive_max_pool",
        lambda x: ops.adaptive_max_pool(x, (3, 4)),
        distinct(IMAGE),
        lambda x: _adaptive(x, (3, 4), np.max),
        second=False,
        empty=((0, 3, 7, 6),),
    ),
]

RESIZES = [
    Row(
        "upsample",
        lambda x: ops.upsample(x, scale_factor=2),
        normal((2, 3, 4, 5)),
        lambda x: np.kron(x, np.ones((1, 1, 2, 2))),
        linear=(0,),
        empty=((0, 3, 4, 5),),
    ),
    Row(
        "upsample",
        lambda x: ops.upsample(x, size=(9, 3)),
        normal((2, 3, 4, 5)),
        lambda x: naive.resize(x, (9, 3), "nearest"),
        linear=(0,),
        empty=((0, 3, 4, 5),),
    ),
    Row(
        "upsample",
        lambda x: ops.upsample(x, size=(9, 3), mode="nearest-exact"),
        normal((2, 3, 4, 5)),
        lambda x: naive.resize(x, (9, 3), "nearest-exact"),
        linear=(0,),
        empty=((0, 3, 4, 5),),
    ),
    Row(
        "upsample",
        lambda x: ops.upsample(x, scale_factor=(2, 3), mode="linear"),
        normal((2, 3, 4, 5)),
        lambda x: naive.resize(x, (8, 15), "linear"),
        linear=(0,),
        empty=((2, 0, 4, 5),),
    ),
    Row(
        "upsample",
        lambda x: ops.upsample(x, size=(7, 8), mode="linear", align_corners=True),
        normal((2, 3, 4, 5)),
        lambda x: naive.resize(x, (7, 8), "linear", True),
        linear=(0,),
        empty=((0, 3, 4, 5),),
    ),
    Row(
        "upsample",
        lambda x: ops.upsample(x, size=(1, 3, 5), mode="linear", align_corners=True),
        normal((1, 2, 2, 3, 3)),
        lambda x: naive.resize(x, (1, 3, 5), "linear", True),
        linear=(0,),
        empty=((0, 3, 4, 5, 2),),
    ),
    Row(
        "upsample",
        lambda x: ops.upsample(x, size=(7, 3), mode="cubic"),
        normal((2, 3, 4, 5)),
        lambda x: naive.filter_resize(x, (7, 3), lambda t: naive.keys(t, -0.75)),
        linear=(0,),
        empty=((0, 3, 4, 5),),
    ),
    Row(
        "upsample",
        lambda x: ops.upsample(x, size=(3, 8), mode="cubic", antialias=True),
        normal((2, 3, 7, 5)),
        lambda x: naive.filter_resize(x, (3, 8), lambda t: naive.keys(t, -0.5), True),
        linear=(0,),
        empty=((2, 0, 7, 5),),
    ),
    Row(
        "upsample",
        lambda x: ops.upsample(x, size=2, mode="linear", antialias=True),
        normal((2, 3, 7)),
        lambda x: naive.filter_resize(x, (2,), lambda t: max(0.0, 1 - abs(t)), True),
        linear=(0,),
        empty=((0, 3, 7),),
    ),
    Row(
        "upsample",
        lambda x: ops.upsample(x, scale_factor=2.6, mode="linear"),
        normal((2, 3, 7)),
        lambda x: naive.resize(x, (18,), "linear", factors=(2.6,)),
        linear=(0,),
        empty=((0, 3, 7),),
    ),
    Row(
        "upsample",
        lambda x: ops.upsample(x, scale_factor=2.6, recompute_scale_factor=True, mode="linear"),
        normal((2, 3, 7)),
        lambda x: naive.resize(x, (18,), "linear"),
        linear=(0,),
        empty=((0, 3, 7),),
    ),
    Row(
        "pixel_shuffle",
        lambda x: ops.pixel_shuffle(x, 2),
        normal((2, 8, 3, 2)),
        lambda x: naive.pixel_shuffle(x, 2),
        linear=(0,),
        empty=((0, 8, 3, 2),),
    ),
    Row(
        "pixel_shuffle",
        lambda x: ops.pixel_shuffle(x, 3),
        normal((2, 6, 4)),
        lambda x: naive.pixel_shuffle(x, 3),
        linear=(0,),
        empty=((2, 0, 4),),
    ),
    Row(
        "pixel_unshuffle",
        lambda x: ops.pixel_unshuffle(ops.pixel_shuffle(x, 2), 2),
        normal((2, 8, 3, 2)),
        lambda x: x,
        linear=(0,),
        empty=((0, 8, 3, 2),),
    ),
]
