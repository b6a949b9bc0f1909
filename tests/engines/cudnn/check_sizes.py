"""A real libcudnn, no GPU needed: it takes the descriptors of random geometries, and finds the small side's size that they say.

    python tests/engines/cudnn/check_sizes.py --library path/of/libcudnn.so.9 --cases 20000

libcudnn comes with the package nvidia-cudnn-cu12.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import sys

from preimage import ConvGeometry
from preimage.engines.cudnn.choose import FMA_MATH, shapes_of
from preimage.engines.cudnn.library import Descriptor, Library, ints, open_library
from preimage.errors import GeometryError


def geometry(rng: random.Random) -> ConvGeometry | None:
    """One with any of the options; None where they do not go together."""
    n = rng.randint(0, 3)
    groups = rng.choice((1, 1, 2, 3))
    x = (rng.randint(1, 3), groups * rng.randint(1, 4), *(rng.randint(1, 14) for _ in range(n)))
    w = (groups * rng.randint(1, 4), x[1] // groups, *(rng.randint(1, 5) for _ in range(n)))
    options = {
        "stride": tuple(rng.randint(1, 4) for _ in range(n)),
        "dilation": tuple(rng.randint(1, 4) for _ in range(n)),
        "padding": tuple(
            (rng.randint(-2, 5), rng.randint(-2, 5)) if rng.random() < 0.5 else (p := rng.randint(0, 5), p) for _ in range(n)
        ),
    }
    try:
        if rng.random() < 0.5:
            return ConvGeometry.from_conv(x, w, groups=groups, **options)
        extra = tuple(rng.randrange(max(s, d)) for s, d in zip(options["stride"], options["dilation"], strict=True))
        return ConvGeometry.from_conv_transpose((x[0], w[0], *x[2:]), w, groups=groups, output_padding=extra, **options)
    except GeometryError:
        return None


def differs(library: Library, raw: ctypes.CDLL, g: ConvGeometry) -> str | None:
    """What is wrong with what cuDNN makes of a geometry, or None."""
    shapes = shapes_of(g)
    dtype = "float64" if g.batch == 2 else "float32"
    large = Descriptor.tensor(library, dtype, (g.batch, g.in_channels, *shapes.window))
    small = Descriptor.tensor(library, dtype, (g.batch, g.out_channels, *shapes.small))
    weight = Descriptor.filter(library, dtype, (g.out_channels, g.in_channels_per_group, *shapes.kernel))
    how = Descriptor.convolution(library, dtype, shapes.padding, shapes.stride, shapes.dilation, g.groups, FMA_MATH)
    found = ints((0,) * (2 + len(shapes.small)))
    code = raw.cudnnGetConvolutionNdForwardOutputDim(
        *map(ctypes.c_void_p, (how.handle, large.handle, weight.handle)), len(found), found
    )
    want = (g.batch, g.out_channels, *shapes.small)
    del small
    if code or tuple(found) != want:
        return f"status {code}, size {tuple(found)}, wanted {want}: {g}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", help="path of libcudnn; by default it is looked for")
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    raw = ctypes.CDLL(given.library) if given.library else None
    library = Library(raw) if raw is not None else open_library()
    raw = raw or ctypes.CDLL("libcudnn.so.9")
    rng, done, windows, wrong = random.Random(given.seed), 0, 0, 0
    while done < given.cases:
        g = geometry(rng)
        if g is None or 0 in (*g.input_shape, *g.output_shape):
            continue
        done += 1
        windows += not shapes_of(g).plain
        reason = differs(library, raw, g)
        if reason is not None:
            wrong += 1
            print(reason)
    print(f"{library}: {done} geometries, {windows} by way of a window, {wrong} not taken as they are meant")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
