"""TensorFlow on the CPU: tf.nn.convolution in channels-last, which its CPU kernels want; gradients by tf.GradientTape."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.audit.case import Case
from preimage.audit.subjects.base import Array, InstalledSubject, Refused

__all__ = ["TensorflowSubject"]


class TensorflowSubject(InstalledSubject):
    """tf.nn.convolution over an explicitly padded input; the two gradients by the tape."""

    packages = ("tensorflow",)
    dtypes = ("float32", "float64")

    def refuses(self, case: Case, result: str, dtype: str) -> str | None:
        del dtype
        if not 1 <= case.ndim <= 3:
            return "tensorflow has 1 to 3 spatial axes"
        if result == "bias_grad":
            return "asked of the library, not of its convolution"
        if not case.is_conv:
            return "no convolution gives these sizes"
        if any(s > 1 for s in case.stride) and any(d > 1 for d in case.dilation):
            return "tf.nn.convolution takes strides or dilations, not both"
        if 0 in (*case.x_shape, *case.y_shape):
            return "empty arrays are not asked"
        if case.groups > 1 and case.ndim != 2:
            return "grouped convolutions have two axes"
        if len(set(case.stride)) > 1 and case.groups > 1:
            return "grouped convolutions have equal strides"
        return None

    def _layer(self, case: Case) -> Any:
        tf = self.library
        high = [(max(0, lo), max(0, hi)) for lo, hi in case.padding]
        cut = [(max(0, -lo), max(0, -hi)) for lo, hi in case.padding]

        def layer(x: Any, w: Any) -> Any:
            x = x[(slice(None), *(slice(a, n - b) for (a, b), n in zip(cut, case.input_size, strict=True)), slice(None))]
            x = tf.pad(x, [(0, 0), *high, (0, 0)])
            order = {1: "NWC", 2: "NHWC", 3: "NDHWC"}[case.ndim]  # said, or the gradient in three axes fails to read it (2.21)
            return tf.nn.convolution(
                x, w, strides=list(case.stride), padding="VALID", dilations=list(case.dilation), data_format=order
            )

        return layer

    def run(self, case: Case, result: str, *operands: Array, bias: Array | None = None) -> Array:
        if bias is not None:
            raise Refused("the bias is another operation")
        try:
            return self._run(case, result, *operands)
        except (self.library.errors.UnimplementedError, self.library.errors.InvalidArgumentError) as error:
            if "not supported" in error.message or isinstance(error, self.library.errors.UnimplementedError):
                raise Refused(str(error.message).split(". ")[0].split("}} ")[-1]) from None
            raise

    def _run(self, case: Case, result: str, *operands: Array) -> Array:
        tf, dtype = self.library, operands[0].dtype

        def last(a: Array) -> Any:
            return tf.constant(np.ascontiguousarray(np.moveaxis(a, 1, -1)))

        def taps(w: Array) -> Any:
            return tf.constant(np.ascontiguousarray(np.moveaxis(w, (0, 1), (-1, -2))))

        layer = self._layer(case)
        if result == "conv":
            return np.moveaxis(layer(last(operands[0]), taps(operands[1])).numpy(), -1, 1)
        with tf.GradientTape() as tape:
            if result == "conv_transpose":
                leaf = tf.Variable(last(np.zeros(case.x_shape, dtype)))
                y = layer(leaf, taps(operands[1]))
            else:
                leaf = tf.Variable(taps(np.zeros(case.w_shape, dtype)))
                y = layer(last(operands[0]), leaf)
        grad = tape.gradient(y, leaf, last(operands[0] if result == "conv_transpose" else operands[1])).numpy()
        return np.moveaxis(grad, -1, 1) if result == "conv_transpose" else np.moveaxis(grad, (-1, -2), (0, 1))
