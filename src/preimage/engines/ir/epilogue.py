"""The epilogue of a finished sum before it is stored: + 0, bias, residual, activation or a chain of steps, one rounding.

The + 0 turns a sum of -0 (products that underflow) into +0. So the result is the same whether taps over the padding were multiplied
or left out, the sign of a zero included.
"""

from __future__ import annotations

from preimage.engines.ir.arguments import Arguments, Elements, elements
from preimage.engines.ir.builder import Bit, Int, Kernel, Num
from preimage.engines.ir.elementwise import Step, applied, number_of
from preimage.records import record

__all__ = ["EpilogueArguments", "EpilogueSpec", "finish"]


class EpilogueArguments(Arguments):
    """How the argument vector of every kernel with an epilogue begins."""

    input: Elements = elements("element")
    weight: Elements = elements("inner", default=0)
    output: Elements = elements("out")
    bias: Elements = elements("out", default=0)
    residual: Elements = elements("out", default=0)
    limits: Elements = elements("inner", default=0)  # the activation's two numbers, or the chain's


@record
class EpilogueSpec:
    """Which steps of the epilogue the code has; the numbers of the activation are arguments."""

    bias: bool = False
    residual: bool = False
    activation: str | None = None
    chain: tuple[Step, ...] = ()  # operands by index: 0 the value so far, then the numbers, then earlier steps
    numbers: int = 0  # how many the chain takes


def finish(
    f: Kernel,
    steps: EpilogueSpec,
    total: Num,
    element: str,
    at: Int,
    channel: Int,
    mask: Bit | None,
    spread: bool = False,
    align: int = 0,
) -> None:
    """Store one vector of sums at output + at; `channel` is the number of its first lane's channel (`spread`: of all).

    align: of result and residual, where it is known to be more than an element's.
    """
    args, lanes = EpilogueArguments.read(f, None), total.lanes
    value = total + f.zeros(total.dtype, lanes)
    if steps.bias:
        bias = args.pointer(EpilogueArguments.bias, element).at(channel)
        value = value + (bias.splat(lanes) if spread else bias.load(lanes, mask))
    if steps.residual:
        value = value + args.pointer(EpilogueArguments.residual, element).at_bytes(at).load(lanes, mask, align)
    if steps.activation is not None:
        limits = args.pointer(EpilogueArguments.limits, total.dtype)
        first = limits.splat(lanes)
        if steps.activation == "relu":
            zero = f.zeros(total.dtype, lanes)
            value = value.is_below(zero).select(zero, value)
        elif steps.activation == "leaky_relu":
            value = value.is_below(f.zeros(total.dtype, lanes)).select(value * first, value)
        else:  # clip
            last = limits.at(1).splat(lanes)
            value = value.is_below(first).select(first, value)
            value = value.is_above(last).select(last, value)
    if steps.chain:
        limits = args.pointer(EpilogueArguments.limits, total.dtype)
        values: list[Num | Bit] = [value, *(limits.at(k).splat(lanes) for k in range(steps.numbers))]
        for word, places in steps.chain:
            values.append(applied(f, word, [values[p] for p in places], total.dtype))
        value = number_of(values[-1], total.dtype)
    args.pointer(EpilogueArguments.output, element).at_bytes(at).store(value, mask, align)
