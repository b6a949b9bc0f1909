"""The subjects by name. A subject is one file and one row here; foreign libraries are imported when their subject is made.

A name may also be "module:attribute", of a module that is installed or lies in the current folder: an object with the three
contractions, or a class or function that gives one.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from preimage.audit.subjects.base import Subject
from preimage.audit.subjects.engine import EngineSubject, ObjectSubject
from preimage.engines import names as engine_names
from preimage.errors import OptionError

__all__ = ["EngineSubject", "ObjectSubject", "Subject", "make", "names"]

_PACKAGE = "preimage.audit.subjects"
#: Engines as accuracy="fast" has them.
_FAST = {"jit-fast": "jit"}
_FOREIGN: dict[str, tuple[str, dict[str, Any]]] = {
    "torch": (f"{_PACKAGE}.torch:TorchSubject", {}),
    "torch-channels-last": (f"{_PACKAGE}.torch:TorchSubject", {"layout": "channels_last"}),
    "torch-deconv": (f"{_PACKAGE}.torch:TorchSubject", {"way": "deconv"}),
    "torch-deconv-channels-last": (f"{_PACKAGE}.torch:TorchSubject", {"layout": "channels_last", "way": "deconv"}),
    "onnxruntime": (f"{_PACKAGE}.onnxruntime:OnnxruntimeSubject", {}),
    "jax": (f"{_PACKAGE}.jax:JaxSubject", {}),
    "tensorflow": (f"{_PACKAGE}.tensorflow:TensorflowSubject", {}),
    "opencv": (f"{_PACKAGE}.opencv:OpencvSubject", {}),
    "scipy": (f"{_PACKAGE}.scipy:ScipySubject", {}),
    "scipy-fft": (f"{_PACKAGE}.scipy:ScipySubject", {"method": "fft"}),
}


def names() -> tuple[str, ...]:
    """Our engines, preferred first, then the adapters."""
    return (*engine_names(), *_FAST, *_FOREIGN)


def make(what: Any) -> Subject:
    """The subject of a name, of "module:attribute", or around an object with the three contractions.

    Raises: OptionError for an unknown name, or an object that has none of the contractions.
    """
    if isinstance(what, Subject):
        return what
    if not isinstance(what, str):
        return _around(what, None)
    if what in engine_names():
        return EngineSubject(what)
    if what in _FAST:
        return EngineSubject(what, _FAST[what])
    if what in _FOREIGN:
        row, options = _FOREIGN[what]
        module, _, kind = row.partition(":")
        subject: Subject = getattr(import_module(module), kind)(what, **options)
        return subject
    module, colon, attribute = what.partition(":")
    if not colon:
        raise OptionError(f"no subject is called {what!r}; there are {', '.join(names())}, and module:attribute for your own")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # behind what is installed: a file of a library's name must not take its place
    try:
        target = getattr(import_module(module), attribute)
    except Exception as error:  # whatever the module raises
        raise OptionError(f"{what!r} cannot be imported (installed modules and {here} were looked at): {error}") from error
    if isinstance(target, type) or not _contractions(target):
        try:
            target = target()
        except Exception as error:  # whatever it raises
            kind = type(error).__name__
            raise OptionError(
                f"{what!r} has none of the contractions, and cannot be called for an object that has: {kind}: {error}"
            ) from error
    return _around(target, what)


def _contractions(target: Any) -> list[str]:
    return [r for r in ("conv", "conv_transpose", "conv_weight_grad") if callable(getattr(target, r, None))]


def _around(target: Any, spec: str | None) -> Subject:
    if isinstance(target, Subject):
        return target
    if not _contractions(target):
        raise OptionError(f"{target!r} has none of conv, conv_transpose, conv_weight_grad")
    return ObjectSubject(target, spec)
