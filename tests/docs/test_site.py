"""What can be seen of the site without Sphinx: every page of docs/ is in its navigation, and no link out of docs/ leads nowhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "tools" / "site"))

import build  # noqa: E402
from public_names import SURFACE  # noqa: E402

PAGES = sorted(DOCS.rglob("*.md"))


def in_toctrees() -> set[Path]:
    found = {DOCS / "index.md"}
    for page in PAGES:
        for body in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in body.split("\n"):
                if line and not line.startswith(":"):
                    found.update(page.parent.glob(f"{line}.md"))
    return found


def test_every_page_is_in_the_navigation() -> None:
    assert not {p.relative_to(DOCS) for p in PAGES} - {p.relative_to(DOCS) for p in in_toctrees()}


def test_every_public_module_is_listed_in_the_reference() -> None:
    text = (DOCS / "reference" / "index.md").read_text()
    for module in SURFACE:
        assert f"]({module}.md)" in text
        assert f"\n{module}\n" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_links_lead_somewhere(page: Path) -> None:
    build.linked(page.read_text(), page.parent, str(page))


def test_a_dead_link_is_noticed_and_code_is_left_alone() -> None:
    with pytest.raises(SystemExit, match="absent"):
        build.linked("[there](absent.md)", DOCS, "made up")
    assert build.linked("`[a](b)` and\n```\n[c](d)\n```\n", DOCS, "made up") == "`[a](b)` and\n```\n[c](d)\n```\n"


def test_links_out_of_the_docs_lead_to_the_repository_where_its_address_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    assert build.linked("[the table](../pyproject.toml)", DOCS, "made up") == "the table"
    monkeypatch.setenv("GITHUB_REPOSITORY", "who/what")
    assert build.linked("[the table](../pyproject.toml)", DOCS, "made up").endswith("/who/what/blob/main/pyproject.toml)")


def test_the_tests_and_tools_that_pages_name_are_there() -> None:
    for page in [*PAGES, ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md"]:
        if "decisions" not in page.parts:
            for name in re.findall(r"`(?:[^`\n]* )?((?:tests|tools|benchmarks|examples)/[\w/.*-]*)", page.read_text()):
                assert next(ROOT.glob(name.rstrip(".")), None), f"{page.name}: {name}"
