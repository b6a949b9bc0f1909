"""Arenas: memory of a repeated run is planned and used again, results never share it, and a wrong plan is noticed."""

import gc
import threading

import numpy as np
import pytest

from preimage.engines import buffers
from preimage.engines.buffers import LARGE_BYTES, LINE_BYTES, Arena, Arenas, aligned_empty, trim
from preimage.engines.spare import Spare

F = np.dtype(np.float32)
BIG = 5000  # elements: more than arrays that are left to NumPy


def ramp(n: int, value: float) -> np.ndarray:
    a = aligned_empty((n,), F)
    a[...] = value
    return a


def chain(depth: int, sizes: tuple[int, ...] = (BIG, 3 * BIG, 2 * BIG)) -> np.ndarray:
    """Each value from the one before, which dies; the sum of all values so far is what comes out."""
    x = ramp(sizes[0], 1)
    for k in range(1, depth):
        y = ramp(sizes[k % len(sizes)], k)
        y += x[0]
        x = y
    return x


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    return np.shares_memory(a, b)


def test_a_second_run_takes_memory_for_its_result_alone() -> None:
    arena = Arena()
    with arena:
        first = chain(10)
    with arena:
        second = chain(10)
        assert arena.fresh_bytes == second.nbytes
    np.testing.assert_array_equal(first, second)
    assert not overlap(first, second)
    assert arena.bytes <= (3 + 2 + 1) * BIG * 4 + 6 * LINE_BYTES  # one of each size, not ten arrays


def test_results_of_earlier_runs_keep_their_values() -> None:
    arenas = Arenas()
    kept = []
    for _ in range(6):
        with arenas.arena("key"):
            kept.append(chain(7))
    for a in kept:
        assert (a == kept[0][0]).all()
    assert not any(overlap(a, b) for k, a in enumerate(kept) for b in kept[:k])


def test_a_value_that_lives_longer_than_planned_keeps_its_memory() -> None:
    arena = Arena()
    for _ in range(2):
        with arena:
            chain(6)
    held = []
    with arena:
        x = ramp(BIG, 1)
        held.append(x[10:20])  # a view is enough
        for k in range(1, 6):
            y = ramp((BIG, 3 * BIG, 2 * BIG)[k % 3], k)
            held.append(y[::7].reshape(-1, 1))
            x = y
        del x, y
    for k, view in enumerate(held):
        assert (view == max(k, 1)).all()
    with arena:  # and into the next run, which finds other memory
        chain(6)
        chain(6)
    for k, view in enumerate(held):
        assert (view == max(k, 1)).all()
    held.clear()
    with arena:
        pass


def test_a_run_that_asks_otherwise_is_right_and_planned_anew() -> None:
    arena = Arena()
    for sizes in ((BIG, 2 * BIG), (3 * BIG, BIG), (3 * BIG, BIG)):
        with arena:
            result = chain(5, sizes)
            assert (result == 1 + 1 + 2 + 3 + 4).all()
            fresh = arena.fresh_bytes
    assert fresh == result.nbytes


def test_planning_ends_where_no_two_runs_are_alike() -> None:
    arena = Arena()
    for k in range(12):
        with arena:
            assert (chain(4, (BIG + k, 2 * BIG + k)) == 7).all()
    assert arena._plans < 12


def test_a_failed_run_leaves_no_plan_and_no_arena() -> None:
    arena = Arena()

    def failing() -> None:
        with arena:
            chain(3)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert arena.bytes == 0
    a = aligned_empty((BIG,), F)
    with arena:
        pass
    assert not overlap(a, aligned_empty((BIG,), F))


