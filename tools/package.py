"""Builds wheel and sdist twice and says what is wrong with them: `python tools/package.py [FOLDER]`, or `make wheel`. Needs hatchling.

The bytes of both builds must be equal. The wheel holds the package and its metadata and nothing else; the sdist holds what it takes to
build and test, and nothing that a tool left.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BUILD = "import sys\nfrom hatchling import build\nprint(build.build_wheel(sys.argv[1]))\nprint(build.build_sdist(sys.argv[1]))\n"
#: Endings of what the package is made of.
WHEEL = (".py", ".pyi", ".json", ".gz", ".html", ".css", ".js", ".typed", ".md", ".txt")
_LEFT = ("__pycache__", ".pyc", ".venv", "_cache/", ".egg-info", "/build/", "/demo/", ".coverage")


def build(folder: Path) -> list[Path]:
    """Both files, built in a process of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1580601600"}
    command = [sys.executable, "-c", _BUILD, str(folder.resolve())]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return [folder / name for name in done.stdout.split()]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unwanted(path: Path) -> list[str]:
    """Entries of a wheel or an sdist that do not belong there."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        inside = [n for n in names if n.startswith("preimage/")]
        rest = [n for n in names if not n.startswith("preimage/") and ".dist-info/" not in n]
        return rest + [n for n in inside if not n.endswith(WHEEL) or any(word in n for word in _LEFT)]
    with tarfile.open(path) as archive:
        return [n for n in archive.getnames() if any(word in n for word in _LEFT)]


def main(folder: Path) -> list[str]:
    """What is wrong; the first build's files stay in `folder`."""
    wrong = []
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as second:
        for one, other in zip(build(folder), build(Path(second)), strict=True):
            if digest(one) != digest(other):
                wrong.append(f"{one.name}: two builds differ")
            wrong += [f"{one.name} holds {name}" for name in unwanted(one)]
            print(f"{one}: {one.stat().st_size:,} bytes, sha256 {digest(one)}")
    return wrong


if __name__ == "__main__":
    found = main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist")
    print("\n".join(found) or "all is well")
    sys.exit(bool(found))
