"""Spare blocks of other sizes go before the process comes to hold much more than it ever used at one time."""

from __future__ import annotations

import numpy as np
import pytest

from preimage.engines import spare as spare_blocks
from preimage.engines.spare import Spare

MIB = 1 << 20


class Use:
    """Blocks as buffers.py takes them and puts them back."""

    def __init__(self, store):
        self.store, self.taken, self.most = store, 0, 0

    def take(self, mib):
        size = mib * MIB
        block = self.store.take(size)
        if block is None:
            self.store.make_room(size)
            block = np.empty(size, np.uint8)
            self.taken += 1
        self.store.count(size)
        self.most = max(self.most, self.store.bytes + self.store._in_use)
        return block

    def once(self, *sizes):
        for mib in sizes:
            self.store.put(self.take(mib))


@pytest.fixture
def use(monkeypatch):
    monkeypatch.setattr(spare_blocks, "SLACK_BYTES", 8 * MIB)
    return Use(Spare(1 << 40))


def test_other_sizes_go_before_more_is_taken(use):
    use.once(16, 20, 24, 28, 32)  # never more than 32 at a time
    assert 32 * MIB <= use.most <= (32 + 8) * MIB


def test_blocks_that_are_used_together_stay(use):
    held = [use.take(mib) for mib in (16, 20, 24, 28, 32)]
    for block in held:
        use.store.put(block)
    for _ in range(3):
        use.once(16, 20, 24, 28, 32)
    assert use.taken == 5


def test_what_is_missed_is_kept_from_then_on(use):
    for _ in range(6):
        use.once(16, 20, 24, 28, 32)
    before = use.taken
    for _ in range(3):
        use.once(16, 20, 24, 28, 32)
    assert use.taken == before


def test_the_smallest_that_will_do_goes(use):
    held = [use.take(mib) for mib in (16, 24, 32)]
    for block in held:
        use.store.put(block)
    use.once(20)  # 72 were in use at one time, and 8 more may be kept: 12 have to go
    assert use.store.take(16 * MIB) is None
    assert use.store.take(24 * MIB) is not None


def test_all_begins_anew_where_all_was_given_back(use):
    for _ in range(6):
        use.once(16, 20, 24, 28, 32)
    assert use.store.clear() == 120 * MIB
    use.most = 0
    use.once(16, 20, 24, 28, 32)
    assert 32 * MIB <= use.most <= (32 + 8) * MIB
