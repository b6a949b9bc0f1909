"""Finds examples of what random cases hardly ever make jit's planners decide, and writes src/preimage/audit/rare.json.

    python tools/rare_geometries.py

Run it when planners have changed: the audit asks these first, and begins its search for rare decisions at them (`preimage.audit.rare`). Each
decision gets the example of least work, for vectors of 32 bytes and of 64, whichever this CPU has. Prints the decisions for which
nothing is found.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from preimage import audit
from preimage.audit import steer
from preimage.audit.case import Case
from preimage.audit.checks import make as make_check
from preimage.audit.coverage import Way, planned, reachable, spread
from preimage.audit.findings import Tally
from preimage.audit.generate import cases
from preimage.audit.rare import FILE, Rare, rare_cases, trial_of, way_of
from preimage.audit.runner import seed_of, trials_of
from preimage.engines import decisions
from preimage.engines.jit.compiler import kernels

#: A decision that fewer of so many plans of random cases take is rare.
ENOUGH, CASES = 150, 1000
SEARCH_SECONDS, CALL_SECONDS = 60.0, 120.0
#: Decisions about a call that no plan of a plain one shows: examples of them are found by calls.
OF_CALLS = ("jit.call.", "jit.request.epilogue.", "jit.request.weights.prepared")
UNDER = (
    (), ("schedules:0",), ("schedules:0", "threads:1"), ("schedules:0", "caches:0"), ("tiles:0",), ("tiling:0",),
    ("schedules:0", "tiling:0"),
)  # fmt: skip


def conv(batch, groups, large, small, size, kernel, stride=1, padding=0):
    """A convolution; kernel, stride and padding may be numbers for all axes. large, small: channels of a group."""
    n = len(size)
    kernel, stride = (v if isinstance(v, tuple) else (v,) * n for v in (kernel, stride))
    return Case.of_conv(batch, groups * large, groups * small, groups, size, kernel, stride, ((padding, padding),) * n, (1,) * n)


#: Kinds of layers that meet rare decisions, as small as they do; each is planned in every way.
BEGIN = [
    *[
        conv(1, 5, 1, 1, (24, 24), 15, 1, 7),
        conv(1, 8, 1, 1, (40, 40), 31, 1, 7),
        conv(1, 5, 1, 1, (51, 157), (1, 15), (6, 16), 7),
    ],
    *[
        conv(1, 5, 1, 1, (4, 14), (10, 15), 1, 3),
        conv(1, 3, 1, 1, (9, 70), 3, 1, 1),
        conv(1, 3, 1, 1, (9, 30), (3, 4), (2, 1), 1),
    ],
    *[conv(1, 3, 1, 1, (160,), s * k, s) for s in (8, 16, 32) for k in (1, 2)],
    *[conv(1, 3, 1, 1, (40, 40), s * k, s) for s in (8, 16) for k in (1, 2)],
    *[conv(1, 3, 1, 1, (s * k + 3,), s * k, s, 1) for s in (8, 16) for k in (1, 2)],
    *[conv(1, 2, 1, 1, (1200, 40), (3, s), (1, s)) for s in (8, 16)],
    *[conv(1, 3, 1, 1, (160, 160), 32, 16), conv(1, 2, 1, 1, (5, 9, 7), 3, 1, 1)],
    *[conv(1, 8, 1, m, (9, 9), 3, 1, 1) for m in (1, 2, 3)],
    *[conv(1, 64, 1, 1, (40, 50), (14, 13)), conv(1, 21, 1, 1, (4201,), 15, 1, 9), conv(1, 64, 1, 1, (9, 9), 3, 2, 1)],
    *[conv(1, 1, 256, 32, (7, 7), 7), conv(1, 1, 300, 24, (8, 8), 8), conv(1, 1, 400, 8, (32,), 32)],
    *[conv(1, 1, 300, 300, (24, 24), 1, 2), conv(1, 1, 256, 300, (14, 14), 1), conv(1, 1, 260, 300, (16, 16), 2, 2)],
    *[conv(1, 1, 16, 16, (60, 60), 1), conv(2, 1, 16, 16, (60, 60), 1), conv(1, 1, 16, 512, (2, 9), (2, 4), 2)],
    *[conv(1, 1, 24, 600, (3, 3), 4, 2, 1), conv(1, 1, 3, 700, (36, 36), 8, 4), conv(1, 1, 6, 1400, (18, 18), 4, 2)],
    conv(1, 1, 2, 300, (80, 80), 16, 8),
    *[conv(1, 3, 7, 5, (9, 9), 1), conv(1, 1, 300, 3, (5,), 1), conv(1, 1, 3, 300, (70, 60), 1), conv(1, 1, 6, 13, (40, 40), 3)],
    *[conv(1, 1, 512, 16, (16, 16), 1), conv(2, 1, 256, 32, (13, 2), 1, (2, 1)), conv(1, 1, 3, 21, (33, 33), 4, 2, 1)],
    *[conv(1, 1, 2, 2, (1, 40000), 1), conv(1, 1, 1, 2, (30000,), 10, 5), conv(1, 1, 1, 2, (1144,), 10, 5)],
    *[
        conv(1, 1, 64, 3, (5, 5), 5),
        conv(5, 1, 64, 3, (5, 5), 5),
        conv(40, 1, 1, 1, (500, 3), 2),
        conv(1, 1, 1, 12, (300,), 10, 5, 1),
    ],
    *[conv(1, 1, 1, 512, (1144,), 10, 5, 1), conv(3, 1, 40, 40, (19, 19), 3, 1, 1)],
]


def ways() -> Iterator[Way]:
    """The ways in which each of them is planned."""
    for result, dtype, last, under in product(
        ("conv", "conv_transpose", "conv_weight_grad"), ("float32", "float64", "float16"), (False, True), UNDER
    ):
        for finite in (True, False) if result != "conv_weight_grad" and not under[1:] else (True,):
            yield Way(result, dtype, last, under, finite)


class Bank:
    """The example of least work of each wanted decision."""

    def __init__(self, subject: audit.Subject, wanted: set[str]) -> None:
        self.subject, self.wanted = subject, wanted
        self.best: dict[str, tuple[int, Case, Way]] = {}

    def offer(self, case: Case, way: Way) -> None:
        way = replace(
            way, under=tuple(u for u in way.under if not u.startswith("cpu:"))
        )  # which targets there are depends on the machine
        work = case.macs + sum(map(np.prod, (case.x_shape, case.y_shape, case.w_shape)))
        for name in planned(self.subject, case, way) & self.wanted:
            if name not in self.best or work < self.best[name][0]:
                self.best[name] = (int(work), case.with_(label=""), way)

    def fill(self, seen: list[tuple[Case, Way]]) -> None:
        """From what the file holds and what random cases showed; then from the list above, and by searching, where some is missing."""
        known = [(row.case, way) for row in rare_cases() if (way := way_of(row.trial)) is not None]
        for case, way in [*known, *seen]:
            self.offer(case, way)
        for case in sorted(BEGIN, key=lambda case: case.macs):
            for way in ways() if self.missing else ():
                self.offer(case, way)
        if not self.missing:
            return
        search = steer._Search(self.subject, 0, time.monotonic() + SEARCH_SECONDS)
        search.ways = list(ways())
        for case, way in [(case, way) for _, case, way in self.best.values()]:
            search.keep(case, way, planned(self.subject, case, way))
        for name in self.missing:
            for case, way in search.find(name, 3):
                self.offer(case, way)

    @property
    def missing(self) -> list[str]:
        """What no plan was seen to take and some plan may."""
        return sorted(n for n in self.wanted - set(self.best) if not n.startswith(OF_CALLS))

    def rows(self) -> list[tuple[Case, Way]]:
        """As few of the examples as take all, the ones of least work first."""
        chosen: dict[tuple[Case, Way], frozenset[str]] = {}
        for name, (_, case, way) in sorted(self.best.items(), key=lambda row: row[1][0]):
            if not any(name in took for took in chosen.values()):
                chosen[case, way] = planned(self.subject, case, way)
        for row in sorted(chosen, key=lambda row: -self.subject_work(row)):  # those that smaller ones together make needless
            if all(any(n in t for r, t in chosen.items() if r != row) for n in chosen[row] & set(self.best)):
                del chosen[row]
        return list(chosen)

    @staticmethod
    def subject_work(row: tuple[Case, Way]) -> int:
        return row[0].macs


def of_calls(subject: audit.Subject, wanted: set[str]) -> list[Rare]:
    """Examples of decisions about calls, which no plan of a plain one shows: the checks' own trials on small cases."""
    found: dict[str, Rare] = {}
    until = time.monotonic() + CALL_SECONDS
    for i, case in enumerate(cases(4000)):
        if case.macs > 500 or case.ndim > 2:
            continue
        for check in map(make_check, ("exact", "identities", "hard")):
            for trial in trials_of(check, subject, case, seed_of(0, i)):
                if way_of(trial) is not None or trial.extra[0] in ("dot", "linear", "shift", "batch", "groups", "bias"):
                    continue  # a plan would show it, or it has nothing beside one
                with decisions.recording() as counts, np.errstate(all="ignore"):
                    failure = check.attempt(subject, trial, check.draw(case, trial, 0), Tally())
                assert failure is None, (case, trial, failure)
                for name in wanted & set(counts) - set(found):
                    found[name] = Rare(case, trial, ())
        if len(found) == len(wanted) or time.monotonic() > until:
            break
    rows = {(row.case, row.trial): sorted(n for n, r in found.items() if r == row) for row in found.values()}
    return [Rare(case, trial, tuple(names)) for (case, trial), names in rows.items()]


