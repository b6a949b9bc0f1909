"""Dictionary learning: the step, the objective, the conditions of a minimum, planted stencils, and how a run ends."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.errors import OptionError, ShapeError
from preimage.learning import Options, encode, first_stencils, learn
from preimage.learning.canvas import Canvas, Workers
from preimage.learning.model import Model

SMALL = Options(stencils=4, size=5, sparsity=0.05, steps=30)


@pytest.fixture(autouse=True)
def _gemm() -> Any:
    with pre.config(engine="gemm", threads=1):
        yield


def picture(rng: np.random.Generator, channels: int = 1, height: int = 24, width: int = 19) -> np.ndarray:
    """Bars on a background, with values around zero."""
    x = 0.05 * rng.standard_normal((channels, height, width))
    x[:, 5:8] += 0.4
    x[:, :, 9:11] -= 0.3
    return x.astype(np.float32)


def objective(details: list[np.ndarray], coded: Any, sparsity: float) -> float:
    """From the definition, in float64."""
    total = 0.0
    for x, z in zip(details, coded.activations, strict=True):
        painted = coded.options.model().paint(z.astype(np.float64), coded.stencils.astype(np.float64), *x.shape[1:])
        total += 0.5 * float(((x - painted) ** 2).sum()) + sparsity * float(np.abs(z.astype(np.float64)).sum())
    return total


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("push", [0.0, 0.6])
def test_the_step_is_its_formula(rng: np.random.Generator, threads: int, push: float) -> None:
    workers = Workers(threads)
    canvas = Canvas(np.zeros((1, 190, 180), np.float32), Model(4), 3, workers)
    z, before, gradient = (rng.standard_normal(canvas.z.shape).astype(np.float32) for _ in range(3))
    z[np.abs(z) < 1.5], before[np.abs(before) < 1.5] = 0, 0
    canvas.start(np.ones_like(z), np.ones_like(z))  # what lay there before must be gone
    canvas.start(z, before)
    curvature, sparsity = np.array([1.0, 2.0, 5.0]), 0.7
    canvas.look(gradient, push, sparsity)
    canvas.propose(gradient, push, 3 * curvature, sparsity)
    sums = canvas.propose(gradient, push, curvature, sparsity)  # a step taken back and taken again
    v = z + np.float32(push) * (z - before)
    u = v + gradient / curvature[:, None, None]
    wanted = np.sign(u) * np.maximum(np.abs(u) - sparsity / curvature[:, None, None], 0)
    np.testing.assert_allclose(canvas.next, wanted, atol=1e-5)
    np.testing.assert_allclose(canvas.point(push), v, atol=1e-6)
    flat = (slice(None), slice(None), slice(None))
    new = canvas.next[flat].astype(np.float64)
    per_stencil = {"axis": (1, 2)}
    np.testing.assert_allclose(sums.moved, ((new - v) ** 2).sum(**per_stencil), rtol=1e-4)
    np.testing.assert_allclose(sums.absolute, np.abs(new).sum(**per_stencil), rtol=1e-4)
    np.testing.assert_allclose(sums.energy, (new**2).sum(**per_stencil), rtol=1e-4)
    np.testing.assert_array_equal(sums.nonzeros, np.count_nonzero(new, axis=(1, 2)))
    if push:
        np.testing.assert_allclose(sums.turned, ((v - new) * (new - z)).sum(**per_stencil), rtol=1e-3)
    np.testing.assert_array_equal(canvas.z, z)
    canvas.accept()
    np.testing.assert_allclose(canvas.z, wanted, atol=1e-5)
    np.testing.assert_allclose(canvas.point(0.5), wanted + 0.5 * (wanted - z), atol=1e-5)
    workers.close()


@pytest.mark.parametrize("border", ["full", "circular"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_reported_objective_is_that_of_the_result(rng: np.random.Generator, border: str, stride: int, channels: int) -> None:
    details = [picture(rng, channels), picture(rng, channels, 17, 30)]
    options = Options(stencils=4, size=5, stride=stride, steps=25, border=border)
    coded = learn(details, options)
    last = coded.curve[-1]
    assert last.objective == pytest.approx(objective(details, coded, 0.05), rel=1e-4)
    assert last.nonzeros_per_pixel == sum(np.count_nonzero(z) for z in coded.activations) / sum(x[0].size for x in details)
    mean = sum(float(((x - p) ** 2).sum()) for x, p in zip(details, coded.painted, strict=True)) / sum(x.size for x in details)
    assert last.psnr == pytest.approx(-10 * np.log10(mean), abs=1e-3)
    assert last.objective < 0.7 * 0.5 * sum(float((x**2).sum()) for x in details)
    assert np.sqrt((coded.stencils**2).sum(axis=(1, 2, 3))).max() <= 1 + 1e-6


def test_encode_ends_where_a_minimum_must_lie(rng: np.random.Generator) -> None:
    """|match(residual)| <= sparsity everywhere, and = sparsity * sign(z) where z is not zero."""
    detail, stencils = picture(rng), rng.standard_normal((4, 1, 5, 5)).astype(np.float32)
    coded = encode([detail], stencils, Options(stencils=4, size=5, sparsity=0.1, steps=600))
    residual = detail - coded.painted[0]
    match = coded.options.model().match(residual, coded.stencils)
    z = coded.activations[0]
    assert np.count_nonzero(z) > 5
    assert np.abs(match).max() <= 0.1 * 1.01
    np.testing.assert_allclose(match[z != 0], 0.1 * np.sign(z[z != 0]), atol=2e-3)


def test_learning_beats_its_first_stencils(rng: np.random.Generator) -> None:
    details = [picture(rng)]
    start = first_stencils(details, SMALL)
    fixed = encode(details, start, Options(stencils=4, size=5, steps=80))
    learned = learn(details, Options(stencils=4, size=5, steps=80))
    assert learned.curve[-1].objective < 0.97 * fixed.curve[-1].objective


def test_planted_stencils_are_found() -> None:
    """A picture painted by two stencils at few places: learning finds them, but for their sign and a shift."""
    rng, model = np.random.default_rng(4), Model(7)
    u = np.arange(5) - 2
    bar = np.exp(-0.5 * (u[:, None] / 0.7) ** 2) * np.ones(5)
    ring = np.add.outer(u**2, u**2) == 4
    planted = np.zeros((2, 1, 7, 7), np.float32)
    planted[0, 0, 1:6, 1:6], planted[1, 0, 1:6, 1:6] = bar - bar.mean(), ring - ring.mean()
    planted /= np.sqrt((planted**2).sum(axis=(1, 2, 3), keepdims=True))
    z = np.where(rng.random((2, 70, 70)) < 0.006, rng.choice([-1.0, 1.0], (2, 70, 70)), 0).astype(np.float32)
    detail = model.paint(z, planted, 64, 64)
    coded = learn([detail], Options(stencils=2, size=9, sparsity=0.02, steps=120))
    assert coded.curve[-1].psnr > 45
    for k in range(2):
        found = max(_likeness(planted[k, 0], s[0]) for s in coded.stencils)
        assert found > 0.999, f"stencil {k}: best likeness {found:.3f}"


def _likeness(a: np.ndarray, b: np.ndarray) -> float:
    """The largest normalised correlation over all shifts and both signs."""
    padded = np.pad(b, 6)  # b is 9x9, a 7x7
    shifts = [padded[i : i + 7, j : j + 7] for i in range(15) for j in range(15)]
    return max(abs(float((a * s).sum())) for s in shifts) / float(np.linalg.norm(a) * np.linalg.norm(b))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(rng: np.random.Generator) -> None:
    details = [picture(rng)]
    first, second = learn(details, SMALL), learn(details, SMALL)
    np.testing.assert_array_equal(first.stencils, second.stencils)
    np.testing.assert_array_equal(first.activations[0], second.activations[0])
    other = learn(details, Options(stencils=4, size=5, steps=30, seed=1))
    assert not np.array_equal(first.stencils, other.stencils)


def test_threads_change_no_bit(rng: np.random.Generator) -> None:
    details = [picture(rng)]
    first = learn(details, SMALL)
    with pre.config(threads=3):
        second = learn(details, SMALL)
    np.testing.assert_allclose(first.stencils, second.stencils, atol=1e-5)


def test_masked_pixels_do_not_count_and_are_painted(rng: np.random.Generator) -> None:
    detail = picture(rng)
    known = rng.random(detail.shape[1:]) > 0.3
    coded = encode([np.where(known, detail, 0)], first_stencils([detail], SMALL), SMALL, known=[known])
    spoiled = encode([np.where(known, detail, 9)], first_stencils([detail], SMALL), SMALL, known=[known])
    np.testing.assert_array_equal(coded.activations[0], spoiled.activations[0])
    assert coded.curve[-1].psnr > 20
    assert np.any(coded.painted[0][:, ~known])


def test_a_run_stops_when_it_is_told_to(rng: np.random.Generator) -> None:
    seen: list[int] = []

    def stop_at_seven(p: Any) -> bool:
        seen.append(p.step)
        return p.step == 7

    details = [picture(rng)]
    coded = learn(details, SMALL, progress=stop_at_seven)
    assert coded.stopped
    assert seen == list(range(1, 8))
    assert coded.curve[-1].objective == pytest.approx(objective(details, coded, 0.05), rel=1e-4)


def test_the_sparsity_falls_to_the_value_asked_for(rng: np.random.Generator) -> None:
    for steps in (1, 2, 6, 200):
        curve = learn([picture(rng)], Options(stencils=2, size=5, steps=steps)).curve
        assert len(curve) == steps
        falling = [p.sparsity for p in curve]
        assert all(a >= b for a, b in itertools.pairwise(falling))
        if steps > 2:
            assert falling[-1] == pytest.approx(0.05)


def test_idle_stencils_start_anew(rng: np.random.Generator) -> None:
    detail = picture(rng)
    start = np.zeros((4, 1, 5, 5), np.float32)
    start[0, 0, 2, 2] = 1.0
    coded = learn([detail], Options(stencils=4, size=5, steps=60, sparsity=0.02), stencils=start)
    assert all(np.any(s) for s in coded.stencils)


@pytest.mark.parametrize(("change", "text"), [
    ({"stencils": 0}, "stencils must be at least 1"), ({"steps": 0}, "steps must be at least 1"), ({"size": 0}, "at least 1"),
    ({"sparsity": 0.0}, "sparsity must be positive"), ({"sparsity": float("nan")}, "sparsity must be positive"),
    ({"sparsity": float("inf")}, "sparsity must be positive"), ({"carry": 1.0}, "carry must be"), ({"seed": -1}, "seed must not"),
    ({"border": "wrap"}, "border must be one of"), ({"stride": 12}, "unpainted"),
])  # fmt: skip
def test_options_refuse(change: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        Options(**change)


def test_learn_and_encode_refuse(rng: np.random.Generator) -> None:
    x = picture(rng)
    with pytest.raises(ShapeError, match="no picture"):
        learn([], SMALL)
    with pytest.raises(ShapeError, match="one C"):
        learn([x, picture(rng, 3)], SMALL)
    with pytest.raises(ShapeError, match="one C"):
        learn([x[0]], SMALL)
    with pytest.raises(ShapeError, match="smaller than the 5x5 stencils; choose a size of at most 4"):
        learn([x[:, :4]], SMALL)
    with pytest.raises(ShapeError, match="NaN"):
        learn([np.where(x > 0.3, np.nan, x)], SMALL)
    with pytest.raises(OptionError, match="nothing to learn"):
        learn([np.zeros((1, 20, 20))], SMALL)
    with pytest.raises(ShapeError, match=r"stencils must be \(K, 1, 5, 5\)"):
        encode([x], np.zeros((4, 3, 5, 5)), SMALL)
    with pytest.raises(ShapeError, match="stencils have NaN"):
        encode([x], np.full((4, 1, 5, 5), np.nan), SMALL)
    with pytest.raises(ShapeError, match="1 pictures but 2 masks"):
        encode([x], np.zeros((4, 1, 5, 5)), SMALL, known=[None, None])
