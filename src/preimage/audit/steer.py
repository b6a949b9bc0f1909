"""Cases on purpose: for a decision that hardly any case took, a known one (`rare`), and geometries near one that took it, or took what
lies beside it.

The search plans and runs nothing (a millisecond a try), so it may try many. It begins at the examples of the decision itself;
where there are none, at those of decisions whose names share most with it, and keeps what comes nearer: a geometry that takes
more of the same planner's rare decisions. What it finds runs like any other case, and is asked once more in the way that was
planned.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from preimage.audit.case import Case
from preimage.audit.coverage import ENOUGH, Way, planned, spread, ways_of
from preimage.audit.draft import LIMITS, Limits, draft_of, fit
from preimage.audit.extremes import EXTREMES
from preimage.audit.findings import Trial
from preimage.audit.generate import LARGE_LIMITS, case_at
from preimage.audit.known import known_cases, one_change
from preimage.audit.rare import Rare, rare_cases, trial_of, way_of
from preimage.audit.subjects.base import Subject

__all__ = ["Asked", "rare", "steered"]

#: Cases of a run that are planned for examples, and tries for one decision.
EXAMPLES, TRIES = 600, 1000
_KEPT = 12  # examples of a decision
#: Decisions of large work need geometries that are asked for in the planned way alone.
ALONE_MACS = LARGE_LIMITS.macs
_HUGE = Limits(macs=12_000_000, elements=3_000_000, padded=4_000_000, taps=40_000)
_SIZES = (LIMITS, LIMITS, LARGE_LIMITS, _HUGE)


@dataclass(frozen=True)
class Asked:
    """A case that was drawn for a decision, and the trial that takes it."""

    case: Case
    subject: str
    trial: Trial

    @property
    def alone(self) -> bool:
        """Whether nothing else is asked of it, nor of other subjects: too much work for every check."""
        return self.case.macs > ALONE_MACS


def rare(counts: Mapping[str, int], declared: Sequence[str], enough: int = ENOUGH) -> list[str]:
    """The decisions that too few cases took, the rarest first."""
    return sorted((name for name in declared if counts.get(name, 0) < enough), key=lambda name: (counts.get(name, 0), name))


def steered(
    subject: Subject, counts: Mapping[str, int], declared: Sequence[str], seed: int, *, seconds: float = 30.0
) -> list[Asked]:
    """Cases for the rare decisions of a subject, as many as are missing to ENOUGH of each where they are found.

    seconds: a bound on the search, which ends earlier where all are found. The known examples are asked in any case.
    """
    wanted = {name: ENOUGH - counts.get(name, 0) for name in rare(counts, declared)}
    if not wanted:
        return []
    found = [_asked(subject, row.case, row.trial, f"known {k}", names) for k, row, names in _examples(subject, set(wanted))]
    if seconds <= 0:
        return found
    search = _Search(subject, seed, time.monotonic() + seconds)
    for name in wanted:
        if search.late:
            break
        for case, way in search.find(name, wanted[name]):
            found.append(_asked(subject, case, trial_of(way), f"steered {seed}:{len(found)}", [name]))
    return found


def _asked(subject: Subject, case: Case, trial: Trial, label: str, names: Sequence[str]) -> Asked:
    return Asked(case.with_(label=f"{label} ({', '.join(names)})"), subject.name, trial)


def _examples(subject: Subject, wanted: set[str]) -> Iterator[tuple[int, Rare, list[str]]]:
    """The known examples that take some of these decisions on this machine: their number, and which."""
    for k, row in enumerate(rare_cases()):
        names = wanted.intersection(row.takes)
        way = way_of(row.trial)
        if names and way is not None:
            names &= planned(subject, row.case, way)
        if names:
            yield k, row, sorted(names)


def _large_ones(rng: random.Random) -> Iterator[Case]:
    """Known geometries nearly as large as they are, which meet the decisions of large work."""
    for case in known_cases():
        draft = draft_of(case)
        draft.batch = rng.choice((1, 2, 3))
        fit(draft, _HUGE)
        yield draft.case("")


class _Search:
    """Examples of decisions, and walks from them."""

    def __init__(self, subject: Subject, seed: int, until: float) -> None:
        self.subject, self.until = subject, until
        self.rng = random.Random(f"steer {seed}")
        self.ways = ways_of(subject)
        self.examples: dict[str, list[tuple[Case, Way]]] = defaultdict(list)
        for row in rare_cases():
            if (known := way_of(row.trial)) is not None:
                self.keep(row.case, known, planned(subject, row.case, known))
        examples = [*(case_at(i, seed) for i in range(EXAMPLES)), *_large_ones(self.rng)]
        for case, way, took in spread(subject, examples, per_case=1):
            self.keep(case, way, took)
            if self.late:
                break

    @property
    def late(self) -> bool:
        return time.monotonic() > self.until

    def keep(self, case: Case, way: Way, took: frozenset[str]) -> None:
        for name in took:
            if len(self.examples[name]) < _KEPT:
                self.examples[name].append((case, way))

    def find(self, name: str, count: int) -> list[tuple[Case, Way]]:
        """Up to `count` different geometries whose plans take the decision."""
        found: dict[Case, Way] = {}
        for _ in range(TRIES):
            if len(found) >= count or self.late:
                break
            case, way = self.mutated(*self.start(name))
            took = planned(self.subject, case, way)
            if name in took:
                found.setdefault(case.with_(label=""), way)
            self.keep(case, way, took)
        return list(found.items())

    def start(self, name: str) -> tuple[Case, Way]:
        """An example of the decision, or of the decisions that share most of its name."""
        words = name.split(".")
        for length in range(len(words), 0, -1):
            near = [k for k, rows in self.examples.items() if rows and k.split(".")[:length] == words[:length]]
            if near and (length == len(words) or self.rng.random() < 0.6):
                return self.rng.choice(self.examples[self.rng.choice(near)])
        case = self.rng.choice(known_cases()) if self.rng.random() < 0.5 else case_at(self.rng.randrange(1 << 30), 1)
        return case if case.macs else self.rng.choice(known_cases()), self.rng.choice(self.ways)

    def mutated(self, case: Case, way: Way) -> tuple[Case, Way]:
        """A geometry near another: a number or two changed, or an extreme switched on; and now and then another way to ask."""
        rng, draft = self.rng, draft_of(case)
        for _ in range(rng.choice((1, 1, 2, 3))):
            if rng.random() < 0.7 or not draft.axes:
                one_change(rng, draft)
            else:
                EXTREMES[rng.choice(list(EXTREMES))](rng, draft)
        fit(draft, rng.choice(_SIZES))
        if rng.random() < 0.3:
            other = rng.choice(self.ways)
            field = rng.choice(("dtype", "channels_last", "under", "result", "finite"))
            way = replace(way, **{field: getattr(other, field)})
            if way.result == "conv_weight_grad":
                way = replace(way, finite=True)  # a y that is not is no matter of the plan
        return draft.case(""), way
