"""Objects shown in notebooks, and runs that say how far they are.

Classes of every floor can be shown; how, is known at the top (`preimage.report.notebook`). So a class derives from `Shown`, the root of the
package says who makes the HTML (`show_with`), and that is imported when a notebook first asks for it.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Shown", "progress_lines", "show_with"]

#: How many lines a run prints, the last one included.
LINES = 10

_make: Callable[[object], str | None] | None = None


def show_with(make: Callable[[object], str | None]) -> None:
    """Set the function that gives an object's HTML."""
    global _make
    _make = make


class Shown:
    """A class whose objects have a picture or table in notebooks; the row in `preimage.report.notebook` says which."""

    __slots__ = ()

    def _repr_html_(self) -> str | None:
        """HTML for Jupyter; None: the text of repr is shown."""
        return None if _make is None else _make(self)


def progress_lines(title: str) -> Callable[[int, int, str], None]:
    """A function that prints, called after every step with (done, total, what else there is to say), about ten lines in all.

    Plain lines: they stay readable in notebooks, files and logs, where a bar that moves fills pages.
    """
    last = [-1]

    def step(done: int, total: int, text: str) -> None:
        part = done * LINES // max(total, 1)
        if part > last[0] or done >= total:
            last[0] = part
            print(f"{title} {done:,} of {total:,}  {text}", flush=True)

    return step
