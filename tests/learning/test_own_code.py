"""Forward functions of the caller's own: recorded where they compute from their input alone, else run as they are written, with the reason."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
import re
import sys
import time
import types
from typing import NamedTuple

import numpy as np
import pytest
from tests.learning.test_recorded import RUNS, batches, bits, compare, plain, pytestmark, trained  # noqa: F401 - the mark holds here, too

import preimage as pre
from preimage import functional, learning, nn, ops, optim

SCALE = 2.0
SETTINGS = {"scales": [1.0, 0.5], "deep": {"on": True}}
CALLS = []


class Pair(NamedTuple):
    """Two functions under names."""

    add: object
    scale: float


@dataclasses.dataclass
class Options:
    scale: float = 0.5
    names: tuple[str, ...] = ("first", "second")


def doubled(x):
    return x * SCALE


class Base(nn.Module):
    """Two convolutions; what lies between them is each test's."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, rng=0)
        self.second = nn.Conv2d(4, 4, 3, padding=1, rng=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3, rng=2)
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1, rng=k) for k in (3, 4)])
        self.scale, self.options, self.calls, self.plain = 0.5, Options(), 0, types.SimpleNamespace(factor=3.0)
        self.seen, self.rng = [], None

    def forward(self, x):
        h = ops.relu(self.first(x))
        return self.head(self.between(h).mean((2, 3)))

    def between(self, h):
        raise NotImplementedError


class Residual(Base):
    def between(self, h):
        return ops.relu(self.norm(self.second(h)) + h)


class Wide(Base):
    def between(self, h):
        parts = [block(h) for block in self.blocks]
        n, c, *_ = h.shape
        assert n > 0
        return ops.concat(parts, axis=1)[:, :c] * (1.0 / math.sqrt(c))


class Named(Base):
    def between(self, h):
        for name in self.options.names:
            h = ops.tanh(getattr(self, name)(h)) if h.shape[1] == 4 and name == "second" else h
        return h * self.options.scale + self.plain.factor


class Global(Base):
    def between(self, h):
        return doubled(self.second(h)) * SETTINGS["scales"][1] if SETTINGS["deep"]["on"] else h


class Functional(Base):
    def between(self, h):
        return functional.leaky_relu(functional.conv2d(h, self.second.weight, self.second.bias, padding=1), 0.2)


class Upper(Residual):
    def between(self, h):
        return super().between(h) - sum(self.norm(part) for part in (h, h))


def closed():
    pair = Pair(lambda a, b: a + b, 0.25)

    class Closed(Base):
        def between(self, h):
            return pair.add(self.second(h), h) * pair.scale

    return Closed()


@pytest.mark.parametrize("make", [Residual, Wide, Named, Global, Functional, Upper, closed])
def test_functional_code_is_recorded(make):
    assert compare(make, batches(RUNS + 2))[RUNS:] == [None] * 2


def test_a_unet_that_crops_and_joins():
    class Up(Base):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 4, 2, stride=2, rng=5)

        def between(self, h):
            low = self.second(nn.MaxPool2d(2)(h)) if False else self.second(self.pool(h))
            return ops.concat([self.up(low), h[:, :2, :6]], axis=1)[:, 1:5]

        @property
        def pool(self):
            return self.blocks[0] if self.scale > 1 else self.halved

        def halved(self, h):
            return ops.max_pool(h, 2)

    assert compare(Up, batches(RUNS + 2))[RUNS:] == [None] * 2


def test_what_an_import_of_the_library_runs_is_nobodys_forward_function(monkeypatch):
    """Packages put finders of their own on sys.meta_path (setuptools does), and every first use in the library asks them."""
    asked = []

    class Finder:
        @staticmethod
        def find_spec(name, path, target=None):
            asked.append(time.time())

    text = "def forward(self, x):\n try:\n  import no_such_module\n except ImportError:\n  pass\n return inner(self, x)"
    lazy = {"__name__": "preimage.nn.lazy", "inner": nn.ReLU.forward}
    exec(text, lazy)
    monkeypatch.setattr(nn.ReLU, "forward", lazy["forward"])
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])

    class Lazy(Base):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def between(self, h):
            return self.relu(self.second(h))

    assert compare(Lazy, batches(RUNS + 2))[RUNS:] == [None] * 2
    assert asked


def test_large_arrays_die_in_a_forward_function():
    class Deep(Base):
        def between(self, h):
            for _ in range(3):
                h = ops.tanh(self.second(h))  # what tanh is given dies here
            return h

    assert compare(Deep, batches(RUNS + 2, n=33, shape=(2, 48, 48)))[RUNS:] == [None] * 2


# -- what is not recorded ----------------------------------------------------------------------------------------------


class Counts(Base):
    def between(self, h):
        self.calls += 1
        return h * float(self.calls)


class Remembers(Base):
    def between(self, h):
        self.last = h
        return h


class Lists(Base):
    def between(self, h):
        self.seen.append(len(self.seen))
        return h * (1.0 + len(self.seen))


class ListsGlobally(Base):
    def between(self, h):
        CALLS.append(1)
        return h * (1.0 + len(CALLS) % 3)


class Branches(Base):
    def between(self, h):
        return h if h.mean().item() > 0.3 else -h


class Compares(Base):
    def between(self, h):
        return h if (h > 0).mean() > 0.4 else -h


class Truth(Base):
    def between(self, h):
        return h if h.sum() else -h


