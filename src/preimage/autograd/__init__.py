"""The graph machine: Tensors, the DAG that they record, and its reverse sweep. It knows no operation.

An operation is declared by `primitive` in preimage.ops: a forward function on arrays and one rule per argument.
"""

from preimage.autograd.arrays import as_array, fitted, is_real, refuse_masked
from preimage.autograd.backward import backward, grad
from preimage.autograd.modes import enable_grad, is_grad_enabled, no_grad, observe
from preimage.autograd.primitive import Primitive, Spec, primitive, primitives
from preimage.autograd.tensor import Tensor, array_of, install_methods, is_tensor

__all__ = [
    "Primitive",
    "Spec",
    "Tensor",
    "array_of",
    "as_array",
    "backward",
    "enable_grad",
    "fitted",
    "grad",
    "install_methods",
    "is_grad_enabled",
    "is_real",
    "is_tensor",
    "no_grad",
    "observe",
    "primitive",
    "primitives",
    "refuse_masked",
]
