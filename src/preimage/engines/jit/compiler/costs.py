"""The numbers behind plans that were measured, or chosen by measuring, on one CPU: what things cost, and what caches hold.

They decide which plan is taken, never a bit of its result. Planners read them from the target (`r.target.costs`), so that a CPU can
have its own:

    other = replace(target, costs=replace(AVX512, direct=replace(AVX512.direct, copy_cycles=2.0)))

All were measured on one core of Zen 4 and Zen 5 with AVX-512 (48 KiB of L1 cache, 1 MiB of L2), float32, unless a line says otherwise;
those of AVX2 that differ on a core of Zen 3 (32 KiB, 512 KiB). NEON has AVX-512's numbers until somebody measures its own: there they
are a guess. What shapes a kernel's code (how far it unrolls, how far ahead it prefetches) stands beside that code.
"""

from __future__ import annotations

from dataclasses import field, replace

from preimage.records import record

__all__ = [
    "AVX2",
    "AVX512",
    "NEON",
    "ZEN4",
    "AcrossPixelsCosts",
    "CostModel",
    "DepthwiseCosts",
    "DirectCosts",
    "ElementwiseCosts",
    "PackingCosts",
    "ProductCosts",
    "StreamingCosts",
    "ThreadCosts",
    "TilingCosts",
    "WeightGradCosts",
]


@record
class TilingCosts:
    """Register tiles of the direct kernel (`index/tiling.py`)."""

    tile_overhead: float = 60.0  # cycles to begin and end a tile: tables, first loads
    store_cycles: float = 3.0  # for each vector of sums that a tile stores
    crowded_stores: int = 18  # with more vectors than this the stores are not hidden behind the next tile ...
    crowded_cycles: float = 20.0  # ... and each further one costs this
    transpose_cycles: float = 6.0  # for each vector of a tile that is transposed in registers before it is stored
    load_cycles: float = 0.5  # for each number of the input that is spread over a vector, and each vector of weights ...
    weight_cycles: float = 0.0  # ... which come from the L2 cache no faster than this; both of vectors of up to 32 bytes
    wide_load_cycles: float = 0.0  # the same as load_cycles, of vectors of 64 bytes
    worth_fitting: float = (
        0.96  # a tile of one pixel less must save this much of the tiles, or new sizes want new kernels for nothing
    )


@record
class DirectCosts:
    """Direct convolution with vectors across output channels (`conv/direct*.py`, `conv/halo.py`)."""

    copy_cycles: float = 0.6  # an element of the input, copied into a slab
    transpose_cycles: float = 2.0  # an element of the input, transposed into a slab
    scratch_cycles: float = 1.5  # an element of the result, written to a scratch and transposed back
    pack_cycles: float = 1.0  # an element of the weights, packed in blocks
    gather_cycles: float = 4.0  # an element of the weights, packed one by one
    crowded_run: int = 256  # input channels from which on the copy of an input whose pixels share cache sets is worth its while
    band_bytes: int = (
        512 << 10
    )  # of input and output together, which the L2 cache holds while all blocks of channels pass over them
    least_band_bytes: int = 16 << 10  # of input
    small_weights: int = 64 << 10  # bytes of all stride phases together: these need no chunks of their own
    most_edges: float = 0.34  # of a row's tiles: with more of them on the padding the whole row is copied
    edge_copy_cycles: float = 0.25  # a byte of the input, copied into a slab and read from there
    worth_edges: float = 0.02  # of the whole: what reading in place must save


@record
class StreamingCosts:
    """Weights packed block by block, just before their use (`conv/streamed_weights.py`)."""

    least_bytes: int = 256 << 10  # of packed weights: fewer are packed first
    piece_bytes: int = 384 << 10  # of packed weights: the L2 cache holds the input, sums and the piece's source beside them
    whole_pieces: int = 4  # a block of so many pieces is not worth cutting: most of it stays in the cache anyway
    most_partial_bytes: int = 2 << 20  # of sums that wait in memory between pieces
    most_input_bytes: int = 1 << 20  # that are read again for every piece
    most_uneven: float = 1.21  # how much longer the busiest thread may work than with even shares, where sums are cheap ...
    uneven: float = 1.125  # ... and where they are not: where each weight meets many positions
    few_positions: int = 320  # sums of so many positions take about as long as packing everything first


