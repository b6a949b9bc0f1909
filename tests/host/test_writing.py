"""Files are written whole or not at all: the n-th write, fsync, rename of every writer fails, for every n; killed writers; links, modes."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kill import FAULTS, kills
from writers import WRITERS, Writer, leftovers

import preimage as pre
from preimage.errors import OutputError
from preimage.host import check_writable, replacing, write_file
from preimage.host.writing import MARK, temporary_names

#: What the writers call of the system, and may fail.
CALLS = ("write", "fsync", "replace", "rename", "link", "fchmod", "open", "mkdir")


@contextmanager
def failing(call: str, n: int, code: int = errno.ENOSPC, short: bool = False) -> Iterator[list[int]]:
    """The n-th call of os.`call` in this thread fails; gives the number of calls as a list of one. short: it first writes a part."""
    as_it_is, count = getattr(os, call), [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if call == "open" and not (len(args) > 1 and args[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)):
            return as_it_is(*args, **kwargs)
        count[0] += 1
        if count[0] == n:
            if short:
                as_it_is(args[0], bytes(args[1])[: max(1, len(args[1]) // 2)])
            raise OSError(code, os.strerror(code))
        return as_it_is(*args, **kwargs)

    setattr(os, call, wrapped)
    try:
        yield count
    finally:
        setattr(os, call, as_it_is)


def _raised(call: Callable[[], object]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("name", WRITERS)
def test_whatever_fails_the_old_file_is_there_or_the_new_one_and_nothing_else(name: str, tmp_path: Path) -> None:
    writer = WRITERS[name]
    path = tmp_path / f"file{writer.ending}"
    writer.write(path, 1)  # also what is written once beside it
    reached = 0
    for call in CALLS:
        for n in range(1, 200):
            writer.write(path, 0)
            with failing(call, n, short=call == "write") as count:
                error = _raised(lambda: writer.write(path, 1))
            failed = error is not None
            assert not failed or isinstance(error, pre.PreimageError), f"{call} {n}: {error!r}"
            if count[0] < n:  # there is no n-th
                assert not failed
                break
            reached += 1
            assert leftovers(tmp_path) == [], f"{call} {n}"
            after = writer.read(path)
            if not failed:
                assert after == 1, f"{call} {n}"
            elif call in ("write", "replace", "rename", "link", "fchmod"):
                assert after == 0, f"{call} {n}: the old file was touched"
    assert reached >= (3 if writer.synced else 2)  # a write, an fsync and a rename at least


def test_the_check_sees_a_writer_that_writes_in_place(tmp_path: Path) -> None:
    def in_place(path: Path, version: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, bytes([version]) * 1000)
            time.sleep(0.02)  # so most kills find the file half written, however slow the machine
            os.write(descriptor, bytes([version]) * 1000)
        finally:
            os.close(descriptor)

    WRITERS["in place"] = Writer(".bin", in_place, WRITERS["write_file"].read)
    try:
        with pytest.raises(AssertionError):
            test_whatever_fails_the_old_file_is_there_or_the_new_one_and_nothing_else("in place", tmp_path)
        if hasattr(os, "fork"):
            assert kills("in place", 8, tmp_path, longest=0.1)["damaged"] > 0
    finally:
        del WRITERS["in place"]


def test_every_module_that_writes_is_behind_a_writer() -> None:
    """A module that begins to write files needs a row in writers.py, or a reason here."""
    source = Path(pre.__file__).parent
    calls = re.compile(
        r"(write_file|replacing|NewFolder|os\.replace|os\.rename|\.write_text|\.write_bytes)\(|open\([^)\n]*[\"'][wax]b?\+?[\"']"
    )
    writing = {p.relative_to(source).as_posix() for p in source.rglob("*.py") if calls.search(p.read_text())}
    known = {
        "audit/state.py", "bench/results.py", "caffe/draw.py", "caffe/net_weights.py", "caffe/solver_state.py", "cli/audit.py",
        "engines/disk_cache.py", "engines/jit/conv/autotune.py", "io/caffe/blobs.py", "io/caffe/load.py", "io/convert.py",
        "io/files.py", "io/onnx/export/graph.py", "io/pictures.py", "io/weights.py", "report/bench.py", "report/bench_markdown.py",
        "report/draw/film.py", "report/explain/__init__.py",
        "bench/models/listing.py", "bench/models/results.py", "bench/models/check_one.py", "cli/check.py", "report/model_tables.py",  # by write_file
        "bench/models/contest.py", "bench/models/check.py", "bench/models/subjects.py",  # jobs and copies in a temporary folder
        "cli/output.py", "cli/learn.py", "report/learned/files.py",  # the row "learn folder"
        "data/idx.py", "io/hdf5.py", "io/torch/writing.py", "learning/checkpoints.py",
        "host/writing.py", "host/folders.py",  # what all of these call
        "audit/runner.py", "cli/failures.py",  # a pipe, the null device
        "cli/train.py", "report/training/__init__.py",  # by write_file, the folder of a run, which test_cli_train.py looks at
        "learning/training/events.py", "learning/training/journal.py",  # lines that are added; half a line goes when a run goes on (test_trainer.py)
    }  # fmt: skip
    assert writing == known


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("name", ["write_file", "caffe.save", "save_weights npz", "learn folder"])
def test_a_killed_writer_leaves_a_whole_file(name: str, tmp_path: Path) -> None:
    with pre.config(engine="gemm", threads=1):
        found = kills(name, 6, tmp_path, seed=3, longest=0.02)
    assert [found[what] for what in FAULTS] == [0, 0, 0]


def test_the_limit_of_a_file_s_size_stands_for_a_full_disk(tmp_path: Path) -> None:
    """A real failure of the kernel in the middle of a write."""
    code = """
