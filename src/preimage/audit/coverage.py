"""Which decisions of a planner the cases took: counted as they run, and searched for by planning alone.

An engine declares every branch that its plans can take (`preimage.engines.decisions`). A decision that hardly any case took is a
part of the engine that the audit has hardly seen; so cases are drawn for it on purpose (`steer`), and one that no case reaches is
reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from preimage.audit.case import RESULTS, Case
from preimage.audit.data import dtype_of
from preimage.audit.findings import Tally
from preimage.audit.subjects.base import Subject
from preimage.engines import decisions

__all__ = ["ENOUGH", "Way", "contexts", "decisions_of", "planned", "reachable", "spread", "ways_of"]

#: Cases that should take each decision.
ENOUGH = 20


@contextmanager
def decisions_of(subject: Subject, tally: Tally) -> Iterator[None]:
    """Count, as one case, the decisions that the subject takes inside the block."""
    if not subject.plans:
        yield
        return
    with decisions.recording() as counts:
        yield
    tally.decisions.update(name for name in counts if name.startswith(f"{subject.name}."))


@dataclass(frozen=True)
class Way:
    """How a contraction of a case is asked for: what its plan depends on beside the geometry.

    under: settings, each "promise:number" of `Subject.variants`. finite: whether the weights are (where not, a plan may have to be
    made again).
    """

    result: str
    dtype: str = "float32"
    channels_last: bool = False
    under: tuple[str, ...] = ()
    finite: bool = True


@contextmanager
def contexts(subject: Subject, under: Sequence[str]) -> Iterator[None]:
    """The settings of a way, inside the block."""
    with ExitStack() as stack:
        for text in under:
            promise, _, number = text.partition(":")
            made: Callable[[], AbstractContextManager[object]] = subject.variants(promise)[int(number)][1]
            stack.enter_context(made())
        yield


def ways_of(subject: Subject) -> list[Way]:
    """Every way in which a plan may be asked for, so ordered that neighbours differ in much."""
    unders: list[tuple[str, ...]] = [()]
    for promise, which in (
        ("schedules", slice(0, 1)),
        ("threads", slice(1, 2)),
        ("caches", slice(0, 1)),
        ("cpu", slice(0, None)),
    ):
        settings = [f"{promise}:{k}" for k in range(len(subject.variants(promise)))][which]
        unders += [(*under, one) for under in list(unders) for one in settings if promise != "cpu" or "caches:0" not in under]
    unders += [(f"tiles:{k}",) for k in range(len(subject.variants("tiles")))]
    ways = [
        Way(result, dtype, last, under, finite)
        for under in unders
        for dtype in subject.dtypes
        for last in (False, True)
        for result in RESULTS[:3]
        for finite in ((True,) if result == "conv_weight_grad" else (True, True, False))
    ]
    step = next(s for s in (29, 31, 37, 41, 43) if len(ways) % s)  # prime to the number: all of them come
    return [ways[k * step % len(ways)] for k in range(len(ways))]


def planned(subject: Subject, case: Case, way: Way) -> frozenset[str]:
    """The decisions that the subject's plan takes; none where it refuses the case, lacks a setting, or says nothing of its plans."""
    if not all(
        int(number) < len(subject.variants(promise)) for promise, _, number in (text.partition(":") for text in way.under)
    ):
        return frozenset()
    with contexts(subject, way.under):
        if subject.refuses(case, way.result, way.dtype) is not None:
            return frozenset()
        return subject.planned(case, way.result, dtype_of(way.dtype), way.channels_last, way.finite)


def spread(subject: Subject, cases: Sequence[Case], per_case: int = 3) -> Iterator[tuple[Case, Way, frozenset[str]]]:
    """Every case planned in a few ways, which go round over the cases."""
    ways = ways_of(subject)
    at = 0
    for case in cases:
        for _ in range(per_case):
            way = ways[at % len(ways)]
            at += 1
            yield case, way, planned(subject, case, way)


def reachable(subject: Subject) -> list[str]:
    """The names of the decisions that the subject can take on this machine."""
    return [d.name for d in decisions.declared(subject.name) if d.name not in subject.unreachable]
