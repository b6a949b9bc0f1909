"""A recurrent layer as one vertex of the record: forward by the engine's kernel, and its gradients as one program where their like came before.

Step by step a layer is some twenty operations a step, each with a rule of its own. Here the steps are run and swept on arrays, inside the
vertex's rule; from the fourth such call on without Python (engines/replayed.py). The bits are those of the operations.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from preimage.autograd import Primitive, Tensor, array_of, enable_grad, grad, is_grad_enabled, primitive
from preimage.autograd.modes import adding_by, observer
from preimage.engines import PreparedWeight, around
from preimage.engines.base import Array
from preimage.engines.recording import recorder
from preimage.engines.replayed import Replayed
from preimage.ops.operands import operand
from preimage.ops.pointwise import add
from preimage.ops.shape import concat, getitem, reshape

__all__ = ["in_one_vertex"]

#: Elements of all arrays of a layer whose gradients are recorded: above, products take longer than what is saved.
MOST_ELEMENTS = 1 << 24
#: Of a layer: what makes it, the names of the arrays that it is given, and its options.
Spec = tuple[Callable[..., Any], tuple[str, ...], tuple[tuple[str, Any], ...]]


def _made(spec: Spec, values: Any) -> Any:
    make, names, options = spec
    return make(**dict(zip(names, values, strict=True)), **dict(options))


def _flat(values: Any) -> Any:
    return concat([reshape(v, -1) for v in values])


def _sweep(g: Array, *arrays: Array, spec: Spec) -> tuple[Array, ...]:
    """The gradients of all arrays from that of y and the last states, laid side by side."""
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    with enable_grad(), adding_by(add):
        _flat(_made(spec, leaves).one_by_one()).backward(g)
    return tuple([leaf._grad._data for leaf in leaves if leaf._grad is not None])


_swept = Replayed(_sweep, MOST_ELEMENTS)


class _Found:
    """The gradients from the last cotangent that a rule saw."""

    def __init__(self) -> None:
        self._seen: Any = None
        self._gradients: tuple[Array, ...] = ()

    def gradients(self, g: Array, arrays: tuple[Array, ...], spec: Spec) -> tuple[Array, ...]:
        if self._seen is None or self._seen() is not g:
            self._gradients, self._seen = _swept(g, *arrays, spec=spec), weakref.ref(g)
        return self._gradients


def _forward(*arrays: Array, spec: Spec, found: _Found) -> Array:
    flat: Array = _flat(_made(spec, arrays).run())
    return flat


def _rule(k: int) -> Callable[..., Any]:
    def rule(g: Any, ans: Any, *values: Any, spec: Spec, found: _Found) -> Any:
        if isinstance(g, Tensor) and isinstance(values[k], Tensor):  # gradients of gradients: by the operations
            return grad(_flat(_made(spec, values).one_by_one()), values[k], g, create_graph=True)
        return found.gradients(array_of(g), tuple([array_of(v) for v in values]), spec)[k]

    return rule


_recurrent_op: Primitive = primitive("recurrent", _forward, _rule)


def in_one_vertex(make: Callable[..., Any], layer: Any, given: dict[str, Any], options: dict[str, Any]) -> tuple[Any, ...] | None:
    """y and the last states of a layer that make(**given, **options) made, as one vertex; None where nobody records gradients, somebody watches or
    records the operations, or they are no kernel's.
    """
    if not is_grad_enabled() or recorder() is not None or observer() is not None:
        return None
    if layer.cell is None or layer.lengths is not None or any(type(v) is PreparedWeight for v in given.values()):
        return None
    named = {name: operand(v, name) for name, v in given.items() if v is not None}
    if not any(isinstance(v, Tensor) and v.requires_grad for v in named.values()):
        return None
    arrays = [v._data if isinstance(v, Tensor) else v for v in named.values()]
    if not all(type(a) is np.ndarray and a.size for a in arrays) or not around.runs_recurrent(*arrays):
        return None
    flat = _recurrent_op(*named.values(), spec=(make, tuple(named), tuple(options.items())), found=_Found())
    shapes = [(layer.steps, layer.batch, layer.hidden), *[(layer.batch, layer.hidden)] * len(layer.states)]
    edges = np.cumsum([0, *[int(np.prod(shape)) for shape in shapes]]).tolist()
    return tuple([reshape(getitem(flat, slice(a, b)), shape) for a, b, shape in zip(edges[:-1], edges[1:], shapes, strict=True)])
