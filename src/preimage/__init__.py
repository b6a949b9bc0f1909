"""preimage: convolution and transposed convolution that you can check."""

from preimage.autograd import Tensor, enable_grad, grad, no_grad
from preimage.engines import engines, plan
from preimage.errors import (
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
from preimage.ops import conv, conv_transpose, conv_weight_grad
from preimage.settings import config

__version__ = "0.1.0"

__all__ = [
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
    "config",
    "conv",
    "conv_transpose",
    "conv_weight_grad",
    "enable_grad",
    "engines",
    "grad",
    "no_grad",
    "plan",
]
