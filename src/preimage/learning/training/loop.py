"""The loop around any training: steps, tests, the journal, checkpoints, the best one, early stopping, signals, going on.

A `Task` makes one step at a time; the Trainer is one, Caffe's solvers another. Whatever ends the loop (all steps, Ctrl-C, SIGTERM, kill -9,
a full disk), a run that goes on from its folder comes to the bits of one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from preimage.display import progress_lines
from preimage.errors import DivergedError, OptionError, OutputError
from preimage.learning import checkpoints
from preimage.learning.training.journal import Journal
from preimage.learning.training.ranks import Alone, Ranks, agreed
from preimage.learning.training.stopping import StopSignals
from preimage.ops.operands import count_of

__all__ = ["History", "Plan", "Task", "TrainingProgress", "run"]


class Task(Protocol):
    """What the loop drives."""

    #: Steps that were made.
    step: int

    def advance(self) -> dict[str, float]:
        """Make one step; gives what was measured: loss, lr, samples, epoch."""

    def evaluate(self) -> dict[str, float]:
        """Measures on the data for tests; {} where there are none."""

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds: objects with a state_dict, and generators."""

    def close(self) -> None:
        """Let go of threads and files."""


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where a run stands after one step: what was measured in it, and in the test that followed it, if one did."""

    step: int
    steps: int
    seconds: float
    values: Mapping[str, float]
    test: Mapping[str, float] = field(default_factory=dict)
    first: int = 0

    @property
    def text(self) -> str:
        """Loss, rate, samples a second and the time left in words."""
        shown = [f"loss {self.values['loss']:.4g}"] if "loss" in self.values else []
        shown += [f"lr {self.values['lr']:.3g}"] if "lr" in self.values else []
        rate = self.values.get("samples_per_second", 0.0)
        shown += [f"{rate:.0f} samples/s"] if rate else []
        left = self.seconds / max(1, self.step - self.first) * (self.steps - self.step)
        shown += [f"{left:.0f} s left"] if self.step < self.steps else [f"{self.seconds:.0f} s"]
        return "  ".join([*shown, *(f"test {k} {v:.4g}" for k, v in self.test.items())])


Listener = Callable[[TrainingProgress], bool | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run is kept and watched.

    folder: where journal and checkpoints go (None: nowhere). resume: go on from the newest good checkpoint there, or begin where there is none.
    save_every, test_every: in steps; keep: how many checkpoints stay. monitor: the test's value that says which checkpoint is the best (kept in
    `best/`), larger being better unless its name has "loss" or "error"; patience: so many tests without a better one end the run.
    test_first: test before the first step, too.
    """

    folder: Path | None = None
    resume: bool = False
    save_every: int | None = None
    test_every: int | None = None
    keep: int = 3
    monitor: str | None = None
    patience: int | None = None
    test_first: bool = False

    def __post_init__(self) -> None:
        for name in ("save_every", "test_every", "patience"):
            value = getattr(self, name)
            if value is not None:
                count_of(value, name, 1)
        count_of(self.keep, "keep", 1)
        if self.patience is not None and self.test_every is None:
            raise OptionError("patience counts tests: say how often to test (test_every)")


