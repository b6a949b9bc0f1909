"""The cache of object code on disk: what it must survive."""

from __future__ import annotations

import ast
import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preimage import OptionError
from preimage.engines import base

disk_cache = pytest.importorskip("preimage.engines.disk_cache")
kernels = pytest.importorskip("preimage.engines.jit.compiler.kernels")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    place = tmp_path / "cache"
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", str(place))
    return place


def only_file(folder):
    (path,) = folder.glob("*.obj")
    return path


def test_what_was_written_is_read(folder):
    assert disk_cache.read("key") is None
    assert disk_cache.write("key", b"code")
    assert disk_cache.read("key") == b"code"
    assert disk_cache.read("other key") is None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(folder).stat().st_mode) == 0o600


def test_every_part_of_the_key_counts():
    assert disk_cache.key(a="1", b="2") == disk_cache.key(b="2", a="1")
    assert (
        len({disk_cache.key(a="1", b="2"), disk_cache.key(a="1", b="3"), disk_cache.key(a="1"), disk_cache.key(a="1", c="2")})
        == 4
    )


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "extend", "garbage"])
def test_a_damaged_file_is_dropped(folder, damage):
    disk_cache.write("key", b"code" * 100)
    path = only_file(folder)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-7] ^= 1
    elif damage == "truncate":
        data = data[:-1]
    elif damage == "empty":
        data = bytearray()
    elif damage == "extend":
        data += b"x"
    else:
        data = bytearray(os.urandom(len(data)))
    path.write_bytes(bytes(data))
    before = disk_cache.info().corrupt
    assert disk_cache.read("key") is None
    assert disk_cache.info().corrupt == before + 1
    assert not path.exists()
    assert disk_cache.write("key", b"new")
    assert disk_cache.read("key") == b"new"


def test_a_file_of_another_key_is_not_taken(folder):
    disk_cache.write("one", b"code of one")
    source = only_file(folder)
    disk_cache.write("two", b"code of two")
    target = next(p for p in folder.glob("*.obj") if p != source)
    os.replace(source, target)  # intact, under the wrong name
    assert disk_cache.read("two") is None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners here")
def test_a_file_that_others_may_write_is_never_loaded(folder):
    disk_cache.write("key", b"code")
    path = only_file(folder)
    path.chmod(0o666)
    assert disk_cache.read("key") is None
    path.chmod(0o600)
    assert disk_cache.read("key") == b"code"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_never_loaded(folder):
    disk_cache.write("key", b"code")
    os.chown(only_file(folder), 12345, 12345)
    assert disk_cache.read("key") is None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners here")
def test_a_folder_that_others_may_write_is_refused(tmp_path, monkeypatch):
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", str(place))
    assert not disk_cache.write("key", b"code")
    assert disk_cache.read("key") is None
    assert "others may write" in disk_cache.info().refused


def test_a_link_in_the_place_of_a_file_is_not_followed(folder, tmp_path):
    disk_cache.write("key", b"code")
    path = only_file(folder)
    elsewhere = tmp_path / "elsewhere"
    os.replace(path, elsewhere)
    path.symlink_to(elsewhere)
    assert disk_cache.read("key") is None


@pytest.mark.parametrize("home", ["file", "null"])
def test_no_home_is_no_error(tmp_path, monkeypatch, home):
    monkeypatch.delenv("PREIMAGE_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the home should be")
    monkeypatch.setenv("HOME", str(blocked) if home == "file" else "/dev/null")
    assert disk_cache.read("key") is None
    assert disk_cache.write("key", b"code") is False
    report = disk_cache.cache_report()
    assert report["folder"] is None
    assert report["refused"]


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_no_error(folder):
    disk_cache.write("key", b"code")
    folder.chmod(0o500)
    assert disk_cache.read("key") == b"code"
    assert disk_cache.write("other", b"code") is False
    folder.chmod(0o700)


def test_off_means_off(monkeypatch):
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", "off")
    assert not disk_cache.write("key", b"code")
    assert disk_cache.info().refused == "PREIMAGE_CACHE_DIR switches it off"


