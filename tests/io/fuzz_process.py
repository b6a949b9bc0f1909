"""Cases of a fuzzer in child processes, so that a crash, a hang or too much memory ends one case and not the run."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["fuzz"]

#: Of the processor's time, so that a machine with other work to do makes no case slow.
SECONDS, MEMORY = 5, 2**30
#: By the clock, after which a case that neither ends nor computes has stopped for good.
PATIENCE = 60


def _too_long(*_: Any) -> None:
    raise TimeoutError


def _child(attempt: Callable[[int], str], seeds: range, pipe: Any) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGPROF, _too_long)
    for seed in seeds:
        pipe.send((seed, "started"))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            outcome = attempt(seed)
        except TimeoutError:
            outcome = "too slow"
        except BaseException as error:
            outcome = f"foreign {type(error).__name__}: {str(error)[:200]}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send((seed, outcome))
    pipe.send((None, "done"))


def fuzz(
    attempt: Callable[[int], str], first: int, count: int, fine: Sequence[str]
) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Counts of what `attempt` says of the seeds `first` .. `first + count - 1`, and those seeds of which it says nothing `fine`.

    A seed that ends its process, or says nothing for `PATIENCE`, is an offender, and the next one begins in a new process.
    """
    counts: Counter[str] = Counter()
    offenders: list[tuple[int, str]] = []
    context = multiprocessing.get_context("fork")
    at = first
    while at < first + count:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(attempt, range(at, first + count), theirs))
        child.start()
        theirs.close()
        last = at
        try:
            while True:
                if not ours.poll(PATIENCE):
                    raise EOFError
                seed, outcome = ours.recv()
                if seed is None:
                    at = first + count
                    break
                last = seed
                if outcome != "started":
                    at = seed + 1
                    counts[outcome.split(":")[0]] += 1
                    if outcome not in fine:
                        offenders.append((seed, outcome))
        except EOFError:
            child.kill()
            child.join()
            offenders.append((last, f"crash or hang (exit {child.exitcode})"))
            counts["crash or hang"] += 1
            at = last + 1
        child.join()
    return counts, offenders
