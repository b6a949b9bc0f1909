"""Every branch of the planners, in words: what a plan can decide, and so what the audit must reach (see `engines.decisions`).

    from preimage.engines.jit import branches

    branches.direct("input.packed")     # at the branch, while the plan is made

One function a planner. Each branch is declared here (those of Winograd's algorithms in `conv/winograd/branches.py`, of 1x1 layers as
products in `conv/pointwise.py`) and taken where the planner goes that way, and nowhere else.
"""

from __future__ import annotations

from preimage.engines.decisions import declare_all

__all__ = [
    "across_pixels", "call", "channels_first", "channels_last", "depthwise_weight_grad", "direct", "halo", "packing", "request",
    "streamed_weights", "tiling", "upsample", "weight_grad",
]  # fmt: skip

_CONTRACTIONS = ("conv", "conv_transpose", "conv_weight_grad")

#: What the engine does around a plan, call by call.
call = declare_all(
    "jit.call",
    {
        "empty.result": "the result has no elements: nothing is computed",
        "empty.input": "the input or the weights have no elements: the result is zero",
        "empty.weight_grad": "x, y or the weights have no elements: their gradient is zero",
        "input.copied": "the input is copied first: neither its channels nor its last axis lie contiguously",
        "operand.copied": "x or y of a weight gradient is copied first: neither its channels nor its last axis lie contiguously",
        "weights.copied": "the weights are copied first: they do not lie in C order",
        "residual.copied": "the residual is copied first, into the memory order of the result",
        "partition.tables": "the batch is cut: the tables of one plan would be too large",
        "partition.images": "the call is cut into batches: its scratch memory would pass the limit",
        "partition.rows": "one image is cut along its first long axis: its scratch memory would pass the limit",
        "partition.none": "one image of one position is not cut, though its scratch memory passes the limit",
        "exact.every_tap": "computed again with the taps over the padding: a weight is infinite or NaN",
        "exact.single_positions": "computed again position by position: no zero may meet a weight that is infinite or NaN",
        "exact.every_position": "a weight gradient computed again on x with its padding: y is infinite or NaN somewhere",
    },
)

#: What a plan depends on before the first choice.
request = declare_all(
    "jit.request",
    {f"{name}.little_work": f"{name} by kernels whose sizes are all arguments" for name in _CONTRACTIONS}
    | {f"{name}.large_work": f"{name} by kernels made for some of its sizes" for name in _CONTRACTIONS}
    | {f"{name}.f32": f"{name} of float32" for name in _CONTRACTIONS}
    | {f"{name}.f64": f"{name} of float64" for name in _CONTRACTIONS}
    | {f"{name}.f16": f"{name} of float16, widened to float32 while it is summed" for name in _CONTRACTIONS}
    | {f"{name}.bf16": f"{name} of bfloat16, widened to float32 while it is summed" for name in _CONTRACTIONS}
    | {f"{name}.one_thread": f"{name} is planned for one thread" for name in _CONTRACTIONS}
    | {f"{name}.several_threads": f"{name} is planned for several threads" for name in _CONTRACTIONS}
    | {
        "weights.prepared": "the weights come packed",
        "weights.given": "the weights are packed in every call",
        "epilogue.bias": "a bias is added before the result is stored",
        "epilogue.residual": "a residual is added before the result is stored",
        "epilogue.activation": "an activation is applied before the result is stored",
        "epilogue.chain": "a chain of steps is applied before the result is stored",
        "epilogue.none": "the sums are the result",
    },
)

