"""Arrays that somebody else can see are found, whatever the way in which they see them."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from preimage.engines.buffers import aligned_empty
from preimage.ownership import is_sole, plus

N = 1 << 19  # 2 MiB of float32: a block of buffers.py


def fresh(kind):
    if kind == "of NumPy":
        return np.zeros((2, N // 2), np.float32)
    if kind == "a view of what is gone":
        return np.zeros(2 * N, np.float32)[N:].reshape(2, N // 2)
    if kind == "a block":
        return aligned_empty((2, N // 2), np.dtype(np.float32))
    return np.ndarray((2, N // 2), np.float32, aligned_empty((4 * N,), np.dtype(np.uint8)))


KINDS = ["of NumPy", "a view of what is gone", "a block", "bytes of a block"]
SEEN = {
    "a name": lambda a: a,
    "a part": lambda a: a[1:],
    "a part of a part": lambda a: a[1:].T[:5],
    "a single element": lambda a: a[0, :1],
    "another dtype": lambda a: a.view(np.int32),
    "a buffer": memoryview,
    "an interface": lambda a: a.ctypes,
    "a capsule": lambda a: a.__dlpack__(),
    "an iterator": lambda a: a.flat,
    "a broadcast array": lambda a: np.broadcast_to(a, (3, *a.shape)),
    "a structure": lambda a: np.lib.stride_tricks.as_strided(a, (2,), (4,)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_nobody_else_refers_to(kind):
    held = [fresh(kind)]
    assert is_sole(held, 0, 0)
    name = held[0]
    assert not is_sole(held, 0, 0)
    assert is_sole(held, 0, 1)
    del name
    assert is_sole(held, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", SEEN)
def test_whoever_sees_an_array_is_seen(kind, way):
    held = [fresh(kind)]
    other = SEEN[way](held[0])
    assert not is_sole(held, 0, 0)
    del other
    assert is_sole(held, 0, 0)


def test_another_threads_reference_counts():
    held, other, taken, gone = [np.zeros(3)], [], threading.Event(), threading.Event()

    def keep():
        mine = held[0]
        taken.set()
        gone.wait(10)
        other.append(float(mine[0]))

    thread = threading.Thread(target=keep)
    thread.start()
    taken.wait(10)
    assert not is_sole(held, 0, 0)
    gone.set()
    thread.join()
    assert is_sole(held, 0, 0)


def test_memory_from_outside_is_never_written_to(tmp_path):
    torch = pytest.importorskip("torch")
    mapped = np.memmap(tmp_path / "weights", np.float32, "w+", shape=(N,))
    locked = np.zeros(N, np.float32)
    locked.flags.writeable = False
    arrays = [np.asarray(mapped), np.frombuffer(bytearray(4 * N), np.float32), torch.zeros(N).numpy(), locked]
    del mapped, locked
    for _ in range(len(arrays)):
        assert not is_sole(arrays, 0, 0)
        arrays.append(arrays.pop(0))


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_written_where_nobody_looks(kind):
    one = np.ones((2, N // 2), np.float32)
    held = [fresh(kind)]
    held[0][...] = 2
    place = held[0].ctypes.data
    made = plus(held, 0, one)
    assert made.ctypes.data == place
    assert (made == 3).all()
    held = [made]  # `made` sees it
    other = plus(held, 0, one)
    assert (made == 3).all()
    assert (other == 4).all()


def test_elements_that_lie_on_one_another_are_summed_once():
    shape, item = (1 << 14,), np.dtype(np.float64)
    held = [np.ndarray(shape, item, np.zeros(8, np.uint8), 0, (0,))]
    assert is_sole(held, 0, 0)
    assert plus(held, 0, np.ndarray(shape, item, np.ones(1), 0, (0,))).sum() == 1 << 14
