"""Where the boxes of a net's picture go: nodes in ranks by their longest way from the start, crossings reduced, edges through free places.

Every rank is a line of places across the direction of the net. An edge that skips ranks gets a place in each of them, so that it passes
beside the nodes there.
Source: Sugiyama, Tagawa, Toda 1981 (layered drawing, barycentres).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Box", "Edge", "Picture", "arrange"]

GAP_ALONG, GAP_ACROSS, MARGIN = 34.0, 16.0, 12.0
_SWEEPS = 6


@dataclass(slots=True)
class Box:
    """One node: its lines of text, form and colour; its size, and the middle that it gets."""

    lines: list[str]
    shape: str  # "box" or "octagon"
    colour: str
    width: float = 0.0
    height: float = 0.0
    x: float = 0.0
    y: float = 0.0


@dataclass(slots=True)
class Edge:
    """An arrow between two boxes by number: its label, and the points that it passes."""

    start: int
    end: int
    label: str = ""
    points: list[tuple[float, float]] = field(default_factory=list)


@dataclass(slots=True)
class Picture:
    """Boxes and edges with their places, and the size of it all. Edges lead from a box to one that comes later."""

    boxes: list[Box]
    edges: list[Edge]
    direction: str
    width: float = 0.0
    height: float = 0.0


def arrange(picture: Picture) -> Picture:
    """Give every box and edge its place. `direction`: LR, RL, TB or BT, the way from the first box to the last."""
    ranks, chains = _ranks(picture)
    links = [(chain[k], chain[k + 1]) for chain in chains for k in range(len(chain) - 1)]
    _reduce_crossings(ranks, links)
    across = picture.direction in ("LR", "RL")
    sizes = [(box.width, box.height) if across else (box.height, box.width) for box in picture.boxes]
    label = max((len(edge.label) for edge in picture.edges), default=0) if across else 0
    places = _places(ranks, links, sizes, max(GAP_ALONG, 6.5 * label + 18))
    length = max((along + size / 2 for (along, _), (size, _) in zip(places, sizes, strict=False)), default=0.0) + MARGIN
    breadth = max((side + size / 2 for (_, side), (_, size) in zip(places, sizes, strict=False)), default=0.0) + MARGIN
    breadth = max(breadth, *(side + MARGIN for _, side in places), 0.0) if places else breadth

    def turned(along: float, side: float) -> tuple[float, float]:
        along = length - along if picture.direction in ("RL", "BT") else along
        return (along, side) if across else (side, along)

    for box, (along, side) in zip(picture.boxes, places, strict=False):
        box.x, box.y = turned(along, side)
    for edge, chain in zip(picture.edges, chains, strict=True):
        first, *between, last = chain
        ends = [
            (places[first][0] + sizes[first][0] / 2, places[first][1]),
            (places[last][0] - sizes[last][0] / 2, places[last][1]),
        ]
        edge.points = [turned(*point) for point in [ends[0], *(places[k] for k in between), ends[1]]]
    picture.width, picture.height = (length, breadth) if across else (breadth, length)
    return picture


def _ranks(picture: Picture) -> tuple[list[list[int]], list[list[int]]]:
    """The numbers of boxes (and after them, of places that long edges pass) in each rank, and the numbers along each edge."""
    count = len(picture.boxes)
    rank = [0] * count
    incoming: list[list[int]] = [[] for _ in range(count)]
    for edge in picture.edges:
        incoming[edge.end].append(edge.start)
    for node in range(count):
        rank[node] = max((rank[before] + 1 for before in incoming[node]), default=0)
    outgoing: list[list[int]] = [[] for _ in range(count)]
    for edge in picture.edges:
        outgoing[edge.start].append(edge.end)
    for node in reversed(range(count)):  # data and labels move to what takes them
        if not incoming[node] and outgoing[node]:
            rank[node] = min(rank[after] for after in outgoing[node]) - 1
    ranks: list[list[int]] = [[] for _ in range(max(rank, default=-1) + 1)]
    for node in range(count):
        ranks[rank[node]].append(node)
    chains, fresh = [], count
    for edge in picture.edges:
        between = list(range(rank[edge.start] + 1, rank[edge.end]))
        numbers = list(range(fresh, fresh + len(between)))
        fresh += len(between)
        for level, number in zip(between, numbers, strict=True):
            ranks[level].append(number)
        chains.append([edge.start, *numbers, edge.end])
    return ranks, chains


def _reduce_crossings(ranks: list[list[int]], links: Sequence[tuple[int, int]]) -> None:
    """Order each rank by the mean place of the neighbours in the rank before, then after, several times."""
    before: dict[int, list[int]] = {}
    after: dict[int, list[int]] = {}
    for start, end in links:
        after.setdefault(start, []).append(end)
        before.setdefault(end, []).append(start)
    place = {node: k for rank in ranks for k, node in enumerate(rank)}
    for sweep in range(_SWEEPS):
        table = after if sweep % 2 else before
        for rank in reversed(ranks) if sweep % 2 else ranks:
            means = {n: sum(place[o] for o in table[n]) / len(table[n]) if n in table else float(place[n]) for n in rank}
            rank.sort(key=means.__getitem__)
            place |= {node: k for k, node in enumerate(rank)}


def _places(
    ranks: list[list[int]], links: Sequence[tuple[int, int]], sizes: Sequence[tuple[float, float]], gap: float
) -> list[tuple[float, float]]:
    """(along, side) of every number: as near as the order allows to the mean of its neighbours."""
    neighbours: dict[int, list[int]] = {}
    for start, end in links:
        neighbours.setdefault(start, []).append(end)
        neighbours.setdefault(end, []).append(start)
    size = dict(enumerate(sizes))
    side: dict[int, float] = {}
    for rank in ranks:
        _line_up(rank, dict.fromkeys(rank, 0.0), side, size)
    for sweep in range(_SWEEPS):
        for rank in reversed(ranks) if sweep % 2 else ranks:
            wanted = {n: sum(side[o] for o in neighbours[n]) / len(neighbours[n]) if n in neighbours else side[n] for n in rank}
            _line_up(rank, wanted, side, size)
    low = min((side[n] - size.get(n, (0.0, 0.0))[1] / 2 for n in side), default=0.0) - MARGIN
    out, along = [(0.0, 0.0)] * len(side), MARGIN
    for rank in ranks:
        depth = max(size.get(n, (0.0, 0.0))[0] for n in rank)
        for n in rank:
            out[n] = (along + depth / 2, side[n] - low)
        along += depth + gap
    return out


def _line_up(rank: Sequence[int], wanted: dict[int, float], side: dict[int, float], size: dict[int, tuple[float, float]]) -> None:
    """Places in this order, without overlap, near what each wants: blocks that touch share the mean of their wishes."""
    offsets, total = [], 0.0  # distance of each from the first when all touch
    for k, node in enumerate(rank):
        half = size.get(node, (0.0, 0.0))[1] / 2
        total += half + (GAP_ACROSS + size.get(rank[k - 1], (0.0, 0.0))[1] / 2 if k else 0.0)
        offsets.append(total)
    blocks: list[tuple[float, int]] = []  # mean of (wish - offset), and how many
    for node, offset in zip(rank, offsets, strict=True):
        mean, count = wanted[node] - offset, 1
        while blocks and blocks[-1][0] >= mean:
            other, more = blocks.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        blocks.append((mean, count))
    starts = [mean for mean, count in blocks for _ in range(count)]
    side |= {node: start + offset for node, start, offset in zip(rank, starts, offsets, strict=True)}
