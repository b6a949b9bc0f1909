"""The reverse sweep: iterative, in topological order, each node once, after all that depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np

from preimage.autograd.arrays import fitted
from preimage.autograd.device_arrays import DeviceArray, place_of
from preimage.autograd.modes import adder, enable_grad, no_grad
from preimage.autograd.primitive import Node
from preimage.autograd.tensor import Tensor, array_of, method
from preimage.errors import GraphError
from preimage.floating_point import in_standard_mode
from preimage.ownership import is_only_kept, plus

if TYPE_CHECKING:
    from preimage.typing import Operand

    #: What the outputs are contracted with: an array for one output; for several a list, None for those of one element.
    GradOutputs: TypeAlias = Operand | Sequence[Operand | None] | None

__all__ = ["backward", "grad"]

Vertex = Node | Tensor


def _vertex(tensor: Tensor) -> Vertex:
    return tensor if tensor._node is None else tensor._node


def _seed(output: Tensor, grad_output: Any) -> Any:
    if grad_output is None:
        if output.size != 1:
            raise GraphError(f"backward from a Tensor of shape {output.shape} needs grad_output of that shape")
        if isinstance(output._data, DeviceArray):
            raise GraphError(
                f"backward from a Tensor on {place_of(output._data)} needs grad_output, an array there of shape {output.shape}"
            )
        return np.ones(output.shape, output.dtype)
    if isinstance(grad_output, Tensor) and grad_output.shape == output.shape:
        return grad_output
    made: Any = fitted(array_of(grad_output), output.dtype, output.shape, "grad_output")
    return made.kept() if isinstance(made, DeviceArray) else made


def _count_uses(roots: Sequence[Vertex]) -> dict[Vertex, int]:
    """How many recorded edges lead to each vertex reachable from the roots. Iterative: depth costs no stack."""
    uses: dict[Vertex, int] = dict.fromkeys(roots, 0)
    stack = list(dict.fromkeys(roots))
    while stack:
        vertex = stack.pop()
        if isinstance(vertex, Tensor):
            continue
        for edge in vertex.edges:
            if edge is None:
                continue
            if edge not in uses:
                uses[edge] = 0
                stack.append(edge)
            uses[edge] += 1
    return uses


def _leads_to(uses: dict[Vertex, int], order: list[Vertex], targets: set[Vertex]) -> set[Vertex]:
    """The vertices from which a target can be reached; `order` is topological, roots first."""
    useful = set(targets)
    for vertex in reversed(order):
        if isinstance(vertex, Node) and any(edge in useful for edge in vertex.edges if edge is not None):
            useful.add(vertex)
    return useful


def _topological(roots: Sequence[Vertex], uses: dict[Vertex, int]) -> list[Vertex]:
    left = dict(uses)
    ready = [v for v in dict.fromkeys(roots) if not left[v]]
    order: list[Vertex] = []
    while ready:
        vertex = ready.pop()
        order.append(vertex)
        for edge in vertex.edges if isinstance(vertex, Node) else ():
            if edge is None:
                continue
            left[edge] -= 1
            if not left[edge]:
                ready.append(edge)
    return order


def _add(a: Any, b: Any) -> Any:
    if a is None:
        return b
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return method("__add__")(a if isinstance(a, Tensor) else Tensor(a), b)
    if isinstance(a, DeviceArray):
        return method("__add__")(Tensor(a), b)._data
    add = adder.get()
    return a + b if add is None else add(a, b)


def _add_to(pending: dict[Vertex, Any], vertex: Vertex, cotangent: Any) -> None:
    """Add to what is pending, in its memory where nobody else sees that."""
    held = [pending.pop(vertex, None)]
    plain = type(held[0]) is type(cotangent) is np.ndarray and adder.get() is None
    pending[vertex] = plus(held, 0, cotangent) if plain else _add(held[0], cotangent)


def add_to_grad(leaf: Tensor, g: Any) -> Any:
    """A leaf's gradient plus g, in its memory where nobody else sees that; g where there is none."""
    held: list[Any] = [leaf._grad]
    if held[0] is None:
        return g
    plain = type(held[0]._data) is type(g) is np.ndarray and adder.get() is None
    return plus([held[0]._data], 1, g) if plain and is_only_kept(held, 0, 1) else _add(held[0]._data, g)


def _sweep(
    outputs: Sequence[Tensor],
    grad_outputs: Sequence[Any],
    targets: set[Vertex] | None,
    create_graph: bool,
    retain_graph: bool,
) -> dict[Vertex, Any]:
    """Cotangents of the targets (None: of every leaf), by running the record in reverse from the outputs."""
    roots = [_vertex(o) for o in outputs]
    uses = _count_uses(roots)
    order = _topological(roots, uses)
    if targets is None:
        targets = {v for v in uses if isinstance(v, Tensor)}
    useful = _leads_to(uses, order, targets)
    pending: dict[Vertex, Any] = {}
    found: dict[Vertex, Any] = {}
    with enable_grad() if create_graph else no_grad(), np.errstate(all="ignore"):
        for root, g in zip(roots, grad_outputs, strict=True):
            pending[root] = _add(pending.get(root), g)
        for vertex in order:
            g = pending.pop(vertex, None)
            if vertex in targets and g is not None:
                found[vertex] = g
            if not isinstance(vertex, Node) or vertex not in useful or g is None:
                continue
            if create_graph and not isinstance(g, Tensor):
                g = Tensor(g)
            wanted = [edge is not None and edge in useful for edge in vertex.edges]
            if any(wanted):
                for edge, cotangent in zip(vertex.edges, vertex.cotangents(g, wanted, create_graph), strict=True):
                    if cotangent is not None and edge is not None:
                        _add_to(pending, edge, cotangent)
                if not retain_graph:
                    vertex.free()
    return found


