"""How far float32 results are off, as figures: rms and worst element in units of u sum |a||b|, u = 2^-24, beside other libraries.

    rows = preimage.audit.accuracy(["jit", "torch"])

Dense layers in all three contractions, matrix products and sums, on data of which one operand is positive (activations behind a relu)
and the other of both signs, or both are positive. The unit is what rounding every product once may lose; the truth is float64.
Every figure is of the layer where it is largest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from preimage.audit.case import Case
from preimage.audit.oracle import Truth, operands
from preimage.audit.subjects import Subject, make
from preimage.audit.subjects.base import REFUSALS, Array

__all__ = ["LAYERS", "PEERS", "Accuracy", "accuracy", "summary"]

#: Libraries that the figures stand beside, where they are installed.
PEERS = ("torch", "torch-channels-last", "onnxruntime", "jax")
ONE, BOTH = "one operand positive", "both positive"


def _layer(channels: tuple[int, int], size: int, kernel: int, stride: int = 1, batch: int = 2) -> Case:
    pad = (kernel - stride) // 2
    return Case.of_conv(batch, *channels, 1, (size, size), (kernel,) * 2, (stride,) * 2, ((pad, pad),) * 2, (1, 1))


#: The dense layers, by what they are called.
LAYERS = {
    "3x3, 64 to 64 at 56x56": _layer((64, 64), 56, 3),
    "3x3, 128 to 96 at 28x28": _layer((128, 96), 28, 3),
    "3x3, 256 to 128 at 14x14": _layer((256, 128), 14, 3),
    "1x1, 256 to 64 at 28x28": _layer((256, 64), 28, 1),
    "4x4 stride 2, 48 to 64 at 48x48": _layer((48, 64), 48, 4, 2),
}
PRODUCTS = {f"{m} x {k} x {n}": (m, k, n) for m, k, n in ((48, 1024, 40), (16, 8192, 16), (64, 100, 64))}
SUMS = {
    "a channel of (4, 32, 56, 56)": ((4, 32, 56, 56), (0, 2, 3)),
    "262,144 numbers": ((1, 1 << 18), (1,)),
    "rows of 1,000": ((64, 1000), (1,)),
}


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One figure: of a subject, what it computed, on which data and layer."""

    subject: str
    result: str
    data: str
    layer: str
    rms: float
    worst: float


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of every subject: `ask` computes it; `truth` and `unit` are arrays of its shape."""

    result: str
    data: str
    layer: str
    ask: Callable[[Subject], Array]
    truth: Array
    unit: Array


def accuracy(subjects: Sequence[Any], seed: int = 0) -> list[Accuracy]:
    """The figures of subjects (as `run` takes them), those that cannot run here or compute a result left out."""
    made = [s for s in (make(subject) for subject in subjects) if s.unavailable() is None]
    rows = []
    for question in _questions(seed):
        for subject in made:
            try:
                got = question.ask(subject)
            except (*REFUSALS, NotImplementedError):
                continue
            units = np.abs(got.astype(np.float64) - question.truth) / question.unit
            rms = float(np.sqrt(np.mean(np.square(units))))
            rows.append(Accuracy(subject.name, question.result, question.data, question.layer, rms, float(units.max())))
    return rows


def summary(rows: Sequence[Accuracy]) -> dict[str, dict[tuple[str, str], tuple[float, float]]]:
    """By subject, and by result and data: the largest rms of a layer and the worst element of all."""
    found: dict[str, dict[tuple[str, str], tuple[float, float]]] = {}
    for row in rows:
        own = found.setdefault(row.subject, {})
        rms, worst = own.get((row.result, row.data), (0.0, 0.0))
        own[row.result, row.data] = max(rms, row.rms), max(worst, row.worst)
    return found


def _questions(seed: int) -> Iterator[_Question]:
    rng = np.random.default_rng((seed, 0xACC))

    def signed(shape: tuple[int, ...]) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    def positive(shape: tuple[int, ...]) -> Array:
        return np.abs(signed(shape))

    for name, case in LAYERS.items():
        for data, result, x, w, y in (
            (ONE, "conv", positive, signed, positive),
            (ONE, "conv_transpose", positive, signed, positive),
            (ONE, "conv_weight_grad", positive, signed, signed),
            (BOTH, "conv_weight_grad", positive, signed, positive),
        ):
            yield _of_layer(case, name, result, data, x(case.x_shape), w(case.w_shape), y(case.y_shape))
    for name, (m, k, n) in PRODUCTS.items():
        yield _of_product(name, positive((m, k)), signed((k, n)))
    for name, (shape, axes) in SUMS.items():
        yield _of_sum(name, positive(shape), axes)


def _of_sum(name: str, x: Array, axes: tuple[int, ...]) -> _Question:
    exact = np.asarray(_wide(x).sum(axes))
    return _Question("sum", "positive", name, lambda subject: subject.total(x, axes), exact, 2.0**-24 * exact)


def _of_product(name: str, a: Array, b: Array) -> _Question:
    exact, size = _wide(a) @ _wide(b), _wide(np.abs(a)) @ _wide(np.abs(b))
    return _Question("product", ONE, name, lambda subject: subject.product(a, b), exact, 2.0**-24 * size)


def _of_layer(case: Case, name: str, result: str, data: str, x: Array, w: Array, y: Array) -> _Question:
    truth, size = (Truth(case, *(f(_wide(a)) for a in (x, w, y)))[result] for f in (np.asarray, np.abs))

    def ask(subject: Subject) -> Array:
        why = subject.refuses(case, result, "float32")
        if why is not None:
            raise REFUSALS[0](why)
        return subject.run(case, result, *operands(result, x, w, y))

    return _Question(result, data, name, ask, truth, 2.0**-24 * size)


def _wide(a: Array) -> Array:
    return a.astype(np.float64)
