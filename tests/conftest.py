"""What all tests share: the engines that run here, as a parameter. One added to the registry is tested without a change here."""

from __future__ import annotations

import pytest

import preimage as pre


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine_name" in metafunc.fixturenames:
        metafunc.parametrize("engine_name", [name for name, state in pre.engines().items() if state == "available"])


@pytest.fixture
def engine(engine_name):
    """An available engine; operations run on it while the test lasts."""
    from preimage.engines import get

    with pre.config(engine=engine_name):
        yield get(engine_name)
