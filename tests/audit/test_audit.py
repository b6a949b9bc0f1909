"""Our engines through a short audit, and the audit's own parts: oracle, bounds, generator, files, command, report."""

from __future__ import annotations

import json
import re
import sys
from itertools import product
from math import prod
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from preimage import audit
from preimage.audit import guard, products
from preimage.audit import integers as audited_integers
from preimage.audit.case import RESULTS, Case
from preimage.audit.checks.identities import Identities
from preimage.audit.data import LAYOUTS, PRECISION, integers, lay_out
from preimage.audit.files import expected_invalid, read_cases
from preimage.audit.findings import Tally, Trial
from preimage.audit.generate import case_at, cases
from preimage.audit.invalid import invalid
from preimage.audit.oracle import Truth, conv_at, fingerprint, fold
from preimage.audit.shrink import smaller_cases
from preimage.audit.subjects.definition import Definition
from preimage.audit.subjects.engine import EngineSubject
from preimage.cli.audit import audit as command
from preimage.errors import EngineError, FileFormatError, OptionError, PreimageError

CONTRACTIONS = RESULTS[:3]


# -- our engines -------------------------------------------------------------------------------------------------------


def test_engine_passes_a_short_audit(engine_name):
    report = audit.run([engine_name], geometries=30, jobs=2, seed=7, steer_seconds=0)  # rare decisions: test_decision_coverage.py
    assert report.ok, [(f.severity, f.check, f.message, f.reproducer) for f in report.findings]
    asked = [name for name in audit.check_names() if name != "repeat" and (name != "contract" or engine_name == "jit")]
    assert all(report.subjects[0].tally.runs[check] for check in asked)


def test_reference_raises_no_false_alarm():
    """On the cheap half of 1,000 geometries, which has all kinds, and a few of any size."""
    some = [case for i, case in enumerate(cases(1000, seed=11)) if i < 40 or case.macs * prod(case.kernel_size) < 20_000]
    assert len(some) >= 500
    report = audit.run(["reference"], only=some, jobs=2, seed=11, checks=["exact", "rounding", "hard"])
    assert report.ok, [(f.severity, f.check, f.message) for f in report.findings]
    assert report.subjects[0].tally.runs["exact"] >= 500 * 8


# -- the oracle --------------------------------------------------------------------------------------------------------


def _loops(case, result, a, b):
    """Python integers, one product at a time, straight from the trilinear form."""
    out = np.zeros(case.result_shape(result), dtype=object)
    for n, o, i in product(range(case.batch), range(case.out_channels), range(case.group_in)):
        c = o // case.group_out * case.group_in + i
        for p in product(*map(range, case.output_size)):
            for k in product(*map(range, case.kernel_size)):
                q = tuple(
                    v * s - lo + t * d for v, s, (lo, _), t, d in zip(p, case.stride, case.padding, k, case.dilation, strict=True)
                )
                if not all(0 <= v < size for v, size in zip(q, case.input_size, strict=True)):
                    continue
                if result == "conv":
                    out[(n, o, *p)] += int(a[(n, c, *q)]) * int(b[(o, i, *k)])
                elif result == "conv_transpose":
                    out[(n, c, *q)] += int(a[(n, o, *p)]) * int(b[(o, i, *k)])
                else:
                    out[(o, i, *k)] += int(a[(n, c, *q)]) * int(b[(n, o, *p)])
    return out


def test_oracle_equals_python_loops():
    tried = 0
    for case in cases(160, seed=5):
        if case.macs > 2500:
            continue
        x, w, y = integers(case, np.random.default_rng(tried), 24)
        truth = Truth(case, x, w, y)
        for result in CONTRACTIONS:
            assert np.array_equal(truth[result], _loops(case, result, *truth.operands(result))), (case, result)
        tried += 1
    assert tried > 50


def test_fingerprint_agrees_with_the_oracle_and_sees_one_wrong_element():
    rng = np.random.default_rng(0)
    for i, case in enumerate(cases(60, seed=3)):
        x, w, y = integers(case, rng, 24)
        truth = Truth(case, x, w, y)
        for result in RESULTS:
            want = fingerprint(case, result, x, w, y, i)
            assert np.array_equal(fold(case, result, truth[result], i), want), (case, result)
            if truth[result].size:
                wrong = truth[result].copy()
                wrong.reshape(-1)[rng.integers(wrong.size)] += 1
                assert not np.array_equal(fold(case, result, wrong, i), want), (case, result)