def main() -> None:
    jit = audit.make_subject("jit")
    counts: Counter[str] = Counter()
    seen: dict[str, list[tuple[Case, Way]]] = defaultdict(list)
    for case, way, took in spread(jit, list(cases(CASES)), per_case=3):
        if not way.finite:  # which no check asks for in every case
            continue
        counts.update(took)
        for name in took:
            seen[name].append((case, way))
    wanted = set(steer.rare(counts, reachable(jit), ENOUGH))
    print(f"{len(wanted)} decisions are taken by fewer than {ENOUGH} of {3 * CASES} plans", flush=True)
    some = [min(seen[name], key=lambda row: row[0].macs) for name in sorted(wanted & set(seen))]
    chosen: dict[tuple[Case, Way], set[str]] = {}
    for name in ("avx512", "avx2"):
        with kernels.use_target(replace(kernels.named_target(name), runs_here=True)):  # which only plans
            bank = Bank(jit, wanted & set(reachable(jit)))
            for case, way in chosen:
                bank.offer(case, way)
            bank.fill(some)
            for case, way in bank.rows():
                chosen.setdefault((case, way), set()).update(planned(jit, case, way) & bank.wanted)
            for missing in bank.missing:
                print(f"no plan takes {missing} on {name}", flush=True)
    rows = [Rare(case, trial_of(way), tuple(sorted(names))) for (case, way), names in chosen.items()]
    calls = wanted - {n for row in rows for n in row.takes}
    rows += of_calls(jit, calls)
    for missing in sorted(calls - {n for row in rows for n in row.takes}):
        print(f"nothing for {missing}")
    FILE.write_text('{"rows": [\n' + ",\n".join(json.dumps(row.to_json(), separators=(",", ":")) for row in rows) + "\n]}\n")
    print(f"{len(rows)} examples, {sum(row.case.macs for row in rows):,} multiply-adds")


if __name__ == "__main__":
    main()
