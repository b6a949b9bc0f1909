"""Where text from strangers meets a terminal: a console that shows what it is given and nothing else.

Names of layers, files and outputs come from files. Written raw, `[/red]` is markup of rich and ESC codes drive the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.text import Text

from preimage.host import printable

__all__ = ["Terminal", "markup"]


def markup(text: object) -> str:
    """Text from strangers inside a text with rich's markup, where a tag may follow it."""
    said = printable(text)
    body = said.rstrip("\\")
    return escape(body) + "\\" * (2 * (len(said) - len(body)))


class Terminal(Console):
    """rich's Console, with markup, emoji codes and highlighting off unless asked for, and no control character let through.

    width: of the lines where the output is no terminal (a file, a pipe); None: rich's own choice. error: to the standard error.
    """

    def __init__(
        self,
        *,
        width: int | None = None,
        error: bool = False,
        file: IO[str] | None = None,
        soft_wrap: bool = False,
        **options: Any,
    ) -> None:
        options = {"markup": False, "emoji": False, "highlight": False} | options
        super().__init__(stderr=error, file=file, soft_wrap=soft_wrap, **options)
        if width is not None and not self.is_terminal:
            self.width = width

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as rich's Text; escaped here already, so that tables are as wide as what they show."""
        return super().render_str(printable(text, lines=True), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable, with what is not printable escaped: the last gate, behind which no name is foreign."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                text = printable(segment.text, lines=True)
                yield segment if text == segment.text else Segment(text, segment.style, segment.control)
