"""Kernels that are no contractions: fused pointwise steps, sums, softmax, pooling, resizing, concatenation."""
