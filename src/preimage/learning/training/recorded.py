"""A net's forward and backward pass as one program each: recorded once for batches of one shape, and then run without Python between its kernels.

    first batch of a shape       layer by layer, as ever
    second batch                 layer by layer, and once more while a recorder (engines/recording.py) writes down every kernel that is launched
    third batch                  both ways, to see that they agree
    later batches                forward: one call;  the loss as ever;  backward: one call

The recorded kernels have the layers' bits: where recording, its first runs (in memory filled with ones) and the layers do not agree, the net stays
as it was written, and `RecordedNet.why` says why. So it does where something besides kernels decides on values: hooks, weights
that are not finite, forward functions of the caller's own that do more than call layers and operations (own_code.py). Running statistics move as
the layers move them, by the same function, with the batch statistics that the kernels found. The loss is run as it is written, every time.

A recording holds for the net as it was: the same layers with the same options, in the same mode, under the same settings. Weights are read where
they lie at that step, whoever assigned them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from preimage.autograd import Tensor, is_grad_enabled
from preimage.autograd.backward import add_to_grad
from preimage.autograd.modes import observer
from preimage.engines.buffers import trim
from preimage.io.graph.memory import dense
from preimage.learning.checkpoints import generators_of
from preimage.learning.training.own_code import OwnCode
from preimage.learning.training.own_state import is_own
from preimage.learning.training.passes import (
    Buffers,
    Pass,
    Program,
    RefusedError,
    States,
    buffers_of,
    set_buffers,
    set_states,
    states_of,
)
from preimage.nn import Dropout, Module
from preimage.settings import current
from preimage.typing import Array

__all__ = ["BEFORE", "Made", "RecordedNet", "gradients_of", "input_of", "key_of", "reason"]

#: Shapes of batches that are recorded: that of most, that of an epoch's last one.
MOST_SHAPES = 4
#: Runs of a shape before it is recorded, and those that are compared with the layers afterwards.
BEFORE, CONTROLS = 1, 1
#: First runs of a program, before which memory that only the layers' own passes needed is given back: gradients of the last one live until then.
SETTLING = 2
_FLOATS = frozenset(np.dtype(t) for t in (np.float32, np.float64))


def _is_plain(values: Any) -> bool:
    return type(values) is np.ndarray and values.dtype in _FLOATS and min(values.strides, default=0) >= 0


def input_of(batch: Any) -> Any:
    """A batch as a net is called with it: integers, an Embedding's, as they are; else a Tensor, which refuses what is no array of floats."""
    return batch if isinstance(batch, np.ndarray) and batch.dtype.kind in "iu" else Tensor(batch)


def reason(net: Module, x: Any, *, draws: bool = False) -> str | None:
    """Why the passes of a net on this batch are not recorded. draws: masks may be drawn."""
    if type(x) is not np.ndarray or x.dtype not in _FLOATS or not x.size or not x.flags.aligned or dense(x) is not x:
        return "the batch is no float32 or float64 array that fills its memory"
    if current().debug:
        return "PREIMAGE_DEBUG looks at every layer"
    if not is_grad_enabled() or observer() is not None:
        return "somebody watches the layers, or nothing is recorded"
    for name, module in net.named_modules():
        if not all(p is None or _is_plain(p._data) for p in module._parameters.values()):
            return f"layer {name!r} has weights that are no float32 or float64 arrays of NumPy, all steps forward"
        if not draws and isinstance(module, Dropout) and module.training and module.p:
            return f"layer {name!r} (Dropout) draws its masks anew"
        if module._hooks:
            return f"layer {name!r} has a hook"
    return None


