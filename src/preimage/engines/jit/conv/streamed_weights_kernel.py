"""The kernel that packs weights just before their use. A task is one block of output channels:

for piece in pieces:
    pack this piece of the block's weights                    # into memory of the thread's own
    for chunk in chunks: multiply                             # while the piece is in the cache
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Code, Column, Field, Integer, Record, Records
from preimage.engines.ir.builder import Int, Kernel, Ptr
from preimage.engines.jit.conv.direct_kernel import DirectArguments
from preimage.engines.jit.packing.weights_kernel import WeightArguments
from preimage.records import record

__all__ = ["Piece", "StreamedWeightsArguments", "StreamedWeightsSpec", "build_streamed_weights"]


class Piece(Record):
    """A piece of the weights; offsets in bytes."""

    source: Column  # offset in the weights
    columns: Column
    column_table: Column  # offset in the table of columns
    list_table: Column  # offset in the table of lists
    inside: Column  # offset in the block


class StreamedWeightsArguments(Arguments):
    """One task is one block of output channels. The vectors of the two kernels follow."""

    pack: Code
    pack_words: Integer  # first word of its vector
    multiply: Code
    multiply_words: Integer
    chunks: Integer
    packed_bytes: Integer  # of a thread
    partial_bytes: Integer  # of a thread: sums that wait in memory between pieces
    pieces: Integer
    alignments: Integer  # places of the weights in a cache line for which there are pieces, 1 or 4
    piece_table: Records[Piece]


@record
class StreamedWeightsSpec:
    """There is one such kernel."""

    arguments: ClassVar = StreamedWeightsArguments
    controls: ClassVar[bool] = True

    def ir(self) -> str:
        """The text of the kernel."""
        return build_streamed_weights(self)


def build_streamed_weights(spec: StreamedWeightsSpec) -> str:
    f = Kernel()
    args, weights, direct = StreamedWeightsArguments.read(f, spec), WeightArguments, DirectArguments
    words, chunks = f.arguments, args.chunks
    # The threads share the arguments, so each makes itself a copy that it may change.
    pack, multiply = f.stack("i64", len(weights.fields)), f.stack("i64", len(direct.fields))
    copies = (
        (pack, StreamedWeightsArguments.pack_words, len(weights.fields)),
        (multiply, StreamedWeightsArguments.multiply_words, len(direct.fields)),
    )
    for own, first, count in copies:
        given = words.at(args.word(first))
        with f.loop(0, count) as k:
            own.at(k.index).store_int(given.at(k.index).load_int())

    def word(vector: Ptr, field: Field) -> Ptr:
        return vector.at(field.slot)

    def moved(where: Ptr, by: Int) -> Int:
        value = where.load_int() + by
        where.store_int(value)
        return value

    result = moved(word(pack, weights.result), f.thread * args.packed_bytes)
    weight = moved(word(multiply, direct.weight), f.thread * args.packed_bytes)
    moved(word(multiply, direct.partial), f.thread * args.partial_bytes)
    source, table = word(pack, weights.source).load_int(), word(pack, weights.table).load_int()
    lists = word(multiply, direct.lists).load_int()
    way = source // 16 % args.alignments
    pieces = args.piece_table.at(way * args.pieces)
    with f.loop(0, args.pieces) as k:
        piece = pieces[k.index]
        inside = piece.inside
        word(pack, weights.source).store_int(source + piece.source)
        word(pack, weights.columns).store_int(piece.columns)
        word(pack, weights.table).store_int(table + piece.column_table)
        word(pack, weights.result).store_int(result - inside)
        word(multiply, direct.weight).store_int(weight - inside)
        word(multiply, direct.lists).store_int(lists + piece.list_table)
        f.call(args.pack, pack, f.task)
        with f.loop(0, chunks) as chunk:
            f.call(args.multiply, multiply, f.task * chunks + chunk.index)
    return f.ir()
