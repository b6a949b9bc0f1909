"""Converting a model file to another format, and checking the result against the original on random input."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from preimage.autograd import array_of, no_grad
from preimage.errors import FileFormatError
from preimage.io.content import kind_of_file
from preimage.io.files import graph_arrays, load_model, load_weights, save_model
from preimage.io.graph import Graph
from preimage.io.inspection import random_inputs

__all__ = ["Verdict", "convert"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a converted file compares with the original.

    largest_difference: over all outputs, in units of each output's range (0 for weights files: their bits are compared).
    missing: layers of a Caffe net whose weights no file gave.
    """

    source: str
    target: str
    what: str
    compared: int
    largest_difference: float
    same_bits: bool
    missing: tuple[str, ...] = ()


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> Verdict:
    """Read `source`, write `target`, read that back and compare both on random input (weights files: bit by bit).

    Raises: FileFormatError where a format cannot say what the model does; OptionError where an input's size is open.
    """
    # an ONNX file is written with the open sizes that it has; a Caffe net may need the sizes to be read at all
    given = {} if kind_of_file(source) == "onnx" else dict(input_shapes or {})
    original = load_model(source, weights, input_shapes=given)
    ending = Path(target).suffix.lower()
    feeds = None if ending in (".safetensors", ".npz") else random_inputs(original, input_shapes, seed)
    save_model(original, target)
    if feeds is None:
        verdict = _compare_weights(source, target, original)
    else:
        kind = kind_of_file(target)  # a description alone takes its weights where the original's are
        second = load_model(
            target, weights or source if kind == "prototxt" else None, input_shapes={} if kind == "onnx" else given
        )
        verdict = _compare_outputs(source, target, original, second, feeds)
    return replace(verdict, missing=tuple(getattr(original, "missing", ())))


def _compare_weights(source: str | os.PathLike[str], target: str | os.PathLike[str], original: Graph) -> Verdict:
    stored, back = graph_arrays(original), load_weights(target)
    if sorted(stored) != sorted(back):
        raise FileFormatError(f"{str(target)!r} holds other names than the model: {sorted(set(stored) ^ set(back))[:5]}")
    same = all(
        a.dtype == back[k].dtype and a.shape == back[k].shape and a.tobytes() == back[k].tobytes() for k, a in stored.items()
    )
    return Verdict(str(source), str(target), "weights", len(stored), 0.0 if same else float("inf"), same)


def _compare_outputs(
    source: str | os.PathLike[str], target: str | os.PathLike[str], first: Graph, second: Graph, feeds: Mapping[str, np.ndarray]
) -> Verdict:
    with no_grad():
        before = first.run(feeds)
        after = second.run({item.name: feeds[name] for item, name in zip(second.inputs, feeds, strict=True)})
    worst, same = 0.0, True
    for a_name, b_name in zip(first.outputs, second.outputs, strict=True):
        a, b = np.asarray(array_of(before[a_name])), np.asarray(array_of(after[b_name]))
        if a.shape != b.shape:
            raise FileFormatError(f"output {a_name!r} has shape {a.shape}, after converting {b.shape}")
        same &= a.tobytes() == b.tobytes()
        if a.size:
            span = float(np.ptp(a.astype(np.float64))) or float(np.abs(a).max()) or 1.0
            worst = max(worst, float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) / span)
    return Verdict(str(source), str(target), "outputs", len(first.outputs), worst, same)
