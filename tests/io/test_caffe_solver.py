"""Solvers: each rule and policy against its formula written here, and a net that learns."""

from itertools import product
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preimage import caffe
from preimage.caffe.solver import rate
from preimage.errors import FileFormatError, PreimageError
from preimage.io.caffe import parse_text

NET = """
layer { name: "in" type: "Input" top: "x" top: "t" input_param { shape { dim: 8 dim: 3 } shape { dim: 8 dim: 2 } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y" param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  inner_product_param { num_output: 2 weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
"""
RNG = np.random.default_rng(9)
X, T = RNG.standard_normal((8, 3)).astype(np.float32), RNG.standard_normal((8, 2)).astype(np.float32)


def solver(tmp_path: Path, text: str) -> Any:
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(f'net: "net.prototxt" random_seed: 3 base_lr: 0.1 lr_policy: "fixed" {text}')
    made = caffe.get_solver(tmp_path / "solver.prototxt")
    made.net.blobs["x"].data[...], made.net.blobs["t"].data[...] = X, T
    return made


def reference(rule: str, w: Any, b: Any, steps: int, m: float, decay: float) -> tuple[Any, Any]:
    """The rules in float64, on the gradient of the Euclidean loss."""
    values = [w.astype(np.float64), b.astype(np.float64)]
    h, k = [0.0, 0.0], [0.0, 0.0]
    for t in range(1, steps + 1):
        error = (X @ values[0].T + values[1] - T) / 8
        for i, g in enumerate((error.T @ X + decay * values[0], error.sum(0))):
            r, old = (0.1, 0.2)[i], h[i]
            if rule in ("SGD", "Nesterov"):
                h[i] = m * old + r * g
                change = h[i] if rule == "SGD" else (1 + m) * h[i] - m * old
            elif rule == "AdaGrad":
                h[i] = old + g**2
                change = r * g / (np.sqrt(h[i]) + 1e-8)
            elif rule == "RMSProp":
                h[i] = 0.9 * old + 0.1 * g**2
                change = r * g / (np.sqrt(h[i]) + 1e-8)
            elif rule == "AdaDelta":
                h[i] = m * old + (1 - m) * g**2
                u = g * np.sqrt((k[i] + 1e-6) / (h[i] + 1e-6))
                k[i] = m * k[i] + (1 - m) * u**2
                change = r * u
            else:
                h[i], k[i] = m * old + (1 - m) * g, 0.99 * k[i] + 0.01 * g**2
                change = r * np.sqrt(1 - 0.99**t) / (1 - m**t) * h[i] / (np.sqrt(k[i]) + 1e-8)
            values[i] = values[i] - change
    return values[0], values[1]


@pytest.mark.parametrize("rule", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_rules(rule: str, tmp_path: Path) -> None:
    delta = "delta: 1e-6" if rule == "AdaDelta" else ""
    momentum = 0.0 if rule in ("AdaGrad", "RMSProp") else 0.9
    made = solver(tmp_path, f'type: "{rule}" momentum: {momentum} momentum2: 0.99 rms_decay: 0.9 weight_decay: 0.05 {delta}')
    w, b = (blob.data.copy() for blob in made.net.params["fc"])
    made.step(5)
    wanted = reference(rule, w, b, 5, momentum, 0.05)
    for blob, value in zip(made.net.params["fc"], wanted, strict=True):
        np.testing.assert_allclose(blob.data, value, rtol=2e-4, atol=2e-5)
    named = getattr(caffe, f"{rule}Solver")(tmp_path / "solver.prototxt")
    assert named.type == rule


def test_policies() -> None:
    def at(step: int, text: str) -> float:
        return rate(parse_text("SolverParameter", f"base_lr: 0.5 {text}"), step)

    assert at(7, 'lr_policy: "fixed"') == 0.5
    assert at(7, 'lr_policy: "step" gamma: 0.5 stepsize: 3') == pytest.approx(0.125)
    assert at(3, 'lr_policy: "exp" gamma: 0.5') == pytest.approx(0.0625)
    assert at(4, 'lr_policy: "inv" gamma: 0.25 power: 2') == pytest.approx(0.125)
    assert at(6, 'lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 6 stepvalue: 9') == pytest.approx(0.125)
    assert at(5, 'lr_policy: "poly" power: 2 max_iter: 10') == pytest.approx(0.125)
    assert at(5, 'lr_policy: "sigmoid" gamma: -0.5 stepsize: 3') == pytest.approx(0.5 / (1 + exp(1)))
    for text in ('lr_policy: "magic"', 'lr_policy: "step" gamma: 1', ""):
        with pytest.raises(FileFormatError, match="lr_policy"):
            at(0, text)


def test_odd_policies_give_a_rate_or_are_refused() -> None:
    """No division by zero, no error of the math library, no complex number."""
    policies = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")
    given = 0
    for policy, gamma, stepsize, power, most in product(
        policies, ("0", "-1", "1e38"), ("0", "1", "-3"), ("0", "-2", "0.5"), ("0", "-1")
    ):
        text = f'base_lr: 0.5 lr_policy: "{policy}" gamma: {gamma} stepsize: {stepsize} power: {power} max_iter: {most}'
        for step in (0, 10**9):
            try:
                given += isinstance(rate(parse_text("SolverParameter", text), step), float | int)
            except FileFormatError as error:
                assert "lr_policy" in str(error)  # noqa: PT017 - which of the two it is depends on the numbers
    assert given > 200


def test_it_learns_clips_accumulates_and_writes_snapshots(tmp_path: Path) -> None:
    made = solver(tmp_path, f'momentum: 0.9 max_iter: 60 snapshot_prefix: "{tmp_path}/s" test_iter: 1 test_interval: 10')
    first = made.step(1)
    made.solve()
    assert made.iter == 60
    assert made.step(1) < 0.8 * first
    assert (tmp_path / "s_iter_60.caffemodel").exists()
    assert np.array_equal(made.test_nets[0].params["fc"][0].data, made.net.params["fc"][0].data)
    once, twice = solver(tmp_path, ""), solver(tmp_path, "iter_size: 2")
    once.step(1)
    twice.step(1)
    np.testing.assert_allclose(once.net.params["fc"][0].data, twice.net.params["fc"][0].data, rtol=1e-6)
    clipped = solver(tmp_path, "clip_gradients: 0.01")
    before = [blob.data.copy() for blob in clipped.net.params["fc"]]
    clipped.step(1)
    moved = [(blob.data - old) / r for blob, old, r in zip(clipped.net.params["fc"], before, (0.1, 0.2), strict=True)]
    assert np.sqrt(sum((m**2).sum() for m in moved)) == pytest.approx(0.01, rel=1e-2)


def test_broken_solvers(tmp_path: Path) -> None:
    for text in ('type: "magic"', "iter_size: x", 'train_net: "none.prototxt" net: "none.prototxt"'):
        with pytest.raises(PreimageError):
            solver(tmp_path, text)
    with pytest.raises(FileFormatError, match="names no train net"):
        caffe.get_solver(parse_text("SolverParameter", 'base_lr: 1 lr_policy: "fixed"'))
    with pytest.raises(FileFormatError, match="cannot be read"):
        caffe.SGDSolver(tmp_path / "none.prototxt")
