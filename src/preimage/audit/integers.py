"""Contractions of 8-bit integers of the engine in force beside their definition in int64 NumPy: every element must be equal.

    preimage audit integers -n 20000 [--seed 0]

Products, convolutions and transposed ones of one to three axes, in groups and depthwise. Values lie at the ends of their types as often as not, zero
points too; sizes are odd, single and large; sums reach 2^31 and, unscaled, wrap around.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from preimage.engines import integers
from preimage.engines.integers import Finish
from preimage.errors import GeometryError
from preimage.geometry import ConvGeometry
from preimage.settings import config

__all__ = ["Cases", "centred", "convolved", "deconvolved", "differing", "finished"]

Array: TypeAlias = np.ndarray[Any, Any]
BYTES = (np.int8, np.uint8)
#: Terms of a product whose sums, with the largest bias drawn here, are int32 numbers, so that they may be scaled.
MOST_TERMS = 33_000


# -- the definition ----------------------------------------------------------------------------------------------------


def centred(q: Array, zero: Array | None, form: tuple[int, ...] = ()) -> Array:
    """q - zero. form: in which several zero points stand beside q."""
    found: Array = q.astype(np.int64) - (0 if zero is None else zero.astype(np.int64).reshape(form if zero.size > 1 else ()))
    return found


def convolved(g: ConvGeometry, x: Array, w: Array) -> Array:
    """The sums of a convolution, tap by tap and group by group, of int64 arrays."""
    (n, _, *space), out = x.shape, g.output_size
    channels = g.in_channels // g.groups
    w = np.concatenate([np.pad(part, [(0, 0), (k * channels, g.in_channels - (k + 1) * channels), *[(0, 0)] * g.ndim])
                        for k, part in enumerate(np.split(w, g.groups))])  # fmt: skip
    padded: Array = np.zeros((*x.shape[:2], *[size + sum(pair) for size, pair in zip(space, g.padding, strict=True)]), np.int64)
    inside: list[Any] = [slice(lo, lo + size) for size, (lo, _) in zip(space, g.padding, strict=True)]
    padded[(..., *inside)] = x
    sums = np.zeros((n, len(w), *out), np.int64)
    for tap in np.ndindex(*g.kernel_size):
        reach: list[Any] = [
            slice(k * d, k * d + (o - 1) * s + 1, s) for k, d, o, s in zip(tap, g.dilation, out, g.stride, strict=True)
        ]
        sums += np.einsum("nc...,oc->no...", padded[(..., *reach)], w[(..., *tap)])
    return sums


def deconvolved(g: ConvGeometry, y: Array, w: Array) -> Array:
    """Every value paints its stencil; what falls into the padding is cropped."""
    full = [size + sum(pair) for size, pair in zip(g.input_size, g.padding, strict=True)]
    sums = np.zeros((len(y), g.in_channels, *full), np.int64)
    for tap in np.ndindex(*g.kernel_size):
        reach = [
            slice(k * d, k * d + (o - 1) * s + 1, s) for k, d, o, s in zip(tap, g.dilation, g.output_size, g.stride, strict=True)
        ]
        for k, part in enumerate(np.split(y, g.groups, axis=1)):
            own = slice(k * w.shape[1], (k + 1) * w.shape[1])
            sums[(slice(None), own, *reach)] += np.einsum("no...,oc->nc...", part, np.split(w, g.groups)[k][(..., *tap)])
    inside: list[Any] = [slice(lo, lo + size) for size, (lo, _) in zip(g.input_size, g.padding, strict=True)]
    return np.asarray(sums[(..., *inside)])


def finished(sums: Array, finish: Finish, axis: int) -> Array:
    """ONNX's words: the nearest integer, halves to the even one, moved to the zero point and held within the range."""
    form = [1] * sums.ndim
    form[axis] = -1
    bias = None if finish.bias is None else finish.bias.reshape(form)
    if finish.way == "scaled":
        assert finish.factor is not None
        found: Array = sums.astype(np.float32) * finish.factor.reshape(form)
        return found if bias is None else found + bias
    sums = sums if bias is None else sums + bias.astype(np.int64)
    if finish.way == "int32":
        return np.asarray(sums.astype(np.uint64).astype(np.uint32).view(np.int32))  # modulo 2^32
    assert finish.factor is not None and finish.zero is not None  # noqa: PT018 - for the types
    span = np.iinfo(finish.zero.dtype)
    moved = np.rint(sums.astype(np.float32) * finish.factor.reshape(form)).astype(np.float64) + int(finish.zero)
    held: Array = np.clip(moved, span.min, span.max).astype(finish.zero.dtype)
    return held


