"""A place that one process at a time may write to: a locked file beside it, or in it. The lock ends with the process, however that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from preimage.errors import OptionError
from preimage.host.writing import failed, locked, still_there

__all__ = ["Claim", "alone"]


class Claim:
    """Holds a file, or a folder, until `release`. advice: what an error tells the second one to do.

    Raises: OptionError where another holds it; OutputError where no lock can lie there.
    """

    def __init__(self, path: str | Path, advice: str) -> None:
        self.path = Path(path)
        where = self.path.resolve()
        self._place = where / ".run.lock" if where.is_dir() else where.with_name(f".{where.name}.lock")
        while True:
            with failed(self.path):
                descriptor = os.open(self._place, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
            if locked(descriptor) is False:
                number = os.read(descriptor, 20).decode(errors="replace")
                os.close(descriptor)
                raise OptionError(f"{self.path} is in use by another run (process {number}): {advice}")
            if still_there(descriptor, self._place):
                break
            os.close(descriptor)
        self._descriptor: int | None = descriptor
        with failed(self.path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())

    def release(self) -> None:
        """Let others have it."""
        if self._descriptor is None:
            return
        with suppress(OSError):
            self._place.unlink()  # before the lock ends: whoever waits for this very file looks whether it is still there
        os.close(self._descriptor)
        self._descriptor = None


@contextmanager
def alone(path: str | Path, advice: str) -> Iterator[None]:
    """Inside the block no other run of this machine takes the same place. Raises: as Claim."""
    claim = Claim(path, advice)
    try:
        yield
    finally:
        claim.release()
