"""Where the packing of a dense layer's weights goes, and how large a piece of them is packed at a time.

A block of output channels is packed and used at once, into memory of the thread's own: so it stays in the cache, and no thread
waits for another's packing. Where the block of a layer with many taps would not stay there, it is cut into pieces of taps; the
sums of all tiles are put down between the pieces and taken up again. That changes no chain: its taps keep their order.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.builder import LINE_BYTES
from preimage.engines.jit import branches
from preimage.engines.jit.compiler.costs import StreamingCosts
from preimage.engines.jit.conv.direct_kernel import DirectArguments
from preimage.engines.jit.conv.streamed_weights_kernel import Piece, StreamedWeightsArguments, StreamedWeightsSpec
from preimage.engines.jit.index.gather import Gather
from preimage.engines.jit.index.tables import PieceList
from preimage.engines.jit.packing.weights_kernel import WeightArguments
from preimage.engines.jit.program import Buffer, KernelCall, ProgramBuilder, kernel_call
from preimage.records import record

__all__ = ["ALIGNMENTS", "Work", "cut_taps", "piece_tables", "streamed_call", "streams_weights"]

ALIGNMENTS = 4  # places in a cache line that are told apart

Bounds = tuple[int, ...]


def streams_weights(costs: StreamingCosts, blocks: int, threads: int, packed_bytes: int, positions: int) -> bool:
    """Whether blocks of channels are worth packing one by one: enough weights, and shared evenly.

    positions: how many every weight meets.
    """
    uneven = costs.most_uneven if positions <= costs.few_positions else costs.uneven
    return packed_bytes >= costs.least_bytes and -(-blocks // threads) * threads <= uneven * blocks


def cut_taps(
    costs: StreamingCosts, taps: int, tap_bytes: int, item: int, partial_bytes: int, input_bytes: int
) -> list[Bounds] | None:
    """The first taps of the pieces, and the end; None where one piece does. Of the weights a piece reads whole cache lines, so
    where every run of taps begins at the same place in a line the cuts depend on it: one entry for each 16 bytes of a line.
    """
    line = LINE_BYTES // item
    if (
        taps < 2 * line
        or taps * tap_bytes <= costs.whole_pieces * costs.piece_bytes
        or partial_bytes > costs.most_partial_bytes
        or input_bytes > costs.most_input_bytes
    ):
        return None
    step = max(line, costs.piece_bytes // tap_bytes // line * line)
    if step >= taps:
        return None
    moved = range(0, line, line // ALIGNMENTS) if taps % line == 0 else (0,)
    return [(0, *(cut - by for cut in range(step, taps, step)), taps) for by in moved]


def piece_tables(gather: Gather, tap_bytes: int, cuts: list[Bounds]) -> tuple[Array, Array]:
    """Lists (`PieceList`) and nodes for every way to cut the taps, and of each way for every piece. One line of the lists is a piece."""
    numbers = gather.taps["weight"] // tap_bytes
    lists, nodes, count = [], [], 0
    for bounds in cuts:
        part = np.searchsorted(np.array(bounds[1:-1]), numbers, "right")
        found, more = gather.nodes(part, count)
        pieces = len(bounds) - 1
        ranges = np.zeros((pieces, gather.lists), PieceList.dtype)
        found = found.reshape(-1, gather.lists)
        ranges["first"][: len(found)], ranges["end"][: len(found)] = found["first"], found["end"]
        some = ranges["end"] > ranges["first"]
        some[0, ~some.any(axis=0)] = True  # a list without taps is all in the first piece
        ranges["state"] = some
        first, last = some.argmax(axis=0), pieces - 1 - some[::-1].argmax(axis=0)
        ranges["begins"][first, np.arange(gather.lists)], ranges["state"][last, np.arange(gather.lists)] = 1, 2
        lists.append(ranges)
        nodes.append(more)
        count += len(more)
    return np.concatenate(lists), np.concatenate(nodes)


@record
class Work:
    """What a sweep packs and multiplies: bytes of a block and of a tap; of the weights the bytes of an element, and where
    they are cut (`cut_taps`); the lists of one piece, the sums that a thread puts down."""

    block_bytes: int
    tap_bytes: int
    item: int
    cuts: list[Bounds] | None = None
    lists_bytes: int = 0
    partial_bytes: int = 0

    @property
    def packed_bytes(self) -> int:
        """Of the largest piece."""
        longest = [max(np.diff(bounds).tolist()) for bounds in self.cuts or ()]
        return self.tap_bytes * max(longest) if longest else self.block_bytes


def streamed_call(
    program: ProgramBuilder, packing: KernelCall, multiply: KernelCall, chunks: int, threads: int, work: Work
) -> None:  # fmt: skip
    """Add packing and multiplying, block by block and piece by piece, with the memory that they need."""
    packing = packing.changed({WeightArguments.block_bytes: 0})  # every block is packed to the same memory
    multiply = multiply.changed({DirectArguments.block_bytes: 0})
    pieces, ways = Piece(source=0, columns=[packing.integer(WeightArguments.columns)], column_table=0, list_table=0, inside=0), 1
    if work.cuts is not None:
        first, last = np.array([pair for bounds in work.cuts for pair in pairwise(bounds)], np.int64).T
        pieces = Piece(
            source=first * work.item, columns=last - first, column_table=first * 8, list_table=np.arange(len(first)) * work.lists_bytes,
            inside=first * work.tap_bytes,
        )  # fmt: skip
        ways = len(work.cuts)
    table = pieces.table()
    count = len(table) // ways
    packed = -(-work.packed_bytes // 4096) * 4096 + 64  # threads do not share pages, and their sets of the cache differ
    own = len(StreamedWeightsArguments.fields)
    values = StreamedWeightsArguments(
        pack=packing.spec, pack_words=own, multiply=multiply.spec, multiply_words=own + len(packing.words), chunks=chunks,
        packed_bytes=packed, partial_bytes=work.partial_bytes, pieces=count, alignments=ways, piece_table=table,
    )  # fmt: skip
    branches.streamed_weights("pieces.one" if work.cuts is None else "pieces.several")
    if ways > 1:
        branches.streamed_weights("pieces.by_alignment")
    program.calls.append(
        kernel_call("pack weights and multiply", StreamedWeightsSpec(), values, packing.tasks, [packing, multiply])
    )
    program.buffers.append(Buffer("packed", packed * threads))
    if work.cuts is not None:
        program.buffers.append(Buffer("partial", work.partial_bytes * threads))
        program.details["weights"] = f"packed in {count} pieces of up to {work.packed_bytes} bytes, sums put down in between"
