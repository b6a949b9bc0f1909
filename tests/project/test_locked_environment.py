"""The locked environment and the fuzzers' command: they hold what the project declares, and what they name is there."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(text: str) -> dict[str, list[str]]:
    """Name -> its versions (several where systems or Pythons differ). Raises: ValueError for a line without a version or without a hash."""
    found: dict[str, list[str]] = {}
    for entry in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        match = re.match(r"([a-z0-9._-]+)==([0-9][0-9a-z.]*)( ; [^#]+?)? --hash=sha256:[0-9a-f]{64}", entry)
        if match is None:
            raise ValueError(f"{entry[:80]!r} is not locked")
        found.setdefault(match[1], []).append(match[2])
    return found


def numbers(version: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", version)]


def wanted(extras: set[str]) -> dict[str, str]:
    """Name -> lowest version, of the package and these extras, with the extras that they name."""
    lines, left, seen = list(PROJECT["dependencies"]), list(extras), set()
    while left:
        extra = left.pop()
        seen.add(extra)
        for line in PROJECT["optional-dependencies"][extra]:
            if line.startswith("preimage["):
                left += set(re.findall(r"\w+", line.removeprefix("preimage"))) - seen
            else:
                lines.append(line)
    return {name.lower().replace("_", "-"): lowest for name, lowest in (line.split(">=") for line in lines)}


@pytest.mark.parametrize(("file", "extra"), [("dev.txt", "dev"), ("docs.txt", "docs")])
def test_the_lock_has_everything_that_is_declared_at_least_as_new(file: str, extra: str) -> None:
    found = locked((ROOT / "requirements" / file).read_text())
    for name, lowest in wanted({extra}).items():
        assert name in found, f"`make lock`: {name} is not in requirements/{file}"
        assert all(numbers(v) >= numbers(lowest) for v in found[name])


def test_both_locks_agree_and_name_no_host() -> None:
    dev, docs = (locked((ROOT / "requirements" / name).read_text()) for name in ("dev.txt", "docs.txt"))
    assert all(set(docs[name]) <= set(dev[name]) for name in docs.keys() & dev.keys())
    assert "://" not in (ROOT / "requirements" / "dev.txt").read_text() + (ROOT / "requirements" / "docs.txt").read_text()


def test_what_is_not_locked_is_seen() -> None:
    with pytest.raises(ValueError, match="not locked"):
        locked("numpy>=2 \\\n    --hash=sha256:" + "0" * 64)
    with pytest.raises(ValueError, match="not locked"):
        locked("numpy==2.4.6")


def test_make_test_installs_what_is_locked() -> None:
    rule = re.search(r"^\.venv/dev:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule is not None
    assert "--require-hashes -r requirements/dev.txt" in rule[1]
    assert "[dev]" not in rule[1]


def test_the_fuzzers_are_all_there_and_each_seed_has_cases_of_its_own() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "fuzz.py"))
    named = {ROOT / file for file, _, _ in tool["FUZZERS"]}
    there = {
        p for folder in ("io", "surface") for p in (ROOT / "tests" / folder).glob("*fuzz*.py") if "__main__" in p.read_text()
    }
    assert {p for p in there if not p.name.startswith("test_")} <= named
    assert all(p.is_file() for p in named)
    first, second = tool["commands"](1, 0.01), tool["commands"](2, 0.01)
    assert first[0] == [sys.executable, str(ROOT / "tests/io/fuzz_onnx.py"), "--count", "200", "--seed", "1000000"]
    assert all(a != b for a, b in zip(first[:-1], second[:-1], strict=True))
    assert max(count for _, _, count in tool["FUZZERS"]) < tool["APART"]
