"""Depthwise convolution, its transpose and its weight gradient: planners and their kernels."""
