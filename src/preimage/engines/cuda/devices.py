"""The devices of this process by name, each made once: GPUs by number, and the simulator."""

from __future__ import annotations

from typing import Any

from preimage.engines.cuda.device import Device
from preimage.engines.cuda.driver import Gpu
from preimage.errors import EngineError
from preimage.locks import LOCK, import_apart

__all__ = ["device_of", "forget", "unavailable"]

_made: dict[str, Device] = {}


def device_of(name: str) -> Device:
    """The device of the setting `device`: "auto" (the first GPU), "cuda:1", "simulator".

    Raises: EngineError with the reason where it is not there.
    """
    name = "cuda:0" if name == "auto" else name
    found = _made.get(name)
    if found is None:
        simulate: Any = import_apart("preimage.engines.cuda.simulate") if name == "simulator" else None
        with LOCK:
            found = _made.get(name)
            if found is None:
                found = _made[name] = Gpu(int(name.removeprefix("cuda:"))) if simulate is None else simulate.Simulator()
    return found


def unavailable(name: str) -> str | None:
    """Why there is no such device, or None."""
    try:
        device_of(name)
    except EngineError as error:
        return str(error)
    return None


def forget() -> None:
    """Drop every device: for tests."""
    with LOCK:
        _made.clear()
