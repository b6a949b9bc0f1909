"""How the tiles of a product read B: a panel's columns where they lie, or copied by the thread that reads them (see `tile_kernel`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preimage.engines.ir.builder import ELEMENT_BYTES, LINE_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.products.tile_arguments import TileArguments
from preimage.engines.jit.products.transpose import across

if TYPE_CHECKING:
    from preimage.engines.jit.products.tile_kernel import TileSpec

__all__ = ["column_starts", "copy_lines", "copy_transposed", "first_column", "line_of"]

COPIED_LINES = 4
LINES_AHEAD = 8  # of a B that is copied from far


def first_column(f: Kernel, spec: TileSpec, panel: Int) -> Int:
    return f.i64(0) if spec.masked else (panel * spec.width).minimum(TileArguments.read(f, spec).columns - spec.width)


def copy_lines(f: Kernel, spec: TileSpec, b: Ptr, local: Ptr, first: Int, end: Int, panel_0: Int, panel_1: Int) -> None:
    """The chunk's part of all the task's panels to the thread's own memory: along the lines of B, as they lie, a few side by side."""
    args = TileArguments.read(f, spec)
    whole = end - (end - first) % COPIED_LINES
    for start, stop, count in ((first, whole, COPIED_LINES), (whole, end, 1)):
        with f.loop(start, stop, count) as k, f.loop(panel_0, panel_1) as panel:
            source = b.at_bytes(first_column(f, spec, panel.index) * args.b_start)
            to = local.at_bytes((panel.index - panel_0) * args.local_panel).at((k.index - first) * spec.width)
            lines = [line_of(f, spec, source, k.index + n) for n in range(count)]
            for n, line in enumerate(lines):
                if spec.ahead:
                    f.prefetch(source.at_bytes((k.index + (n + LINES_AHEAD)) * args.b_term))
                for v, value in enumerate(line):
                    to.at(n * spec.width + v * spec.lanes).store(value)


def copy_transposed(f: Kernel, spec: TileSpec, b: Ptr, local: Ptr, first: Int, end: Int, panel_0: Int, panel_1: Int) -> None:
    """The same of a B whose columns are contiguous. What is stored behind the last term is not read."""
    with f.loop(panel_0, panel_1) as panel:
        start = b.at_bytes(first_column(f, spec, panel.index) * TileArguments.read(f, spec).b_start)
        place = local.at_bytes((panel.index - panel_0) * TileArguments.read(f, spec).local_panel)
        with f.loop(first, end, spec.line) as k:
            for j, line in enumerate(_turned_lines(f, spec, start, k.index, end)):
                for v, value in enumerate(line):
                    place.at((k.index - first + j) * spec.width + v * spec.lanes).store(value)


def line_of(f: Kernel, spec: TileSpec, b: Ptr, k: Int, further: int = 0) -> list[Num]:
    """Term k + further of a panel's columns, which are neighbours in memory; those of one k share their addresses."""
    step = TileArguments.read(f, spec).b_term
    line = b.at_bytes(k * step)
    if further:
        line = line.at_bytes(step * further)
    if spec.ahead and not spec.local:
        for offset in range(0, spec.width * ELEMENT_BYTES[spec.b], LINE_BYTES):
            f.prefetch(line.at_bytes(spec.width * ELEMENT_BYTES[spec.b] + offset), level=2)
    masks: list[Bit | None] = [None] * spec.vectors
    if spec.masked:
        masks = [f.lane_mask(spec.lanes, TileArguments.read(f, spec).columns - v * spec.lanes) for v in range(spec.vectors)]
    return [line.at(v * spec.lanes).load(spec.lanes, masks[v]) for v in range(spec.vectors)]


def _turned_lines(f: Kernel, spec: TileSpec, b: Ptr, k: Int, last: Int) -> list[list[Num]]:
    """The terms of a cache line of a panel's columns, of which each is contiguous; terms from `last` on are zero.

    There is room for them behind the copy.
    """
    side = min(spec.lanes, 16 // ELEMENT_BYTES[spec.sums])
    masks: list[Bit | None] = [f.lane_mask(side, last - k - s) for s in range(0, spec.line, side)]
    columns = []
    for v in range(spec.vectors):
        places = [place.at(k) for place in column_starts(f, spec, b, v)]
        columns.append(across(places, spec.line, masks, side))
    return [list(line) for line in zip(*columns, strict=True)]


def column_starts(f: Kernel, spec: TileSpec, b: Ptr, v: int) -> list[Ptr]:
    """Where the columns of a vector begin; those that are not there are read as the last one again."""
    numbers: list[Int | int] = [v * spec.lanes + j for j in range(spec.lanes)]
    if spec.masked:
        numbers = [(TileArguments.read(f, spec).columns - 1).minimum(n) for n in numbers]
    return [b.at_bytes(TileArguments.read(f, spec).b_column * n) for n in numbers]
