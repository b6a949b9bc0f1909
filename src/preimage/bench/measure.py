"""The protocol: what is timed, in which order, how often.

A cell is one pass of one layer in one dtype on one number of threads. In each cell

1. every contestant is prepared (data in its layout, plans and kernels made) and its answer checked; a wrong answer is
   an error in its row, and it is not timed;
2. rounds follow. In a round every contestant has one turn, and the order turns with the rounds. A turn is one call that
   is not timed (its data are in the caches as far as they fit; left out for calls of over 10 ms, which no longer
   notice), then as many timed calls as fill `turn_ns`; their mean is the contestant's time of that round. Turns of a
   round are neighbours in time: their ratios are paired, and a machine that slows down for a while slows down both;
3. rounds end after `most_rounds`, or after `least_rounds` once the spread of every paired ratio (half the distance of
   its quartiles, by its median) is below `spread`, or when the cell has used `cell_ns`;
4. of one peer's layouts the slower is dropped after the first round if it is far behind (`drop`): only the best counts.

With several threads, a turn begins after `settle_ns` of sleep: the idle workers of the one before stop spinning meanwhile.
The garbage collector is off while clocks run.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from statistics import median, quantiles
from typing import Any

from preimage.bench.contestants import Contestant, contestants, thread_limit
from preimage.bench.machine import describe
from preimage.bench.probes import Probes
from preimage.bench.problem import Problem
from preimage.bench.results import Row, Run
from preimage.bench.suite import Layer

__all__ = ["Protocol", "run_bench"]

LONG_NS = 1e7


@dataclass(frozen=True, slots=True)
class Protocol:
    """How often and how long; times in ns."""

    least_rounds: int = 5
    most_rounds: int = 15
    turn_ns: float = 1.5e6
    cell_ns: float = 3e9
    spread: float = 0.02
    drop: float = 1.35
    settle_ns: float = 15e6  # torch's workers spin for about 10 ms after their last job (measured)

    @classmethod
    def quick(cls) -> Protocol:
        """Three rounds, short turns: for a look, not for a table."""
        return cls(least_rounds=3, most_rounds=5, turn_ns=4e5, cell_ns=4e8, spread=0.05, drop=1.15)


@dataclass(slots=True)
class _Turn:
    """A contestant in a cell: its call, its row, what it needs per turn."""

    contestant: Contestant
    row: Row
    call: Callable[[], Any]
    estimate: float = 0.0
    dropped: bool = False


def run_bench(
    layers: Sequence[Layer],
    names: Sequence[str] = ("jit", "torch"),
    *,
    passes: Sequence[str] = ("forward", "grad_input", "grad_weight"),
    dtypes: Sequence[str] = ("float32",),
    threads: Sequence[int] = (1,),
    layouts: Sequence[str] = ("channels_last", "channels_first"),
    protocol: Protocol | None = None,
    direct: bool = False,
    check: bool = True,
    accuracies: Sequence[str] = ("exact",),
    progress: Callable[[list[Row], int, int], None] | None = None,
) -> Run:
    """Measure layers x passes x dtypes x threads; `progress(rows, done, total)` is called after every cell."""
    protocol = protocol or Protocol()
    begin = time.perf_counter()
    with thread_limit(max(threads)):
        present, absent = contestants(tuple(names), tuple(layouts), direct, tuple(accuracies))
    run = Run(describe(), {**asdict(protocol), "direct": direct, "checked": check}, absent=absent)
    probes = {(d, n): Probes(d, n) for d in dtypes for n in threads}
    for probe in probes.values():
        with thread_limit(probe.threads):
            probe.again(memory=True)
    total = len(layers) * len(passes) * len(dtypes) * len(threads)
    done = 0
    for layer, dtype in product(layers, dtypes):
        problem = Problem(layer, _dtype(dtype))
        for what in passes:
            for n in threads:
                with thread_limit(n):
                    rows = _cell(problem, what, dtype, n, present, protocol, check)
                run.rows += rows
                done += 1
                if progress is not None:
                    progress(rows, done, total)
            problem.forget(what)
        for n in threads:
            with thread_limit(n):
                probes[dtype, n].again()
    run.probes = [probe.as_data() for probe in probes.values()]
    run.seconds = time.perf_counter() - begin
    return run


def _dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return name


def _row(problem: Problem, what: str, dtype: str, threads: int, contestant: Contestant) -> Row:
    layer, g = problem.layer, problem.layer.geometry
    itemsize = problem.x.dtype.itemsize
    bias = what == "grad_bias"
    side = problem.x if layer.kind == "deconv" else problem.y
    return Row(
        layer=layer.name,
        kind=layer.kind,
        tier=layer.tier,
        label=layer.label,
        what=what,
        contraction=layer.contraction(what),
        dtype=dtype,
        threads=threads,
        contestant=contestant.name,
        layout=contestant.layout,
        work_flop=side.size if bias else g.work_flop,
        inside_flop=side.size if bias else 2 * g.inside_macs,
        array_bytes=side.nbytes if bias else g.array_bytes(itemsize),
        channels=(g.in_channels_per_group, g.out_channels_per_group),
    )


def _cell(
    problem: Problem, what: str, dtype: str, threads: int, present: Sequence[Contestant], protocol: Protocol, check: bool
) -> list[Row]:
    """All contestants on one pass: prepared, checked, timed in turns."""
    rows: list[Row] = []
    turns: list[_Turn] = []
    for contestant in present:
        row = _row(problem, what, dtype, threads, contestant)
        rows.append(row)
        reason = contestant.refuses(problem, what)
        if reason is not None:
            row.error = reason
            continue
        with thread_limit(threads, contestant):
            try:
                call = contestant.prepare(problem, what, threads)
                value = call()
                if check:
                    right, row.checked = problem.check(what, contestant.result(value, problem, what), contestant.exact)
                    if not right:
                        row.error = f"wrong answer: {row.checked}"
                        continue
                del value
                turns.append(_Turn(contestant, row, call, _time(call, 1)))
            except Exception as error:
                row.error = f"{type(error).__name__}: {error}"
    _rounds(turns, threads, protocol)
    return rows


def _time(call: Callable[[], Any], count: int) -> float:
    """Mean time of `count` calls, in ns."""
    clock = time.perf_counter_ns
    begin = clock()
    for _ in range(count):
        call()
    return (clock() - begin) / count


def _rounds(turns: list[_Turn], threads: int, protocol: Protocol) -> None:
    begin = time.perf_counter_ns()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for k in range(protocol.most_rounds):
            for turn in turns[k % len(turns) :] + turns[: k % len(turns)] if turns else []:
                if turn.dropped:
                    turn.row.time_ns.append(None)
                    continue
                with thread_limit(threads, turn.contestant):
                    if threads > 1 and protocol.settle_ns:
                        time.sleep(protocol.settle_ns / 1e9)
                    if turn.estimate < LONG_NS:
                        turn.estimate = min(turn.estimate, _time(turn.call, 1))
                    count = max(1, min(1000, round(protocol.turn_ns / max(turn.estimate, 1.0))))
                    turn.row.time_ns.append(_time(turn.call, count))
            if k == 0:
                _drop(turns, protocol.drop)
            if k + 1 >= protocol.least_rounds and _steady(turns, protocol.spread):
                break
            if k + 1 >= min(3, protocol.least_rounds) and time.perf_counter_ns() - begin > protocol.cell_ns:
                break
    finally:
        if enabled:
            gc.enable()


def _drop(turns: list[_Turn], factor: float) -> None:
    """Drop a peer's layout that is far slower than its other one: only the peer's best is compared with."""
    for turn in turns:
        if turn.contestant.ours:
            continue
        same = [t.row.times[-1] for t in turns if t.contestant.name == turn.contestant.name and t.row.times]
        if turn.row.times and turn.row.times[-1] > factor * min(same):
            turn.dropped = True


def _steady(turns: list[_Turn], spread: float) -> bool:
    """Whether the paired ratios to the first contestant spread little."""
    live = [t.row.times for t in turns if not t.dropped]
    for times in live[1:]:
        ratios = [a / b for a, b in zip(live[0], times, strict=True)]
        q1, _, q3 = quantiles(ratios, n=4)
        if (q3 - q1) / 2 > spread * median(ratios):
            return False
    return True
