"""A net's forward and backward pass as one program each: recorded once for batches of one shape, and then run without Python between its kernels.

    first batch of a shape       layer by layer, as ever
    second batch                 layer by layer, and once more while a recorder (engines/recording.py) writes down every kernel that is launched
    third batch                  both ways, to see that they agree
    later batches                forward: one call;  the loss as ever;  backward: one call

The recorded kernels have the layers' bits: where recording, its first runs (in memory filled with ones) and the layers do not agree, the net stays
as it was written, and `RecordedNet.why` says why. So it does where something besides kernels decides on values: masks that are drawn, hooks, layers
of the caller's own classes, batch statistics, weights that are not finite. The loss is run as it is written, every time.

A recording holds for the net as it was: the same layers with the same options, in the same mode, under the same settings. Weights are read where
they lie at that step, whoever assigned them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import Tensor, is_grad_enabled
from preimage.autograd.modes import adding_by, observer
from preimage.engines import replayer
from preimage.engines.recording import Place, Recorder
from preimage.engines.replay import Replay, Run
from preimage.io.graph.memory import dense
from preimage.learning.checkpoints import generators_of
from preimage.nn import Dropout, Module
from preimage.settings import current, thread_count
from preimage.typing import Array

__all__ = ["Pass", "RecordedNet"]

#: Shapes of batches that are recorded: that of most, that of an epoch's last one.
MOST_SHAPES = 4
#: Runs of a shape before it is recorded, and those that are compared with the layers afterwards.
BEFORE, CONTROLS = 1, 1
_FLOATS = frozenset(np.dtype(t) for t in (np.float32, np.float64))


class _RefusedError(Exception):
    """Why a net is not run as a program."""


class Pass:
    """A forward pass that was made, to be followed by the backward pass of the same run. output: the net's result, a leaf that wants a gradient."""

    def __init__(self, program: _Program, run: Run) -> None:
        self._program, self._run, self.parameters = program, run, program.parameters
        values = run.own(0)
        values.flags.writeable = False
        self.output = Tensor(values, requires_grad=True)

    def gradients(self) -> list[Array | None] | None:
        """The gradient of every parameter, from that of the output; None where the layers have to be run after all."""
        program, run, g = self._program, self._run, self.output.grad
        place = program.cotangent
        if g is None or g.data.shape != place.shape or g.data.dtype != place.dtype:
            return None
        values = g.data if g.data.strides == place.strides else _lying_as(place, g.data)
        run.give(values)
        run.stretch(1, thread_count())
        if not run.holds():
            return None
        found: list[Array | None] = [None] * len(program.parameters)
        for k, at in enumerate(program.with_gradient, 1):
            found[at] = run.own(k)
        run.end()
        return found


def _lying_as(place: Place, values: Array) -> Array:
    size = sum((n - 1) * s for n, s in zip(place.shape, place.strides, strict=True)) + place.dtype.itemsize
    made = np.ndarray(place.shape, place.dtype, np.empty(size, np.uint8), 0, place.strides)
    made[...] = values
    return made


class _Program:
    """One recording: the net as it was, and the kernels of both passes."""

    def __init__(self, net: Module, parameters: list[Tensor], x: Array, cotangent: Array) -> None:
        """cotangent: of the output. Raises: _RefusedError."""
        self.parameters, self.structure, self.settings = parameters, _structure(net), current()
        make_ready = replayer()
        if isinstance(make_ready, str):
            raise _RefusedError(make_ready)
        recorder = Recorder(strict=True)
        given = [recorder.watch(x), *[recorder.watch(p._data) for p in parameters]]
        places = [_placed(recorder, a, "an input") for a in given]
        self.given_lie = [(a.shape, a.strides, a.dtype) for a in given]
        held = [(p._data, p._grad) for p in parameters]
        try:
            for parameter, seen in zip(parameters, given[1:], strict=True):
                parameter._data, parameter._grad = seen, None
            with recorder:
                output = net(Tensor(given[0]))
            ends = [len(recorder.steps)]
            if not isinstance(output, Tensor) or not output.requires_grad:
                raise _RefusedError("its result is no single Tensor that records gradients")
            own = [self._result(recorder, output._data, "its result", places)]
            g = recorder.watch(dense(cotangent))
            self.cotangent = _placed(recorder, g, "the cotangent")
            with recorder, adding_by(ops.add):
                output.backward(g)
            ends.append(len(recorder.steps))
            self.with_gradient = [k for k, p in enumerate(parameters) if p._grad is not None]
            gradients = [p._grad._data for p in parameters if p._grad is not None]
            places.append(self.cotangent)
            own += [self._result(recorder, a, "a gradient", places) for a in gradients]
        finally:
            for parameter, (data, grad) in zip(parameters, held, strict=True):
                parameter._data, parameter._grad = data, grad
        if recorder.broken is not None:
            raise _RefusedError(recorder.broken)
        self.replay = Replay(recorder, ends, places, own, make_ready)

    def _result(self, recorder: Recorder, array: Array, what: str, given: list[Place]) -> Place:
        if recorder.broken is not None:
            raise _RefusedError(recorder.broken)
        place = _placed(recorder, array, what)
        if any(place.memory == other.memory for other in given):
            raise _RefusedError(f"{what} is a view of an input")
        return place

    def fits(self, net: Module) -> bool:
        """Whether the net is as it was recorded, and its weights lie alike."""
        structure = _structure(net)
        return (
            len(structure) == len(self.structure)
            and all(map(is_, structure, self.structure))
            and (current() is self.settings or current() == self.settings)
            and all(
                (p.shape, p._data.strides, p.dtype) == lie for p, lie in zip(self.parameters, self.given_lie[1:], strict=True)
            )
        )

    def forward(self, x: Array, fill: int | None = None) -> Pass | None:
        """The forward pass on a batch that lies as the recorded one; None where the layers have to be run."""
        run = self.replay.begin(fill)
        run.give(x, *[parameter._data for parameter in self.parameters])
        run.stretch(0, thread_count())
        return Pass(self, run) if run.flags_hold() else None