@dataclass(slots=True)
class History:
    """What a run measured: the journal's entries, where it stands, why it ended ("steps", "patience", "listener", or a signal's name)."""

    entries: list[dict[str, Any]]
    step: int
    ended: str
    best: dict[str, Any] | None = None
    skipped: list[str] = field(default_factory=list)
    resumed_from: int | None = None

    def values(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of a measure: "loss", "test accuracy"."""
        return [(e["step"], e[name]) for e in self.entries if name in e]


@contextmanager
def _closing(task: Task) -> Iterator[None]:
    try:
        yield
    finally:
        task.close()


def run(task: Task, steps: int, plan: Plan, listeners: list[Listener] | None = None) -> History:
    """Make steps until there are `steps` in all.

    Raises: DivergedError for a loss that is no number; OptionError for a folder that holds a run already (without resume) or is in use;
        OutputError where a checkpoint cannot be written: the older ones stay good.
    """
    steps = count_of(steps, "steps", 0)
    with ExitStack() as stack:
        stack.enter_context(_closing(task))
        ranks: Ranks = getattr(task, "ranks", None) or Alone()
        kept = _Kept(task, plan, writes=ranks.rank == 0)
        if plan.folder is not None:
            if kept.writes:
                stack.enter_context(checkpoints.claimed(plan.folder))
                if plan.test_every is not None:
                    stack.enter_context(checkpoints.claimed(plan.folder / "best"))
            agreed(ranks, "claimed")  # the others read when the first one may write
            kept.open()
            stack.callback(kept.close)
        _check_alike(ranks, task)
        stop = stack.enter_context(StopSignals())

        def asked(wish: bool) -> str:
            """Why to stop, on any rank: a signal, or a listener's wish."""
            return next(filter(None, agreed(ranks, stop.asked or ("listener" if wish else ""))), "")

        return _steps(task, steps, plan, kept, asked, listeners or [])


def _check_alike(ranks: Ranks, task: Task) -> None:
    """Raises: OptionError where ranks stand at different steps: they read different folders."""
    at = agreed(ranks, task.step)
    if len(set(at)) > 1:
        raise OptionError(f"the ranks stand at the steps {at}: all of them need the same folder, with the same checkpoints")


def _steps(task: Task, steps: int, plan: Plan, kept: _Kept, asked: Callable[[bool], str], listeners: list[Listener]) -> History:
    first, before = task.step, max((e.get("seconds", 0.0) for e in kept.entries), default=0.0)
    began = last = time.perf_counter()
    if plan.test_first and not task.step and steps:
        kept.add({"step": 0, **{f"test {name}": value for name, value in task.evaluate().items()}, "seconds": 0.0})
    ended = "steps" if task.step >= steps or not kept.finished else kept.finished
    while task.step < steps and not kept.finished:
        values = task.advance()
        _check(task, values, kept)
        now = time.perf_counter()
        rate = values.pop("samples", 0.0) / max(now - last, 1e-9)
        last = now
        entry: dict[str, Any] = {"step": task.step, **values, "samples_per_second": round(rate, 2)}
        due = plan.test_every is not None and (task.step % plan.test_every == 0 or task.step == steps)
        test = task.evaluate() if due else {}
        entry |= {f"test {name}": value for name, value in test.items()}
        entry["seconds"] = round(before + time.perf_counter() - began, 4)
        kept.add(entry)
        last = time.perf_counter() if test else last
        patience_over = kept.judge(test) if test else False
        progress = TrainingProgress(task.step, steps, time.perf_counter() - began, entry, test, first)
        wishes = [listener(progress) for listener in listeners]
        stopped = asked(any(wish is True for wish in wishes))
        if patience_over:
            ended = kept.finished = "patience"
        elif stopped:
            ended = stopped
        else:
            if plan.save_every is not None and task.step % plan.save_every == 0:
                kept.save()
            continue
        break
    kept.save()
    return History(kept.entries, task.step, ended, kept.best, kept.skipped, kept.resumed_from)


def _check(task: Task, values: Mapping[str, float], kept: _Kept) -> None:
    if not math.isfinite(values.get("loss", 0.0)):
        raise DivergedError(f"the loss is {values['loss']} at step {task.step}{kept.advice()}")


class _Kept:
    """What a run keeps: journal, checkpoints, the best so far. Of several ranks the first one writes, all know."""

    def __init__(self, task: Task, plan: Plan, writes: bool = True) -> None:
        self.task, self.plan, self.writes = task, plan, writes
        self.entries: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.since, self.finished, self.saved = 0, "", -1
        self.skipped: list[str] = []
        self.resumed_from: int | None = None
        self._journal: Journal | None = None

    def open(self) -> None:
        """Read what the folder holds, and open the journal."""
        folder = self.plan.folder
        assert folder is not None
        there = checkpoints.steps_in(folder)
        if there and not self.plan.resume:
            raise OptionError(
                f"{folder}: holds a run already, at step {max(there)}: go on with resume=True (--resume), or name another folder"
            )
        if there:
            found = checkpoints.load(folder, **self.task.parts())
            own = found.parts.get("run", {})
            self.task.step = self.saved = self.resumed_from = found.step
            self.best, self.since, self.finished = own.get("best"), own.get("since", 0), own.get("finished", "")
            self.skipped = found.skipped
        if self.writes:
            self._journal = Journal(folder, self.task.step)
            self.entries = self._journal.entries

    def close(self) -> None:
        if self._journal is not None:
            with self._advised():
                self._journal.close()

    def add(self, entry: dict[str, Any]) -> None:
        if self._journal is not None:
            with self._advised():
                self._journal.add(entry)
        else:
            self.entries.append(entry)

    def save(self) -> None:
        """A checkpoint of this step, unless there is one."""
        if self.writes and self.plan.folder is not None and self.saved != self.task.step:
            own = {"best": self.best, "since": self.since, "finished": self.finished}
            with self._advised():
                checkpoints.save(self.plan.folder, step=self.task.step, keep=self.plan.keep, run=own, **self.task.parts())
            self.saved = self.task.step

    def judge(self, test: Mapping[str, float]) -> bool:
        """Keep what is the best by a test; True where patience is over. Raises: OptionError for a measure that the test has not."""
        name = self.plan.monitor or next(iter(test))
        if name not in test:
            raise OptionError(f"monitor: the test measures {', '.join(test)}, not {name!r}")
        low = "loss" in name or "error" in name
        value, held = test[name], None if self.best is None else self.best["value"]
        if held is None or (value < held if low else value > held):
            self.best, self.since = {"name": name, "value": value, "step": self.task.step}, 0
            if self.writes and self.plan.folder is not None:
                best = {"best": self.best}
                with self._advised():
                    checkpoints.save(self.plan.folder / "best", step=self.task.step, keep=1, run=best, **self.task.parts())
        else:
            self.since += 1
        return self.plan.patience is not None and self.since >= self.plan.patience

    @contextmanager
    def _advised(self) -> Iterator[None]:
        """What cannot be written ends the run; the error says from where it may go on."""
        try:
            yield
        except OutputError as error:
            advised = OutputError(f"{error}{self.advice()}")
            advised.errno = error.errno
            raise advised from error

    def advice(self) -> str:
        if self.plan.folder is None or self.saved < 0:
            return ""
        return f" (the checkpoint of step {self.saved} in {self.plan.folder} is good)"


def lines(title: str = "step") -> Listener:
    """A listener that prints about ten lines."""
    show = progress_lines(title)

    def step(now: TrainingProgress) -> None:
        show(now.step, now.steps, now.text)

    return step
