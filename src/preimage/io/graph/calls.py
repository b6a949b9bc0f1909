"""Contractions of a graph, made ready: what does not change from one run to the next is done once.

The first time that a node meets arrays of some shape and place in memory, its geometry is computed, its sizes are checked against
the limits, and the engine binds a call (engines.bind). From then on the node costs that call alone. Whatever a bound call does
not cover (Tensors, residuals that broadcast, engines that bind nothing) runs as an operation, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from preimage.engines import Epilogue, PreparedWeight, around, bind, moving
from preimage.engines.base import Chain, is_channels_last
from preimage.engines.prepared import is_fixed, same_bits
from preimage.errors import PreimageError
from preimage.geometry import ConvGeometry
from preimage.io import limits
from preimage.settings import check_accuracy

if TYPE_CHECKING:
    from preimage.io.graph.nodes import Node

__all__ = ["CONTRACTIONS", "NodeCall", "NodeChain", "compiled_steps"]

CONTRACTIONS = ("conv", "conv_transpose")
_GEOMETRY = ("stride", "padding", "dilation", "groups", "output_padding", "output_size")
#: Shapes that a node remembers at once.
MOST = 16


#: Elementwise steps after a contraction: as an attribute `steps` of a pointwise node, whose inputs are the result and single values.
NodeChain = tuple[tuple[tuple[str, tuple[int, ...], Mapping[str, Any]], ...], tuple[float, ...]]


_NUMBERS = {"leaky_relu": ("slope",), "clip": ("lo", "hi")}


def compiled_steps(
    steps: Sequence[tuple[str, tuple[int, ...], Mapping[str, Any]]], inputs: int
) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], list[float]]:
    """The steps as the generated kernels know them, and their numbers. Places count the operands, then the numbers, then the steps."""
    given = [
        [steps[k][2][name] for name in _NUMBERS.get(steps[k][0], ()) if steps[k][2].get(name) is not None]
        for k in range(len(steps))
    ]
    total = sum(len(g) for g in given)
    words: list[tuple[str, tuple[int, ...]]] = []
    numbers: list[float] = []
    for (word, at, attributes), own in zip(steps, given, strict=True):
        places = [k if k >= 0 else inputs + total - 1 - k for k in at]
        places += range(inputs + len(numbers), inputs + len(numbers) + len(own))
        numbers += [float(n) for n in own]
        if word == "clip" and len(own) < 2:
            word = "maximum" if attributes.get("lo") is not None else "minimum"
            if not own:  # no bound: the value itself, which any exact step of it and itself gives
                places.append(places[0])
        if word == "gelu" and attributes.get("approximate") == "tanh":
            word = "gelu_tanh"
        words.append((word.removeprefix("onnx.").lower(), tuple(places)))
    return tuple(words), numbers


def compiled_chain(chain: NodeChain | None) -> Chain | None:
    """The steps as engines take them."""
    if chain is None:
        return None
    words, numbers = compiled_steps(chain[0], 1 + len(chain[1]))
    return words, (*chain[1], *numbers)


def _laid_first(bound: Callable[..., Callable[..., Any] | None], x: Any, residual: Any, ndim: int) -> Callable[..., Any] | None:
    """The call with its arrays brought into the order of memory that kernels read as it is: channels innermost."""
    last = (0, *range(2, ndim), 1)
    if ndim < 3:
        return None
    ready = is_channels_last(x) and x.transpose(last).flags.c_contiguous
    wanted = None if ready else last  # so that neither input nor result needs a copy in scratch memory
    other = None if residual is None else last
    if wanted is None and other is None:
        return None

    def laid(array: Any, order: tuple[int, ...] | None) -> Any:
        return array if order is None else moving.laid(array, order)

    first = laid(x, wanted), laid(residual, other)
    call = None if first[0] is None or (other and first[1] is None) else bound(*first)
    return None if call is None else lambda x, residual: call(laid(x, wanted), laid(residual, other))


class NodeCall:
    """One contraction node and the calls that it has bound."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._bound: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        known = {*_GEOMETRY, "activation", "slope", "clip_range", "chain", "innermost", "accuracy"}
        self._fits = len(node.outputs) == 1 and 2 <= len(node.inputs) <= 4 and known.issuperset(node.attributes)

    def __reduce__(self) -> tuple[Any, ...]:  # calls belong to this process; a copy binds its own
        return (NodeCall, (self.node,))

    def __call__(self, values: Sequence[Any], weight: PreparedWeight | None, mark: tuple[Any, ...]) -> Any:
        """The node's value; None where it must be run as an operation."""
        x = values[0]
        if weight is None or not self._fits or type(x) is not np.ndarray:
            return None
        x = around.gathered(x)
        bias = values[2] if len(values) > 2 else None
        residual = values[3] if len(values) > 3 else None
        lies = None if residual is None else (type(residual), residual.shape, getattr(residual, "strides", None), residual.dtype)
        key = (x.shape, x.strides, x.dtype, lies)
        found = self._bound.get(key)
        if (
            found is None
            or found[1] is not weight.array
            or not (found[2] is mark or found[2] == mark)
            or not (found[3] is bias and (found[4] is None or same_bits(found[4], bias)))
        ):
            found = self._bind(x, weight, bias, residual, mark)
            if len(self._bound) >= MOST:
                self._bound.clear()
            self._bound[key] = found
        call = found[0]
        return None if call is None else call(x, residual)

    def _bind(self, x: Any, weight: PreparedWeight, bias: Any, residual: Any, mark: tuple[Any, ...]) -> tuple[Any, ...]:
        """The call; the weights, settings and bias that it was made for; the bias's values where they could be changed."""
        arrays = [a for a in (x, bias, residual) if a is not None]
        call: Callable[..., Any] | None = None
        if all(type(a) is np.ndarray and a.dtype == weight.dtype and a.flags.aligned and a.dtype.isnative for a in arrays):
            call = self._call(x, weight, bias, residual)
        values = None if bias is None or type(bias) is not np.ndarray or is_fixed(bias) else bias.copy()
        return call, weight.array, mark, bias, values

    def _call(self, x: Any, weight: PreparedWeight, bias: Any, residual: Any) -> Callable[..., Any] | None:
        node, attributes = self.node, self.node.attributes
        options = {key: attributes[key] for key in _GEOMETRY if key in attributes}
        forward = node.op == "conv"
        try:
            limits.check(node.op, [x, weight.array], attributes, f"node {node.name!r} ({node.op})")
            make: Callable[..., ConvGeometry] = ConvGeometry.from_conv if forward else ConvGeometry.from_conv_transpose
            geometry = make(x.shape, weight.shape, **options)
            shape = geometry.output_shape if forward else geometry.input_shape
            if (bias is not None and bias.shape != (shape[1],)) or (residual is not None and residual.shape != shape):
                return None
            activation = None if attributes.get("activation") is None else node.word("activation")
            lo, hi = node.numbers("clip_range", (0.0, 6.0))
            epilogue = Epilogue(bias, residual, activation, node.number("slope", 0.01), lo, hi)
            chain = None if attributes.get("chain") is None else compiled_chain(node.held("chain", tuple))
            accuracy = None if attributes.get("accuracy") is None else node.word("accuracy")
            check_accuracy(accuracy or "exact")
            innermost = node.flag("innermost")

            def bound(x: Any, residual: Any) -> Callable[..., Any] | None:
                own = epilogue if residual is None else replace(epilogue, residual=residual)
                return bind(node.op, geometry, x, weight, own, chain, innermost, accuracy)

            return bound(x, residual) or _laid_first(bound, x, residual, len(shape))
        except (PreimageError, TypeError, ValueError):
            return None  # the operation says what is wrong