def test_conv_at_is_the_definition():
    case = case_at(0)
    x, w, y = integers(case, np.random.default_rng(0), 24)
    want = Truth(case, x, w, y)["conv"]
    for where in list(np.ndindex(*case.y_shape))[:20]:
        assert conv_at(case, x, w, where) == want[where]


# -- data and generator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", PRECISION)
def test_integer_sums_stay_exact(dtype):
    bits = PRECISION[dtype]
    for i, case in enumerate(cases(80, seed=9)):
        x, w, y = integers(case, np.random.default_rng(i), bits)
        sums = Truth(case, *(np.abs(a) for a in (x, w, y)))
        for result in RESULTS:
            assert sums[result].max(initial=0) <= 2**bits, (case, result)
        for a in (x, w, y):
            assert np.abs(a).max(initial=0) <= 2**bits


def test_the_count_of_terms_is_reached_and_not_passed():
    """`terms` bounds the data: with all operands 1, the largest element is that count (inside the padding, at most)."""
    for case in cases(80, seed=2):
        ones = (np.ones(s, np.int64) for s in (case.x_shape, case.w_shape, case.y_shape))
        truth = Truth(case, *ones)
        for result in RESULTS:
            assert truth[result].max(initial=0) <= case.terms[result], (case, result)
    plain = Case.of_conv(2, 3, 4, 1, (9,), (3,), (1,), ((0, 0),), (2,))
    truth = Truth(plain, *(np.ones(s, np.int64) for s in (plain.x_shape, plain.w_shape, plain.y_shape)))
    assert {r: truth[r].max() for r in RESULTS} == plain.terms


def test_generator_is_seeded_and_reaches_the_edges():
    made = list(cases(1000, seed=4))
    assert made == list(cases(1000, seed=4))
    assert made[900] == case_at(900, 4)
    assert made != list(cases(1000, seed=5))
    edges = {
        "stride > kernel": lambda c: any(s > k for s, k in zip(c.stride, c.kernel_size, strict=True)),
        "padding >= kernel": lambda c: any(lo >= k for (lo, _), k in zip(c.padding, c.kernel_size, strict=True)),
        "unequal padding": lambda c: any(lo != hi for lo, hi in c.padding),
        "negative padding": lambda c: any(lo < 0 or hi < 0 for lo, hi in c.padding),
        "remainder": lambda c: any(c.remainder),
        "no forward convolution": lambda c: not c.is_conv,
        "dilation with stride": lambda c: any(s > 1 and d > 1 for s, d in zip(c.stride, c.dilation, strict=True)),
        "1-wide axis": lambda c: 1 in c.input_size,
        "depthwise with multiplier": lambda c: c.groups > 1 and c.group_in == 1 and c.group_out > 1,
        "groups": lambda c: c.groups > 1 and c.group_in > 1,
        "empty": lambda c: 0 in (*c.x_shape, *c.y_shape),
        "no axis": lambda c: c.ndim == 0,
        "4 axes": lambda c: c.ndim == 4,
        "unit stride": lambda c: c.ndim > 1 and set(c.stride) == {1},
        "unequal strides": lambda c: len(set(c.stride)) > 1,
    }
    for name, holds in edges.items():
        assert sum(map(holds, made)) >= 10, name
    for case in made:
        case.geometry()


def test_invalid_calls_are_refused_by_the_library():
    import preimage as pre

    for call in invalid(60):
        subject = audit.make_subject("reference")
        with pytest.raises(PreimageError):
            subject.call_invalid(call)
    assert issubclass(pre.PreimageError, Exception)


def test_smaller_cases_are_smaller_and_sound():
    for case in cases(40, seed=6):
        for smaller in smaller_cases(case):
            smaller.geometry()
            assert smaller.is_conv or not case.is_conv
            assert smaller != case


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_hold_the_same_values(layout):
    a = np.arange(48, dtype=np.float32).reshape(2, 3, 4, 2)
    assert np.array_equal(lay_out(a, layout), a)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_guarded_memory_holds_and_starts_as_nan():
    a = np.arange(30, dtype=np.float32).reshape(2, 3, 5)
    for side in ("end", "start"):
        assert np.array_equal(guard.placed(a, side), a)
        with guard.guarded_allocations(side):
            fresh = np.empty(1000, np.float32)
            zeros = np.zeros((3, 7))
            grown = np.concatenate([a, a])
        assert np.isnan(fresh).all()
        assert not zeros.any()
        assert np.array_equal(grown[:2], a)
    guard.release()


