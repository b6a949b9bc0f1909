"""Where the arrays of a computation lie in one block of memory, so that those that do not live at the same time share their places."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LINE_BYTES", "Request", "conflicts", "places_of"]

LINE_BYTES = 64
#: One request of a run: bytes, when it was made, when it died (None: it outlived the run), in steps of a counter.
Request = tuple[int, int, int | None]


def _rounded(size: int) -> int:
    return -(-size // LINE_BYTES) * LINE_BYTES


def places_of(requests: Sequence[Request]) -> tuple[list[int], int]:
    """Where requests lie in one block, so that those that live at the same time do not meet, and how large it is; -1: one that outlives the run."""
    starts, total = [-1] * len(requests), 0
    placed: list[int] = []
    for k in sorted(range(len(requests)), key=lambda k: (-requests[k][0], k)):
        size, born, died = requests[k]
        if died is None:
            continue
        beside = sorted(
            (starts[j], starts[j] + _rounded(requests[j][0]))
            for j in placed
            if requests[j][1] < died and born < (requests[j][2] or 0)
        )
        at = 0
        for begin, end in beside:
            if begin - at >= _rounded(size):
                break
            at = max(at, end)
        starts[k] = at
        total = max(total, at + _rounded(size))
        placed.append(k)
    return starts, total


def conflicts(k: int, requests: list[Request], starts: list[int]) -> tuple[int, ...]:
    """The requests whose places overlap that of request k, itself included; none where it has memory of its own."""
    if starts[k] < 0:
        return ()
    end = starts[k] + requests[k][0]
    return tuple(
        j for j, (size, _, _) in enumerate(requests) if starts[j] >= 0 and starts[j] < end and starts[k] < starts[j] + size
    )