def _placed(recorder: Recorder, array: Array, what: str) -> Place:
    place = recorder.place_of(array)
    if place is None:
        raise _RefusedError(f"NumPy computes {what}")
    return place


def _structure(net: Module) -> list[Any]:
    """All that a pass depends on besides values: objects to be compared one by one."""
    found: list[Any] = []
    for module in net.modules():
        held = module.__dict__
        found += held.values()
        found += held["_modules"].values()
        for parameter in held["_parameters"].values():
            found += (parameter, None if parameter is None else parameter.requires_grad)
    return found


def _is_plain(values: Any) -> bool:
    return type(values) is np.ndarray and values.dtype in _FLOATS and min(values.strides, default=0) >= 0


def _reason(net: Module, x: Any) -> str | None:
    """Why the passes of a net on this batch are not recorded."""
    if type(x) is not np.ndarray or x.dtype not in _FLOATS or not x.size or not x.flags.c_contiguous or not x.flags.aligned:
        return "the batch is no float32 or float64 array in C order"
    if current().debug:
        return "PREIMAGE_DEBUG looks at every layer"
    if not is_grad_enabled() or observer() is not None:
        return "somebody watches the layers, or nothing is recorded"
    for name, module in net.named_modules():
        if not all(p is None or _is_plain(p._data) for p in module._parameters.values()):
            return f"layer {name!r} has weights that are no float32 or float64 arrays of NumPy, all steps forward"
        if isinstance(module, Dropout) and module.training and module.p:
            return f"layer {name!r} (Dropout) draws its masks anew"
        if module._hooks:
            return f"layer {name!r} has a hook"
        if not type(module).__module__.startswith("preimage.nn."):
            return f"layer {name!r} is of a class of its own ({type(module).__name__}), whose forward function may do anything"
        if any(b is not None for b in module._buffers.values()) and module.training:
            return f"layer {name!r} ({type(module).__name__}) changes its buffers"
    return None


