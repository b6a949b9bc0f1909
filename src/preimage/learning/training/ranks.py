"""Processes that train one net together: what they exchange. MPI through mpi4py, or any object with the same three members.

Every rank gives some bytes and gets those of all ranks; nothing else is needed, and nothing is pickled.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np

from preimage.errors import EngineError

__all__ = ["Alone", "Gathers", "MpiRanks", "Ranks", "agreed", "ranks_of_environment"]

Array = np.ndarray[Any, Any]
#: Bytes of the first message of an exchange: a length, and what is no longer than the rest.
HEAD_BYTES = 64
#: What the launchers of MPICH, Open MPI and Slurm call the number of processes.
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")


class Ranks(Protocol):
    """The processes of a run: this one's number, how many there are, and `exchange`."""

    rank: int
    size: int

    def exchange(self, payload: bytes) -> list[bytes]:
        """Give some bytes; get those of all ranks, in their order."""


@runtime_checkable
class Gathers(Protocol):
    """Ranks that fill one block of memory together, which copies less than `exchange`."""

    def gather(self, memory: Array, ends: Sequence[int]) -> list[int]:
        """memory: bytes, those of rank r from ends[r] to ends[r + 1], this rank's there already; the others' come in.

        Gives how many bytes each rank has; where it is another number than expected, nothing comes in.
        """


class Alone:
    """One process."""

    rank, size = 0, 1

    def exchange(self, payload: bytes) -> list[bytes]:
        return [payload]


class MpiRanks:
    """The processes that mpirun started. Raises: EngineError where mpi4py is not there, or finds no MPI."""

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:  # mpi4py's wheel finds no MPI library
            raise EngineError(
                f"training on several ranks needs mpi4py and an MPI, e.g. pip install mpi4py mpich ({error})"
            ) from error
        self._mpi: Any = MPI
        self._comm: Any = MPI.COMM_WORLD
        self.rank, self.size = int(self._comm.Get_rank()), int(self._comm.Get_size())

    def exchange(self, payload: bytes) -> list[bytes]:
        own, heads = np.zeros(HEAD_BYTES, np.uint8), np.empty((self.size, HEAD_BYTES), np.uint8)
        own[:8].view(np.int64)[0] = len(payload)
        own[8 : 8 + len(payload)] = np.frombuffer(payload[: HEAD_BYTES - 8], np.uint8)
        self._comm.Allgather(own, heads)
        lengths = np.ascontiguousarray(heads[:, :8]).view(np.int64)[:, 0]
        if lengths.max() <= HEAD_BYTES - 8:  # what ranks say after every step: all of it has come along
            return [head[8 : 8 + n].tobytes() for head, n in zip(heads, lengths, strict=True)]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        found = np.empty(int(starts[-1]), np.uint8)
        byte = self._mpi.BYTE
        self._comm.Allgatherv([np.frombuffer(payload, np.uint8), byte], [found, lengths, starts[:-1], byte])
        return [found[a:b].tobytes() for a, b in itertools.pairwise(starts)]

    def gather(self, memory: Array, ends: Sequence[int]) -> list[int]:
        counts, lengths = np.diff(np.array(ends, np.int64)), np.empty(self.size, np.int64)
        self._comm.Allgather(counts[self.rank : self.rank + 1], lengths)
        if (lengths == counts).all():  # pairs: between two processes of one machine MPICH's Allgatherv takes five times as long
            parts = [[memory[a:b], self._mpi.BYTE] for a, b in itertools.pairwise(ends)]
            others = [(self.rank + k) % self.size for k in range(1, self.size)]
            comes = [self._comm.Irecv(parts[other], other) for other in reversed(others)]
            goes = [self._comm.Isend(parts[self.rank], other) for other in others]
            self._mpi.Request.Waitall([*comes, *goes])
        return [int(n) for n in lengths]

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """Inside the block, what ends this rank ends the others too: they would wait for it for ever."""
        try:
            yield
        except BaseException as error:
            print(f"rank {self.rank} of {self.size} ends the run: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            if os.environ.get("PREIMAGE_DEBUG"):
                traceback.print_exc()
            self._comm.Abort(1)
            raise


def ranks_of_environment() -> MpiRanks | None:
    """The ranks where mpirun started this process as one of several; None where it is alone. Raises: EngineError as MpiRanks."""
    for name in _SIZES:
        value = os.environ.get(name, "")
        if value.isdecimal():
            return MpiRanks() if int(value) > 1 else None
    return None


def agreed(ranks: Ranks, value: Any) -> list[Any]:
    """A value of every rank (what JSON can say), in their order."""
    if ranks.size == 1:
        return [value]
    return [json.loads(held) for held in ranks.exchange(json.dumps(value).encode())]
