"""Definitions of operations as index loops in plain Python, sharing no line with the library."""

import itertools
import math

import numpy as np


def windows(size, kernel, stride, lo, hi, dilation, ceil):
    """Per output of one axis: the positions of its window, and how many of them lie inside input and padding."""
    extent = dilation * (kernel - 1) + 1
    room = size + lo + hi - extent
    outputs = (math.ceil(room / stride) if ceil else math.floor(room / stride)) + 1
    if ceil and (outputs - 1) * stride >= size + lo:
        outputs -= 1
    rows = []
    for o in range(outputs):
        all_ = [o * stride - lo + k * dilation for k in range(kernel)]
        rows.append(([p for p in all_ if 0 <= p < size], sum(-lo <= p < size + hi for p in all_)))
    return rows


def pool(x, kernel, stride, padding, dilation, ceil, reduce):
    """reduce(values, taps in input and padding, flat positions) for every window; padding as (lo, hi) pairs."""
    axes = [windows(*a, ceil) for a in zip(x.shape[2:], kernel, stride, *zip(*padding, strict=True), dilation, strict=True)]
    out = np.empty(x.shape[:2] + tuple(len(a) for a in axes))
    for n, c in np.ndindex(*x.shape[:2]):
        for o in np.ndindex(*out.shape[2:]):
            rows = [axis[k] for axis, k in zip(axes, o, strict=True)]
            places = list(itertools.product(*(r[0] for r in rows)))
            values = [x[(n, c, *p)] for p in places]
            out[(n, c, *o)] = reduce(values, math.prod(r[1] for r in rows), [flat(p, x.shape[2:]) for p in places])
    return out


def flat(place, size):
    position = 0
    for p, n in zip(place, size, strict=True):
        position = position * n + p
    return position


def resize_axis(x, axis, outputs, source):
    """y[o] = blend of x at the two neighbours of position source(o) along an axis."""
    n = x.shape[axis]
    pieces = []
    for o in range(outputs):
        position = source(o)
        low = min(math.floor(position), n - 1)
        high = min(low + 1, n - 1)
        t = position - low if low < n - 1 else 0.0
        pieces.append((1 - t) * np.take(x, low, axis) + t * np.take(x, high, axis))
    return np.stack(pieces, axis)


def resize(x, sizes, mode, align_corners=False, factors=None):
    for k, m in enumerate(sizes):
        n = x.shape[k + 2]
        step = n / m if factors is None else 1 / factors[k]
        if mode == "nearest":
            source = lambda o, s=step, n=n: min(math.floor(o * s), n - 1)  # noqa: E731
        elif mode == "nearest-exact":
            source = lambda o, s=step, n=n: min(math.floor((o + 0.5) * s), n - 1)  # noqa: E731
        elif align_corners:
            source = lambda o, n=n, m=m: o * (n - 1) / (m - 1) if m > 1 else 0.0  # noqa: E731
        else:
            source = lambda o, s=step: max((o + 0.5) * s - 0.5, 0.0)  # noqa: E731
        x = resize_axis(x, k + 2, m, source)
    return x


def keys(t, a):
    """Keys' cubic, piece by piece."""
    t = abs(t)
    if t >= 2:
        return 0.0
    return (a + 2) * t**3 - (a + 3) * t**2 + 1 if t <= 1 else a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a


def filter_resize(x, sizes, kernel, antialias=False):
    """Every output the weighted sum of all inputs; kernel(t) is the weight at a distance t in units of the (widened) filter."""
    for k, m in enumerate(sizes, 2):
        n = x.shape[k]
        wide = max(1.0, n / m) if antialias else 1.0
        table = np.zeros((m, n))
        for o in range(m):
            centre = (o + 0.5) * n / m - 0.5
            reach = range(math.floor(centre - 2 * wide) - 1, math.ceil(centre + 2 * wide) + 2)
            for i in range(n) if antialias else reach:
                table[o, min(max(i, 0), n - 1)] += kernel((i - centre) / wide)
            if antialias:
                table[o] /= table[o].sum()
        x = np.moveaxis(np.tensordot(table, x, (1, k)), 0, k)
    return x


def pixel_shuffle(x, f):
    n, c, *space = x.shape
    ndim = len(space)
    out = np.empty((n, c // f**ndim, *(s * f for s in space)))
    for index in np.ndindex(*out.shape):
        channel = index[1]
        for p in index[2:]:
            channel = channel * f + p % f
        out[index] = x[(index[0], channel, *(p // f for p in index[2:]))]
    return out


def matmul(a, b):
    out = np.zeros((a.shape[0], b.shape[1]))
    for i, j, k in itertools.product(range(a.shape[0]), range(b.shape[1]), range(a.shape[1])):
        out[i, j] += a[i, k] * b[k, j]
    return out


def each(function):
    """A function of numbers on every element."""
    return lambda *arrays: np.vectorize(function, otypes=[np.float64])(*arrays)
