"""Random contractions of 8-bit integers beside their definition in int64 NumPy: every element must be equal.

    python tests/engines/integer_cases.py --cases 20000 [--seed 0] [--way quads]

Values lie at the ends of their types as often as not, zero points too; sizes are odd, single and large; sums reach 2^31 and, unscaled, wrap around.
`--way quads` runs the kernels for VNNI on any CPU, with a definition in place of the instruction; `--way plain` those of CPUs without either.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np

import preimage as pre
from preimage.engines import integers
from preimage.engines.integers import Finish
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.products.integers import call, depthwise, plan
from preimage.geometry import ConvGeometry

BYTES = (np.int8, np.uint8)


# -- the instruction of VNNI, defined --------------------------------------------------------------------------------


def definition(lanes: int, name: str) -> str:
    """vpdpbusd in IR: to each 32-bit lane the four products of its bytes, of the first factor without sign and of the second with one."""
    words, many, wide = f"<{lanes} x i32>", f"<{4 * lanes} x i8>", f"<{4 * lanes} x i32>"
    lines = [f"%a = bitcast {words} %x to {many}", f"%b = bitcast {words} %y to {many}", f"%c = zext {many} %a to {wide}",
             f"%d = sext {many} %b to {wide}", f"%p = mul {wide} %c, %d", f"%t0 = add {words} %s, zeroinitializer"]  # fmt: skip
    for k in range(4):
        picked = ", ".join(f"i32 {4 * lane + k}" for lane in range(lanes))
        lines += [f"%q{k} = shufflevector {wide} %p, {wide} %p, {words} <{picked}>", f"%t{k + 1} = add {words} %t{k}, %q{k}"]
    body = "\n".join([*lines, f"ret {words} %t4"])
    return f"define internal {words} @{name}({words} %s, {words} %x, {words} %y) {{\n{body}\n}}\n"


def without_the_instruction(text: str) -> str:
    """A kernel's text with the definition in the place of the instruction."""
    lines = [line for line in text.splitlines() if not ("declare" in line and "vpdpbusd" in line)]
    if len(lines) == len(text.splitlines()):
        return text
    changed = "\n".join(lines)
    for bits, lanes in ((128, 4), (256, 8), (512, 16)):
        if f"vpdpbusd.{bits}" in changed:
            changed = changed.replace(f"@llvm.x86.avx512.vpdpbusd.{bits}", f"@dot{bits}") + "\n" + definition(lanes, f"dot{bits}")
    return changed


@contextmanager
def added_up(way: str | None) -> Iterator[None]:
    """Products are added up in this way inside the block; None: as this CPU wants it."""
    if way is None:
        yield
        return
    loaded: dict[object, object] = {}

    def kernel(spec: object) -> object:
        if spec not in loaded:
            loaded[spec] = kernels.compile_module(without_the_instruction(spec.ir()))  # type: ignore[attr-defined]
        return loaded[spec]

    chosen = [mock.patch.object(module, "way_of", return_value=(way, "")) for module in (plan, depthwise)]
    with chosen[0], chosen[1], mock.patch.object(call, "kept_kernel", kernel):
        yield


# -- the definition ----------------------------------------------------------------------------------------------------


def centred(q: np.ndarray, zero: np.ndarray | None, form: tuple[int, ...] = ()) -> np.ndarray:
    return q.astype(np.int64) - (0 if zero is None else zero.astype(np.int64).reshape(form if zero.size > 1 else ()))


