"""A net's passes as programs in a loop of one's own: called as the net is, with gradients as the net's.

    critic = Recorded(net)
    critic(real), critic(made)           # Tensors, several before any backward pass; the second passes its gradient on to what `made` came from

Each call is one vertex of the record, whose rule runs the backward pass of all layers. The first calls of a shape are the layers' own, as recorded.py
says: the second keeps the layers' record inside the vertex, and what it gave is compared with a recording once its backward pass is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from preimage.autograd import Tensor, enable_grad
from preimage.autograd.primitive import Node, Primitive
from preimage.engines.buffers import trim
from preimage.errors import GraphError
from preimage.learning.training.passes import Buffers, Pass, buffers_of, set_buffers
from preimage.learning.training.recorded import Made, RecordedNet, gradients_of, input_of, key_of, reason
from preimage.nn import Module
from preimage.typing import Array

__all__ = ["Recorded"]

#: What errors call the vertices. They have rules of their own: one pass gives all gradients.
_PASS = Primitive("a recorded pass", lambda *args: args[0], (), None, ())


class Recorded(RecordedNet):
    """A net whose forward and backward passes are run as one program each, where that gives the bits of its layers. Call it like the net.

    For loops of your own, with one net or several; the Trainer does it by itself. The first three calls for inputs of a shape are the layers' own;
    `why` says why the last call was (None: it was a program's). Where the layers have to run (hooks, Dropout, forward functions that do more than
    call layers and operations) they do. Where a weight is used by three or more calls before one backward pass, their gradients may be added in
    another order.

    Raises: GraphError for derivatives of the second order (create_graph): call the net itself for those.

    Example:
        >>> import numpy as np, preimage as pre
        >>> net = pre.nn.Sequential(pre.nn.Conv2d(1, 4, 3, rng=0), pre.nn.ReLU(), pre.nn.Flatten(), pre.nn.Linear(144, 1, rng=1))
        >>> recorded = pre.learning.Recorded(net)
        >>> x = np.random.default_rng(0).standard_normal((8, 1, 8, 8)).astype(np.float32)
        >>> same = []
        >>> for _ in range(4):
        ...     wanted = pre.grad(net(x).square().mean(), list(net.parameters()))
        ...     found = pre.grad(recorded(x).square().mean(), list(net.parameters()))
        ...     same.append(all(np.array_equal(a.data, b.data) for a, b in zip(wanted, found)))
        >>> same
        [True, True, True, True]
    """

    def __call__(self, x: Any) -> Any:
        """The net's output for an array or a Tensor."""
        given = x if isinstance(x, Tensor) else input_of(x)
        if not isinstance(given, Tensor):
            self.why = reason(self.net, given)
            return self.net(given)
        values: Any = given._data
        if type(values) is np.ndarray:
            values = np.ascontiguousarray(values)  # one program for a batch and for what another net makes of it
        self.why = reason(self.net, values)
        if self.why is not None:
            return self.net(x)
        key = (*key_of(values), given.requires_grad)
        made = self._begin(key, values)
        if made is not None:
            return Tensor._result(made.output._data, _ProgramNode(self, key, given, values, made))
        if key in self._refused:
            return self.net(x)
        if not self._seen.get(key):
            return self._first(key, given) if self._is_counted(key) else self.net(x)
        return self._in_one_vertex(key, given, values)

    def _in_one_vertex(self, key: Any, x: Tensor, values: Array) -> Any:
        """The layers' own pass, whose backward pass is recorded or compared. Memory that other programs keep is not there meanwhile."""
        for program in self._programs.values():
            program.replay.clear()
        trim()
        before = buffers_of(self.net.modules())
        leaf = Tensor(values, requires_grad=x.requires_grad)
        output = self._looked_at(key, leaf)
        if key not in self._refused:
            return Tensor._result(output._data, _LayersNode(self, key, x, leaf, output, before))
        if not x.requires_grad:
            return output
        set_buffers(before)  # the layers once more, from the Tensor that leads on
        return self.net(x)

    def learn(self, key: Any, made: Made) -> None:
        """What the layers gave for a batch, forward and backward: recorded, or compared with what was."""
        if key not in self._refused:
            if key in self._programs:
                self._programs[key].replay.clear()
            self._seen[key] += 1
            with enable_grad():
                self._learn(key, made, key[-1])
            replays = [program.replay for program in self._programs.values()]
            if len(replays) > 1:  # they seldom run at the same time
                largest = max((replay.runs for replay in replays), key=lambda runs: runs.size)
                for replay in replays:
                    replay.share(largest)


