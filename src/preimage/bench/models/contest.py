"""The protocol for whole models: who runs, in which order, how often.

For each model and number of threads

1. every contestant starts a process of its own, one after the other; loading and the first run are timed there, and the answers compared
   with onnxruntime's (or, where that cannot run the model, the next peer's). Wrong answers, a crash or too long a wait are the row's
   error, and it is not timed. Ours has run once before, so that its kernels lie in the disk cache, as at a user's second start;
2. rounds follow. In a round every contestant has one burst: one or two runs that are not timed, then runs until `burst_ns` are over, of
   which the median counts. The order turns with the rounds. With several threads a burst begins after `settle_ns` of sleep: workers of
   the one before spin for a while (onnxruntime's for 40 ms, measured) on the CPUs that the next one wants.

Ratios are taken round by round, so that a machine that slows down for a while slows down both sides. On a machine with other work, `cpu`
compares the CPU time of one thread instead.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import numpy as np

import preimage
from preimage.bench.machine import describe
from preimage.bench.models.answers import difference
from preimage.bench.models.results import OURS, OURS_FAST, REFERENCE, ModelRow, ModelRun
from preimage.bench.models.subjects import Prepared, Subject, prepare
from preimage.errors import OptionError, PreimageError

__all__ = ["CONTESTANTS", "ModelProtocol", "environment", "present", "run_models"]

#: The modules that each contestant needs.
CONTESTANTS = {
    OURS: ("preimage",),
    OURS_FAST: ("preimage",),
    REFERENCE: ("onnxruntime",),
    "openvino": ("openvino",),
    "torch": ("torch", "onnx2torch"),
    "torch_compiled": ("torch", "onnx2torch"),
    "opencv": ("cv2",),
}
FORMATS = {"onnx": tuple(CONTESTANTS), "caffe": (OURS, OURS_FAST, "opencv")}
SIDE = Path(__file__).with_name("side.py")


@dataclass(frozen=True, slots=True)
class ModelProtocol:
    """How often and how long; times in ns. cpu: compare the CPU time of one thread. start_seconds: how long loading and two runs may take."""

    rounds: int = 7
    burst_ns: int = 30_000_000
    settle_ns: int = 60_000_000
    start_seconds: float = 180.0
    cpu: bool = False


class Side:
    """A contestant in a process of its own (side.py), with a job that lies in a folder."""

    def __init__(self, python: str, job: Mapping[str, Any], folder: Path, seconds: float) -> None:
        place = folder / f"job_{job['contestant']}.json"
        place.write_text(json.dumps(job))
        self.errors = (folder / f"said_{job['contestant']}.txt").open("w+", errors="replace")
        command = [python, str(SIDE), str(place)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment()
        )
        self._lines: Queue[str] = Queue()
        Thread(target=self._listen, daemon=True).start()
        self.seconds = seconds
        try:
            self.ready = self._read()
        except PreimageError:
            self.close()
            raise

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=self.seconds)
        except Empty:
            raise PreimageError(f"nothing came in {self.seconds:.0f} s") from None
        if not line:
            self.process.wait()
            self.errors.seek(0)
            said = [each.strip() for each in self.errors.read().splitlines() if each.strip()]
            raise PreimageError(said[-1][:200] if said else f"the process ended with status {self.process.returncode}")
        return dict(json.loads(line))

    def burst(self, wanted_ns: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        with suppress(OSError):  # it has ended; what it said last is the error
            print(wanted_ns, file=self.process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream is not None:
                stream.close()


def environment() -> dict[str, str]:
    """This process's environment; the side finds this very package."""
    import os

    source = str(Path(preimage.__file__).parents[1])
    others = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{others}" if others else source}


