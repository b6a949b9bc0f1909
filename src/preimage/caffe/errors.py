"""Errors that are also of the built-in class that scripts for pycaffe catch."""

from __future__ import annotations

from preimage.errors import FileFormatError, OptionError, ShapeError
from preimage.io.caffe.python_layers import LayerError

__all__ = ["LayerError", "MemoryDataError", "MissingFileError", "TopTypeError"]


class MissingFileError(FileFormatError, RuntimeError):
    """A file that cannot be opened; pycaffe raises a RuntimeError."""


class TopTypeError(OptionError, TypeError):
    """What was given as a layer's bottom is no top of a layer."""


class MemoryDataError(ShapeError, RuntimeError):
    """Arrays that a MemoryData layer cannot take."""
