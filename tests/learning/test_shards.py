"""Shards and ranks: the same bits for any number of ranks, after any interruption; ranks are threads here, processes where MPI is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preimage import data, learning, nn, optim
from preimage.errors import DivergedError, OptionError
from preimage.learning.training.ranks import Alone, agreed
from preimage.learning.training.shards import Shards

STEPS = 6


class ThreadRanks:
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, size: int, shared: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self._shared, self._barrier = rank, size, shared, barrier

    def exchange(self, payload: bytes) -> list[bytes]:
        self._shared[self.rank] = payload
        self._barrier.wait(60)
        found = list(self._shared)
        self._barrier.wait(60)
        return found


class GatheringRanks(ThreadRanks):
    """The same, filling blocks of memory in place."""

    def gather(self, memory: np.ndarray, ends: Any) -> list[int]:
        starts, counts = ends[:-1], np.diff(ends).tolist()
        payloads = self.exchange(memory[ends[self.rank] : ends[self.rank + 1]].tobytes())
        lengths = [len(payload) for payload in payloads]
        if lengths == counts:
            for rank, payload in enumerate(payloads):
                if rank != self.rank:
                    memory[starts[rank] : ends[rank + 1]] = np.frombuffer(payload, np.uint8)
        return lengths


def on_ranks(size: int, work: Callable[[Any], Any], kind: type[ThreadRanks] = ThreadRanks) -> list[Any]:
    """What `work` gives on each of so many ranks; an exception of a rank is raised here."""
    if size == 1:
        return [work(Alone())]
    shared, barrier, results = [None] * size, threading.Barrier(size), [None] * size

    def one(rank: int) -> None:
        try:
            results[rank] = work(kind(rank, size, shared, barrier))
        except BaseException as error:
            results[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, threading.BrokenBarrierError):
            raise result
    return results


def samples(count: int = 26) -> data.ArrayDataset:
    rng = np.random.default_rng(3)
    return data.ArrayDataset(rng.standard_normal((count, 2, 6, 7)).astype(np.float32), rng.integers(0, 3, count))


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, rng=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.3, rng=4), nn.Flatten(), nn.Linear(100, 3, rng=2)
    )


def trainer(ranks: Any = None, shards: int | None = 5, **options: Any) -> learning.Trainer:
    made = net()
    optimizer = optim.SGD(made.parameters(), lr=0.1, momentum=0.9)
    return learning.Trainer(made, nn.cross_entropy, optimizer, shards=shards, ranks=ranks, **options)


def loader() -> data.Loader:
    return data.Loader(samples(), 13, shuffle=True, seed=1)


def bits(made: learning.Trainer) -> list[bytes]:
    return [np.ascontiguousarray(a).tobytes() for a in made.net.state_dict().values()]


@pytest.mark.parametrize("kind", [ThreadRanks, GatheringRanks])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_number_of_ranks_changes_no_bit(accumulate: int, kind: type[ThreadRanks]) -> None:
    def work(ranks: Any) -> Any:
        made = trainer(ranks, accumulate=accumulate)
        history = made.fit(loader(), loader(), iterations=STEPS, test_every=3)
        return bits(made), history.values("loss"), history.values("test loss")

    whole = on_ranks(1, work)[0]
    for size in (2, 3, 5):
        assert all(result == whole for result in on_ranks(size, work, kind)), size


def test_shards_sum_to_the_gradient_of_the_batch() -> None:
    made = nn.Sequential(nn.Conv2d(2, 5, 3, rng=1), nn.ReLU(), nn.Flatten(), nn.Linear(100, 3, rng=2))
    x, y = (np.stack([samples()[k][part] for k in range(13)]) for part in range(2))
    loss = nn.cross_entropy(made(x), y)
    loss.backward()
    wanted = [np.array(p.grad.data) for p in made.parameters()]

    def run(part: Any) -> Any:
        found = nn.cross_entropy(made(part[0]), part[1])
        found.backward()
        return found.data

    value = Shards(4).gradients(made, (x, y), run, 0)
    assert value == pytest.approx(loss.item(), rel=1e-6)
    for parameter, grad in zip(made.parameters(), wanted, strict=True):
        np.testing.assert_allclose(parameter.grad.data, grad, rtol=2e-4, atol=1e-6)


def test_it_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    def until(steps: int) -> Callable[[Any], Any]:
        def work(ranks: Any) -> Any:
            made = trainer(ranks)
            history = made.fit(loader(), iterations=steps, folder=tmp_path, resume=True)
            return bits(made), history.resumed_from

        return work

    whole = trainer()
    whole.fit(loader(), iterations=STEPS)
    assert [r[1] for r in on_ranks(2, until(2))] == [None, None]
    assert [r[1] for r in on_ranks(3, until(4))] == [2, 2, 2]
    assert on_ranks(1, until(STEPS))[0] == (bits(whole), 4)
    with pytest.raises(OptionError, match="cuts its batches into 5 shards, not 4"):
        trainer(shards=4).fit(loader(), iterations=STEPS + 1, folder=tmp_path, resume=True)


@pytest.mark.parametrize("kind", [ThreadRanks, GatheringRanks])
def test_ranks_that_train_other_nets_are_told(kind: type[ThreadRanks]) -> None:
    def work(ranks: Any) -> Any:
        made = nn.Sequential(nn.Flatten(), nn.Linear(84, 3 + ranks.rank, rng=2))
        run = learning.Trainer(made, nn.cross_entropy, optim.SGD(made.parameters()), shards=4, ranks=ranks)
        with pytest.raises(OptionError, match=r"rank [01] sends \d+ bytes, \d+ were expected: it trains another net"):
            run.fit(loader(), iterations=1)

    on_ranks(2, work, kind)


def test_a_wish_of_one_rank_ends_all() -> None:
    def work(ranks: Any) -> Any:
        history = trainer(ranks).fit(loader(), iterations=STEPS, progress=lambda now: ranks.rank == 1 and now.step == 3)
        return history.step, history.ended

    assert on_ranks(2, work) == [(3, "listener")] * 2


def test_a_nan_ends_all_ranks_with_its_step_and_place() -> None:
    def work(ranks: Any) -> Any:
        held = samples()
        held[11][0][...] = np.nan  # in one rank's shards alone
        with pytest.raises(DivergedError, match=r"at step 1: part 0 of the batch holds it already, in its sample 11"):
            trainer(ranks).fit(data.Loader(held, 13), iterations=2)

    on_ranks(2, work)


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(OptionError, match="a batch of 3 samples cannot be cut into 5 shards"):
        trainer().fit(data.Loader(samples(3), 3), iterations=1)
    with pytest.raises(OptionError, match="2 shards cannot be shared by 3 ranks"):
        Shards(2, ThreadRanks(0, 3, [], threading.Barrier(3)))
    with pytest.raises(OptionError, match="say how many"):
        trainer(Alone(), shards=None)
    assert agreed(Alone(), {"a": 1}) == [{"a": 1}]


# -- MPI, where it is ----------------------------------------------------------------------------------------------------

SCRIPT = """
import numpy as np
from preimage import nn, optim, data
batch_size, epochs = 8, 3
def net():
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(100, 3))
def data(path, train):
    rng = np.random.default_rng(3)
    from preimage.data import ArrayDataset
    return ArrayDataset(rng.standard_normal((32, 2, 6, 7)).astype(np.float32), rng.integers(0, 3, 32))
"""


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun")
def test_under_mpirun(tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    (tmp_path / "net.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "preimage", "train", "net.py", "--shards", "4", "--threads", "1"]

    def run(before: list[str], folder: str, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*before, *command, "-o", folder, *more], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
            env=os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
        )  # fmt: skip

    assert run([], "one").returncode == 0
    found = run(["mpirun", "-n", "2"], "two", "-n", "5")
    assert found.returncode == 0, found.stderr
    found = run(["mpirun", "-n", "2"], "two", "--resume")
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "two" / "weights.safetensors").read_bytes() == (tmp_path / "one" / "weights.safetensors").read_bytes()
    began = time.monotonic()
    (tmp_path / "net.py").write_text(SCRIPT + "\nimport os\nif os.environ.get('PMI_RANK') == '1': batch_size = 'x'\n")
    found = run(["mpirun", "-n", "2"], "three")
    assert found.returncode != 0
    assert "ends the run" in found.stderr
    assert time.monotonic() - began < 120
