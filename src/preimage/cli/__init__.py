"""The command `preimage`: one table of commands; each lies in a module of this folder and is imported when it is called.

To add a command: write `cli/NAME.py` with a function whose parameters typer can read (or a `typer.Typer` for a command with
sub-commands), and add a row here. `preimage --help` imports none of them. A package that is missing becomes a message that
names the extra to install; an error of the library becomes one line, not a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import takewhile
from typing import Any, NamedTuple

__all__ = ["COMMANDS", "Command", "main"]


class Command(NamedTuple):
    """A row of the table: where the function lies, and its line in `preimage --help`."""

    place: str
    help: str


COMMANDS = {
    "learn": Command("preimage.cli.learn:learn", "Learn stencils from pictures, and rebuild the pictures with them."),
    "rebuild": Command(
        "preimage.cli.rebuild:rebuild", "Rebuild a picture with learned stencils: fill in masked pixels, denoise."
    ),
    "train": Command(
        "preimage.cli.train:train", "Train a net from a Python file or a Caffe solver; --resume goes on to the same bits."
    ),
    "explain": Command(
        "preimage.cli.explain:explain",
        "What a layer does, by options, in any library's words or out of a model: sizes, fields, flop, windows; an interactive page.",
    ),
    "draw": Command(
        "preimage.cli.draw:draw",
        "Pictures of a layer at work, as SVG, PNG, GIF or animated PNG: painting, gradients, matrices, ...",
    ),
    "audit": Command("preimage.cli.audit:audit", "Find wrong convolutions: in our engines, in installed libraries, in yours."),
    "bench": Command("preimage.cli.bench:bench", "Time layers on this library's engines and on installed peers."),
    "tune": Command("preimage.cli.tune:tune", "Measure the tiles that a layer could use, and keep the best for later calls."),
    "run": Command("preimage.cli.models:run", "Run an ONNX or Caffe model on pictures or arrays."),
    "convert": Command("preimage.cli.models:convert", "Convert a model to another format, and verify the result."),
    "info": Command("preimage.cli.models:info", "A model's layers: shapes, parameters, flop, memory, schedules."),
    "doctor": Command("preimage.cli.doctor:doctor", "What is installed, which engines run, and whether they compute exactly."),
    "cache": Command("preimage.cli.cache:cache", "Show or clear the compiled kernels that are kept on disk."),
}

#: Which extra brings a package that a command may need.
_EXTRAS = {
    "typer": "cli",
    "rich": "cli",
    "PIL": "cli",
    "matplotlib": "cli",
    "safetensors": "cli",
    "skimage": "demo",
    "onnx": "onnx",
    "scipy": "scipy",
    "ml_dtypes": "bfloat16",
    "nibabel": "data",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit the process.

    Exit status: 0; 1 it failed (a difference was found, the disk is full, no memory); 2 wrong usage or input; 70 a fault of ours;
    130 interrupted. Every failure is one line on the standard error; `preimage --traceback COMMAND ...` (or PREIMAGE_DEBUG=1)
    shows where it came from.
    """
    from preimage.cli.failures import exit_status, orderly_streams

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with orderly_streams():
        code = exit_status(lambda: _call(arguments), traceback=_wants_traceback(arguments), missing=_missing)
    sys.exit(code)


def _wants_traceback(arguments: Sequence[str]) -> bool:
    before = list(takewhile(lambda word: word.startswith("-"), arguments))
    level = os.environ.get("PREIMAGE_DEBUG", "").strip()  # what is no number gets its own error, in a line
    return "--traceback" in before or (level.isdecimal() and int(level) > 0)


def _call(arguments: Sequence[str]) -> Any:
    """Run the application; what it gives is an exit status, or None."""
    return _app(arguments)(args=list(arguments) or ["--help"], prog_name="preimage", standalone_mode=False)


def _app(arguments: Sequence[str]) -> Any:
    """The typer application: the command that is called, the others by their line of help alone."""
    import typer

    app = typer.Typer(
        help="Convolution and transposed convolution that you can check.",
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def top(
        version: bool = typer.Option(False, "--version", help="Print the version and exit."),
        traceback: bool = typer.Option(False, "--traceback", help="Show where an error comes from."),
    ) -> None:
        if version:
            from preimage import __version__

            print(f"preimage {__version__}")
            raise typer.Exit

    called = next((word for word in arguments if not word.startswith("-")), None)
    for name, row in COMMANDS.items():
        command = _load(row.place) if name == called else _named
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, help=row.help)
        else:
            app.command(name, short_help=row.help)(command)
    return app


def _named() -> None:
    """Stands in the list of commands for one that is not called."""


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _missing(error: ModuleNotFoundError) -> str | None:
    """The message for a package of ours that is not installed; None for another module."""
    package = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(package)
    return extra and f"this needs the package {package!r}, which is not installed: pip install 'preimage[{extra}]'"
