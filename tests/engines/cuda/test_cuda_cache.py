"""PTX on disk is the text that would be made; what is kept in memory is bounded."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from preimage.engines import disk_cache
from preimage.engines.cuda import cache, ptx


@dataclass(frozen=True)
class Spec:
    tile: int = 8


@pytest.fixture
def made(tmp_path, monkeypatch):
    """What was compiled, in order; by a double of the compiler."""
    texts = []
    compiler = SimpleNamespace(
        toolchain=lambda: "llvm 1",
        architecture=lambda capability: f"sm_{capability[0]}{capability[1]}",
        compile_ptx=lambda spec, arch: texts.append(spec) or f"PTX {arch} of {spec}",
    )
    assert all(callable(getattr(ptx, name)) for name in vars(compiler))  # what the double stands for is there
    monkeypatch.setitem(sys.modules, "preimage.engines.cuda.ptx", compiler)
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", str(tmp_path))
    return texts


def test_a_text_is_compiled_once(made):
    first = cache.ptx(Spec(), (9, 0))
    assert first == "PTX sm_90 of Spec(tile=8)"
    assert cache.ptx(Spec(), (9, 0)) == first
    assert len(made) == 1


def test_spec_arch_source_and_tools_are_the_key(made, monkeypatch):
    cache.ptx(Spec(), (9, 0))
    cache.ptx(Spec(16), (9, 0))
    cache.ptx(Spec(), (8, 0))
    monkeypatch.setattr(cache, "source_digest", lambda: "another source")
    cache.ptx(Spec(), (9, 0))
    monkeypatch.setattr(sys.modules["preimage.engines.cuda.ptx"], "toolchain", lambda: "llvm 2")
    cache.ptx(Spec(), (9, 0))
    assert len(made) == 5


def test_a_damaged_file_is_compiled_again(made, tmp_path):
    first = cache.ptx(Spec(), (9, 0))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert cache.ptx(Spec(), (9, 0)) == first
    assert len(made) == 2
    assert disk_cache.info().files == 1


def test_without_a_folder_it_is_compiled_each_time(made, monkeypatch):
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", "off")
    assert cache.ptx(Spec(), (9, 0)) == cache.ptx(Spec(), (9, 0))
    assert len(made) == 2


def test_the_digest_covers_this_engine_and_the_text_layer():
    before = cache.source_digest()
    assert cache.source_digest() is before
    assert len(before) == 64


def test_what_is_kept_is_bounded_and_the_oldest_goes():
    kept, made = cache.Kept(3), []
    for key in (1, 2, 3, 1, 4, 1, 2):
        kept.get(key, lambda k: made.append(k) or str(k))
    assert len(kept) == 3
    assert made == [1, 2, 3, 4, 2]  # 2 had gone when 4 came
    kept.forget()
    assert len(kept) == 0
