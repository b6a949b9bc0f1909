"""Linear operators: convolution as a matrix that is never written down.

A = linop.Conv(w, input_size=(256, 256), stride=2)
y = A @ x;  x = A.T @ y;  (A.T @ A + 0.1 * linop.Identity(A.input_shape)) @ x;  A.to_scipy();  A.norm()
"""

from preimage.linop.conv import Conv
from preimage.linop.differences import Gradient, Laplacian
from preimage.linop.foreign import Foreign, aslinearoperator
from preimage.linop.operator import Adjoint, Compose, Operator, Scaled, Sum
from preimage.linop.simple import Diagonal, Identity, Pad
from preimage.linop.stacks import BlockDiag, HStack, VStack

__all__ = [
    "Adjoint",
    "BlockDiag",
    "Compose",
    "Conv",
    "Diagonal",
    "Foreign",
    "Gradient",
    "HStack",
    "Identity",
    "Laplacian",
    "Operator",
    "Pad",
    "Scaled",
    "Sum",
    "VStack",
    "aslinearoperator",
]


def __dir__() -> list[str]:
    """The public names; modules lie behind them."""
    return sorted(__all__)