#: Direct convolution, vectors across output channels: `conv.direct`.
direct = declare_all(
    "jit.direct",
    {
        "taken": "direct: vectors across output channels",
        "taps.joined": "the taps of a line and their few channels are read as one longer run",
        "lines.skipped": "of an outer axis that one tap reads with a stride, only the lines that are read count",
        "axes.merged": "neighbouring axes that lie contiguously in both arrays are one axis",
        "padding.none": "no tap lies on padding",
        "padding.skipped": "taps over the padding are left out, the weights being finite",
        "padding.every_tap": "taps over the padding are multiplied, a weight being infinite or NaN",
        "input.in_place": "the input is read where it lies",
        "input.halo": "the input is read in place, the ends of its rows from a copy with their padding",
        "input.halo_unread": "the input is read in place: no tile has a position of the padding beside one of the input",
        "input.packed": "the input is copied into a channels-last slab",
        "input.packed.channels_first": "packed, for its channels do not lie side by side",
        "input.packed.widened": "packed, for its elements are widened",
        "input.packed.margins": "packed, for tiles read over its border",
        "input.packed.crowded": "packed, for neighbouring pixels fall on the same sets of the cache",
        "result.straight": "the result is channels-last and stored in place",
        "result.transposed": "tiles are transposed in registers and stored in a channels-first result",
        "result.scratch": "the result is computed channels-last in scratch memory and transposed back",
        "phases.one": "every position of the pixels' axis has the same taps",
        "phases.several": "stride phases of the pixels' axis have rows of their own",
        "phases.empty": "some stride phase of the pixels' axis has no taps",
        "phases.folded": "the stride phases of the last axis lie side by side as channels",
        "phases.folded.partial": "some folded phases lack a tap",
        "phases.folded.cut": "the first or last pixel of a folded row is stored in part",
        "pixels.last_axis": "a tile's pixels run along the last axis",
        "pixels.outer_axis": "a tile's pixels run along an outer spatial axis",
        "pixels.batch": "a tile's pixels are those of neighbouring images",
        "tile.given": "the tile was asked for by the caller, or measured on this machine",
        "tile.single": "a tile is one position, so that no zero is multiplied",
        "tile.one_pixel": "a tile is one pixel high",
        "tile.several_pixels": "a tile is several pixels high",
        "tile.one_vector": "a tile is one vector wide",
        "tile.several_vectors": "a tile is several vectors wide",
        "tile.full_vectors": "vectors are as wide as the CPU's",
        "tile.half_vectors": "vectors are half as wide as the CPU's",
        "channels.whole": "the blocks of output channels are full",
        "channels.ragged": "the last block of output channels is not full",
        "groups.one": "one group of channels",
        "groups.several": "several groups of channels",
        "weights.packed_first": "all weights are packed before they are used",
        "weights.streamed": "blocks of weights are packed just before they are used",
        "rows.split": "rows are cut into pieces, to be shared or to stay in the cache",
        "rows.sorted_by_phase": "the weights are larger than the input: rows are sorted by stride phase first",
        "rows.sorted_by_input": "the input is larger than the weights: rows are sorted by where they read first",
        "chunks.one": "all rows are one task for each block of channels",
        "chunks.several": "rows are cut into tasks",
        "chunks.blocks_together": "all blocks of channels of a chunk come together",
    },
)

#: Ends of rows that reach into the padding: `conv.halo`.
halo = declare_all(
    "jit.halo",
    {
        "taken": "the ends of rows are computed from a small copy with their padding",
        "refused.no_padding": "no halo: no row reaches over the border",
        "refused.other_axis": "no halo: the pixels of a tile do not run along the last axis",
        "refused.both_ends": "no halo: a tile reaches over both ends of a row",
        "refused.many_tiles": "no halo: most tiles reach over an end of their row",
        "refused.little_input": "no halo: a copy of the whole input costs hardly more",
    },
)

#: Vectors across pixels, for few output channels or channels-first arrays: `conv.across_pixels`.
across_pixels = declare_all(
    "jit.across_pixels",
    {
        "taken": "vectors across pixels",
        "refused.many_channels": "vectors across pixels refused: channels lie innermost, and there are more of the output's than a few",
        "refused.stride": "vectors across pixels refused: neighbouring positions do not read neighbouring columns",
        "refused.single_positions": "vectors across pixels refused: no zero may be multiplied",
        "refused.no_axis": "vectors across pixels refused: there is no spatial axis",
        "refused.store": "vectors across pixels refused: the stride phases or channels of the result cannot be interleaved",
        "refused.no_tile": "vectors across pixels refused: no tile fits the registers and the code",
        "refused.dearer": "vectors across pixels refused: vectors across channels cost less",
        "input.transposed": "channels-last input lines are transposed into scratch memory",
        "input.copied": "channels-first input lines are copied into scratch memory",
        "input.asked_twice": "a line is prefetched once more as it is copied: the L2 cache hardly holds what was prefetched before",
        "result.channels_last": "the result is stored channels-last",
        "result.channels_first": "the result is stored channels-first",
        "phases.one": "the last axis has one stride phase",
        "phases.several": "the stride phases of the last axis are interleaved as they are stored",
        "rows.one": "a tile is one row high",
        "rows.several": "a tile is several rows high",
        "rows.outer_axes": "there are axes outside the rows' own",
        "rows.no_axis": "there is no axis of rows",
        "lines.long": "lines are long: the tile depends on the channels alone",
        "lines.short": "lines are short: the tile fits them",
        "lines.merged": "neighbouring axes without taps of their own are one long line",
        "channels.all": "a tile has all output channels of its group",
        "channels.blocks": "a tile has a block of its group's output channels",
        "channels.ragged": "the last block of output channels is not whole",
        "blocks.one": "a line is one block of columns",
        "blocks.several": "a line is cut into blocks of columns",
        "blocks.begin.aligned": "blocks behind the first are filled from an aligned place",
        "blocks.begin.first_read": "blocks behind the first are filled from the first column that they read",
        "bands.one": "one band of rows walks down the result",
        "bands.several": "bands of rows are shared among tasks",
        "padding.none": "no tap lies on padding",
        "padding.skipped": "lines over the padding are left out, the weights being finite",
        "padding.every_tap": "lines over the padding are multiplied, a weight being infinite or NaN",
    },
)

