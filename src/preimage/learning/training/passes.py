"""The passes of a net as programs: what was recorded of both, and one run of them.

program = Program(net, parameters, x, cotangent, watch)      # records; raises RefusedError
program.fits(net)                                            # whether the net is as it was
made = program.forward(x)                                    # a Pass: made.output, and later made.gradients()

The gradient of the input is the last one, where it was recorded too (of_input).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from operator import is_
from typing import Any, TypeAlias

import numpy as np

from preimage import ops
from preimage.autograd import Tensor
from preimage.autograd.modes import adding_by
from preimage.engines import replayer
from preimage.engines.recording import Place, Recorder
from preimage.engines.replay import Replay, Run
from preimage.io.graph.memory import dense
from preimage.learning.checkpoints import generators_of
from preimage.learning.training.own_code import OwnCode
from preimage.nn import Module
from preimage.settings import current, thread_count
from preimage.typing import Array

__all__ = ["Buffers", "Pass", "Program", "RefusedError", "States", "buffers_of", "set_buffers", "set_states", "states_of"]


class RefusedError(Exception):
    """Why a net is not run as a program."""


class Pass:
    """A forward pass that was made, to be followed by the backward pass of the same run. output: the net's result, a leaf that wants a gradient."""

    def __init__(self, program: Program, run: Run, before: Buffers, drawn_from: States) -> None:
        """before: the buffers that the pass changed, as they were; drawn_from: the generators that masks were drawn from, as they were."""
        self.program, self._run, self.parameters, self._before = program, run, program.parameters, before
        self._drawn_from = drawn_from
        values = run.own(0)
        values.flags.writeable = False
        self.output = Tensor(values, requires_grad=True)

    def gradients(self, g: Array | None = None) -> list[Array | None] | None:
        """The gradient of every parameter, from that of the output (default: what its leaf was given); None where the layers have to be run
        after all.
        """
        program, run = self.program, self._run
        if g is None and self.output._grad is not None:
            g = self.output._grad._data
        place = program.cotangent
        if g is None or g.shape != place.shape or g.dtype != place.dtype:
            return None
        run.give(g if g.strides == place.strides else _lying_as(place, g))
        run.stretch(1, thread_count())
        if not run.holds():
            return None
        found: list[Array | None] = [None] * (len(program.parameters) + program.of_input)
        for k, at in enumerate(program.with_gradient, 1):
            found[at] = run.own(k)
        run.end()
        return found

    def undo(self) -> None:
        """As if the pass had not been made."""
        set_buffers(self._before)
        set_states(self._drawn_from)


def _lying_as(place: Place, values: Array) -> Array:
    size = sum((n - 1) * s for n, s in zip(place.shape, place.strides, strict=True)) + place.dtype.itemsize
    made = np.ndarray(place.shape, place.dtype, np.empty(size, np.uint8), 0, place.strides)
    made[...] = values
    return made