import resource, sys
from preimage.io.files import save_weights
import numpy as np
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try: save_weights({"a": np.ones(100_000)}, sys.argv[1])
except Exception as error: print(type(error).__name__, error)
"""
    path = tmp_path / "a.npz"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"OutputError {path}: cannot be written: File too large")
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


# -- what is kept, followed, refused -----------------------------------------------------------------------------------


def test_permissions_of_the_umask_and_of_the_old_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "new", b"x")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
        (tmp_path / "secret").write_bytes(b"old")
        (tmp_path / "secret").chmod(0o600)
        seen = []
        with replacing(tmp_path / "secret") as new:
            seen.append(stat.S_IMODE(new.path.stat().st_mode))
            new.file.write(b"new")
        (tmp_path / "script").write_bytes(b"old")
        (tmp_path / "script").chmod(0o755)
        write_file(tmp_path / "script", b"new")
    finally:
        os.umask(before)
    assert seen == [0o600]  # never readable by others, not even for a moment
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "script").stat().st_mode) == 0o755


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/file").write_text("old")
    (tmp_path / "link").symlink_to("far/file")
    (tmp_path / "dangling").symlink_to("far/other")
    write_file(tmp_path / "link", "new")
    write_file(tmp_path / "dangling", "made")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far/file").read_text() == "new"
    assert (tmp_path / "far/other").read_text() == "made"
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OutputError, match="a: cannot be written"):
        write_file(tmp_path / "a", "x")
    assert (tmp_path / "a").is_symlink()


@pytest.mark.parametrize(("make", "text"), [
    (lambda p: p.mkdir(), "is a folder"), (lambda p: None, "is there already; --overwrite"),
    (lambda p: p.parent.rmdir(), "there is no folder"),
])  # fmt: skip
def test_places_that_are_refused_also_before_the_work(make: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    place = tmp_path / "sub" / "file"
    place.parent.mkdir()
    if "already" in text:
        place.write_text("old")
    make(place)
    for refuse in (lambda: write_file(place, b"new", overwrite=False), lambda: check_writable(place, overwrite=False)):
        with pytest.raises(OutputError, match=text) as error:
            refuse()
        assert isinstance(error.value, OSError)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".", "..", "sub/", "a\0b", "x" * 300])
def test_names_that_are_none(name: str, tmp_path: Path) -> None:
    for call in (write_file, lambda p, _: check_writable(p)):
        with pytest.raises(OutputError):
            call(f"{tmp_path}/{name}" if name else "", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_a_name_may_be(tmp_path: Path) -> None:
    place = tmp_path / ("n" * 250 + ".onnx")
    write_file(place, b"1")
    assert place.read_bytes() == b"1"


def test_a_file_that_comes_during_the_work_is_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "file"

    def late(file: Any) -> None:
        file.write(b"ours")
        place.write_text("theirs")

    with pytest.raises(OutputError, match="is there already"):
        write_file(place, late, overwrite=False)
    assert place.read_text() == "theirs"
    assert leftovers(tmp_path) == []


def test_without_hard_links_the_rule_holds_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    write_file(tmp_path / "file", b"1", overwrite=False)
    with pytest.raises(OutputError, match="already"):
        write_file(tmp_path / "file", b"2", overwrite=False)
    assert (tmp_path / "file").read_bytes() == b"1"
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_what_is_write_protected_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o444)
    with pytest.raises(OutputError, match="write-protected"):
        write_file(tmp_path / "file", "new")


def test_pipes_and_devices_are_written_directly(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_file(tmp_path / "pipe", b"through")
    reader.join(10)
    assert got == [b"through"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    write_file(os.devnull, b"away", overwrite=False)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    if Path("/dev/full").exists():
        with pytest.raises(OutputError, match="No space left"):
            write_file("/dev/full", b"x")
    code = "import sys; from preimage.host import write_file; print('before', flush=True); write_file('/dev/stdout', 'middle\\n'); print('after')"
    with (tmp_path / "out").open("w") as out:  # a rename would take the shell's file away from under it
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert "middle" in (tmp_path / "out").read_text()
    assert "after" in (tmp_path / "out").read_text()


# -- temporaries -------------------------------------------------------------------------------------------------------


def test_temporaries_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    names = list(temporary_names("file.bin"))
    assert all(name.endswith(f".{MARK}.bin") for name in names)
    for k in (0, 1, 3):
        (tmp_path / names[k]).write_text("left by a killed writer")
    (tmp_path / f".other.0.{MARK}.bin").write_text("of another file")
    with replacing(tmp_path / "file.bin") as outer:
        assert outer.path.name == names[0]
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([names[0], f".other.0.{MARK}.bin"])
        with replacing(tmp_path / "file.bin") as inner:  # a second writer at the same time
            assert inner.path.name == names[1]
            inner.file.write(b"second")
        assert outer.path.exists()
        outer.file.write(b"first")
    assert (tmp_path / "file.bin").read_bytes() == b"first"


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_lies_where_a_temporary_would_is_not_touched(kind: str, tmp_path: Path) -> None:
    first = tmp_path / next(temporary_names("file"))
    (tmp_path / "victim").write_text("mine")
    {"folder": first.mkdir, "link": lambda: first.symlink_to("victim"), "pipe": lambda: os.mkfifo(first)}[kind]()
    write_file(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "victim").read_text() == "mine"
    assert os.path.lexists(first)


def test_many_threads_write_one_place(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def work(version: int) -> None:
        try:
            for _ in range(20):
                write_file(tmp_path / "file", bytes([version]) * 200_000)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert errors == []
    assert len(set((tmp_path / "file").read_bytes())) == 1
    assert leftovers(tmp_path) == []


def test_an_error_of_the_content_leaves_nothing(tmp_path: Path) -> None:
    def broken(file: Any) -> None:
        file.write(b"half")
        raise RuntimeError("no more")

    (tmp_path / "file").write_text("old")
    with pytest.raises(RuntimeError, match="no more"):
        write_file(tmp_path / "file", broken)
    with replacing(tmp_path / "file") as new:
        new.file.write(b"unwanted")
        new.cancel()
    assert (tmp_path / "file").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_buffer_that_could_not_be_written_reaches_no_other_file(tmp_path: Path) -> None:
    """The descriptor's number is given to the next file that is opened; what is left in the buffer must not go there."""
    kept = []
    with pytest.raises(OutputError), failing("write", 1):
        write_file(tmp_path / "a", lambda file: (kept.append(file), file.write(b"x" * 100)))
    with (tmp_path / "b").open("wb") as other:
        other.write(b"b")
        other.flush()
        kept.clear()
    assert (tmp_path / "b").read_bytes() == b"b"


def test_safetensors_are_written_as_the_package_writes_them() -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    from preimage.io.weights import weights_writer

    rng = np.random.default_rng(0)
    arrays = {
        "b": rng.standard_normal((3, 4)), "a": rng.standard_normal((2, 0, 5)).astype(np.float32), "ü \"x\"": np.arange(5, dtype=np.int8),
        "scalar": np.float16(2.5).reshape(()), "t": np.array([True, False, True]), "f": np.asfortranarray(rng.integers(0, 9, (3, 2))),
    }  # fmt: skip
    file = io.BytesIO()
    weights_writer(arrays, ".safetensors", {"how": "well"})(file)
    back = numpy.load(file.getvalue())
    assert sorted(back) == sorted(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
    assert file.getvalue() == numpy.save(
        {k: np.ascontiguousarray(v).reshape(v.shape) for k, v in arrays.items()}, {"how": "well"}
    )