#: Weights packed just before use: `conv.streamed_weights`.
streamed_weights = declare_all(
    "jit.streamed_weights",
    {
        "pieces.one": "a block of weights is packed at once",
        "pieces.several": "a block of weights is packed in pieces of taps, sums being put in memory between them",
        "pieces.by_alignment": "where the pieces are cut depends on where the weights lie in a cache line",
    },
)

#: How tiles cover rows: `index.tiling`.
tiling = declare_all(
    "jit.tiling",
    {
        "exact": "tiles cover a row exactly",
        "overlapping": "the last tiles of a row overlap",
        "even": "tiles follow each other in equal steps",
        "by_runs": "tiles follow the runs of positions with equal taps",
        "long_rows": "rows are long: what a tile wastes at their ends does not count",
        "short_rows": "rows are short: the tile that covers them best is taken",
        "fitted": "a tile of long rows is one pixel less high, which covers them better",
    },
)

#: Copies into the order in which kernels read, and back: `packing.moves`.
packing = declare_all(
    "jit.packing",
    {
        "input.copied": "a channels-last input is copied",
        "input.transposed": "a channels-first input is transposed",
        "input.margins.no_columns": "nothing stands beside the rows of the copy",
        "input.margins.columns": "zeros stand beside the rows of the copy",
        "input.margins.lines": "lines of zeros stand around the copy",
        "result.rows_joined": "rows of the result that follow each other are transposed back as one",
        "result.rows_apart": "the result is transposed back row by row",
        "squares.whole_lines": "squares of whole cache lines are transposed",
        "squares.half_lines": "squares of half a cache line are transposed",
        "weights.few": "few weights are packed by a kernel that any shape shares",
        "weights.many": "many weights are packed by squares that are transposed in registers",
        "weights.split": "many weights of few taps are deinterleaved in registers",
        "weights.columns": "a row of the weights holds input channels and taps",
        "weights.columns_of_taps": "a row of the weights holds taps, of which a call may pack some",
        "weights.by_input": "a row of the weights holds the taps of one input channel of a transposed convolution",
        "weights.ragged_squares": "the last square of a block of weights is not full",
        "weights.folded.gathered": "folded weights are gathered one by one",
        "weights.folded.interleaved": "folded weights are interleaved in vectors",
        "tasks.one": "a copy is one task",
        "tasks.several": "a copy is several tasks",
    },
)

