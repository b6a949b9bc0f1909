"""Imported networks: data (nodes, stored arrays, inputs, outputs) that runs, differentiates, trains and is rewritten.

nodes       Node, Input, Op and the registry OPS, into which `graph_op` puts a function under its word
graph       Graph, the nn.Module that runs nodes in order
ops, layers the words that all formats share
types       the dtype of every value, known before anything runs
facts       dtype, shape and contents of every value before anything runs; sizes: arithmetic on sizes that are open
calls       contractions bound once for a shape
program     recorded runs, run again as one program. by_program looks a run up, or records it; programs: those of a graph; recorded: a run
            written down, with inlining (branches and bodies) and words (which may be recorded); memory: of runs; stored_programs,
            stored_functions: programs on disk, for later processes
lookup      what passes ask of a graph; match, patterns, moving_patterns: expressions that a pass (rewriting) finds
pointwise   chains of elementwise nodes as one node
passes      `optimise`: rewriting for inference
`trace`     a Module written down as a Graph (io.onnx.tracing)
"""

from importlib import import_module
from typing import Any

from preimage.io.graph import layers, ops, word_shapes  # noqa: F401 - their words register themselves
from preimage.io.graph.graph import Graph
from preimage.io.graph.nodes import OPS, Input, Node, Op, Step, Values, graph_op
from preimage.io.graph.passes import optimise

__all__ = ["OPS", "Graph", "Input", "Node", "Op", "Step", "Values", "graph_op", "optimise", "trace"]


def trace(module: Any, example: Any) -> Graph:
    """The Graph of a Module's forward pass on `example`, an array of the input's shape, or a tuple of them: `preimage.io.onnx.tracing.trace`.

    Raises: FileFormatError that lists the operations which graphs have no word for.
    """
    # by name: it lies above, with ONNX's operators, which it writes
    found: Graph = import_module("preimage.io.onnx.tracing").trace(module, example)
    return found
