"""`preimage audit`: look for wrong values, bits, accesses and errors in our engines and in other libraries."""

from __future__ import annotations

import json
import os
import signal
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preimage.cli import text
from preimage.cli.output import check_outputs
from preimage.errors import OptionError, OutputError
from preimage.host import write_file

if TYPE_CHECKING:
    from preimage.audit import Report

__all__ = ["audit"]

_WHAT, _HOW, _OUT = "What is checked", "How it runs", "What it writes"
#: Contractions that have cases and a definition of their own: the engine in force, every element, in this process.
_KINDS = {
    "products": ("preimage.audit.products", "matrix products beside their definition"),
    "integers": (
        "preimage.audit.integers",
        "products, convolutions and transposed ones of 8-bit integers beside their definition",
    ),
}


def audit(
    context: typer.Context,
    subjects: Annotated[
        list[str] | None,
        typer.Argument(
            help="Engines, adapters (--list names them) or module:attribute of your own (the current folder is looked in); "
            "or products, integers: other contractions of the engine in force. Default: our engines."
        ),
    ] = None,
    geometries: Annotated[
        int | None,
        typer.Option("--geometries", "-n", min=0, help="How many random geometries. Default: 2000.", rich_help_panel=_WHAT),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the geometries and of the data.", rich_help_panel=_WHAT)] = 0,
    cases: Annotated[
        list[Path] | None,
        typer.Option("--cases", help="A JSON file of geometries to check first; may be given again.", rich_help_panel=_WHAT),
    ] = None,
    near: Annotated[
        int, typer.Option(min=0, help="For each geometry of the files, so many with a number changed.", rich_help_panel=_WHAT)
    ] = 0,
    checks: Annotated[
        str,
        typer.Option(
            help="Comma-separated: a part of the checks. Default: all. rounding: figures too.",
            rich_help_panel=_WHAT,
        ),
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Our engines and every adapter whose library is installed.", rich_help_panel=_WHAT)
    ] = False,
    exhaustive: Annotated[
        bool,
        typer.Option(
            "--exhaustive", help="Every geometry of one axis up to some sizes, instead of random ones.", rich_help_panel=_WHAT
        ),
    ] = False,
    most_macs: Annotated[
        float,
        typer.Option(
            "--most-macs", help="Multiply-adds above which a case of a file loses images or is left out.", rich_help_panel=_WHAT
        ),
    ] = 4e9,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=0, help="Processes; default one per CPU.", rich_help_panel=_HOW)
    ] = None,
    shrink_seconds: Annotated[
        float, typer.Option("--shrink", min=0, help="Seconds to bring a failure down to the smallest.", rich_help_panel=_HOW)
    ] = 5.0,
    steer_seconds: Annotated[
        float,
        typer.Option("--steer", min=0, help="Seconds to search for cases of rare decisions; 0: none.", rich_help_panel=_HOW),
    ] = 30.0,
    state: Annotated[
        Path | None,
        typer.Option(help="A long run: keep it in this file, and go on from it where it is there.", rich_help_panel=_HOW),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Print how far the run of --state is, and end.", rich_help_panel=_HOW)
    ] = False,
    coverage: Annotated[
        bool,
        typer.Option("--coverage", help="Print how many cases took each decision of the planners.", rich_help_panel=_OUT),
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.", rich_help_panel=_OUT)] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write the report as one HTML page with pictures.", rich_help_panel=_OUT)
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write a conformance pack into this folder, and end: -n cases (default 300) with exact integer answers as .npz and JSON, "
            "for any language.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.", rich_help_panel=_OUT)] = False,
    listing: Annotated[bool, typer.Option("--list", help="Name the subjects and checks, and end.", rich_help_panel=_OUT)] = False,
) -> None:
    """Check convolutions against an integer oracle; exit status 1 if a subject fails."""
    from preimage import audit as audits
    from preimage.report.audit import console_for, print_report, print_status

    console = console_for()
    if listing or export is not None:  # --status is asked behind the command of a long run, subjects and all
        text.no_stray(subjects, "--list and --export check no subjects")
    if listing:
        _list(console)
        return
    if export is not None:
        _export(export, 300 if geometries is None else geometries, seed, overwrite, console)
        return
    geometries = 2000 if geometries is None else geometries
    if kinds := [name for name in subjects or () if name in _KINDS]:
        text.no_stray([name for name in subjects or () if name not in _KINDS], f"{kinds[0]} is audited apart from subjects")
        text.no_stray(_said(context, {"subjects", "geometries", "seed"}), f"{kinds[0]} takes -n and --seed")
        if sum([import_module(_KINDS[name][0]).differing(seed, geometries) for name in kinds]):
            raise typer.Exit(1)
        return
    for name, value in (("--most-macs", most_macs), ("--shrink", shrink_seconds), ("--steer", steer_seconds)):
        if not (isfinite(value) and value >= 0):
            raise OptionError(f"{name} is {value}; wanted a number from 0 on")
    if status:
        if state is None:
            raise OptionError("--status is about a long run: name its file with --state")
        print_status(audits.State.read(state), console)
        return
    check_outputs(json_file, html_file, overwrite=overwrite)
    chosen = tuple(subjects or (audits.subject_names() if everything else audits.default_subjects()))
    if exhaustive:
        if state is not None or cases:
            raise OptionError("--exhaustive goes through a world of its own: it takes neither --cases nor --state")
        report = _exhaustive(chosen, jobs, shrink_seconds, console)
    else:
        wanted = tuple(c.strip() for c in checks.split(",") if c.strip()) or None
        given: dict[str, Any] = {
            "geometries": geometries, "seed": seed, "files": cases or (), "near": near, "checks": wanted, "jobs": jobs,
            "most_macs": int(most_macs), "shrink_seconds": shrink_seconds, "steer_seconds": steer_seconds, "state": state,
        }  # fmt: skip
        report = _run(chosen, given, console)
        if wanted is not None and "rounding" in wanted and not report.interrupted:
            report.accuracy = audits.accuracy(list(dict.fromkeys([*chosen, *audits.PEERS])))
    print_report(report, console, coverage=coverage)
    _write(report, json_file, html_file, overwrite)
    if report.interrupted:
        raise typer.Exit(130)
    if not report.ok:
        raise typer.Exit(1)


