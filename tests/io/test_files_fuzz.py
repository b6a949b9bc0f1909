"""The fuzz of weight and data files in short, and that it sees what it is for."""

from __future__ import annotations

import time
from typing import Any

import fuzz_files as fuzz
import fuzz_process
import pytest

for package in ("h5py", "lmdb", "nibabel", "safetensors"):
    pytest.importorskip(package)


@pytest.mark.parametrize("reader", fuzz.READERS)
def test_damaged_files_are_read_or_refused(reader: str) -> None:
    counts, offenders = fuzz.fuzz(reader, 10**6, 60)
    assert offenders == []
    assert counts["refused"] > 5
    assert counts["read"] + counts["refused"] == 60


@pytest.mark.parametrize("reader", fuzz.READERS)
def test_whole_files_are_read(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "mutate", lambda files, _: files)
    assert fuzz.fuzz(reader, 0, 4) == ({"read": 4}, [])


def _foreign(_: Any) -> None:
    raise KeyError("x")


def _crash(_: Any) -> None:
    import os

    os._exit(7)


@pytest.mark.parametrize(("defect", "said"), [(_foreign, "foreign KeyError: 'x'"), (_crash, "crash or hang (exit 7)")])
def test_defects_are_seen(defect: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fuzz.READERS, "npy", (fuzz.READERS["npy"][0], defect))
    assert fuzz.fuzz("npy", 7, 2)[1] == [(7, said), (8, said)]


def test_a_case_that_never_ends_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(_: int) -> str:
        while True:
            pass

    monkeypatch.setattr(fuzz_process, "SECONDS", 1)
    assert fuzz_process.fuzz(endless, 3, 1, ("read",))[1] == [(3, "too slow")]


def test_a_case_that_waits_for_ever_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def waiting(_: int) -> str:
        while True:
            time.sleep(10)

    monkeypatch.setattr(fuzz_process, "PATIENCE", 1)
    assert fuzz_process.fuzz(waiting, 3, 1, ("read",))[1] == [(3, "crash or hang (exit -9)")]
