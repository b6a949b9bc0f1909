"""`preimage audit`: look for wrong values, bits, accesses and errors in our engines and in other libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["audit"]


def audit(
    subjects: Annotated[
        list[str] | None,
        typer.Argument(help="Engines, adapters (--list names them) or module:attribute of your own. Default: our engines."),
    ] = None,
    geometries: Annotated[int, typer.Option("--geometries", "-n", min=0, help="How many random geometries.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the geometries and of the data.")] = 0,
    cases: Annotated[
        list[Path] | None, typer.Option("--cases", help="A JSON file of geometries to check first; may be given again.")
    ] = None,
    checks: Annotated[str, typer.Option(help="Comma-separated: a part of the checks. Default: all.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Our engines and every adapter whose library is installed.")] = False,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=0, help="Processes; default one per CPU.")] = None,
    most_macs: Annotated[
        float, typer.Option("--most-macs", help="Multiply-adds above which a case of a file loses images or is left out.")
    ] = 4e9,
    shrink_seconds: Annotated[
        float, typer.Option("--shrink", min=0, help="Seconds to bring a failure down to the smallest.")
    ] = 5.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write the report as one HTML page with pictures.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="Name the subjects and checks, and end.")] = False,
) -> None:
    """Check convolutions against an integer oracle; exit status 1 if a subject fails."""
    from rich.console import Console

    from preimage import audit as audits
    from preimage.errors import PreimageError
    from preimage.report.audit import html_page, print_report, progress_bar

    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    try:
        if listing:
            for name in audits.subject_names():
                console.print(f"{name:28}{audits.make_subject(name).unavailable() or 'available'}", highlight=False, markup=False)
            console.print(f"checks: {', '.join(audits.check_names())}", highlight=False)
            return
        chosen = tuple(subjects or (audits.subject_names() if everything else audits.default_subjects()))
        wanted = tuple(c.strip() for c in checks.split(",") if c.strip()) or None
        with progress_bar(console) as progress:
            report = audits.run(
                chosen,
                geometries=geometries,
                seed=seed,
                files=cases or (),
                checks=wanted,
                jobs=jobs,
                most_macs=int(most_macs),
                shrink_seconds=shrink_seconds,
                progress=progress,
            )
    except PreimageError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        raise typer.Exit(2) from error
    print_report(report, console)
    if json_file is not None:
        json_file.write_text(json.dumps(report.to_json(), indent=1))
    if html_file is not None:
        html_file.write_text(html_page(report))
    if report.interrupted:
        raise typer.Exit(130)
    if not report.ok:
        raise typer.Exit(1)
