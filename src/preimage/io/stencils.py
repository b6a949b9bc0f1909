"""Stencils to and from safetensors files: the array "stencils" (K, C, k, k), and how they were learned, as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.files import save_weights

__all__ = ["load_stencils", "save_stencils"]

Array = NDArray[Any]


def save_stencils(path: str | Path, stencils: Array, notes: dict[str, Any]) -> None:
    """Write the stencils and notes about them (anything that `str` tells)."""
    save_weights({"stencils": stencils}, path, {k: str(v) for k, v in notes.items()})


def load_stencils(path: str | Path) -> tuple[Array, dict[str, str]]:
    """The stencils (K, C, k, k) as float32, and the notes.

    Raises: FileFormatError for a file that is missing, is no safetensors file or holds no square stencils.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.is_dir():
        path = path / "stencils.safetensors"
    if not path.is_file():
        raise FileFormatError(f"{path}: there is no such file")
    try:
        with safe_open(str(path), "numpy") as file:
            names = list(file.keys())
            if "stencils" not in names:
                raise FileFormatError(f"{path}: holds {', '.join(names) or 'nothing'}, but no array called 'stencils'")
            stencils, notes = file.get_tensor("stencils"), dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{path}: is no readable safetensors file: {error}") from None
    if stencils.ndim != 4 or stencils.shape[2] != stencils.shape[3] or not stencils.size or stencils.shape[1] not in (1, 3):
        raise FileFormatError(f"{path}: stencils are (K, 1 or 3, k, k), these are {stencils.shape}")
    if stencils.dtype.kind != "f" or not np.isfinite(stencils).all():
        raise FileFormatError(f"{path}: the stencils are not finite floating-point numbers")
    return stencils.astype(np.float32), notes
