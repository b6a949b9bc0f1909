"""Random pure sums, each beside its definition (preimage.contract.sum_over), bit for bit, in random layouts and on 1 to 3 threads.

python tests/promise/sum_cases.py --cases 20000      # prints how many were compared, and those that differ
"""

from __future__ import annotations

import argparse
import math
from collections import Counter

import numpy as np

import preimage as pre
from preimage import contract, nn, ops
from preimage.engines import around


def laid(rng, x):
    """The same values in another memory layout: permuted axes, strides of two, backwards."""
    if not x.ndim:
        return x
    order = rng.permutation(x.ndim)
    x = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
    if rng.random() < 0.3:
        x = np.repeat(x, 2, axis=-1)[..., ::2]
    if rng.random() < 0.3:
        x = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    return x


def shape_of(rng, least=0, most=3000):
    """Sizes of at least so many axes; in a third of the cases the last is longer than a block."""
    while True:
        shape = [int(n) for n in rng.choice([1, 2, 3, 5, 7, 16, 17, 31, 40], rng.integers(least, 5))]
        if shape and rng.random() < 1 / 3:
            shape[-1] = int(rng.choice([257, 511, 513, 1100, 1537]))
        if math.prod(shape) <= most:
            return shape


def values(rng, shape, dtype):
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-9, 9, shape)
    return np.where(rng.random(shape) < 0.05, -0.0, x).astype(dtype)


def wide(x):
    return x.astype(np.float64) if x.dtype.itemsize == 2 else x


def plain_sum(rng, dtype):
    x = values(rng, shape_of(rng), dtype)
    axis = tuple(k for k in range(x.ndim) if rng.random() < 0.6)
    return ops.sum(laid(rng, x), axis), contract.sum_over(wide(x), axis).astype(dtype)


def mean(rng, dtype):
    x = values(rng, shape_of(rng), dtype)
    axis = tuple(k for k in range(x.ndim) if rng.random() < 0.6)
    total = contract.sum_over(wide(x), axis)
    return ops.mean(laid(rng, x), axis), (total / total.dtype.type(math.prod(x.shape[k] for k in axis))).astype(dtype)


def bias_gradient(rng, dtype):
    n, c, *space = shape_of(rng, 4)
    x, w = (pre.Tensor(values(rng, s, dtype), requires_grad=True) for s in ((n, 1, *space), (c, 1, *[1] * len(space))))
    bias, g = pre.Tensor(np.zeros(c, dtype), requires_grad=True), values(rng, (n, c, *space), dtype)
    (got,) = pre.grad(ops.conv(x, w, bias), [bias], pre.Tensor(laid(rng, g)))
    return got, contract.sum_over(wide(g), (0, *range(2, g.ndim))).astype(dtype)


def loss(rng, dtype):
    dtype = np.float64 if dtype == np.float64 else np.float32
    a, b = (values(rng, shape_of(np.random.default_rng(seed), 1), dtype) for seed in [int(rng.integers(1 << 30))] * 2)
    total = contract.sum_over(np.square(a - b), range(a.ndim))
    return nn.mse_loss(laid(rng, a), laid(rng, b)), total / dtype(a.size)


def softmax(rng, dtype):
    """What softmax divides by is the sum of its exponentials."""
    dtype = np.float64 if dtype == np.float64 else np.float32
    x = rng.standard_normal(shape_of(rng, 1)).astype(dtype)
    axis = int(rng.integers(x.ndim))
    e = ops.exp(x - x.max(axis, keepdims=True))
    return ops.softmax(laid(rng, x), axis), e / np.expand_dims(contract.sum_over(e[None], (axis + 1,))[0], axis)


def squares(rng, dtype):
    """What batch and instance normalisation sum."""
    dtype = np.float64 if dtype == np.float64 else np.float32
    x = values(rng, shape_of(rng, 3), dtype)
    images = bool(rng.random() < 0.5)
    axes = (*((0,) if images else ()), *range(2, x.ndim))
    m = values(rng, x.shape[1] if images else x.shape[:2], dtype)
    apart = x - m.reshape(*m.shape, *[1] * (x.ndim - 2))
    found = around.channel_sums(laid(rng, x), "squares", images, None, m)
    return np.stack(found), np.stack([contract.sum_over(apart, axes), contract.sum_over(apart, axes, apart)])


KINDS = (plain_sum, mean, bias_gradient, loss, softmax, squares)


def case(seed):
    """(kind, result, definition) of one case."""
    rng = np.random.default_rng((9, seed))
    kind = KINDS[seed % len(KINDS)]
    dtype = rng.choice([np.float32, np.float64, np.float16])
    with np.errstate(all="ignore"), pre.config(threads=int(rng.integers(1, 4))):
        got, want = kind(rng, dtype)
    return kind.__name__, np.asarray(got.data if isinstance(got, pre.Tensor) else got), np.asarray(want)


def bits(a):
    """The elements' bits; all NaNs are one."""
    return np.where(np.isnan(a), a.dtype.type(np.nan), a).tobytes()


def differing(seeds):
    """How many cases of each kind there were, and those whose bits, shape or dtype are not the definition's."""
    seen, wrong = Counter(), []
    for seed in seeds:
        kind, got, want = case(seed)
        seen[kind] += 1
        if (got.shape, got.dtype) != (want.shape, want.dtype) or bits(got) != bits(want):
            wrong.append((kind, seed, got.shape, want.shape))
    return seen, wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20000)
    seen, wrong = differing(range(parser.parse_args().cases))
    for kind, count in seen.items():
        print(f"{kind:14s} {count:6d} cases, {sum(w[0] == kind for w in wrong)} differ")
    for one in wrong[:20]:
        print("differs:", *one)
    raise SystemExit(bool(wrong))
