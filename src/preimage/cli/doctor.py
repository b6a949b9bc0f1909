"""`preimage doctor`: what is installed, which engines run, and whether they compute what they should on this machine."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["doctor"]

#: Distribution -> the extra that brings it.
_PACKAGES = {
    "typer": "cli", "rich": "cli", "pillow": "cli", "matplotlib": "cli", "safetensors": "cli", "scikit-image": "demo", "onnx": "onnx",
    "h5py": "hdf5", "scipy": "scipy", "ml_dtypes": "bfloat16",
}  # fmt: skip
_WIDTH = 22


def doctor(
    geometries: Annotated[
        int, typer.Option("--geometries", "-n", min=1, help="How many random layers each engine must compute exactly.")
    ] = 12,
) -> None:
    """Say what is here, and check every engine against integer arithmetic; exit status 1 if something does not work."""
    from preimage.report.terminal import Terminal

    console = Terminal(soft_wrap=True)

    def say(name: str, value: object) -> None:
        console.print(f"{name:{_WIDTH}} {value}")

    for name, value in _process():
        say(name, value)
    for package, extra in _PACKAGES.items():
        say(package, _version(package) or f"not installed: pip install 'preimage[{extra}]'")
    wrong = 0
    for name, value, fine in _engines(geometries):
        say(f"engine {name}", value)
        wrong += not fine
    console.print("something is wrong" if wrong else "all is well")
    if wrong:
        raise typer.Exit(1)


def _process() -> list[tuple[str, Any]]:
    """This process and its machine."""
    import preimage
    from preimage.bench.machine import describe
    from preimage.settings import thread_count

    machine = describe()
    rows: list[tuple[str, Any]] = [
        ("preimage", f"{preimage.__version__} in {Path(preimage.__file__).parent}"),
        ("python", f"{machine['python']} in {sys.prefix}"),
        ("numpy, llvmlite", f"{_version('numpy')}, {_version('llvmlite')}"),
        ("system", f"{machine['system']}, {machine['machine']}"),
        ("cpu", machine["cpu"]),
        ("code is made for", machine["target"]),
        ("denormal numbers", machine["denormals"]),
        ("threads", f"{thread_count()} of {machine['cpus']} CPUs"),
        ("kernel cache", _cache()),
    ]
    return rows + [(name, value) for name, value in sorted(os.environ.items()) if name.startswith("PREIMAGE_")]


def _cache() -> str:
    from preimage.engines.disk_cache import cache_report

    report = cache_report()
    if report["folder"] is None:
        return f"none on disk: {report['refused']}"
    return f"{report['folder']}: {report['files']} kernels, {report['size_bytes'] / 2**20:.1f} MiB"


def _engines(geometries: int) -> list[tuple[str, str, bool]]:
    """(name, what to say, whether it works) of every engine. One that cannot run here is no fault, unless it is the default."""
    from preimage import audit
    from preimage.engines import engines

    rows = []
    for name, state in engines().items():
        if state != "available":
            rows.append((name, state, name != "jit"))
            continue
        report = audit.run(
            [name], geometries=geometries, checks=["exact", "identities"], jobs=0, shrink_seconds=0, steer_seconds=0
        )
        found = f"{len(report.findings)} wrong, first: {report.findings[0].message}" if report.findings else "all exact"
        rows.append((name, f"available; {geometries} random layers: {found}", report.ok))
    return rows


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