class RecordedNet:
    """The passes of one net, as programs where that gives the same bits."""

    def __init__(self, net: Module) -> None:
        self.net = net
        self._programs: dict[Any, _Program] = {}
        self._seen: dict[Any, int] = {}
        self._refused: dict[Any, str] = {}
        self.why: str | None = "no batch was seen yet"  #: why the last passes were the layers' own; None: they were a program's

    def __deepcopy__(self, memo: dict[int, Any]) -> RecordedNet:
        return RecordedNet(copy.deepcopy(self.net, memo))  # what was recorded is recorded again

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordedNet, (self.net,)

    def run(self, x: Any, loss_of: Callable[[Any], Tensor], finish: Callable[[Tensor], float]) -> float:
        """A batch's loss as a number; its gradients are added to those of the parameters.

        loss_of: the loss of the net's output; finish: takes its number and runs it backward.
        """
        self.why = _reason(self.net, x)
        if self.why is None:
            key = (x.shape, x.dtype)
            made = self._begin(key, x)
            if made is not None:
                loss = loss_of(made.output)
                if _leads_to_one(loss, made.output):
                    value = finish(loss)
                    gradients = made.gradients()
                    if gradients is not None:
                        _add(made.parameters, gradients)
                        return value
                    self.why = "a gradient is not finite"
                else:
                    self.why = "the loss depends on more than the output"
            elif key not in self._refused and self._is_known(key):
                return self._watched(key, x, loss_of, finish)
        return finish(loss_of(self.net(Tensor(x))))

    def _begin(self, key: Any, x: Array) -> Pass | None:
        """The forward pass by a program; None where the layers have to be run."""
        program = self._programs.get(key)
        if program is None or self._seen[key] <= BEFORE + CONTROLS:
            self.why = self._refused.get(key, "the first batches of a shape are the layers' own")
            return None
        if not program.fits(self.net):
            del self._programs[key]
            self._seen[key] = 0
            self.why = "the net, its settings, or how its weights lie changed"
            return None
        made = program.forward(x)
        if made is None:
            self.why = "a weight is not finite"
        return made

    def _is_known(self, key: Any) -> bool:
        """Counts the batches of a shape: whether this one is to be recorded, or compared with what was recorded."""
        if key not in self._seen and len(self._seen) >= MOST_SHAPES:
            self.why = f"batches of {MOST_SHAPES} other shapes were seen before"
            return False
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key] > BEFORE

    def _watched(self, key: Any, x: Array, loss_of: Callable[[Any], Tensor], finish: Callable[[Tensor], float]) -> float:
        """The layers' own passes, each by itself; then what a program makes of the same."""
        output = self.net(Tensor(x))
        if not isinstance(output, Tensor) or output.is_leaf:
            self._refused[key] = "its result is no single Tensor that records gradients"
            return finish(loss_of(output))
        leaf = Tensor(output._data, requires_grad=True)
        loss = loss_of(leaf)
        if not _leads_to_one(loss, leaf):
            self._refused[key] = "the loss depends on more than the output"
            return finish(loss_of(output))
        value = finish(loss)
        assert leaf.grad is not None
        parameters = list(self.net.parameters())
        before = [p._grad for p in parameters]
        for parameter in parameters:
            parameter._grad = None
        output.backward(leaf.grad._data)
        gradients = [None if p._grad is None else p._grad._data for p in parameters]
        for parameter, held in zip(parameters, before, strict=True):
            parameter._grad = held
        _add(parameters, gradients)
        self._learn(key, x, output._data, leaf.grad._data, gradients)
        return value

    def _learn(self, key: Any, x: Array, output: Array, cotangent: Array, gradients: list[Array | None]) -> None:
        """Record what was just run by the layers, or compare it with what was recorded before."""
        generators = generators_of(self.net)
        states = [g.bit_generator.state for g in generators]
        try:
            program = self._programs.get(key)
            if program is None or not program.fits(self.net):
                self._seen[key] = BEFORE + 1
                program = _Program(self.net, list(self.net.parameters()), x, cotangent)
            _compare(program, x, output, cotangent, gradients)
            self._programs[key] = program
        except _RefusedError as refused:
            self._programs.pop(key, None)
            self._refused[key] = str(refused)
        for generator, state in zip(generators, states, strict=True):
            if generator.bit_generator.state != state:
                generator.bit_generator.state = state
                self._programs.pop(key, None)
                self._refused[key] = "random numbers are drawn"


def _leads_to_one(loss: Tensor, leaf: Tensor) -> bool:
    """Whether this leaf is the only one from which a loss was recorded."""
    stack: list[Any] = [loss if loss._node is None else loss._node]
    seen = set(stack)
    while stack:
        vertex = stack.pop()
        if isinstance(vertex, Tensor):
            if vertex is not leaf:
                return False
            continue
        fresh = {edge for edge in vertex.edges if edge is not None} - seen
        seen |= fresh
        stack += fresh
    return leaf in seen


def _add(parameters: Sequence[Tensor], gradients: Sequence[Array | None]) -> None:
    """Add gradients to those that are there, as `backward` does."""
    for parameter, found in zip(parameters, gradients, strict=True):
        if found is not None:
            with np.errstate(all="ignore"):
                parameter.grad = Tensor(found if parameter._grad is None else parameter._grad._data + found)


def _compare(program: _Program, x: Array, output: Array, cotangent: Array, gradients: list[Array | None]) -> None:
    """Raises: _RefusedError where the program does not give what the layers gave."""
    made = program.forward(x, fill=0xFF)
    found = None
    if made is not None:
        made.output.grad = Tensor(cotangent)
        found = made.gradients()
    if made is None or found is None:
        raise _RefusedError("a weight or gradient was not finite")
    pairs = zip([made.output._data, *found], [output, *gradients], strict=True)
    if not all(_same(a, b) for a, b in pairs):
        raise _RefusedError("the recorded kernels do not give the layers' bits")


def _same(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
