"""The pieces that pictures are put together from: arrays as grids of coloured cells, captions, signs, the card around them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from math import isfinite, isnan, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import OptionError
from preimage.report.draw.scene import (
    INK,
    LINE,
    NEGATIVE,
    PAPER,
    POSITIVE,
    SOFT,
    WHITE,
    Item,
    Label,
    Path,
    Rect,
    Scene,
    mix,
    width_of,
)

__all__ = ["Grid", "card", "colour", "fitting", "label_on", "listed", "number", "refuse_large", "summed"]

Array = NDArray[Any]
Index = tuple[int, ...]

#: The most cells of an array that a picture shows.
MOST_CELLS = 2500
WIDEST, HIGHEST = 880, 640
MARGIN, BETWEEN = 22, 46
NOT_A_NUMBER = "#8e2a8b"


def number(value: float) -> str:
    """A value in at most about five letters, with a real minus sign."""
    if isnan(value):
        return "NaN"
    if not isfinite(value):
        return "∞" if value > 0 else "−∞"
    if value == round(value) and abs(value) < 10_000:
        text = f"{round(value)}"
    elif 0.1 <= abs(value) < 100:
        text = f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    else:
        text = f"{value:.2g}"
    return text.replace("-", "−")


def colour(value: float, largest: float) -> str:
    """Orange above zero, blue below, stronger where larger."""
    if isnan(value):
        return NOT_A_NUMBER
    part = 1.0 if not isfinite(value) else min(abs(value) / largest, 1.0) if largest > 0 else 0.0
    return mix(WHITE, POSITIVE if value > 0 else NEGATIVE, 0.92 * part**0.8)


@lru_cache(maxsize=4096)
def label_on(fill: str) -> str:
    """Ink or white, whichever can be read on this colour."""
    r, g, b = (int(fill[k : k + 2], 16) for k in (1, 3, 5))
    return INK if 0.299 * r + 0.587 * g + 0.114 * b > 140 else WHITE


def listed(index: Sequence[Any]) -> str:
    return ",".join(str(int(i)) for i in index)


def refuse_large(shape: Sequence[int], what: str) -> None:
    """Raises: OptionError where an array has more cells than an eye can take in."""
    if prod(shape) > MOST_CELLS:
        raise OptionError(
            f"{what} of shape {tuple(shape)} has {prod(shape)} cells, at most {MOST_CELLS} are drawn; take fewer channels or a smaller size"
        )


@dataclass
class Grid:
    """An array as cells: the last two axes are a tile, the axis before lies beside it, the others below one another.

    margin: for each of the last axes, how many cells of padding are drawn around (before, after). lit: cells that take part in the
    step; where there are any, the others are pale. marked: cells with a thick border. largest: the value with the full colour.
    numbers: whether values are written; None where they have room.
    blank: cells that have no value yet. zeros: whether zeros are written.
    """

    values: Array
    caption: str = ""
    margin: tuple[tuple[int, int], ...] = ()
    lit: Collection[Index] | None = None
    marked: Collection[Index] = ()
    largest: float | None = None
    numbers: bool | None = None
    note: str = ""
    blank: Collection[Index] = ()
    zeros: bool = True
    pale: float = 0.72
    cell: float = field(default=30.0)

    def __post_init__(self) -> None:
        refuse_large(self.values.shape, self.caption or "the array")
        shape = self.values.shape
        while len(shape) < 2:
            shape = (1, *shape)
        self._shape = shape
        margins = ((0, 0), (0, 0), *self.margin)[-2:]
        self._low = margins[0][0], margins[1][0]
        self._tile: tuple[int, int] = shape[-2] + sum(margins[0]), shape[-1] + sum(margins[1])
        outer = shape[:-2]
        self._columns: int = outer[-1] if outer else 1
        self._rows = prod(outer[:-1]) if outer else 1

    # -- places ----------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> int:
        """Cells side by side."""
        return self._tile[1] * self._columns

    @property
    def rows(self) -> int:
        """Cells below one another."""
        return self._tile[0] * self._rows

    @property
    def _gap(self) -> float:
        return min(12.0, 0.5 * self.cell)

    @property
    def _foot(self) -> float:
        return 20.0 if self.note else 0.0

    @property
    def width(self) -> float:
        cells = self.columns * self.cell + (self._columns - 1) * self._gap
        words = max(width_of(self.caption, 12.5), width_of(self.note, 11.5))
        return max(cells, words)

    @property
    def height(self) -> float:
        return 24 + self._rows * self._tile[0] * self.cell + (self._rows - 1) * self._gap + self._foot

    def corner(self, index: Index) -> tuple[float, float]:
        """The upper left corner of a cell, from the grid's own; the index may lie in the margin."""
        full = (0,) * (len(self._shape) - len(index)) + tuple(index)
        *outer, i, j = full
        column = outer[-1] if outer else 0
        row = int(np.ravel_multi_index(tuple(outer[:-1]), self._shape[:-3])) if len(outer) > 1 else 0
        x = (column * self._tile[1] + j + self._low[1]) * self.cell + column * self._gap
        y = (row * self._tile[0] + i + self._low[0]) * self.cell + row * self._gap
        return x, y + 24

    def middle(self, index: Index) -> tuple[float, float]:
        x, y = self.corner(index)
        return x + self.cell / 2, y + self.cell / 2

    # -- drawing ---------------------------------------------------------------------------------------------------

    def items(self, x: float, y: float) -> Iterable[Item]:
        """The grid with its upper left corner at (x, y)."""
        if self.caption:
            yield Label(x, y + 8, self.caption, 12.5, INK, bold=False)
        values = self.values.reshape(self._shape)
        largest = self.largest if self.largest is not None else _largest(values)
        written = self.cell >= 22 if self.numbers is None else self.numbers
        lit, marked = _full(self.lit, len(self._shape)), _full(self.marked, len(self._shape)) or set()
        blank = _full(self.blank, len(self._shape)) or set()
        yield from self._margin_cells(x, y, lit)
        thin, border = (1.0, LINE) if self.cell >= 20 else (0.6, mix(LINE, PAPER, 0.35))
        for index in np.ndindex(*self._shape):
            value = float(values[index])
            left, top = self.corner(index)
            if index in blank:
                yield Rect(x + left, y + top, self.cell, self.cell, PAPER, border, thin)
                continue
            fill = colour(value, largest)
            pale = lit is not None and index not in lit
            if pale:
                fill = mix(fill, PAPER, self.pale)
            yield Rect(x + left, y + top, self.cell, self.cell, fill, border, thin)
            if written and (self.zeros or value):
                text = number(value)
                size = min(0.44 * self.cell, self.cell * 1.45 / max(len(text), 1))
                shade = mix(SOFT, PAPER, 0.35) if pale else label_on(fill)
                yield Label(x + left + self.cell / 2, y + top + self.cell / 2, text, size, shade, "middle")
        yield from self._outline(x, y, marked)
        if self.note:
            yield Label(x, y + self.height - 8, self.note, 11.5, SOFT)

    def _outline(self, x: float, y: float, marked: set[Index]) -> Iterable[Item]:
        """A border around the marked cells: the sides that no marked neighbour shares."""
        line = 2.6 if self.cell > 14 else 1.6
        for index in sorted(marked):
            left, top = self.corner(index)
            a, b, c, d = x + left, y + top, x + left + self.cell, y + top + self.cell
            *outer, i, j = index
            for (di, dj), ends in (
                ((-1, 0), ((a, b), (c, b))),
                ((1, 0), ((a, d), (c, d))),
                ((0, -1), ((a, b), (a, d))),
                ((0, 1), ((c, b), (c, d))),
            ):
                if (*outer, i + di, j + dj) not in marked:
                    (px, py), (qx, qy) = ends  # longer by half its width, so that corners close
                    more = (line / 2 * (py == qy), line / 2 * (px == qx))
                    yield Path(((px - more[0], py - more[1]), (qx + more[0], qy + more[1])), INK, line)

    def _margin_cells(self, x: float, y: float, lit: set[Index] | None) -> Iterable[Item]:
        if self._tile == self._shape[-2:]:
            return
        outer = self._shape[:-2]
        for first in np.ndindex(*outer):
            for i, j in product(range(self._tile[0]), range(self._tile[1])):
                place = (*first, i - self._low[0], j - self._low[1])
                if 0 <= place[-2] < self._shape[-2] and 0 <= place[-1] < self._shape[-1]:
                    continue
                left, top = self.corner(place)
                inset = 1.5
                on = lit is not None and place in lit
                yield Rect(
                    x + left + inset, y + top + inset, self.cell - 2 * inset, self.cell - 2 * inset,
                    mix(PAPER, LINE, 0.6) if on else "", SOFT if on else LINE, 1.0, dashed=True,
                )  # fmt: skip


