"""Coverage of decisions: what the planners took, call by call; nothing of it in a warm call."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import pytest

import preimage as pre
from geometries import operands
from preimage.engines import decisions, get
from preimage.engines.decisions import Shortcuts, declare, declare_all, declared, made, recording, report, take
from preimage.engines.jit.engine import JitEngine
from preimage.geometry import ConvGeometry
from preimage.settings import config

JIT = JitEngine()
needs_jit = pytest.mark.skipif(JIT.unavailable() is not None, reason=str(JIT.unavailable()))
SMALL = ConvGeometry.from_conv((2, 5, 9, 8), (7, 5, 3, 3), stride=2, padding=1)
LARGE = ConvGeometry.from_conv((1, 40, 24, 24), (24, 40, 3, 3), padding=1)


def three(engine, g):
    x, w, y = operands(g, np.random.default_rng(0))
    engine.conv(g, x, w)
    engine.conv_transpose(g, y, w)
    engine.conv_weight_grad(g, x, y)


@pytest.fixture
def own():
    """Decisions of an engine of no importance, forgotten afterwards."""
    before = dict(decisions._declared)
    yield declare_all("ours.test", {"left": "it goes left", "right": "it goes right"})
    decisions._declared.clear()
    decisions._declared.update(before)


def test_declared_by_engine(own):
    assert [d.name for d in declared("ours")] == ["ours.test.left", "ours.test.right"]
    assert declared("ours")[0].engine == "ours"
    with pytest.raises(KeyError):
        own("up")
    assert declare("ours.test.left", "it goes left") in declared()
    with pytest.raises(ValueError, match="declared twice"):
        declare("ours.test.left", "it goes elsewhere")


def test_a_plan_keeps_what_it_took_and_a_call_reports_it(own):
    own("left")  # nobody records
    with recording() as counts:
        own("left")
        with made() as taken:
            own("right")
            own("left")
            own("right")
        assert tuple(taken) == ("ours.test.right", "ours.test.left")
        assert counts == Counter({"ours.test.left": 1})
        report(taken)
        report(taken)
    own("left")
    take(declared("ours")[1])
    assert counts == Counter({"ours.test.left": 3, "ours.test.right": 2})


def test_nested_recordings_and_threads(own):
    with recording() as outer:
        own("left")
        with recording() as inner:
            work = [threading.Thread(target=lambda: [own("right") for _ in range(200)]) for _ in range(4)]
            [t.start() for t in work]
            [t.join() for t in work]
        own("left")
    assert (inner["ours.test.left"], inner["ours.test.right"]) == (0, 800)
    assert (outer["ours.test.left"], outer["ours.test.right"]) == (2, 800)


def test_shortcuts_are_empty_while_a_recording_is_open():
    cache = Shortcuts(2)
    cache.keep("a", 1)
    with recording():
        assert not cache
        cache.keep("a", 1)
        assert not cache
    for key in "abc":
        cache.keep(key, 1)
    assert list(cache) == ["c"]


def test_words():
    get("gemm")
    get("jit")
    for decision in declared():
        assert decision.engine in ("jit", "jit-fast", "gemm", "fft", "cuda", "cudnn")
        assert decision.name == decision.name.lower()
        assert len(decision.words) > 8
        assert not decision.words.endswith(".")


@needs_jit
@pytest.mark.parametrize("g", [SMALL, LARGE], ids=["little work", "large work"])
def test_the_same_call_records_the_same(g):
    """A plan made now, one made before, and one that warm calls use."""
    engine = JitEngine()
    found = []
    for _ in range(3):
        with recording() as counts:
            three(engine, g)
        found.append(counts)
        three(engine, g)
        three(engine, g)
    assert found[0] == found[1] == found[2]
    assert found[0]["jit.request.conv.f32"] == 1
    assert set(found[0]) <= {d.name for d in declared("jit")}


@needs_jit
def test_a_recording_counts_every_call_and_only_calls_inside_it():
    engine = JitEngine()
    x, w, _ = operands(SMALL, np.random.default_rng(0))
    with recording() as counts:
        for _ in range(4):
            engine.conv(SMALL, x, w)
        engine.plan(SMALL, "conv_transpose", np.dtype(np.float32))
    engine.conv(SMALL, x, w)
    assert counts["jit.request.conv.little_work"] == 4
    assert counts["jit.request.conv_transpose.little_work"] == 0


@needs_jit
def test_what_no_call_can_take_here_is_declared_and_explained():
    names = {d.name for d in declared("jit")}
    for name, why in JIT.unreachable_decisions().items():
        assert name in names
        assert why


@needs_jit
def test_the_plan_shows_its_decisions():
    with config(engine="jit"):
        plan = pre.plan(SMALL)
    assert "jit.request.conv.little_work" in plan.decisions


def functions_entered(call) -> int:
    count = 0

    def seen(frame, event, arg):
        nonlocal count
        count += event == "call"

    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


@needs_jit
def test_nothing_in_a_warm_call():
    """A recording that is over leaves no trace: as many functions are entered as before it, and none of this module's."""
    x, w, _ = operands(SMALL, np.random.default_rng(0))

    def call():
        return pre.conv(x, w, stride=2, padding=1)

    with config(engine="jit"):
        call()
        call()
        before = functions_entered(call)
        with recording():
            call()
        call()
        assert functions_entered(call) == before <= 37
        names = []
        sys.setprofile(lambda frame, event, arg: names.append(frame.f_code.co_filename) if event == "call" else None)
        call()
        sys.setprofile(None)
    assert decisions.__file__ not in names


@needs_jit
def test_an_engine_is_imported_while_the_lock_is_held():
    """By a thread of its own, for which the thread that holds it waits: nothing that runs on import may want it too."""
    code = "from preimage.engines import get; print(get('jit').name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "jit", done.stderr
