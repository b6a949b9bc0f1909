"""Graphs inside nodes (branches, bodies of loops) while the graph around them is recorded: their nodes become part of its program.

What decides (a condition, a number of trips) must not depend on the recorded inputs; else the node stays a function. Small inputs that decide are
part of what a program is found by (`deciding_inputs`), so that they do not change either.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from preimage.io.graph.nodes import Node
from preimage.io.graph.words import decides, goes_on, only_shapes

__all__ = ["Inliner", "UndecidedError", "deciding_inputs", "inliner", "inlining"]


class UndecidedError(Exception):
    """What a node does depends on values that change from run to run."""


class Inliner(Protocol):
    """What records the graphs of a node."""

    def run(self, graph: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs of a graph, its nodes recorded."""
        ...

    def check_decided(self, value: Any) -> None:
        """Raises: UndecidedError where the value may be another one in the next run."""
        ...

    def made(self, make: Callable[[], Any], parts: Any) -> Any:
        """What kernels make of values, recorded. Raises: UndecidedError where it is not kernels alone that make it."""
        ...


class _Current(threading.local):
    inliner: Inliner | None = None


_current = _Current()


def inliner() -> Inliner | None:
    """What records the graphs of the node that runs now; None where they are run as ever."""
    return _current.inliner


@contextmanager
def inlining(here: Inliner | None) -> Iterator[None]:
    """Give the graphs of the node that the block runs to an inliner."""
    before, _current.inliner = _current.inliner, here
    try:
        yield
    finally:
        _current.inliner = before


def deciding_inputs(graph: Any, outputs: Sequence[str] = ()) -> frozenset[str]:
    """The inputs of a graph on whose values it depends which graphs inside it run, and how often; and those that the outputs depend on."""
    wanted: set[str] = set(outputs)
    for node in reversed(graph.nodes):
        wanted |= _decided_by(node)
        if wanted.intersection(node.outputs) and not only_shapes(node.op):
            wanted.update(node.inputs)
    return frozenset(item.name for item in graph.inputs if item.name in wanted)


def _decided_by(node: Node) -> set[str]:
    """The inputs of a node that decide in it, and in the graphs inside it."""
    found = {node.inputs[k] for k in decides(node.op) if k < len(node.inputs)}
    captured = node.attributes.get("captured", ())
    names = captured if isinstance(captured, tuple) else ()
    outer = dict(zip(names, node.inputs[len(node.inputs) - len(names) :], strict=True))
    value: Any
    for value in node.attributes.values():
        if hasattr(value, "nodes"):
            inner = deciding_inputs(value, value.outputs[:1] if goes_on(node.op) else ())
            found |= {outer[name] for name in inner if name in outer}
            if not inner <= outer.keys():  # of what it hands over by position
                found.update(node.inputs)
    return found
