"""What is done with exact sums before they are stored: nothing; scaled; or scaled, rounded, moved to the zero point, held within the type's range."""

from __future__ import annotations

from preimage.engines.ir.builder import Bit, Int, Kernel, Num
from preimage.engines.ir.elementwise import WORDS
from preimage.engines.ir.types import type_of
from preimage.engines.jit.products.integers.depthwise_arguments import DepthwiseArguments, DepthwiseSpec
from preimage.engines.jit.products.integers.product_arguments import ProductArguments, ProductSpec
from preimage.engines.jit.products.integers.words_kernel import extended, narrowed, plus

__all__ = ["Finishing"]


class Finishing:
    """The last steps of a kernel, by its spec and its arguments."""

    def __init__(self, f: Kernel, spec: ProductSpec | DepthwiseSpec, args: ProductArguments | DepthwiseArguments) -> None:
        self.f, self.spec, self.args = f, spec, args
        if spec.finish == "requantised":
            zero = extended(f, args.zero.load(), not spec.unsigned)
            self.start = Num(f, f.let(f"sitofp {zero.typed} to float"), "f32", 1).splat(spec.lanes)

    def stored(self, value: Num) -> Num:
        """A value in the type of the result."""
        return narrowed(self.f, value, "i8") if self.spec.kind == "i8" else value

    def finished(self, sums: Num, channel: Int, mask: Bit | None) -> Num:
        """What is stored: int32 numbers, which are within 8 bits where these are wanted, or float32 ones. channel: of the first lane."""
        f, spec, args = self.f, self.spec, self.args
        lanes = spec.lanes
        if spec.bias and spec.finish != "scaled":
            sums = plus(f, sums, args.bias.at(channel).load(lanes, mask))
        if spec.finish == "int32":
            return sums
        wide = Num(f, f.let(f"sitofp {sums.typed} to {type_of('f32', lanes)}"), "f32", lanes)
        factor = args.factor.at(channel).load(lanes, mask) if spec.factors else args.factor.splat(lanes)
        wide = wide * factor
        if spec.finish == "scaled":
            return wide + args.bias.at(channel).load(lanes, mask) if spec.bias else wide
        low, high = (f.const("f32", lanes, end) for end in ((0.0, 255.0) if spec.unsigned else (-128.0, 127.0)))
        held = WORDS["clip"](f, WORDS["round"](f, wide) + self.start, low, high)
        number: Num = held.is_nan().select(f.zeros("f32", lanes), held)
        return Num(f, f.let(f"fptosi {number.typed} to {type_of('i32', lanes)}"), "i32", lanes)
