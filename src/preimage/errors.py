"""The errors of the library: every one is a PreimageError and says what came, what was wanted, what would do.

They also inherit the built-in class that a NumPy user would try to catch.
"""

__all__ = [
    "CheckError",
    "DTypeError",
    "DivergedError",
    "DomainError",
    "EngineError",
    "FileFormatError",
    "GeometryError",
    "GraphError",
    "MissingPackageError",
    "OptionError",
    "OutOfMemoryError",
    "OutputError",
    "PreimageError",
    "ShapeError",
    "SharingError",
]


class PreimageError(Exception):
    """Base of every error that the library raises on purpose."""


class ShapeError(PreimageError, ValueError):
    """Array shapes that do not belong together."""


class GeometryError(ShapeError):
    """A convolution geometry that cannot be: the message names the axis, the numbers and the nearest valid value."""


class DTypeError(PreimageError, TypeError):
    """An array or tensor of a type that the operation does not take."""


class DivergedError(PreimageError, ArithmeticError):
    """A training run whose loss or gradients became NaN or infinite: says at which step, and where it began."""


class DomainError(PreimageError, ValueError):
    """Values for which a function is not defined, such as a probability above 1."""


class OptionError(PreimageError, ValueError):
    """An option whose value is not one of those allowed."""


class OutOfMemoryError(PreimageError, MemoryError):
    """There is not enough memory for what was asked; says how much was wanted and how much there is."""


class EngineError(PreimageError, RuntimeError):
    """An engine asked for by name that cannot run here, or cannot run this."""


class GraphError(PreimageError, RuntimeError):
    """A misuse of the computation DAG: second backward, changed saved array, no path to the leaf."""


class CheckError(PreimageError, AssertionError):
    """A check of gradients or adjoints that found a difference; says where, how large, and what was allowed."""


class SharingError(PreimageError, BufferError):
    """An array that another library cannot take where it lies; says what can be given to it instead."""


class FileFormatError(PreimageError, ValueError):
    """A file that is not what it should be; names the file and the place."""


class OutputError(PreimageError, OSError):
    """A file or folder that could not be written: the place, the disk, or something that is there already."""


class MissingPackageError(PreimageError, ImportError):
    """Something asked for needs a package that is not installed; says which, and how to install it."""
