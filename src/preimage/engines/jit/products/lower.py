"""The program of a product: pack what must be packed, multiply (`tile_kernel`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from preimage.engines.ir.builder import ELEMENT_BYTES, LINE_BYTES
from preimage.engines.jit.compiler.costs import ProductCosts
from preimage.engines.jit.products.dots import dots, should_dot
from preimage.engines.jit.products.pack_kernel import PackArguments, PackSpec
from preimage.engines.jit.products.request import ProductRequest, Side, choose_rows, standard_vectors
from preimage.engines.jit.products.stream_kernel import StreamArguments, StreamSpec
from preimage.engines.jit.products.tile_arguments import TileArguments
from preimage.engines.jit.products.tile_kernel import TileSpec
from preimage.engines.jit.program import Buffer, KernelCall, Program, ProgramBuilder, kernel_call
from preimage.engines.order import Order
from preimage.records import record

__all__ = ["lower_product", "pack_call"]


@record
class _Operand:
    """How a kernel reads a factor; strides as in the request, or those of the packed form."""

    packed: bool
    member: int
    term: int
    panel: int
    start: int
    places: tuple[int, ...]


def panel_bytes(terms: int, width: int, item: int) -> int:
    """From one packed panel to the next: an odd number of cache lines, with room for a vector stored over the end."""
    return ((terms * width * item + LINE_BYTES - 1) // LINE_BYTES + 1 | 1) * LINE_BYTES


LEAST_PANELS = 4  # that are packed along the lines in which they lie


def pack_call(
    name: str,
    side: Side,
    source: str,
    result: str,
    lanes: int,
    width: int,
    arrays: tuple[str, str],
    costs: ProductCosts,
    threads: int = 1,
) -> tuple[KernelCall, int]:
    """Pack one side of every product; the call, and the bytes of the result. threads: among which its tasks are to be shared."""
    item = ELEMENT_BYTES[source]
    panels, pitch = max(1, -(-side.members // width)), panel_bytes(side.terms, width, ELEMENT_BYTES[result])
    transposed = side.by_terms(item)
    # A vector stored over the end of a line must not meet another task's: then a task has all terms, of fewer panels.
    group = 1 if transposed else panels
    if not transposed and width % lanes:
        fair = panels if threads == 1 else max(LEAST_PANELS, -(-panels * len(side.places) // (2 * threads)))
        group = min(panels, costs.pack_panels, fair)
    share = side.terms if width % lanes else max(lanes, costs.pack_elements // (width * group) // lanes * lanes)
    shares, groups = max(1, -(-side.terms // max(share, 1))), -(-panels // group)
    values = PackArguments(
        source=arrays[0], result=arrays[1], places=np.array(side.places, np.int64), members=side.members,
        terms=side.terms, member_stride=side.member_stride, term_stride=side.term_stride, panels=panels,
        panel_bytes=pitch, share=share, shares=shares, group=group, groups=groups,
    )  # fmt: skip
    spec = PackSpec(source, result, lanes, width, transposed, side.members < width)
    count = len(side.places)
    return kernel_call(name, spec, values, count * groups * shares), count * panels * pitch


def _unpacked(side: Side) -> _Operand:
    return _Operand(False, side.member_stride, side.term_stride, 0, side.member_stride, side.places)


def _packed(side: Side, width: int, item: int, count: int) -> _Operand:
    panels, pitch = max(1, -(-side.members // width)), panel_bytes(side.terms, width, item)
    return _Operand(True, item, width * item, pitch, 0, tuple(p * panels * pitch for p in range(count)))


def lower_product(r: ProductRequest) -> Program:
    """The program of a product whose matrices all have elements. Compiles nothing."""
    program = ProgramBuilder("matrix product")
    if _should_stream(r):
        program.calls.append(_stream(r, program))
        return program.done()
    if should_dot(r):
        steps = [cut.step for cut in Order.of((r.terms,)).levels]
        program.calls.append(dots(r, program, _group_sizes(steps)))
        return program.done()
    lanes, wide = _lanes(r), ELEMENT_BYTES[r.sums]
    transposed = r.b.by_terms(r.item) and not r.prepared
    vectors = standard_vectors(r.columns, lanes)
    way = _way(r, transposed, choose_rows(r.rows, vectors, r.target))
    if way == "direct":
        vectors = _skinny_vectors(r, transposed, lanes)
    rows = choose_rows(r.rows, vectors, r.target)
    if not _should_pack_a(r, rows) and r.a.by_terms(r.item) and _shared_sets(r.a.member_stride, rows) > 6:
        rows = choose_rows(r.rows, vectors, r.target, 6)
    masked = r.columns < vectors * lanes
    a, b, a_element, b_element = _unpacked(r.a), _unpacked(r.b), r.element, r.element
    if way == "packed":
        width = vectors * lanes
        call, size = pack_call(
            "pack B", r.b, r.element, r.sums, lanes, width, ("w" if r.prepared else "b", "packed"), r.target.costs.products
        )
        b, b_element = _packed(r.b, width, wide, r.products), r.sums
        if r.prepared:
            program.packing, program.packed_bytes = call, size
            program.packed_key = ("product", r.b, r.element, lanes, width)
        else:
            program.calls.append(call)
            program.buffers.append(Buffer("packed", size))
    if _should_pack_a(r, rows):
        call, size = pack_call("pack A", r.a, r.element, r.sums, lanes, rows, ("a", "rows"), r.target.costs.products, r.threads)
        a, a_element = _packed(r.a, rows, wide, r.products), r.sums
        program.calls.append(call)
        program.buffers.append(Buffer("rows", size))
    spec = TileSpec(
        a=a_element, b=b_element, out=r.element, lanes=lanes, rows=rows, vectors=vectors,
        by_rows=not a.packed and r.a.by_terms(r.item), a_step=rows if a.packed else 0, transposed=transposed and way != "packed",
        b_step=vectors * lanes if way == "packed" else 0, masked=masked, ahead=_is_far(r) and (way != "packed" or rows <= 2),
        local=way == "local", finish=r.finish, depth=min(Order.of((r.terms,)).depth, 2), chunked=False, far_out=_is_far_result(r),
        bias_of_rows=r.bias_cycle > 0, along_rows=way == "direct" and r.terms <= SHORT_TERMS,
    )  # fmt: skip
    program.details["B"] = WAYS[way]
    program.calls.append(_multiply(r, program, spec, a, b))
    return program.done()


#: Of so few terms a tile is written as fast as C can be written: then it is written from its first byte to its last.
SHORT_TERMS = 16
WAYS = {
    "packed": "packed first", "local": "copied panel by panel by the thread that reads it", "direct": "read where it lies",
}  # fmt: skip


def _way(r: ProductRequest, transposed: bool, rows: int) -> str:
    """How B is read: a few tiles of rows read it where it lies; one task's worth of them share copies of its panels; else it is packed."""
    tiles = -(-r.rows // rows)
    if r.prepared:
        return "packed"
    if r.rows <= 2 if transposed else tiles < 2 and not (_is_far(r) and r.rows > r.target.costs.products.stream_rows):
        return "direct"
    if not transposed and r.item > 2 and _stays_near(r):
        return "direct"
    return "local" if tiles <= r.target.costs.products.local_tiles else "packed"


SET_BYTES = 4096  # from a line to the next one in the same set of the first cache


def _stays_near(r: ProductRequest) -> bool:
    """Whether the first cache holds B, or a panel of it (where it lies: its lines may share few sets) while the second holds B beside A and C."""
    size = r.columns * r.terms * r.item
    if size <= r.target.l1_bytes // 2:
        return True
    if size > r.target.l2_bytes // 8 or r.target.vector_registers <= 16:  # few registers: nothing is gained (AVX2, 96 x 96 x 96)
        return False
    starts = np.arange(r.terms) * r.b.term_stride
    lines = (
        np.arange(standard_vectors(r.columns, r.lanes) * r.lanes * r.item // LINE_BYTES + 1) * LINE_BYTES
    )  # one more: they begin anywhere
    shared = np.bincount(((starts[:, None] + lines) % SET_BYTES // LINE_BYTES).ravel())
    return int(shared.max()) <= r.target.l1_bytes // SET_BYTES * 3 // 4


def _is_far(r: ProductRequest) -> bool:
    """Whether B is too large for the second cache."""
    return r.columns * r.terms * r.item > r.target.l2_bytes // 2


def _is_far_result(r: ProductRequest) -> bool:
    """Whether C is too large for the second cache, and a tile takes long enough to fetch it."""
    return r.products * r.rows * r.columns * r.item > r.target.l2_bytes and r.terms >= 32


def _should_stream(r: ProductRequest) -> bool:
    """Whether B is read line by line: from far, for a few rows."""
    return (
        r.rows <= r.target.costs.products.stream_rows
        and not r.prepared
        and not r.b.by_terms(r.item)
        and r.columns >= 128
        and _is_far(r)
    )


def _stream(r: ProductRequest, program: ProgramBuilder) -> KernelCall:
    order, wide = Order.of((r.terms,)), ELEMENT_BYTES[r.sums]
    steps = [cut.step for cut in order.levels] or [r.terms]
    lines = max(1, 8 // r.rows)  # with more of them, which lie pages apart, memory gives less
    share = min(r.target.costs.products.stream_columns // r.rows, r.columns)
    if r.threads > 1:
        share = max(128, min(share, -(-r.columns // r.threads)))
    share = -(-share // 32) * 32
    shares = -(-r.columns // share)
    pitch = share + r.lanes  # the sums lie in vectors as B does
    thread_bytes = (order.depth + 1) * r.rows * pitch * wide
    program.buffers.append(Buffer("totals", thread_bytes * r.threads))
    program.details["lines"] = f"{lines} of B at a time"
    values = StreamArguments(
        input="a", weight="b", output="out", bias="bias", residual="residual", limits="limits", totals="totals",
        thread_bytes=thread_bytes, columns=r.columns, terms=r.terms, block=steps[0],
        blocks=-(-r.terms // steps[0]), levels=order.depth, groups=_group_sizes(steps), a_row=r.a.member_stride,
        a_term=r.a.term_stride, b_term=r.b.term_stride, out_row=r.result_row,
        out_product=r.result_product, bias_cycle=r.bias_cycle, a_places=np.array(r.a.places, np.int64),
        b_places=np.array(r.b.places, np.int64), share=share, shares=shares, pitch=pitch,
    )  # fmt: skip
    spec = StreamSpec(r.element, r.lanes, r.rows, lines, r.finish, r.bias_cycle > 0)
    return kernel_call("multiply", spec, values, r.products * shares)


def _group_sizes(steps: list[int]) -> Any:
    """How many blocks make a group, a group of groups, and so on; one number more that no count reaches."""
    return np.cumprod(np.array([*steps[1:], 1 << 30], np.int64))


def _lanes(r: ProductRequest) -> int:
    """Of a tile's vectors: one wide vector of columns is two narrow ones where wide loads are slow, so that each element of A meets two."""
    is_slow = r.target.costs.tiling.wide_load_cycles > r.target.costs.tiling.load_cycles
    return r.lanes // 2 if is_slow and r.rows >= 4 and r.lanes // 2 < r.columns <= r.lanes else r.lanes


def _skinny_vectors(r: ProductRequest, transposed: bool, lanes: int) -> int:
    """Vectors of a tile whose B is read where it lies: many where the rows are few, so that there are chains enough."""
    most = -(-r.columns // lanes)
    if transposed:  # with more, lines that lie pages apart would drive each other out of the first cache
        return 1
    many = r.target.vector_registers > 16
    wanted = {1: 8, 2: 4, 3: 4 if many else 3, 4: 3}.get(r.rows, 2)
    return min(wanted, most)


def _should_pack_a(r: ProductRequest, rows: int) -> bool:
    """Whether A is copied first: where its rows would meet in the same sets of the first cache, or each term is on a page of its own."""
    if r.item == 2:
        return r.columns > 4 * r.lanes
    if r.columns <= 4 * 2 * r.lanes or rows == 1:
        return False
    if r.a.by_terms(r.item):
        return _shared_sets(r.a.member_stride, rows) > 4
    return abs(r.a.term_stride) >= 1024 and r.terms > 32


def _shared_sets(stride: int, rows: int) -> int:
    """How many of the rows begin at the same place modulo a page."""
    return int(np.bincount(np.arange(rows) * stride % 4096 // LINE_BYTES).max())


def _multiply(r: ProductRequest, program: ProgramBuilder, spec: TileSpec, a: _Operand, b: _Operand) -> KernelCall:
    order = Order.of((r.terms,))
    steps = [cut.step for cut in order.levels] or [r.terms]
    blocks, wide = -(-r.terms // steps[0]), ELEMENT_BYTES[r.sums]
    tiles, panels = -(-r.rows // spec.rows), -(-r.columns // spec.width)
    chunk, line = blocks, spec.width * wide  # bytes of a term of a panel
    if not b.packed and not spec.local and not spec.transposed and spec.ahead:
        chunk = 1
    most = r.target.l2_bytes // 8  # of a panel: the second cache gives a tile its lines as fast as it multiplies
    if (b.packed or spec.local) and r.terms * line > most and tiles > 1:
        chunk = max(1, most // (1 if spec.local else 2) // (line * steps[0]))
        if order.depth > 1 and chunk >= steps[1]:
            chunk = chunk // steps[1] * steps[1]  # whole groups: fewer sums wait
    local_panel = ((min(chunk * steps[0], r.terms) + spec.line) * line // LINE_BYTES | 1) * LINE_BYTES if spec.local else 0
    task_tiles, task_panels = _shares(
        r, spec, tiles, panels, min(chunk * steps[0], r.terms), order.depth if chunk < blocks else 0, local_panel
    )
    spec = replace(spec, chunked=chunk < blocks)
    row_tasks, column_tasks = -(-tiles // task_tiles), -(-panels // task_panels)
    tile_bytes = order.depth * spec.rows * line
    totals_bytes = -(-tile_bytes * (task_tiles * task_panels if chunk < blocks else 1) // LINE_BYTES) * LINE_BYTES
    thread_bytes = totals_bytes + local_panel * task_panels
    program.buffers.append(Buffer("totals", max(thread_bytes, LINE_BYTES) * r.threads))
    program.details["tile"] = f"{spec.rows} rows x {spec.width} columns"
    values = TileArguments(
        input="rows" if a.packed else "a", weight="packed" if b.packed else "b", output="out", bias="bias",
        residual="residual", limits="limits", totals="totals", thread_bytes=thread_bytes,
        tile_bytes=tile_bytes if chunk < blocks else 0, rows=r.rows, columns=r.columns, terms=r.terms,
        block=steps[0], blocks=blocks, chunk=chunk, chunks=-(-blocks // chunk), levels=order.depth,
        groups=_group_sizes(steps), a_row=a.member, a_term=a.term, a_tile=a.panel, a_start=a.start, b_column=b.member,
        b_term=b.term, b_panel=b.panel, b_start=b.start, out_row=r.result_row,
        out_product=r.result_product, bias_cycle=r.bias_cycle, a_places=np.array(a.places, np.int64),
        b_places=np.array(b.places, np.int64), tiles=tiles, panels=panels, task_tiles=task_tiles,
        task_panels=task_panels, row_tasks=row_tasks, column_tasks=column_tasks,
        local=totals_bytes, local_panel=local_panel,
    )  # fmt: skip
    return kernel_call("multiply", spec, values, r.products * row_tasks * column_tasks)


def _shares(
    r: ProductRequest, spec: TileSpec, tiles: int, panels: int, terms: int, levels: int, local_panel: int
) -> tuple[int, int]:
    """Tiles and panels of a task: A's part of it, or its own copy of B's, in the second cache, its totals too,
    tasks enough for the threads."""
    wide = ELEMENT_BYTES[r.sums]
    task_tiles = tiles if spec.local else max(1, min(tiles, r.target.l2_bytes // 3 // (spec.rows * terms * wide)))
    task_panels = panels
    if levels:
        task_panels = max(1, min(panels, r.target.l2_bytes // 2 // (levels * task_tiles * spec.rows * spec.width * wide)))
    if local_panel:
        task_panels = max(1, min(task_panels, r.target.l2_bytes * 3 // 8 // local_panel))
    if r.threads > 1:
        wanted = min(4 * r.threads, max(1, r.macs // r.target.costs.products.task_macs))
        while r.products * -(-tiles // task_tiles) * -(-panels // task_panels) < wanted and task_tiles * task_panels > 1:
            if task_panels > 1:
                task_panels = -(-task_panels // 2)
            else:
                task_tiles = -(-task_tiles // 2)
    task_panels = -(-panels // -(-panels // task_panels))
    return _even_tiles(tiles, task_tiles, r.products * -(-panels // task_panels), r.threads), task_panels


def _even_tiles(tiles: int, most: int, others: int, threads: int) -> int:
    """Tiles of a task, at most so many, with which the busiest thread has the fewest. others: tasks that have the same tiles of other columns."""
    if threads == 1:
        return -(-tiles // -(-tiles // most))

    def busiest(count: int) -> tuple[int, int]:
        return -(-(-(-tiles // count) * others) // threads) * count, -count

    return min(range(max(1, most // 2), most + 1), key=busiest)
