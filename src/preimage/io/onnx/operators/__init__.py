"""ONNX's operators, each a word `onnx.Name` of graphs: those for which `preimage.io.graph` has no word of its own."""

from preimage.io.onnx.operators import (  # noqa: F401 - operators register themselves
    boxes,
    contractions,
    control,
    grids,
    indexing,
    microsoft,
    pointwise,
    quantised,
    random,
    recurrent,
    reductions,
    resizing,
    sequences,
    shapes,
    signal,
)