class RecordedNet:
    """The passes of one net, as programs where that gives the same bits."""

    def __init__(self, net: Module) -> None:
        self.net = net
        self._programs: dict[Any, Program] = {}
        self._seen: dict[Any, int] = {}
        self._refused: dict[Any, str] = {}
        self._own: dict[Any, OwnCode] = {}  # what the caller's own functions did in the first pass of a shape
        self.why: str | None = "no batch was seen yet"  #: why the last passes were the layers' own; None: they were a program's

    def __deepcopy__(self, memo: dict[int, Any]) -> RecordedNet:
        return type(self)(copy.deepcopy(self.net, memo))  # what was recorded is recorded again

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.net,)

    def run(self, x: Any, loss_of: Callable[[Any], Tensor], finish: Callable[[Tensor], float]) -> float:
        """A batch's loss as a number; its gradients are added to those of the parameters.

        loss_of: the loss of the net's output; finish: takes its number and runs it backward.
        """
        self.why = reason(self.net, x, draws=True)
        if self.why is None:
            key = key_of(x)
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
                made.undo()
            elif key not in self._refused and self._is_counted(key):
                if self._seen[key] > BEFORE:
                    return self._watched(key, x, loss_of, finish)
                value = finish(loss_of(self._first(key, Tensor(x))))
                trim()
                return value
        return finish(loss_of(self.net(input_of(x))))

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
        if program.runs < SETTLING:
            program.runs += 1
            trim()
        made = program.forward(x)
        if made is None:
            self.why = "a weight or a variance is not finite"
        return made

    def _is_counted(self, key: Any) -> bool:
        """Counts the batches of a shape, unless there are too many others."""
        if key not in self._seen and len(self._seen) >= MOST_SHAPES:
            self.why = f"batches of {MOST_SHAPES} other shapes were seen before"
            return False
        self._seen[key] = self._seen.get(key, 0) + 1
        return True

    def _first(self, key: Any, x: Tensor) -> Any:
        """The layers' own pass on the first batch of a shape: where classes are the caller's own, with an eye on what their functions do."""
        self._own.pop(key, None)
        if not any(map(is_own, self.net.modules())):
            return self.net(x)
        own = self._own[key] = OwnCode(self.net)
        weights = [p._data for p in self.net.parameters()]
        with own:
            output = self.net(x)
        if not all(map(is_, weights, [p._data for p in self.net.parameters()])):
            self._refused[key] = "its forward function assigns weights"
        elif own.why is not None:
            self._refused[key] = own.why
        return output

    def _looked_at(self, key: Any, x: Tensor) -> Any:
        """The layers' own forward pass once more, which may show that it cannot be recorded."""
        own = self._own.get(key)
        state = None if own is None else own.state()
        output = self.net(x)
        if own is not None and state is not None and (own.why is not None or not state.is_unchanged()):
            self._refused[key] = own.why or "its forward function changes what it reads"
        elif not isinstance(output, Tensor) or output.is_leaf:
            self._refused[key] = "its result is no single Tensor that records gradients"
        return output

    def _watched(self, key: Any, x: Array, loss_of: Callable[[Any], Tensor], finish: Callable[[Tensor], float]) -> float:
        """The layers' own passes, each by itself; then what a program makes of the same. The memory of the one is no longer there for the other."""
        if key in self._programs:
            self._programs[key].replay.clear()
            trim()
        buffers, drawn_from = buffers_of(self.net.modules()), states_of(generators_of(self.net))
        output = self._looked_at(key, Tensor(x))
        if key in self._refused:
            return finish(loss_of(output))
        leaf = Tensor(output._data, requires_grad=True)
        loss = loss_of(leaf)
        if not _leads_to_one(loss, leaf):
            self._refused[key] = "the loss depends on more than the output"
            return finish(loss_of(output))
        value = finish(loss)
        assert leaf.grad is not None
        parameters = list(self.net.parameters())
        gradients = gradients_of(output, leaf.grad._data, parameters)
        _add(parameters, gradients)
        made = Made(x, output._data, leaf.grad._data, gradients, buffers, buffers_of(self.net.modules()), drawn_from)
        del output, loss  # and all that was kept for their gradients
        self._learn(key, made)
        return value

    def _learn(self, key: Any, made: Made, of_input: bool = False) -> None:
        """Record what was just run by the layers, or compare it with what was recorded before. of_input: with the gradient of the input."""
        trim()
        now = buffers_of(self.net.modules())
        drawn = states_of([generator for generator, _ in made.drawn_from] or generators_of(self.net))
        try:
            set_states(made.drawn_from)
            program = self._programs.get(key)
            if program is None or not program.fits(self.net):
                self._seen[key] = BEFORE + 1
                program = Program(self.net, list(self.net.parameters()), made.x, made.cotangent, self._own.get(key), of_input)
                trim()
                if _differ(drawn):
                    raise RefusedError("random numbers are drawn")
            set_states(made.drawn_from)
            _compare(program, made)
            if _differ(drawn):
                raise RefusedError("random numbers are drawn")
            self._programs[key] = program
        except RefusedError as refused:
            self._programs.pop(key, None)
            self._refused[key] = str(refused)
        finally:
            set_buffers(now)
            set_states(drawn)
        trim()


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
                parameter.grad = Tensor(add_to_grad(parameter, found))


def gradients_of(output: Tensor, g: Array, leaves: Sequence[Tensor]) -> list[Array | None]:
    """The gradients of leaves from that of an output; those that they hold stay as they are."""
    before = [leaf._grad for leaf in leaves]
    try:
        for leaf in leaves:
            leaf._grad = None
        output.backward(g)
        return [None if leaf._grad is None else leaf._grad._data for leaf in leaves]
    finally:
        for leaf, held in zip(leaves, before, strict=True):
            leaf._grad = held


def key_of(x: Array) -> Any:
    """What batches of one recording have in common."""
    return x.shape, x.strides, x.dtype


class Made(NamedTuple):
    """What the layers made of a batch: output, gradients of all parameters for this cotangent, the net's buffers before and after."""

    x: Array
    output: Array
    cotangent: Array
    gradients: list[Array | None]
    before: Buffers
    after: Buffers
    drawn_from: States = ()  #: the generators of the net before


def _compare(program: Program, layers: Made) -> None:
    """Raises: RefusedError where the program does not give what the layers gave."""
    set_buffers(layers.before)
    try:
        made = program.forward(layers.x, fill=0xFF)
        found = None
        if made is not None:
            made.output.grad = Tensor(layers.cotangent)
            found = made.gradients()
        if made is None or found is None:
            raise RefusedError("a weight, gradient or variance was not finite")
        left = [held.get(name) for module, after in layers.after for held in (module._buffers,) for name in after]
    finally:
        set_buffers(layers.after)
    kept = [buffer for _, after in layers.after for buffer in after.values()]
    pairs = zip([made.output._data, *found, *left], [layers.output, *layers.gradients, *kept], strict=True)
    if not all(_same(a, b) for a, b in pairs):
        raise RefusedError("the recorded kernels do not give the layers' bits")


def _differ(states: States) -> bool:
    """Whether a generator is in another state."""
    return any(generator.bit_generator.state != state for generator, state in states)


def _same(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
