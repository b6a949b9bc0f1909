"""What the same bits cost: the library's schedules beside sums of orders that the numerics contract forbids.

    python benchmarks/contract.py [--threads 2] [--only WORD] [--markdown FILE]

The contract gives every sum one order, set by the geometry. Here each layer of the suite's core tier runs as it is, and by what a library
without the contract could do with the same kernels:

- blocks: the sum over the channels cut into 2 or 4 blocks, which are added one after another (forward and input gradient);
- shares: one half of the sum on each of two threads, then added (over channels, or over rows or images for the weight gradient);
- Winograd: only the products of F(2x2, 3x3), 2.25 times fewer multiply-adds, without the transforms before and after them: no
  implementation can be faster. Of 3x3 layers with stride 1; rounding errors grow, which is what the contract excludes.

The cost of a row is time(as it is) / time(the fastest other) - 1, in %; below 0 the contract costs nothing. Channels-last, float32, medians of
paired ratios of interleaved rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from contestants import Call, clock_of, interleaved, once, ratios

import preimage as pre
from preimage import ops
from preimage.bench.problem import Array, Problem, ordered
from preimage.bench.suite import Layer, builtin_suite

PASSES = ("forward", "grad_input", "grad_weight")
LEAST_CHANNELS = 16
BLOCKS = (2, 4)


def calls(layer: Layer, what: str, threads: int, pool: ThreadPoolExecutor) -> Iterator[tuple[str, Call]]:
    """(name, call): first the contraction as it is, then the other ways."""
    problem, g = Problem(layer, np.float32), layer.geometry
    contraction = layer.contraction(what)
    options: dict[str, Any] = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation}
    if contraction == "conv_weight_grad":
        x, y = ordered(problem.x, "channels_last"), ordered(problem.y, "channels_last")
        yield "contract", lambda: pre.conv_weight_grad(x, y, kernel_size=g.kernel_size, groups=g.groups, **options)
        if threads == 2:
            halves = [half_of_rows(layer, x, y, part) for part in range(2)]
            yield "shares", lambda: ops.add(*together(pool, halves))
        return
    if contraction == "conv":
        a, axis = ordered(problem.x, "channels_last"), 1
        function = pre.conv
    else:
        a, axis = ordered(problem.y, "channels_last"), 0
        function = pre.conv_transpose
        options["output_size"] = g.input_size
    w = problem.w
    yield "contract", lambda: function(a, w, groups=g.groups, **options)
    channels = a.shape[1]
    if g.groups > 1:
        return

    def parts(count: int) -> list[tuple[Array, Array]]:
        size = channels // count
        return [(a[:, i : i + size], w.take(range(i, i + size), axis)) for i in range(0, channels, size)]

    for count in BLOCKS:
        if channels % count == 0 and channels // count >= LEAST_CHANNELS:
            blocks = parts(count)

            def in_turn(blocks: list[tuple[Array, Array]] = blocks) -> Array:
                total = function(*blocks[0], **options)
                for block in blocks[1:]:
                    total = function(*block, residual=total, **options)
                return total

            yield f"{count} blocks", in_turn
    if threads == 2 and channels % 2 == 0 and channels // 2 >= LEAST_CHANNELS:
        shares = [lambda p=p: function(*p, **options) for p in parts(2)]
        yield "shares", lambda: ops.add(*together(pool, shares))
    if g.kernel_size == (3, 3) and g.stride == (1, 1) and g.dilation == (1, 1):
        out, inputs = (g.out_channels, g.in_channels) if contraction == "conv" else (g.in_channels, g.out_channels)
        tiles = g.batch * int(np.prod([-(-n // 2) for n in (g.output_size if contraction == "conv" else g.input_size)]))
        v = ordered(np.ones((1, 16 * inputs, tiles), np.float32), "channels_last")
        u = np.ones((16 * out, inputs, 1), np.float32)
        yield "Winograd", lambda: pre.conv(v, u, groups=16)


def half_of_rows(layer: Layer, x: Array, y: Array, part: int) -> Call:
    """The weight gradient over one half of the images, or of the first axis of one image."""
    g = layer.geometry
    options: dict[str, Any] = {"kernel_size": g.kernel_size, "stride": g.stride, "dilation": g.dilation, "groups": g.groups}
    if g.batch > 1:
        half = slice(0, g.batch // 2) if part == 0 else slice(g.batch // 2, None)
        return lambda: pre.conv_weight_grad(x[half], y[half], padding=g.padding, **options)
    begin, end = (0, g.output_size[0] // 2) if part == 0 else (g.output_size[0] // 2, g.output_size[0])
    first = begin * g.stride[0] - g.padding[0][0]
    last = (end - 1) * g.stride[0] - g.padding[0][0] + (g.kernel_size[0] - 1) * g.dilation[0] + 1
    low, high = max(first, 0), min(last, g.input_size[0])
    padding = ((low - first, last - high), *g.padding[1:])
    xs, ys = x[:, :, low:high], y[:, :, begin:end]
    return lambda: pre.conv_weight_grad(xs, ys, padding=padding, **options)


def together(pool: ThreadPoolExecutor, halves: list[Call]) -> list[Any]:
    other = pool.submit(alone, halves[1])
    return [alone(halves[0]), other.result()]


def alone(call: Call) -> Any:
    with pre.config(threads=1):
        return call()


def measured(ways: dict[str, Call], seconds: float) -> dict[str, float]:
    """time(contract) / time(way) of each other way: medians over interleaved rounds."""
    turns = {name: once(call, clock_of(cpu=False)) for name, call in ways.items()}
    times = interleaved(turns, rounds=5, uncounted=1, seconds=seconds)  # all are ours: nobody's workers need to come to rest
    return {name: median(ratios(times, "contract", name)) for name in ways if name != "contract"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, choices=(1, 2))
    parser.add_argument("--only", default="", help="layers whose name holds this word")
    parser.add_argument("--seconds", type=float, default=0.4, help="per row")
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    lines = ["| layer | pass | blocks | shares | Winograd's products | cost, % |", "|---|---|---|---|---|---|"]
    costs: list[float] = []
    with pre.config(engine="jit", threads=arguments.threads), ThreadPoolExecutor(1) as pool:
        for layer in builtin_suite():
            if layer.tier != "core" or arguments.only not in layer.name:
                continue
            for what in PASSES:
                ways = dict(calls(layer, what, arguments.threads, pool))
                if len(ways) == 1:
                    continue
                ratio = measured(ways, arguments.seconds)
                blocks = max((r for name, r in ratio.items() if "blocks" in name), default=None)
                fixed = [r for name, r in ratio.items() if name != "Winograd"]
                if fixed:
                    costs.append(max(fixed) - 1)
                cells = [f"{r:.2f}" if r else "" for r in (blocks, ratio.get("shares"), ratio.get("Winograd"))]
                lines.append(
                    f"| {layer.name} | {what} | {' | '.join(cells)} | {100 * (max(fixed) - 1):.0f} |"
                    if fixed
                    else f"| {layer.name} | {what} | {' | '.join(cells)} | |"
                )
                print(lines[-1], flush=True)
    paid = [max(c, 0.0) for c in costs]
    lines += [
        "",
        f"{len(costs)} rows, {arguments.threads} thread(s): the contract costs {100 * median(paid):.1f} % in the median, "
        f"{100 * sum(paid) / len(paid):.1f} % in the mean, {100 * max(paid):.0f} % at worst; "
        f"nothing on {sum(c <= 0 for c in costs)} rows.",
    ]
    print("\n".join(lines[-1:]))
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
