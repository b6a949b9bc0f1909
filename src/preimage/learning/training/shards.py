"""A batch cut into a fixed number of shards, whose gradients are added in one fixed tree: the same bits on any number of ranks.

    batch -> shards 0 .. k - 1 (consecutive samples, sizes that differ by one at most)
    rank r of n computes the shards  r k / n .. (r + 1) k / n - 1;   loss, gradients and batch statistics are per shard
    gradient = the tree over the shards (preimage.reduction) of  (samples of the shard / samples of the batch) * gradient of the shard

So the loss has to be a mean over samples. Buffers (running means) become the tree's sum of those that every shard gives from the same
beginning. Random numbers (Dropout) are drawn for each shard from the generators' states, the step and the shard's number alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from preimage.errors import OptionError
from preimage.learning.checkpoints import generators_of
from preimage.learning.training.ranks import Alone, Ranks
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
        tree: TreeSum = TreeSum()
        with _drawing_apart(net) as draw:
            for shard in self.owned():
                part = [array[edges[shard] : edges[shard + 1]] for array in batch]
                draw(step, shard)
                _set_buffers(net, before)
                for parameter in parameters.values():
                    parameter.grad = None
                loss = run(part)
                share = (edges[shard + 1] - edges[shard]) / samples
                found = {name: p.grad.data for name, p in parameters.items() if p.grad is not None}
                tree.add(_Arrays.of(share, {LOSS: loss}, found, _buffers(net)), shard)
        whole = self._together(tree).total(self.count).held
        for name, parameter in parameters.items():
            parameter.grad = whole.get(f"grad {name}")
        _set_buffers(net, {name: _like(array, whole[f"buffer {name}"]) for name, array in before.items()})
        return float(whole[f"{LOSS} {LOSS}"].reshape(()))

    def _together(self, tree: TreeSum) -> TreeSum:
        """The nodes of all ranks."""
        if self.ranks.size == 1:
            return tree
        own = tree.nodes
        like = next(iter(own.values()))
        whole: TreeSum = TreeSum()
        for rank, payload in enumerate(self.ranks.exchange(b"".join(value.payload() for value in own.values()))):
            nodes = _nodes(rank, self.ranks.size, self.count)
            if len(payload) != len(nodes) * like.size:
                raise OptionError(
                    f"rank {rank} sends {len(payload)} bytes, {len(nodes) * like.size} were expected: it trains another net"
                )
            whole.merge({node: like.read(payload[k * like.size : (k + 1) * like.size]) for k, node in enumerate(nodes)})
        return whole


def _nodes(rank: int, size: int, count: int) -> list[tuple[int, int]]:
    tree: TreeSum = TreeSum()
    for shard in range(rank * count // size, (rank + 1) * count // size):
        tree.add(0, shard)
    return list(tree.nodes)


class _Arrays:
    """The arrays of a shard, or of a node of the tree, by name; `+` adds each to its like."""

    def __init__(self, held: dict[str, Array]) -> None:
        self.held = held

    @classmethod
    def of(cls, share: float, loss: Mapping[str, Any], grads: Mapping[str, Any], buffers: Mapping[str, Any]) -> _Arrays:
        """Each times the shard's share of the batch, in float32 or wider."""
        held = {}
        for kind, arrays in ((LOSS, loss), ("grad", grads), ("buffer", buffers)):
            for name, array in arrays.items():
                wide = np.result_type(array.dtype, np.float32) if array.dtype.kind in "fV" else np.dtype(np.float64)
                held[f"{kind} {name}"] = np.asarray(np.array(array, wide, order="C") * wide.type(share))
        return cls(held)

    def __add__(self, other: _Arrays) -> _Arrays:
        return _Arrays({name: array + other.held[name] for name, array in self.held.items()})

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(array.nbytes for array in self.held.values())

    def payload(self) -> bytes:
        """The bytes of all arrays, one after the other."""
        return b"".join(array.tobytes() for array in self.held.values())

    def read(self, held: bytes) -> _Arrays:
        """What another rank's bytes say, which hold arrays like these."""
        made, at = {}, 0
        for name, array in self.held.items():
            made[name] = np.frombuffer(held, array.dtype, array.size, at).reshape(array.shape)
            at += array.nbytes
        return _Arrays(made)


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
