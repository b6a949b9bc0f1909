"""A solver file as a training run: its data layers fed from what they name, and the loop of preimage.learning around it.

    task = SolverTask("lenet_solver.prototxt", data="mnist")      # data: in place of sources that are not there
    learning.training.run(task, task.max_iter, task.plan(folder="run", resume=True))

Caffe's own tests (test_interval, test_iter, test_initialization) and snapshots go on as the file says; snapshots are written into the run's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from preimage.caffe.data_layers import LayerBatches, data_layers
from preimage.caffe.net import Net
from preimage.caffe.solver import Solver
from preimage.caffe.solver_nets import layers_of, read_solver
from preimage.errors import DivergedError, OptionError
from preimage.learning.training import Plan
from preimage.learning.training.faults import finite
from preimage.ops.operands import count_of

__all__ = ["SolverTask"]

StrPath = str | PathLike[str]


class SolverTask:
    """A Caffe solver as a Task of learning.training.run.

    data, test_data: paths in place of the sources of the training's and the tests' data layers (test_data: default data, its part for tests).
    folder: where snapshots go. seed: of fillers, Dropout and shuffling, where the file has no random_seed. iterations: in place of max_iter.
    python_layers: the classes that Python layers of the nets may run, by "module.Layer"; without it none, and nothing is imported.

    Raises: FileFormatError (MissingFileError among them) that names the layer and what it lacks; OptionError, OutputError.
    """

    def __init__(
        self,
        solver_file: StrPath,
        *,
        data: StrPath | None = None,
        test_data: StrPath | None = None,
        folder: StrPath | None = None,
        seed: int = 0,
        iterations: int | None = None,
        weights: StrPath | None = None,
        python_layers: Mapping[str, type] | None = None,
    ) -> None:
        param, file = read_solver(solver_file)
        assert file is not None
        self.name = file.stem
        if param.random_seed < 0:
            param.random_seed = count_of(seed, "seed", 0)
        if iterations is not None:
            param.max_iter = count_of(iterations, "iterations", 1)
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            param.snapshot_prefix = str(Path(folder) / file.stem)
        elif param.snapshot > 0:
            param.snapshot = 0
        folders = [Path(), *file.absolute().parents]
        given = None if data is None else Path(data)
        given_test = Path(test_data) if test_data is not None else given
        train, tests = (_found(layers_of(param, file), k) for k in range(2))
        self._feeds: list[LayerBatches] = []
        try:
            for layers, path, is_train in [(train[0], given, True), *((t, given_test, False) for t in tests)]:
                options: dict[str, Any] = {"train": is_train, "given": path, "folders": folders, "seed": int(param.random_seed)}
                self._feeds.append(LayerBatches(layers, **options))
            self.solver = Solver(
                param,
                data=self._feeds[0] if train[0] else None,
                test_data=[feed if t else None for feed, t in zip(self._feeds[1:], tests, strict=True)] or None,
                file=file,
                python_layers=python_layers or {},
            )
        except BaseException:
            self.close()
            raise
        self._test_every = int(param.test_interval) if tests else None
        self._test_first = bool(param.test_initialization)
        self.max_iter = int(param.max_iter)
        self.solver.param.test_interval = 0  # the loop asks for the tests
        if weights is not None:
            self.solver.net.copy_from(weights)
        self.solver.add_callback(lambda: None, self._look)

    # -- the loop's questions --------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Iterations that were made."""
        return self.solver.iter

    @step.setter
    def step(self, value: int) -> None:
        self.solver.iter = value

    def plan(self, **options: Any) -> Plan:
        """How the file wants to be tested; options as of Plan."""
        return Plan(**{"test_every": self._test_every, "test_first": self._test_first and self._test_every is not None} | options)

    def advance(self) -> dict[str, float]:
        """One iteration. Raises: DivergedError, before the weights are changed."""
        rate = self.solver.lr
        loss = self.solver.step(1)
        size = self._feeds[0].batch_size * max(int(self.solver.param.iter_size), 1)
        return {"loss": float(loss), "lr": float(rate), "samples": float(size)}

    def _look(self) -> None:
        net, step = self.solver.net, self.solver.iter + 1
        if not finite(net._loss()):
            raise DivergedError(f"the loss is {net._loss()} at step {step}: {_origin(net)}")
        for name, blob in net._stored.items():
            if not finite(blob.diff):
                raise DivergedError(f"the gradient of {name!r} is not finite at step {step}, though the loss is {net._loss():g}")

    def evaluate(self) -> dict[str, float]:
        """The means of the test nets' outputs."""
        self.solver.test_all()
        found: dict[str, float] = {}
        several = len(self.solver.test_nets) > 1
        for index, results in enumerate(self.solver.test_results):
            for name, value in results.items():
                if np.size(value) == 1:
                    found[f"net {index}: {name}" if several else name] = float(np.asarray(value).reshape(()))
        return found

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds: weights, histories, generators, and where the data stand."""
        return {"solver": _State(self)}

    def close(self) -> None:
        """End the threads of the data."""
        for feed in self._feeds:
            feed.close()


def _found(layers: Any, part: int) -> list[list[Any]]:
    return [data_layers(layers[0])] if part == 0 else [data_layers(test) for test in layers[1]]


def _origin(net: Net) -> str:
    """In words, where the first NaN or infinity of the last pass is."""
    for name, stored in net._stored.items():
        if not finite(stored.data):
            return f"the weight {name!r} holds it already, since the update before"
    for layer, tops in net.top_names.items():
        for top in tops:
            if not finite(net.blobs[top].data):
                kind = net.layer_dict[layer].type
                fed = not net.bottom_names[layer]
                return (
                    f"the data of layer {layer!r} ({kind}) hold it"
                    if fed
                    else f"layer {layer!r} ({kind}) gave it, in blob {top!r}"
                )
    return "all blobs are finite: the weighted sum of the losses is not"


class _State:
    """A task's state as a checkpoint takes it."""

    def __init__(self, task: SolverTask) -> None:
        self._task = task

    def _nets(self) -> list[Net]:
        return [self._task.solver.net, *self._task.solver.test_nets]

    def state_dict(self) -> dict[str, Any]:
        solver = self._task.solver
        return {
            "type": solver.type,
            "weights": {name: np.array(blob.data) for name, blob in solver.net._stored.items()},
            "history": {name: [np.array(h, np.float32) for h in pair] for name, pair in solver.history.items()},
            "generators": [net._graph._state_rules["rng"].bit_generator.state for net in self._nets()],
            "feeds": [_position(feed, net) for feed, net in zip(self._task._feeds, self._nets(), strict=True)],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        solver = self._task.solver
        stored = solver.net._stored
        if state.get("type") != solver.type or {k: np.shape(v) for k, v in state["weights"].items()} != {
            k: b.shape for k, b in stored.items()
        }:
            raise OptionError(f"the checkpoint is of a {state.get('type')} solver of other weights; this one is {solver.type}")
        for name in stored:
            np.copyto(solver.net._graph.array(name), state["weights"][name])
        solver.history = {name: (np.array(pair[0]), np.array(pair[1])) for name, pair in state["history"].items()}
        for net, held in zip(self._nets(), state["generators"], strict=True):
            net._graph._state_rules["rng"].bit_generator.state = held
        for feed, net, held in zip(self._task._feeds, self._nets(), state["feeds"], strict=True):
            if net._feed is not None:
                net._feed._waiting.clear()
            feed.load_state_dict(held)


def _position(feed: LayerBatches, net: Net) -> dict[str, Any]:
    """Where a net's data stand, less a batch that was taken to see its sizes and is not used yet."""
    state = feed.state_dict()
    ahead = 0 if net._feed is None else len(net._feed._waiting)
    for held in state["layers"]:
        held["taken"] -= ahead
    return state
