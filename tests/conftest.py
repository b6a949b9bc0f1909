"""What all tests share: the engines that run here, as a parameter. One added to the registry is tested without a change here, but for those
that are not exact (`engines.INEXACT`), whose results are held to bounds by tests of their own.

Tests marked `simulated` take the GPU's kernels in simulation as one more engine. All the others do so by `make simulator`:
PREIMAGE_DEVICE=simulator python -m pytest --engine cuda
"""

from __future__ import annotations

import os
import sys
import zlib

# What the tests compare with runs on one thread unless a test says otherwise: two workers share the CPUs, and the idle threads of
# OpenBLAS and OpenMP wait by spinning, which takes several times the time of the work. To be set before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

import preimage as pre
from preimage import settings
from preimage.engines import INEXACT
from preimage.engines.cuda import simulate

os.environ["PREIMAGE_TUNING"] = "off"  # plans are tested as the model makes them, whatever was measured on this machine


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("preimage")
    group.addoption("--update-golden", action="store_true", help="write the files of tests/golden/ anew")
    group.addoption("--all-golden", action="store_true", help="compare all layers with tests/golden/, not every seventh")
    group.addoption("--engine", metavar="NAME", help="of the tests that take an engine, run this one's alone, and no others")


#: The name of the GPU's kernels in simulation, where no GPU, or no device, is chosen.
SIMULATED = "cuda, simulated"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine_name" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--engine")
        exact = [name for name, state in pre.engines().items() if state == "available" and name not in INEXACT]
        if metafunc.definition.get_closest_marker("simulated") and "cuda" not in exact and not simulate.unavailable():
            exact.append(SIMULATED)
        metafunc.parametrize("engine_name", [chosen] if chosen else exact)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--engine"):
        takes = {True: [], False: []}
        for item in items:
            takes["engine_name" in getattr(item, "fixturenames", ())].append(item)
        config.hook.pytest_deselected(items=takes[False])
        items[:] = takes[True]


@pytest.fixture
def engine(engine_name):
    """An available engine; operations run on it while the test lasts."""
    from preimage.engines import get

    settings = {"engine": "cuda", "device": "simulator"} if engine_name == SIMULATED else {"engine": engine_name}
    with pre.config(**settings):
        yield get(settings["engine"])


@pytest.fixture(autouse=True)
def _numbers_of_its_own(request, monkeypatch):
    """A module's shared generator starts anew for every test, from the test's name: what runs before, or beside, changes no data."""
    for module in filter(None, (request.module, sys.modules.get("caffe_nets"))):
        for name in ("NUMBERS", "RNG"):
            if isinstance(getattr(module, name, None), np.random.Generator):
                monkeypatch.setattr(module, name, np.random.default_rng(zlib.crc32(request.node.nodeid.encode())))


@pytest.fixture(autouse=True)
def _settings_of_its_own(monkeypatch):
    """What a test (a command that it runs in this process) sets for the process ends with it."""
    monkeypatch.setattr(settings, "_defaults", settings._defaults)