def convolved(g: ConvGeometry, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The sums of a convolution, tap by tap and group by group, of int64 arrays."""
    (n, _, *space), out = x.shape, g.output_size
    channels = g.in_channels // g.groups
    w = np.concatenate([np.pad(part, [(0, 0), (k * channels, g.in_channels - (k + 1) * channels), *[(0, 0)] * g.ndim])
                        for k, part in enumerate(np.split(w, g.groups))])  # fmt: skip
    padded = np.zeros((*x.shape[:2], *[size + sum(pair) for size, pair in zip(space, g.padding, strict=True)]), np.int64)
    padded[(..., *[slice(lo, lo + size) for size, (lo, _) in zip(space, g.padding, strict=True)])] = x
    sums = np.zeros((n, len(w), *out), np.int64)
    for tap in np.ndindex(*g.kernel_size):
        reach = [slice(k * d, k * d + (o - 1) * s + 1, s) for k, d, o, s in zip(tap, g.dilation, out, g.stride, strict=True)]
        sums += np.einsum("nc...,oc->no...", padded[(..., *reach)], w[(..., *tap)])
    return sums


def deconvolved(g: ConvGeometry, y: np.ndarray, w: np.ndarray) -> np.ndarray:
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
    return sums[(..., *[slice(lo, lo + size) for size, (lo, _) in zip(g.input_size, g.padding, strict=True)])]


def finished(sums: np.ndarray, finish: Finish, axis: int) -> np.ndarray:
    """ONNX's words: the nearest integer, halves to the even one, moved to the zero point and held within the range."""
    form = [1] * sums.ndim
    form[axis] = -1
    bias = None if finish.bias is None else finish.bias.reshape(form)
    if finish.way == "scaled":
        found = sums.astype(np.float32) * finish.factor.reshape(form)
        return found if bias is None else found + bias
    sums = sums if bias is None else sums + bias.astype(np.int64)
    if finish.way == "int32":
        return sums.astype(np.uint64).astype(np.uint32).view(np.int32)  # modulo 2^32
    span = np.iinfo(finish.zero.dtype)
    moved = np.rint(sums.astype(np.float32) * finish.factor.reshape(form)).astype(np.float64) + int(finish.zero)
    return np.clip(moved, span.min, span.max).astype(finish.zero.dtype)


def _centred_weights(
    g: ConvGeometry, w: np.ndarray, zero: np.ndarray | None, form: tuple[int, ...], transposed: bool
) -> np.ndarray:  # fmt: skip
    """The weights less their zero points, of which a transposed convolution has one for each group and channel."""
    if not transposed or zero is None or zero.size == 1:
        return centred(w, zero, form)
    return np.concatenate([centred(*pair, form) for pair in zip(np.split(w, g.groups), np.split(zero, g.groups), strict=True)])


# -- cases -------------------------------------------------------------------------------------------------------------


class Cases:
    """Random cases from a seed; each `run` gives None, or what differs in words."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def values(self, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        span = np.iinfo(dtype)
        ends = self.rng.choice(np.array([span.min, span.max, 0, 1, span.max - 1], dtype), shape)
        kind = self.rng.integers(5)
        if kind == 0:
            return np.full(shape, self.pick(span.min, span.max), dtype)
        if kind == 4:  # whose sums are small: halves among what is rounded
            return self.rng.integers(0, 4, shape).astype(dtype)
        return ends if kind == 1 else self.rng.integers(span.min, span.max + 1, shape).astype(dtype)

    def zero(self, dtype: type, each: int = 0) -> np.ndarray | None:
        """A zero point, at the ends of its type as often as not; `each`: perhaps one for each of so many."""
        kind = self.rng.integers(4 if each else 3)
        return None if kind == 0 else self.values(dtype, (each,) if kind == 3 else ())

    def finish(self, sums: np.ndarray, axis: int, room: bool) -> Finish:
        """room: all sums are int32 numbers, so that they may be scaled: most to the range of 8 bits, by powers of two as often as not (halves)."""
        columns = sums.shape[axis]
        way = self.pick("int32", "scaled", "requantised") if room else "int32"
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
        finish = self.finish(sums, -1, k <= 33_000)
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
            given = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
            shape = (batch, few if transposed else many * groups, *size)
            try:
                if transposed:
                    extra = tuple(int(rng.integers(max(s, d))) for s, d in zip(stride, dilation, strict=True))
                    g = ConvGeometry.from_conv_transpose(shape, (few, many, *kernel), output_padding=extra, **given)
                else:
                    g = ConvGeometry.from_conv(shape, (few, many, *kernel), **given)
            except pre.GeometryError:
                continue
            if all(g.input_size) and all(g.output_size):
                return g, shape

    def conv(self, transposed: bool = False) -> str | None:
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

    def compare(self, got: np.ndarray | None, want: np.ndarray, *words: object) -> str | None:
        if got is None:
            return f"not taken: {words}"
        if got.dtype != want.dtype or got.shape != want.shape or not np.array_equal(got, want):
            return f"{(got != want).sum() if got.shape == want.shape else got.shape} of {want.size} differ: {words}"
        return None

    def run(self) -> str | None:
        """The next case."""
        kind = self.rng.integers(4)
        with pre.config(threads=int(self.rng.integers(1, 4))):
            return self.matmul() if kind < 2 else self.conv(transposed=kind == 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--way", choices=["pairs", "quads", "plain"])
    given = parser.parse_args()
    cases, found = Cases(given.seed), 0
    with added_up(given.way):
        for number in range(given.cases):
            wrong = cases.run()
            if wrong is not None:
                found += 1
                print(f"case {number}: {wrong}")
    print(f"{given.cases} cases, {found} differ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
