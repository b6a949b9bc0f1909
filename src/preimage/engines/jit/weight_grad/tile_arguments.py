"""What the kernel of a weight gradient's tiles is given: its argument vector and its tables (see `tile_kernel`)."""

from __future__ import annotations

from preimage.engines.ir.arguments import Arguments, Column, Elements, Integer, Record, Records, Words, elements

__all__ = ["Block", "Segment", "Span", "Tap", "TileArguments"]


class Segment(Record):
    """A part of one row of output pixels. Offsets in bytes, of ow = 0."""

    scalars: Column  # offset
    vectors: Column  # offset
    first: Column  # ow
    end: Column  # last ow + 1


class Block(Record):
    """A block of positions: its segments, and where its sum goes."""

    first_segment: Column
    end_segment: Column  # last + 1
    first_step: Column
    end_step: Column  # last + 1
    level: Column  # where the sum is stored, or IMAGE, or MORE


class Tap(Record):
    """A tap of the last axis. Offsets in bytes."""

    scalars: Column  # offset
    vectors: Column  # offset
    result: Column  # offset
    first: Column  # ow whose input lies inside
    end: Column  # last such ow + 1


class Span(Record):
    """Memory that a band reads and the one before did not."""

    operand: Column  # 0: scalars, 1: vectors
    offset: Column  # in the image
    lines: Column  # of the cache


class TileArguments(Arguments):
    """A task is a part of the tiles in some rounds. Offsets and strides are in bytes."""

    scalars: Elements = elements("element")
    vectors: Elements = elements("element")
    total: Elements = elements("element")
    levels: Elements = elements("element", default=0)  # levels of every thread, then those of the tiles
    segments: Records[Segment]
    bands: Words  # first block of (outer tap, band), bands + 1 entries an outer tap
    taps: Records[Tap]
    images: Integer
    images_per_turn: Integer
    n_bands: Integer
    tiles: Integer  # in all
    tiles_per_part: Integer
    n_taps: Integer  # taps of the last axis that are turns of a loop
    n_outer: Integer  # taps of the other axes
    n_rows: Integer  # row tiles
    n_cols: Integer  # column tiles
    row_step: Integer  # scalar operand: from a row tile to the next, and the offset of the last one
    row_last: Integer
    col_step: Integer  # vector operand, the same
    col_last: Integer
    rows: Integer  # rows and columns of the matrix
    cols: Integer
    scalar_pixel: Integer  # from ow to ow + 1
    vector_pixel: Integer
    scalar_image: Integer
    vector_image: Integer
    scalar_group: Integer
    vector_group: Integer
    out_row: Integer  # result: from a row to the next, and so on; columns are neighbours
    out_outer: Integer
    out_group: Integer
    rounds: Integer  # ceil(images / images per turn) * bands
    blocks: Records[Block]
    parts: Integer
    rounds_per_task: Integer
    spans: Records[Span]  # of all bands
    span_bounds: Words  # first span of each band, bands + 1 entries
    outer_every: Integer  # tiles of one row tile and last tap until the next outer tap, and until the next column tile
    col_every: Integer
    scalar_row: Integer  # scalar operand: from a row to the next, where they are no neighbours
    steps: Words  # levels
    image_steps: Integer  # where in it the levels of the images' tree are listed
    last_steps: Integer  # and where those of the last image are; they end the table
    n_steps: Integer
    image_level: Integer  # the first level of the tree
    thread_levels: Integer  # so many levels are the thread's
    thread_bytes: Integer  # of one thread
    tile_levels: Integer  # offset of the tiles' levels
    level_bytes: Integer  # from a level of the tiles to the next
