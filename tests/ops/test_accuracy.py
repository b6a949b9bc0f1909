"""`accuracy=`: how it reaches an engine, by call, setting, graph and command, and through gradients of every order."""

import sys

import numpy as np
import pytest

import preimage as pre
from preimage.engines.decisions import forget_shortcuts
from preimage.engines.gemm import GemmEngine
from preimage.io import graph as graphs
from preimage.ops import warm
from preimage.settings import allowing, current

engines = sys.modules["preimage.engines"]  # whose name at the top is a function


@pytest.fixture
def seen(monkeypatch):
    """What every contraction that reaches an engine was allowed, in order; none goes the short way (tests/engines/test_warm_values.py)."""
    found = []
    call = engines._call

    def watched(engine, contraction, *rest):
        found.append((contraction, current().accuracy))
        return call(engine, contraction, *rest)

    monkeypatch.setattr(engines, "_call", watched)
    monkeypatch.setattr(warm, "warm", lambda *call: None)
    forget_shortcuts()
    return found


def arrays():
    rng = np.random.default_rng(3)
    return rng.standard_normal((2, 3, 7, 6)), rng.standard_normal((4, 3, 3, 2))


def test_the_default_is_exact_and_the_argument_holds_for_its_call(seen):
    x, w = arrays()
    y = pre.conv(x, w)
    pre.conv(x, w, accuracy="fast", activation="relu")
    pre.conv(x, w, accuracy="fast", padding=1, padding_mode="reflect")
    pre.conv_transpose(y, w, accuracy="fast")
    pre.conv_weight_grad(x, y, kernel_size=(3, 2), accuracy="fast")
    pre.conv(x, w)
    assert [how for _, how in seen] == ["exact", "fast", "fast", "fast", "fast", "exact"]


def test_an_argument_overrules_the_setting(seen):
    x, w = arrays()
    with pre.config(accuracy="fast"):
        pre.conv(x, w)
        pre.conv(x, w, accuracy="exact")
        pre.conv(x, w)
    assert [how for _, how in seen] == ["fast", "exact", "fast"]


@pytest.mark.parametrize("first", [None, "fast"])
def test_a_call_that_was_made_before_takes_the_accuracy_that_it_is_given_now(seen, first):
    x, w = arrays()
    y = pre.conv(x, w)
    for call in (
        lambda **k: pre.conv(x, w, **k),
        lambda **k: pre.conv_transpose(y, w, **k),
        lambda **k: pre.conv_weight_grad(x, y, kernel_size=(3, 2), **k),
    ):
        seen.clear()
        for how in (first, first, "fast", "exact", None, "fast"):
            call(accuracy=how)
        assert [how for _, how in seen] == [first or "exact", first or "exact", "fast", "exact", "exact", "fast"]


def test_gradients_take_the_accuracy_that_the_call_asked_for(seen):
    x, w = (pre.Tensor(a, requires_grad=True) for a in arrays())
    bias = pre.Tensor(np.zeros(4), requires_grad=True)
    loss = (pre.conv(x, w, bias, accuracy="fast") ** 2).sum()
    gx, gw = pre.grad(loss, [x, w], create_graph=True)
    ((gx**2).sum() + (gw**2).sum()).backward()
    assert len(seen) > 6
    assert {how for _, how in seen} == {"fast"}
    seen.clear()
    loss = (pre.conv(x, w, bias) ** 2).sum()  # the setting is that of the moment
    with pre.config(accuracy="fast"):
        loss.backward()
    assert [how for _, how in seen] == ["exact", "fast", "fast"]


@pytest.mark.parametrize("call", [pre.conv, pre.conv_transpose])
def test_a_word_that_is_none_is_refused(call):
    x, w = arrays()
    w = w if call is pre.conv else np.ones((3, 4, 3, 2))
    for wrong in ("quick", 1, b"fast"):
        with pytest.raises(pre.OptionError, match="accuracy must be one of exact, fast, got"):
            call(x, w, accuracy=wrong)
    with pytest.raises(pre.OptionError, match="accuracy must be one of exact, fast"):
        pre.conv_weight_grad(x, x, kernel_size=1, accuracy="quick")


def test_an_optimised_graph_has_its_own_accuracy(seen):
    x, _ = arrays()
    net = pre.nn.Sequential(pre.nn.Conv2d(3, 5, 3), pre.nn.ReLU(), pre.nn.ConvTranspose2d(5, 2, 2))
    graph = graphs.trace(net, x.astype(np.float32))
    for accuracy, wanted in ((None, "exact"), ("fast", "fast"), ("exact", "exact")):
        made = graphs.optimise(graph, accuracy=accuracy)
        assert {node.attributes.get("accuracy") for node in made.nodes if "conv" in node.op} == {accuracy}
        seen.clear()
        with pre.config(engine="gemm"):  # which binds nothing: every node runs as an operation
            made(x.astype(np.float32))
        assert {how for _, how in seen} == {wanted}
    with pytest.raises(pre.OptionError, match="accuracy"):
        graphs.optimise(graph, accuracy="quick")


def test_one_settings_object_for_one_accuracy():
    with allowing("fast") as first:
        pass
    with allowing("fast") as again:
        assert again is first
        assert current() is first
        with allowing(None) as same:
            assert same is first
    assert current().accuracy == "exact"


class Inexact(GemmEngine):
    """An engine that sums in its own way, and says that it is fast."""

    name = "inexact"

    def declines(self, geometry, contraction, dtype):
        return None if geometry.kernel_size[0] > 2 else "the kernel is small"

    def gain(self, geometry, contraction, dtype):
        return 1.5


def test_an_engine_that_is_not_exact_runs_only_where_it_may(monkeypatch):
    monkeypatch.setitem(engines._ROWS, "inexact", f"{__name__}:Inexact")
    monkeypatch.setitem(engines._loaded, "inexact", Inexact())
    monkeypatch.setattr(engines, "INEXACT", ("inexact",))
    g = pre.ConvGeometry.from_conv((1, 2, 9, 9), (3, 2, 5, 5))
    small = pre.ConvGeometry.from_conv((1, 2, 9, 9), (3, 2, 2, 2))
    assert pre.plan(g).engine == "jit"
    with pre.config(accuracy="fast"):
        assert pre.plan(g).engine == "inexact"
        assert pre.plan(small).engine == "jit"
        assert pre.plan(small).refused["inexact"] == "the kernel is small"
    with pre.config(engine="inexact"):
        with pytest.raises(pre.EngineError, match="accuracy='fast' allows"):
            pre.plan(g)
        with pre.config(accuracy="fast"):
            assert pre.plan(small).engine == "inexact"
