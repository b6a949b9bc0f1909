"""Convolution and its transpose, as gathers: planners and their kernels."""
