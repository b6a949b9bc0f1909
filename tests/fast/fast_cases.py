"""Random convolutions with accuracy="fast", each beside its definition (preimage.contract_fast), bit for bit: on 1 to 3 threads, in random
layouts, in a batch, with weights as they are and prepared.

    python tests/fast/fast_cases.py --cases 5000 [--state FILE]     # prints how many of each kind were compared, and those that differ
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import preimage as pre
from preimage import contract_fast

EVERY = 25  # cases between two writings of the state


def values(rng, shape, dtype):
    """Numbers of many sizes and both signs, some zero, some rows of them positive (what follows an activation)."""
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-3, 4, (*shape[:2], *[1] * (len(shape) - 2)))
    return np.where(rng.random(shape) < 0.1, -0.0, x).astype(dtype)


def laid(rng, x):
    """Channels-last or channels-first, sometimes with room between the lines."""
    if rng.random() < 0.5:
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    if rng.random() < 0.3:
        return np.concatenate([x, x], axis=-1)[..., : x.shape[-1]]
    return x


def draw(rng, wide):
    """A geometry that is small and, mostly, computed by tiles: keywords of conv, sizes, dtype. wide: more positions, as weight gradients want."""
    ndim = int(rng.choice([1, 2, 2, 2, 2, 3]))
    groups = int(rng.choice([1, 1, 1, 2]))
    channels = [groups * int(rng.choice([24, 32, 40] if wide else [24, 32, 40, 48, 56, 64])) for _ in range(2)]
    kernel = [int(rng.choice([3, 3, 3, 3, 1, 4, 5])) for _ in range(ndim)]
    kernel = kernel if max(kernel) > 1 and ndim < 3 else [3] * ndim
    padding = [(int(rng.integers(0, k)), int(rng.integers(0, k))) for k in kernel]
    per_image = channels[0] // groups * channels[1] * int(np.prod(kernel))
    places = max(2, int(float(rng.uniform(10, 60) if wide else rng.uniform(5, 14)) * (1 << 18) * groups / per_image))
    sides = np.maximum(rng.dirichlet([8] * ndim) * 1.0, 0.05)
    sides = sides / np.prod(sides) ** (1 / ndim) * places ** (1 / ndim)
    size = [max(k, round(float(n)) + k - 1 - lo - hi) for n, k, (lo, hi) in zip(sides, kernel, padding, strict=True)]
    return channels, kernel, size, padding, groups, np.dtype(rng.choice(["float32", "float32", "float32", "float64"]))


def differing(seed):
    """(kind, how many elements differ) of a case, for each contraction."""
    rng, wide, found = np.random.default_rng(seed), seed % 3 == 0, []
    batch = (1, 1, 2, 3, 5)[seed // 3 % 5] if wide else 1 + seed % 3 // 2
    names = ["conv_weight_grad"] if wide else ["conv", "conv_transpose"]
    while True:
        (channels, outputs), kernel, size, padding, groups, dtype = draw(rng, wide)
        g = pre.ConvGeometry.from_conv(
            (batch, channels, *size), (outputs, channels // groups, *kernel), padding=padding, groups=groups
        )
        if any(contract_fast.tiles(g, name, dtype) for name in names) or rng.random() < 0.004:
            break
    w = values(rng, (outputs, channels // groups, *kernel), dtype)
    large = values(rng, (batch, channels, *size), dtype)
    small = values(rng, g.output_shape, dtype)
    how = {"padding": padding, "groups": groups}
    for name, x, side in (("conv", large, outputs), ("conv_transpose", small, channels)):
        if name not in names:
            continue
        tile = contract_fast.tiles(g, name, dtype)
        if tile is None:
            found.append((f"{name} in the contract's order", 0))
            continue
        bias = values(rng, (side, 1), dtype).ravel() if rng.random() < 0.5 else None
        wanted = getattr(contract_fast, name)(x[-1:], w, bias, **how)
        with pre.config(threads=int(rng.integers(1, 4)), accuracy="fast"):
            weight = pre.prepare(w) if rng.random() < 0.5 else w
            got = getattr(pre, name)(laid(rng, x), weight, bias, **how)[-1:]
        same = np.ascontiguousarray(got).view(f"u{dtype.itemsize}") == wanted.view(f"u{dtype.itemsize}")
        points = "x".join(str(m + r - 1) for m, r in tile)
        found.append((f"{name} {dtype} {points} points", int((~same).sum())))
    return [weight_grad(rng, g, large, small, how)] if wide else found


def weight_grad(rng, g, large, small, how):
    """The same of a weight gradient."""
    tile = contract_fast.tiles(g, "conv_weight_grad", large.dtype)
    if tile is None:
        return "conv_weight_grad in the contract's order", 0
    wanted = contract_fast.conv_weight_grad(large, small, g.kernel_size, **how)
    with pre.config(threads=int(rng.integers(1, 4)), accuracy="fast"):
        got = np.ascontiguousarray(pre.conv_weight_grad(laid(rng, large), laid(rng, small), kernel_size=g.kernel_size, **how))
    same = got.view(f"u{got.itemsize}") == wanted.view(f"u{got.itemsize}")
    return f"conv_weight_grad {large.dtype} {'x'.join(str(m + r - 1) for m, r in tile)} points", int((~same).sum())


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", type=int, default=200)
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--state", type=Path, help="a file with how far the run is; it goes on from there")
    given = options.parse_args()
    state = {"first": given.first, "done": 0, "seen": {}, "wrong": []}
    if given.state and given.state.exists():
        state = json.loads(given.state.read_text())
    while state["done"] < given.cases:
        seed = state["first"] + state["done"]
        for kind, count in differing(seed):
            state["seen"][kind] = state["seen"].get(kind, 0) + 1
            if count:
                state["wrong"].append(f"case {seed}: {kind}: {count} elements differ")
                print(state["wrong"][-1], flush=True)
        state["done"] += 1
        if given.state and (state["done"] % EVERY == 0 or state["done"] == given.cases):
            given.state.write_text(json.dumps(state, indent=1) + "\n")
    for kind, count in sorted(state["seen"].items()):
        print(f"{count:6d}  {kind}")
    print(f"{sum(state['seen'].values())} compared, {len(state['wrong'])} differ")
    return 1 if state["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
