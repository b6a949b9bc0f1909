"""The argument vector of the table-driven schedules, and the words of their tables."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["NODE_WORDS", "ROW_WORDS", "TAP_WORDS", "TILE_WORDS", "Slot"]


class Slot(IntEnum):
    """Where an argument lies in the vector. Addresses first, then sizes; offsets and strides are in bytes."""

    INPUT = 0
    WEIGHT = 1
    OUTPUT = 2
    BIAS = 3
    RESIDUAL = 4
    LIMITS = 5  # address of the activation's two numbers
    ROWS = 6  # input offset, output offset, number of the row's first tap list, first tile, last tile + 1
    TILES = 7  # input offset, output offset, number of the tap list after the row's first, lanes cut, lanes end
    LISTS = 8  # first tap, last + 1 (or node, where sums have several blocks); where taps come in pieces, also: whether the sums
    # begin, 0 skip, 1 go on or 2 end
    TAPS = 9  # input offset, weight offset, channels that have the tap, terms (channels under it)
    CHUNK_ROWS = 10  # first row of every chunk, and the end
    CHUNKS = 11
    CHUNK_DIV = 12  # chunk = task / CHUNK_DIV % CHUNKS
    BLOCKS = 13  # blocks of output channels, all groups
    BLOCK_DIV = 14
    GROUP_BLOCKS = 15  # blocks in a group
    BLOCK_BYTES = 16  # packed weights of a block
    GROUP_INPUT_BYTES = 17  # from a group's input channels to the next group's
    GROUP_CHANNELS = 18  # output channels of a group
    OUT_PIXEL_BYTES = 19
    PIXEL_BYTES = 20
    CHANNEL_BYTES = 21  # between output channels (schedules with vectors across pixels)
    RUN_BYTES = 22  # between input channels (the same)
    NODES = 23  # blocks of the sums' order as ranges of taps, groups as ranges of blocks, ...: first, last + 1;
    # where taps come in pieces, also whether the member goes on from the call before, and in the next one
    PARTIAL = 24  # sums that are put down between pieces of the taps, tile by tile
    ROW_TILES = 25  # tiles of the longest row


ROW_WORDS = 5
TILE_WORDS = 5
TAP_WORDS = 4
NODE_WORDS = 4