# -- files -------------------------------------------------------------------------------------------------------------


def _file(tmp_path, rows, name="cases.json"):
    path = tmp_path / name
    path.write_text(json.dumps({"cases": rows}))
    return path


ROW = {
    "name": "plain", "kind": "conv", "ndim": 2, "batch": None, "groups": 1, "in_channels": 3, "out_channels": 2, "input": [7, 5],
    "kernel": [3, 2], "stride": [2, 1], "padding": [[1, 0], [0, 2]], "dilation": [1, 1], "output": [3, 6],
}  # fmt: skip


def test_case_files(tmp_path):
    deconv = {**ROW, "kind": "deconv", "name": "up", "input": [3, 6], "output": [7, 5], "output_padding": [1, 0]}
    wrong = {**ROW, "groups": 0, "expect_error": "groups = 0", "output": None}
    said_elsewhere = {**ROW, "expect_error": "float32 input with float64 weight"}
    big = {**ROW, "big": True}
    read = read_cases(_file(tmp_path, [ROW, deconv, wrong, said_elsewhere, big, {**ROW, "batch": 7}]), most_macs=2000)
    assert [c.batch for c in read.cases] == [2, 2, 3], "a case too large loses images"
    assert read.cases[0].output_size == (3, 6)
    assert read.cases[1].input_size == (7, 5)
    assert read.left_out == ["cases[4] plain: marked big"]
    calls = [expected_invalid(row) for row in read.expected_errors]
    assert calls[0] is not None
    assert calls[0].arguments["groups"] == 0
    assert calls[1] is None
    report = audit.run([Definition(), "reference"], geometries=0, files=[_file(tmp_path, [ROW, deconv, wrong])], jobs=0)
    assert report.ok
    assert report.cases == 2


def test_files_that_are_none(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    for path, text in (
        (tmp_path / "broken.json", "is no JSON"),
        (_file(tmp_path, [{"kind": "conv"}], "short.json"), "entry 0: KeyError"),
        (_file(tmp_path, [{**ROW, "output": [3, 7]}], "says.json"), "its numbers give"),
        (_file(tmp_path, [{**ROW, "kind": "pool"}], "kind.json"), "wanted 'conv' or 'deconv'"),
    ):
        with pytest.raises(FileFormatError, match=text):
            read_cases(path)


# -- subjects, command, report -----------------------------------------------------------------------------------------


class OnlyForward:
    """An engine of one's own: one contraction is enough."""

    name = "mine"

    def conv(self, geometry, x, w):
        return Definition().conv(geometry, x, w)


def test_an_object_of_ones_own():
    report = audit.run([OnlyForward()], geometries=20, jobs=0, checks=["exact"])
    assert report.ok
    assert report.subjects[0].tally.refused["conv_transpose: has no conv_transpose"]


def test_a_subject_that_fails_when_asked_what_it_takes(monkeypatch):
    """Is reported, and the audit goes on: a long run once ended there."""
    subject = EngineSubject("gemm")

    def supports(geometry, result, dtype):
        if geometry.in_channels == 1:
            raise ZeroDivisionError("by one channel less")

    monkeypatch.setattr(subject.engine, "supports", supports)
    report = audit.run([subject], geometries=30, jobs=0, checks=["exact"], shrink_seconds=0)
    assert "asked whether it takes this, raised ZeroDivisionError" in report.subjects[0].findings[0].message
    assert report.cases == 30


@pytest.mark.parametrize("what", ["no-such-library", "no.such.module:thing", 3])
def test_unknown_subjects(what):
    with pytest.raises(OptionError):
        audit.make_subject(what)


def test_the_example_of_the_docs_runs():
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/audit.md", "exec"), {"__name__": "docs"})


def test_a_reproducer_for_torch_runs_with_torch_alone():
    torch = pytest.importorskip("torch")
    subject = audit.make_subject("torch")
    names = {"conv": ("x", "w"), "conv_transpose": ("y", "w"), "conv_weight_grad": ("x", "y"), "bias_grad": ("y",)}
    for case in cases(25, seed=8):
        operands = dict(zip("xwy", integers(case, np.random.default_rng(1), 24), strict=True))
        for result in RESULTS:
            if subject.refuses(case, result, "float32") is not None:
                continue
            scope = {k: v.astype(np.float32) for k, v in operands.items()}
            exec(subject.script(case, result, {n: n for n in names[result]}, None), scope)
            assert np.array_equal(scope["got"], Truth(case, **operands)[result]), (case, result)
    assert torch


def test_unknown_checks():
    with pytest.raises(OptionError, match="no check is called 'fast'"):
        audit.run(["reference"], geometries=1, checks=["fast"])


def test_every_adapter_says_what_it_lacks():
    for name in audit.subject_names():
        reason = audit.make_subject(name).unavailable()
        assert reason is None or "not installed" in reason or "cannot run" in reason


def _command(*arguments):
    app = Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments))


