"""Small worlds, whole: every geometry of one axis up to some sizes, with channel counts that reach each strategy of an engine.

What is drawn at random leaves gaps; here there is none. The truth of all geometries with the same sizes comes at once: along one
axis a geometry is the set of triples (p, q, k) in which output position p reads input position q through tap k,

    T[p, q, k] = 1 where p*stride - lo + k*dilation = q

and each contraction of the same operands is a product of T, of all geometries stacked, with one matrix:

    conv              y[p, (n, o)] = T[p, (q, k)]  sum_i x[n, i, q] w[o, i, k]
    conv_transpose    x[q, (n, i)] = T[q, (p, k)]  sum_o y[n, o, p] w[o, i, k]
    conv_weight_grad  w[k, (o, i)] = T[k, (p, q)]  sum_n y[n, o, p] x[n, i, q]

in integers, none of them through BLAS. So a truth costs microseconds, and what remains are the engine's own calls.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np

from preimage.audit.axes import Axis
from preimage.audit.case import Case
from preimage.audit.checks.base import compare
from preimage.audit.checks.exact import Exact
from preimage.audit.coverage import contexts, decisions_of
from preimage.audit.data import lay_out
from preimage.audit.draft import Draft
from preimage.audit.findings import Failure, Report, SubjectReport, Trial
from preimage.audit.oracle import Array, operands
from preimage.audit.runner import fresh_reports, record
from preimage.audit.subjects import make as make_subject
from preimage.audit.subjects.base import REFUSALS, Subject
from preimage.audit.workers import one_thread, single_threaded_children
from preimage.errors import EngineError

__all__ = ["SETTINGS", "WHOLE", "Setting", "World", "axes_of_world", "exhaust", "truths"]

_CONTRACTIONS = ("conv", "conv_transpose", "conv_weight_grad")
BATCH = 2


@dataclass(frozen=True)
class World:
    """All sizes 1..size, kernels 1..kernel, strides 1..stride, dilations 1..dilation, paddings 0..padding at each end."""

    size: int = 8
    kernel: int = 4
    stride: int = 3
    dilation: int = 4
    padding: int = 4


@dataclass(frozen=True)
class Setting:
    """Channels, memory order and settings under which a world is gone through; each reaches other strategies of jit."""

    name: str
    groups: int
    large: int
    small: int
    channels_last: bool = False
    under: tuple[str, ...] = ()


WHOLE = World()
_LARGE = ("schedules:0",)
SETTINGS = (
    Setting("one channel", 1, 1, 1),
    Setting("few channels", 1, 3, 2),
    Setting("few channels, channels-last", 1, 2, 3, True),
    Setting("blocks of channels", 1, 8, 17),
    Setting("blocks of channels, channels-last", 1, 17, 16, True),
    Setting("groups", 2, 8, 9),
    Setting("depthwise", 5, 1, 1),
    Setting("depthwise, channels-last", 16, 1, 1, True),
    Setting("depthwise with a multiplier, channels-last", 4, 1, 2, True),
    Setting("few channels, as large work", 1, 3, 2, False, _LARGE),
    Setting("blocks of channels, as large work", 1, 9, 16, True, _LARGE),
    Setting("depthwise, as large work", 5, 1, 1, False, _LARGE),
    Setting("depthwise, channels-last, as large work", 16, 1, 1, True, _LARGE),
)


def axes_of_world(world: World, large: int, kernel: int) -> Iterator[Axis]:
    """Every axis of a world with that large size and kernel: those of convolutions, and the smaller ones of transposes."""
    for stride in range(1, world.stride + 1):
        for dilation in range(1, world.dilation + 1):
            for lo in range(world.padding + 1):
                for hi in range(world.padding + 1):
                    left = large + lo + hi - ((kernel - 1) * dilation + 1)
                    for small in range(left // stride + 1, 0, -1):
                        remainder = left - (small - 1) * stride
                        if remainder >= max(stride, dilation):
                            break
                        yield Axis(small, kernel, stride, lo, hi, dilation, remainder)


def truths(axes: Sequence[Axis], setting: Setting, x: Array, w: Array, y: Array) -> dict[str, Array]:
    """The three results of every axis (all of the same sizes and kernel), stacked: [axis, *shape of the result]."""
    n, m, taps = x.shape[2], y.shape[2], w.shape[2]
    p, q, k = np.arange(m)[:, None, None], np.arange(n)[None, :, None], np.arange(taps)[None, None, :]
    reads = np.stack([p * a.stride - a.lo + k * a.dilation == q for a in axes]).astype(np.int64)  # [axis, p, q, k]
    g, count = setting.groups, len(axes)
    xs, ys = x.reshape(len(x), g, -1, n), y.reshape(len(y), g, -1, m)
    ws = w.reshape(g, setting.small, setting.large, taps)
    through = np.einsum("ngiq,goik->qkngo", xs, ws).reshape(n * taps, -1)
    back = np.einsum("ngop,goik->pkngi", ys, ws).reshape(m * taps, -1)
    both = np.einsum("ngop,ngiq->pqgoi", ys, xs).reshape(m * n, -1)
    conv = (reads.reshape(count, m, -1) @ through).reshape(count, m, len(x), -1)
    transpose = (reads.transpose(0, 2, 1, 3).reshape(count, n, -1) @ back).reshape(count, n, len(x), -1)
    grad = (reads.transpose(0, 3, 1, 2).reshape(count, taps, -1) @ both).reshape(count, taps, *w.shape[:2])
    return {
        "conv": conv.transpose(0, 2, 3, 1),
        "conv_transpose": transpose.transpose(0, 2, 3, 1),
        "conv_weight_grad": grad.transpose(0, 2, 3, 1),
    }


def _case(axis: Axis, setting: Setting) -> Case:
    return Draft(BATCH, setting.groups, setting.large, setting.small, [axis], forward=False).case(setting.name)


def _group(
    subject: Subject, report: SubjectReport, axes: Sequence[Axis], setting: Setting, shrink_seconds: float, known: set[Any]
) -> None:
    """All axes of the same sizes, on one subject."""
    first = _case(axes[0], setting)
    rng = np.random.default_rng(first.macs)
    x, w, y = (rng.integers(-4, 5, shape) for shape in (first.x_shape, first.w_shape, first.y_shape))
    wanted = {name: found.astype(np.float32) for name, found in truths(axes, setting, x, w, y).items()}
    layout = "channels_last" if setting.channels_last and subject.any_strides else "contiguous"
    given = {name: lay_out(a.astype(np.float32), layout) for name, a in zip("xwy", (x, w, y), strict=True)}
    given["w"] = np.ascontiguousarray(given["w"])
    for a in given.values():
        a.flags.writeable = False
    for number, axis in enumerate(axes):
        case = _case(axis, setting)
        report.tally.cases += 1
        with decisions_of(subject, report.tally):
            for result in _CONTRACTIONS:
                why = subject.refuses(case, result, "float32")
                if why is not None:
                    report.tally.refused[f"{result}: {why}"] += 1
                    continue
                failure = _attempt(subject, case, result, given, wanted[result][number])
                report.tally.runs["exhaustive"] += 1
                if failure is not None:
                    report.tally.failed["exhaustive"] += 1
                    trial = Trial("exact", result, "float32", layout, extra=(24, setting.under))
                    record(report, Exact(), subject, trial, case, first.macs, failure, shrink_seconds, known)


def _attempt(subject: Subject, case: Case, result: str, given: dict[str, Array], want: Array) -> Failure | None:
    try:
        got = subject.run(case, result, *operands(result, given["x"], given["w"], given["y"]))
    except REFUSALS:
        return None
    except Exception as error:
        return Failure("crash", f"raised {type(error).__name__}: {str(error).strip()[:300]}")
    if got.shape != want.shape:
        return Failure("wrong value", f"shape {got.shape}, wanted {want.shape}", got=got)
    return compare(got, want, result)


def _part(
    specs: Sequence[Any], world: World, setting: Setting, large: int, kernel: int, shrink_seconds: float
) -> tuple[int, dict[str, SubjectReport]]:
    """One large size and one kernel of a world: how many geometries, and what was found."""
    one_thread()
    subjects = [make_subject(s) for s in specs]
    reports = {s.name: SubjectReport(s.name) for s in subjects}
    groups: dict[int, list[Axis]] = defaultdict(list)
    for axis in axes_of_world(world, large, kernel):
        groups[axis.small].append(axis)
    known: set[Any] = set()
    for subject in subjects:
        if any(not subject.variants(text.partition(":")[0]) for text in setting.under):
            continue  # it has no such setting: this would be what it computed before
        with contexts(subject, setting.under):
            for axes in groups.values():
                _group(subject, reports[subject.name], axes, setting, shrink_seconds, known)
    return sum(map(len, groups.values())), reports


def exhaust(
    subjects: Sequence[Any],
    world: World = WHOLE,
    settings: Sequence[Setting] = SETTINGS,
    *,
    jobs: int = 2,
    shrink_seconds: float = 5.0,
    progress: Callable[[int, int, int], None] | None = None,
) -> Report:
    """Every geometry of a world under every setting, on the three contractions of each subject.

    jobs: processes; 0: in this one. progress(done, total, findings) counts pairs of a size and a kernel.

    Raises: EngineError where a process dies; the message names what it was at.
    """
    start = time.monotonic()
    made = [make_subject(s) for s in subjects]
    reports = fresh_reports(made)
    specs = [s.spec or s for s in made if reports[s.name].absent is None]
    parts = [(setting, n, k) for setting in settings for n in range(1, world.size + 1) for k in range(1, world.kernel + 1)]
    sizes: Counter[str] = Counter()
    interrupted = False
    try:
        for done, (setting, count, found) in enumerate(_results(specs, world, parts, jobs, shrink_seconds), 1):
            sizes[setting.name] += count
            for name, report in found.items():
                reports[name].merge(report)
            if progress is not None:
                progress(done, len(parts), sum(len(r.findings) for r in reports.values()))
    except KeyboardInterrupt:
        interrupted = True
    return Report(
        list(reports.values()), sum(sizes.values()), 0, ("exhaustive",), time.monotonic() - start, interrupted=interrupted,
        left_out=[], worlds=dict(sizes),
    )  # fmt: skip


def _results(
    specs: Sequence[Any], world: World, parts: Sequence[tuple[Setting, int, int]], jobs: int, shrink_seconds: float
) -> Iterator[tuple[Setting, int, dict[str, SubjectReport]]]:
    if not jobs:
        for setting, n, k in parts:
            yield setting, *_part(specs, world, setting, n, k, shrink_seconds)
        return
    with single_threaded_children(), ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(_part, specs, world, *part, shrink_seconds): part for part in parts}
        try:
            for future in as_completed(waiting):
                yield waiting[future][0], *future.result()
        except BrokenProcessPool as error:
            left = [f"{s.name}, size {n}, kernel {k}" for f, (s, n, k) in waiting.items() if not f.done() or f.exception()]
            raise EngineError(f"a process of the audit died; what was not finished by then: {'; '.join(left[:4])}") from error
        finally:
            for future in waiting:
                future.cancel()