def test_the_files_used_longest_ago_go_first(folder):
    for n in range(10):
        disk_cache.write(f"key {n}", bytes(1000))
    old = time.time() - 1000
    for n in range(10):
        os.utime(folder / os.path.basename(disk_cache._path(folder, f"key {n}")), (old + n, old + n))
    assert disk_cache.read("key 0") is not None  # used just now
    size = disk_cache.info().size_bytes
    assert disk_cache.trim(folder, size) == 0
    assert disk_cache.trim(folder, size - 1) == 3  # down to three quarters
    assert disk_cache.read("key 0") is not None
    assert [n for n in range(1, 10) if disk_cache.read(f"key {n}") is None] == [1, 2, 3]


def test_the_number_of_files_is_bounded_too(folder, monkeypatch):
    monkeypatch.setattr(disk_cache, "MOST_FILES", 8)
    for n in range(8):
        disk_cache.write(f"key {n}", b"code")
    assert disk_cache.trim(folder, 1 << 20) == 0
    disk_cache.write("key 8", b"code")
    assert disk_cache.trim(folder, 1 << 20) == 3


def test_the_limit_is_kept_while_writing(folder, monkeypatch):
    monkeypatch.setenv("PREIMAGE_CACHE_BYTES", "20000")
    for n in range(100):
        assert disk_cache.write(f"key {n}", bytes(1000))
        assert disk_cache.info().size_bytes <= 20000
    assert not disk_cache.write("large", bytes(30000))


def test_the_limit_is_kept_by_many_short_processes(folder):
    """Each writes a few files only; the first write of each looks at the size of the folder."""
    code = "import os\nfrom preimage.engines import disk_cache\n"
    code += "for n in range(4): assert disk_cache.write(f'{os.getpid()} {n}', bytes(1000))"
    for _ in range(8):
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PREIMAGE_CACHE_BYTES": "8kB"}, check=True, timeout=60)
    assert 0 < sum(path.stat().st_size for path in folder.iterdir()) <= 8000


@pytest.mark.parametrize("text", ["²", "10 XB", "lots", "-1"])
def test_a_limit_that_is_no_number_of_bytes_is_refused(folder, monkeypatch, text):
    monkeypatch.setenv("PREIMAGE_CACHE_BYTES", text)
    for call in (lambda: disk_cache.read("key"), lambda: disk_cache.write("key", b"code"), disk_cache.info, disk_cache.clear):
        with pytest.raises(OptionError, match=f"PREIMAGE_CACHE_BYTES must be a number of bytes .*, got {text!r}"):
            call()


@pytest.mark.parametrize(("text", "size"), [("1e9", 10**9), ("10GB", 10**10), ("64 MiB", 64 << 20), ("", 1 << 30)])
def test_a_limit_in_words(folder, monkeypatch, text, size):
    monkeypatch.setenv("PREIMAGE_CACHE_BYTES", text)
    assert disk_cache.info().limit_bytes == size