def _largest(values: Array) -> float:
    size = np.abs(values[np.isfinite(values)].astype(np.float64))
    return float(size.max()) if size.size else 0.0


def _full(indices: Collection[Index] | None, ndim: int) -> set[Index] | None:
    if indices is None:
        return None
    return {(0,) * (ndim - len(i)) + tuple(int(k) for k in i) for i in indices}


def fitting(grids: Sequence[Grid | str], cell: float, widest: float = WIDEST, highest: float = HIGHEST) -> float:
    """The size of a cell, at most `cell`, with which the grids fit in a row. Raises: OptionError where the smallest do not."""
    alone = [g for g in grids if isinstance(g, Grid)]
    room = widest - 2 * MARGIN - BETWEEN * (len(alone) - 1)
    for _ in range(60):  # captions and gaps take room as well, so the size is found by trying
        for g in alone:
            g.cell = cell
        if (sum(g.width for g in alone) <= room and all(g.height <= highest for g in alone)) or cell <= 4:
            break
        cell *= 0.95
    if sum(g.width for g in alone) > 1.5 * widest or any(g.height > 2 * highest for g in alone):
        sizes = ", ".join(f"{g.caption or 'an array'} {g.rows}×{g.columns}" for g in alone)
        raise OptionError(f"{sizes} cells do not fit side by side; take fewer channels or a smaller size")
    return max(cell // 1, 3.0)


def card(
    title: str, grids: Sequence[Grid | str], formula: Sequence[str] = (), alt: str = "", widest: float = WIDEST, cell: float = 30.0
) -> Scene:  # fmt: skip
    """One frame: a title, grids in a row with signs (strings) between them, lines of formula below.

    The cells of all grids are as large as fits, at most `cell`.
    """
    alone = [g for g in grids if isinstance(g, Grid)]
    cell = fitting(grids, cell, widest)
    for g in alone:
        g.cell = cell
    tallest = max((g.height for g in alone), default=0.0)
    items: list[Item] = [Label(MARGIN, MARGIN + 4, title, 15, INK, bold=True)] if title else []
    top = MARGIN + (30 if title else 0)
    x = float(MARGIN)
    for part in grids:
        if isinstance(part, str):
            items.append(Label(x - BETWEEN / 2, top + 24 + (tallest - 24) / 2, part, 20, SOFT, "middle"))
        else:
            items += part.items(x, top + (tallest - part.height) / 2)
            x += part.width + BETWEEN
    right = x - BETWEEN + MARGIN
    y = top + tallest + 24
    for line in formula:
        items.append(Label(MARGIN, y, line, 13, INK))
        y += 21
    words = max([width_of(f, 13) for f in formula] + [width_of(title, 15, True)], default=0.0)
    width = max(right, words + 2 * MARGIN)
    bottom = y - 21 + MARGIN if formula else top + tallest + MARGIN
    return Scene(int(width + 0.999), int(bottom + 0.999), tuple(items), alt or title)


def summed(products: Sequence[tuple[float, float]], value: float, bias: float | None = None, most: int = 9) -> str:
    """`a·b + c·d + … = value`: the factors written out, as many as there is room for."""
    shown = list(products[:most])
    text = " + ".join(f"{_factor(a)}·{_factor(b)}" for a, b in shown) or "0"
    if len(products) > most:
        text += f" + … ({len(products)} products)"
    if bias:
        text += f" + {_factor(bias)}"
    return f"{text} = {number(value)}"


def _factor(value: float) -> str:
    text = number(value)
    return f"({text})" if text.startswith("−") else text
