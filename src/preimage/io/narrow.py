"""bfloat16, which NumPy has from a package of its own."""

from __future__ import annotations

from typing import Any

from preimage.errors import FileFormatError

__all__ = ["bfloat16"]


def bfloat16() -> Any:
    """The type. Raises: FileFormatError that names the package where it is not installed."""
    try:
        from ml_dtypes import bfloat16 as found
    except ImportError as error:
        raise FileFormatError("arrays of bfloat16 need the package ml_dtypes: pip install 'preimage[bfloat16]'") from error
    return found
