"""How a command ends: every failure becomes one line on the standard error and an exit status. The last resort for all commands."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from traceback import print_exc
from typing import Any

from preimage.errors import PreimageError
from preimage.host import printable

__all__ = ["FAILED", "FAULT", "INTERRUPTED", "WRONG", "exit_status", "orderly_streams"]

FAILED, WRONG, FAULT, INTERRUPTED = 1, 2, 70, 130
#: Failures of the machine and not of what was asked.
_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


def exit_status(call: Callable[[], Any], *, traceback: bool, missing: Callable[[ModuleNotFoundError], str | None]) -> int:
    """Run `call` and give its exit status; what it raises is said in a line. `missing` words a package that is not installed."""
    try:
        code = call()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED if end.code else 0
    except BrokenPipeError:  # the reader of our output went away (`preimage ... | head`): not worth a word
        _give_up_output()
        return FAILED
    except (Exception, KeyboardInterrupt) as error:
        status, message = _worded(error, missing)
        with suppress(OSError, ValueError, AttributeError):
            if traceback:
                print_exc(file=sys.stderr)
            print(printable(message, lines=True), file=sys.stderr, flush=True)
        if isinstance(error, OSError):
            _give_up_output()
        return status


def _worded(error: BaseException, missing: Callable[[ModuleNotFoundError], str | None]) -> tuple[int, str]:
    """The exit status of an error, and its line."""
    kind = type(error).__name__
    if isinstance(error, KeyboardInterrupt) or kind == "Abort":
        return INTERRUPTED, "interrupted"
    if isinstance(error, PreimageError):
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        of_the_machine = isinstance(error, MemoryError) or getattr(error, "errno", None) in _OF_THE_MACHINE
        status = FAILED if of_the_machine else WRONG
        return status, f"error: {error}{notes}"
    if hasattr(error, "format_message"):  # typer's: of its own, or of the package click
        return WRONG, _usage(error)
    if isinstance(error, ModuleNotFoundError) and (message := missing(error)):
        return WRONG, f"error: {message}"
    if isinstance(error, MemoryError):
        return FAILED, "error: there is not enough memory for this"
    if isinstance(error, OSError):
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        return FAILED, f"error: {place}{error.strerror or error}"
    text = " ".join(str(error).split())
    return FAULT, f"error: {kind}: {text} (a fault of preimage; `preimage --traceback ...` shows where: please report it)"


def _usage(error: Any) -> str:
    """A wrong call: how the command is called, and what was wrong."""
    context = getattr(error, "ctx", None)
    usage = f"{context.get_usage()}\nTry '{context.command_path} --help'.\n" if context is not None else ""
    return f"{usage}error: {error.format_message()}"


@contextmanager
def orderly_streams() -> Iterator[None]:
    """Output that cannot fail over a character, exists even where it was closed, and shows a warning as one line."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller: `preimage ... >&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - it stays open until the process ends
        elif hasattr(stream, "reconfigure"):
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = _warned
        yield


def _warned(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    with suppress(OSError, ValueError, AttributeError):
        print(printable(f"warning: {message}"), file=sys.stderr)


def _give_up_output() -> None:
    """Let what is still in the buffers go: the interpreter would complain as it ends."""
    with suppress(OSError, ValueError, AttributeError):
        sink = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(sink, sys.stdout.fileno())
        finally:
            os.close(sink)
