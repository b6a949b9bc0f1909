"""Docstrings as Markdown, and the examples of docs/reference/examples/ for names whose docstring has none.

A docstring of this library is a sentence, paragraphs, and sections of the form `Shapes: text`, continued on indented lines. On the
site a section's word is a bold term, and what follows `Example:` is a block of code.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

__all__ = ["ROOT", "examples", "markdown"]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "reference" / "examples"
_SECTION = re.compile(r"^([A-Z][A-Za-z ,-]{2,30}|[a-z_][a-z_0-9]*(?:, [a-z_][a-z_0-9]*)*): ?(.*)$")


def examples() -> dict[str, str]:
    """Full name -> doctest. A file holds the names of the module that it is called after, under `## name`."""
    found: dict[str, str] = {}
    for file in sorted(EXAMPLES.glob("*.txt")):
        for part in re.split(r"^## ", file.read_text(), flags=re.MULTILINE)[1:]:
            names, _, code = part.partition("\n")
            found |= {f"{file.stem}.{name.strip()}": code.strip() for name in names.split(",")}
    return found


def markdown(text: str) -> str:
    """A docstring (clean, as `inspect.cleandoc` gives it) as Markdown."""
    out: list[str] = []
    lines = text.splitlines()
    position = 0
    while position < len(lines):
        line = lines[position]
        if line.lstrip().startswith(">>>"):
            block, position = _indented(lines, position, len(line) - len(line.lstrip()))
            out += ["", "```pycon", *block, "```", ""]
            continue
        if line.startswith("    ") and (not out or not out[-1].strip()):
            block, position = _indented(lines, position, 4)  # a formula, a table in plain text
            out += ["```text", *block, "```", ""]
            continue
        match = _SECTION.match(line)
        if position == 0:
            match = None  # the first line says what it is
        if match and match.group(1) in ("Example", "Examples"):
            out += ["", "**Example**", ""]
        elif match:
            out += ["", f"**{match.group(1)}:** {_inline(match.group(2))}".rstrip()]
        else:
            out.append(_inline(line.strip()))
        position += 1
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()


def _indented(lines: list[str], start: int, margin: int) -> tuple[list[str], int]:
    """The lines from `start` that are indented by the margin at least, or empty inside of such; and where they end."""
    end = start
    while end < len(lines) and (not lines[end].strip() or lines[end].startswith(" " * margin)):
        if not lines[end].strip() and not (end + 1 < len(lines) and lines[end + 1].startswith(" " * margin) and margin):
            break
        end += 1
    return [inspect.cleandoc("\n" + "\n".join(lines[start:end]))], end


def _inline(text: str) -> str:
    """A line in which stars, underscores, angle and square brackets outside of `code` are plain characters."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if k % 2 else re.sub(r"([*_<\[\]{}|$])", r"\\\1", p) for k, p in enumerate(parts))