def test_only_files_of_ours_are_removed(folder, monkeypatch):
    """Files of others stay, whatever their names are like; those of ours go."""
    disk_cache.folder()
    name = "0123456789abcdef0123456789abcdef01234567"
    foreign = [folder / n for n in ("model.obj", f"{name}.obj", "new-abc.tmp", "work.tmp", f"{name.upper()}.obj", "notes.txt")]
    for path in foreign:
        path.write_bytes(b"v 1.0 2.0 3.0 a mesh, say")
        os.utime(path, (1, 1))
    (folder / f"{name[:-1]}f.obj").mkdir()
    for n in range(5):
        disk_cache.write(f"key {n}", bytes(1000))
    assert disk_cache.trim(folder, 0) == 5
    disk_cache.write("key", b"code")
    assert disk_cache.clear() == 1
    assert all(path.exists() for path in foreign)
    assert sorted(path.name for path in folder.iterdir()) == sorted([p.name for p in foreign] + [f"{name[:-1]}f.obj"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_a_reader_would_wait_for_counts_as_absent(folder):
    disk_cache.folder()
    os.mkfifo(disk_cache._path(folder, "pipe"))
    with open(disk_cache._path(folder, "sparse"), "wb") as file:
        file.truncate(300 << 30)
    disk_cache._path(folder, "folder").mkdir()
    for key in ("pipe", "sparse", "folder"):
        assert disk_cache.read(key) is None
    assert not disk_cache._path(folder, "sparse").exists()  # damaged, as it were
    assert disk_cache.write("pipe", b"code")
    assert disk_cache.read("pipe") == b"code"
    assert not disk_cache.write("folder", b"code")


def test_no_folder_is_made_in_the_home_of_another_user(tmp_path, monkeypatch):
    """`sudo` may keep HOME: a folder that root makes there could never be used by the user whose home it is."""
    monkeypatch.delenv("PREIMAGE_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(os, "geteuid", lambda: home.stat().st_uid + 1)
    where, reason = disk_cache.folder()
    assert where is None
    assert "belongs to another user" in reason
    assert "PREIMAGE_CACHE_DIR" in reason
    assert not list(home.iterdir())
    assert not disk_cache.write("key", b"code")
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", str(home / "named"))  # who names a place gets it, if it is then theirs
    assert "belongs to another user" in disk_cache.folder()[1]
    monkeypatch.undo()


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["open", "fdopen", "replace"])
def test_a_write_that_fails_at_any_step_leaves_nothing(folder, monkeypatch, step):
    with monkeypatch.context() as patch:
        patch.setattr(os, step, _full)
        assert not disk_cache.write("key", b"code")
    assert not [path for path in folder.iterdir() if path.suffix != ".obj"]
    assert disk_cache.read("key") is None
    assert disk_cache.write("key", b"code")
    assert disk_cache.read("key") == b"code"


def test_what_a_killed_process_left_is_cleared_later(folder):
    disk_cache.write("key", b"code")
    left = folder / "preimage-0123456789abcdef.tmp"
    left.write_bytes(b"half")
    disk_cache.trim(folder, 1 << 20)
    assert left.exists()  # it may still be written
    os.utime(left, (1, 1))
    disk_cache.trim(folder, 1 << 20)
    assert not left.exists()


def test_clear_and_report(folder):
    for n in range(3):
        disk_cache.write(f"key {n}", b"code")
    report = disk_cache.cache_report()
    assert report["files"] == 3
    assert report["folder"] == str(folder)
    assert disk_cache.clear() == 3
    assert disk_cache.info().files == 0


def test_many_processes_write_and_read_the_same_keys(folder):
    code = """
import os, sys
from preimage.engines import disk_cache
wrong = 0
for turn in range(40):
    for n in range(4):
        data = (b"%d" % n) * 5000
        found = disk_cache.read(f"key {n}")
        wrong += found is not None and found != data
        disk_cache.write(f"key {n}", data)
    if turn % 20 == 19: disk_cache.clear()
assert not wrong
assert disk_cache.info().corrupt == 0
"""
    runs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [run.wait(timeout=60) for run in runs] == [0] * 4
    assert not list(folder.glob("*.tmp"))


def test_code_from_disk_is_used_and_a_corrupt_file_is_rebuilt(folder):
    kernels = pytest.importorskip("preimage.engines.jit.compiler.kernels")
    if kernels.unavailable():
        pytest.skip(kernels.unavailable())
    text = "define void @kernel(ptr %a, i64 %t) {\n  %x = add i64 %t, 987654321\n  ret void\n}"
    # What LLVM says of the CPU is written beside a process's first kernel.
    kernels.compile_module(text.replace("987654321", "12345"))
    disk_cache.clear()
    before = disk_cache.info()
    kernels.compile_module(text)
    assert disk_cache.info().writes == before.writes + 1
    kernels.forget()
    kernels.compile_module(text)
    assert disk_cache.info().hits == before.hits + 1
    path = only_file(folder)
    path.write_bytes(path.read_bytes()[:-10])
    kernels.forget()
    kernels.compile_module(text)
    assert disk_cache.info().corrupt == before.corrupt + 1
    assert disk_cache.info().writes == before.writes + 2


def test_the_key_knows_all_files_that_make_a_kernel():
    """What a schedule imports of the engine is in the digest that keys its kernels: an edit there finds no stale code."""
    package = Path(base.__file__).parents[1]
    inside = {
        ".".join(("preimage", *path.relative_to(package).with_suffix("").parts)).removesuffix(".__init__")
        for path in map(Path, kernels.generator_sources())
    }
    for path in map(Path, kernels.generator_sources()):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("preimage"):
                names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                assert names & inside, (path.name, node.module)