def test_command_passes_and_writes_reports(tmp_path):
    files = ["--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")]
    done = _command("reference", "preimage.audit.subjects.definition:Definition", "-n", "6", "-j", "0", *files)
    assert done.exit_code == 0, done.output
    assert "no findings" in done.output
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["ok"] is True
    assert data["subjects"][0]["tally"]["runs"]["exact"] == 6 * 8
    page = (tmp_path / "r.html").read_text()
    assert "no findings" in page
    assert "http" not in page, "the page must be self-contained"


def test_command_fails_with_status_1_and_pictures(tmp_path):
    done = _command("defects:FlippedKernel", "-n", "6", "-j", "0", "--checks", "exact", "--html", str(tmp_path / "r.html"))
    assert done.exit_code == 1
    assert "wrong value in FlippedKernel" in done.output.replace("definition", "FlippedKernel")
    assert "got = FlippedKernel().conv(geometry" in done.output
    page = (tmp_path / "r.html").read_text()
    assert "<svg" in page
    assert "fill='#cf222e'" in page


def test_command_refuses_what_it_does_not_know():
    for arguments, text in (
        (["nonsense", "-n", "1"], "no subject is called 'nonsense'"),
        (["reference", "--most-macs", "nan"], "--most-macs is nan"),
        (["reference", "--steer", "inf"], "--steer is inf"),
        (["reference", "--status"], "name its file with --state"),
        (["reference", "--exhaustive", "--state", "x"], "takes neither --cases nor --state"),
    ):
        done = _command(*arguments)
        assert done.exit_code == 1
        assert isinstance(done.exception, OptionError)
        assert text in str(done.exception)
    listing = _command("--list")
    assert listing.exit_code == 0
    assert "torch-channels-last" in listing.output
    assert "integers" in listing.output


def test_command_takes_contractions_that_have_definitions_of_their_own(monkeypatch):
    done = _command("integers", "products", "-n", "3", "--seed", "5")
    assert done.exit_code == 0, done.output
    assert "3 cases of contractions of integers, 0 differ" in done.output
    assert "3 cases of matrix products, 0 differ" in done.output
    for module, name, wrong in ((audited_integers, "finished", np.zeros(1)), (products, "differences", ["product: ..."])):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_, wrong=wrong: wrong)
            done = _command(module.__name__.rpartition(".")[2], "-n", "2")
        assert done.exit_code == 1
        assert "2 differ from the definition" in done.output


def test_command_keeps_files_that_are_there_and_refuses_places_before_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "run", lambda *_, **__: pytest.fail("it ran"))
    there = tmp_path / "r.json"
    there.write_text("precious")
    for arguments in (["--json", str(there)], ["--html", str(tmp_path / "no" / "r.html")], ["--json", str(tmp_path)]):
        done = _command("reference", "-n", "1", *arguments)
        assert isinstance(done.exception, PreimageError), done.output
    assert there.read_text() == "precious"


def test_command_replaces_a_file_when_told_to(tmp_path):
    there = tmp_path / "r.json"
    there.write_text("old")
    done = _command("reference", "-n", "1", "-j", "0", "--checks", "exact", "--json", str(there), "--overwrite")
    assert done.exit_code == 0, done.output
    assert json.loads(there.read_text())["ok"] is True


