"""Matrix products of an engine against the executable definition (`preimage.contract.matmul`), bit for bit, on random cases.

    preimage audit products -n 20000 [--seed 0]

Sizes, batches that broadcast, memory orders (transposed, reversed, with gaps, with huge strides, overlapping, read-only), dtypes,
bias and threads are drawn; each case is also computed with one row, one column and one product of the batch alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from preimage import contract, ops
from preimage.settings import config

__all__ = ["LAYOUTS", "ProductCase", "differences", "differing", "draw", "placed"]

Array = np.ndarray[Any, Any]
DTYPES = ("float32", "float32", "float64", "float16")
BATCHES = (((), ()), ((), ()), ((2,), ()), ((), (3,)), ((2, 1), (3,)), ((3,), (3,)), ((1,), (1,)))
LAYOUTS = ("rows", "columns", "gaps", "reversed", "rows reversed", "every other", "far apart", "overlapping", "read-only")
#: The most multiply-adds of a case, by dtype: of float64 the definition takes microseconds for each.
MOST_MACS = {"float32": 400_000, "float16": 100_000, "float64": 4_000}


@dataclass(frozen=True, slots=True)
class ProductCase:
    """One product: shapes, dtype, memory orders, threads, the seed of its values; bias: an epilogue with one, by `ops.linear`."""

    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    dtype: str
    layouts: tuple[str, str]
    threads: int
    seed: int
    bias: bool


def draw(rng: np.random.Generator, seed: int) -> ProductCase:
    """A random case: sizes by their logarithm, so that one and few come often."""
    dtype = str(rng.choice(DTYPES))
    batch = BATCHES[rng.integers(len(BATCHES))]
    while True:
        m, n, k = (int(np.exp(rng.uniform(0, np.log(most)))) for most in (70, 90, 3000))
        m, n, k = (0 if rng.random() < 0.01 else 1 if rng.random() < 0.1 else size for size in (m, n, k))
        count = int(np.prod(np.broadcast_shapes(*batch), dtype=int))
        if count * m * n * k <= MOST_MACS[dtype]:
            break
    layouts = (str(rng.choice(LAYOUTS)), str(rng.choice(LAYOUTS)))
    return ProductCase(
        (*batch[0], m, k),
        (*batch[1], k, n),
        dtype,
        layouts,
        int(rng.integers(1, 4)),
        seed,
        bool(rng.random() < 0.3) and not batch[1],
    )


def placed(values: Array, layout: str) -> Array:
    """The values in a memory order of that name (overlapping: other values, which share memory)."""
    *lead, m, k = values.shape
    if layout == "columns":
        return np.ascontiguousarray(values.swapaxes(-1, -2)).swapaxes(-1, -2)
    if layout == "gaps":
        wide = np.zeros((*lead, m, k + 5), values.dtype)
        wide[..., 3 : 3 + k] = values
        return wide[..., 3 : 3 + k]
    if layout == "reversed":
        return np.ascontiguousarray(values[..., ::-1])[..., ::-1]
    if layout == "rows reversed":
        return np.ascontiguousarray(values[..., ::-1, :])[..., ::-1, :]
    if layout == "every other":
        wide = np.zeros((*lead, m, 2 * k), values.dtype)
        wide[..., ::2] = values
        return wide[..., ::2]
    if layout == "far apart" and m * k and not lead:
        far = np.zeros((m, max(k, 1 << 14)), values.dtype)
        far[:, :k] = values
        return far[:, :k]
    if layout == "overlapping" and values.size:
        line = np.ravel(values)[: m + k - 1]
        line = np.resize(line, m + k - 1)
        view = as_strided(line, (m, k), (line.itemsize, line.itemsize))
        return np.broadcast_to(view, values.shape)
    if layout == "read-only":
        values = values.copy()
        values.flags.writeable = False
    return values


def differences(case: ProductCase) -> list[str]:
    """In what the engine in force differs from the definition on this case; nothing, if it keeps the contract."""
    rng = np.random.default_rng(case.seed)
    dtype = np.dtype(case.dtype)
    a, b = (
        placed(rng.standard_normal(shape).astype(dtype), layout)
        for shape, layout in zip((case.a_shape, case.b_shape), case.layouts, strict=True)
    )
    wide = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    wanted = contract.matmul(np.ascontiguousarray(a, wide), np.ascontiguousarray(b, wide))
    found: list[str] = []
    with config(threads=case.threads), np.errstate(all="ignore"):
        if case.bias:
            bias = rng.standard_normal(b.shape[-1]).astype(dtype)
            _compare("linear", ops.linear(a, b.T, bias), (wanted + bias.astype(wide)).astype(dtype), found)
        wanted = wanted.astype(dtype)
        _compare("product", ops.matmul(a, b), wanted, found)
        if not wanted.size:
            return found
        row, column = int(rng.integers(wanted.shape[-2])), int(rng.integers(wanted.shape[-1]))
        _compare("row alone", ops.matmul(a[..., row : row + 1, :], b), wanted[..., row : row + 1, :], found)
        _compare("column alone", ops.matmul(a, b[..., column : column + 1]), wanted[..., column : column + 1], found)
        if wanted.ndim > 2:
            place = tuple(int(rng.integers(n)) for n in wanted.shape[:-2])
            left, right = (np.broadcast_to(v, (*wanted.shape[:-2], *v.shape[-2:]))[place] for v in (a, b))
            _compare("one of the batch", ops.matmul(left, right), wanted[place], found)
    return found


def _compare(what: str, got: Any, wanted: Array, found: list[str]) -> None:
    got = np.asarray(got)
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        found.append(f"{what}: {got.shape} {got.dtype}, wanted {wanted.shape} {wanted.dtype}")
    elif got.tobytes() != wanted.tobytes():
        bits = f"u{got.itemsize}"
        apart = np.ascontiguousarray(got).view(bits) != np.ascontiguousarray(wanted).view(bits)
        found.append(f"{what}: {int(apart.sum())} of {got.size} values have other bits")


def differing(seed: int, count: int) -> int:
    """How many of `count` cases differ from the definition; each is printed."""
    rng, wrong = np.random.default_rng(seed), 0
    for number in range(count):
        case = draw(rng, number)
        found = differences(case)
        wrong += bool(found)
        for difference in found:
            print(f"{case}: {difference}")
    print(f"{count} cases of matrix products, {wrong} differ from the definition")
    return wrong
