"""Solvers: `caffe.SGDSolver("solver.prototxt")` and its kin, with Caffe's update rules and learning-rate policies.

Update of a weight w with gradient g, rate r = rate(iter) lr_mult and d = weight_decay decay_mult. First all gradients are divided by iter_size and
scaled down to the norm clip_gradients where they are longer; then g += d w (L2) or d sign(w) (L1), and

    SGD       h = m h + r g;                      w -= h
    Nesterov  h' = m h + r g;                     w -= (1 + m) h' - m h
    AdaGrad   h += g^2;                           w -= r g / (sqrt(h) + delta)
    RMSProp   h = q h + (1 - q) g^2;              w -= r g / (sqrt(h) + delta)
    AdaDelta  h = m h + (1 - m) g^2;  u = g sqrt((k + delta) / (h + delta));  k = m k + (1 - m) u^2;  w -= r u
    Adam      h = m h + (1 - m) g;  k = n k + (1 - n) g^2;  w -= r sqrt(1 - n^t) / (1 - m^t) h / (sqrt(k) + delta)

Source: BVLC/caffe, src/caffe/solvers (rules and policies, read as facts).
"""

from __future__ import annotations

from math import exp, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from preimage.caffe.net import Net
from preimage.caffe.state import TEST, TRAIN, set_random_seed
from preimage.errors import FileFormatError
from preimage.io.caffe.message import Message
from preimage.io.caffe.text import parse_text

__all__ = [
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "NesterovSolver",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "get_solver",
    "rate",
]

_OLD_TYPES = {
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
    "SGD": "SGD",
}


def rate(solver: Message, step: int) -> float:
    """The learning rate at an iteration, by lr_policy."""
    base, gamma, policy = solver.base_lr, solver.gamma, solver.lr_policy
    if policy in ("step", "sigmoid") and not solver.has("stepsize"):
        raise FileFormatError(f"lr_policy {policy!r} needs stepsize")
    if policy == "fixed":
        return float(base)
    if policy == "step":
        return float(base * gamma ** (step // max(solver.stepsize, 1)))
    if policy == "exp":
        return float(base * gamma**step)
    if policy == "inv":
        return float(base * (1 + gamma * step) ** -solver.power)
    if policy == "multistep":
        return float(base * gamma ** sum(step >= value for value in solver.stepvalue))
    if policy == "poly":
        return float(base * max(1 - step / max(solver.max_iter, 1), 0.0) ** solver.power)
    if policy == "sigmoid":
        return float(base / (1 + exp(-gamma * (step - solver.stepsize))))
    raise FileFormatError(f"lr_policy {policy!r} is unknown; known: fixed, step, exp, inv, multistep, poly, sigmoid")


class Solver:
    """`net` is trained, `test_nets` share its weights. `step(n)` makes n iterations, `solve()` all up to max_iter.

    Before each `step` fill the input blobs of `net`; the data layers of Caffe's databases are inputs here.
    """

    rule = ""  # the file's own

    def __init__(self, solver_file: Any) -> None:
        self.param, folder = _read(solver_file)
        self.type = self.rule or (
            _OLD_TYPES[self.param.word("solver_type")] if self.param.has("solver_type") else self.param.type
        )
        if self.type not in _OLD_TYPES.values():
            raise FileFormatError(f"solver type {self.type!r} is unknown; known: {', '.join(_OLD_TYPES.values())}")
        rate(self.param, 0)
        if self.param.random_seed >= 0:
            set_random_seed(self.param.random_seed)
        self.net = _net(self.param, "train", TRAIN, folder)
        self.test_nets = [_net(self.param, "test", TEST, folder)] if self.param.test_iter or self.param.has("test_net") else []
        self.iter = 0
        self.history: dict[str, tuple[Any, Any]] = {}
        for net in self.test_nets:
            net.share_with(self.net)

    def step(self, n: int) -> float:
        """Make n iterations; gives the loss of the last one, averaged over iter_size passes."""
        loss = 0.0
        for _ in range(n):
            self.net.clear_param_diffs()
            loss = 0.0
            for _ in range(max(self.param.iter_size, 1)):
                self.net.forward()
                loss += sum(
                    weight * float(np.sum(self.net.blobs[blob].data))
                    for blob, weight in self.net.blob_loss_weights.items()
                    if weight
                )
                self.net.backward()
            self.apply_update()
            self.iter += 1
            if self.param.snapshot > 0 and self.iter % self.param.snapshot == 0:
                self.snapshot()
        for net in self.test_nets:
            net.share_with(self.net)
        return float(loss / max(self.param.iter_size, 1))

    def solve(self) -> None:
        """All iterations that are left."""
        self.step(max(self.param.max_iter - self.iter, 0))
        if self.param.snapshot_after_train and self.param.has("snapshot_prefix"):
            self.snapshot()

    def snapshot(self) -> Path:
        """Write the net as PREFIX_iter_N.caffemodel."""
        path = Path(f"{self.param.snapshot_prefix}_iter_{self.iter}.caffemodel")
        self.net.save(path)
        return path

    def apply_update(self) -> None:
        """Change the weights by the diffs that are in the net."""
        p, graph = self.param, self.net._graph
        gradients = {name: self.net._stored[name].diff / max(p.iter_size, 1) for name in graph.weights}
        if p.clip_gradients > 0:
            norm = sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in gradients.values()))
            if norm > p.clip_gradients:
                gradients = {name: g * np.float32(p.clip_gradients / norm) for name, g in gradients.items()}
        for name, g in gradients.items():
            declared = graph.assembly.parameters[name]
            weight = graph.array(name)
            decay = np.float32(p.weight_decay * declared.decay_mult)
            if decay:
                g = g + decay * (np.sign(weight) if p.regularization_type == "L1" else weight)
            step = self._change(name, g, np.float32(rate(p, self.iter) * declared.lr_mult))
            np.subtract(weight, step, out=weight)

    def _change(self, name: str, g: Any, r: Any) -> Any:
        """What the rule takes off the weight; keeps the rule's history."""
        p = self.param
        h, k = self.history.get(name, (np.zeros_like(g), np.zeros_like(g)))
        m = np.float32(p.momentum)
        if self.type in ("SGD", "Nesterov"):
            fresh = m * h + r * g
            change = fresh if self.type == "SGD" else (1 + m) * fresh - m * h
            h = fresh
        elif self.type in ("AdaGrad", "RMSProp"):
            q = np.float32(p.rms_decay)
            h = h + g * g if self.type == "AdaGrad" else q * h + (1 - q) * g * g
            change = r * g / (np.sqrt(h) + np.float32(p.delta))
        elif self.type == "AdaDelta":
            h = m * h + (1 - m) * g * g
            change = g * np.sqrt((k + np.float32(p.delta)) / (h + np.float32(p.delta)))
            k = m * k + (1 - m) * change * change
            change = r * change
        else:
            n, t = np.float32(p.momentum2), self.iter + 1
            h, k = m * h + (1 - m) * g, n * k + (1 - n) * g * g
            correction = np.float32(sqrt(1 - p.momentum2**t) / (1 - p.momentum**t))
            change = r * correction * h / (np.sqrt(k) + np.float32(p.delta))
        self.history[name] = (h, k)
        return change.astype(np.float32, copy=False)