def _said(context: typer.Context, but: set[str]) -> list[str]:
    """The options, except some, that stand on the command line."""
    found = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in but and source is not None and source.name == "COMMANDLINE":
            found.append(parameter.opts[0])
    return found


def _list(console: Any) -> None:
    from preimage import audit as audits

    for name in audits.subject_names():
        console.print(f"{name:28}{audits.make_subject(name).unavailable() or 'available'}", highlight=False, markup=False)
    for name, (_, words) in _KINDS.items():
        console.print(f"{name:28}{words}", highlight=False, markup=False)
    console.print(f"checks: {', '.join(audits.check_names())}", highlight=False)


def _export(place: Path, count: int, seed: int, overwrite: bool, console: Any) -> None:
    from preimage.audit.export import pack
    from preimage.host.folders import NewFolder

    if os.path.lexists(place) and not (overwrite and _is_pack(place)):
        what = (
            "is there already and is no conformance pack"
            if overwrite
            else "is there already (--overwrite replaces a conformance pack)"
        )
        raise OutputError(f"{place}: {what}")
    folder = NewFolder(place)
    try:
        for name, content in pack(count, seed):
            write_file(folder.path / name, content, overwrite=False)
        folder.finish()
    finally:
        folder.close()
    console.print(f"{count} cases: {place}", highlight=False, markup=False)


def _is_pack(place: Path) -> bool:
    """Whether a folder holds nothing but the files of a pack."""
    names = {entry.name for entry in place.iterdir()} if place.is_dir() and not place.is_symlink() else set()
    return "index.json" in names and all(
        n in ("index.json", "README.md") or (n[:5] == "case_" and n[-4:] == ".npz") for n in names
    )


def _run(subjects: tuple[str, ...], given: dict[str, Any], console: Any) -> Report:
    """Random geometries and those of files. A long run that receives a signal to end writes its file first."""
    from preimage import audit as audits
    from preimage.report.audit import progress_bar, progress_lines

    show = progress_bar if console.is_terminal or given["state"] is None else progress_lines
    before = signal.getsignal(signal.SIGTERM)
    if given["state"] is not None:
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        with show(console) as progress:
            return audits.run(subjects, progress=progress, **given)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: Any) -> None:
    del number, frame
    raise KeyboardInterrupt


def _exhaustive(subjects: tuple[str, ...], jobs: int | None, shrink_seconds: float, console: Any) -> Report:
    from preimage.audit.exhaustive import exhaust
    from preimage.audit.workers import pick_jobs
    from preimage.report.audit import progress_bar

    with progress_bar(console, "sizes and kernels") as progress:
        return exhaust(subjects, jobs=pick_jobs(jobs), shrink_seconds=shrink_seconds, progress=progress)


def _write(report: Report, json_file: Path | None, html_file: Path | None, overwrite: bool) -> None:
    from preimage.report.audit_page import html_page

    if json_file is not None:
        write_file(json_file, json.dumps(report.to_json(), indent=1), overwrite=overwrite)
    if html_file is not None:
        write_file(html_file, html_page(report), overwrite=overwrite)
