"""What made this number, what does that one reach, where was a NaN born: questions about single values of a real run.

why(y, index)            the products that made one number, largest first: of a traced layer, or of a Tensor that recorded
why(y, index, of=x)      the same through the whole net: x times the row of the Jacobian
reach(x, index, y)       the outputs that one input feeds, with their factors: a column of the Jacobian
first_nan(net, x)        the operation and index where a NaN or infinity first appeared
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.analysis.record import Call, Record, record
from preimage.analysis.structure import sources
from preimage.analysis.sums import Sum, Term, sum_of
from preimage.analysis.terms import Sides
from preimage.analysis.tracing import LayerTrace, Stroke, checked
from preimage.autograd import Spec, Tensor, grad, is_tensor
from preimage.autograd.primitive import Node
from preimage.display import Shown
from preimage.errors import GraphError, OptionError

__all__ = ["Born", "Entries", "Why", "first_nan", "reach", "why"]

Array = NDArray[Any]
Index = tuple[int, ...]
#: Elements that are followed where an operation adds several up.
MOST_BRANCHES = 64


@dataclass(frozen=True, repr=False)
class Entries(Shown):
    """Entries of a Jacobian's row or column: where they lie, their factors, and (of a row) the value there. Largest first."""

    indices: tuple[Index, ...]
    factors: tuple[float, ...]
    values: tuple[float, ...] | None = None

    @property
    def products(self) -> tuple[float, ...]:
        """factor * value of every entry of a row."""
        assert self.values is not None
        return tuple(f * v for f, v in zip(self.factors, self.values, strict=True))

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        first = f", first {list(self.indices[0])} with factor {self.factors[0]:.6g}" if self.indices else ""
        return f"Entries({len(self)}{first})"


