"""A few of the kills of kill_ranks.py, without MPI: ranks are forked processes that exchange bytes through sockets."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage import data, learning, nn, optim
from preimage.learning import checkpoints
from preimage.learning.training.ranks import Alone

sys.path.insert(0, str(Path(__file__).parent))
import kill_run as kill

STEPS = 30

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


class SocketRanks:
    """Ranks that are processes, a pair of connected sockets between any two. One that has died is an OSError of the others."""

    def __init__(self, rank: int, size: int, lines: dict[tuple[int, int], socket.socket]) -> None:
        self.rank, self.size = rank, size
        self._lines = {other: lines[rank, other] for other in range(size) if other != rank}

    def exchange(self, payload: bytes) -> list[bytes]:
        for line in self._lines.values():
            line.sendall(struct.pack("q", len(payload)) + payload)
        return [payload if k == self.rank else self._received(self._lines[k]) for k in range(self.size)]

    def _received(self, line: socket.socket) -> bytes:
        (length,) = struct.unpack("q", self._bytes(line, 8))
        return self._bytes(line, length)

    @staticmethod
    def _bytes(line: socket.socket, count: int) -> bytes:
        found = b""
        while len(found) < count:
            part = line.recv(count - len(found))
            if not part:
                raise ConnectionError("a rank has died")
            found += part
        return found


def started(size: int, work: Callable[[Any], None]) -> list[int]:
    """The numbers of so many processes, each a rank that does the work: status 0 where it came to its end."""
    lines: dict[tuple[int, int], socket.socket] = {}
    for a, b in itertools.combinations(range(size), 2):
        lines[a, b], lines[b, a] = socket.socketpair()
    children = []
    for rank in range(size):
        child = os.fork()
        if not child:
            code = 1
            try:
                for (own, _), line in lines.items():
                    if own != rank:
                        line.close()  # so that the others see it when this rank dies
                work(SocketRanks(rank, size, lines))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    for line in lines.values():
        line.close()
    return children


def train(folder: Path | None, ranks: Any) -> learning.Trainer:
    """From wherever the folder stands to the end."""
    nn.init.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, rng=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2, rng=4), nn.Flatten(), nn.Linear(256, 5, rng=2)
    )
    optimizer = optim.Adam(net.parameters(), lr=0.01)
    made = learning.Trainer(net, nn.cross_entropy, optimizer, shards=4, ranks=ranks)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((70, 1, 10, 10)).astype(np.float32), rng.integers(0, 5, 70)
    loader = data.Loader(data.ArrayDataset(images, labels), 8, shuffle=True, seed=1, transform=data.Flip())
    made.fit(
        loader, iterations=STEPS, **({} if folder is None else {"folder": folder, "resume": True, "save_every": 3, "keep": 2})
    )
    return made


def newest(folder: Path) -> int:
    return max(checkpoints.steps_in(folder), default=0) if folder.exists() else 0


def killed(size: int, folder: Path, victim: int) -> int:
    """A run on so many ranks that loses one after its first new checkpoint: how many of the others noticed, and ended with an error."""
    before, children = newest(folder), started(size, lambda ranks: train(folder, ranks))
    end = time.monotonic() + 60
    while newest(folder) <= before and time.monotonic() < end:
        time.sleep(0.001)
    os.kill(children[victim], signal.SIGKILL)
    codes = [os.waitpid(child, 0)[1] for child in children]
    assert os.WIFSIGNALED(codes[victim])
    return sum(os.WIFEXITED(code) and os.WEXITSTATUS(code) == 1 for code in codes)


def test_a_run_that_lost_a_rank_goes_on_with_other_ranks_to_the_same_bits(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pre.config(threads=1):
        wanted = checkpoints.states(train(None, Alone()).parts())
        for size, victim in ((2, 1), (3, 0), (2, 0)):
            assert killed(size, tmp_path, victim) == size - 1
        assert 9 <= newest(tmp_path) < STEPS
        assert {os.waitpid(child, 0)[1] for child in started(2, lambda ranks: train(tmp_path, ranks))} == {0}
    capfd.readouterr()  # what the ranks said as they ended
    found = checkpoints.newest(tmp_path)
    assert found.step == STEPS
    assert all(kill.same(found.parts[name], wanted[name]) for name in wanted)
