"""Runs of a graph that are a program's: which program a run is found by, and the run that records one.

A program is found in memory, or, for graphs that say where they come from (`Programs.store`), on disk, where an earlier process put it. Else the
second run of some shapes is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_not
from typing import TYPE_CHECKING, Any

import numpy as np

from preimage.engines import replayer
from preimage.engines.prepared import is_fixed
from preimage.io import limits
from preimage.io.graph.program import RefusedError, no_functions
from preimage.io.graph.programs import RunKey
from preimage.io.graph.recorded import program_of, record
from preimage.settings import current, thread_count

if TYPE_CHECKING:
    from preimage.io.graph.graph import Graph

__all__ = ["StoredArrays", "run_by_program"]


class StoredArrays:
    """The stored arrays of a graph, once they were found to be ones that nobody can change."""

    def __init__(self) -> None:
        self._known: list[Any] = []
        self._looked = False

    def are_fixed(self, graph: Graph) -> bool:
        """Whether nobody can change them. Programs that were recorded with others are dropped, and those on disk are not this graph's any more."""
        held = self._held(graph)
        if len(held) != len(self._known) or any(map(is_not, held, self._known)):
            if self._looked:
                graph.known_programs.clear()
                graph.known_programs.store = None
            self._known = held if all(isinstance(a, np.ndarray) and is_fixed(a) for a in held) else []
        self._looked = True
        return len(held) == len(self._known)

    def _held(self, graph: Graph) -> list[Any]:
        """Those of the graphs inside included; parameters as they are, which are no arrays that nobody can change."""
        tables = [table for g in graph.holders for table in (g.weights, g.state, g.constants)]
        return [array for table in tables for array in table.values()]


def run_by_program(
    graph: Graph, values: dict[str, Any], wanted: Sequence[str], run_key: RunKey | None, may_record: bool
) -> dict[str, Any] | None:  # fmt: skip
    """The wanted values by a program, or by the run that records one (may_record); None where there is to be none."""
    programs = graph.known_programs
    if run_key is None:
        programs.last = "an input is no array of NumPy's own order of bytes with elements, all steps forward"
        return None
    if (why := _no_program(graph)) is not None:
        programs.last = why
        return None
    key, decided, feeds, _ = run_key
    program = programs.find(key, feeds)
    if program is None:
        return _record(graph, values | decided, feeds, wanted, key) if may_record and not programs.is_refused(key) else None
    made: dict[str, Any] | None = program.run(feeds, graph.runner(values) if program.functions else no_functions, thread_count())
    programs.last = None
    if made is None:
        programs.refuse(key, "what is computed depends on values")
    else:
        programs.note_run(program, wanted, run_key)
    return made


def _no_program(graph: Graph) -> str | None:
    """Why no run of the graph is a program's now."""
    if graph.training:
        return "the graph is in training mode"
    if limits.deadline() is not None or current().debug:
        return "a limit of time, or PREIMAGE_DEBUG, looks at every node"
    if not graph.stored_arrays.are_fixed(graph):
        return "its weights can still be changed: optimise() makes constants of them"
    return None


def _record(
    graph: Graph, values: dict[str, Any], feeds: dict[str, Any], wanted: Sequence[str], key: Any
) -> dict[str, Any] | None:
    """Run node by node, record what is launched, and keep the program if it gives the same bits."""
    make_ready = replayer()
    if isinstance(make_ready, str):
        graph.known_programs.refuse(key, make_ready)
        return None
    nodes, run = graph.run_parts(values, wanted)
    stored = {k: v for k, v in values.items() if k not in feeds}
    try:
        kept, state = record(nodes, feeds, stored, tuple(wanted), run)
        program = program_of(state, kept, make_ready)
        again = program.run(feeds, run, thread_count(), fill=0xFF)
    except RefusedError as refused:
        graph.known_programs.refuse(key, str(refused))
        return None
    found = {k: np.array(v) if isinstance(v, np.ndarray) else v for k, v in kept.items()}
    if again is None or not all(_same(again[k], v) for k, v in found.items()):
        graph.known_programs.refuse(key, "the recorded kernels do not give the run's bits")
    else:
        graph.known_programs.keep(key, program, feeds)
    return found


def _same(a: Any, b: Any) -> bool:
    """Whether two values have the same shape, dtype and bytes."""
    return type(a) is type(b) and a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
