"""The code of docs/guide*.md, and of the other pages in GUIDES, is run, and what it prints is compared."""

import doctest
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("faq", "howto", "analysis", "deconvolution", "reading-the-engine", "training")
GUIDES = [*sorted(DOCS.glob("guide*.md")), *(DOCS / f"{name}.md" for name in PAGES)]


def blocks(text):
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(name, text):
    """How many examples ran and how many failed, the blocks sharing their names."""
    source = "\n".join(blocks(text))
    test = doctest.DocTestParser().get_doctest(source, {}, name, name, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    printed = []
    runner.run(test, out=printed.append)
    return runner.tries, runner.failures, "".join(printed)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda p: p.stem)
def test_guide(guide):
    tries, failures, printed = run(guide.name, guide.read_text())
    assert not failures, printed
    assert tries > 15


def test_a_wrong_output_is_reported():
    assert run("made up", "```python\n>>> 1 + 1\n3\n\n```\n")[:2] == (1, 1)
    assert run("made up", "```python\n>>> 1 + 1\n2\n\n```\n")[:2] == (1, 0)
