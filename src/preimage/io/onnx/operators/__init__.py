"""ONNX's operators, each a word `onnx.Name` of graphs: those for which `preimage.io.graph` has no word of its own."""

from preimage.io.onnx.operators import (  # noqa: F401 - operators register themselves
    boxes,
    contractions,
    control,
    counting,
    grids,
    indexing,
    labels,
    microsoft,
    ordering,
    pointwise,
    quantised,
    quantised_recurrent,
    random,
    recurrent,
    reductions,
    regions,
    resizing,
    sequences,
    shapes,
    signal,
)
