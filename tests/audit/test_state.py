"""Long runs: the state file, going on from it, and processes that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from preimage import audit
from preimage.audit.state import Done, State, alone
from preimage.errors import FileFormatError, OptionError, OutputError

WHAT = {"subjects": ["gemm"], "checks": ["exact"], "seed": 3}


def test_what_is_done_is_kept_as_ranges_in_any_order():
    rng = random.Random(0)
    numbers = list(range(300))
    for k in range(0, 300, 20):  # nearly in order, as processes finish
        part = numbers[k : k + 20]
        rng.shuffle(part)
        numbers[k : k + 20] = part
    done = Done()
    for n, i in enumerate(numbers, 1):
        done.add(i)
        done.add(i)
        assert len(done) == n
        assert done.ranges == sorted(done.ranges)
        assert all(b < c for (_, b), (c, _) in zip(done.ranges, done.ranges[1:], strict=False)), "ranges that touch are one"
        assert sorted(j for r in done.missing(300) for j in r) == sorted(set(range(300)) - set(numbers[:n]))
    assert done.ranges == [(0, 300)]
    for i in (0, 299, 150, 151):
        done.remove(i)
    assert done.ranges == [(1, 150), (152, 299)]
    for i in (151, 0, 150, 299):
        done.add(i)
    assert done.ranges == [(0, 300)]
    assert list(done.missing(303)) == [range(300, 303)]


def test_a_run_goes_on_where_it_ended(tmp_path):
    path = tmp_path / "run.json"
    first = audit.run(["gemm"], geometries=20, seed=3, checks=["exact"], jobs=1, state=path)
    again = audit.run(["gemm"], geometries=50, seed=3, checks=["exact"], jobs=1, state=path)
    whole = audit.run(["gemm"], geometries=50, seed=3, checks=["exact"], jobs=1, state=tmp_path / "whole.json")
    assert (first.cases, again.cases) == (20, 50)
    assert again.subjects[0].tally.runs == whole.subjects[0].tally.runs, "the same as in one run"
    state = State.read(path)
    assert [run["geometries"] for run in state.runs] == [20, 30]
    assert state.done.ranges == [(0, 50)]
    nothing_left = audit.run(["gemm"], geometries=50, seed=3, checks=["exact"], jobs=1, state=path)
    assert nothing_left.subjects[0].tally.runs == whole.subjects[0].tally.runs


def test_findings_are_kept(tmp_path):
    path = tmp_path / "run.json"
    first = audit.run(["defects:FlippedKernel"], geometries=16, checks=["exact"], jobs=1, state=path, shrink_seconds=0.5)
    assert not first.ok
    again = audit.run(["defects:FlippedKernel"], geometries=17, checks=["exact"], jobs=1, state=path, shrink_seconds=0)
    assert [f.reproducer for f in again.findings] == [f.reproducer for f in first.findings]
    assert again.findings[0].count >= first.findings[0].count
    assert "FlippedKernel().conv(geometry" in again.findings[0].reproducer


def test_code_that_has_changed_is_asked_again_for_what_failed(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    given = {"checks": ["exact"], "jobs": 1, "state": path, "shrink_seconds": 0.3}
    found = audit.run(["defects:FlippedKernel"], geometries=12, **given)
    state = State.read(path)
    assert len(state.done) == 12
    assert 1 < len(state.failing) <= sum(f.count for f in found.findings)
    assert not audit.run(["defects:FlippedKernel"], geometries=12, **given).ok
    assert State.read(path).runs[-1]["geometries"] == 0, "the same code is not asked again"
    monkeypatch.setattr("preimage.audit.state.code_digest", lambda: "other code")
    again = audit.run(["defects:FlippedKernel"], geometries=12, **given)
    assert State.read(path).runs[-1]["geometries"] == len(state.failing)
    assert {f.key for f in again.findings} == {f.key for f in found.findings}, "it was not mended"
    assert State.read(path).earlier[0]["message"] == found.findings[0].message


def test_a_killed_run_loses_seconds_and_its_file_is_whole(tmp_path):
    path = tmp_path / "run.json"
    code = (
        "import sys; from preimage.audit import state, run; state.State.every_seconds = 0.1\n"
        "if __name__ == '__main__': run(['gemm'], geometries=10**6, checks=['exact'], jobs=1, state=sys.argv[1])"
    )
    script = tmp_path / "long.py"
    script.write_text(code)
    counts = []
    for k in range(2):
        child = subprocess.Popen([sys.executable, str(script), str(path)], env=os.environ | {"PYTHONWARNINGS": "ignore"})
        until = time.monotonic() + 120
        seen = counts[-1] if counts else 0
        while time.monotonic() < until and (not path.exists() or len(State.read(path).done) <= seen):
            time.sleep(0.05)
        if k == 0:
            with pytest.raises(OptionError, match=rf"in use by another run \(process {child.pid}\)"):
                audit.run(["gemm"], geometries=10, checks=["exact"], jobs=1, state=path)
        child.send_signal(signal.SIGKILL)
        child.wait()
        counts.append(len(State.read(path).done))
    assert 0 < counts[0] < counts[1], "the second run was not kept out by the lock of the first"
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".json"] == ["run.json"]


def test_two_runs_cannot_share_a_file(tmp_path):
    path, link = tmp_path / "run.json", tmp_path / "link.json"
    link.symlink_to(path)
    given = {"geometries": 3, "seed": 3, "checks": ["exact"], "jobs": 1}
    with alone(path):
        for name in (path, link):
            with pytest.raises(OptionError, match="in use by another run"):
                audit.run(["gemm"], state=name, **given)
        assert not path.exists(), "the second one has written nothing"
        with alone(tmp_path / "other.json"):
            pass
    assert audit.run(["gemm"], state=link, **given).cases == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.json", "run.json"]
    with pytest.raises(OutputError), alone(tmp_path / "no" / "run.json"):
        pass


def test_another_run_or_another_file_is_refused(tmp_path):
    path = tmp_path / "run.json"
    State.open(path, WHAT, 10)
    for change in ({"seed": 4}, {"subjects": ["jit"]}, {"checks": ["exact", "bits"]}):
        with pytest.raises(OptionError, match="holds a run with"):
            State.open(path, WHAT | change, 10)
    for text in ("{", "[]", json.dumps({"format": "other"}), json.dumps({"format": "preimage audit, long run, 1"})):
        path.write_text(text)
        with pytest.raises(FileFormatError, match=r"state of a long audit|is no JSON"):
            State.read(path)
    with pytest.raises(OutputError):
        State.open(tmp_path / "no" / "folder.json", WHAT, 10)
    with pytest.raises(OptionError, match="not both"):
        audit.run(["gemm"], only=[], state=tmp_path / "x.json")
