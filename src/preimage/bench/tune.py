"""Measuring which tile is best for a layer on this machine; every candidate must give the same bits.

Each candidate is the dense schedule with one tile; the first is what the plan would choose by itself (which may be another
schedule). All run once, on numbers whose sums depend on their order, and are compared bit for bit. Then they take turns;
those far behind the best leave after two rounds. One thread's time is its CPU time, which other programs disturb less. A
tile wins if it beats the plan's own choice by 2 %, in the median of the paired ratios and by the least times; else the plan
keeps its choice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

import numpy as np

from preimage.bench.contestants import thread_limit
from preimage.bench.problem import Array, ordered
from preimage.bench.suite import Layer
from preimage.engines.jit.conv import autotune
from preimage.engines.jit.conv.autotune import Tile
from preimage.engines.jit.engine import JitEngine
from preimage.engines.jit.request import ConvRequest
from preimage.errors import EngineError

__all__ = ["Finding", "tune_layer"]

TURN_NS = 2e6
ROUNDS = 9
FAR_BEHIND = 1.15
WORTH = 1.02


@dataclass(frozen=True)
class Finding:
    """What was found for one cell: tile None: the plan's own choice is best; gain: its time / the winner's."""

    layer: str
    what: str
    layout: str
    dtype: str
    threads: int
    key: str
    tried: int
    own: str
    tile: Tile | None
    gain: float


@dataclass
class _Turn:
    tile: Tile | None
    call: Callable[[], Array]
    times: list[float]
    out: bool = False


def tune_layer(
    layer: Layer,
    *,
    passes: Sequence[str] = ("forward", "grad_input"),
    dtypes: Sequence[str] = ("float32",),
    threads: Sequence[int] = (1,),
    layouts: Sequence[str] = ("channels_last", "channels_first"),
    most: int = 16,
) -> list[Finding]:
    """Measure a layer's cells, and save what was found after each. Raises: EngineError where two candidates' bits differ."""
    found = []
    for what, dtype, layout, n in product(passes, dtypes, layouts, threads):
        contraction = layer.contraction(what)
        if contraction not in ("conv", "conv_transpose"):
            raise EngineError(f"only forward passes and input gradients have tiles to choose from, not {what}")
        with thread_limit(n):
            finding = _cell(layer, what, contraction, dtype, layout, n, most)
        autotune.save({finding.key: finding.tile})
        found.append(finding)
    return found


def _cell(layer: Layer, what: str, contraction: str, dtype: str, layout: str, threads: int, most: int) -> Finding:
    g, rng = layer.geometry, np.random.default_rng(1)
    shape = g.input_shape if contraction == "conv" else g.output_shape
    a = ordered(rng.standard_normal(shape).astype(dtype), layout)
    w = rng.standard_normal(g.weight_shape).astype(dtype)
    plain = JitEngine(tuned=False)
    request = plain.request(g, contraction, np.dtype(dtype), layout == "channels_last")
    assert isinstance(request, ConvRequest)
    own = plain.plan(g, contraction, np.dtype(dtype), layout == "channels_last")
    wanted = _call(plain, contraction, g, a, w)()
    turns = [_Turn(None, _call(plain, contraction, g, a, w), [])]
    for tile in autotune.tiles_to_try(request, most):
        call = _call(JitEngine(tile), contraction, g, a, w)
        if call().tobytes() != wanted.tobytes():
            raise EngineError(f"{layer.name} {what}: tile {tile} changes bits of the result; please report this")
        turns.append(_Turn(tile, call, []))
    best = _fastest(turns, time.thread_time_ns if request.threads == 1 else time.perf_counter_ns)
    # A median of ratios and a ratio of least times: a burst of other work on the machine rarely moves both.
    gain = min(median(x / y for x, y in zip(turns[0].times, best.times, strict=True)), min(turns[0].times) / min(best.times))
    winner = best.tile if gain >= WORTH else None
    said = f"{own.algorithm}, {own.details.get('tile', '')}".rstrip(", ")
    key = autotune.key_of(request)
    return Finding(layer.name, what, layout, dtype, threads, key, len(turns), said, winner, gain if winner else 1.0)


def _call(engine: JitEngine, contraction: str, g: Any, a: Array, w: Array) -> Callable[[], Array]:
    run = getattr(engine, contraction)
    return lambda: np.asarray(run(g, a, w))


def _fastest(turns: list[_Turn], clock: Callable[[], int]) -> _Turn:
    """All take turns in rounds; the plan's own choice stays to the end."""
    for k in range(ROUNDS):
        for turn in [t for t in turns if not t.out][:: 1 if k % 2 else -1]:
            begin = clock()
            turn.call()
            count = max(1, min(1000, round(TURN_NS / max(clock() - begin, 1))))
            begin = clock()
            for _ in range(count):
                turn.call()
            turn.times.append((clock() - begin) / count)
        if k == 1:
            least = min(min(t.times) for t in turns)
            for turn in turns[1:]:
                turn.out = min(turn.times) > FAR_BEHIND * least
    return min((t for t in turns if not t.out), key=lambda t: median(t.times))
