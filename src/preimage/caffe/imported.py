"""The class of a Python layer, imported by the name that the net says, as pycaffe does."""

from __future__ import annotations

import importlib
from typing import Any

from preimage.io.caffe.wire.message import Message

__all__ = ["imported"]


def imported(message: Message) -> Any:
    """What python_param names, None where the module has no such name. Runs the module: for nets that are trusted. Raises what that raises."""
    return getattr(importlib.import_module(message.python_param.module), message.python_param.layer, None)