#: Depthwise, vectors across channels: `depthwise`.
channels_last = declare_all(
    "jit.depthwise.channels_last",
    {
        "taken": "depthwise: vectors across channels",
        "input.in_place": "the input is channels-last and read in place",
        "input.transposed": "the input is transposed to channels-last",
        "result.in_place": "the result is channels-last and stored in place",
        "result.scratch": "the result is transposed back from scratch memory",
        "multiplier.one": "one output channel for each input channel",
        "multiplier.several": "several output channels for each input channel",
        "taps.unrolled": "the taps of a line stand in the code",
        "taps.looped": "the taps of a line are turns of a loop",
        "patterns.one": "the stride phases of the pixels' axis share a kernel",
        "patterns.several": "stride phases of the pixels' axis with other taps have kernels of their own",
        "phases.empty": "some stride phase of the pixels' axis has no taps",
        "pixels.last_axis": "a tile's pixels run along the last axis",
        "pixels.outer_axis": "a tile's pixels run along an outer axis: the last one is a single position",
        "tiles.inside": "no tile reads over an end of its row",
        "tiles.over_the_ends": "some tiles read over an end of their row",
        "tiles.down": "tiles go down the lines, so that overlapping kernel rows stay in the cache",
        "tiles.along": "tiles go along the lines",
        "vectors.one": "a block of channels is one vector",
        "vectors.several": "a block of channels is several vectors",
        "channels.whole": "the channels fill their blocks",
        "channels.ragged.one_block": "the only block of channels is not full",
        "channels.ragged.several_blocks": "the last of several blocks of channels is not full",
        "padding.none": "no tap lies on padding",
        "padding.skipped": "taps over the padding are left out, the weights being finite",
        "rows.whole": "rows are not cut",
        "rows.cut": "rows are cut into pieces that are shared",
    },
)

#: Depthwise, plane by plane: `depthwise.channels_first`.
channels_first = declare_all(
    "jit.depthwise.channels_first",
    {
        "taken": "depthwise: channels-first, plane by plane",
        "refused.layout": "plane by plane refused: rows do not lie contiguously",
        "refused.axes": "plane by plane refused: there are more than two axes",
        "refused.short_rows": "plane by plane refused: rows are too short",
        "refused.long_rows": "plane by plane refused: blocks of a sum end within the rows of a large kernel",
        "refused.stride": "plane by plane refused: columns a stride apart cannot be taken apart in vectors",
        "refused.much_work": "plane by plane refused: so much is computed that transposing to channels-last hardly shows",
        "axes.one": "a plane is one line",
        "axes.two": "a plane has rows and columns",
        "rows.one": "a tile is one row high",
        "rows.several": "a tile is several rows high",
        "taps.unrolled": "the taps of all kernel rows stand in the code",
        "taps.looped": "kernel rows are turns of a loop",
        "columns.together": "neighbouring positions read neighbouring columns",
        "columns.split": "columns a stride apart are taken apart in scratch memory",
        "phases.one": "the columns of the result have one stride phase",
        "phases.several": "the stride phases of the result's columns are interleaved",
        "patterns.one": "the stride phases of the rows' axis share a kernel",
        "patterns.several": "stride phases of the rows' axis have taps of their own",
        "vectors.one": "a tile is one vector wide",
        "vectors.several": "a tile is two vectors wide",
        "bands.one": "a plane is one band of rows",
        "bands.several": "a plane is cut into bands of rows",
        "padding.none": "no zero beside the rows is multiplied where the weights must be finite",
        "padding.skipped": "taps over the padding are left out, the weights being finite",
    },
)

#: Depthwise transpose by a long stride: `depthwise.upsample`.
upsample = declare_all(
    "jit.depthwise.upsample",
    {
        "taken": "depthwise transpose: vectors across stride phases",
        "axes.one": "a plane is one line",
        "axes.two": "a plane has rows and columns",
        "stores.whole": "runs of stride phases fill their vectors and begin with the row",
        "stores.ragged": "runs of stride phases are stored in part",
        "vectors.full": "vectors are as wide as the CPU's",
        "vectors.half": "vectors are half as wide as the CPU's, which fits the stride better",
        "taps.one": "a run has one tap",
        "taps.several": "a run has several taps",
        "tile.one_column": "a tile is one input column",
        "tile.several_columns": "a tile is several input columns",
        "chunks.one": "a plane is one chunk of rows",
        "chunks.several": "a plane is cut into chunks of rows",
    },
)