def present(names: Sequence[str], pythons: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The contestants that are here, ours first, and why the others are not. Raises: OptionError for a name that is none."""
    here, absent = [OURS], {}
    for name in names:
        if name not in CONTESTANTS:
            raise OptionError(f"no contestant is called {name!r}; there are {', '.join(CONTESTANTS)}")
        missing = [m for m in CONTESTANTS[name] if name not in pythons and find_spec(m) is None]
        if missing:
            absent[name] = f"not installed: {', '.join(missing)}"
        elif name not in here:
            here.append(name)
    return here, absent


def run_models(
    subjects: Sequence[Subject],
    names: Sequence[str] = (REFERENCE, "openvino", "opencv"),
    *,
    threads: Sequence[int] = (1,),
    protocol: ModelProtocol | None = None,
    pythons: Mapping[str, str] | None = None,
    progress: Callable[[list[ModelRow], int, int], None] | None = None,
) -> ModelRun:
    """Measure every subject with every number of threads. pythons: interpreters of contestants that are not installed in this one.

    Raises: OptionError for a name that is no contestant, and for CPU times with several threads (waiting workers spin).
    """
    protocol, pythons = protocol or ModelProtocol(), pythons or {}
    if protocol.cpu and max(threads) > 1:
        raise OptionError("CPU times are those of one thread: with several, waiting workers spin, and that counts")
    begin = time.perf_counter()
    here, absent = present(names, pythons)
    run = ModelRun(describe(), asdict(protocol), absent=absent)
    for number, subject in enumerate(subjects):
        rows: list[ModelRow] = []
        with tempfile.TemporaryDirectory() as folder:
            for count in threads:
                rows += _measure(subject, Path(folder), here, count, protocol, pythons)
        run.rows += rows
        if progress is not None:
            progress(rows, number + 1, len(subjects))
    run.seconds = time.perf_counter() - begin
    return run


def _measure(
    subject: Subject, folder: Path, here: Sequence[str], threads: int, protocol: ModelProtocol, pythons: Mapping[str, str]
) -> list[ModelRow]:  # fmt: skip
    try:
        model = prepare(subject, folder)
        feeds = next(model.feeds(subject))
    except PreimageError as error:
        return [ModelRow(subject.name, subject.kind, "", threads, OURS, error=str(error))]
    np.savez(folder / "inputs.npz", **{str(k): value for k, value in enumerate(feeds.values())})  # type: ignore[arg-type]
    said = ", ".join("x".join(map(str, value.shape)) or "1" for value in feeds.values())
    taking_part = [name for name in here if name in FORMATS[model.format]]
    rows = {name: ModelRow(subject.name, subject.kind, said, threads, name) for name in taking_part}
    sides: dict[str, Side] = {}
    try:
        for name in (OURS, OURS_FAST):  # another number of threads has kernels of its own
            if name in rows:
                _start(name, model, feeds, folder, threads, protocol, pythons, rows[name], {})
        for name in taking_part:
            _start(name, model, feeds, folder, threads, protocol, pythons, rows[name], sides)
        _compare(rows, sides, folder, model.tolerance)
        _rounds(rows, sides, threads, protocol)
    finally:
        for side in sides.values():
            side.close()
    return list(rows.values())


def _start(
    name: str, model: Prepared, feeds: Mapping[str, np.ndarray], folder: Path, threads: int, protocol: ModelProtocol,
    pythons: Mapping[str, str], row: ModelRow, sides: dict[str, Side],
) -> None:  # fmt: skip
    """Start a contestant, and note how that went."""
    job = {
        "contestant": name, "model": str(model.path), "weights": None if model.weights is None else str(model.weights),
        "arrays": str(folder / "inputs.npz"), "names": list(feeds), "outputs": list(model.outputs), "threads": threads,
        "answers": str(folder / f"answers_{name}.npz"),
    }  # fmt: skip
    try:
        side = Side(pythons.get(name, sys.executable), job, folder, protocol.start_seconds)
    except PreimageError as error:
        row.error = str(error)
        return
    for key, value in side.ready.items():
        setattr(row, key, value)
    if name in sides or row.error:
        side.close()
        return
    sides[name] = side


def _compare(rows: Mapping[str, ModelRow], sides: dict[str, Side], folder: Path, tolerance: float) -> None:
    """Answers beside the reference's. A peer whose answers differ takes no part; ours is named an error."""
    others = [name for name in rows if name in sides and name not in (OURS, OURS_FAST)]
    reference = next(iter(others), OURS if len(sides) > 1 and OURS in sides else None)
    answers = {name: _answers(folder, name) for name in sides}
    for name, side in list(sides.items()):
        row = rows[name]
        if reference is not None:
            row.difference = difference(answers[name], answers[reference])
            if row.difference > tolerance:
                row.error = f"answers differ from {reference}'s by {row.difference:.2g} of their range"
                side.close()
                del sides[name]


def _answers(folder: Path, name: str) -> list[np.ndarray]:
    with np.load(folder / f"answers_{name}.npz", allow_pickle=False) as found:
        return [found[key] for key in found.files]


def _rounds(rows: Mapping[str, ModelRow], sides: dict[str, Side], threads: int, protocol: ModelProtocol) -> None:
    for turn in range(protocol.rounds):
        order = list(sides)
        for name in order[turn % len(order) :] + order[: turn % len(order)] if order else []:
            if threads > 1:
                time.sleep(protocol.settle_ns / 1e9)
            try:
                found = sides[name].burst(protocol.burst_ns)
            except PreimageError as error:
                rows[name].error = f"stopped: {error}"
                rows[name].time_ns, rows[name].cpu_ns = [], []
                sides.pop(name).close()
                continue
            rows[name].time_ns.append(found["ns"])
            rows[name].cpu_ns.append(found["cpu_ns"])
