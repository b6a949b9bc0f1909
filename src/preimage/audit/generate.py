"""Cases by the thousand: seeded, all sizes unequal unless chance wills otherwise, biased to the edges where engines break.

`cases(count, seed)` gives the same cases for the same seed, and case i depends on (seed, i) alone, so any of them can be
made again without the others. `invalid(count, seed)` gives calls that every library ought to refuse.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from preimage.audit.case import Case

__all__ = ["Invalid", "case_at", "cases", "invalid", "invalid_at"]

#: Multiply-adds above which a drawn case is drawn again: the audit lives on many small cases.
MAX_MACS = 120_000
#: Every so many cases, one is large enough to be worth handing out to threads.
LARGE_EVERY = 40
LARGE_MACS = (600_000, 1_500_000)
_DIMENSIONS = (0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 4)
#: Channel counts on either side of what vector blocks and their tails hold.
_BLOCKS = (7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65)


def cases(count: int, seed: int = 0, start: int = 0) -> Iterator[Case]:
    """`count` cases, the first of them number `start` of the seed's sequence."""
    for i in range(start, start + count):
        yield case_at(i, seed)


def case_at(i: int, seed: int = 0) -> Case:
    """Case number i of a seed's sequence."""
    rng = np.random.default_rng((seed, i, 0xCA5E))
    while i % LARGE_EVERY == LARGE_EVERY - 1:
        case = _draw(rng, f"random {seed}:{i}", big=True)
        if (
            case is not None
            and LARGE_MACS[0] <= case.macs <= LARGE_MACS[1]
            and _size(case.x_shape) + _size(case.y_shape) < 200_000
        ):
            return case
    while True:
        case = _draw(rng, f"random {seed}:{i}")
        if case is not None and case.macs <= MAX_MACS and sum(map(_size, (case.x_shape, case.y_shape, case.w_shape))) < 60_000:
            return case


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _pick(rng: np.random.Generator, values: Any) -> int:
    return int(values[rng.integers(len(values))])


def _unequal(rng: np.random.Generator, ndim: int, draw: Any) -> tuple[int, ...]:
    """One draw an axis, drawn again a few times where it repeats an earlier axis."""
    result: list[int] = []
    for _ in range(ndim):
        value = draw()
        for _ in range(3):
            if value not in result:
                break
            value = draw()
        result.append(value)
    return tuple(result)


def _channels(rng: np.random.Generator) -> tuple[int, int, int]:
    """(groups, channels per group of the large side, of the small side)."""
    kind = rng.random()
    if kind < 0.45:
        groups, large, small = 1, int(rng.integers(1, 7)), int(rng.integers(1, 7))
    elif kind < 0.6:  # vector blocks and their tails
        groups, large, small = 1, _pick(rng, _BLOCKS), _pick(rng, _BLOCKS)
        if rng.random() < 0.5:
            large = int(rng.integers(1, 5))
        elif rng.random() < 0.5:
            small = int(rng.integers(1, 5))
    elif kind < 0.8:  # groups
        groups, large, small = int(rng.integers(2, 6)), int(rng.integers(1, 5)), int(rng.integers(1, 5))
    else:  # depthwise, often with a multiplier; the transpose's multiplier now and then
        groups = _pick(rng, _BLOCKS) if rng.random() < 0.5 else int(rng.integers(2, 7))
        large, small = 1, (1 if rng.random() < 0.6 else int(rng.integers(2, 4)))
        if rng.random() < 0.15:
            large, small = small, large
    if large == small and large > 1 and rng.random() < 0.8:
        small += 1
    return groups, large, small


