"""Linear operators: convolution as a matrix that is never written down.

A = linop.Conv(w, input_size=(256, 256), stride=2)
y = A @ x;  x = A.T @ y;  (A.T @ A + 0.1 * linop.Identity(A.input_shape)) @ x;  A.to_scipy();  A.norm()
"""

from preimage.linop.conv import Conv
from preimage.linop.operator import Adjoint, Compose, Operator, Scaled, Sum
from preimage.linop.simple import Diagonal, Identity, Pad

__all__ = ["Adjoint", "Compose", "Conv", "Diagonal", "Identity", "Operator", "Pad", "Scaled", "Sum"]
