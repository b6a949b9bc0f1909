"""Rows of the reductions, of what moves elements, and of the products."""

from __future__ import annotations

from typing import Any

import naive
import numpy as np
from row import A, B, C, Row, distinct, normal, positive

from preimage import ops

mask = np.arange(24).reshape(A) % 3 == 0


def _standardized(x: Any, axis: tuple[int, ...]) -> Any:
    centred = x - x.mean(axis, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis, keepdims=True) + 1e-3)


REDUCTIONS = [
    Row("sum", ops.sum, normal(A), lambda a: a.sum(), linear=(0,)),
    Row("sum", lambda a: ops.sum(a, (0, 2)), normal(A), lambda a: a.sum(2).sum(0), linear=(0,)),
    Row("sum", lambda a: ops.sum(a, -1, keepdims=True), normal(A), lambda a: a.sum(2)[..., None], linear=(0,)),
    Row("sum", lambda a: ops.sum(a, ()), normal(A), lambda a: a, linear=(0,)),
    Row("mean", lambda a: ops.mean(a, 1), normal(A), lambda a: (a[:, 0] + a[:, 1] + a[:, 2]) / 3, linear=(0,)),
    Row("mean", ops.mean, normal(A), lambda a: a.sum() / a.size, linear=(0,), empty=None),
    Row("var", lambda a: ops.var(a, (0, 1)), normal(A), lambda a: (a**2).mean((0, 1)) - a.mean((0, 1)) ** 2, empty=None),
    Row("var", lambda a: ops.var(a, 2, keepdims=True, correction=1), normal(A), lambda a: a.var(2, ddof=1, keepdims=True)),
    Row("std", lambda a: ops.std(a, (0, 1)), normal(A), lambda a: ((a**2).mean((0, 1)) - a.mean((0, 1)) ** 2) ** 0.5, empty=None),
    Row("std", lambda a: ops.std(a, 2, keepdims=True, correction=1), normal(A), lambda a: a.std(2, ddof=1, keepdims=True)),
    Row("prod", lambda a: ops.prod(a, 1), normal((2, 5, 3)), lambda a: a.prod(1)),
    Row("prod", ops.prod, positive((2, 3)), lambda a: a.prod(), empty=((0, 2),)),
    Row("max", lambda a: ops.max(a, 1), distinct(A), lambda a: np.sort(a, 1)[:, -1], second=False),
    Row("max", ops.max, distinct(A), lambda a: sorted(a.ravel())[-1], second=False, empty=None),
    Row(
        "min",
        lambda a: ops.min(a, (1, 2), keepdims=True),
        distinct(A),
        lambda a: a.min(2, keepdims=True).min(1, keepdims=True),
        second=False,
    ),
    Row("logsumexp", lambda a: ops.logsumexp(a, 1), normal(A), lambda a: np.log(np.exp(a).sum(1))),
    Row("logsumexp", lambda a: ops.logsumexp(a, keepdims=True), normal(A), lambda a: np.log(np.exp(a).sum()).reshape(1, 1, 1)),
    Row("softmax", lambda a: ops.softmax(a, 1), normal(A), lambda a: np.exp(a) / np.exp(a).sum(1, keepdims=True)),
    Row("log_softmax", lambda a: ops.log_softmax(a, -1), normal(A), lambda a: a - np.log(np.exp(a).sum(-1, keepdims=True))),
    Row(
        "standardize",
        lambda a: ops.standardize(a, (0, 2), 1e-3),
        normal((4, 3, 5)),
        lambda a: _standardized(a, (0, 2)),
        empty=None,
    ),
    Row(
        "sum_to",
        lambda a: ops.sum_to(a, (3, 1)),
        normal(A),
        lambda a: a.sum((0, 2)).reshape(3, 1),
        linear=(0,),
        empty=((0, 3, 4),),
    ),
]

