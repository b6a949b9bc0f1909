"""`preimage info --check FOLDER`: which model files load, run and agree with the libraries that they were made for."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from preimage.cli import text
from preimage.cli.output import check_outputs, say_progress
from preimage.resources import parse_bytes

if TYPE_CHECKING:
    from preimage.bench.models import Verdict

__all__ = ["check_models"]

#: What one file may take.
MEMORY, SECONDS = 8 << 30, 180.0


def check_models(
    place: Path, memory: str | None, seconds: float | None, json_file: Path | None, markdown_file: Path | None, *, overwrite: bool
) -> None:
    """Try the files under a folder, or the models of a list (.toml); exit status 1 where one is not in order."""
    from preimage.bench.models import check_files, listed_subjects
    from preimage.bench.models.check import files_under
    from preimage.host import write_file
    from preimage.report.model_tables import check_markdown, print_check
    from preimage.report.terminal import Terminal

    check_outputs(json_file, markdown_file, overwrite=overwrite)
    subjects = listed_subjects(place) if place.suffix == ".toml" else files_under(place)
    console = Terminal(width=200)
    with console.status("starting") as status:
        verdicts = check_files(
            subjects,
            memory_bytes=MEMORY if memory is None else parse_bytes(memory, "--memory"),
            seconds=SECONDS if seconds is None else text.finite(seconds, "seconds"),
            progress=lambda verdict, done, total: say_progress(_line(verdict, done, total), status),
        )
    if json_file:
        write_file(json_file, json.dumps([asdict(v) for v in verdicts], indent=1), overwrite=overwrite)
    if markdown_file:
        check_markdown(verdicts, markdown_file, overwrite=overwrite)
    print_check(verdicts, console)
    if not all(verdict.in_order for verdict in verdicts):
        raise typer.Exit(1)


def _line(verdict: Verdict, done: int, total: int) -> str:
    return f"{done}/{total}  {verdict.name}: {'in order' if verdict.in_order else 'not in order'}"
