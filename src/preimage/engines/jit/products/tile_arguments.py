"""What the kernel of a product's tiles (`tile_kernel`) is given: how A, B and C lie, the blocks of the sum, a task's share."""

from __future__ import annotations

from preimage.engines.ir.arguments import Elements, Integer, Words, elements
from preimage.engines.ir.epilogue import EpilogueArguments

__all__ = ["TileArguments"]


class TileArguments(EpilogueArguments):
    """Strides, pitches and offsets are in bytes.

    Rows of A (columns of B, terms) lie a_row (b_column, a_term and b_term) apart. Tile t of rows begins at t * a_tile + its first
    row * a_start, panels of B likewise. block terms make a block; groups lists how many blocks make a group, a group of groups, ...
    A task is task_tiles x task_panels of one product of the batch, whose matrices begin at a_places and b_places. A thread has
    thread_bytes at totals, its copies of panels begin at local among them. bias_cycle: products after which a bias of rows begins anew.
    """

    input: Elements = elements("a")
    weight: Elements = elements("b")
    totals: Elements = elements("sums")
    thread_bytes: Integer
    tile_bytes: Integer
    rows: Integer
    columns: Integer
    terms: Integer
    block: Integer
    blocks: Integer
    chunk: Integer
    chunks: Integer
    levels: Integer
    groups: Words
    a_row: Integer
    a_term: Integer
    a_tile: Integer
    a_start: Integer
    b_column: Integer
    b_term: Integer
    b_panel: Integer
    b_start: Integer
    out_row: Integer
    out_product: Integer
    a_places: Words
    b_places: Words
    tiles: Integer
    panels: Integer
    task_tiles: Integer
    task_panels: Integer
    row_tasks: Integer
    column_tasks: Integer
    local: Integer
    local_panel: Integer
    bias_cycle: Integer
