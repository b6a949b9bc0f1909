"""`preimage cache`: the compiled kernels that are kept on disk."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["cache"]


def cache(clear: Annotated[bool, typer.Option("--clear", help="Remove every stored kernel.")] = False) -> None:
    """Show where compiled kernels are kept and how many, or clear them."""
    from preimage.engines.disk_cache import cache_report
    from preimage.engines.disk_cache import clear as clear_cache
    from preimage.report.terminal import Terminal

    console = Terminal(soft_wrap=True)
    if clear:
        console.print(f"{clear_cache()} stored kernels removed")
        return
    report = cache_report()
    if report["folder"] is None:
        console.print(f"no cache on disk: {report['refused']}")
        return
    used, limit = report["size_bytes"] / 2**20, report["limit_bytes"] / 2**20
    console.print(f"{report['folder']}\n{report['files']} kernels, {used:.1f} MiB of at most {limit:.0f} MiB")