def _draw(rng: np.random.Generator, label: str, *, big: bool = False) -> Case | None:
    ndim = _pick(rng, _DIMENSIONS[1:] if big else _DIMENSIONS)
    groups, large, small = _channels(rng)
    batch = _pick(rng, (1, 2, 2, 3))
    most = {0: 1, 1: 9, 2: 5, 3: 4}.get(ndim, 3)
    kernel = _unequal(rng, ndim, lambda: 1 if rng.random() < 0.15 else int(rng.integers(1, most + 1)))
    if ndim and rng.random() < 0.12:
        kernel = (1,) * ndim
    plain = rng.random()  # the common layers are the ones with the most special paths: keep a share of them
    stride = (1,) * ndim if plain < 0.3 else _unequal(rng, ndim, lambda: 1 if rng.random() < 0.4 else int(rng.integers(1, 5)))
    dilation = (1,) * ndim if plain > 0.6 or plain < 0.15 else _unequal(rng, ndim, lambda: int(rng.integers(1, 4)))
    if 0.15 < plain < 0.2 or 0.7 < plain < 0.8:  # square kernels and equal strides, as nearly all layers have
        kernel = (_pick(rng, (1, 2, 3, 3, 4, 5)),) * ndim if ndim < 3 else (_pick(rng, (1, 2, 3)),) * ndim
        stride = (_pick(rng, (1, 2, 2, 3)),) * ndim
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]

    def pad(axis: int) -> int:
        kind = rng.random()
        if kind < 0.3:
            return 0
        if kind < 0.85:
            return int(rng.integers(0, extent[axis]))
        return int(rng.integers(extent[axis], extent[axis] + 3))  # at least the whole kernel

    padding = tuple((pad(a), pad(a)) for a in range(ndim))
    if ndim and rng.random() < 0.03:  # negative padding cuts
        axis = int(rng.integers(ndim))
        lo, hi = padding[axis]
        padding = (*padding[:axis], (-1, hi) if rng.random() < 0.5 else (lo, -1), *padding[axis + 1 :])
    wide = int(rng.integers(13, 71)) if ndim and rng.random() < 0.2 else 0  # rows as long as a tile, and its tails

    def reach(axis: int) -> int:
        if wide and axis == ndim - 1:
            return wide
        if big:
            return int(rng.integers(4, {1: 200, 2: 40, 3: 14}.get(ndim, 8)))
        return 1 if rng.random() < 0.12 else int(rng.integers(1, {1: 12, 2: 8, 3: 6}.get(ndim, 4)))

    try:
        if rng.random() < 0.5:
            size = tuple(reach(a) for a in range(ndim))
            case = _as_conv(rng, batch, groups, large, small, size, kernel, stride, padding, dilation, label)
        else:
            size = tuple(reach(a) for a in range(ndim))
            extra = tuple(
                int(rng.integers(0, max(s, d))) if rng.random() < 0.5 else 0 for s, d in zip(stride, dilation, strict=True)
            )
            case = Case.of_transpose(
                batch, groups * small, groups * large, groups, size, kernel, stride, padding, dilation, extra, label
            )
    except ValueError:
        return None
    return _maybe_empty(rng, case)


def _as_conv(
    rng: np.random.Generator,
    batch: int,
    groups: int,
    large: int,
    small: int,
    reach: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    label: str,
) -> Case:
    """A conv case whose large side lies near `reach` outputs, with a remainder that the floor drops."""
    sizes = []
    for m, k, s, (lo, hi), d in zip(reach, kernel, stride, padding, dilation, strict=True):
        sizes.append(max((m - 1) * s + (k - 1) * d + 1 - lo - hi + int(rng.integers(0, s)), 1))
    return Case.of_conv(batch, groups * large, groups * small, groups, tuple(sizes), kernel, stride, padding, dilation, label)


def _maybe_empty(rng: np.random.Generator, case: Case) -> Case | None:
    """One case in forty has an empty axis: batch, channels of one side, or a spatial axis that padding fills."""
    if rng.random() >= 0.025:
        return case
    kind = rng.integers(3)
    if kind == 0:
        return case.with_(batch=0)
    if kind == 1:
        side = "in_channels" if rng.random() < 0.5 else "out_channels"
        return case.with_(**{side: 0})
    try:
        return Case.of_conv(
            case.batch,
            case.in_channels,
            case.out_channels,
            case.groups,
            (0,) * case.ndim,
            case.kernel_size,
            case.stride,
            case.padding,
            case.dilation,
            case.label,
        )
    except ValueError:
        return None


