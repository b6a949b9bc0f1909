"""When one row times a B of contiguous columns is computed as dot products (`dots_kernel`), and the call that does it."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.engines.ir.builder import ELEMENT_BYTES, LINE_BYTES
from preimage.engines.jit.products.dots_kernel import DotsArguments, DotsSpec
from preimage.engines.jit.products.request import ProductRequest
from preimage.engines.jit.program import Buffer, KernelCall, ProgramBuilder, kernel_call
from preimage.engines.order import Order

__all__ = ["dots", "should_dot"]

COLUMNS = 4  # that are read at a time, so that no chain waits for itself; from memory one comes faster
FETCHED_BYTES = 16 << 10  # ahead, from memory
MOST_TERMS = 1 << 16  # of a row that is turned in the memory of every thread


def _is_far(r: ProductRequest) -> bool:
    """Whether B comes from memory."""
    return r.columns * r.terms * r.item > r.target.l3_bytes // 2


def _lanes(r: ProductRequest) -> int:
    """Those of a cache line, which is read whole, where columns have so many blocks and vectors so many lanes. Else those of 32 bytes, put together
    from pieces of 16: two or three such shuffles begin in a cycle."""
    line = LINE_BYTES // r.item
    if r.lanes == line and r.terms // _block(r) >= line and r.columns >= line and not _is_far(r):
        return line
    return min(r.lanes, 32 // ELEMENT_BYTES[r.sums])


def _block(r: ProductRequest) -> int:
    order = Order.of((r.terms,))
    return order.levels[0].step if order.levels else r.terms


def should_dot(r: ProductRequest) -> bool:
    """Whether there is one row, and columns and blocks enough to fill vectors."""
    return (
        r.rows == 1 and not r.prepared and r.b.by_terms(r.item) and not r.bias_cycle and r.columns >= _lanes(r)
        and r.terms <= MOST_TERMS and r.terms // _block(r) >= _lanes(r)
    )  # fmt: skip


def _together(r: ProductRequest) -> int:
    if _lanes(r) * r.item == LINE_BYTES:
        return 2  # more would not find registers
    return 1 if _is_far(r) else min(COLUMNS, _lanes(r))


def _ahead(r: ProductRequest, together: int) -> tuple[int, int]:
    """The cache into which columns are fetched while those before them are read (0: B is near), and how many bytes ahead."""
    step, all_bytes = together * r.b.member_stride, r.columns * r.terms * r.item
    if all_bytes > r.target.l2_bytes // 2 and _lanes(r) * r.item < LINE_BYTES:
        return 2, step * max(1, FETCHED_BYTES // abs(step or FETCHED_BYTES))
    return (1 if abs(step) <= r.target.l1_bytes // 2 < all_bytes else 0), step


def dots(r: ProductRequest, program: ProgramBuilder, groups: Any) -> KernelCall:
    """groups: how many blocks make a group, a group of groups, ..."""
    order, wide, lanes = Order.of((r.terms,)), ELEMENT_BYTES[r.sums], _lanes(r)
    block = _block(r)
    blocks, whole = -(-r.terms // block), r.terms // block
    chunks, pitch = -(-whole // lanes), -(-blocks // lanes) * lanes
    chunk_pitch = -(-block // lanes) * lanes * lanes
    thread_bytes = (chunks * chunk_pitch + 2 * lanes * pitch + (order.depth + 1) * lanes) * wide
    tasks = 1 if r.threads == 1 else max(1, min(4 * r.threads, r.macs // r.target.costs.products.task_macs) // r.products)
    share = -(-max(64, -(-r.columns // tasks)) // lanes) * lanes if tasks > 1 else r.columns
    shares = -(-r.columns // share)
    program.buffers.append(Buffer("totals", -(-thread_bytes // 64) * 64 * r.threads))
    together = _together(r)
    cache, ahead = _ahead(r, together)
    program.details["B"] = f"{together} columns at a time, read from end to end"
    values = DotsArguments(
        input="a", weight="b", output="out", bias="bias", residual="residual", limits="limits", totals="totals",
        thread_bytes=-(-thread_bytes // 64) * 64, columns=r.columns, terms=r.terms, block=block, blocks=blocks, whole=whole,
        chunks=chunks, chunk_pitch=chunk_pitch, pitch=pitch, levels=order.depth, groups=groups, a_term=r.a.term_stride,
        b_column=r.b.member_stride, out_product=r.result_product, a_places=np.array(r.a.places, np.int64),
        b_places=np.array(r.b.places, np.int64), share=share, shares=shares, ahead=ahead,
    )  # fmt: skip
    spec = DotsSpec(r.element, lanes, together, cache, r.target.vector_registers <= 16, r.finish)
    return kernel_call("multiply", spec, values, r.products * shares)
