"""Solvers: `caffe.SGDSolver("solver.prototxt")` and its kin. Rules and policies: solver_rules; snapshots: solver_state; nets: solver_nets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from preimage.caffe.feeds import Source
from preimage.caffe.net import Net
from preimage.caffe.net_weights import readable
from preimage.caffe.solver_nets import Shapes, net_to_train, nets_to_test, read_solver
from preimage.caffe.solver_rules import TWO_HISTORIES, TYPES, change, clipped, current_step, rate, regularised
from preimage.caffe.solver_state import State, read_state, weights_of, write_state
from preimage.caffe.state import set_random_seed
from preimage.errors import FileFormatError, OptionError
from preimage.host import check_writable

__all__ = [
    "AdaDeltaSolver", "AdaGradSolver", "AdamSolver", "NesterovSolver", "RMSPropSolver", "SGDSolver", "Solver", "get_solver", "rate",
]  # fmt: skip

_log = logging.getLogger("preimage.caffe")
#: Layers whose data lie in files that are not read.
_STORED = ("AnnotatedData", "Data", "HDF5Data", "ImageData", "MemoryData", "WindowData")
Callback = Callable[[], object] | None


class Solver:
    """`net` is trained, `test_nets` share its weights. `step(n)` makes n iterations, `solve()` all up to max_iter.

    data, test_data: batches for each forward pass, in place of databases (see Net.set_data); test_data may be a list of one source for
    each test net. input_shapes, test_input_shapes: sizes that the nets do not tell, for scripts that fill the input blobs themselves.
    file: from where the relative names of a SolverParameter count. python_layers: as of Net; None imports what the nets name.
    What Caffe logs goes to the logger `preimage.caffe`.

    Raises: MissingFileError (also a RuntimeError), FileFormatError, ShapeError, OptionError, OutputError.
    """

    rule = ""  # the file's own

    def __init__(
        self,
        solver_file: Any,
        *,
        input_shapes: Shapes = None,
        test_input_shapes: Shapes = None,
        data: Source | None = None,
        test_data: Any = None,
        file: Path | None = None,
        python_layers: Mapping[str, type] | None = None,
    ) -> None:
        self.param, self._file = read_solver(solver_file)
        self._file = file or self._file
        old = {word.upper(): word for word in TYPES}
        self.type = self.rule or (old[self.param.word("solver_type")] if self.param.has("solver_type") else self.param.type)
        if self.type not in TYPES:
            raise FileFormatError(f"solver type {self.type!r} is unknown; known: {', '.join(TYPES)}")
        rate(self.param, 0)
        self._check_prefix()
        if self.param.random_seed >= 0:
            set_random_seed(self.param.random_seed)
        self.net = net_to_train(self.param, self._file, input_shapes, data, python_layers)
        fed = {name: self.net.blobs[name].shape for name in self.net.inputs} if data is not None else None
        self.test_nets = nets_to_test(self.param, self._file, test_input_shapes or input_shapes or fed, test_data, python_layers)
        self.iter = 0
        self.history: dict[str, tuple[Any, Any]] = {}
        self.test_results: list[dict[str, Any]] = [{} for _ in self.test_nets]
        self._callbacks: list[tuple[Callback, Callback]] = []
        for net in self.test_nets:
            net.share_with(self.net)

    # -- training ------------------------------------------------------------------------------------------------------

    @property
    def lr(self) -> float:
        """The learning rate of the next iteration."""
        return rate(self.param, self.iter)

    def add_callback(self, on_start: Callback, on_gradients_ready: Callback = None) -> None:
        """Call these in each iteration: before the forward pass, and between the backward pass and the update."""
        for call in (on_start, on_gradients_ready):
            if call is not None and not callable(call):
                raise OptionError(f"a callback must be callable, got {type(call).__name__}")
        self._callbacks.append((on_start, on_gradients_ready))

    def step(self, n: int) -> float:
        """Make n iterations; gives the loss of the last one, averaged over iter_size passes.

        Every test_interval iterations the test nets are run (see test_all), every `snapshot` iterations a snapshot is written.
        """
        loss, losses, p = 0.0, [], self.param
        for _ in range(n):
            self.net.clear_param_diffs()
            if p.test_interval and self.iter % p.test_interval == 0 and (self.iter or p.test_initialization):
                self.test_all()
            for on_start, _ready in self._callbacks:
                if on_start is not None:
                    on_start()
            loss = 0.0
            for _ in range(max(p.iter_size, 1)):
                self.net.forward()
                loss += self.net._loss()
                self.net.backward()
            loss /= max(p.iter_size, 1)
            losses.append(loss)
            if p.display and self.iter % p.display == 0:
                _log.info("Iteration %d, loss = %g, lr = %g", self.iter, np.mean(losses[-max(p.average_loss, 1) :]), self.lr)
            for _start, on_ready in self._callbacks:
                if on_ready is not None:
                    on_ready()
            self.apply_update()
            if p.snapshot > 0 and self.iter % p.snapshot == 0:
                self.snapshot()
        return loss

    def solve(self, resume_file: str | PathLike[str] | None = None) -> None:
        """All iterations that are left, after restoring a state if one is given; then a snapshot and the tests, as the file says."""
        if resume_file is not None:
            self.restore(resume_file)
        p = self.param
        self.step(max(p.max_iter - self.iter, 0))
        due = p.snapshot <= 0 or self.iter % p.snapshot != 0
        if p.snapshot_after_train and due and self._prefix():
            self.snapshot()
        if p.test_interval and self.iter % p.test_interval == 0:
            self.test_all()

    def apply_update(self) -> None:
        """Change the weights by the diffs that are in the net, and count an iteration. What was taken off is then in the diffs."""
        p, graph = self.param, self.net._graph
        gradients = clipped(p, {name: self.net._stored[name].diff for name in graph.weights})
        for name, g in gradients.items():
            declared, weight = graph.assembly.parameters[name], graph.array(name)
            g = regularised(p, g, weight, declared.decay_mult)
            h, k = self.history.get(name) or (np.zeros_like(g), np.zeros_like(g))
            taken, *after = change(self.type, p, self.iter, g, np.float32(self.lr * declared.lr_mult), h, k)
            self.history[name] = (after[0], after[1])
            np.subtract(weight, taken, out=weight)
            self.net._stored[name].receive_diff(taken)
        self.iter += 1

    def share_weights(self, net: Net) -> None:
        """Let another net use the weights of the net that is trained."""
        net.share_with(self.net)

    # -- tests ---------------------------------------------------------------------------------------------------------

    def test_all(self) -> None:
        """Run each test net (test), but for those whose data lie in files and for which no test_data were given: fill those and run them."""
        for index, net in enumerate(self.test_nets):
            if net._feed is not None or not any(layer.type in _STORED for layer in net.layers):
                self.test(index)

    def test(self, index: int = 0) -> dict[str, Any]:
        """The means of a test net's outputs over test_iter passes; also in test_results."""
        net, count = self.test_nets[index], self.param.test_iter[index]
        sums: dict[str, Any] = {}
        net.share_with(self.net)
        for _ in range(count):
            for name, value in net.forward().items():
                sums[name] = sums.get(name, 0) + np.asarray(value, np.float64)
        self.test_results[index] = {name: total / max(count, 1) for name, total in sums.items()}
        for name, mean in self.test_results[index].items():
            _log.info("Iteration %d, test net %d: %s = %s", self.iter, index, name, mean)
        return self.test_results[index]

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def _prefix(self) -> str:
        """How the names of snapshots begin: snapshot_prefix, in a folder the solver file's name, without either the solver file's."""
        named = self.param.snapshot_prefix
        if self._file is None:
            return str(named)
        if not named:
            return str(self._file.with_suffix(""))
        return str(Path(named) / self._file.stem) if Path(named).is_dir() else str(named)

    def _check_prefix(self) -> None:
        """Where snapshots shall be written, see now that they can be."""
        if self.param.snapshot > 0:
            if not self._prefix():
                raise OptionError("a solver with snapshots needs a snapshot_prefix")
            check_writable(f"{self._prefix()}_iter_0.caffemodel")

    def snapshot(self) -> Path:
        """Write PREFIX_iter_N.caffemodel and .solverstate (with .h5 for snapshot_format: HDF5), each whole or not at all; gives the first.

        Raises: OutputError, OptionError without a prefix.
        """
        if not self._prefix():
            raise OptionError("this solver has no snapshot_prefix")
        p = self.param
        ending = ".h5" if p.word("snapshot_format") == "HDF5" else ""
        start = f"{self._prefix()}_iter_{self.iter}"
        model = Path(f"{start}.caffemodel{ending}")
        (self.net.save_hdf5 if ending else self.net.save)(model, diffs=p.snapshot_diff)
        state = State(self.iter, current_step(p, max(self.iter - 1, 0)), str(model), self._history())
        write_state(f"{start}.solverstate{ending}", state)
        return model

    def restore(self, state_file: str | PathLike[str]) -> None:
        """Go on from a .solverstate: its iteration, its history, and the weights that it names (there, or beside it).

        Raises: MissingFileError, FileFormatError, ShapeError; the solver is then as it was.
        """
        readable(state_file)
        shapes = [declared.shape for declared in self.net._graph.assembly.parameters.values()]
        state = read_state(state_file, shapes * (1 + (self.type in TWO_HISTORIES)))
        weights = weights_of(state, state_file)
        if weights is not None:
            self.net.copy_from(weights)
        names = list(self.net._graph.assembly.parameters)
        first, second = state.history[: len(names)], state.history[len(names) :] or [np.zeros(s, np.float32) for s in shapes]
        self.history = {name: (h, k) for name, h, k in zip(names, first, second, strict=True)}
        self.iter = state.iter

    def _history(self) -> list[Any]:
        """All first histories in the order of the net's parameters, then, where the rule keeps them, all second ones."""
        parameters = self.net._graph.assembly.parameters
        pairs = [self.history.get(name) or (np.zeros(p.shape, np.float32),) * 2 for name, p in parameters.items()]
        return [pair[k] for k in range(1 + (self.type in TWO_HISTORIES)) for pair in pairs]


class SGDSolver(Solver):
    """Gradient descent with momentum."""

    rule = "SGD"


class NesterovSolver(SGDSolver):
    """Nesterov's accelerated gradient."""

    rule = "Nesterov"


class AdaGradSolver(SGDSolver):
    """AdaGrad (Duchi et al. 2011)."""

    rule = "AdaGrad"


class RMSPropSolver(SGDSolver):
    """RMSProp (Tieleman and Hinton 2012)."""

    rule = "RMSProp"


class AdaDeltaSolver(SGDSolver):
    """AdaDelta (Zeiler 2012)."""

    rule = "AdaDelta"


class AdamSolver(SGDSolver):
    """Adam (Kingma and Ba 2015)."""

    rule = "Adam"


_CLASSES = {made.rule: made for made in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)}


def get_solver(solver_file: Any, **options: Any) -> Solver:
    """The solver of the type that the file says; options as of Solver."""
    param, _ = read_solver(solver_file)
    kind = {word.upper(): word for word in TYPES}[param.word("solver_type")] if param.has("solver_type") else param.type
    return _CLASSES.get(kind, Solver)(solver_file, **options)
