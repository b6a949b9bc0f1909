"""Builds the site: `make site`, or `python tools/site/build.py [FOLDER]`; the pages lie in FOLDER/html (build/site/html) and need no server.

docs/ is copied, links that lead out of it are made to lead to the repository (or are plain words where its address is not known),
the reference is written beside it from the docstrings, and Sphinx makes pages of it; any warning is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from docstrings import ROOT
from reference import pages

DOCS = ROOT / "docs"
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(^ *```.*?^ *```|`(?!\])[^`\n]+`(?!\]))", re.MULTILINE | re.DOTALL)
#: What a page links to inside docs/ that Sphinx copies or makes a page of.
_SHOWN = (".md", ".svg", ".png", ".gif")


def repository() -> str:
    """Where the sources can be read: known from the environment in GitHub's own builds, else ""."""
    name = os.environ.get("GITHUB_REPOSITORY")
    return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}/blob/main" if name else ""


def linked(text: str, folder: Path, where: str) -> str:
    """A page's text with links out of docs/ led to the repository. Raises: SystemExit for a link to what is not there."""

    def one(match: re.Match[str]) -> str:
        label, target = match.groups()
        path = target.partition("#")[0]
        if not path or "//" in path or path.startswith("mailto:"):
            return match.group(0)
        place = Path(os.path.normpath(folder / path))
        if not place.exists():
            if place.is_relative_to(DOCS / "reference"):
                return match.group(0)  # written below; Sphinx checks it
            raise SystemExit(f"{where} links to {target}, which is not there")
        if place.is_relative_to(DOCS):
            if place.suffix in _SHOWN:
                return match.group(0)
            if (place / "index.md").is_file():
                return f"[{label}]({path.rstrip('/')}/index.md)"
        address = repository()
        return f"[{label}]({address}/{place.relative_to(ROOT).as_posix()})" if address else label

    parts = _CODE.split(text)
    return "".join(part if k % 2 else _LINK.sub(one, part) for k, part in enumerate(parts))


def write_source(source: Path) -> None:
    """The pages that Sphinx reads."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("*.py", "__pycache__", "*.json", "examples"))
    for page in source.rglob("*.md"):
        place = page.relative_to(source)
        page.write_text(linked(page.read_text(), (DOCS / place).parent, f"docs/{place}"))
    for name, text in pages().items():
        (source / "reference" / name).write_text(text)


def main(folder: Path) -> int:
    """Build; the exit status of Sphinx."""
    from sphinx.cmd.build import build_main

    write_source(folder / "source")
    shutil.rmtree(folder / "html", ignore_errors=True)
    options = ["-q", "-W", "--keep-going", "-b", "html", "-c", str(Path(__file__).parent), "-d", str(folder / "doctrees")]
    status = int(build_main([*options, str(folder / "source"), str(folder / "html")]))
    if not status:
        print(f"the site: {(folder / 'html' / 'index.html').resolve().as_uri()}")
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "site"))
