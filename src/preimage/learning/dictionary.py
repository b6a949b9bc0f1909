"""Convolutional dictionary learning: stencils and sparse activations that paint given pictures.

    minimise over z, d   1/2 sum over pictures |x - conv_transpose(z, d)|^2  +  sparsity |z|_1      with |d_k|_2 <= 1

One step moves the activations and then the stencils (an inertial alternating proximal method):

    v = z + push (z - z_before)                                     momentum, dropped where it points uphill
    z_next = soft(v + conv(x - paint(v, d), d) / L_k, sparsity / L_k)
    d_next = project(d + carry (d - d_before) + conv_weight_grad(x - paint(z_next, d), z_next) / M_k)

so a step costs four contractions: two paintings, one match, one gradient of the stencils; without learning it is two, since
painting is linear in z. L_k is a bound of the curvature along stencil k, times a factor that follows what the paintings show
(too long a step is taken back); M_k is the energy of the activations of k, times a factor found likewise. The sparsity starts
where few activations survive and falls to that of the options: this keeps z sparse, and the curvature it meets small.
Source: Beck and Teboulle (2009) for the accelerated step; O'Donoghue and Candes (2015) for the restart; Pock and Sabach (2016)
for inertia in alternating blocks; Garcia-Cardona and Wohlberg (2018) for the problem.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.display import Shown
from preimage.errors import OptionError, ShapeError
from preimage.learning.canvas import Canvas, Sums, Workers
from preimage.learning.model import Model
from preimage.learning.progress import Listener, Progress, listener
from preimage.ops.sums import dot
from preimage.settings import thread_count

__all__ = ["Coded", "Options", "encode", "first_stencils", "learn"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Options:
    """What to learn: how many stencils of which side, how sparse, in how many steps.

    stride: distance of neighbouring activations; border: see Model; carry: inertia of the stencils. signals: what is given are signals
        (C, 1, L), and stencils are (K, C, 1, size).
    """

    stencils: int = 64
    size: int = 11
    stride: int = 1
    sparsity: float = 0.05
    steps: int = 200
    seed: int = 0
    border: str = "full"
    carry: float = 0.5
    signals: bool = False

    def __post_init__(self) -> None:
        for name in ("stencils", "steps"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.sparsity < float("inf"):
            raise OptionError(f"sparsity must be positive, got {self.sparsity}")
        if not 0 <= self.carry < 1:
            raise OptionError(f"carry must be at least 0 and less than 1, got {self.carry}")
        if self.seed < 0:
            raise OptionError(f"seed must not be negative, got {self.seed}")
        self.model()

    def model(self) -> Model:
        """The model that these options describe."""
        return Model(self.size, self.stride, self.border, self.signals)


@dataclass(slots=True, repr=False)
class Coded(Shown):
    """Stencils (K, C, k, k), the activations (K, h, w) of each picture, what they paint, and the curve of the run."""

    stencils: Array
    activations: list[Array]
    painted: list[Array]
    curve: list[Progress]
    options: Options
    stopped: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        count, last = len(self.painted), f", {self.curve[-1]}" if self.curve else ""
        return f"Coded(stencils {self.stencils.shape}, {count} picture{'s' * (count != 1)}{last})"


def first_stencils(details: Sequence[Array], options: Options) -> Array:
    """Patches of the pictures, drawn with a chance that grows with their contrast, faded at the rim, of norm 1."""
    rng, (tall, wide) = np.random.default_rng(options.seed), options.model().kernel
    rows: list[Array] = []
    share = max(1, 2000 // len(details))
    for detail in details:
        height, width = detail.shape[-2:]
        places = rng.integers(0, (height - tall + 1, width - wide + 1), (share, 2))
        rows += [detail[:, a : a + tall, b : b + wide] for a, b in places]
    patches = np.stack(rows).astype(np.float64)
    norms = np.sqrt((patches**2).sum(axis=(1, 2, 3)))
    chance = norms + 1e-12 * (1.0 + norms.max())
    few = len(patches) < options.stencils
    chosen = patches[rng.choice(len(patches), options.stencils, replace=few, p=chance / chance.sum())]
    down, across = (np.sqrt(np.sin(np.pi * (np.arange(k) + 1) / (k + 1))) for k in (tall, wide))
    chosen = chosen * np.outer(down, across) + 1e-3 * rng.standard_normal(chosen.shape)
    return _project(chosen / np.maximum(_norms(chosen), 1e-30)[:, None, None, None])


def learn(
    details: Sequence[Array],
    options: Options | None = None,
    *,
    stencils: Array | None = None,
    progress: Listener | bool | None = None,
) -> Coded:
    """Stencils and activations that paint the pictures, with the pictures' slow parts already taken off.

    Shapes: details: arrays (C, H, W) with one C; stencils, where the start is given, (K, C, k, k).
    progress: called with a Progress after every step; the run ends with what is there when it returns True. Or True: about ten
    lines are printed.
    Cost: four contractions a step for every picture, 2 * 4 * K * C * k^2 * H * W flop.
    Raises: ShapeError for pictures smaller than a stencil or of different channels; OptionError for pictures without any detail.
    """
    options = options or Options()
    details = _checked(details, options.model())
    if not max(float(np.abs(d).max()) for d in details) > 1e-6:
        raise OptionError("the pictures are constant but for their slow part: there is nothing to learn from")
    if stencils is None:
        stencils = first_stencils(details, options)
    return _Descent(details, options, _checked_stencils(stencils, details, options), None, progress).run(learning=True)


def encode(
    details: Sequence[Array],
    stencils: Array,
    options: Options | None = None,
    *,
    known: Sequence[Array | None] | None = None,
    progress: Listener | bool | None = None,
) -> Coded:
    """The activations with which given stencils paint the pictures; pixels outside `known` do not count.

    Shapes: as in `learn`; known: arrays (H, W) of bool, or None, one per picture.
    Cost: two contractions a step for every picture.
    Raises: as `learn`.
    """
    options = options or Options()
    details = _checked(details, options.model())
    if known is not None and len(known) != len(details):
        raise ShapeError(f"{len(details)} pictures but {len(known)} masks")
    return _Descent(details, options, _checked_stencils(stencils, details, options), known, progress).run(learning=False)


class _Descent:
    """The state of a run."""

    def __init__(
        self,
        details: Sequence[Array],
        options: Options,
        stencils: Array,
        known: Sequence[Array | None] | None,
        progress: Listener | bool | None,
    ) -> None:
        self.options, self.model, self.progress = options, options.model(), listener(progress)
        self.workers = Workers(thread_count())
        masks = known or [None] * len(details)
        self.stencils, self.stencils_before = stencils, stencils
        self.canvases = [Canvas(d, self.model, len(stencils), self.workers, m) for d, m in zip(details, masks, strict=True)]
        self.pixels = sum(c.pixels for c in self.canvases)
        self.places = sum(c.height * c.width if c.known is None else int(c.known.sum()) for c in self.canvases)
        self.inertia = 1.0
        self.shape = self._curvature_shape()
        self.curvature = 0.05 * float(self.model.curvature(stencils).max())
        self.stencil_curvature = 30.0
        self.stencil_change: tuple[Array, Array] | None = None
        self.curve: list[Progress] = []

    def run(self, learning: bool) -> Coded:
        start, stopped = time.perf_counter(), False
        options, sparsity, fall = self.options, self.options.sparsity, 1.0
        try:
            for step in range(options.steps):
                push = self._push()
                gradients, points = self._gradients(push)
                if step == 0:
                    sparsity, fall = self._start(gradients)
                else:
                    sparsity = max(options.sparsity, sparsity * fall)
                sums, fidelity = self._activation_step(gradients, points, push, sparsity)
                self._report(step, time.perf_counter() - start, sums, fidelity, sparsity)
                if self.progress is not None and self.progress(self.curve[-1]):
                    stopped = True
                    break
                if learning and step + 1 < options.steps:
                    self._stencil_step(sums)
                    if step % 10 == 9:
                        self._replace_idle(sums)
                        self.shape = self._curvature_shape()
        finally:
            self.workers.close()
        return Coded(
            self.stencils, [c.z for c in self.canvases], [c.painted for c in self.canvases], self.curve, options, stopped
        )

    def _push(self) -> float:
        inertia = (1.0 + np.sqrt(1.0 + 4.0 * self.inertia**2)) / 2.0
        push, self.inertia = float((self.inertia - 1.0) / inertia), float(inertia)
        return push

    def _gradients(self, push: float) -> tuple[list[Array], list[Array]]:
        """Minus the gradients at the pushed points, and what these points paint."""
        gradients, points, changed = [], [], 0.0
        for canvas in self.canvases:
            painted = canvas.painted_point(push)
            if self.stencil_change is not None:
                new = canvas.paint(canvas.point(push), self.stencils)
                changed += _square(canvas.masked(new - painted))
                painted = new
            points.append(painted)
            gradients.append(self.model.match(canvas.residual(painted), self.stencils))
        if self.stencil_change is not None:  # how strongly the last change of the stencils bent the paintings
            change, energy = self.stencil_change
            bend = changed / max(float((energy * _norms(change) ** 2).sum()), 1e-30)
            self.stencil_curvature = max(1.1 * bend, 0.9 * self.stencil_curvature)
            self.stencil_change = None
        return gradients, points

    def _start(self, gradients: list[Array]) -> tuple[float, float]:
        """The first sparsity, and the factor of each step on its way to `options.sparsity`.

        Fewer than 120 steps: the factor that gets there in a quarter of them. Otherwise 0.9, however many steps there are.
        """
        strongest = 0.5 * max(max(float(g.max()), -float(g.min())) for g in gradients)
        first = max(self.options.sparsity, strongest)
        falls = max(1, self.options.steps // 4)
        return first, (self.options.sparsity / first) ** (1.0 / falls) if falls < 30 else 0.9

    def _activation_step(self, gradients: list[Array], points: list[Array], push: float, sparsity: float) -> tuple[Sums, float]:
        """A proximal step as long as the curvature that it meets allows; accepted."""
        for canvas, gradient in zip(self.canvases, gradients, strict=True):
            canvas.look(gradient, push, sparsity)
        for _ in range(30):
            curvature = self.curvature * self.shape
            met = 0.0
            rows = []
            for canvas, gradient, painted in zip(self.canvases, gradients, points, strict=True):
                rows.append(canvas.propose(gradient, push, curvature, sparsity))
                canvas.painted_next = canvas.paint(canvas.next, self.stencils)
                met += _square(canvas.masked(canvas.painted_next - painted))
            sums = sum(rows[1:], rows[0])
            ratio = met / max(float((self.shape * sums.moved).sum()), 1e-30)
            if ratio <= 1.0001 * self.curvature:
                break
            self.curvature = max(1.1 * ratio, 1.2 * self.curvature)
        self.curvature = max(1.1 * ratio, 0.8 * self.curvature)
        if float((self.shape * sums.turned).sum()) > 0:
            self.inertia = 1.0
        for canvas in self.canvases:
            canvas.accept()
        return sums, 0.5 * sum(_square(c.residual(c.painted)) for c in self.canvases)

    def _stencil_step(self, sums: Sums) -> None:
        gradient = sum(self.model.stencil_grad(c.residual(c.painted), c.z) for c in self.canvases)
        energy = np.maximum(sums.energy, max(1e-3 * float(sums.energy.max()), 1e-12))
        stencils = self.stencils + self.options.carry * (self.stencils - self.stencils_before)
        stencils = _project(stencils + gradient / (self.stencil_curvature * energy)[:, None, None, None])
        self.stencil_change = (stencils - self.stencils, energy)
        self.stencils_before, self.stencils = self.stencils, stencils

    def _replace_idle(self, sums: Sums) -> None:
        """Stencils that nothing uses start anew as the patches that are painted worst."""
        idle = np.flatnonzero(sums.nonzeros == 0)
        if not len(idle):
            return
        residuals = [c.residual(c.painted) for c in self.canvases]
        fresh, before, (tall, wide) = self.stencils.copy(), self.stencils_before.copy(), self.model.kernel
        for index in idle:
            worst = max(residuals, key=lambda r: float(np.abs(r).max()))
            _, row, column = np.unravel_index(int(np.abs(worst).argmax()), worst.shape)
            a = min(max(int(row) - tall // 2, 0), worst.shape[1] - tall)
            b = min(max(int(column) - wide // 2, 0), worst.shape[2] - wide)
            patch = worst[:, a : a + tall, b : b + wide]
            norm = float(np.sqrt(_square(patch)))
            if norm < 1e-6:
                return
            fresh[index] = before[index] = patch / norm
            patch[...] = 0
            for canvas in self.canvases:
                canvas.forget(int(index))
            if self.stencil_change is not None:
                self.stencil_change[0][index] = 0
        self.stencils, self.stencils_before = fresh, before

    def _curvature_shape(self) -> Array:
        bound = self.model.curvature(self.stencils)
        return bound / max(float(bound.max()), 1e-30) + 1e-3

    def _report(self, step: int, seconds: float, sums: Sums, fidelity: float, sparsity: float) -> None:
        absolute = float(sums.absolute.sum())
        self.curve.append(
            Progress(
                step + 1,
                self.options.steps,
                seconds,
                fidelity + self.options.sparsity * absolute,
                fidelity,
                absolute,
                float(-10.0 * np.log10(max(2.0 * fidelity / self.pixels, 1e-20))),
                float(sums.nonzeros.sum()) / self.places,
                sparsity,
            )
        )


def _square(a: Array) -> float:
    """|a|^2, summed in float64."""
    wide = np.asarray(a, np.float64)
    return dot(wide, wide)


def _norms(stencils: Array) -> Array:
    norms: Array = np.sqrt((np.asarray(stencils, np.float64) ** 2).sum(axis=(1, 2, 3)))
    return norms


def _project(stencils: Array) -> Array:
    """The nearest stencils of norm at most 1."""
    return (stencils / np.maximum(_norms(stencils), 1.0)[:, None, None, None]).astype(np.float32)


def _checked(details: Sequence[Array], model: Model) -> list[Array]:
    arrays = [np.asarray(d, np.float32) for d in details]
    if not arrays:
        raise ShapeError("no picture was given")
    for a in arrays:
        if a.ndim != 3 or a.shape[0] != arrays[0].shape[0]:
            raise ShapeError(f"pictures must be (C, H, W) with one C, got {[b.shape for b in arrays]}")
        if model.signals and a.shape[1] != 1:
            raise ShapeError(f"signals must be (C, 1, L), got {a.shape}")
        tall, wide = model.kernel
        if a.shape[1] < tall or a.shape[2] < wide:
            raise ShapeError(
                f"a picture of {a.shape[2]}x{a.shape[1]} pixels is smaller than the {wide}x{tall} stencils;"
                f" choose a size of at most {a.shape[2] if model.signals else min(a.shape[1:])}"
            )
        if not np.isfinite(a).all():
            raise ShapeError("a picture has NaN or infinite values")
    return arrays


def _checked_stencils(stencils: Array, details: list[Array], options: Options) -> Array:
    stencils = np.asarray(stencils)
    channels, (tall, wide) = details[0].shape[0], options.model().kernel
    if stencils.ndim != 4 or stencils.shape[1:] != (channels, tall, wide):
        raise ShapeError(
            f"stencils must be (K, {channels}, {tall}, {wide}) for these pictures and this size, got {stencils.shape}"
        )
    if not np.isfinite(stencils).all():
        raise ShapeError("the stencils have NaN or infinite values")
    return _project(stencils)
