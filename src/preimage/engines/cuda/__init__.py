"""Kernels for NVIDIA GPUs, written as those of the CPU are and giving the same bits; and a simulator that runs them on any machine."""
