"""A batch cut into a fixed number of shards, whose gradients are added in one fixed tree: the same bits on any number of ranks.

    batch -> shards 0 .. k - 1 (consecutive samples, sizes that differ by one at most)
    rank r of n computes the shards  r k / n .. (r + 1) k / n - 1;   loss, gradients and batch statistics are per shard
    gradient = the tree over the shards (preimage.reduction) of  (samples of the shard / samples of the batch) * gradient of the shard

So the loss has to be a mean over samples. Buffers (running means) become the tree's sum of those that every shard gives from the same
beginning. Random numbers (Dropout) are drawn for each shard from the generators' states, the step and the shard's number alone.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from preimage.engines.base import aligned_empty
from preimage.engines.buffers import LINE_BYTES
from preimage.errors import OptionError
from preimage.learning.checkpoints import generators_of
from preimage.learning.training.ranks import Alone, Gathers, Ranks
from preimage.nn import Module
from preimage.reduction import TreeSum

__all__ = ["Shards"]

Array = np.ndarray[Any, Any]
#: Where the loss stands among the arrays of a shard.
LOSS = "loss"


class Shards:
    """How a Trainer computes one batch. count: into how many shards it is cut; ranks: who shares them (default: this process alone)."""

    def __init__(self, count: int, ranks: Ranks | None = None) -> None:
        self.count, self.ranks = count, Alone() if ranks is None else ranks
        self._layout: _Layout | None = None
        if self.ranks.size > count:
            raise OptionError(
                f"{count} shards cannot be shared by {self.ranks.size} ranks; give at least as many shards (--shards)"
            )

    def owned(self) -> range:
        """The numbers of this rank's shards."""
        first, end = (r * self.count // self.ranks.size for r in (self.ranks.rank, self.ranks.rank + 1))
        return range(first, end)

    def gradients(self, net: Module, batch: Sequence[Array], run: Callable[[Sequence[Array]], Array], step: int) -> float:
        """The batch's loss, on every rank; its gradients are then on the parameters of the net, its new buffers in the net.

        run: gives the loss of some samples, runs it backward, and lets the net's running statistics move.

        Raises: OptionError for a batch of fewer samples than shards.
        """
        samples = len(batch[0])
        if samples < self.count:
            raise OptionError(
                f"a batch of {samples} samples cannot be cut into {self.count} shards; use drop_last, or fewer shards"
            )
        edges = [samples * k // self.count for k in range(self.count + 1)]
        before = {name: np.array(array) for name, array in _buffers(net).items()}
        parameters = {name: p for name, p in net.named_parameters() if p.requires_grad}
        tree, places = TreeSum(owned=True, into=_into), _Places(self.ranks, self.count)
        with _drawing_apart(net) as draw:
            for shard in self.owned():
                part = [array[edges[shard] : edges[shard + 1]] for array in batch]
                draw(step, shard)
                _set_buffers(net, before)
                for parameter in parameters.values():
                    parameter.grad = None
                loss = run(part)
                share = (edges[shard + 1] - edges[shard]) / samples
                found = {f"grad {name}": p.grad.data for name, p in parameters.items() if p.grad is not None}
                found |= {f"buffer {name}": array for name, array in _buffers(net).items()}
                layout = self._layout_of({LOSS: np.asarray(loss), **found})
                memory = places.memory_for(shard, layout.size, tree.spare)
                tree.add(_Arrays.of(layout, memory, share, {LOSS: loss, **found}), shard)
        whole = self._together(tree, places).total(self.count).arrays()
        for name, parameter in parameters.items():
            parameter.grad = whole.get(f"grad {name}")
        _set_buffers(net, {name: _like(array, whole[f"buffer {name}"]) for name, array in before.items()})
        return float(whole[LOSS].reshape(()))

    def _layout_of(self, arrays: Mapping[str, Array]) -> _Layout:
        kinds = tuple([(name, array.shape, _wide(array.dtype)) for name, array in arrays.items()])
        if self._layout is None or self._layout.kinds != kinds:
            self._layout = _Layout(kinds)
        return self._layout

    def _together(self, tree: TreeSum, places: _Places) -> TreeSum:
        """The nodes of all ranks. Raises: OptionError where another rank has arrays of another size."""
        if places.memory is None:
            return tree
        layout = next(iter(tree.nodes.values())).layout
        lengths = self.ranks.gather(places.memory, places.ends) if isinstance(self.ranks, Gathers) else self._exchanged(places)
        for rank, (found, wanted) in enumerate(zip(lengths, np.diff(places.ends), strict=True)):
            if found != wanted:
                raise OptionError(f"rank {rank} sends {found} bytes, {wanted} were expected: it trains another net")
        whole = TreeSum(owned=True, into=_into)
        for node, memory in places.parts(layout.size):
            whole.merge({node: _Arrays(layout, memory)})
        return whole

    def _exchanged(self, places: _Places) -> list[int]:
        """The same through ranks that exchange bytes and nothing else."""
        assert places.memory is not None
        starts, ends = places.ends[:-1], places.ends[1:]
        own = places.memory[starts[self.ranks.rank] : ends[self.ranks.rank]]
        payloads = self.ranks.exchange(own.tobytes())
        for a, b, payload in zip(starts, ends, payloads, strict=True):
            if len(payload) == b - a:
                places.memory[a:b] = np.frombuffer(payload, np.uint8)
        return [len(payload) for payload in payloads]


def _nodes(rank: int, size: int, count: int) -> list[tuple[int, int]]:
    tree: TreeSum = TreeSum()
    for shard in range(rank * count // size, (rank + 1) * count // size):
        tree.add(0, shard)
    return list(tree.nodes)


class _Places:
    """Where the nodes of all ranks lie in one block, rank by rank: what a rank computes is there already when it is exchanged."""

    def __init__(self, ranks: Ranks, count: int) -> None:
        self._nodes = [_nodes(rank, ranks.size, count) for rank in range(ranks.size)]
        self._firsts = {index << level: k for k, (level, index) in enumerate(self._nodes[ranks.rank])}
        self._rank = ranks.rank
        self.memory: Array | None = None  #: of several ranks
        self.ends = [0]  #: where in it those of rank r end: ends[r + 1]

    def memory_for(self, shard: int, size: int, spare: list[_Arrays]) -> Array:
        """Memory for a shard's arrays: that of the node which it begins, else any."""
        if len(self._nodes) > 1 and shard in self._firsts:
            if self.memory is None:
                counts = [len(nodes) for nodes in self._nodes]
                self.ends = [0, *[size * count for count in itertools.accumulate(counts)]]
                self.memory = aligned_empty((self.ends[-1],), np.dtype(np.uint8))
            at = self.ends[self._rank] + self._firsts[shard] * size
            return self.memory[at : at + size]
        return spare.pop().memory if spare else aligned_empty((size,), np.dtype(np.uint8))

    def parts(self, size: int) -> Iterator[tuple[tuple[int, int], Array]]:
        """Every node, and where it lies."""
        assert self.memory is not None
        nodes = [node for of_rank in self._nodes for node in of_rank]
        for k, node in enumerate(nodes):
            yield node, self.memory[k * size : (k + 1) * size]


class _Layout:
    """How the arrays of a shard lie in one block: those of a dtype beside one another, each on a cache line. kinds: name, shape and dtype."""

    def __init__(self, kinds: tuple[tuple[str, tuple[int, ...], Any], ...]) -> None:
        self.kinds, self.size = kinds, 0
        self.places: list[tuple[str, tuple[int, ...], Any, int]] = []
        self.runs: list[tuple[int, int, Any]] = []  #: begin, end and dtype
        gaps = []
        for dtype in dict.fromkeys(dtype for *_, dtype in kinds):
            begin = self.size
            for name, shape, _ in (kind for kind in kinds if kind[2] == dtype):
                self.places.append((name, shape, dtype, self.size))
                end = self.size + math.prod(shape) * dtype.itemsize
                self.size = -(-end // LINE_BYTES) * LINE_BYTES
                gaps.append(np.arange(end, self.size))
            self.runs.append((begin, self.size, dtype))
        self.gaps = np.concatenate(gaps)


class _Arrays:
    """The arrays of a shard, or of a node of the tree, in one block."""

    def __init__(self, layout: _Layout, memory: Array) -> None:
        self.layout, self.memory = layout, memory

    @classmethod
    def of(cls, layout: _Layout, memory: Array, share: float, arrays: Mapping[str, Any]) -> _Arrays:
        """Each times the shard's share of the batch, in float32 or wider."""
        made = cls(layout, memory)
        memory[layout.gaps] = 0
        with np.errstate(all="ignore"):
            for name, place in made.arrays().items():
                array = arrays[name]
                if array.dtype == place.dtype:
                    np.multiply(array, place.dtype.type(share), out=place)
                else:
                    place[...] = array
                    place *= place.dtype.type(share)
        return made

    def arrays(self) -> dict[str, Array]:
        """By name, where they lie."""
        return {name: np.ndarray(shape, dtype, self.memory, at) for name, shape, dtype, at in self.layout.places}


def _into(left: _Arrays, right: _Arrays) -> _Arrays:
    """left + right, in the memory of left."""
    for begin, end, dtype in left.layout.runs:
        total = left.memory[begin:end].view(dtype)
        np.add(total, right.memory[begin:end].view(dtype), out=total)
    return left


def _wide(dtype: Any) -> Any:
    """What arrays of a dtype are added in."""
    return np.result_type(dtype, np.float32) if dtype.kind in "fV" else np.dtype(np.float64)


def _like(array: Array, value: Array) -> Array:
    """A sum in the dtype of the buffer that it is for; counts are whole."""
    return (np.rint(value) if array.dtype.kind in "iu" else value).astype(array.dtype)


def _buffers(net: Module) -> dict[str, Array]:
    return {
        f"{path}.{name}": array
        for path, module in net.named_modules()
        for name, array in module._buffers.items()
        if array is not None
    }


def _set_buffers(net: Module, arrays: Mapping[str, Array]) -> None:
    modules = dict(net.named_modules())
    for key, array in arrays.items():
        path, _, name = key.rpartition(".")
        modules[path]._buffers[name] = np.array(array)


@contextmanager
def _drawing_apart(net: Module) -> Iterator[Callable[[int, int], None]]:
    """Inside the block, `draw(step, shard)` sets every generator to a state that these two and its own state decide; after it all are as before."""
    generators = generators_of(net)
    states = [g.bit_generator.state for g in generators]
    seeds = [int.from_bytes(hashlib.sha256(repr(state).encode()).digest()[:16], "little") for state in states]

    def draw(step: int, shard: int) -> None:
        for generator, seed in zip(generators, seeds, strict=True):
            generator.bit_generator.state = type(generator.bit_generator)([seed, step, shard]).state

    try:
        yield draw
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.bit_generator.state = state
