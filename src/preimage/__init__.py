"""preimage: convolution and transposed convolution that you can check.

Importing loads NumPy and nothing heavier; the packages below `_LATER` are imported when they are first named.
"""

from typing import TYPE_CHECKING, Any

from preimage.autograd import Tensor, enable_grad, grad, no_grad
from preimage.display import show_with
from preimage.engines import engines, plan
from preimage.errors import (
    CheckError,
    DivergedError,
    DTypeError,
    EngineError,
    FileFormatError,
    GeometryError,
    GraphError,
    MissingPackageError,
    OptionError,
    OutOfMemoryError,
    OutputError,
    PreimageError,
    ShapeError,
    SharingError,
)
from preimage.geometry import ConvGeometry
from preimage.locks import import_apart
from preimage.ops import conv, conv_transpose, conv_weight_grad, fold, fold_margin, pad, unfold
from preimage.ops.checks import check_adjoint, check_grads
from preimage.ops.conv import prepare
from preimage.settings import config

if TYPE_CHECKING:
    from preimage import analysis, audit, caffe, data, functional, io, learning, linop, nn, ops, optim, reduction, runtime
    from preimage.io import export, load_model, load_weights, optimise, save_model, save_weights
    from preimage.learning.checkpoints import load, save

__version__ = "0.1.0"

_LATER = ("analysis", "audit", "caffe", "data", "functional", "io", "learning", "linop", "nn", "optim", "reduction", "runtime")
#: Functions of those packages that stand at the top, too.
_FACES = {
    "export": "preimage.io",
    "load_model": "preimage.io",
    "load_weights": "preimage.io",
    "optimise": "preimage.io",
    "save_model": "preimage.io",
    "save_weights": "preimage.io",
    "load": "preimage.learning.checkpoints",
    "save": "preimage.learning.checkpoints",
}


# Pictures and tables for notebooks are made at the top of the package, and imported when a notebook asks.
show_with(lambda value: import_apart("preimage.report.notebook").html_of(value))


if not TYPE_CHECKING:  # a type checker knows the names from the imports above, and others as errors

    def __getattr__(name: str) -> Any:
        if name in _LATER:
            return import_apart(f"preimage.{name}")
        if name in _FACES:
            return getattr(import_apart(_FACES[name]), name)
        raise AttributeError(f"module 'preimage' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


__all__ = [
    "CheckError",
    "ConvGeometry",
    "DTypeError",
    "DivergedError",
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
    "Tensor",
    "analysis",
    "audit",
    "caffe",
    "check_adjoint",
    "check_grads",
    "config",
    "conv",
    "conv_transpose",
    "conv_weight_grad",
    "data",
    "enable_grad",
    "engines",
    "export",
    "fold",
    "fold_margin",
    "functional",
    "grad",
    "io",
    "learning",
    "linop",
    "load",
    "load_model",
    "load_weights",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "optimise",
    "pad",
    "plan",
    "prepare",
    "reduction",
    "runtime",
    "save",
    "save_model",
    "save_weights",
    "unfold",
]
