"""Errors that are also of the built-in class that scripts for pycaffe catch."""

from __future__ import annotations

from preimage.errors import FileFormatError, OptionError, PreimageError, ShapeError

__all__ = ["LayerError", "MemoryDataError", "MissingFileError", "TopTypeError"]


class MissingFileError(FileFormatError, RuntimeError):
    """A file that cannot be opened; pycaffe raises a RuntimeError."""


class TopTypeError(OptionError, TypeError):
    """What was given as a layer's bottom is no top of a layer."""


class LayerError(PreimageError, RuntimeError):
    """A Python layer that cannot be found, made or used."""


class MemoryDataError(ShapeError, RuntimeError):
    """Arrays that a MemoryData layer cannot take."""
