"""Decisions: every branch on which a plan depends, by name, and which of them a call's plan took. Coverage for planners.

A planner declares its branches once and says at each which way it went:

    take = declare_all("jit.direct", {
        "input.in_place": "the input is read where it lies",
        "input.packed": "the input is copied into a channels-last slab with its margins",
    })
    take("input.packed" if slab else "input.in_place")

`declared("jit")` lists what there is; `recording()` counts what the calls inside it took:

    with recording() as counts:
        pre.conv(x, w)
    counts["jit.direct.input.in_place"]     # 1: calls, not how often a plan took it

Off, this costs nothing: a plan is made once and keeps what it took (`made`), and a warm call looks nothing up. Caches of calls
that skip the planner (`Shortcuts`) are emptied when a recording begins and stay empty until it ends; so every call finds its
plan and reports (`report`). What is decided call by call (a copy of an operand, a cut into bands) is counted at once.

A call bound beforehand (`engines.bind`) runs kernels alone: it is counted when it is bound.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TypeVar

from preimage.locks import LOCK
from preimage.records import record

__all__ = [
    "Decision",
    "Shortcuts",
    "declare",
    "declare_all",
    "declared",
    "forget_shortcuts",
    "is_recording",
    "made",
    "recording",
    "report",
    "take",
]

K = TypeVar("K")
V = TypeVar("V")


@record
class Decision:
    """One way that a plan can go. name: dotted, the engine's name first; words: what it means, a plain sentence."""

    name: str
    words: str

    @property
    def engine(self) -> str:
        return self.name.partition(".")[0]


_declared: dict[str, Decision] = {}
#: What the plan that is being made has taken so far, in order; None outside `made`.
_taken: ContextVar[dict[str, None] | None] = ContextVar("taken", default=None)
_recorders: list[Counter[str]] = []
_shortcuts: list[weakref.ref[Shortcuts]] = []  # type: ignore[type-arg]


def declare(name: str, words: str) -> Decision:
    """Declare a decision, when the module that takes it is imported. One name has one place and one meaning."""
    known = _declared.get(name)
    if known is not None and known.words != words:
        raise ValueError(f"decision {name!r} is declared twice: {known.words!r} and {words!r}")
    found = _declared[name] = Decision(name, words)
    return found


def declare_all(prefix: str, words: Mapping[str, str]) -> Callable[[str], None]:
    """Declare prefix.name for every name; gives the function that takes one of them, by its name without the prefix."""
    found = {name: declare(f"{prefix}.{name}", meaning).name for name, meaning in words.items()}
    return lambda name: _take(found[name])


def declared(engine: str | None = None) -> tuple[Decision, ...]:
    """All decisions of an engine that is loaded (of all such engines), by name."""
    return tuple(d for _, d in sorted(_declared.items()) if engine in (None, d.engine))


def take(decision: Decision) -> None:
    """Say that the plan being made went this way; outside of planning, that the call did."""
    _take(decision.name)


def _take(name: str) -> None:
    taken = _taken.get()
    if taken is not None:
        taken[name] = None
    elif _recorders:
        report((name,))


@contextmanager
def made() -> Iterator[dict[str, None]]:
    """Around the making of a plan: gives the names of the decisions taken inside, in order, as keys."""
    found: dict[str, None] = {}
    token = _taken.set(found)
    try:
        yield found
    finally:
        _taken.reset(token)


def is_recording() -> bool:
    """Whether anybody counts: for engines that decide call by call."""
    return bool(_recorders)


def report(names: Iterable[str]) -> None:
    """Count the decisions of a call's plan in every open recording."""
    if _recorders:
        with LOCK:
            for counter in tuple(_recorders):
                counter.update(tuple(names))


@contextmanager
def recording() -> Iterator[Counter[str]]:
    """Count the decisions of all calls inside the block, by name, of every thread; recordings may be nested."""
    counter: Counter[str] = Counter()
    with LOCK:
        _recorders.append(counter)
    forget_shortcuts()
    try:
        yield counter
    finally:
        with LOCK:
            _recorders[:] = [other for other in _recorders if other is not counter]


def forget_shortcuts() -> None:
    """Empty every cache of calls that skip the planner: what plans depend on beside the call and the settings has changed."""
    with LOCK:
        for ref in tuple(_shortcuts):
            cache = ref()
            if cache is not None:
                cache.clear()
            else:
                with suppress(ValueError):  # a call in the middle of this one has removed it
                    _shortcuts.remove(ref)


class Shortcuts(dict[K, V]):
    """A cache of calls that skip the planner. It keeps nothing while a recording is open, so that every call is planned."""

    __slots__ = ("__weakref__", "most")

    def __init__(self, most: int) -> None:
        """most: entries; with one more, all go."""
        super().__init__()
        self.most = most
        _shortcuts.append(weakref.ref(self))  # one step

    def keep(self, key: K, value: V) -> None:
        if _recorders:
            return
        if len(self) >= self.most:
            self.clear()
        self[key] = value