SHAPES = [
    Row("broadcast_to", lambda a: ops.broadcast_to(a, (2, 3, 4)), normal(B), lambda a: a * np.ones(A), linear=(0,), empty=None),
    Row(
        "reshape",
        lambda a: ops.reshape(a, 4, -1),
        normal(A),
        lambda a: np.array(list(a.flat)).reshape(4, 6),
        linear=(0,),
        empty=None,
    ),
    Row(
        "flatten",
        lambda a: ops.flatten(a, 1),
        normal(A),
        lambda a: np.array([list(p.flat) for p in a]),
        linear=(0,),
        empty=((2, 0, 4),),
    ),
    Row("expand_dims", lambda a: ops.expand_dims(a, (0, -1)), normal(C), lambda a: a[None, :, None], linear=(0,), empty=((0,),)),
    Row("squeeze", ops.squeeze, normal(B), lambda a: a[:, 0], linear=(0,), empty=((0, 1),)),
    Row("transpose", ops.transpose, normal(A), lambda a: a.T, linear=(0,)),
    Row("transpose", lambda a: ops.transpose(a, (1, 2, 0)), normal(A), lambda a: np.einsum("nij->ijn", a), linear=(0,)),
    Row("moveaxis", lambda a: ops.moveaxis(a, 0, -1), normal(A), lambda a: np.einsum("nij->ijn", a), linear=(0,)),
    Row("swapaxes", lambda a: ops.swapaxes(a, 0, 2), normal(A), lambda a: np.einsum("nij->jin", a), linear=(0,)),
    Row(
        "getitem",
        lambda a: ops.getitem(a, (1, slice(None, None, -2), None)),
        normal(A),
        lambda a: np.array([[a[1, 2], a[1, 0]]]).swapaxes(0, 1),
        linear=(0,),
        empty=((3, 3, 0),),
    ),
    Row(
        "getitem",
        lambda a: ops.getitem(a, (..., [0, 3, 0])),
        normal(A),
        lambda a: np.stack([a[..., 0], a[..., 3], a[..., 0]], -1),
        linear=(0,),
    ),
    Row(
        "getitem",
        lambda a: ops.getitem(a, mask),
        normal(A),
        lambda a: np.array([v for v, m in zip(a.flat, mask.flat, strict=True) if m]),
        linear=(0,),
        empty=None,
    ),
    Row(
        "put",
        lambda a: ops.put(a, (5,), [1, 1, 4]),
        normal((3,)),
        lambda a: np.array([0, a[0] + a[1], 0, 0, a[2]]),
        linear=(0,),
        empty=None,
    ),
    Row(
        "put",
        lambda a: ops.put(a, (2, 4), (0, slice(1, None))),
        normal((3,)),
        lambda a: np.array([[0, *a], [0] * 4]),
        linear=(0,),
        empty=None,
    ),
    Row("take", lambda a: ops.take(a, [2, 0], 1), normal(A), lambda a: np.stack([a[:, 2], a[:, 0]], 1), linear=(0,)),
    Row("flip", lambda a: ops.flip(a, 1), normal(A), lambda a: a[:, ::-1], linear=(0,)),
    Row(
        "concat",
        lambda a, b: ops.concat([a, b], 1),
        normal(A, (2, 1, 4)),
        lambda a, b: np.hstack([a, b]),
        diff=(0, 1),
        empty=((2, 0, 4), (2, 1, 4)),
    ),
    Row(
        "stack",
        lambda a, b: ops.stack([a, b], -1),
        normal(A, A),
        lambda a, b: np.array([a, b]).transpose(1, 2, 3, 0),
        diff=(0, 1),
        empty=((0, 2), (0, 2)),
    ),
    Row("split", lambda a: ops.split(a, (1, 3), 2)[1], normal(A), lambda a: a[:, :, 1:], linear=(0,)),
    Row("split", lambda a: ops.split(a, 3, 2)[1], normal(A), lambda a: a[:, :, 3:], linear=(0,)),
    Row(
        "tile",
        lambda a: ops.tile(a, (2, 1, 3)),
        normal(B),
        lambda a: np.vstack([np.hstack([a] * 3)[None]] * 2),
        linear=(0,),
        empty=((0, 1),),
    ),
    Row("repeat", lambda a: ops.repeat(a, 2, 1), normal(A), lambda a: a[:, [0, 0, 1, 1, 2, 2]], linear=(0,)),
    Row("roll", lambda a: ops.roll(a, 3, 2), normal(A), lambda a: a[..., [1, 2, 3, 0]], linear=(0,)),
    Row("roll", lambda a: ops.roll(a, 4, 2), normal(A), lambda a: a, linear=(0,)),
]

PRODUCTS = [
    Row("matmul", ops.matmul, normal((3, 4), (4, 2)), naive.matmul, diff=(0, 1), linear=(0, 1), empty=((3, 0), (0, 2))),
    Row(
        "matmul",
        ops.matmul,
        normal((5, 1, 3, 4), (2, 4, 2)),
        lambda a, b: np.einsum("abij,bjk->abik", a + 0 * b[None, :, :1, :1], b),
        diff=(0, 1),
        linear=(0, 1),
        empty=((0, 3, 4), (4, 2)),
    ),
    Row(
        "matmul",
        ops.matmul,
        normal((4,), (4, 2)),
        lambda a, b: (a[:, None] * b).sum(0),
        diff=(0, 1),
        linear=(0, 1),
        empty=((0,), (0, 2)),
    ),
    Row(
        "matmul", ops.matmul, normal((3, 4), (4,)), lambda a, b: (a * b).sum(1), diff=(0, 1), linear=(0, 1), empty=((0, 4), (4,))
    ),
    Row("matmul", ops.matmul, normal((4,), (4,)), lambda a, b: (a * b).sum(), diff=(0, 1), linear=(0, 1), empty=((0,), (0,))),
    Row(
        "linear",
        ops.linear,
        normal((2, 3, 4), (5, 4), (5,)),
        lambda x, w, b: np.einsum("abi,oi->abo", x, w) + b,
        diff=(0, 1, 2),
        empty=((0, 4), (5, 4), (5,)),
    ),
    Row(
        "linear",
        ops.linear,
        normal((3, 4), (5, 4)),
        lambda x, w: naive.matmul(x, w.T),
        diff=(0, 1),
        linear=(0, 1),
        empty=((3, 0), (5, 0)),
    ),
]
