"""Memory of a device that was freed and is kept for a later call: by size, bounded, with the stream that used it last.

It knows no device: addresses go in and come out.
"""

from __future__ import annotations

__all__ = ["Pool"]

#: Sizes are rounded up to this, and above 1 MiB to an eighth of their power of two, so that few sizes are met often.
STEP = 512
LARGE = 1 << 20


class Pool:
    """At most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._free: dict[int, list[tuple[int, int | None]]] = {}

    @staticmethod
    def rounded(size: int) -> int:
        """The size that is asked for in place of `size`."""
        step = STEP if size <= LARGE else 1 << (size.bit_length() - 4)
        return max(1, -(-size // step)) * step

    def take(self, size: int) -> tuple[int, int | None] | None:
        """The address of kept memory of a rounded size and the stream that used it last, or None."""
        try:
            found = self._free[size].pop()
        except (KeyError, IndexError):
            return None
        self.held -= size
        return found

    def keep(self, address: int, size: int, stream: int | None) -> bool:
        """Whether there was room for it."""
        if self.held + size > self.limit:
            return False
        self.held += size
        self._free.setdefault(size, []).append((address, stream))
        return True

    def emptied(self) -> list[int]:
        """The addresses of all that was kept; the pool is empty then."""
        found: list[int] = []
        for size, blocks in list(self._free.items()):
            while blocks:
                found.append(blocks.pop()[0])
                self.held -= size
        return found
