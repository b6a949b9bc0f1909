"""The report of `preimage learn` in a real Chromium: what it paints are the library's own numbers, and it fits on a phone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preimage.learning import Coded, Options, learn, order_of_use, paint_by_numbers, shares, split_slow
from preimage.report.learned import LearnedReport, render_learned
from preimage.report.learned.live import paintable

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (dev extra)")
CHROMIUM = os.environ.get("PREIMAGE_CHROMIUM") or shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no Chromium: install Debian's package chromium, or name one in PREIMAGE_CHROMIUM", allow_module_level=True)
# what the browser itself leaves open is not ours to close
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def report_of(border: str, channels: int, pictures: int) -> tuple[LearnedReport, Coded]:
    rng = np.random.default_rng(4)
    originals = [np.rint(255 * rng.random((channels, 31, 37))).astype(np.float32) / np.float32(255) for _ in range(pictures)]
    split = [split_slow(p) for p in originals]
    coded = learn([d for _, d in split], Options(stencils=5, size=5, steps=6, border=border))
    paintings = [paint_by_numbers(coded, n, f"p{n}", p, s) for n, (p, (s, _)) in enumerate(zip(originals, split, strict=True))]
    report = LearnedReport(
        "5 stencils", "A lead.", coded.stencils, shares(coded), order_of_use(coded), paintings, coded.curve, [("time", "0 s")], [("PSNR", "1 dB")]
    )  # fmt: skip
    return report, coded


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--no-first-run"])
        yield running
        running.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Open a report; nothing may be written to the console, fail, or be asked for but the page."""
    wrong: list[str] = []
    opened = []

    def open_page(report: LearnedReport, width: int = 1440) -> Any:
        place = tmp_path / "report.html"
        place.write_text(render_learned(report), "utf-8")
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(("data:", place.as_uri())) else None)
        tab.goto(place.as_uri())
        tab.wait_for_function("[...document.querySelectorAll('.live')].every(box => box.easel)")
        opened.append(tab)
        return tab

    yield open_page
    for tab in opened:
        tab.close()
    assert wrong == []


def planes(tab: Any, what: str, number: int = 0) -> np.ndarray:
    return np.array(tab.evaluate(f"Array.from(document.querySelectorAll('.live')[{number}].easel.{what})"), np.float64)


@pytest.mark.parametrize(("border", "channels"), [("full", 3), ("circular", 1)])
def test_the_page_paints_what_the_library_painted(visit: Any, border: str, channels: int) -> None:
    report, coded = report_of(border, channels, 2)
    tab = visit(report)
    for n, p in enumerate(report.paintings):
        # the slow part comes as bytes and fifteenths of bytes
        np.testing.assert_allclose(planes(tab, "slow", n).reshape(p.slow.shape), p.slow, atol=0.51 / 15 / 255)
        for order in ("strong", "by"):
            tab.evaluate(f"e = document.querySelectorAll('.live')[{n}].easel; e.order = e.{order}; e.to(0); e.to(1e9)")
            np.testing.assert_allclose(planes(tab, "planes", n).reshape(p.slow.shape), p.rebuilt, atol=2e-4)
        assert tab.evaluate("e.text.textContent").endswith(f"{p.psnr:.2f} dB")
        assert tab.evaluate("e.total") == np.count_nonzero(coded.activations[n])


def test_single_strokes_are_shown_and_scrubbing_back_gives_the_slow_part(visit: Any) -> None:
    report, coded = report_of("full", 1, 1)
    p, tab = report.paintings[0], visit(report)
    assert tab.locator(".count-text").inner_text().startswith("the slow part alone")
    tab.locator(".one").click()
    s = p.strokes
    assert s is not None
    said = tab.locator(".stroke span").inner_text()
    assert f"× stencil {s.stencil[0]}" in said
    added = planes(tab, "planes") - planes(tab, "slow")
    want = np.zeros((31 + 8, 37 + 8))
    want[4 + s.row[0] :, 4 + s.column[0] :][:5, :5] = s.value[0] * coded.stencils[s.stencil[0], 0]
    np.testing.assert_allclose(added.reshape(31, 37), want[4:-4, 4:-4], atol=1e-6)
    tab.locator(".count").fill("1000")
    assert tab.evaluate("document.querySelector('.live').easel.count") == len(s)
    tab.locator(".count").fill("0")
    np.testing.assert_array_equal(planes(tab, "planes"), planes(tab, "slow"))


@pytest.mark.parametrize("border", ["full", "circular"])
def test_one_place_is_the_sum_of_its_strokes(visit: Any, border: str) -> None:
    report, _ = report_of(border, 1, 1)
    p, tab = report.paintings[0], visit(report)
    for column, row in ((0, 0), (32, 26), (11, 7)):  # two corners, where strokes are cropped or come in on the other side
        tab.evaluate(f"document.querySelector('.live').easel.look({column}, {row})")
        whole = planes(tab, "place.whole").reshape(5, 5)
        np.testing.assert_allclose(whole, p.rebuilt[0, row : row + 5, column : column + 5], atol=2e-4)
        parts = planes(tab, "place.slow") + planes(tab, "place.rest")
        for k in range(tab.evaluate("document.querySelector('.live').easel.place.shown.length")):
            parts += planes(tab, f"place.shown[{k}].part")
        np.testing.assert_allclose(parts.reshape(5, 5), whole, atol=1e-5)
    before = tab.evaluate("document.querySelector('.live').easel.column")
    tab.locator(".sheet canvas").press("ArrowRight")
    assert tab.evaluate("document.querySelector('.live').easel.column") == before + 1
    tab.locator(".sheet canvas").click(position={"x": 3, "y": 3})
    assert f"{0} across and {0} down" in tab.locator(".sum").inner_text()


def test_painting_runs_to_its_end_and_can_be_paused(visit: Any) -> None:
    report, _ = report_of("full", 1, 1)
    tab = visit(report)
    tab.evaluate("document.querySelector('.live').easel.to(10)")
    tab.locator(".paint").click()
    assert tab.locator(".paint").inner_text() == "Pause"
    tab.wait_for_function("(e => e.count === e.total && !e.running)(document.querySelector('.live').easel)")
    assert tab.locator(".paint").inner_text() == "Paint"


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_nothing_lies_beside_the_page(visit: Any, width: int) -> None:
    report, _ = report_of("full", 3, 2)
    report.facts.append(("a name without a space", "x" * 200))
    report.tiles.append(("PSNR, pictures", "37.43 dB"))
    tab = visit(report, width)
    assert tab.evaluate("document.documentElement.scrollWidth") == width


def test_pages_hold_a_bounded_number_of_strokes(monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = report_of("full", 1, 2)
    assert paintable(report.paintings, report.stencils.shape) == {0, 1}
    strokes = report.paintings[0].strokes
    assert strokes is not None
    monkeypatch.setattr("preimage.report.learned.live.MOST_STROKES", len(strokes) + 1)
    assert paintable(report.paintings, report.stencils.shape) == {0}
    page = render_learned(report)
    assert "p0, painted stroke by stroke" in page
    assert "p1, painted stencil by stencil" in page
