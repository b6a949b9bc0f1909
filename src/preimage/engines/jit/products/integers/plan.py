"""Products of integers, planned: the way in which they are added up, the tile, and what a task takes."""

from __future__ import annotations

from dataclasses import replace

from preimage.engines.ir.builder import LINE_BYTES
from preimage.engines.jit.compiler.target import Target
from preimage.engines.jit.products.integers.columns_kernel import panel_words
from preimage.engines.jit.products.integers.product_kernel import UNROLL
from preimage.engines.jit.products.integers.words_kernel import TERMS
from preimage.engines.jit.request import SMALL_MACS
from preimage.records import record

__all__ = ["ProductPlan", "plan_product", "way_of"]

#: Rows that a tile may have: few numbers, so that few kernels are made.
ROWS = (1, 2, 3, 4, 6, 8, 12)
WAYS = {
    "pairs": "two terms of 16 bits in a 32-bit word",
    "quads": "four terms of 8 bits in a 32-bit word (VNNI)",
    "plain": "two terms of 16 bits, multiplied apart",
}


def way_of(target: Target) -> tuple[str, str]:
    """How products are added up there, and why they are not added up four at a time."""
    features = frozenset(target.features.split(","))
    if {64: "+avx512vnni", 32: "+avxvnni"}.get(target.vector_bytes) in features:
        return "quads", ""
    if target.triple.startswith("x86_64"):
        return "pairs", "this CPU has no VNNI"
    return "plain", "this CPU's instructions for it are not used"


@record
class ProductPlan:
    """products x (rows x terms) (terms x columns). way: as in words_kernel.py; tile_rows, vectors: of a tile; words: of a row; share, panel_share:
    rows and panels of a task.
    """

    way: str
    why_not_quads: str
    products: int
    rows: int
    terms: int
    columns: int
    lanes: int
    tile_rows: int
    vectors: int
    words: int
    share: int
    panel_share: int
    threads: int

    @property
    def width(self) -> int:
        return self.vectors * self.lanes

    @property
    def panels(self) -> int:
        return -(-self.columns // self.width)

    @property
    def panel_bytes(self) -> int:
        return 4 * panel_words(self.way, self.words, self.width)

    @property
    def pitch(self) -> int:
        """Bytes from a packed row to the next: an odd number of cache lines."""
        return (-(-self.words * 4 // LINE_BYTES) | 1) * LINE_BYTES

    @property
    def room(self) -> int:
        """Rows that a thread's memory has room for."""
        return -(-self.share // self.tile_rows) * self.tile_rows

    @property
    def column_tasks(self) -> int:
        return -(-self.panels // self.panel_share)

    @property
    def product_tasks(self) -> int:
        return -(-self.rows // self.share) * self.column_tasks

    @property
    def tasks(self) -> int:
        return self.products * self.product_tasks

    def __str__(self) -> str:
        lines = [
            f"integer product on jit: {self.products} x ({self.rows} x {self.terms}) ({self.terms} x {self.columns})",
            f"  sums: {WAYS[self.way]}, exact in 32 bits",
            f"  tile: {self.tile_rows} rows x {self.width} columns  tasks: {self.tasks} of {self.share} rows and {self.panel_share} panels",
            f"  packed B: {self.panels * self.panel_bytes} bytes a matrix  threads: {self.threads}",
        ]
        return "\n".join([*lines, *([f"  not quads: {self.why_not_quads}"] if self.why_not_quads else [])])


def plan_product(products: int, rows: int, terms: int, columns: int, threads: int, target: Target) -> ProductPlan:
    """The plan of so many products for a target."""
    way, why = way_of(target)
    lanes = target.vector_bytes // 4
    vectors = min(2, -(-columns // lanes))
    words = -(-terms // (TERMS[way] * UNROLL)) * UNROLL
    tile_rows = _tile_rows(rows, vectors, target)
    threads = threads if products * rows * terms * columns > SMALL_MACS else 1
    plan = ProductPlan(way, why, products, rows, terms, columns, lanes, tile_rows, vectors, words, rows, 1, threads)
    share, panel_share = _shares(plan, target)
    return replace(plan, share=share, panel_share=panel_share)


def _tile_rows(rows: int, vectors: int, target: Target) -> int:
    """The rows for which all tiles together take the least time: sums, a line of B, a word of A and a product share the registers."""
    most = max(1, (target.vector_registers - vectors - 2) // vectors)

    def cost(r: int) -> tuple[float, int]:
        return -(-rows // r) * (max(r * vectors, r + vectors) + 1), -r

    return min((r for r in ROWS if r <= min(rows, most)), key=cost)


def _shares(plan: ProductPlan, target: Target) -> tuple[int, int]:
    """Rows and panels of a task: the packed rows in the second cache, tasks enough for the threads."""
    tile, panels = plan.tile_rows, plan.panels
    tiles = -(-plan.rows // tile)
    own = max(1, min(tiles, target.l2_bytes * 3 // 8 // (plan.pitch * tile)))
    panel_share = panels
    if plan.threads > 1:
        macs = plan.products * plan.rows * plan.terms * plan.columns
        wanted = min(4 * plan.threads, max(1, macs // target.costs.products.task_macs))
        while plan.products * -(-tiles // own) * -(-panels // panel_share) < wanted and own * panel_share > 1:
            if own > 2 or panel_share == 1:
                own = -(-own // 2)
            else:
                panel_share = -(-panel_share // 2)
    own = -(-tiles // -(-tiles // own))
    return min(own * tile, plan.rows), -(-panels // -(-panels // panel_share))
