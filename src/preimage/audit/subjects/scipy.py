"""SciPy: scipy.signal.correlate and convolve, channel by channel, directly or by FFT.

Strides and dilations are what they mean: a kernel with zeros between its taps, every stride-th value of a result.
"""

from __future__ import annotations

import numpy as np

from preimage.audit.case import Case
from preimage.audit.subjects.base import Array, InstalledSubject, Refused

__all__ = ["ScipySubject"]


class ScipySubject(InstalledSubject):
    """scipy.signal's N-dimensional correlation and convolution by `method`."""

    packages = ("scipy.signal",)
    dtypes = ("float32", "float64")

    def __init__(self, name: str, method: str = "direct") -> None:
        super().__init__(name)
        self.method = method

    def refuses(self, case: Case, result: str, dtype: str) -> str | None:
        del dtype
        if result == "bias_grad":
            return "has no bias"
        if case.ndim < 1:
            return "has at least one axis"
        if 0 in (*case.x_shape, *case.y_shape):
            return "empty arrays are not asked"
        if any(min(pair) < 0 for pair in case.padding):
            return "negative padding is a slice, not asked"
        if case.batch * case.out_channels * case.group_in > 600:
            return "one call a pair of channels: too many pairs"
        return None

    def run(self, case: Case, result: str, *operands: Array, bias: Array | None = None) -> Array:
        if bias is not None:
            raise Refused("has no bias")
        out = np.zeros(case.result_shape(result), operands[0].dtype)
        for o in range(case.out_channels):
            for i in range(case.group_in):
                c = o // case.group_out * case.group_in + i
                for n in range(case.batch):
                    if result == "conv":
                        out[n, o] += self._conv(case, operands[0][n, c], operands[1][o, i])
                    elif result == "conv_transpose":
                        out[n, c] += self._transpose(case, operands[0][n, o], operands[1][o, i])
                    else:
                        out[o, i] += self._weights(case, operands[0][n, c], operands[1][n, o])
        return out

    def _spread(self, a: Array, by: tuple[int, ...]) -> Array:
        """Zeros between the entries."""
        wide = np.zeros([(n - 1) * s + 1 for n, s in zip(a.shape, by, strict=True)], a.dtype)
        wide[tuple(slice(None, None, s) for s in by)] = a
        return wide

    def _pad(self, case: Case, x: Array) -> Array:
        padded = np.pad(x, case.padding)
        return padded[tuple(slice(0, n) for n in case.span)]

    def _conv(self, case: Case, x: Array, w: Array) -> Array:
        full = self.library.correlate(self._pad(case, x), self._spread(w, case.dilation), mode="valid", method=self.method)
        return np.asarray(full[tuple(slice(None, None, s) for s in case.stride)])

    def _transpose(self, case: Case, y: Array, w: Array) -> Array:
        full = self.library.convolve(
            self._spread(y, case.stride), self._spread(w, case.dilation), mode="full", method=self.method
        )
        out = np.zeros(case.input_size, y.dtype)
        target, source = [], []
        for n, reach, (lo, _) in zip(case.input_size, full.shape, case.padding, strict=True):
            last = max(min(n, reach - lo), 0)
            target.append(slice(0, last))
            source.append(slice(lo, lo + last))
        out[tuple(target)] = full[tuple(source)]
        return out

    def _weights(self, case: Case, x: Array, y: Array) -> Array:
        full = self.library.correlate(self._pad(case, x), self._spread(y, case.stride), mode="valid", method=self.method)
        return np.asarray(full[tuple(slice(None, None, d) for d in case.dilation)])

    def script(self, case: Case, result: str, operands: dict[str, str], bias: str | None) -> str:
        call = ", ".join(operands.values())
        return "\n".join(
            [
                "import numpy as np",
                "from preimage.audit.case import Case",
                "from preimage.audit.subjects.scipy import ScipySubject",
                f"case = {case.with_(label='')!r}",
                f"got = ScipySubject('scipy', {self.method!r}).run(case, {result!r}, {call})",
            ]
        )
