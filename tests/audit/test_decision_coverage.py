"""Coverage of decisions: every branch of a planner is taken by some case of the default run, and rare ones are searched for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from preimage import audit
from preimage.audit.checks import make as make_check
from preimage.audit.coverage import ENOUGH, Way, planned, reachable, spread
from preimage.audit.findings import Tally
from preimage.audit.generate import case_at, cases
from preimage.audit.rare import Rare, rare_cases, trial_of, way_of
from preimage.audit.runner import run_here, seed_of, trials_of
from preimage.audit.steer import rare, steered
from preimage.audit.subjects.base import Subject
from preimage.audit.subjects.definition import Definition
from preimage.engines import decisions

JIT = audit.make_subject("jit")
needs_jit = pytest.mark.skipif(JIT.unavailable() is not None, reason=str(JIT.unavailable()))

WORDS = {"often": "most geometries", "rare": "one position and a dilation over 20", "never": "no geometry"}


@pytest.fixture(autouse=True)
def _declared():
    """The decisions of the planner below, which no other test sees."""
    before = dict(decisions._declared)
    Planner.take = staticmethod(decisions.declare_all("planner", WORDS))
    yield
    decisions._declared.clear()
    decisions._declared.update(before)


class Planner(Subject):
    """A subject whose plan has three ways, one of them rare and one never taken."""

    name = "planner"
    plans = True
    any_strides = True
    must_be_exact = True

    def run(self, case, result, *operands, bias=None):
        self._decide(case)
        got = np.asarray(getattr(Definition(), result)(case.geometry(), *operands))
        return got if bias is None else got + bias.reshape(-1, *[1] * case.ndim)

    def planned(self, case, result, dtype, channels_last, finite):
        with decisions.made() as found:
            self._decide(case)
        return frozenset(found)

    def _decide(self, case):
        if any(m == 1 and d > 20 and k > 1 for m, d, k in zip(case.output_size, case.dilation, case.kernel_size, strict=True)):
            self.take("rare")
        else:
            self.take("often")


def test_cases_count_once_for_each_decision():
    report = run_here([Planner()], list(cases(60)), ["exact"])
    counts = report.subjects[0].tally.decisions
    assert counts["planner.often"] + counts["planner.rare"] == 60


def test_a_rare_decision_is_searched_for():
    declared = [d.name for d in decisions.declared("planner")]
    counts = {"planner.often": 60, "planner.rare": 2}
    assert rare(counts, declared) == ["planner.never", "planner.rare"]
    asked = steered(Planner(), counts, declared, 0)
    assert len({a.case.with_(label="") for a in asked}) == ENOUGH - 2
    assert asked == steered(Planner(), counts, declared, 0), "the same search finds the same"
    for a in asked:
        assert "planner.rare" in planned(Planner(), a.case, Way(a.trial.result))
        a.case.geometry()


def test_a_run_reports_what_no_case_reached():
    report = audit.run([Planner()], geometries=60, checks=["exact"], jobs=0)
    counts = report.subjects[0].tally.decisions
    assert counts["planner.rare"] >= ENOUGH
    assert counts["planner.never"] == 0
    assert report.steered > 0
    assert report.cases == 60 + report.steered
    assert report.declared["planner"]["planner.never"] == "no geometry"
    assert report.to_json()["declared"]["planner"]["planner.never"] == "no geometry"


@needs_jit
def test_planning_takes_what_the_call_takes_and_makes_no_kernel():
    from preimage.engines.jit.compiler import kernels

    kernels.forget()
    for case, way, took in spread(JIT, [case_at(i, 7) for i in range(40)], per_case=2):
        assert not took or any(name.startswith(f"jit.request.{way.result}") for name in took), (case, way)
    assert kernels.loaded_count() == 0
    small = [c for c in cases(60, seed=2) if c.macs][:12]
    for case in small:
        x, w = (np.ones(s, np.float32) for s in (case.x_shape, case.w_shape))
        took = planned(JIT, case, Way("conv"))
        with decisions.recording() as counts:
            JIT.run(case, "conv", x, w)
        assert {n for n in counts if not n.startswith("jit.call.")} == took, case


def ways_asked(case, index):
    """How the exact check and that of bits ask for a case of the default run."""
    for name in ("exact", "bits"):
        for trial in trials_of(make_check(name), JIT, case, seed_of(0, index)):
            last = "channels_last" in (trial.layout, *trial.extra[1:])
            under = trial.extra[-1] if name == "exact" else (f"{trial.extra[0]}:{trial.extra[1]}",)
            if trial.result != "bias_grad" and (name == "exact" or JIT.variants(str(trial.extra[0])) or last):
                yield Way(trial.result, trial.dtype, last, () if name == "bits" and last else under)


@needs_jit
@pytest.mark.parametrize("vectors", ["avx2", "avx512"])
def test_every_decision_of_the_planner_is_reached_by_the_default_run(vectors):
    """By its first cases, or by the known examples, which it asks where too few cases took a decision.

    Planned for vectors of both widths, whichever this CPU has. What is decided beside a plan is seen as the trial runs.
    """
    from preimage.engines.jit.compiler import kernels

    counts: Counter[str] = Counter()
    with kernels.use_target(replace(kernels.named_target(vectors), runs_here=True)):
        declared = reachable(JIT)
        for i, case in enumerate(cases(25)):
            for way in ways_asked(case, i):
                counts.update(planned(JIT, case, way))
        asked = steered(JIT, {}, declared, 0, seconds=0)
        for found in asked:
            if (way := way_of(found.trial)) is not None:
                counts.update(planned(JIT, found.case, way))
    for found in asked:
        if way_of(found.trial) is None:
            check = make_check(found.trial.check)
            with decisions.recording() as seen, np.errstate(all="ignore"):
                failure = check.attempt(JIT, found.trial, check.draw(found.case, found.trial, 0), Tally())
            assert failure is None, found
            counts.update(seen)
    missed = [name for name in declared if not counts[name]]
    assert not missed, f"no case of the default run takes {', '.join(missed)}: run tools/rare_geometries.py"


def test_a_way_and_its_trial_name_each_other():
    for way in (Way("conv"), Way("conv_transpose", "float16", True, ("tiles:0",), False), Way("conv_weight_grad", "float64")):
        assert way_of(trial_of(way)) == way
    for row in rare_cases():
        assert Rare.from_json(row.to_json()) == row
        assert row.takes
        row.case.geometry()
