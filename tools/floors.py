"""The lowest versions that pyproject.toml declares: an environment that has exactly those, and a part of the suite run in it.

    python tools/floors.py                  # the versions, as constraints for pip
    python tools/floors.py --try FOLDER     # make the environment in the folder (or take what is there) and run the tests; their exit status

What these packages need in turn, and what only develops (pytest), is at its newest: so would a user have them who installs today. Their
warnings of each other's deprecations are no failure.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Extras whose packages a user's code runs on.
EXTRAS = ("cli", "demo", "onnx", "bfloat16", "scipy")
#: The commands, pictures, weights and model files, arrays of every dtype, operators, and what the README shows.
TESTS = (
    "tests/cli", "tests/io/test_pictures.py", "tests/io/test_budget.py", "tests/io/test_onnx.py", "tests/io/test_export_modules.py",
    "tests/test_adjoint.py", "tests/test_linop.py", "tests/test_readme.py",
)  # fmt: skip
#: Read the test data inside the onnx package, of which every version has its own.
LEFT_OUT = "not backend"


def floors(text: str) -> dict[str, str]:
    """The lowest version of each package, by name, out of the text of pyproject.toml. Raises: ValueError where one has none."""
    project = tomllib.loads(text)["project"]
    declared = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    found: dict[str, str] = {}
    for line in declared:
        if line.startswith("preimage"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9][0-9.]*)", line)
        if match is None:
            raise ValueError(f"{line!r} declares no lowest version")
        found[match[1]] = match[2]
    return found


def try_out(folder: Path, versions: dict[str, str], tests: Sequence[str]) -> int:
    """Make the environment and run the tests in it; their exit status."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
    wanted = ["-e", f"{ROOT}[{','.join(EXTRAS)}]", "pytest", "hypothesis"]
    subprocess.run([str(python), "-m", "pip", "install", "-q", "-c", str(constraints), *wanted], check=True)
    run = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning", "-k", LEFT_OUT, *tests]
    return subprocess.run(run, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--try", dest="folder", type=Path, help="the environment's folder")
    parser.add_argument("tests", nargs="*", default=TESTS, help="test files; default: those of this file")
    options = parser.parse_args()
    versions = floors((ROOT / "pyproject.toml").read_text())
    for name, version in versions.items():
        print(f"{name}=={version}", flush=True)
    return 0 if options.folder is None else try_out(options.folder, versions, options.tests)


if __name__ == "__main__":
    sys.exit(main())