class Program:
    """One recording: the net as it was, and the kernels of both passes."""

    def __init__(
        self,
        net: Module,
        parameters: list[Tensor],
        x: Array,
        cotangent: Array,
        watch: OwnCode | None,
        of_input: bool = False,
    ) -> None:
        """cotangent: of the output; watch: who saw what the caller's own functions do; of_input: the input has a gradient, too.

        Raises: RefusedError.
        """
        self.parameters, self.structure, self.settings, self.of_input = parameters, _structure(net), current(), of_input
        self.state = None if watch is None else watch.state()
        self.runs = 0  #: of the first ones, by those who count
        make_ready = replayer()
        if isinstance(make_ready, str):
            raise RefusedError(make_ready)
        recorder = Recorder(strict=True)
        given = [recorder.watch(x), *[recorder.watch(p._data) for p in parameters]]
        places = [_placed(recorder, a, "an input") for a in given]
        self.given_lie = [(a.shape, a.strides, a.dtype) for a in given]
        held = [(p._data, p._grad) for p in parameters]
        leaf = Tensor(given[0], requires_grad=of_input)
        try:
            for parameter, seen in zip(parameters, given[1:], strict=True):
                parameter._data, parameter._grad = seen, None
            with recorder, watch or nullcontext():
                output = net(leaf)
            self.draws = [draw for _, draw in recorder.draws]
            places += [place for place, _ in recorder.draws]
            ends = [len(recorder.steps)]
            guarded = [len(recorder.guards)]
            if not isinstance(output, Tensor) or not output.requires_grad:
                raise RefusedError("its result is no single Tensor that records gradients")
            own = [self._result(recorder, output._data, "its result", places)]
            g = recorder.watch(dense(cotangent))
            self.cotangent = _placed(recorder, g, "the cotangent")
            with recorder, adding_by(ops.add):
                output.backward(g)
            ends.append(len(recorder.steps))
            gradients = [p._grad._data for p in (*parameters, leaf) if p._grad is not None]
            self.with_gradient = [k for k, p in enumerate((*parameters, leaf)) if p._grad is not None]
            places.append(self.cotangent)
            guarded.append(len(recorder.guards))
            own += [self._result(recorder, a, "a gradient", places) for a in gradients]
        finally:
            for parameter, (data, grad) in zip(parameters, held, strict=True):
                parameter._data, parameter._grad = data, grad
        if recorder.broken is not None:
            raise RefusedError(recorder.broken)
        if watch is not None and self.state is not None:
            if not self.state.is_unchanged():
                raise RefusedError("its forward function changes what it reads")
            self.state = watch.state()  # it may have called other functions than the first time
            if watch.why is not None:
                raise RefusedError(watch.why)
        self.told: list[tuple[Any, range, tuple[Any, ...]]] = []
        for function, kept, options in recorder.told:
            self.told.append((function, range(len(own), len(own) + len(kept)), options))
            own += kept
        self.generators = generators_of(net) if self.draws else []
        self.tracking = [module for module in net.modules() if module._buffers]
        self.replay = Replay(recorder, ends, places, own, make_ready, guarded)

    def _result(self, recorder: Recorder, array: Array, what: str, given: list[Place]) -> Place:
        if recorder.broken is not None:
            raise RefusedError(recorder.broken)
        place = _placed(recorder, array, what)
        if any(place.memory == other.memory for other in given):
            raise RefusedError(f"{what} is a view of an input")
        return place

    def fits(self, net: Module) -> bool:
        """Whether the net is as it was recorded, and its weights lie alike."""
        structure = _structure(net)
        return (
            len(structure) == len(self.structure)
            and all(map(is_, structure, self.structure))
            and (current() is self.settings or current() == self.settings)
            and (self.state is None or self.state.is_unchanged())
            and all(
                (p.shape, p._data.strides, p.dtype) == lie for p, lie in zip(self.parameters, self.given_lie[1:], strict=True)
            )
        )

    def forward(self, x: Array, fill: int | None = None, tell: bool = True) -> Pass | None:
        """The forward pass on a batch that lies as the recorded one, running statistics included (tell); None where the layers have to be run."""
        run, drawn_from = self.replay.begin(fill), states_of(self.generators)
        run.give(x, *[parameter._data for parameter in self.parameters], *[draw() for draw in self.draws])
        run.stretch(0, thread_count())
        if not run.holds(0):
            set_states(drawn_from)
            return None
        before = buffers_of(self.tracking)
        for function, numbers, options in self.told if tell else ():
            function(*[run.own(k) for k in numbers], *options)
        return Pass(self, run, before, drawn_from)


#: Generators, and the states that they are in.
States: TypeAlias = Sequence[tuple[np.random.Generator, Any]]


def states_of(generators: Iterable[np.random.Generator]) -> States:
    return [(generator, generator.bit_generator.state) for generator in generators]


def set_states(states: States) -> None:
    for generator, state in states:
        generator.bit_generator.state = state


#: Modules with buffers, and what these are.
Buffers: TypeAlias = list[tuple[Module, dict[str, Any]]]


def buffers_of(modules: Iterable[Module]) -> Buffers:
    return [(module, dict(module._buffers)) for module in modules if module._buffers]


def set_buffers(buffers: Buffers) -> None:
    for module, held in buffers:
        module._buffers.update(held)


def _placed(recorder: Recorder, array: Array, what: str) -> Place:
    place = recorder.place_of(array)
    if place is None:
        raise RefusedError(f"NumPy computes {what}")
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
