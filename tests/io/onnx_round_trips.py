"""Every model of a list read, written as ONNX, and read back: the bits of all weights, our own answers, and onnxruntime's.

python tests/io/onnx_round_trips.py [benchmarks/models.toml] [NAME ...]      # a line for each model; 1 is returned if one falls short
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from preimage import PreimageError, no_grad
from preimage.autograd import array_of
from preimage.bench.models.answers import difference
from preimage.bench.models.listing import listed_subjects
from preimage.bench.models.subjects import Prepared, Subject, prepare
from preimage.io.files import load_model
from preimage.io.graph import Graph
from preimage.io.onnx import export

#: Answers may be so far apart, in parts of an output's range.
TOLERANCE = 1e-3


def stored(graph: Graph) -> dict[str, bytes]:
    """The bytes of all weights and statistics by name, those of graphs inside nodes too."""
    own = {name: p.data.tobytes() for name, p in graph.weights.items()} | {k: v.tobytes() for k, v in graph.state.items()}
    return own | {f"{key}.{name}": value for key, inner in graph.graphs.items() for name, value in stored(inner).items()}


def lost(before: Graph, after: Graph) -> list[str]:
    """Weights of the first graph that the second has not with the same bits."""
    kept = stored(after) | {k: v.tobytes() for k, v in after.constants.items()}
    changed = {
        key for node in before.nodes if node.op == "stored_statistics" for key in node.inputs
    }  # Caffe keeps sums, ONNX means
    return [name for name, value in stored(before).items() if name not in changed and kept.get(name) != value]


def answers(graph: Graph, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    with no_grad():
        found = graph.run({item.name: feeds[item.name] for item in graph.inputs})
    return {key: np.asarray(array_of(value)) for key, value in found.items()}


def round_trip(model: Prepared, subject: Subject, folder: Path) -> tuple[bool, str]:
    """Whether nothing is lost, and what was found."""
    shapes = {name: each["shape"] for name, each in subject.inputs.items() if "shape" in each}
    given = {"input_shapes": shapes} if model.format == "caffe" else {}
    graph = load_model(model.path, model.weights, **given)
    path = folder / "written.onnx"
    export.save(graph, path)
    onnx.checker.check_model(str(path))
    again = load_model(path)
    if missing := lost(graph, again):
        return False, f"{len(missing)} weights are lost, {missing[0]!r} first"
    feeds = next(iter(model.feeds(subject)))
    wanted = answers(graph, feeds)
    ours = difference(list(answers(again, feeds).values()), list(wanted.values()))
    theirs, word = _onnxruntime(path, feeds, list(wanted))
    off = difference(list(wanted.values()), theirs) if theirs is not None else 0.0
    return max(ours, off) <= max(TOLERANCE, model.tolerance), (
        f"{len(stored(graph))} arrays with the same bits, answers {ours:.1e} apart, onnxruntime's {word or f'{off:.1e}'}"
    )


def _onnxruntime(path: Path, feeds: dict[str, Any], outputs: list[str]) -> tuple[list[np.ndarray] | None, str]:
    try:
        import onnxruntime as ort
    except ImportError:
        return None, "not asked"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    taken = {item.name for item in session.get_inputs()}
    return session.run(outputs, {key: value for key, value in feeds.items() if key in taken}), ""


def main(arguments: list[str]) -> int:
    listing, *names = arguments or ["benchmarks/models.toml"]
    subjects = listed_subjects(listing, names)
    good = 0
    for subject in subjects:
        with tempfile.TemporaryDirectory() as folder:
            try:
                fine, found = round_trip(prepare(subject, Path(folder)), subject, Path(folder))
            except PreimageError as error:
                fine, found = False, f"refused: {str(error)[:200]}"
            except Exception as error:  # of the checker, or of onnxruntime
                fine, found = False, f"{type(error).__name__}: {str(error)[:200]}"
        good += fine
        print("ok  " if fine else "LOST", f"{subject.name}: {found}", flush=True)
    print(f"{good} of {len(subjects)} models go to ONNX and back")
    return 0 if good == len(subjects) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
