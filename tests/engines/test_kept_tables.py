"""Kept tables under many callers at once: other threads, and the collector's finalisers in the middle of a step."""

from __future__ import annotations

import gc
import threading

import numpy as np

from preimage.engines.kept_tables import kept_tables


class Finalised:
    """Its finaliser adds entries too: the collector runs it in the middle of whatever allocates."""

    def __init__(self, call) -> None:
        self.me, self.call = self, call

    def __del__(self) -> None:
        self.call(-id(self) % 100_003)


def test_many_callers_at_once():
    """Found as RuntimeError: dictionary changed size during iteration, by the storm of tests/engines/test_jit_storm.py."""
    most, wrong = 1 << 14, []
    table = kept_tables(lambda n: np.full(8, n), most)

    def caller(number: int) -> None:
        try:
            for k in range(1500):
                n = (k * 7 + number * 13) % 900
                if k % 10 == 0:
                    Finalised(table)
                if not (table(n) == n).all():
                    wrong.append(n)
        except BaseException as error:  # a thread's exception must not pass unseen
            wrong.append(error)

    before = gc.get_threshold()
    gc.set_threshold(5)
    try:
        threads = [threading.Thread(target=caller, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*before)
    assert not wrong
    gc.collect()
    assert sum(n for _, n in tuple(table.kept.values.values())) <= most
    assert table.kept.clear() > 0
    assert not table.kept.values
