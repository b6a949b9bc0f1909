"""The operations: arrays or Tensors in, the same out."""

from preimage.ops.conv import conv, conv_transpose, conv_weight_grad

__all__ = ["conv", "conv_transpose", "conv_weight_grad"]
