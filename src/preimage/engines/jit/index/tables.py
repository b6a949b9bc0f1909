"""The tables that a table-driven kernel walks; `gather` makes them. Offsets are in bytes."""

from __future__ import annotations

from preimage.engines.ir.arguments import Column, Record

__all__ = ["PieceList", "Row", "Tap", "TapList", "Tile"]


class Row(Record):
    """A line of output pixels: any image, any outer position."""

    input: Column  # offset
    output: Column  # offset
    first_list: Column  # number of the first of its lists of taps
    first_tile: Column
    end_tile: Column  # last tile + 1


class Tile(Record):
    """Neighbouring output pixels of a row. Where stride phases are folded into channels, some lanes of its ends are not stored."""

    input: Column  # offset
    output: Column  # offset
    list: Column  # number of its list of taps, after the row's first
    cut_lanes: Column  # lanes of the first pixel that are not stored
    end_lanes: Column  # lanes of the last pixel that are


class TapList(Record):
    """The taps of a tile, or the blocks of its sums, where they have several (`ir.ordered.Node`)."""

    first: Column
    end: Column  # last + 1


class PieceList(TapList):
    """The same of a call that has some of the taps only."""

    begins: Column  # 1 where the sums begin, 0 where they go on from what is stored
    state: Column  # 0: there is nothing to do; 1: the sums are stored for the next call; 2: they end here


class Tap(Record):
    """Neighbouring terms under one tap, which lie in one block of a sum."""

    input: Column  # offset
    weight: Column  # offset
    channels: Column  # output channels that have the tap, where stride phases are folded into channels
    terms: Column
