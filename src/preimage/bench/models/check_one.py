"""The process that tries one file: `python -m preimage.bench.models.check_one JOB.json`. What it knows it writes as it goes on, so that a crash
(ours or a peer's) loses nothing of it."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from preimage.bench.models.answers import difference
from preimage.bench.models.contest import TOLERANCE
from preimage.bench.models.side import CONTESTANTS
from preimage.bench.models.subjects import Prepared, Subject, prepare
from preimage.errors import PreimageError
from preimage.host import write_file

__all__ = ["main"]

#: What other libraries' readers raise is theirs; a crash of theirs ends this process, after our part was written down.
_Feeds = Mapping[str, np.ndarray]


class _Notes:
    """What is known so far, on the disk."""

    def __init__(self, place: str) -> None:
        self.place, self.known = place, dict[str, Any]()

    def write(self, **more: Any) -> None:
        self.known |= more
        write_file(self.place, json.dumps(self.known))


def main(job_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    _limit_memory(job["memory_bytes"])
    subject = Subject("", Path(job["path"]), weights=job["weights"] and Path(job["weights"]), inputs=job["inputs"])
    notes = _Notes(job["verdict"])
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = prepare(subject, Path(folder))
            notes.write(convolves=model.convolves)
            _check(model, subject, notes, job)
        except PreimageError as error:
            notes.write(message=str(error), missing=_missing(subject))
        except MemoryError as error:
            notes.write(message=f"MemoryError: {error}")


def _limit_memory(size: int) -> None:
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _check(model: Prepared, subject: Subject, notes: _Notes, job: Mapping[str, Any]) -> None:
    from preimage import config, no_grad
    from preimage.io.files import load_model
    from preimage.io.graph import optimise
    from preimage.io.limits import limits

    peer = "onnxruntime" if model.format == "onnx" else "opencv"
    settings = {
        "contestant": peer,
        "model": str(model.path),
        "weights": model.weights and str(model.weights),
        "outputs": list(model.outputs),
        "threads": 1,
    }
    with limits(memory_bytes=job["memory_bytes"] // 2, seconds=job["seconds"] / 2):
        graph = load_model(
            model.path, model.weights, open_sizes=model.format == "onnx", input_shapes=_caffe_shapes(model, subject)
        )
        notes.write(loads=True)
        problem: Exception | None = None
        refused = ""
        for feeds in model.feeds(subject):
            said = ", ".join("x".join(map(str, value.shape)) or "1" for value in feeds.values())
            wanted: list[np.ndarray] | None = None
            if not refused.startswith(("absent", "unreadable")):
                wanted, refused = _peer(settings, feeds)
            try:
                with no_grad(), config(threads=1):
                    given = {item.name: feeds[item.name] for item in graph.inputs}
                    first = graph.run(given)
                    again = optimise(graph).run(given)
            except PreimageError as error:
                problem = error
                if wanted is None:
                    continue  # other sizes may suit the model
                raise
            notes.write(runs=True, inputs=said)
            if wanted is None and refused and not refused.startswith("absent"):
                notes.write(message=f"{peer}: {refused}")
            if wanted is not None:
                off = max(difference([found[name] for name in model.outputs], wanted) for found in (first, again))
                notes.write(peer=peer, difference=off if np.isfinite(off) else 1e300, agrees=off <= TOLERANCE)
            return
        if problem is not None:
            raise problem


def _caffe_shapes(model: Prepared, subject: Subject) -> dict[str, Any] | None:
    if model.format == "onnx":
        return None
    return {name: each["shape"] for name, each in subject.inputs.items() if "shape" in each} or None


def _peer(job: Mapping[str, Any], feeds: _Feeds) -> tuple[list[np.ndarray] | None, str]:
    """A peer's answers, or why there are none."""
    try:
        load, _, _ = CONTESTANTS[job["contestant"]](dict(job), dict(feeds))
    except ImportError as error:
        return None, f"absent: {error}"
    try:
        call = load()
    except Exception as error:  # whatever its reader raises
        return None, f"unreadable: {str(error).splitlines()[0][:160]}"
    try:
        return [np.array(value) for value in call()], ""
    except Exception as error:  # sizes that do not suit it
        return None, str(error).splitlines()[0][:160]


def _missing(subject: Subject) -> list[str]:
    """The operators of an ONNX file that we have not; of a Caffe net the error names the layers."""
    try:
        import onnx

        from preimage.bench.models.subjects import operators
        from preimage.io.onnx import supported_ops

        proto = onnx.load(subject.path, load_external_data=False)
        local = {function.name for function in proto.functions}
        return sorted(operators(proto) - set(supported_ops()) - local)
    except Exception:  # it is no ONNX file, or a damaged one: the message says so
        return []


if __name__ == "__main__":
    main(sys.argv[1])
