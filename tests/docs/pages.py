"""Pages whose code is run, and the pictures that it leaves: `python tests/docs/pages.py` writes these into docs/figures/pages."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PICTURES = DOCS / "figures" / "pages"
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\s*^```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    return sorted(p for folder in ("tutorials", "gallery") for p in (DOCS / folder).glob("*.md") if "```python" in p.read_text())


def run(text: str) -> list[tuple[str, str]]:
    """What each block printed, and what the page says of it (nothing: it does not say)."""
    names: dict[str, object] = {}
    results = []
    for code, said in _BLOCK.findall(text):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "page", "exec"), names)
        results.append((printed.getvalue(), said))
    return results


def shown(text: str) -> set[str]:
    """The pictures of its own that a page shows."""
    return set(re.findall(r"figures/pages/([\w.]+)", text))


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    chosen = [p for p in pages() if not sys.argv[1:] or p.stem in sys.argv[1:]]
    for page in chosen:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            for printed, said in run(page.read_text()):
                if printed != said:
                    print(f"{page.name} prints\n{printed}and says\n{said}")
            for name in shown(page.read_text()):
                (PICTURES / name).write_bytes(Path(name).read_bytes())
                print(PICTURES / name)


if __name__ == "__main__":
    main()
