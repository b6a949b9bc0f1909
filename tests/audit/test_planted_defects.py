"""Every planted defect must be found, by the check that is meant to find it, with the right severity: proof that the audit can
fail. The engine that they are made from must pass.
"""

from __future__ import annotations

from functools import cache

import defects
import pytest

from preimage import audit
from preimage.audit.subjects.definition import Definition

WANTED = [
    # defect, check that must find it, severity, result, geometries
    (defects.FlippedKernel, "exact", "wrong value", "conv", 20),
    (defects.SwappedGroupChannels, "exact", "wrong value", "conv_transpose", 20),
    (defects.OutputPaddingOffByOne, "exact", "wrong value", "conv_transpose", 30),
    (defects.WrongBorderTap, "exact", "wrong value", "conv", 20),
    (defects.DroppedLastTapRow, "exact", "wrong value", "conv_weight_grad", 20),
    (defects.BiasTwice, "exact", "wrong value", "conv", 20),
    (defects.TransposedWeightGradient, "exact", "wrong value", "conv_weight_grad", 80),
    (defects.StrideDilationMixUp, "exact", "wrong value", "conv_transpose", 40),
    (defects.HistoricalStrideDilation, "exact", "wrong value", "conv", 40),
    (defects.Race, "repeat", "wrong bits", "conv", 250),
    (defects.OverRead, "memory", "out-of-bounds access", "conv", 16),
    (defects.UnderRead, "memory", "out-of-bounds access", "conv_transpose", 10),
    (defects.OverWrite, "memory", "out-of-bounds access", "conv", 10),
    (defects.StaleOutput, "memory", "wrong value", "conv_transpose", 20),
    (defects.DilatedOnePosition, "exact", "wrong value", "conv_transpose", 200),
    (defects.KernelBeyondInput, "exact", "wrong value", "conv", 200),
    (defects.StrideBeyondExtent, "exact", "wrong value", "conv_weight_grad", 200),
    (defects.LargeBatch, "exact", "wrong value", "conv", 200),
    (defects.RareChannels, "exact", "wrong value", "conv_transpose", 300),
    (defects.WritesToInput, "exact", "wrong value", "conv", 10),
    (defects.SwallowedNaN, "hard", "wrong value", "conv", 60),
    (defects.FlushesDenormals, "hard", "wrong value", "conv", 60),
    (defects.BatchDependent, "bits", "wrong bits", "conv", 60),
    (defects.Imprecise, "rounding", "imprecise", "conv", 20),
]


@pytest.mark.parametrize(
    ("defect", "check", "severity", "result", "geometries"), WANTED, ids=lambda v: getattr(v, "__name__", None)
)
def test_a_planted_defect_is_found(defect, check, severity, result, geometries):
    report, found = None, []
    for count in _rising(geometries):
        report = audit.run([defect()], geometries=count, checks=[check], jobs=0, shrink_seconds=0.3, seed=1)
        found = [f for f in report.findings if f.result == result and f.severity == severity]
        if found:
            break
    assert found, [(f.severity, f.result, f.message) for f in report.findings]
    if defect is not defects.HistoricalStrideDilation:  # wrong in all three
        assert all(f.result == result for f in report.findings), "blames a contraction that is right"
    assert any(f.reproducer and defect.__name__ in f.reproducer for f in found)
    # The same cases on the engine that the defect was planted in: nothing.
    assert _definition_passes(check)


def _rising(most):
    """Numbers of geometries up to so many: what is found among few need not be looked for among many."""
    return [n for n in (10, 40) if n < most] + [most]


@cache
def _definition_passes(check):
    return audit.run([Definition()], geometries=30, checks=[check], jobs=0, seed=1).ok


def test_historical_stride_dilation_passes_every_identity():
    """What a gradient check sees of PyTorch issue 1565: nothing. Only the oracle does."""
    report = audit.run([defects.HistoricalStrideDilation()], geometries=150, checks=["identities"], jobs=0)
    assert report.ok, report.findings[0].message
    assert report.subjects[0].tally.runs["identities"] > 200


def test_inconsistent_defects_fail_an_identity_too():
    for defect in (defects.FlippedKernel, defects.TransposedWeightGradient, defects.BiasTwice):
        runs = (audit.run([defect()], geometries=n, checks=["identities"], jobs=0, shrink_seconds=0.2) for n in _rising(200))
        assert not all(report.ok for report in runs), defect.__name__


def test_failures_shrink_to_a_few_elements():
    report = audit.run([defects.FlippedKernel()], geometries=10, checks=["exact"], jobs=0, shrink_seconds=5)
    smallest = report.findings[0].smallest
    assert smallest is not None
    assert smallest["kernel_size"] == (2,)
    assert smallest["batch"] == smallest["in_channels"] == smallest["out_channels"] == 1
    assert smallest["input_size"] == (2,)
    assert "ConvGeometry(" in report.findings[0].reproducer
    assert report.findings[0].repeatable == "10 of 10 runs"


def test_reproducers_run_and_show_the_difference(monkeypatch, capsys):
    """The printed lines are executed as they are; what they print is what the audit says it got."""
    report = audit.run([defects.StrideDilationMixUp()], geometries=30, checks=["exact"], jobs=0)
    scope: dict[str, object] = {}
    finding = report.findings[0]
    exec(finding.reproducer, scope)
    printed = capsys.readouterr().out
    got = next(line for line in finding.reproducer.split("\n") if line.startswith("# got:"))
    for value in got[7:].strip(" []flat()").split(","):
        assert f"{float(value.strip(' ]')):g}" in printed.replace(".]", "]").replace(". ", " "), (got, printed)


def test_an_inexact_algorithm_is_recognised_and_measured():
    report = audit.run([defects.Winograd()], geometries=40, checks=["exact"], jobs=0)
    assert report.ok
    count, units = report.subjects[0].tally.inexact["float32 conv"]
    assert count > 5
    assert 0 < units <= 1


def test_a_crash_is_a_finding_and_the_audit_goes_on():
    report = audit.run(["defects:Crashes"], geometries=60, checks=["exact"], jobs=1, shrink_seconds=20)
    crashes = [f for f in report.findings if f.severity == "crash"]
    assert crashes
    assert "SIGSEGV" in crashes[0].message
    assert crashes[0].smallest is not None
    assert crashes[0].smallest["groups"] == 31
    assert all(f.severity == "crash" for f in report.findings)
    assert report.subjects[0].tally.runs["exact"] > 250, "cases after the crash were not run"


def test_memory_is_guarded_in_workers_too():
    report = audit.run(["defects:OverRead"], geometries=8, checks=["memory"], jobs=1, shrink_seconds=0.3)
    assert {f.severity for f in report.findings} == {"out-of-bounds access"}
    assert "past the end" in report.findings[0].message


def test_a_race_is_told_from_a_wrong_value():
    report = audit.run([defects.Race()], geometries=250, checks=["repeat"], jobs=0, seed=1)
    assert "of the same call" in report.findings[0].message
    assert report.findings[0].repeatable != ""
