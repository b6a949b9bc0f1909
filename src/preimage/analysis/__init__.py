"""What a layer or a net does to sizes, fields, memory and values: numbers, no drawing.

analyse(net, shape)        a whole net: fields, grids, flop, memory                (network.py)
coverage(geometry)         how many taps land on each cell; checkerboards          (coverage.py), their cures (cures.py)
trace(layer, x)            the real computation, step by step                      (tracing.py)
why, reach, first_nan      what made this number, what it reaches, where NaN began (numbers.py)
im2col, layer_matrix       the layer as a matrix product and as one sparse matrix  (matrix.py)
spell, translate           layers as PyTorch, Keras, JAX, ONNX and Caffe write them (spellings/)
"""

from preimage.analysis.coverage import AxisCoverage, Coverage, coverage, measured_energy, phase_sums, weight_energy
from preimage.analysis.cures import ResizeConv, deconv_of_resize, icnr, resize_conv, unity
from preimage.analysis.matrix import Gemm, SparseMatrix, gemm, layer_matrix
from preimage.analysis.network import Layer, Network, analyse
from preimage.analysis.numbers import Born, Entries, Why, first_nan, reach, why
from preimage.analysis.sums import Sum, Term
from preimage.analysis.tracing import Frame, LayerTrace, Stroke, trace, trace_conv, trace_conv_transpose, trace_linear

__all__ = [
    "AxisCoverage",
    "Born",
    "Coverage",
    "Entries",
    "Frame",
    "Gemm",
    "Layer",
    "LayerTrace",
    "Network",
    "ResizeConv",
    "SparseMatrix",
    "Stroke",
    "Sum",
    "Term",
    "Why",
    "analyse",
    "coverage",
    "deconv_of_resize",
    "first_nan",
    "gemm",
    "icnr",
    "layer_matrix",
    "measured_energy",
    "phase_sums",
    "reach",
    "resize_conv",
    "trace",
    "trace_conv",
    "trace_conv_transpose",
    "trace_linear",
    "unity",
    "weight_energy",
    "why",
]
