"""Looks at the built site in Chromium: `python tools/site/look.py [SITE] [PICTURES]`. Needs playwright and an installed Chromium.

Every page on a phone and a desk, some at three sizes in both schemes: nothing may be wider than the window, no script may fail,
no file may be missing, no link may lead nowhere; a search for "transposed convolution" must find its pages. Of a few pages pictures
are written, to be looked at.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlparse

SIZES = {"phone": (390, 844), "tablet": (820, 1180), "desk": (1440, 900)}
PICTURED = (
    "index.html",
    "tutorials/arrays.html",
    "reference/preimage.html",
    "porting.html",
    "gallery/index.html",
    "performance.html",
)


def main(site: Path, pictures: Path | None) -> list[str]:
    """What is wrong."""
    from playwright.sync_api import sync_playwright

    wrong: list[str] = []

    def script_failed(error: Any) -> None:
        wrong.append(f"script: {error}")

    def request_failed(request: Any) -> None:
        wrong.append(f"missing: {request.url}")

    pages = sorted(p.relative_to(site).as_posix() for p in site.rglob("*.html") if "_static" not in p.parts)
    with served(site) as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for size, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                tab = context.new_page()
                tab.on("pageerror", script_failed)
                tab.on("requestfailed", request_failed)
                for page in pages if (size, scheme) in (("phone", "light"), ("desk", "light")) else PICTURED:
                    tab.goto(f"{address}/{page}")
                    wide = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                    if wide > 0:
                        wrong.append(f"{page} at {size}: {wide} px too wide")
                    if size == "desk" and scheme == "light":
                        wrong += [f"{page}: {link}" for link in dead(tab, site, address)]
                    if pictures is not None and page in PICTURED:
                        pictures.mkdir(parents=True, exist_ok=True)
                        tab.screenshot(path=str(pictures / f"{page.replace('/', '_')[:-5]}_{size}_{scheme}.png"))
                if size != "tablet":
                    wrong += searched(tab, address)
                context.close()
        browser.close()
    return wrong


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The site on this machine alone, at an address that is given."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def dead(tab: Any, site: Path, address: str) -> list[str]:
    """Links of a page inside the site whose file or place is not there."""
    found = []
    for link in set(tab.eval_on_selector_all("a[href]", "all => all.map(a => a.href)")):
        place, fragment = urldefrag(urljoin(tab.url, link))
        if not place.startswith(address):
            continue
        file = site / unquote(urlparse(place).path).lstrip("/")
        text = file.read_text() if file.suffix == ".html" and file.is_file() else ""
        if not file.exists() or (fragment and f'id="{unquote(fragment)}"' not in text):
            found.append(link)
    return found


def searched(tab: Any, address: str) -> list[str]:
    """A search must find the pages on transposed convolution."""
    tab.goto(f"{address}/search.html?q=transposed+convolution")
    tab.wait_for_selector("#search-results li a", timeout=20_000)
    tab.wait_for_timeout(500)
    found = " ".join(tab.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)"))
    return [] if "deconvolution.html" in found and "reference/" in found else [f"the search found {found or 'nothing'}"]


if __name__ == "__main__":
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "build/site/html").resolve()
    result = main(root, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    print("\n".join(dict.fromkeys(result)) or f"all is well: {sum(1 for _ in root.rglob('*.html'))} pages, 3 sizes, 2 schemes")
    sys.exit(bool(result))