def test_the_planned_places_of_values_that_live_together_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        events = rng.integers(0, 4, 40)
        sizes = rng.integers(2000, 9000, 40)

        def run(events=events, sizes=sizes) -> list[np.ndarray]:
            alive: list[np.ndarray] = []
            for k, (event, size) in enumerate(zip(events, sizes, strict=True)):
                alive.append(ramp(int(size), k))
                for a in alive:
                    assert (a == a[0]).all()
                if event and len(alive) > event:
                    alive.pop(int(event) - 1)
            assert not any(overlap(a, b) for k, a in enumerate(alive) for b in alive[:k])
            return alive

        arena = Arena()
        for _ in range(3):
            with arena:
                last = run()
        assert arena.fresh_bytes == sum(a.nbytes for a in last)


def test_threads_have_arenas_of_their_own() -> None:
    arenas, wrong = Arenas(), []
    barrier = threading.Barrier(4)

    def work(value: int) -> None:
        for _ in range(50):
            barrier.wait()
            with arenas.arena("key"):
                a = ramp(4 * BIG, value)
                b = ramp(4 * BIG, value)
                b += a
                if not ((a == value).all() and (b == 2 * value).all()):
                    wrong.append(value)
                del a, b

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert 0 < arenas.bytes <= 4 * (2 * 4 * BIG * 4 + 3 * LINE_BYTES)
    arenas.clear()
    gc.collect()
    assert arenas.bytes == 0


def test_memory_is_aligned_and_of_any_dtype() -> None:
    import ml_dtypes

    arena = Arena()
    for _ in range(2):
        with arena:
            for dtype in (np.float64, np.float16, ml_dtypes.bfloat16):
                a = aligned_empty((3, 5, BIG), np.dtype(dtype))
                assert a.shape == (3, 5, BIG)
                assert a.dtype == dtype
                assert a.flags.c_contiguous
                assert a.flags.writeable
                assert a.__array_interface__["data"][0] % LINE_BYTES == 0
                a[...] = 1
                del a


def test_one_run_holds_no_memory_and_too_little_memory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = Arena()
    with arena:
        first = chain(6)
    assert arena.bytes == 0

    def refuse(size: int, fresh=buffers._fresh) -> np.ndarray:
        if size == arena._total:
            raise MemoryError
        return fresh(size)

    monkeypatch.setattr(buffers, "_fresh", refuse)
    for _ in range(2):
        with arena:
            np.testing.assert_array_equal(chain(6), first)
    assert arena.bytes == 0


# -- large arrays outside arenas ---------------------------------------------------------------------------------------


def address(a: np.ndarray) -> int:
    return a.__array_interface__["data"][0]


@pytest.fixture
def spare(monkeypatch: pytest.MonkeyPatch) -> Spare:
    """A store of large blocks of this test's own, with room for three."""
    store = Spare(3 * buffers._block_bytes(LARGE_BYTES + 20))
    monkeypatch.setattr(buffers, "_spare", store)
    return store


def test_the_memory_of_a_large_array_is_used_again_when_its_last_view_is_gone(spare: Spare) -> None:
    n = LARGE_BYTES // 4 + 5
    a = ramp(n, 1)
    assert address(a) % LINE_BYTES == 0
    view, place = a[7:9], address(a)
    del a
    b = ramp(n, 2)
    assert address(b) != place
    assert (view == 1).all()
    del view
    c = ramp(n + 1000, 3)  # about the same size
    assert address(c) == place
    assert (b == 2).all()
    small = ramp(n // 2, 4)
    assert address(small) not in (place, address(b))
    del b
    assert spare.bytes >= 4 * n
    trim()
    assert spare.bytes == 0


def test_no_more_than_a_share_of_memory_is_kept(spare: Spare) -> None:
    arrays = [ramp(LARGE_BYTES // 4, k) for k in range(5)]
    arrays.clear()
    assert 0 < spare.bytes <= spare.limit
    huge = ramp(LARGE_BYTES, 1)
    assert huge.nbytes > spare.limit
    del huge
    assert spare.bytes <= spare.limit


def test_threads_never_get_the_same_block(spare: Spare) -> None:
    wrong: list[int] = []

    def work(value: int) -> None:
        for _ in range(6):
            a = ramp(LARGE_BYTES // 4, value)
            if not (a[:: 1 << 12] == value).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
