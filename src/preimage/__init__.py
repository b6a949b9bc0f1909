"""preimage: convolution and transposed convolution that you can check."""

from preimage.autograd import Tensor, enable_grad, grad, no_grad
from preimage.engines import engines, plan
from preimage.errors import (
    CheckError,
    DTypeError,
    EngineError,
    FileFormatError,
    GeometryError,
    GraphError,
    OptionError,
    PreimageError,
    ShapeError,
)
from preimage.geometry import ConvGeometry
from preimage.ops import conv, conv_transpose, conv_weight_grad, fold, fold_margin, pad, unfold
from preimage.ops.checks import check_adjoint, check_grads
from preimage.settings import config

from preimage import linop  # isort: skip - built on all of the above

__version__ = "0.1.0"

__all__ = [
    "CheckError",
    "ConvGeometry",
    "DTypeError",
    "EngineError",
    "FileFormatError",
    "GeometryError",
    "GraphError",
    "OptionError",
    "PreimageError",
    "ShapeError",
    "Tensor",
    "check_adjoint",
    "check_grads",
    "config",
    "conv",
    "conv_transpose",
    "conv_weight_grad",
    "enable_grad",
    "engines",
    "fold",
    "fold_margin",
    "grad",
    "linop",
    "no_grad",
    "pad",
    "plan",
    "unfold",
]
