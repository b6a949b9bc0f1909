"""A few of the kills of kill_run.py; and that it would see a run that does not go on to the same bits."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

import preimage as pre

sys.path.insert(0, str(Path(__file__).parent))
import kill_run as kill

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    with pre.config(threads=1):
        found = list(kill.kills(3, tmp_path, longest=0.3))
    assert found.count("killed") == 3
    assert found[-1] == "same bits"
    assert not {"other bits", "could not go on"} & set(found)


def test_it_would_see_other_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a place in the data that is lost, the last weights are others."""
    from preimage.data import Loader

    def lost(self: Any, state: Any) -> None:
        self._at, self._fresh = (state["epoch"], 0), True

    def interrupted(folder: Path) -> None:
        options: dict[str, Any] = {"iterations": kill.STEPS, "folder": folder, "resume": True}
        kill.trainer().fit(kill.loader(0), **options, progress=lambda now: now.step == 6)
        kill.trainer().fit(kill.loader(0), **options)

    with pre.config(threads=1):
        assert list(kill.kills(0, tmp_path / "a", work=interrupted)) == ["same bits"]
        monkeypatch.setattr(kill.learning.Trainer, "close", lambda self: None)
        monkeypatch.setattr(Loader, "load_state_dict", lost)
        assert list(kill.kills(0, tmp_path / "b", work=interrupted)) == ["other bits"]