def _as_tensor(g: Any, create_graph: bool) -> Tensor:
    if isinstance(g, Tensor):
        return g if create_graph else Tensor(g._data)
    return Tensor(g)


@in_standard_mode
def backward(
    output: Tensor, grad_output: Operand | None = None, *, create_graph: bool = False, retain_graph: bool | None = None
) -> None:
    """Add the gradient of `output` (contracted with `grad_output`) to `.grad` of every leaf that requires it.

    Raises: GraphError if nothing was recorded, or its buffers were freed; ShapeError for a grad_output of another shape.
    """
    if not output.requires_grad:
        raise GraphError("backward from a Tensor that records nothing: no leaf with requires_grad=True leads to it")
    seed = _seed(output, grad_output)
    retain = create_graph if retain_graph is None else retain_graph
    for leaf, g in _sweep([output], [seed], None, create_graph, retain).items():
        assert isinstance(leaf, Tensor)
        with np.errstate(all="ignore"):
            total = _add(leaf._grad, g) if create_graph else add_to_grad(leaf, g)
        if total is seed:
            total = total.copied() if isinstance(total, DeviceArray) else np.array(total)
        leaf.grad = _as_tensor(total, create_graph)


@overload
def grad(
    outputs: Tensor | Sequence[Tensor], inputs: Tensor, grad_outputs: GradOutputs = None, *, create_graph: bool = False,
    retain_graph: bool | None = None, allow_unused: Literal[False] = False,
) -> Tensor: ...  # fmt: skip
@overload
def grad(
    outputs: Tensor | Sequence[Tensor], inputs: Tensor, grad_outputs: GradOutputs = None, *, create_graph: bool = False,
    retain_graph: bool | None = None, allow_unused: bool,
) -> Tensor | None: ...  # fmt: skip
@overload
def grad(
    outputs: Tensor | Sequence[Tensor], inputs: Sequence[Tensor], grad_outputs: GradOutputs = None, *, create_graph: bool = False,
    retain_graph: bool | None = None, allow_unused: Literal[False] = False,
) -> list[Tensor]: ...  # fmt: skip
@overload
def grad(
    outputs: Tensor | Sequence[Tensor], inputs: Sequence[Tensor], grad_outputs: GradOutputs = None, *, create_graph: bool = False,
    retain_graph: bool | None = None, allow_unused: bool,
) -> list[Tensor | None]: ...  # fmt: skip
@in_standard_mode
def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    allow_unused: bool = False,
) -> Any:
    """The gradients of `outputs` (summed, contracted with `grad_outputs`) with respect to `inputs`, as Tensors.

    One Tensor for one input, a list for a sequence. Inputs may be leaves or results on the way. With create_graph=True the
    gradients are recorded in turn: derivatives of every order. Nothing is added to `.grad`.

    Raises: GraphError where an input does not lead to an output (unless allow_unused, which gives None for it).
    """
    for name, given in (
        ("outputs", outputs),
        ("inputs", inputs),
        *((("grad_outputs", grad_outputs),) if grad_outputs is not None else ()),
    ):
        if not isinstance(given, Tensor | list | tuple) and not (name == "grad_outputs" and isinstance(outputs, Tensor)):
            raise GraphError(f"grad works on Tensors, one or a list of {name}, got {type(given).__name__}")
    outs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    ins = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    seeds = [grad_outputs] if isinstance(outputs, Tensor) else [None] * len(outs) if grad_outputs is None else list(grad_outputs)
    if len(seeds) != len(outs):
        raise GraphError(f"{len(seeds)} grad_outputs for {len(outs)} outputs")
    for tensor in (*outs, *ins):
        if not isinstance(tensor, Tensor):
            raise GraphError(f"grad works on Tensors, got {type(tensor).__name__}")
    retain = create_graph if retain_graph is None else retain_graph
    seeds = [_seed(o, s) for o, s in zip(outs, seeds, strict=True)]
    live = [(o, s) for o, s in zip(outs, seeds, strict=True) if o.requires_grad]
    targets = {_vertex(t) for t in ins}
    found = _sweep([o for o, _ in live], [s for _, s in live], targets, create_graph, retain)
    results: list[Tensor | None] = []
    for position, tensor in enumerate(ins):
        g = found.get(_vertex(tensor))
        if g is None and not allow_unused:
            raise GraphError(
                f"input {position} of shape {tensor.shape} does not lead to the outputs (allow_unused=True gives None)"
            )
        results.append(None if g is None else _as_tensor(g, create_graph))
    return results[0] if isinstance(inputs, Tensor) else results
