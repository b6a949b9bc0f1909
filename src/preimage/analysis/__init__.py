"""What a layer or network does to sizes, fields, memory and values: numbers, no drawing."""

from preimage.analysis.sums import Sum, Term
from preimage.analysis.tracing import Frame, LayerTrace, Stroke, trace, trace_conv, trace_conv_transpose, trace_linear

__all__ = ["Frame", "LayerTrace", "Stroke", "Sum", "Term", "trace", "trace_conv", "trace_conv_transpose", "trace_linear"]