class Picky(Definition):
    """Takes one axis alone."""

    def supports(self, geometry, contraction, dtype):
        return None if len(geometry.kernel_size) == 1 else "one axis alone"


class Yes(Definition):
    """Says of every call that it takes it, in its own way."""

    name = "Yes"

    def supports(self, geometry, contraction, dtype):
        return True


class Broken(Definition):
    name = "Broken"

    def supports(self, geometry, contraction, dtype):
        return 1 // 0


class InWords(EngineSubject):
    """Refuses everything as `preimage.engines` does."""

    def __init__(self):
        super().__init__("reference")
        self.sums_by_contract = frozenset({"conv_weight_grad"})

    def run(self, *given, **epilogue):
        raise EngineError("engine 'reference' cannot take this conv: it does not feel like it")

    run_epilogue = gradients = double_backward = run


@pytest.mark.parametrize("identity", ["gradients", "double_backward", "dot"])
def test_gradients_whose_transpose_is_refused_are_skipped(identity):
    """A stride of more phases than jit plans: the convolution runs, its input gradient is refused in words."""
    case = Case(1, 2, 2, 1, (13500,), (2,), (3,), (13472,), ((0, 0),), (1,))
    subject, check, tally = EngineSubject("jit"), Identities(), Tally()
    trial = Trial("identities", "conv", "float32", extra=(identity,))
    assert check.attempt(subject, trial, check.draw(case, trial, 3), tally) is None
    assert dict(tally.refused) == {f"{identity}: not all three contractions": 1}


def test_geometries_that_a_subject_does_not_take_are_counted():
    report = audit.run([Picky()], geometries=40, jobs=0, checks=["exact"])
    tally = report.subjects[0].tally
    assert tally.cases == 40
    assert tally.skipped == {"your supports(): one axis alone": sum(c.ndim != 1 for c in cases(40))}
    shown = _command("test_audit:Picky", "-n", "40", "-j", "0", "--checks", "exact").output
    assert f"{tally.skipped.total()} of 40 skipped: your supports()" in " ".join(shown.split())
    assert "geometries skipped: your supports(): one axis alone" in shown


@pytest.mark.parametrize("jobs", [0, 1])
def test_supports_that_gives_no_reason_or_raises_is_named(jobs):
    with pytest.raises(OptionError, match=r"Yes.supports gave True; wanted None for a call that it takes, and else the reason"):
        audit.run([Yes()], geometries=3, jobs=jobs, checks=["exact"])
    with pytest.raises(OptionError, match=r"Broken.supports raised ZeroDivisionError"):
        audit.run([Broken()], geometries=3, jobs=jobs, checks=["exact"])


@pytest.mark.parametrize("check", audit.check_names())
def test_an_engine_that_refuses_in_words_is_no_finding_of_any_check(check):
    """Even where its supports() said nothing of it."""
    report = audit.run([InWords()], geometries=40, jobs=0, checks=[check])
    assert report.ok, [f.message for f in report.findings]
    if check not in ("errors", "repeat"):
        assert any("cannot take this" in why for why in report.subjects[0].tally.refused)


def test_a_subject_may_lie_in_the_current_folder(tmp_path, monkeypatch):
    name = "engine_that_lies_here"
    (tmp_path / f"{name}.py").write_text(
        "from preimage.audit.subjects.definition import Definition\nclass Mine(Definition): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    assert audit.make_subject(f"{name}:Mine").name == "Mine"
    with pytest.raises(OptionError, match="were looked at"):
        audit.make_subject("engine_that_lies_elsewhere:Mine")


def test_command_goes_near_the_geometries_of_a_file(tmp_path):
    path = _file(tmp_path, [ROW])
    report = audit.run(["reference"], geometries=0, files=[path], near=7, checks=["exact"], jobs=0)
    assert report.cases == 8
    assert report.ok


def test_command_keeps_a_long_run_and_shows_how_far_it_is(tmp_path):
    state = str(tmp_path / "run.json")
    done = _command("gemm", "-n", "12", "-j", "1", "--checks", "exact", "--state", state)
    assert done.exit_code == 0, done.output
    assert "12 of 12 geometries, 0 findings" in done.output
    shown = _command("--state", state, "--status").output
    assert "12 of 12 geometries, 0 findings" in shown
    assert "run 1: 12 geometries" in shown
