"""PyTorch, eager, on the CPU: each contraction the way a network reaches it.

`way` "conv": F.conv*d forward, its input gradient and weight gradient by autograd. "deconv": F.conv_transpose*d forward is
conv_transpose, and its gradients are conv and conv_weight_grad. Unequal padding goes through F.pad (conv) or, for the
transpose, through the smaller padding and a slice. `layout` sets the memory format of every argument.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.audit.case import Case
from preimage.audit.invalid import Invalid
from preimage.audit.subjects.base import Array, InstalledSubject, Refused

__all__ = ["TorchSubject"]


class TorchSubject(InstalledSubject):
    """torch.nn.functional in one memory layout and one direction."""

    packages = ("torch",)
    dtypes = ("float32", "float64", "float16", "bfloat16")
    takes_invalid = True

    def __init__(self, name: str, layout: str = "contiguous", way: str = "conv") -> None:
        super().__init__(name)
        self.layout, self.way = layout, way
        self.differentiates = frozenset({"gradients", "double_backward"} if way == "conv" else ())

    def refuses(self, case: Case, result: str, dtype: str) -> str | None:
        if result == "bias_grad" and self.way != "conv":
            return "asked of torch alone"
        if not 1 <= case.ndim <= 3:
            return "torch has 1 to 3 spatial axes"
        if any(min(pair) < 0 for pair in case.padding):
            return "torch takes no negative padding"
        if 0 in (*case.input_size, *case.output_size):
            return "torch refuses empty spatial axes"
        if 0 in (case.in_channels, case.out_channels):
            return "torch does not define zero channels"
        if self.way == "conv" and result in ("conv", "conv_weight_grad", "bias_grad") and not case.is_conv:
            return "no convolution gives these sizes"
        if self.way == "deconv" or (result == "conv_transpose" and not case.is_conv):
            return self._cannot_transpose(case)
        return None

    def _cannot_transpose(self, case: Case) -> str | None:
        slack = [max(s, d) for s, d in zip(case.stride, case.dilation, strict=True)]
        if any(r >= s for r, s in zip(self._output_padding(case), slack, strict=True)):
            return "torch's output_padding cannot express the unequal padding"
        if min(min(n + min(0, r) for n, r in zip(case.input_size, case.remainder, strict=True)), 1) < 1:
            return "torch refuses an empty result"
        return None

    @staticmethod
    def _output_padding(case: Case) -> list[int]:
        """With the smaller padding on both sides, what is missing at the end where hi < lo is asked as output_padding."""
        return [r + max(0, lo - hi) for r, (lo, hi) in zip(case.remainder, case.padding, strict=True)]

    def _tensor(self, a: Array, grad: bool = False) -> Any:
        t = self.library
        if a.dtype.name == "bfloat16":
            made = t.from_numpy(np.array(a, np.float32)).to(t.bfloat16)
        else:
            made = t.from_numpy(np.array(a))
        if self.layout == "channels_last" and made.ndim in (4, 5):
            made = made.to(memory_format=t.channels_last if made.ndim == 4 else t.channels_last_3d)
        return made.requires_grad_(grad)

    @staticmethod
    def _array(tensor: Any, dtype: np.dtype[Any]) -> Array:
        detached = tensor.detach()
        if dtype.name == "bfloat16":
            return np.asarray(detached.float().numpy()).astype(dtype)
        return np.array(detached.numpy())

    def _forward(self, case: Case, x: Any, w: Any, b: Any) -> Any:
        f = self.library.nn.functional
        equal = all(lo == hi for lo, hi in case.padding)
        if not equal:
            x = f.pad(x, [v for pair in reversed(case.padding) for v in pair])
        padding = tuple(lo for lo, _ in case.padding) if equal else 0
        conv = getattr(f, f"conv{case.ndim}d")
        return conv(x, w, b, stride=case.stride, padding=padding, dilation=case.dilation, groups=case.groups)

    def _backward(self, case: Case, y: Any, w: Any, b: Any) -> Any:
        f = self.library.nn.functional
        least = tuple(min(pair) for pair in case.padding)
        x = getattr(f, f"conv_transpose{case.ndim}d")(
            y, w, b, stride=case.stride, padding=least, output_padding=tuple(self._output_padding(case)),
            dilation=case.dilation, groups=case.groups,
        )  # fmt: skip
        cut = (..., *(slice(lo - p, lo - p + n) for (lo, _), p, n in zip(case.padding, least, case.input_size, strict=True)))
        return x[cut]

    def run(self, case: Case, result: str, *operands: Array, bias: Array | None = None) -> Array:
        dtype = operands[0].dtype
        b = None if bias is None else self._tensor(bias)

        def zeros(shape: tuple[int, ...]) -> Any:
            return self._tensor(np.zeros(shape, dtype), grad=True)

        forward, inner = (self._forward, "conv") if self.way == "conv" else (self._backward, "conv_transpose")
        first, second = (self._tensor(operands[0]), self._tensor(operands[1])) if len(operands) == 2 else (None, None)
        if result == inner:
            return self._array(forward(case, first, second, b), dtype)
        if result == "conv_transpose" and not case.is_conv:
            return self._array(self._backward(case, first, second, b), dtype)
        if b is not None:
            raise Refused("a gradient takes no bias")
        if result == "bias_grad":
            w, leaf = zeros(case.w_shape).detach(), zeros((case.out_channels,))
            forward(case, zeros(case.x_shape).detach(), w, leaf).backward(self._tensor(operands[0]))
        elif result == "conv_weight_grad":
            leaf = zeros(case.w_shape)
            source, cotangent = (first, second) if self.way == "conv" else (second, first)
            forward(case, source, leaf, None).backward(cotangent)
        else:
            leaf = zeros(case.x_shape if self.way == "conv" else case.y_shape)
            forward(case, leaf, second, None).backward(first)
        return self._array(leaf.grad, dtype)

    def product(self, a: Array, b: Array) -> Array:
        if self.layout != "contiguous":
            raise Refused("asked of torch alone")
        return self._array(self._tensor(a) @ self._tensor(b), a.dtype)

    def total(self, x: Array, axes: tuple[int, ...]) -> Array:
        return self._array(self._tensor(x).sum(axes), x.dtype)

    def gradients(self, case: Case, x: Array, w: Array, b: Array, gy: Array) -> tuple[Array, Array, Array, Array]:
        self._must(case, x)
        leaves = [self._tensor(a, grad=True) for a in (x, w, b)]
        y = self._forward(case, *leaves)
        y.backward(self._tensor(gy))
        return (self._array(y, x.dtype), *(self._array(leaf.grad, x.dtype) for leaf in leaves))  # type: ignore[return-value]

    def double_backward(self, case: Case, x: Array, w: Array, gy: Array, vx: Array, vw: Array) -> tuple[Array, Array, Array]:
        self._must(case, x)
        tx, tw, tg = (self._tensor(a, grad=True) for a in (x, w, gy))
        y = self._forward(case, tx, tw, None)
        gx, gw = self.library.autograd.grad(y, [tx, tw], tg, create_graph=True)
        total = (gx * self._tensor(vx)).sum() + (gw * self._tensor(vw)).sum()
        found = self.library.autograd.grad(total, [tx, tw, tg])
        return tuple(self._array(f, x.dtype) for f in found)  # type: ignore[return-value]

    def _must(self, case: Case, x: Array) -> None:
        why = self.refuses(case, "conv", x.dtype.name)
        if why is not None:
            raise Refused(why)

    def call_invalid(self, call: Invalid) -> Any:
        f, ndim = self.library.nn.functional, len(call.input_shape) - 2
        if call.why == "one axis too few" and ndim == 1:
            raise Refused("no such function")
        function = getattr(f, f"{call.op}{ndim}d")
        rng = np.random.default_rng(0)
        x, w = (
            self._tensor((rng.random(s) * 9).astype(d))
            for s, d in ((call.input_shape, call.dtype), (call.weight_shape, call.weight_dtype))
        )
        if call.why == "integers":
            raise Refused("integers are defined in torch")
        b = None if call.bias_shape is None else self._tensor(np.ones(call.bias_shape, call.dtype))
        return function(x, w, b, **call.arguments)

    def script(self, case: Case, result: str, operands: dict[str, str], bias: str | None) -> str:
        lines = ["import numpy as np", "import torch", "import torch.nn.functional as F"]
        lines += ["def as_torch(a):  # torch knows no ml_dtypes"]
        lines += [
            "    return torch.from_numpy(np.array(a, np.float32)).bfloat16() if a.dtype.name == 'bfloat16' else torch.from_numpy(np.array(a))"
        ]
        form = ""
        if self.layout == "channels_last" and case.ndim in (2, 3):
            form = f".to(memory_format=torch.channels_last{'_3d' if case.ndim == 3 else ''})"
        for name, expression in operands.items():
            lines.append(f"t{name} = as_torch({expression}){form}")
        b = f"as_torch({bias})" if bias else "None"
        way = "conv" if self.way == "conv" and (result != "conv_transpose" or case.is_conv) else "deconv"
        leaf_shape = case.result_shape(result)
        inner = "conv" if way == "conv" else "conv_transpose"
        source, weight = ("tx", "tw") if way == "conv" else ("ty", "tw")
        leaf = result != inner
        if leaf:
            same = f"dtype=t{next(iter(operands))}.dtype"
            lines.append(f"leaf = torch.zeros({leaf_shape}, {same}){form if len(leaf_shape) > 3 else ''}.requires_grad_()")
            if result == "bias_grad":
                lines += [f"tx, tw = torch.zeros({case.x_shape}), torch.zeros({case.w_shape})"]
                b = "leaf"
            elif result == "conv_weight_grad":
                weight = "leaf"
            else:
                source = "leaf"
        common = f"stride={case.stride}, dilation={case.dilation}, groups={case.groups}"
        if way == "conv":
            equal = all(lo == hi for lo, hi in case.padding)
            pads = [v for pair in reversed(case.padding) for v in pair]
            given = source if equal else f"F.pad({source}, {pads})"
            lines.append(
                f"out = F.conv{case.ndim}d({given}, {weight}, {b}, padding={tuple(p for p, _ in case.padding) if equal else 0}, {common})"
            )
        else:
            least = tuple(min(pair) for pair in case.padding)
            cut = ", ".join(f"{lo - p}:{lo - p + n}" for (lo, _), p, n in zip(case.padding, least, case.input_size, strict=True))
            lines.append(
                f"out = F.conv_transpose{case.ndim}d({source}, {weight}, {b}, padding={least},"
                f" output_padding={tuple(self._output_padding(case))}, {common})[..., {cut}]"
            )
        if leaf:
            cotangent = {"conv": "tx", "conv_transpose": "ty", "bias_grad": "ty"}.get(result) or ("ty" if way == "conv" else "tx")
            lines += [f"out.backward({cotangent})", "got = leaf.grad"]
        else:
            lines.append("got = out")
        lines.append("got = got.float().numpy() if got.dtype == torch.bfloat16 else got.numpy()")
        return "\n".join(lines)
