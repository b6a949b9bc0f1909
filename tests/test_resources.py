"""What this process may use: control groups of both versions (as files of a made-up system), limits of the process, sizes in words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import preimage as pre
from preimage import resources, settings
from preimage.resources import available_memory, cpu_quota, memory_limit, parse_bytes

MIB = 1 << 20


def system(root: Path, **files: str) -> Path:
    """Files of a system below `root`: names with "/" as "__" and "." as "-" would be hard to read, so they come as a dict."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def version_2(root: Path, group: str = "/", shown: str = "/", **files: str) -> Path:
    mount = f"30 23 0:26 {shown} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    return system(root, **{"proc/self/cgroup": f"0::{group}\n", "proc/self/mountinfo": mount}, **files)


def version_1(root: Path, group: str, shown: str = "/", **files: str) -> Path:
    mounts = "".join(
        f"3{k} 31 0:3{k} {shown} /sys/fs/cgroup/{names} rw,relatime - cgroup cgroup rw,{names}\n"
        for k, names in enumerate(("cpu,cpuacct", "memory"))
    )
    text = f"4:memory:{group}\n3:cpu,cpuacct:{group}\n1:name=systemd:/\n0::/\n"
    return system(root, **{"proc/self/cgroup": text, "proc/self/mountinfo": mounts}, **files)


@pytest.mark.parametrize(("quota", "wanted"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1),
                                               ("150000 100000", 1), ("350000 100000", 3), ("800000 200000", 4)])  # fmt: skip
def test_the_quota_of_version_2(tmp_path, quota, wanted):
    assert cpu_quota(version_2(tmp_path, **{"sys/fs/cgroup/cpu.max": f"{quota}\n"})) == wanted


