"""Tiles: how many results a block of threads and each of its threads makes, and by what steps. Plain data."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from preimage.records import record

__all__ = ["AnyTile", "DirectTile", "Tile", "Tiled"]


@record
class Tile:
    """warps_m x warps_n warps of 8 x 4 threads; a thread has tm x tn sums, in runs of 16 bytes that lie a warp's width apart, so that a
    warp reads shared memory 16 bytes a thread without conflicts. bk: terms of a step; stages: steps in shared memory at a time. matrix: a warp
    multiplies 8 x 4 by 4 x 8 numbers at a time on tensor cores (float64), so that a thread has rows eight apart and pairs of neighbouring columns.
    """

    tm: int
    tn: int
    warps_m: int
    warps_n: int
    bk: int = 8
    stages: int = 4
    blocks_per_multiprocessor: int = 1
    matrix: bool = False

    @property
    def threads(self) -> int:
        return 32 * self.warps_m * self.warps_n

    @property
    def bm(self) -> int:
        return self.warps_m * 8 * self.tm

    @property
    def bn(self) -> int:
        return self.warps_n * 4 * self.tn

    @property
    def sums(self) -> int:
        return self.tm * self.tn

    @property
    def groups(self) -> int:
        """Groups of a block of threads."""
        return 1

    def thinner(self) -> Tile:
        """The same results of a block, by twice the threads, each with half of the sums: for code that needs more registers beside them."""
        return replace(self, tn=self.tn // 2, warps_n=2 * self.warps_n, blocks_per_multiprocessor=1)

    def __str__(self) -> str:
        words = f"{self.bm} x {self.bn}, {self.tm} x {self.tn} a thread, {self.bk} terms a step, {self.stages} stages"
        return f"{words}, tensor cores" if self.matrix else words


@record
class DirectTile:
    """A thread has `outs` channels of `columns` positions, and no memory that is shared. across: neighbouring threads have neighbouring groups,
    else neighbouring positions.
    """

    outs: int
    columns: int
    across: bool = False
    threads: int = 128
    blocks_per_multiprocessor: int = 4

    #: A packed row is one term.
    bk: ClassVar[int] = 1

    @property
    def bm(self) -> int:
        return self.outs

    @property
    def bn(self) -> int:
        """Positions of a block of threads."""
        return self.columns if self.across else self.columns * self.threads

    @property
    def groups(self) -> int:
        """Groups of a block of threads."""
        return self.threads if self.across else 1

    @property
    def sums(self) -> int:
        return self.outs * self.columns

    def __str__(self) -> str:
        return f"{self.outs} x {self.columns} a thread, neighbouring threads in neighbouring {'groups' if self.across else 'positions'}"


AnyTile = Tile | DirectTile


class Tiled:
    """A kernel's spec that has a tile: how it is launched follows from that."""

    tile: AnyTile

    @property
    def threads(self) -> int:
        return self.tile.threads

    @property
    def blocks_per_multiprocessor(self) -> int:
        return self.tile.blocks_per_multiprocessor
