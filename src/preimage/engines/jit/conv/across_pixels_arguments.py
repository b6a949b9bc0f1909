"""What the kernel with vectors across pixels is given: its argument vector and its tables (see `across_pixels_kernel`)."""

from __future__ import annotations

from preimage.engines.ir.arguments import Column, Elements, Integer, Record, Records, elements
from preimage.engines.ir.epilogue import EpilogueArguments

__all__ = ["AcrossPixelsArguments", "Band", "ColumnTap", "Fill", "Line", "Step"]


class Band(Record):
    """Steps that one unit takes."""

    first_step: Column
    end_step: Column  # last step + 1


class Step(Record):
    """`rows` lines of the result."""

    first_fill: Column  # input lines that it brings to the scratch
    end_fill: Column
    first_row: Column  # lines that it reads
    end_row: Column
    output: Column  # offset
    lines: Column  # of the result that exist
    next_first: Column  # the fills of the next step that has some, which are prefetched
    next_end: Column
    steps_ahead: Column  # how many steps away it is
    next_unit: Column  # 1 where it is the next unit's


class Fill(Record):
    """An input line that is copied to the scratch."""

    input: Column  # offset
    scratch: Column  # offset
    columns: Column  # of the input; 0: a line of zeros


class Line(Record):
    """An input line under a step."""

    scratch: Column  # offset
    weight: Column  # offset
    part: Column  # number of the part (which rows read it), times the number of column parts
    ends: Column  # which blocks of sums end before it (`across_pixels_kernel.END_BITS`)


class ColumnTap(Record):
    """A column of input lines and a piece of the channels."""

    scratch: Column  # offset in a line
    weight: Column  # offset
    part: Column  # number of the part: which phases read it
    channels: Column
    ends: Column  # which blocks of sums end before it (`across_pixels_kernel.END_BITS`)


class AcrossPixelsArguments(EpilogueArguments):
    """A task is `units_per_task` units. Offsets and strides are in bytes."""

    scratch: Elements = elements("inner")
    scratch_bytes: Integer  # of one thread
    units: Integer
    units_per_task: Integer
    bands: Records[Band]
    n_bands: Integer
    blocks: Integer  # of columns
    groups: Integer
    steps: Records[Step]
    fills: Records[Fill]
    rows: Records[Line]
    columns: Records[ColumnTap]
    n_columns: Integer
    x_image: Integer
    x_channel: Integer
    x_column: Integer
    lead: Integer  # columns in a line of the scratch before the block's first (not in bytes)
    highest: Integer  # columns that are read behind the block's last
    line: Integer  # positions of a line, one for all phases
    block: Integer  # positions of a block
    out_columns: Integer
    out_image: Integer
    out_channel: Integer
    out_line: Integer
    pitch: Integer  # of a channel in the scratch
    group_weight_bytes: Integer
    ahead_channel: Integer  # prefetching: bytes from a channel to the next
    ahead_column: Integer  # and from one column to the next
    ahead_part: Integer  # and in a step
    begin: Integer  # the first column that is copied, after the block's own (negative or 0), in blocks behind the first
    channel_blocks: Integer  # of a group: as many output channels as a tile has
    block_weight_bytes: Integer
    group_channels: Integer  # output channels of a group