@dataclass(frozen=True, repr=False)
class Why(Shown):
    """What made one number: the sums of the contractions nearest to it, each with the operations between (`paths`).

    leaves: (name, index, value) of given arrays that entered without a contraction.
    """

    index: Index
    value: float
    sums: tuple[Sum, ...]
    paths: tuple[tuple[str, ...], ...]
    leaves: tuple[tuple[str, Index, float], ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """The products of all sums, largest first."""
        found = [term for s in self.sums for term in s.largest]
        return tuple(sorted(found, key=lambda t: (t.product == t.product, -abs(t.product) if t.product == t.product else 0)))

    def __repr__(self) -> str:
        return f"Why({list(self.index)} = {self.value:.8g}: {len(self.sums)} sums, {len(self.leaves)} given values)"

    def __str__(self) -> str:
        lines = [f"{list(self.index)} = {self.value:.8g}"]
        for path, s in zip(self.paths, self.sums, strict=True):
            lines.append(f"through {' < '.join(path)}:" if path else "")
            lines.append(str(s))
        lines += [f"given: {name}{list(index)} = {value:.6g}" for name, index, value in self.leaves]
        return "\n".join(line for line in lines if line)


def why(y: Any, index: Any, *, of: Any = None) -> Any:
    """What made y[index].

    y: a LayerTrace (gives the Sum of that output), or a Tensor that a recorded operation made: then the record is followed back
    through elementwise operations, moves, maxima and short sums to the nearest contractions (a Why). of: a Tensor on the way, or a
    leaf; the answer is then the row of the Jacobian dy[index] / d(of), as Entries with their values.

    Raises: OptionError where y recorded nothing, or an operation that mixes many elements lies between.
    """
    if isinstance(y, LayerTrace):
        return y.slide(index)
    if not is_tensor(y):
        raise OptionError(f"why takes a LayerTrace or a Tensor that recorded, got {type(y).__name__}; trace(layer, x) makes one")
    at = checked(index, y.shape, "the Tensor")
    if of is not None:
        return _row(y, at, of)
    if y._node is None:
        raise OptionError("this Tensor was made by no recorded operation: compute it from Tensors with requires_grad=True")
    ends = _Ends()
    ends.follow(y._node, at, ())
    return Why(at, float(y.data[at]), tuple(s for _, s in ends.sums), tuple(p for p, _ in ends.sums), tuple(ends.leaves))


def reach(x: Any, index: Any, y: Any = None) -> Any:
    """What x[index] feeds, with the factors.

    x: a LayerTrace (gives the Stroke of that activation), or a Tensor; then y is a Tensor that depends on it, and the answer the
    column of the Jacobian dy / dx[index] without its zeros (Entries).

    Raises: OptionError without a y; GraphError where y does not depend on x.
    """
    if isinstance(x, LayerTrace):
        stroke: Stroke = x.paint(index)
        return stroke
    if not is_tensor(x) or not is_tensor(y):
        raise OptionError(
            "reach takes a LayerTrace, or a Tensor x and the Tensor y that was computed from it: reach(x, index, y)"
        )
    at = checked(index, x.shape, "the Tensor")
    seed = Tensor(np.zeros(y.shape, y.dtype), requires_grad=True)
    back = grad(y, x, seed, create_graph=True)  # linear in the seed: its derivative is the Jacobian the other way round
    chosen = np.zeros(x.shape, x.dtype)
    chosen[at] = 1
    if not back.requires_grad:
        raise GraphError("no gradient leads from y back to x")
    return _entries(np.asarray(grad(back, seed, chosen).data), None)


def _row(y: Tensor, at: Index, of: Any) -> Entries:
    if not is_tensor(of):
        raise OptionError(f"of must be a Tensor that y was computed from, got {type(of).__name__}")
    chosen = np.zeros(y.shape, y.dtype)
    chosen[at] = 1
    return _entries(np.asarray(grad(y, of, chosen, retain_graph=True).data), of.data)


def _entries(factors: Array, values: Array | None) -> Entries:
    where = np.argwhere(factors != 0)
    found = factors[tuple(where.T)].astype(np.float64)
    held = None if values is None else values[tuple(where.T)].astype(np.float64)
    size = np.abs(found if held is None else found * held)
    order = np.argsort(-np.where(np.isnan(size), np.inf, size), kind="stable")
    return Entries(
        tuple(tuple(where[k].tolist()) for k in order), tuple(found[order].tolist()),
        None if held is None else tuple(held[order].tolist()),
    )  # fmt: skip


# -- following a record back -------------------------------------------------------------------------------------------


def _array(arg: Any) -> Array | None:
    value = getattr(arg, "value", arg)
    return value if isinstance(value, np.ndarray) else None


class _Ends:
    """Where the ways back from one number end: contractions and given arrays."""

    def __init__(self) -> None:
        self.sums: list[tuple[tuple[str, ...], Sum]] = []
        self.leaves: list[tuple[str, Index, float]] = []

    def follow(self, node: Node, at: Index, path: tuple[str, ...]) -> None:
        stack: list[tuple[Any, Index, tuple[str, ...]]] = [(node, at, path)]
        while stack:
            vertex, index, way = stack.pop()
            if isinstance(vertex, Tensor):
                self.leaves.append((vertex.name or "leaf", index, float(vertex.data[index])))
                continue
            if vertex.args is None:
                raise OptionError(f"the arrays of {vertex.op.name} were freed by backward; use retain_graph=True, or ask before")
            if vertex.op.name in ("conv", "conv_transpose", "conv_weight_grad", "linear"):
                self.sums.append((way, _contraction(vertex, index)))
                continue
            for edge, place in reversed(_steps(vertex, index)):
                stack.append((edge, place, (*way, vertex.op.name)))


def _steps(node: Node, at: Index) -> list[tuple[Any, Index]]:
    """The elements that made one element of an operation that is no contraction, with the edges to them."""
    assert node.args is not None
    specs = tuple(Spec(a.shape, a.dtype) if (a := _array(arg)) is not None else arg for arg in node.args)
    call = Call(node.op, (None,) * len(specs), specs, node.params, -1)
    chosen = np.zeros(node.shape, bool)
    chosen[at] = True
    steps: list[tuple[Any, Index]] = []
    for k, edge in enumerate(node.edges):
        if edge is None:
            continue
        found = np.argwhere(sources(call, k, chosen))
        held = _array(node.args[k])
        if node.op.name in ("max_pool", "max", "min") and held is not None and len(found):
            values = held[tuple(found.T)]
            best = np.argmin(values) if node.op.name == "min" else np.argmax(values)
            found = found[best : best + 1]
        if len(found) > MOST_BRANCHES:
            raise OptionError(
                f"{node.op.name} makes this number from {len(found)} others: ask why of one of them, or why(y, index, of=x) for the"
                " whole way"
            )
        steps += [(edge, tuple(place.tolist())) for place in found]
    return steps


def _contraction(node: Node, index: Index) -> Sum:
    assert node.args is not None
    name, g = node.op.name, node.params["geometry"]
    a, b = _array(node.args[0]), _array(node.args[1])
    assert a is not None
    assert b is not None
    if node.params.get("layout") == "channels_last" and a.ndim > 2:
        a = np.moveaxis(a, -1, 1)
        if name == "conv_weight_grad":
            b = np.moveaxis(b, -1, 1)
        else:
            index = (index[0], index[-1], *index[1:-1])
    bias = node.edges[2] if len(node.edges) > 2 else None
    number = float(bias.data[index[1]]) if isinstance(bias, Tensor) else None
    sides = Sides(g)
    if name == "conv_weight_grad":
        return sum_of("w", index, ("x", "y"), sides.weight(index), a, b, None, name)
    if name == "conv_transpose":
        return sum_of("y", index, ("x", "w"), sides.large(index), a, b, number, name)
    return sum_of("y", index, ("x", "w"), sides.small(index), a, b, number, "conv")


# -- NaN and infinity --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Born(Shown):
    """Where the first NaN or infinity of a run appeared.

    layer: the name of the module or node (of an input or parameter: its own name); op: the operation, or "input", "parameter",
    "constant" where it was given; index: the first such element of the result; value: it. inputs: the elements of the operation's
    arguments that it was made from, as (argument, index, value), the largest first, at most 8.
    """

    layer: str
    op: str
    index: Index
    value: float
    inputs: tuple[tuple[int, Index, float], ...] = ()

    def __str__(self) -> str:
        made = "".join(f"\n  from argument {k}{list(i)} = {v:.6g}" for k, i, v in self.inputs)
        return f"{self.value} was born in {self.layer or self.op} ({self.op}) at {list(self.index)}{made}"


def first_nan(net: Any, *inputs: Any) -> Born | None:
    """The operation, and the element of its result, where a NaN or infinity first appeared in a run of the net; None if in none.

    net: a Module (in evaluation mode), an imported Graph, or a function of Tensors; inputs: arrays. An operation that was given a NaN
    or infinity passes it on; the one that made it from finite numbers is named, or the input or weight that held it.
    """
    made = record(net, *inputs)
    needed = {k for call in made.calls for k in call.arguments if k is not None}
    for value in made.values:
        if value.kind != "made" and (value.kind == "input" or value.number in needed):
            bad = _first_bad(made.tensors[value.number].data)
            if bad is not None:
                return Born(value.name, value.kind, *bad)
    for call in made.calls:
        bad = _first_bad(made.tensors[call.result].data)
        if bad is not None:
            return Born(call.name, call.op.name, *bad, _makers(made, call, bad[0]))
    return None


def _first_bad(array: Array) -> tuple[Index, float] | None:
    bad = ~np.isfinite(array.astype(np.float64))
    if not bad.any():
        return None
    flat = int(np.argmax(bad.reshape(-1)))
    at = tuple(int(i) for i in np.unravel_index(flat, array.shape))
    return at, float(array[at])


def _makers(made: Record, call: Call, at: Index) -> tuple[tuple[int, Index, float], ...]:
    chosen = np.zeros(made.shape(call.result), bool)
    chosen[at] = True
    found: list[tuple[int, Index, float]] = []
    for k, number in enumerate(call.arguments):
        if number is None:
            continue
        values = made.tensors[number].data
        where = np.argwhere(sources(call, k, chosen))
        found += [(k, tuple(int(i) for i in place), float(values[tuple(place)])) for place in where]
    return tuple(sorted(found, key=lambda item: -abs(item[2]))[:8])
