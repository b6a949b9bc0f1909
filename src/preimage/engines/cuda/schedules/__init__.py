"""Kernels of the contractions, and the tables that they run by. Where `x.py` plans on the host, `x_kernel.py` beside it writes the code."""