#: Weight gradient: `weight_grad`, `weight_grad_plan`, `weight_grad_sides`.
weight_grad = declare_all(
    "jit.weight_grad",
    {
        "taken": "weight gradient: a tile of weights summed over positions",
        "reading.channels": "vectors of input channels, rows of output channels, tap by tap",
        "reading.outputs": "vectors of output channels, rows of input channels, tap by tap",
        "reading.run": "vectors of (taps of a line, input channels), rows of output channels",
        "reading.run_outputs": "vectors of output channels, rows of (taps of a line, input channels)",
        "tile.full_vectors": "all vectors of a tile are as wide as the CPU's",
        "tile.half_vector": "the last vector of a tile is half as wide",
        "tile.one_row": "a tile is one row high",
        "tile.several_rows": "a tile is several rows high",
        "tile.part_of_a_vector": "not all lanes of a tile's last vector exist",
        "tile.ragged_rows": "the last tile of rows overlaps the one before",
        "tile.ragged_columns": "the last tile of columns overlaps the one before",
        "groups.one": "one group of channels",
        "groups.several": "several groups of channels",
        "x.in_place": "x is read in place",
        "x.slab": "x is copied with its channels innermost",
        "x.slab.margins": "x is copied with its padding along the last axis",
        "x.blocks": "x is copied in blocks of a tile's channels",
        "x.split_columns": "x is copied in blocks, columns a stride apart side by side",
        "y.in_place": "y is read in place",
        "y.streams": "y is read in place, channel by channel",
        "y.slab": "y is copied with its channels innermost",
        "y.blocks": "y is copied in blocks of a tile's channels",
        "blocks.channels_first": "blocks of a channels-first operand are transposed on the way",
        "blocks.channels_last": "blocks of a channels-last operand are copied",
        "blocks.narrow": "blocks share cache lines: some pixels are cut into all of them before the next ones",
        "bands.one": "all positions are one band",
        "bands.rows": "positions are cut into bands of rows",
        "bands.columns": "long rows are cut into bands of columns",
        "images.one": "tiles pass over one image at a time",
        "images.several": "tiles pass over several images at a time",
        "images.together": "images are single positions: the products of several are added in registers",
        "images.abreast": "images have few positions: several pass the tile side by side, their tree is added in registers",
        "batch.whole": "the batch is summed in one call",
        "batch.part": "a part of the batch is summed, one node of the images' tree",
        "blocks.one": "an image's positions are one block",
        "blocks.several": "an image's positions are one group of blocks",
        "blocks.groups": "an image's positions are groups of blocks",
        "sums.stored": "running sums of each tile stay in memory from one band or turn to the next",
        "sums.held": "running sums of a tile are done with it",
        "prefetch.taken": "a band's operands are prefetched while the one before is computed",
        "ahead.scalars": "lines of the operand that gives scalars are prefetched ahead of their use",
        "ahead.vectors": "lines of the operand that gives vectors are prefetched ahead of their use",
        "result.in_place": "sums are stored in the result",
        "result.reordered.copied": "sums are copied to the result, rounded once",
        "result.reordered.by_output": "sums of each output channel are transposed to the result",
        "result.reordered.by_group": "sums of each group are transposed to a channels-last result",
        "result.reordered.by_input": "sums of each group and input channel are transposed to the result",
        "result.far": "lines of the result are prefetched before a tile is computed: it is large, or a line takes little time",
        "tasks.one": "the tiles are one task",
        "tasks.several": "tiles are shared among tasks",
        "tasks.in_step": "tasks of neighbouring rounds follow each other on any thread",
        "padding.none": "no tap lies on padding",
        "padding.skipped": "positions whose tap lies on padding are left out, y being finite",
    },
)

#: Depthwise weight gradient: `depthwise_grad`.
depthwise_weight_grad = declare_all(
    "jit.depthwise.weight_grad",
    {
        "taken": "depthwise weight gradient: vectors across channels",
        "refused.little_work": "depthwise kernels refused: too little work for kernels of its own",
        "refused.multiplier": "depthwise kernels refused: the output channels of a group do not divide a vector",
        "x.in_place": "x is channels-last and read in place",
        "x.copied": "x is copied channels-last",
        "y.in_place": "y is channels-last and read in place",
        "y.copied": "y is copied channels-last",
        "multiplier.one": "one output channel for each input channel",
        "multiplier.several": "several output channels for each input channel",
        "rows.one": "all kernel rows are summed together",
        "rows.several": "kernel rows are cut into runs",
        "columns.one": "all taps of a line are summed together",
        "columns.several": "the taps of a line are cut into runs",
        "vectors.one": "a block of channels is one vector",
        "vectors.several": "a block of channels is several vectors",
        "channels.whole": "the channels fill their blocks",
        "channels.ragged": "the last block of channels is not full",
        "images.one": "one image",
        "images.several": "the sums of images are added as their tree",
        "axes.one": "there is one axis",
        "axes.two": "there are two axes",
        "axes.more": "there are more than two axes",
    },
)