@pytest.mark.parametrize(("quota", "wanted"), [("-1", None), ("100000", 1), ("250000", 2)])
def test_the_quota_of_version_1(tmp_path, quota, wanted):
    folder = "sys/fs/cgroup/cpu,cpuacct/docker/abc"
    root = version_1(tmp_path, "/docker/abc", **{f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000\n"})
    assert cpu_quota(root) == wanted


def test_limits_of_the_groups_around_count(tmp_path):
    root = version_2(
        tmp_path, "/a/b",
        **{"sys/fs/cgroup/a/cpu.max": "200000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000",
           "sys/fs/cgroup/a/memory.max": f"{64 * MIB}", "sys/fs/cgroup/a/b/memory.max": f"{256 * MIB}"},
    )  # fmt: skip
    assert cpu_quota(root) == 2
    assert memory_limit(root) == 64 * MIB


def test_a_container_sees_its_part_of_the_hierarchy(tmp_path):
    """Without a namespace of control groups, the group's path is the host's, and the mount begins inside it."""
    root = version_1(tmp_path, "/docker/abc", "/docker/abc", **{"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{100 * MIB}\n"})
    assert memory_limit(root) == 100 * MIB


def test_memory_of_version_2(tmp_path):
    files = {"memory.max": "max", "memory.high": f"{512 * MIB}", "memory.current": f"{300 * MIB}",
             "memory.stat": f"anon 5\ninactive_file {100 * MIB}\nactive_file 7\n"}  # fmt: skip
    root = version_2(tmp_path, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert memory_limit(root) == 512 * MIB
    assert available_memory(root) == 312 * MIB  # cached files are given up first


def test_memory_of_version_1(tmp_path):
    files = {"memory.limit_in_bytes": f"{256 * MIB}", "memory.usage_in_bytes": f"{300 * MIB}",
             "memory.stat": f"total_inactive_file {50 * MIB}\n"}  # fmt: skip
    root = version_1(tmp_path, "/", **{f"sys/fs/cgroup/memory/{name}": text for name, text in files.items()})
    assert available_memory(root) == 6 * MIB
    system(root, **{"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"})  # how version 1 says: none
    assert memory_limit(root) == memory_limit(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["", "garbage", "max", "-5 100000", "1 0", "٣ 100000", "100000"])
def test_files_that_say_nothing_are_no_limit(tmp_path, text):
    root = version_2(tmp_path, **{"sys/fs/cgroup/cpu.max": text, "sys/fs/cgroup/memory.max": text if text != "100000" else ""})
    assert cpu_quota(root) is None
    assert memory_limit(root) == memory_limit(tmp_path / "nothing")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of address space are Linux's")
def test_limits_of_the_process_count():
    code = """
import resource
from preimage.resources import available_memory, kept_memory, memory_limit
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
assert memory_limit() <= 2 << 30, memory_limit()
assert kept_memory() <= (2 << 30) // 16
before = available_memory()
assert before < 2 << 30
held = bytearray(1 << 29)
assert before - available_memory() >= 1 << 29
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(("cpus", "quota", "threads"), [(8, 2, 2), (2, 8, 2), (4, None, 4), (0, None, 1)])
def test_the_quota_bounds_the_default_number_of_threads(monkeypatch, cpus, quota, threads):
    monkeypatch.setattr(settings, "_affinity", lambda pid: range(cpus))
    monkeypatch.setattr(settings, "cpu_quota", lambda: quota)
    monkeypatch.setattr(settings, "_quota", 0)
    for _ in range(2):
        assert settings.thread_count() == threads
    with pre.config(threads=5):
        assert settings.thread_count() == 5  # who asks for threads gets them


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", MIB),
        (" 7 ", 7),
        ("1e9", 10**9),
        ("10GB", 10**10),
        ("64MiB", 64 * MIB),
        ("1.5 k", 1500),
        ("2G", 2 * 10**9),
    ],
)
def test_sizes_in_words(text, size):
    assert parse_bytes(text, "it") == size


@pytest.mark.parametrize("text", ["", "²", "-1", "1e", "ten", "10 XB", "1_000", "inf", "nan", "0x10", "1e999"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(pre.OptionError, match=r"^PLACE must be a number of bytes"):
        parse_bytes(text, "PLACE")


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("PREIMAGE_THREADS", "two", r"PREIMAGE_THREADS must be an integer of at least 0, got 'two'"),
        ("PREIMAGE_THREADS", "-1", r"PREIMAGE_THREADS must be an integer of at least 0, got '-1'"),
        ("PREIMAGE_DEBUG", "²", r"PREIMAGE_DEBUG must be an integer of at least 0, got '²'"),
        ("PREIMAGE_ACCURACY", "high", r"PREIMAGE_ACCURACY: accuracy must be one of exact, fast, got 'high'"),
        ("PREIMAGE_WORKSPACE_BYTES", "lots", r"PREIMAGE_WORKSPACE_BYTES must be a number of bytes .*, got 'lots'"),
    ],
)
def test_a_wrong_variable_is_an_error_of_the_first_call(monkeypatch, variable, text, message):
    monkeypatch.setenv(variable, text)
    monkeypatch.setattr(settings, "_defaults", None)
    for call in (settings.current, settings.thread_count, lambda: pre.config(threads=1), lambda: pre.config.set(threads=1)):
        with pytest.raises(pre.OptionError, match=message):
            call()
    monkeypatch.delenv(variable)
    assert settings.current() == settings.Settings()


def test_good_variables_are_taken(monkeypatch):
    for name, text in (("THREADS", "3"), ("WORKSPACE_BYTES", "16MiB"), ("ENGINE", "gemm"), ("DEBUG", "0")):
        monkeypatch.setenv(f"PREIMAGE_{name}", text)
    monkeypatch.setattr(settings, "_defaults", None)
    assert settings.current() == settings.Settings(threads=3, workspace_bytes=16 * MIB, engine="gemm")


@pytest.mark.parametrize("variable", ["PREIMAGE_THREADS", "PREIMAGE_DEBUG", "PREIMAGE_ACCURACY", "PREIMAGE_WORKSPACE_BYTES"])
def test_the_command_line_says_it_in_one_line(variable):
    command = [sys.executable, "-m", "preimage", "explain", "--input", "1,1,4,4", "--weight", "1,1,3,3"]
    run = subprocess.run(command, env={**os.environ, variable: "x"}, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert run.stderr.startswith("error: the environment variable " + variable)
    assert "Traceback" not in run.stderr
    assert run.stderr.count("\n") == 1


def test_what_is_kept_is_given_back_and_counted(monkeypatch):
    monkeypatch.setattr(resources, "_keepers", {})

    class Keeper:
        def __init__(self, size: int) -> None:
            self.size = size
            resources.register_keeper(self)

        def clear(self) -> int:
            held, self.size = self.size, 0
            return held

    five, seven = Keeper(5), Keeper(7)
    assert resources.release_memory() == 12
    assert (five.size, seven.size) == (0, 0)
    five.size, seven.size = 1, 2
    del five
    assert resources.release_memory() == 2  # who is gone keeps nothing
