"""One node by the function that its word stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from preimage.autograd import array_of
from preimage.errors import GraphError, PreimageError
from preimage.io import limits
from preimage.io.graph.nodes import OPS, Node

__all__ = ["check", "operation"]


def check(node: Node, arguments: Sequence[Any]) -> None:
    """Raises: LimitError where a node would take more than io.limits allows."""
    limits.check(node.op, arguments, node.attributes, f"node {node.name!r} ({node.op})")


def operation(node: Node, arguments: Sequence[Any], training: bool = False) -> tuple[Any, ...]:
    """A node's values. Raises: GraphError where its word cannot run on these arguments."""
    op = OPS[node.op]
    extra = {"training": training} if op.stateful else {}
    try:
        result = op.function(*arguments, **node.attributes, **extra)
    except PreimageError as error:
        error.add_note(f"in node {node.name!r} ({node.op})")
        raise
    except (ValueError, TypeError, IndexError, AttributeError, ArithmeticError, MemoryError) as error:
        given = [None if v is None else tuple(np.shape(array_of(v))) for v in arguments]
        raise GraphError(f"node {node.name!r} ({node.op}) cannot run on shapes {given}: {error}") from error
    # NumPy gives a number for a result without axes; values are arrays (or Tensors) throughout
    return tuple(np.asarray(v) if isinstance(v, np.generic) else v for v in (result if isinstance(result, tuple) else (result,)))