@dataclass(frozen=True)
class Invalid:
    """A call that no convolution library should answer: shapes and arguments, and why they cannot be.

    op is "conv" or "conv_transpose"; bias None means that none is given. dtype and weight_dtype name NumPy dtypes.
    """

    why: str
    op: str
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    bias_shape: tuple[int, ...] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    weight_dtype: str = "float32"

    def __str__(self) -> str:
        given = "".join(f", {k}={v}" for k, v in self.arguments.items())
        bias = f", bias {self.bias_shape}" if self.bias_shape is not None else ""
        return f"{self.op}(input {self.input_shape} {self.dtype}, weight {self.weight_shape} {self.weight_dtype}{bias}{given})"


def invalid(count: int, seed: int = 0) -> Iterator[Invalid]:
    """`count` invalid calls, each made from a valid one by one change."""
    for i in range(count):
        yield invalid_at(i, seed)


def invalid_at(i: int, seed: int = 0) -> Invalid:
    """Invalid call number i of a seed's sequence."""
    return _invalid(np.random.default_rng((seed, i, 0xBAD)), i)


def _invalid(rng: np.random.Generator, i: int) -> Invalid:
    ndim = _pick(rng, (1, 2, 2, 3))
    op = "conv" if rng.random() < 0.5 else "conv_transpose"
    groups = _pick(rng, (1, 2, 3))
    a, b = groups * int(rng.integers(2, 4)), groups * int(rng.integers(2, 4))
    kernel = tuple(int(v) for v in rng.integers(1, 4, ndim))
    size = tuple(int(v) for v in rng.integers(6, 10, ndim))
    x = (2, a, *size)
    w = (b, a // groups, *kernel) if op == "conv" else (a, b // groups, *kernel)
    arguments: dict[str, Any] = {"groups": groups}
    changes = ["groups 0", "groups negative", "groups do not divide", "stride 0", "stride negative", "dilation 0", "channels differ",
               "bias length", "bias length 1", "bias matrix", "one axis too few", "stride entries", "integers"]  # fmt: skip
    changes += ["kernel too large", "out channels indivisible"] if op == "conv" else ["output_padding too large", "nothing left"]
    why = changes[i % len(changes)]
    bias: tuple[int, ...] | None = None
    dtype = weight_dtype = "float32"
    match why:
        case "groups 0":
            arguments["groups"] = 0
        case "groups negative":
            arguments["groups"] = -groups
        case "groups do not divide":
            arguments["groups"] = a + 1
        case "stride 0":
            arguments["stride"] = 0
        case "stride negative":
            arguments["stride"] = -1
        case "dilation 0":
            arguments["dilation"] = 0
        case "channels differ":
            w = (w[0], w[1] + 1, *kernel) if op == "conv" else (w[0] + groups, *w[1:])
        case "bias length":
            bias = (b + 1,)
        case "bias length 1":
            bias = (1,)
        case "bias matrix":
            bias = (b, 1)
        case "one axis too few":
            w = w[:-1]
        case "stride entries":
            arguments["stride"] = (1,) * (ndim + 1)
        case "integers":
            dtype = weight_dtype = "int32"
        case "kernel too large":
            w = (*w[:-1], size[-1] + 1)
        case "out channels indivisible":
            groups = 3
            w = (3 * (b // 3 + 1) + 1, 2, *kernel)
            x = (2, 6, *size)
            arguments["groups"] = 3
        case "output_padding too large":
            arguments["output_padding"] = 2
            arguments["stride"] = 2
        case "nothing left":
            arguments["padding"] = size[-1] * 2 + kernel[-1]
    return Invalid(why, op, x, w, bias, arguments, dtype, weight_dtype)
