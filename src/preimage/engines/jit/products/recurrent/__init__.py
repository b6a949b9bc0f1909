"""Recurrent layers: a kernel that runs all steps of one direction (`cell_kernel.py`), and what it is given (`layer.py`)."""

from preimage.engines.jit.products.recurrent.layer import run_directions

__all__ = ["run_directions"]
