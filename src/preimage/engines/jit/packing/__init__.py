"""Copies of inputs, results and weights into the order in which kernels read: steps and their kernels."""
