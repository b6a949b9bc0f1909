"""Convolutions with large kernels by fast Fourier transforms (docs/fast.md)."""