@record
class AcrossPixelsCosts:
    """Vectors across pixels (`conv/across_pixels*.py`)."""

    most_products: int = 400  # multiply-adds in the code: more miss the instruction cache
    long_line: int = 128  # positions: in longer lines what is wasted at the end does not count ...
    long_tile: int = 32  # ... so the tile has at most so many pixels, and new sizes find their kernels made
    scratch_bytes: int = 384 << 10  # of a thread; it should stay in the L2 cache
    fill_cycles: float = 0.5  # an element brought to the scratch
    channel_blocks: float = 1.25  # what a tile costs more that takes a block of a group's channels (AVX2, 21 layers)


@record
class DepthwiseCosts:
    """Depthwise kernels (`depthwise/*.py`)."""

    dense: int = 40  # multiply-adds for each element moved, from which on transposing to channels-last costs little
    band_bytes: int = 48 << 10  # scratch of a band of a plane: it should stay in the nearest caches
    most_unrolled: int = 260  # multiply-adds in the code of a tile of a plane; with more, kernel rows become a loop
    scratch_bytes: int = 32 << 10  # of a thread, upsampling; it should stay in the L1 cache beside a channel's weights
    most_sums: int = 16  # vectors of sums of a tile, upsampling
    most_taps_in_code: int = 64  # channels-last: of longer kernel rows every tap is a turn of a loop
    least_task: int = 20_000  # multiply-adds that are worth a task of their own
    weight_grad_gain: int = 8  # so many times faster than the dense weight gradient, whose kernels any sizes share


@record
class PackingCosts:
    """Copies of operands and results, and packed weights (`packing/*.py`)."""

    task_elements: int = 1 << 15  # a task of copying moves about this many
    few_channels: int = 16  # below this many, the taps along the last axis may join the run of channels
    few_weights: int = 1 << 16  # so many are packed in microseconds, and by a small kernel that any shape shares
    many_weights: int = 1 << 17  # from here on folded weights are packed in vectors; fewer are not worth the code
    whole_line_bytes: int = 1 << 20  # of an array that is transposed by whole cache lines
    most_split: int = 16  # taps that are deinterleaved instead of transposed
    row_ahead: int = 512  # bytes that are prefetched: rows of weights are read from end to end
    pieces_ahead: int = 8192  # the same, of pieces, in all


@record
class WeightGradCosts:
    """Weight gradients (`weight_grad/*.py`). A band is a stretch of output pixels that all tiles pass over before the next one;
    running sums are stored between bands.
    """

    broadcast: float = 0.5  # loading a number into all lanes, counted in loads of a vector
    abreast_line: float = 0.5  # multiply-adds that a cache line read by a tile takes, of several images side by side
    band_bytes: int = 384 << 10  # of both operands: what the second-level cache keeps
    band_pixels: int = 256  # and no fewer pixels than this, so that beginning a band costs little
    block_band_bytes: int = 512 << 10  # of one tile's vectors in a band
    # An operand is copied in blocks of a tile's channels where its pixels lie far apart, or where the weights are so many that
    # long bands pay; if the image does not stay in the cache anyway and each element is multiplied often enough.
    block_far_bytes: int = 1024
    block_image_bytes: int = 192 << 10
    block_products: int = 256
    few_products: int = 128  # the same, where images have few positions
    block_weight_bytes: int = 1 << 20  # storing and loading so many sums between bands costs more than the copy
    narrow_bytes: int = 128  # of a block's pixel: two cache lines
    stream_products: int = 1024  # channels-first scalars used more often than this are worth their copy in blocks
    far_pixel_bytes: int = 512  # of an operand that is read in place: beyond what the hardware follows
    most_lines_ahead: int = 5
    prefetch_products: int = 60  # vectors of products for one prefetched line
    far_result: int = (
        4  # second-level caches full of weights, from which on results are prefetched too, however long a tile takes
    )
    tasks_per_thread: int = 3  # of all pixels
    parts_per_thread: int = 2  # of a round
    most_turns: int = 64  # tasks of one part: so many are enough to keep the threads in step


