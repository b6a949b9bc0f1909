"""The process that tries one file: `python -m preimage.bench.models.check_one JOB.json`. What it knows it writes as it goes on, so that a crash
(ours or a peer's) loses nothing of it."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from preimage.bench.models.answers import difference
from preimage.bench.models.feeds import RANGES, with_range
from preimage.bench.models.side import CONTESTANTS
from preimage.bench.models.subjects import Prepared, Subject, prepare
from preimage.errors import PreimageError
from preimage.host import write_file

if TYPE_CHECKING:
    from preimage.io.graph import Graph

__all__ = ["main"]

_Feeds = Mapping[str, np.ndarray]
#: Inputs are moved by so much, in parts of their range, to see how steady a peer's answers are: those of nets of floats, and of quantised nets,
#: where few of such moves meet an edge between two integers, while rounding meets them at every step.
NUDGES = {False: 1e-6, True: 1e-5}
#: A difference of up to so many times what the peer's answers then move by says nothing.
MOST_OF_OWN = 4.0


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
    from preimage.io.files import load_model
    from preimage.io.limits import limits

    peer = "onnxruntime" if model.format == "onnx" else "opencv"
    asked = {
        "contestant": peer, "model": str(model.path), "weights": model.weights and str(model.weights), "outputs": list(model.outputs), "threads": 1,
    }  # fmt: skip
    with limits(memory_bytes=job["memory_bytes"] // 2, seconds=job["seconds"] / 2):
        graph = load_model(
            model.path, model.weights, open_sizes=model.format == "onnx", input_shapes=_caffe_shapes(model, subject)
        )
        notes.write(loads=True)
        feeds, refused = _suitable(model, subject, graph, asked)
        for low, high in RANGES:
            given = {name: with_range(subject.inputs, model.inputs, low, high).get(name, {}) for name in feeds}
            given = {
                name: {**said, "shape": list(feeds[name].shape)} if "value" not in said else said for name, said in given.items()
            }
            feeds = next(replace(model, features=()).feeds(replace(subject, inputs=given)))
            wanted, refused = (None, refused) if refused else _peer(asked, feeds)
            found = _ours(graph, feeds)
            notes.write(runs=True, inputs=", ".join("x".join(map(str, value.shape)) or "1" for value in feeds.values()))
            if wanted is None:
                notes.write(message="" if refused.startswith("absent") else f"{peer}: {refused}")
                return
            off = max(difference([answers[name] for name in model.outputs], wanted) for answers in found)
            if model.tolerance < off <= MOST_OF_OWN * (own := _unsteady(asked, feeds, wanted, NUDGES[model.quantised])):
                if "agrees" not in notes.known:
                    nudge = NUDGES[model.quantised]
                    notes.write(message=f"not to be compared: answers of {peer} move by {own:.1e} where inputs do by {nudge:.0e}")
                continue
            notes.write(peer=peer, difference=off if np.isfinite(off) else 1e300, agrees=off <= model.tolerance, message="")
            if all(_says_something(value) for value in wanted):
                return


def _suitable(model: Prepared, subject: Subject, graph: Graph, asked: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], str]:
    """Arrays of sizes that the model takes, by the peer's opinion or, where that cannot run it at all, by ours; and what the peer said."""
    refused, problem = "", None
    for feeds in model.feeds(subject):
        if not refused.startswith(("absent", "unreadable")):
            wanted, refused = _peer(asked, feeds)
            if wanted is not None:
                return feeds, ""
        try:
            _ours(graph, feeds)
        except PreimageError as error:
            problem = error
            continue
        if refused.startswith(("absent", "unreadable")):
            return feeds, refused
    raise problem or PreimageError(f"no sizes of the inputs were found that the model takes; the peer said: {refused}")


def _ours(graph: Graph, feeds: _Feeds) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our answers, of the graph as it was read and as it is rewritten."""
    from preimage import config, no_grad
    from preimage.io.graph import optimise

    with no_grad(), config(threads=1):
        given = {item.name: feeds[item.name] for item in graph.inputs}
        return graph.run(given), optimise(graph).run(given)


def _unsteady(asked: Mapping[str, Any], feeds: _Feeds, wanted: Sequence[np.ndarray], nudge: float) -> float:
    """How far a peer's answers move where inputs move by `nudge` of their range: ranks of equal scores, rounding that is fed back for many steps."""
    rng, moved = np.random.default_rng(0), dict(feeds)
    for name, value in feeds.items():
        if value.dtype.kind == "f" and value.size:
            step = nudge * (float(np.ptp(value)) or float(np.abs(value).max()))
            moved[name] = (value + step * rng.uniform(-1, 1, value.shape)).astype(value.dtype)
    answers, _ = _peer(asked, moved)
    return 0.0 if answers is None else difference(answers, wanted)


def _says_something(answer: np.ndarray) -> bool:
    """Whether an answer is more than next to nothing: near zero other libraries' activations have no digits to compare."""
    return answer.dtype.kind != "f" or not answer.size or float(np.nanmax(np.abs(answer))) >= 1e-4


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
