"""JAX on the CPU: lax.conv_general_dilated, its two transposes by jax.vjp, and the transpose spelt with lhs_dilation."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.audit.case import Case
from preimage.audit.subjects.base import Array, InstalledSubject, Refused

__all__ = ["JaxSubject"]


class JaxSubject(InstalledSubject):
    """lax.conv_general_dilated; the gradients are its transpose rules."""

    packages = ("jax",)
    dtypes = ("float32", "float16", "bfloat16")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        if self.library is not None:
            self.library.config.update("jax_platforms", "cpu")

    def refuses(self, case: Case, result: str, dtype: str) -> str | None:
        del dtype
        if not case.is_conv and result != "conv_transpose":
            return "no convolution gives these sizes"
        if result == "bias_grad":
            return "has no bias"
        if 0 in (case.in_channels, case.out_channels):
            return "zero channels are refused"
        return None

    def _conv(self, case: Case) -> Any:
        lax = self.library.lax
        return lambda x, w: lax.conv_general_dilated(
            x,
            w,
            window_strides=case.stride,
            padding=case.padding,
            rhs_dilation=case.dilation,
            feature_group_count=case.groups,
            precision=lax.Precision.HIGHEST,
        )

    def _transpose(self, case: Case, y: Any, w: Any) -> Any:
        """The transpose as a convolution over y with zeros between its entries, the kernel flipped, channels swapped."""
        lax, np_ = self.library.lax, self.library.numpy
        flipped = np_.flip(w, axis=tuple(range(2, w.ndim))).reshape(case.groups, case.group_out, case.group_in, *case.kernel_size)
        swapped = np_.swapaxes(flipped, 1, 2).reshape(case.in_channels, case.group_out, *case.kernel_size)
        pads = [
            ((k - 1) * d - lo, (k - 1) * d - hi + r)
            for k, d, (lo, hi), r in zip(case.kernel_size, case.dilation, case.padding, case.remainder, strict=True)
        ]
        return lax.conv_general_dilated(
            y,
            swapped,
            window_strides=(1,) * case.ndim,
            padding=pads,
            lhs_dilation=case.stride,
            rhs_dilation=case.dilation,
            feature_group_count=case.groups,
            precision=lax.Precision.HIGHEST,
        )

    def run(self, case: Case, result: str, *operands: Array, bias: Array | None = None) -> Array:
        if bias is not None:
            raise Refused("has no bias")
        np_ = self.library.numpy
        a, b = (np_.asarray(np.ascontiguousarray(o)) for o in operands)
        dtype = operands[0].dtype
        with np.errstate(all="ignore"):
            if result == "conv":
                return np.asarray(self._conv(case)(a, b))
            if result == "conv_transpose":
                if not case.is_conv:
                    return np.asarray(self._transpose(case, a, b))
                _, back = self.library.vjp(lambda x: self._conv(case)(x, b), np_.zeros(case.x_shape, dtype))
                return np.asarray(back(a)[0])
            _, back = self.library.vjp(lambda w: self._conv(case)(a, w), np_.zeros(case.w_shape, dtype))
            return np.asarray(back(b)[0])

    def product(self, a: Array, b: Array) -> Array:
        return np.asarray(self.library.numpy.matmul(a, b, precision=self.library.lax.Precision.HIGHEST))

    def total(self, x: Array, axes: tuple[int, ...]) -> Array:
        return np.asarray(self.library.numpy.sum(x, axis=axes))

    def script(self, case: Case, result: str, operands: dict[str, str], bias: str | None) -> str:
        names = list(operands.values())
        conv = (
            f"lambda x, w: lax.conv_general_dilated(x, w, {case.stride}, {case.padding}, rhs_dilation={case.dilation},"
            f" feature_group_count={case.groups}, precision=lax.Precision.HIGHEST)"
        )
        lines = ["import numpy as np", "import jax", "from jax import lax", "import jax.numpy as jnp", f"conv = {conv}"]
        if result == "conv":
            lines.append(f"got = conv({', '.join(names)})")
        elif result == "conv_transpose":
            lines.append(
                f"got = jax.vjp(lambda x: conv(x, {names[1]}), jnp.zeros({case.x_shape}))[1](jnp.asarray({names[0]}))[0]"
            )
        else:
            lines.append(
                f"got = jax.vjp(lambda w: conv({names[0]}, w), jnp.zeros({case.w_shape}))[1](jnp.asarray({names[1]}))[0]"
            )
        return "\n".join(lines)