class Measures(Base):
    def between(self, h):
        return h / float(h.max())


class ReadsData(Base):
    def between(self, h):
        return h * (1 / h.data.max())


class ReadsInside(Base):
    def between(self, h):
        return h * (1 / h._data.max())


class ByNumPy(Base):
    def between(self, h):
        return h * pre.Tensor(np.asarray(h.detach()).max(axis=(2, 3), keepdims=True))


class Draws(Base):
    def between(self, h):
        return h * random.Random(3).random()


class DrawsNoise(Base):
    def between(self, h):
        return h + np.random.default_rng(1).standard_normal(h.shape).astype(np.float32)


class DrawsOwn(Base):
    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def between(self, h):
        return h * float(self.rng.random())


class Drops(Base):
    def between(self, h):
        return functional.dropout(h, 0.5, self.training)


class Clock(Base):
    def between(self, h):
        return h * (1 + 0 * time.perf_counter())


class Assigns(Base):
    def between(self, h):
        self.second.weight.assign(self.second.weight.detach() * 0.9)
        return self.second(h)


class Cached(Base):
    def between(self, h):
        return h * _cached(len(h))


@functools.cache
def _cached(n):
    return 1.0 + len(CALLS) * n


class Keeps(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("level", np.float32([1, 2, 3, 4]))

    def between(self, h):
        return h * self.level.reshape(-1, 1, 1)


class Imports(Base):
    def between(self, h):
        import math as module

        return h * module.pi


REFUSED = {
    Counts: "changes more than its result", Remembers: "changes more than its result", Lists: "changes what it reads",
    ListsGlobally: "changes what it reads", Branches: "takes values out of a Tensor", Compares: "else than Tensors", Truth: "takes values out",
    Measures: "takes values out", ReadsData: "else than Tensors", ReadsInside: "uses _data", ByNumPy: "calls asarray", Draws: "calls",
    DrawsNoise: "calls", DrawsOwn: "calls|read a value", Clock: "calls perf_counter", Assigns: "assigns weights",
    Cached: "not found|could read", Keeps: "else than Tensors", Imports: "imports as it runs",
}  # fmt: skip


@pytest.mark.parametrize("make", REFUSED)
def test_other_code_is_run_as_it_is_written(make):
    CALLS.clear()
    if make is ListsGlobally:  # what two nets share would be another for the second
        net = make()
        why = trained(learning.Trainer(net, nn.cross_entropy, optim.SGD(net.parameters(), lr=0.05)), batches(RUNS + 2))[1]
    else:
        why = compare(make, batches(RUNS + 2))
    assert re.search(REFUSED[make], why[-1])


def test_masks_are_drawn_for_programs():
    found = []
    for run in (plain, lambda *given: trained(learning.Trainer(*given[:3]), given[3])):
        nn.init.manual_seed(3)
        net = Drops()
        made = run(net, nn.cross_entropy, optim.SGD(net.parameters(), lr=0.05), batches(RUNS + 3))
        losses, why = made if isinstance(made, tuple) else (made, [None])
        assert why[-1] is None
        found.append((losses, bits(net)))
    assert found[0] == found[1]


# -- what it reads, and finds changed ----------------------------------------------------------------------------------


def _scale(net):
    net.scale = 0.25


def _option(net):
    net.options.scale = 0.25


def _factor(net):
    net.plain.factor = 2.0


def _names(net):
    net.options.names = ("second",) * 2


def _global(net):
    SETTINGS["scales"][1] = 0.75


def _deep(net):
    SETTINGS["deep"]["on"] = False


class Attribute(Base):
    def between(self, h):
        return self.second(h) * self.scale


@pytest.mark.parametrize(
    ("make", "change"),
    [(Attribute, _scale), (Named, _option), (Named, _factor), (Named, _names), (Global, _global), (Global, _deep)],
)
def test_what_is_read_is_looked_at_before_every_step(make, change, monkeypatch):
    monkeypatch.setitem(SETTINGS, "scales", [1.0, 0.5])
    monkeypatch.setitem(SETTINGS, "deep", {"on": True})
    both = iter([None, None])

    def between(k, net):
        if k == 0:
            next(both)
            SETTINGS["scales"][1], SETTINGS["deep"]["on"] = 0.5, True
        if k == RUNS + 1:
            change(net)

    why = compare(make, batches(2 * RUNS + 3), between=between)
    assert why[RUNS] is None
    assert "changed" in why[RUNS + 1]
    assert why[-1] is None


def test_a_function_that_is_replaced_is_seen(monkeypatch):
    def between(k, net):
        if k == 0:
            monkeypatch.undo()
        if k == RUNS + 1:
            monkeypatch.setattr(Attribute, "between", lambda self, h: self.second(h) - 1)

    why = compare(Attribute, batches(2 * RUNS + 3), between=between)
    assert "changed" in why[RUNS + 1]
    assert why[-1] is None


def test_a_closure_that_is_rebound_is_seen():
    def make():
        level = 1.0

        class Level(Base):
            def between(self, h):
                return h * level

        def set_level(value):
            nonlocal level
            level = value

        net = Level()
        object.__setattr__(net, "set_level", set_level)
        return net

    def between(k, net):
        if k == RUNS + 1:
            net.set_level(2.0)

    why = compare(make, batches(2 * RUNS + 3), between=between)
    assert "changed" in why[RUNS + 1]
    assert why[-1] is None
