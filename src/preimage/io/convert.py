"""Converting a model file to another format, and checking the result against the original on random input."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from preimage.autograd import array_of, no_grad
from preimage.errors import FileFormatError
from preimage.host import replacing
from preimage.io.content import kind_of_file
from preimage.io.files import graph_arrays, load_model, load_weights, model_writer
from preimage.io.graph import Graph
from preimage.io.inspection import random_inputs
from preimage.records import record

__all__ = ["TOLERANCE", "Verdict", "convert"]

#: The largest difference, in units of an output's range, with which a converted model counts as the same.
TOLERANCE = 1e-3


@record
class Verdict:
    """How a converted file compares with the original.

    largest_difference: over all outputs, in units of each output's range (0 for weights files: their bits are compared);
    infinite where one has NaN or an infinity in a place where the other has none, or another one. missing: layers of a Caffe net
    whose weights no file gave. problem: in words, what speaks against the result, or that nothing could be compared; "" if
    nothing does. written: whether the file was written.
    """

    source: str
    target: str
    what: str
    compared: int
    largest_difference: float
    same_bits: bool
    missing: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    problem: str = ""
    written: bool = True

    @property
    def ok(self) -> bool:
        """Whether the result says the same as the original."""
        return not self.problem and self.largest_difference <= TOLERANCE


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    overwrite: bool = True,
) -> Verdict:
    """Read `source`, write it in the format of `target`, read that back and compare both on random input (weights files: bit by bit).

    The file gets its name only if it passes; otherwise nothing is written, and what was there stays.

    Raises: FileFormatError where a format cannot say what the model does; OptionError where an input's size is open; OutputError
    where the target cannot be written, or is there and overwrite is False.
    """
    # an ONNX file is written with the open sizes that it has; a Caffe net may need the sizes to be read at all
    given = {} if kind_of_file(source) == "onnx" else dict(input_shapes or {})
    original = load_model(source, weights, input_shapes=given)
    ending = Path(target).suffix.lower()
    feeds = None if ending in (".safetensors", ".npz") else random_inputs(original, input_shapes, seed)
    write = model_writer(original, target)
    with replacing(target, overwrite=overwrite) as new:
        write(new.file)
        new.flush()
        if feeds is None:
            verdict = _compare_weights(source, target, original, load_weights(new.path))
        else:
            kind = kind_of_file(new.path)  # a description alone takes its weights where the original's are
            second = load_model(
                new.path, weights or source if kind == "prototxt" else None, input_shapes={} if kind == "onnx" else given
            )
            verdict = _compare_outputs(source, target, original, second, feeds)
        if not verdict.ok:
            new.cancel()
    return replace(
        verdict,
        missing=tuple(getattr(original, "missing", ())),
        unread=tuple(getattr(original, "unread", ())),
        written=verdict.ok,
    )


def _compare_weights(
    source: str | os.PathLike[str], target: str | os.PathLike[str], original: Graph, back: Mapping[str, np.ndarray]
) -> Verdict:
    stored = graph_arrays(original)
    if sorted(stored) != sorted(back):
        raise FileFormatError(f"{str(target)!r} holds other names than the model: {sorted(set(stored) ^ set(back))[:5]}")
    same = all(
        a.dtype == back[k].dtype and a.shape == back[k].shape and a.tobytes() == back[k].tobytes() for k, a in stored.items()
    )
    problem = "" if same else "the bits of the weights differ"
    return Verdict(str(source), str(target), "weights", len(stored), 0.0 if same else float("inf"), same, problem=problem)


def _compare_outputs(
    source: str | os.PathLike[str], target: str | os.PathLike[str], first: Graph, second: Graph, feeds: Mapping[str, np.ndarray]
) -> Verdict:
    with no_grad():
        before = first.run(feeds)
        after = second.run({item.name: feeds[name] for item, name in zip(second.inputs, feeds, strict=True)})
    worst, same, problems = 0.0, True, []
    for a_name, b_name in zip(first.outputs, second.outputs, strict=True):
        a, b = np.asarray(array_of(before[a_name])), np.asarray(array_of(after[b_name]))
        if a.shape != b.shape:
            raise FileFormatError(f"output {a_name!r} has shape {a.shape}, after converting {b.shape}")
        same &= a.dtype == b.dtype and a.tobytes() == b.tobytes()
        difference, problem = _difference(a, b)
        worst = max(worst, difference)
        if problem:
            problems.append(f"output {a_name!r}: {problem}")
    return Verdict(str(source), str(target), "outputs", len(first.outputs), worst, same, problem="; ".join(problems))


def _difference(a: np.ndarray, b: np.ndarray) -> tuple[float, str]:
    """The largest difference of the finite values in units of the original's range, and what else is wrong."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a)
    odd = ~finite & ~((np.isnan(a) & np.isnan(b)) | (a == b))  # NaN where NaN was, the same infinity where one was
    odd |= finite & ~np.isfinite(b)
    if odd.any():
        where = tuple(int(k) for k in np.argwhere(odd)[0])
        return float(
            "inf"
        ), f"{int(odd.sum())} of {a.size} values are NaN or infinite in one of the two alone, the first at {where}"
    if not finite.any():
        return 0.0, "the original gives no finite value to compare with; other input may do (--seed)" if a.size else ""
    kept, other = a[finite], b[finite]
    with np.errstate(over="ignore"):
        span = float(np.ptp(kept)) or float(np.abs(kept).max()) or 1.0
        return float(np.abs(kept - other).max()) / span, ""
