"""Windows along an axis behind which few elements lie, as behind the last axis: (outer, size, inner) -> (outer, outputs, inner).

    for each outer:
        for outputs before `first` and from `last` on: element by element, over the taps that lie inside
        for vectors of the outputs between:            taps are neighbours `step` apart, where windows advance by one

The order of the taps, and so the bits, are those of space_kernel.PoolSpec.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, Records, elements
from preimage.engines.ir.builder import Bit, Int, Kernel, Ptr
from preimage.engines.jit.elementwise.space_kernel import Window, joined, start_of
from preimage.engines.jit.elementwise.vectors import Vectors
from preimage.records import record

__all__ = ["PoolRowsArguments", "PoolRowsSpec", "build"]


class PoolRowsArguments(Arguments):
    """A task is `share` of the outers. Whole windows, from `first` to `last` - 1, begin at `begin` plus their number."""

    x: Elements = elements("element")
    result: Elements = elements("element")
    windows: Records[Window]  # of every output
    size: Integer
    outputs: Integer
    inner: Integer
    step: Integer  # between taps
    taps: Integer
    first: Integer
    last: Integer
    begin: Integer
    outers: Integer
    share: Integer


@record
class PoolRowsSpec:
    """mode: "max" or "sum", as in PoolSpec."""

    arguments: ClassVar = PoolRowsArguments

    element: str
    lanes: int
    mode: str

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: PoolRowsSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = PoolRowsArguments.read(f, spec)
    inner = args.inner
    top = f.task * args.share
    with f.loop(top, (top + args.share).minimum(args.outers)) as outer:
        source, target = args.x.at(outer.index * (args.size * inner)), args.result.at(outer.index * (args.outputs * inner))
        _alone(f, spec, args, source, target, 0, args.first)
        _alone(f, spec, args, source, target, args.last, args.outputs)

        def body(i: Int, mask: Bit | None) -> None:
            step, line = args.step * inner, source.at(i + args.begin * inner)
            with f.loop(0, args.taps, carry=[start_of(f, spec.element, spec.lanes, spec.mode)]) as tap:
                tap.carry = [joined(spec.mode, tap.carry[0], line.at(tap.index * step).load(spec.lanes, mask))]
            target.at(i).store(tap.result[0], mask)

        Vectors(f, spec.lanes).run(args.first * inner, args.last * inner, body)
    return f.ir()


def _alone(f: Kernel, spec: PoolRowsSpec, args: PoolRowsArguments, source: Ptr, target: Ptr, first: Int | int, last: Int) -> None:
    """Outputs first .. last - 1, element by element."""
    inner, step = args.inner, args.step * args.inner
    with f.loop(first, last) as o:
        window = args.windows[o.index]
        taps, line, to = window.taps, source.at(window.first * inner), target.at(o.index * inner)
        with f.loop(0, inner) as c:
            with f.loop(0, taps, carry=[start_of(f, spec.element, 1, spec.mode)]) as tap:
                tap.carry = [joined(spec.mode, tap.carry[0], line.at(tap.index * step + c.index).load())]
            to.at(c.index).store(tap.result[0])
