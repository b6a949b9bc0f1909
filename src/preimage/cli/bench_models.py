"""`preimage bench --model FILE ...`, `--models LIST`: whole models, ours beside installed peers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from preimage.cli import text
from preimage.cli.output import say_progress
from preimage.errors import OptionError

__all__ = ["bench_models"]


def bench_models(
    files: Sequence[Path], listed: Path | None, only: Sequence[str], *, install: bool, peers: str, pythons: Sequence[str], threads: str,
    cpu: bool, rounds: int, outputs: tuple[Path | None, Path | None], overwrite: bool,
) -> None:  # fmt: skip
    """Measure, print the tables and write the files; with `install`, only bring the list's files here."""
    from preimage.bench.models import ModelProtocol, listed_subjects, run_models, subject_of
    from preimage.report.model_tables import print_models, write_models_markdown
    from preimage.report.terminal import Terminal

    console = Terminal(width=200)
    if install:
        _install(listed)
        return
    counts = text.threads(threads)
    subjects = [*map(subject_of, files), *(listed_subjects(listed, only) if listed else [])]
    with console.status("starting") as status:
        run = run_models(
            subjects,
            tuple(name for name in peers.split(",") if name),
            threads=counts,
            protocol=ModelProtocol(rounds=rounds, cpu=cpu),
            pythons=_pythons(pythons),
            progress=lambda rows, done, total: say_progress(f"{done}/{total}  {rows[0].model}", status),
        )
    json_file, markdown_file = outputs
    if json_file:
        run.save(json_file, overwrite=overwrite)
    if markdown_file:
        write_models_markdown(run, markdown_file, overwrite=overwrite)
    print_models(run, console)
    if any(row.contestant == "preimage" and row.error for row in run.rows):
        raise typer.Exit(1)


def _install(listed: Path | None) -> None:
    from preimage.bench.models import install
    from preimage.host import printable

    if listed is None:
        raise OptionError("--install wants the list: --models benchmarks/models.toml")
    problems = install(listed, lambda line: print(printable(line)))
    for problem in problems:
        print(printable(f"not installed: {problem}"))
    if problems:
        raise typer.Exit(1)


def _pythons(given: Sequence[str]) -> dict[str, str]:
    """The interpreters of contestants, by name."""
    from preimage.bench.models.contest import CONTESTANTS

    found = {}
    for each in given:
        name, _, path = each.partition("=")
        if name not in CONTESTANTS or not path:
            raise OptionError(f"--python wants NAME=INTERPRETER with a name out of {', '.join(CONTESTANTS)}, got {each!r}")
        found[name] = path
    return found
