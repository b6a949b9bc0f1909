"""LLVM for the two places where the engine's kernels run: `ptx` writes for GPUs with it, `simulate` for this CPU."""

from __future__ import annotations

from typing import Any

from preimage.errors import EngineError
from preimage.locks import LOCK, import_apart

__all__ = ["binding_with"]


def binding_with(what: str, *initialisers: str) -> Any:
    """llvmlite's binding after these of its functions were called. Raises: EngineError naming `what` needs it, where it cannot be imported."""
    try:
        binding = import_apart("llvmlite.binding")
    except ImportError as error:  # pragma: no cover - llvmlite is a dependency of the package
        raise EngineError(f"{what} needs llvmlite, which cannot be imported: {error}") from error
    with LOCK:
        for name in initialisers:
            getattr(binding, name)()
    return binding
