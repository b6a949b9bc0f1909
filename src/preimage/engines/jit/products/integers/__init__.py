"""Contractions of 8-bit integers as the engine offers them (`engines.integers.IntegerKernels`): exact sums, scaled and rounded as they are stored."""

from preimage.engines.jit.products.integers.call import JitIntegers

__all__ = ["JitIntegers"]
