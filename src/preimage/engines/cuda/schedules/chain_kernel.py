"""A chain of elementwise steps on arrays that lie anyhow, in one pass: each thread takes every n-th element of the result.

    for element in this thread's elements of the results
        place in every array, by dividing the element's number by the sizes of the axes
        values = operands there;  for each step: values += [step(values)];  results there = values

The words of the steps are those of the CPU's kernels (`ir/elementwise.py`), and so are their bits. Without steps it copies.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from preimage.engines.cuda.device import Target
from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.ir import elements as memory
from preimage.engines.ir.arguments import Arguments, Elements, Integer, Words, elements
from preimage.engines.ir.builder import Bit, Int, Num, Ptr
from preimage.engines.ir.elementwise import Step, applied
from preimage.records import record

__all__ = ["ChainSpec", "chain_arguments"]


class _ChainArguments(Arguments):
    """Beside these, for every array a (operands, then results) array_a, and for every axis k size_k and, in elements, stride_a_k."""

    numbers: Elements = elements("dtype")
    count: Integer  # elements of a result


@cache
def chain_arguments(axes: int, arrays: int) -> type[Any]:
    names: dict[str, Any] = {f"array_{a}": Words for a in range(arrays)}
    names |= {f"size_{k}": Integer for k in range(axes)}
    names |= {f"stride_{a}_{k}": Integer for a in range(arrays) for k in range(axes)}
    return type(f"ChainArguments{axes}x{arrays}", (_ChainArguments,), {"__annotations__": names, "__module__": __name__})


@record
class ChainSpec:
    """What the code depends on. operands, results: element types; places: of the values that are stored; dtype: what is computed in."""

    axes: int
    dtype: str
    operands: tuple[str, ...]
    numbers: int
    steps: tuple[Step, ...]
    places: tuple[int, ...]
    results: tuple[str, ...]

    threads: ClassVar[int] = 256
    shared_bytes: ClassVar[int] = 0

    @property
    def arguments(self) -> type[Any]:
        return chain_arguments(self.axes, len(self.operands) + len(self.results))

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(f"array_{len(self.operands) + k}" for k in range(len(self.results)))

    def ir(self, target: Target) -> str:
        f = GpuKernel(target, self)
        args = self.arguments.read(f, self)
        numbers = [args.numbers.at(k).load() for k in range(self.numbers)]
        arrays = [
            args.pointer(args.fields[f"array_{a}"], memory.memory_element(e)) for a, e in enumerate(self.operands + self.results)
        ]
        first = f.block(0).wide() * self.threads + f.thread_number.wide()
        with f.loop(first, f.long_number("count"), f.grid.wide() * self.threads) as element:
            places = self._places(f, arrays, element.index)
            values: list[Num | Bit] = [
                memory.load(place, kind, self.dtype, 1) for place, kind in zip(places, self.operands, strict=False)
            ]
            values += numbers
            for word, operands in self.steps:
                values.append(applied(f, word, [values[p] for p in operands], self.dtype))
            for place, kind, value in zip(places[len(self.operands) :], self.results, self.places, strict=True):
                memory.store(place, kind, values[value], self.dtype)
        return f.module()

    def _places(self, f: GpuKernel, arrays: list[Ptr], element: Int) -> list[Ptr]:
        """Where the element lies in every array."""
        rest, index = element, []
        for k in reversed(range(1, self.axes)):
            size = f.long_number(f"size_{k}")
            above = rest // size
            index.append(rest - above * size)
            rest = above
        index = [rest, *reversed(index)]
        found = []
        for a, array in enumerate(arrays):
            for k, i in enumerate(index):
                array = array.at(i * f.long_number(f"stride_{a}_{k}"))
            found.append(array)
        return found
