"""Does a model file load, run and agree? Each is tried in a process of its own, with limits, so that no file can stop the others."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from preimage.bench.models.contest import environment
from preimage.bench.models.subjects import Subject, subject_of
from preimage.errors import OptionError, PreimageError

__all__ = ["ENDINGS", "Verdict", "check_files", "files_under", "share_in_order"]

#: Files that are tried; a caffemodel whose prototxt lies beside it is tried with that.
ENDINGS = (".onnx", ".prototxt", ".caffemodel")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one file.

    loads, runs: by us. agrees: with `peer`; None where no peer could run it (or nothing was there to compare). difference: in parts of an output's
    range. missing: operators or layers that we lack. convolves: it holds a convolution. inputs: the shapes that were fed.
    """

    name: str
    path: str
    kind: str = ""
    loads: bool = False
    runs: bool = False
    agrees: bool | None = None
    difference: float | None = None
    peer: str = ""
    convolves: bool = False
    inputs: str = ""
    missing: tuple[str, ...] = ()
    message: str = ""

    @property
    def in_order(self) -> bool:
        """It loads, runs, and differs from no peer."""
        return self.loads and self.runs and self.agrees is not False


def files_under(folder: Path) -> list[Subject]:
    """The model files under a folder, or the one that is named; a caffemodel goes with its prototxt. Raises: OptionError for none."""
    if folder.is_file():
        return [subject_of(folder)]
    if not folder.is_dir():
        raise OptionError(f"there is no file or folder {str(folder)!r}")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        raise OptionError(f"{str(folder)!r} holds no model file: {', '.join(ENDINGS)}")
    subjects = []
    for path in found:
        try:
            subjects.append(replace(subject_of(path), name=str(path.relative_to(folder))))
        except PreimageError:
            subjects.append(Subject(str(path.relative_to(folder)), path))
    taken = {subject.weights for subject in subjects}
    return [subject for subject in subjects if subject.path not in taken]


def check_files(
    subjects: Sequence[Subject],
    *,
    memory_bytes: int = 8 << 30,
    seconds: float = 180.0,
    progress: Callable[[Verdict, int, int], None] | None = None,
) -> list[Verdict]:
    """A verdict for every subject; each process may take so much memory and time."""
    found = []
    for number, subject in enumerate(subjects):
        verdict = _checked(subject, memory_bytes, seconds)
        found.append(verdict)
        if progress is not None:
            progress(verdict, number + 1, len(subjects))
    return found


def share_in_order(verdicts: Sequence[Verdict]) -> tuple[int, int]:
    """Of the files with convolutions: those that load, run and agree, and all."""
    convolving = [verdict for verdict in verdicts if verdict.convolves]
    return sum(verdict.in_order for verdict in convolving), len(convolving)


def _checked(subject: Subject, memory_bytes: int, seconds: float) -> Verdict:
    blank = Verdict(subject.name, str(subject.path), subject.kind)
    with tempfile.TemporaryDirectory() as folder:
        job, answer = Path(folder, "job.json"), Path(folder, "verdict.json")
        job.write_text(
            json.dumps(
                {
                    "path": str(subject.path), "weights": None if subject.weights is None else str(subject.weights),
                    "inputs": subject.inputs, "memory_bytes": memory_bytes, "seconds": seconds, "verdict": str(answer),
                }
            )
        )  # fmt: skip
        command = [sys.executable, "-m", "preimage.bench.models.check_one", str(job)]
        try:
            done = subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=seconds, env=environment(), check=False,
            )  # fmt: skip
            said = done.stderr.decode(errors="replace").strip().splitlines()
            status = f"the process ended with status {done.returncode}" + (f": {said[-1][:200]}" if said else "")
        except subprocess.TimeoutExpired:
            status = f"it took more than {seconds:.0f} s"
        if not answer.is_file():
            return replace(blank, message=status)
        data = json.loads(answer.read_text())
    data["missing"] = tuple(data.get("missing", ()))
    verdict = replace(blank, **data)
    return (
        verdict
        if verdict.message or verdict.agrees is not None or verdict.peer
        else replace(verdict, message=_why(status, verdict))
    )


def _why(status: str, verdict: Verdict) -> str:
    """What the process said as it ended, where the verdict was not finished."""
    return "" if verdict.runs and status.endswith("status 0") else status