@record
class ProductCosts:
    """Matrix products (`products/lower.py`)."""

    local_tiles: int = 32  # tiles of rows up to which a task has all of them
    task_macs: int = 1 << 17  # about the least work of a task
    least_shared: int = 1 << 19  # a product of fewer multiply-adds is one thread's, whether others are awake or not
    pack_elements: int = 1 << 14  # a task of packing
    pack_panels: int = 32  # of those whose width is no whole number of vectors, likewise
    stream_rows: int = 4  # of A at most, where B is read line by line
    stream_columns: int = 1 << 12  # of one row, whose sums stay in the first cache: short pieces of lines come more slowly
    chain_cycles: float = 1.1  # of the least that multiply-adds take, as tiles reach it
    read_cycles: float = 0.15  # an element of B
    near_cycles: float = 0.3  # an element of C in the second cache ...
    far_cycles: float = 4.0  # ... and outside: its rows are pages apart
    call_cycles: float = 2000.0


@record
class ElementwiseCosts:
    """Kernels that are no contractions (`elementwise/*.py`)."""

    task_elements: int = 1 << 14  # a task has at least about so many
    softmax_task_elements: int = 1 << 13  # the same, of exponentials
    least_shared: int = 1 << 16  # fewer elements are one thread's: waking another costs as much as a pass over them
    #: The same, of threads that may be asleep (no recorded program runs): 40 to 50 us go by until one is awake.
    least_woken: int = 1 << 19
    heavy: int = 4  # how many elements a step of exp, sigmoid or tanh counts for there
    row_elements: int = 1 << 12  # of the rows into which arrays are cut where nothing depends on the row
    least_width: int = 8  # elements: shorter rows are mostly masked vectors


@record
class ThreadCosts:
    """Who computes a call (`runtime/pool_ir.py`)."""

    #: Multiply-adds of 32-bit floats: one call of so many, or several soon after another, are worth waking workers (40 to 50 us; a product of
    #: 128 x 128 x 128 takes 60). Smaller calls are shared with workers that are awake. Threads that run a recorded program are.
    woken_macs: int = 3 << 20


@record
class CostModel:
    """All of them, for one family of CPUs."""

    name: str
    tiling: TilingCosts = field(default_factory=TilingCosts)
    direct: DirectCosts = field(default_factory=DirectCosts)
    streaming: StreamingCosts = field(default_factory=StreamingCosts)
    across_pixels: AcrossPixelsCosts = field(default_factory=AcrossPixelsCosts)
    depthwise: DepthwiseCosts = field(default_factory=DepthwiseCosts)
    packing: PackingCosts = field(default_factory=PackingCosts)
    weight_grad: WeightGradCosts = field(default_factory=WeightGradCosts)
    products: ProductCosts = field(default_factory=ProductCosts)
    elementwise: ElementwiseCosts = field(default_factory=ElementwiseCosts)
    threads: ThreadCosts = field(default_factory=ThreadCosts)

    def __hash__(self) -> int:  # of every request that is looked up
        return hash(self.name)


AVX512 = CostModel("avx512")
#: Zen 4 loads one vector of 64 bytes a cycle, and spreads a number over one more slowly still: a tile of 16 pixels and one such vector reaches
#: two thirds of what 8 pixels and two vectors of 32 bytes do. Numbers spread over vectors of 32 bytes come more slowly than two a cycle, too:
#: 16 pixels and one vector reach two thirds of what 4 pixels and three vectors do.
ZEN4 = replace(AVX512, name="zen4", tiling=TilingCosts(load_cycles=0.7, wide_load_cycles=1.35))
AVX2 = replace(
    AVX512,
    name="avx2",
    tiling=TilingCosts(load_cycles=0.63, weight_cycles=1.6),
    weight_grad=WeightGradCosts(broadcast=1.25, block_far_bytes=256, block_image_bytes=32 << 10, block_products=64),
)
NEON = replace(AVX512, name="neon")
