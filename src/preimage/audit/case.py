"""Case: the sizes of one convolution as plain numbers, with arithmetic of its own.

The audit must not inherit a mistake from what it audits, so nothing here comes from `preimage.geometry`: sizes are derived
again, from the definition that both share,

    y[n, o, p...] = sum over k..., i of  x[n, g*I + i, p*stride - lo + k*dilation] * w[o, i, k...]

with x zero outside its range. A case stores both the large side (x) and the small side (y).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import gcd, prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preimage.geometry import ConvGeometry

__all__ = ["RESULTS", "Case"]

#: What a subject computes for a case: the three contractions, and the sum of the small side over batch and space.
RESULTS = ("conv", "conv_transpose", "conv_weight_grad", "bias_grad")

_COUNTABLE = 1 << 20


@dataclass(frozen=True)
class Case:
    """One geometry: a convolution from the large side (input_size) to the small side (output_size)."""

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    label: str = ""

    @classmethod
    def of_conv(
        cls,
        batch: int,
        in_channels: int,
        out_channels: int,
        groups: int,
        input_size: tuple[int, ...],
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[tuple[int, int], ...],
        dilation: tuple[int, ...],
        label: str = "",
    ) -> Case:
        """The case whose small side holds every position at which the kernel fits on the padded large side."""
        output = []
        for n, k, s, (lo, hi), d in zip(input_size, kernel_size, stride, padding, dilation, strict=True):
            last = n + hi - 1 - (k - 1) * d  # the last place, in x's coordinates, where the first tap may lie
            if last + lo < 0:
                raise ValueError(f"a kernel of {k} with dilation {d} does not fit on {n} + {lo} + {hi}")
            output.append((last + lo) // s + 1)
        return cls(
            batch, in_channels, out_channels, groups, input_size, tuple(output), kernel_size, stride, padding, dilation, label
        )

    @classmethod
    def of_transpose(
        cls,
        batch: int,
        small_channels: int,
        large_channels: int,
        groups: int,
        small_size: tuple[int, ...],
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[tuple[int, int], ...],
        dilation: tuple[int, ...],
        output_padding: tuple[int, ...],
        label: str = "",
    ) -> Case:
        """The case that a transposed convolution reads backwards: the large size is derived from the small one."""
        large = []
        for m, k, s, (lo, hi), d, extra in zip(small_size, kernel_size, stride, padding, dilation, output_padding, strict=True):
            size = (m - 1) * s + (k - 1) * d + 1 + extra - lo - hi
            if size < 0:
                raise ValueError(f"a small side of {m} leaves {size} after padding {lo}, {hi}")
            large.append(size)
        return cls(
            batch, large_channels, small_channels, groups, tuple(large), small_size, kernel_size, stride, padding, dilation, label
        )

    # -- sizes -----------------------------------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel_size)

    @property
    def group_in(self) -> int:
        """Channels of the large side in one group."""
        return self.in_channels // self.groups

    @property
    def group_out(self) -> int:
        """Channels of the small side in one group."""
        return self.out_channels // self.groups

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, self.in_channels, *self.input_size)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.batch, self.out_channels, *self.output_size)

    @property
    def w_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.group_in, *self.kernel_size)

    def result_shape(self, result: str) -> tuple[int, ...]:
        """The shape of one of RESULTS."""
        return {
            "conv": self.y_shape,
            "conv_transpose": self.x_shape,
            "conv_weight_grad": self.w_shape,
            "bias_grad": (self.out_channels,),
        }[result]

    @cached_property
    def macs(self) -> int:
        """Multiply-adds of one contraction."""
        return self.batch * self.out_channels * self.group_in * prod(self.output_size) * prod(self.kernel_size)

    @cached_property
    def span(self) -> tuple[int, ...]:
        """How far the taps of all outputs reach along each axis: (output - 1)*stride + (kernel - 1)*dilation + 1."""
        return tuple(
            (m - 1) * s + (k - 1) * d + 1 if m else 0
            for m, k, s, d in zip(self.output_size, self.kernel_size, self.stride, self.dilation, strict=True)
        )

    @property
    def remainder(self) -> tuple[int, ...]:
        """Entries of the padded large side past the last one reached: what a transpose calls output_padding."""
        return tuple(
            n + lo + hi - ((m - 1) * s + (k - 1) * d + 1)
            for n, m, k, s, (lo, hi), d in zip(
                self.input_size,
                self.output_size,
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                strict=True,
            )
        )

    @property
    def is_conv(self) -> bool:
        """Whether a convolution of x would give exactly the stored small size."""
        return all(0 <= r < s for r, s in zip(self.remainder, self.stride, strict=True))

    @cached_property
    def terms(self) -> dict[str, int]:
        """The largest number of products that any element of each result sums: what bounds its exact integer data."""
        return {
            "conv": self.group_in * prod(self.kernel_size),
            "conv_transpose": self.group_out * prod(map(self._overlap, range(self.ndim))),
            "conv_weight_grad": self.batch * prod(self.output_size),
            "bias_grad": self.batch * prod(self.output_size),
        }

    def _overlap(self, axis: int) -> int:
        """The largest number of (position, tap) pairs that meet in one element of the large side along `axis`."""
        m, k, s, d = self.output_size[axis], self.kernel_size[axis], self.stride[axis], self.dilation[axis]
        if m * k <= _COUNTABLE:
            return max(Counter(p * s + t * d for p in range(m) for t in range(k)).values(), default=0)
        return min(m, -(-k * gcd(s, d) // s))  # taps that meet lie stride / gcd(stride, dilation) apart

    # -- to others -------------------------------------------------------------------------------------------------

    def geometry(self) -> ConvGeometry:
        """The same numbers as the library's ConvGeometry, whose own formulas are not asked. Made once."""
        return self._geometry

    @cached_property
    def _geometry(self) -> ConvGeometry:
        from preimage.geometry import ConvGeometry

        return ConvGeometry(
            batch=self.batch,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            groups=self.groups,
            input_size=self.input_size,
            output_size=self.output_size,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Case:
        """The case that `to_json` wrote, lists for tuples."""
        values: dict[str, Any] = {
            key: tuple(tuple(v) if isinstance(v, (list, tuple)) else v for v in value)
            if isinstance(value, (list, tuple))
            else value
            for key, value in data.items()
        }
        return cls(**values)

    def with_(self, **changes: Any) -> Case:
        """A copy with other fields; the sizes are taken as given."""
        return replace(self, **changes)

    def __str__(self) -> str:
        name = f"{self.label}: " if self.label else ""
        return (
            f"{name}x {self.x_shape} w {self.w_shape} y {self.y_shape} groups {self.groups} stride {self.stride}"
            f" padding {self.padding} dilation {self.dilation}"
        )