class SGDSolver(Solver):
    """Gradient descent with momentum."""

    rule = "SGD"


class NesterovSolver(Solver):
    """Nesterov's accelerated gradient."""

    rule = "Nesterov"


class AdaGradSolver(Solver):
    """AdaGrad (Duchi et al. 2011)."""

    rule = "AdaGrad"


class RMSPropSolver(Solver):
    """RMSProp (Tieleman and Hinton 2012)."""

    rule = "RMSProp"


class AdaDeltaSolver(Solver):
    """AdaDelta (Zeiler 2012)."""

    rule = "AdaDelta"


class AdamSolver(Solver):
    """Adam (Kingma and Ba 2015)."""

    rule = "Adam"


def _read(source: Any) -> tuple[Message, Path]:
    if isinstance(source, Message):
        return source, Path()
    path = Path(source)
    try:
        return parse_text("SolverParameter", path.read_text(encoding="utf-8"), str(path)), path.parent
    except (OSError, UnicodeDecodeError) as problem:
        raise FileFormatError(f"{path} cannot be read: {problem}") from None


def _net(solver: Message, role: str, phase: int, folder: Path) -> Net:
    """The net that the solver names: `net`, `train_net`, or given in place; a path counts from here or from the solver's folder."""
    files = [solver.net, *([solver.train_net] if role == "train" else list(solver.test_net))]
    inside = [solver.net_param] if solver.has("net_param") else []
    if solver.has(f"{role}_net_param"):
        inside += [solver.train_net_param] if role == "train" else list(solver.test_net_param)
    state = (
        (solver.train_state if role == "train" else solver.test_state[0]) if solver.has(f"{role}_state") else Message("NetState")
    )
    named = next((name for name in files if name), None)
    if inside:
        source: Any = inside[0]
    elif named is None:
        raise FileFormatError(f"the solver names no {role} net: give net, {role}_net or net_param")
    else:
        source = Path(named) if Path(named).exists() else folder / named
    return Net(source, phase, level=state.level, stages=tuple(state.stage))


def get_solver(solver_file: Any) -> Solver:
    """The solver of the type that the file says."""
    return Solver(solver_file)
