"""What these benchmarks share: how contestants have their turns, which clock counts, and how other libraries are made ready.

    times = interleaved({"ours": once(call, clock), "theirs": once(other, clock)}, rounds=15, threads=2)
    median_ms(times["ours"]), median(ratios(times, "theirs", "ours"))

A *turn* is a function that lets its contestant work and gives nanoseconds. In a round every contestant has one turn, so a machine that slows down for
a while slows down all of them: ratios are taken round by round, and their median counts. The order turns with the rounds, forwards and backwards,
so that none is always behind the same other. Answers are compared before any clock runs; that is left to the scripts, which know what is right.

Imports nothing but NumPy: the sides that run in another library's environment (models_side.py, ncnn_side.py) use it too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "SETTLE_S",
    "Call",
    "Clock",
    "Process",
    "Times",
    "burst",
    "clock_of",
    "interleaved",
    "median_ms",
    "once",
    "onnxruntime_call",
    "order",
    "ratios",
    "repeated",
    "serve",
    "set_threads",
    "thread_counts",
    "timing_options",
]  # fmt: skip

Call = Callable[[], Any]
Clock = Callable[[], int]
Times = dict[str, list[float]]

#: Seconds in which the idle workers of the contestant before come to rest: after a call torch's spin for 10 ms, OpenBLAS's for 2^26 cycles
#: (20 ms), onnxruntime's for 40 ms, on CPUs that the next contestant wants.
SETTLE_S = 0.06
BURST_NS = 50_000_000


# -- turns


def clock_of(cpu: bool) -> Clock:
    """The clock in ns; cpu: the CPU time of the calling thread, for one thread on a machine with other work."""
    return time.thread_time_ns if cpu else time.perf_counter_ns


def once(call: Call, clock: Clock, *, warm: bool = True) -> Callable[[], float]:
    """The turn that is one call, after one that is not timed (warm)."""
    return repeated(call, clock, 1, warm=warm)


def repeated(call: Call, clock: Clock, count: int, *, warm: bool = True) -> Callable[[], float]:
    """The turn that is so many calls, after one that is not timed (warm): their mean."""

    def turn() -> float:
        if warm:
            call()
        begin = clock()
        for _ in range(count):
            call()
        return (clock() - begin) / count

    return turn


def burst(call: Call, clock: Clock) -> Callable[[], float]:
    """The turn that is about 50 ms of calls, at least three, after one that is not timed: the median of their times."""

    def turn() -> float:
        call()
        times: list[int] = []
        while sum(times) < BURST_NS or len(times) < 3:
            begin = clock()
            call()
            times.append(clock() - begin)
        return float(np.median(times))

    return turn


def order(names: Sequence[str], number: int) -> list[str]:
    """Who comes after whom in a round: turned by one place a round, and the other way round in every second turning."""
    place = number % len(names)
    turned = [*names[place:], *names[:place]]
    return turned[::-1] if number // len(names) % 2 else turned


def interleaved(
    turns: Mapping[str, Callable[[], float]], *, rounds: int, threads: int = 1, uncounted: int = 0, seconds: float | None = None
) -> Times:
    """Each contestant's nanoseconds by round.

    threads: with several, workers come to rest before each turn. uncounted: rounds before the first that counts. seconds: further rounds follow
    until so much time has passed.
    """
    times: Times = {name: [] for name in turns}
    end = None if seconds is None else time.perf_counter() + seconds
    number = -uncounted
    while number < rounds or (end is not None and time.perf_counter() < end):
        for name in order(list(turns), max(number, 0)):
            if threads > 1:
                time.sleep(SETTLE_S)
            taken = turns[name]()
            if number >= 0:
                times[name].append(taken)
        number += 1
    return times


def ratios(times: Times, name: str, by: str) -> list[float]:
    """time(name) / time(by), round by round."""
    return [a / b for a, b in zip(times[name], times[by], strict=True)]


def median_ms(times: Sequence[float]) -> float:
    return float(np.median(times)) / 1e6


# -- options


def timing_options(parser: argparse.ArgumentParser, *, threads: str = "1", rounds: int = 9) -> None:
    """--threads, --rounds and --cpu."""
    parser.add_argument("--threads", default=threads, help="numbers of threads, separated by commas")
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each contestant")
    parser.add_argument("--cpu", action="store_true", help="the CPU time of one thread, for a machine with other work")


def thread_counts(said: str) -> list[int]:
    return [int(each) for each in said.split(",")]


# -- other libraries


def set_threads(threads: int) -> None:
    """Let the libraries that are loaded in this process, torch and NumPy's BLAS, use so many threads."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    from preimage.engines.blas import blas_thread_control

    control = blas_thread_control()
    if control is not None:
        control[1](threads)


def onnxruntime_call(model: str | bytes, feeds: Mapping[str, np.ndarray], threads: int) -> Callable[[], list[np.ndarray]]:
    """A run of a model, from a path or from its bytes. Raises what onnxruntime raises for one that it does not take."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, dict(feeds))  # type: ignore[no-any-return]


class Process:
    """A contestant in a process, and perhaps an environment, of its own, which runs `serve`. Calling it is a turn.

    said: the lines that it prints once it is ready, as many as were asked for.
    """

    def __init__(self, command: Sequence[str | Path], lines: int = 0) -> None:
        self._process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._line() != "ready":
            raise RuntimeError(f"did not run: {' '.join(map(str, command))}")
        self.said = [self._line() for _ in range(lines)]

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __call__(self) -> float:
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        return float(self._line())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(turn: Callable[[], float], *said: str) -> None:
    """The other end of a `Process`: say "ready" and some lines, then have a turn for every line that comes in."""
    print("\n".join(("ready", *said)), flush=True)
    for _ in sys.stdin:
        print(turn(), flush=True)