def _centred_weights(
    g: ConvGeometry, w: Array, zero: Array | None, form: tuple[int, ...], transposed: bool
) -> Array:  # fmt: skip
    """The weights less their zero points, of which a transposed convolution has one for each group and channel."""
    if not transposed or zero is None or zero.size == 1:
        return centred(w, zero, form)
    return np.concatenate([centred(*pair, form) for pair in zip(np.split(w, g.groups), np.split(zero, g.groups), strict=True)])


# -- cases -------------------------------------------------------------------------------------------------------------


class Cases:
    """Random cases from a seed; each `run` gives None, or what differs in words."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def pick(self, *choices: Any) -> Any:
        """One of them."""
        return choices[self.rng.integers(len(choices))]

    def values(self, dtype: Any, shape: tuple[int, ...]) -> Array:
        """An array, of one of several kinds."""
        span = np.iinfo(dtype)
        ends = self.rng.choice(np.array([span.min, span.max, 0, 1, span.max - 1], dtype), shape)
        kind = self.rng.integers(5)
        if kind == 0:
            return np.full(shape, self.pick(span.min, span.max), dtype)
        if kind == 4:  # whose sums are small: halves among what is rounded
            return self.rng.integers(0, 4, shape).astype(dtype)
        return ends if kind == 1 else self.rng.integers(span.min, span.max + 1, shape).astype(dtype)

    def zero(self, dtype: Any, each: int = 0) -> Array | None:
        """A zero point, at the ends of its type as often as not; `each`: perhaps one for each of so many."""
        kind = self.rng.integers(4 if each else 3)
        return None if kind == 0 else self.values(dtype, (each,) if kind == 3 else ())

    def finish(self, sums: Array, axis: int, room: bool) -> Finish:
        """What is done with sums. room: all are int32 numbers, so that they may be scaled: most to the range of 8 bits, as often by powers of two."""
        columns = sums.shape[axis]
        way: Any = self.pick("int32", "scaled", "requantised") if room else "int32"
        bias = None
        if self.rng.integers(2):
            floats = self.rng.standard_normal(columns).astype(np.float32)
            bias = floats if way == "scaled" else self.rng.integers(-(1 << 20), 1 << 20, columns).astype(np.int32)
        if way == "int32":
            return Finish(way, bias=bias)
        size = self.pick(1, columns)
        most = np.log2(np.abs(sums).max(initial=1) + 1.0)
        scale = 2.0 ** -np.round(max(most - self.rng.integers(4, 9), 0))
        factor = (scale * self.pick(np.ones(size), self.rng.uniform(0.5, 1, size))).astype(np.float32)
        return Finish(way, factor, self.values(self.pick(*BYTES), ()) if way == "requantised" else None, bias)

    def matmul(self) -> str | None:
        """A matrix product."""
        rng = self.rng
        m, n = (int(self.pick(1, 2, 3, 5, 6, 7, 13, rng.integers(1, 70))) for _ in range(2))
        k = int(self.pick(1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, rng.integers(1, 200), rng.integers(1, 200)))
        k = int(self.pick(8192, 9001, 33_026, 40_000)) if rng.integers(25) == 0 else k
        m, n = (min(m, 3), min(n, 5)) if k > 1000 else (m, n)
        lead = self.pick((), (), (2,), (2, 3))
        kinds = self.pick(*BYTES), self.pick(*BYTES)
        a, b = self.values(kinds[0], (*lead, m, k)), self.values(kinds[1], (*self.pick((), lead), k, n))
        if rng.integers(4) == 0:  # other orders of memory
            a = np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2)
        if rng.integers(4) == 0:
            b = np.ascontiguousarray(b.swapaxes(-1, -2)).swapaxes(-1, -2)
        if rng.integers(8) == 0:
            a = np.repeat(a, 2, axis=-2)[..., ::2, :]
        zeros = self.zero(kinds[0]), self.zero(kinds[1], n)
        sums = centred(a, zeros[0]) @ centred(b, zeros[1], (-1,))
        finish = self.finish(sums, -1, k <= MOST_TERMS)
        got = integers.matmul(a, zeros[0], b, zeros[1], finish)
        return self.compare(got, finished(sums, finish, -1), f"{a.shape} x {b.shape}", kinds, zeros, finish)

    def geometry(self, transposed: bool) -> tuple[ConvGeometry, tuple[int, ...]]:
        """A geometry, and the shape of its input (of the small side where it is transposed)."""
        rng = self.rng
        while True:
            ndim, batch = int(self.pick(1, 2, 2, 3)), int(rng.integers(1, 3))
            large = (4, 4, 5, 12) if ndim < 3 else (3, 3, 4, 8)
            stride, dilation, kernel, size = (tuple(int(v) for v in rng.integers(1, most, ndim)) for most in large)
            padding = tuple((int(a), int(b)) for a, b in rng.integers(0, large[0], (ndim, 2)))
            groups = int(self.pick(1, 1, 2, 3, 4, 16, 24, 64, rng.integers(1, 70)))
            most = 40 if groups == 1 else 6 if groups < 10 else 3
            few, many = (int(self.pick(1, 1, 2, 3, 5, 8, 17, rng.integers(1, 40))) for _ in range(2))
            few, many = min(few, most) * groups, min(many, most)
            given: dict[str, Any] = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
            shape = (batch, few if transposed else many * groups, *size)
            try:
                if transposed:
                    extra = tuple(int(rng.integers(max(s, d))) for s, d in zip(stride, dilation, strict=True))
                    g = ConvGeometry.from_conv_transpose(shape, (few, many, *kernel), output_padding=extra, **given)
                else:
                    g = ConvGeometry.from_conv(shape, (few, many, *kernel), **given)
            except GeometryError:
                continue
            if all(g.input_size) and all(g.output_size):
                return g, shape

    def conv(self, transposed: bool = False) -> str | None:
        """A convolution."""
        g, shape = self.geometry(transposed)
        kinds = self.pick(*BYTES), self.pick(*BYTES)
        x, w = self.values(kinds[0], shape), self.values(kinds[1], g.weight_shape)
        if self.rng.integers(2):
            x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
        columns = g.in_channels if transposed else g.out_channels
        zeros = self.zero(kinds[0]), self.zero(kinds[1], columns)
        form = ((1, -1) if transposed else (-1,)) + (1,) * (w.ndim - 1 - transposed)
        define, run = (deconvolved, integers.conv_transpose) if transposed else (convolved, integers.conv)
        sums = define(g, centred(x, zeros[0]), _centred_weights(g, w, zeros[1], form, transposed))
        finish = self.finish(sums, 1, True)
        return self.compare(run(g, x, zeros[0], w, zeros[1], finish), finished(sums, finish, 1), str(g), kinds, zeros, finish)

    def compare(self, got: Array | None, want: Array, *words: object) -> str | None:
        """In what they differ, in words."""
        if got is None:
            return f"not taken: {words}"
        if got.dtype != want.dtype or got.shape != want.shape or not np.array_equal(got, want):
            return f"{(got != want).sum() if got.shape == want.shape else got.shape} of {want.size} differ: {words}"
        return None

    def run(self) -> str | None:
        """The next case."""
        kind = self.rng.integers(4)
        with config(threads=int(self.rng.integers(1, 4))):
            return self.matmul() if kind < 2 else self.conv(transposed=kind == 3)


def differing(seed: int, count: int) -> int:
    """How many of `count` cases differ from the definition; each is printed."""
    cases, wrong = Cases(seed), 0
    for number in range(count):
        difference = cases.run()
        if difference is not None:
            wrong += 1
            print(f"case {number}: {difference}")
    print(f"{count} cases of contractions of integers, {wrong} differ from the definition")
    return wrong
