"""Text from strangers (names in files, file names, messages of other libraries) made fit to be shown."""

from __future__ import annotations

import html as _html
import re

__all__ = ["html", "printable"]

#: Control characters (ESC and the C1 codes drive a terminal), marks that turn the direction of text or are invisible, line
#: separators, halves of surrogate pairs (bytes of a file name that are no UTF-8), characters that no standard names.
_UNFIT = (
    "\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\U000e0000-\U000e0fff"
)
_ALL = re.compile(f"[{_UNFIT}]")
_IN_LINES = re.compile(f"(?!\n)[{_UNFIT}]")


def printable(text: object, *, lines: bool = False, most: int | None = None) -> str:
    r"""`str(text)` with every character that could act instead of being shown written as an escape: ESC becomes `\x1b`.

    lines: line ends stay. most: a longer text is cut there, and says so.

    For a table or a message of rich switch markup off as well; in a page use `html`.
    """
    said = str(text)
    if most is not None and len(said) > most:
        said = f"{said[:most]}... ({len(said)} characters)"
    return (_IN_LINES if lines else _ALL).sub(_escaped, said)


def html(text: object) -> str:
    """Text from strangers inside HTML, also inside quoted attributes: printable, and escaped."""
    return _html.escape(printable(text), quote=True)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    named = {9: r"\t", 10: r"\n", 13: r"\r"}.get(code)
    return named or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}")