class _PassNode(Node):
    """One call: its edges are the input, and the parameters."""

    __slots__ = ("key", "leaves", "owner")

    def __init__(self, owner: Recorded, key: Any, x: Tensor, result: Array, values: Array) -> None:
        self.owner, self.key = owner, key
        self.leaves: list[Tensor] = list(owner.net.parameters())
        super().__init__(_PASS, (*self.leaves, x), {}, result)
        # the input is kept as the kernels read it
        self.args = (*(self.args or ())[:-1], _PASS._keep(0, values, None))

    def cotangents(self, g: Any, wanted: Sequence[bool], create_graph: bool) -> list[Any]:
        if create_graph:
            raise GraphError("a recorded pass has no derivatives of second order (create_graph); call the net itself")
        if self.args is None:
            raise GraphError(
                "second backward through a recorded pass: its saved arrays were freed by the first; pass retain_graph=True to keep them"
            )
        for kept in self.args:
            kept.load(self.op, False)  # raises where it was changed in place
        found = self.gradients(np.asarray(g))
        found += [None] * (len(wanted) - len(found))
        return [array if want else None for array, want in zip(found, wanted, strict=True)]

    def gradients(self, g: Array) -> list[Array | None]:
        """Those of the parameters, then that of the input, if it has one."""
        raise NotImplementedError


class _ProgramNode(_PassNode):
    """A program's pass."""

    __slots__ = ("made", "program", "values")

    def __init__(self, owner: Recorded, key: Any, x: Tensor, values: Array, made: Pass) -> None:
        super().__init__(owner, key, x, made.output._data, values)
        self.values, self.program = values, made.program
        self.made: Pass | None = made

    def gradients(self, g: Array) -> list[Array | None]:
        # the backward pass writes over what the forward pass left: for a second one both are run
        made, self.made = self.made or self.program.forward(self.values, tell=False), None
        found = None if made is None else made.gradients(g)
        if found is None:
            self.owner.why = "a gradient is not finite"
            found = _by_layers(self.owner.net, self.leaves, self.values, g, self.key[-1])
        return found

    def free(self) -> None:
        super().free()
        self.made = None


class _LayersNode(_PassNode):
    """A pass by the layers, with their own record."""

    __slots__ = ("after", "before", "leaf", "made", "output")

    def __init__(self, owner: Recorded, key: Any, x: Tensor, leaf: Tensor, output: Tensor, before: Buffers) -> None:
        super().__init__(owner, key, x, output._data, leaf._data)
        self.leaf, self.before, self.after = leaf, before, buffers_of(owner.net.modules())
        self.output: Tensor | None = output
        self.made: Made | None = None

    def gradients(self, g: Array) -> list[Array | None]:
        output, self.output = self.output, None  # its own record is freed as it goes: for a second backward pass both are run
        if output is None:
            return _by_layers(self.owner.net, self.leaves, self.leaf._data, g, self.key[-1])
        found = gradients_of(output, g, [*self.leaves, *([self.leaf] if self.key[-1] else [])])
        self.made = Made(self.leaf._data, output._data, g, list(found), self.before, self.after)
        return found

    def free(self) -> None:
        """Its memory is no longer there for the recording."""
        made, self.made, self.output = self.made, None, None
        super().free()
        if made is not None:
            trim()
            self.owner.learn(self.key, made)


def _by_layers(net: Module, leaves: Sequence[Tensor], x: Array, g: Array, of_input: bool) -> list[Array | None]:
    """The layers' gradients; running statistics stay as they are."""
    before = buffers_of(net.modules())
    try:
        with enable_grad():
            leaf = Tensor(x, requires_grad=of_input)
            return gradients_of(net(leaf), g, [*leaves, *([leaf] if of_input else [])])
    finally:
        set_buffers(before)
