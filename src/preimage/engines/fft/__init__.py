"""Convolutions with large kernels by fast Fourier transforms (docs/large-kernels.md)."""
