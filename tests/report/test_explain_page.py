"""The page of one layer, driven in a real Chromium: its arithmetic, its controls, its keys, its links, its looks.

Needs playwright (the dev extra) and Chromium (Debian's package `chromium`, or another one named in PREIMAGE_CHROMIUM).
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.errors import PreimageError
from preimage.report.explain import ExplainServer, page, write
from preimage.report.explain.contract import checked_layer, decoded, encoded, shapes_of

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (dev extra)")
CHROMIUM = os.environ.get("PREIMAGE_CHROMIUM") or shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no Chromium: install Debian's package chromium, or name one in PREIMAGE_CHROMIUM", allow_module_level=True)
# what the browser itself leaves open is not ours to close
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def default_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("page") / "explain.html").as_uri()


class Visit:
    """One tab, and what it must not do: write to the console, fail, ask for anything but its own page."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.options = {"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce", **options}
        self.context = browser.new_context(**self.options)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(15_000)
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: self.wrong.append(f"{message.type}: {message.text}"))
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(address)
        self.until("Boolean(window.preimage && preimage.app.learning)")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        address = self.tab.url.partition("#")[0]
        self.context.close()
        if kind is None:
            assert self.wrong == []
            assert [r for r in self.requests if r.partition("#")[0] != address and not r.startswith("data:")] == []

    def ask(self, script: str, argument: Any = None) -> Any:
        return self.tab.evaluate(script, argument)

    def until(self, script: str) -> None:
        """Wait for something to hold. Asked from here: the page's policy lets no text be run inside it."""
        for _ in range(600):
            if self.ask(script):
                return
            self.tab.wait_for_timeout(25)
        raise AssertionError(f"never: {script}")

    @property
    def step(self) -> int:
        return int(self.ask("preimage.app.state.step"))

    def text(self, place: str) -> str:
        return str(self.tab.locator(place).inner_text())

    def centre(self, array: str, index: int) -> tuple[float, float]:
        """Where on the screen a number of an array on the stage is."""
        x, y = self.ask(
            """([name, index]) => {
                const grid = preimage.app.stage.grids.get(name), box = grid.canvas.getBoundingClientRect(), at = grid.corner(index);
                return [box.left + at[0] + grid.cell / 2, box.top + at[1] + grid.cell / 2];
            }""",
            [array, index],
        )
        return x, y


# -- arithmetic ------------------------------------------------------------------------------------------------------------


def _random_case(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """A layer and its arrays; None where the library says that there is no such layer."""
    ndim, kind = int(rng.integers(1, 3)), ("conv", "conv_transpose", "linear")[rng.integers(3)]
    groups = 1 if kind == "linear" else int(rng.choice([1, 1, 2, 3]))

    def sizes(low: int, high: int) -> list[int]:
        return [int(v) for v in rng.integers(low, high, ndim)]

    layer: dict[str, Any] = {
        "kind": kind, "in_channels": groups * int(rng.integers(1, 4)), "out_channels": groups * int(rng.integers(1, 4)),
        "groups": groups, "input_size": sizes(1, 13), "output_size": sizes(1, 5), "kernel_size": sizes(1, 6),
        "stride": sizes(1, 4), "dilation": sizes(1, 4), "padding": [[int(v) for v in rng.integers(-1, 4, 2)] for _ in range(ndim)],
        "bias": bool(rng.integers(2)),
    }  # fmt: skip
    if kind == "conv_transpose":
        layer["output_padding"] = [int(rng.integers(max(s, d))) for s, d in zip(layer["stride"], layer["dilation"], strict=True)]
    try:
        spec = checked_layer(layer, False, None)
    except PreimageError:
        return None
    scale = 10.0 ** rng.integers(-3, 4)
    arrays = {name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes_of(spec).items()}
    if not spec["bias"]:
        del arrays["bias"]
    return spec, arrays


def _by_the_library(spec: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    given = {
        name: pre.Tensor(a[None] if name == "input" else a, requires_grad=True)
        for name, a in arrays.items()
        if name != "grad_output"
    }
    x, w, b = given["input"], given["weight"], given.get("bias")
    options = {word: spec[word] for word in ("stride", "padding", "dilation", "groups")}
    if spec["kind"] == "linear":
        y = pre.conv(x, w, b)
    elif spec["kind"] == "conv":
        y = pre.conv(x, w, b, **options)
    else:
        y = pre.conv_transpose(x, w, b, output_padding=spec["output_padding"], **options)
    grads = pre.grad(y, list(given.values()), arrays["grad_output"].reshape(y.shape))
    results = {"output": y, **{f"grad_{name}": g for name, g in zip(given, grads, strict=True)}}
    return {name: np.ascontiguousarray(t.data) for name, t in results.items()}


def test_numbers_have_the_bits_of_the_library(browser: Any, default_page: str) -> None:
    """Outputs and gradients of many random layers, computed by the page and by preimage, compared bit for bit."""
    rng = np.random.default_rng(7)
    cases = [case for case in (_random_case(rng) for _ in range(330)) if case is not None]
    assert len(cases) > 200
    assert {spec["kind"] for spec, _ in cases} == {"conv", "conv_transpose", "linear"}
    with Visit(browser, default_page) as visit:
        answers = visit.ask(
            "cases => cases.map(([layer, values]) => preimage.compute(layer, values))",
            [[spec, {name: encoded(a) for name, a in arrays.items()}] for spec, arrays in cases],
        )
    compared = 0
    for (spec, arrays), answer in zip(cases, answers, strict=True):
        assert "error" not in answer, (spec, answer)
        for name, want in _by_the_library(spec, arrays).items():
            got = decoded(answer[name], name, want.shape)
            assert np.array_equal(got.view(np.uint32), want.view(np.uint32)), (name, spec)
            compared += want.size
    assert compared > 50_000


def test_multiply_add_rounds_once(browser: Any, default_page: str) -> None:
    """Operands whose product and sum would be rounded twice in a double: the answer is that of exact fractions."""
    rng, count = np.random.default_rng(3), 1500
    a = (1 + rng.integers(0, 2**23, count) * 2.0**-23).astype(np.float32)
    b = (1 + rng.integers(0, 2**23, count) * 2.0**-23).astype(np.float32)
    c = (rng.choice([-1.0, 1.0], count) * 2.0 ** rng.integers(-60, 60, count)).astype(np.float32)
    # the product is half a unit of c's last place, less 2**-70: a double takes it for the half, and rounds an odd c away
    a[:500], b[:500] = (
        np.float32(1 + 2.0**-23),
        np.float32((1 - 2.0**-23) * 2.0**-24) * rng.choice([-1, 1], 500).astype(np.float32),
    )
    c[:500] = (rng.integers(2**23, 2**24, 500) * 2.0**-23).astype(np.float32) * rng.choice([-1, 1], 500).astype(np.float32)
    case = checked_layer({"kind": "linear", "input_size": 2, "output_size": 1}, False, None)
    layers = [
        [{"shape": [2], "float32": encoded(np.array([ci, ai], np.float32))["float32"]}, encoded(np.array([1, bi], np.float32))]
        for ai, bi, ci in zip(a, b, c, strict=True)
    ]
    with Visit(browser, default_page) as visit:
        answers = visit.ask(
            "([layer, grad_output, rows]) => rows.map(([input, weight]) => preimage.compute(layer, {input, weight, grad_output}).output)",
            [case, encoded(np.ones(1, np.float32)), layers],
        )
    got = np.array([decoded(answer, "output", (1,))[0] for answer in answers])
    naive = np.array([np.float32(float(x) * float(y) + float(z)) for x, y, z in zip(a, b, c, strict=True)])
    want = np.array(
        [_nearest(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))) for x, y, z in zip(a, b, c, strict=True)]
    )
    assert np.array_equal(got, want)
    assert np.any(naive != want), "operands that any rounding gets right prove nothing"


def _nearest(value: Any) -> np.float32:
    """The float32 nearest to a fraction, the even one of two."""
    guess = np.float32(float(value))
    around = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(around, key=lambda f: (abs(Fraction(float(f)) - value), int(np.float32(f).view(np.uint32)) & 1))


# -- the page at work ------------------------------------------------------------------------------------------------------


def test_opens_with_a_deconvolution_being_painted(browser: Any, default_page: str) -> None:
    with Visit(browser, default_page, reduced_motion="no-preference") as visit:
        assert "deconvolution" in visit.text("h1")
        visit.until("preimage.app.state.step > 1")
        assert visit.ask("preimage.app.transport.playing")
        stage = visit.tab.locator("#stage").bounding_box()
        assert stage["y"] + stage["height"] < 900, "the stage is on the first screen"
        visit.tab.keyboard.press("Space")
        assert not visit.ask("preimage.app.transport.playing")


def test_reduced_motion_starts_at_rest(browser: Any, default_page: str) -> None:
    with Visit(browser, default_page) as visit:
        assert not visit.ask("preimage.app.transport.playing")
        assert visit.step == 0


def test_steps_by_buttons_keys_and_scrubber(browser: Any, default_page: str) -> None:
    with Visit(browser, default_page) as visit:
        press = visit.tab.keyboard.press
        visit.tab.click("#forward")
        visit.tab.click("#forward")
        assert visit.step == 2
        visit.tab.click("#back")
        assert visit.step == 1
        visit.tab.click("h1")
        for key, step in (("ArrowRight", 2), ("ArrowLeft", 1), ("End", 15), ("Home", 0)):
            press(key)
            assert visit.step == step, key
        visit.tab.locator("#scrubber").evaluate("s => { s.value = 7; s.dispatchEvent(new Event('input')); }")
        assert visit.step == 7
        assert "8 / 16" in visit.text("#step-count")
        assert "8 of 16 stamps" in visit.text("#summary")
        term = visit.ask("preimage.app.term")
        press("ArrowDown")
        assert visit.ask("preimage.app.term") == term + 1
        press("3")
        assert visit.ask("preimage.app.state.mode") == "grad_input"
        press("?")
        assert visit.tab.locator("#help").is_visible()
        press("Escape")
        assert not visit.tab.locator("#help").is_visible()
        visit.tab.locator("#speed").evaluate("s => { s.value = 8; s.dispatchEvent(new Event('input')); }")
        visit.tab.click("#play")
        visit.until("preimage.app.state.step === preimage.app.steps - 1 && !preimage.app.transport.playing")


def test_painting_is_the_layer_applied_to_what_is_painted(browser: Any, default_page: str) -> None:
    """After every step, forward, back or by a jump, the picture is the layer's output for the inputs so far and zeros."""
    script = """jumps => {
        const {app} = preimage, all = [];
        for (const step of jumps) {
            app.setStep(step);
            const shown = app.layer.paintedBy(step + 1).slice(), input = app.layer.values.input.slice().fill(0, step + 1);
            const values = {};
            for (const name of ['weight', 'bias', 'grad_output']) values[name] = preimage.encode(app.layer.values[name]);
            const want = preimage.compute(app.layer.spec, {...values, input: preimage.encode(input)}).output;
            all.push(preimage.encode(shown).float32 === want.float32);
        }
        return all;
    }"""
    for link in ("#t2&n=5x4&k=4x3&s=2x1&p=1&c=2-3&b=1&vi=random&vw=random", "#c2&n=6x5&k=3&s=2x1&p=1~0&vi=random&vw=random"):
        with Visit(browser, default_page + link) as visit:
            steps = int(visit.ask("preimage.app.steps"))
            jumps = [0, 1, 2, 3, 9, 8, 4, steps - 2, steps - 1, 0]
            assert visit.ask(script, jumps) == [True] * len(jumps)


def test_sums_on_the_page_are_the_results(browser: Any, default_page: str) -> None:
    """In every mode and step of several layers the listed terms, added in their order, give the number shown."""
    script = """() => {
        const {app} = preimage; let wrong = 0, seen = 0;
        for (const mode of ['slide', 'grad_input', 'grad_weight', 'grad_bias']) {
            const target = app.layer.walk(mode);
            for (let i = 0; i < app.layer.steps(mode); i++) {
                seen++;
                if (!Object.is(app.layer.sum(mode, i).result, app.layer.values[target][i])) wrong++;
            }
        }
        return [wrong, seen];
    }"""
    for link in (
        "#t2&n=3x4&k=4x3&s=2x3&p=1~0x0&c=2-4&g=2&b=1&vi=random&vw=random&vg=random",
        "#c1&n=9&k=3&s=2&d=2&p=1&vi=random&vg=random",
        "#l2&n=3&m=2&b=1&vi=random",
    ):
        with Visit(browser, default_page + link) as visit:
            wrong, seen = visit.ask(script)
            assert (wrong, seen > 12) == (0, True)


def test_pointing_says_what_made_a_number_and_what_it_feeds(browser: Any, default_page: str) -> None:
    with Visit(browser, default_page) as visit:
        visit.tab.mouse.move(*visit.centre("output", 27))
        assert "output [3, 3]" in visit.text("#sum-title")
        assert len(visit.ask("[...document.querySelectorAll('#terms .term:not([hidden])')].map(n => n.textContent)")) == 4
        assert "Made of 4 products" in visit.tab.locator("#spoken").text_content()
        visit.tab.mouse.move(*visit.centre("input", 5))
        assert "feeds 16 output numbers" in visit.text("#sum-more")
        visit.tab.mouse.move(5, 5)
        assert "input [0, 0]" in visit.text("#sum-title")
        visit.tab.locator("canvas[data-array=input]").focus()
        visit.tab.keyboard.press("Tab")
        for key in ("ArrowDown", "ArrowRight"):
            visit.tab.keyboard.press(key)
        assert "stencil (weights) [1, 1]" in visit.tab.locator("#spoken").text_content()
        assert visit.step == 0, "arrows in a grid walk over it"


def test_editing_computes_everything_anew(browser: Any, default_page: str) -> None:
    with Visit(browser, default_page) as visit:
        before = visit.ask("[...preimage.app.layer.values.output]")
        visit.tab.mouse.dblclick(*visit.centre("input", 5))
        visit.tab.keyboard.type("2.5")
        visit.tab.keyboard.press("Enter")
        assert visit.ask("preimage.app.layer.values.input[5]") == 2.5
        after = visit.ask("[...preimage.app.layer.values.output]")
        assert sum(a != b for a, b in zip(after, before, strict=True)) > 4
        visit.tab.keyboard.press("Escape")
        visit.tab.locator("canvas[data-array=weight]").focus()
        visit.tab.keyboard.press("Enter")
        visit.tab.keyboard.type("oops")
        visit.tab.keyboard.press("Enter")
        assert "is not a number" in visit.tab.locator("#spoken").text_content()
        visit.until("location.hash.includes('ei=5:2.5')")
        visit.tab.mouse.dblclick(*visit.centre("output", 5))
        assert "is computed" in visit.tab.locator("#spoken").text_content()
        assert visit.tab.locator("#in-place").is_hidden()
        visit.tab.mouse.click(*visit.centre("input", 6))
        visit.tab.fill("#cell-value", "-0.125")
        visit.tab.click("#cell-set")
        assert visit.ask("preimage.app.layer.values.input[6]") == -0.125
        visit.tab.click("text=Undo 2 edits")
        assert visit.ask("[...preimage.app.layer.values.output]") == before


def test_links_keep_the_whole_state(browser: Any, default_page: str) -> None:
    read = """() => { const {state, layer, term} = preimage.app;
        const arrays = Object.entries(layer.values).map(([name, array]) => [name, preimage.encode(array).float32]);
        return JSON.stringify([state.spec, state.mode, state.step, term, arrays.sort()]); }"""
    links = [
        "#t2&n=4&k=4&s=2&p=1", "#c2&n=7x5&k=3x2&s=2x1&d=1x2&p=1~0x2&c=4-6&g=2&b=1&vi=random&vw=edge&r=9&mode=w&t=17&q=3",
        "#t1&n=6&k=3&s=3&o=2&ei=0:-2.5,3:0.1&mode=x&t=2", "#l2&n=3x4&m=2&mode=s&t=1",
    ]  # fmt: skip
    for link in links:
        with Visit(browser, default_page + link) as visit:
            state, written = visit.ask(read), visit.ask("preimage.link()")
            assert len(written) < 160
            visit.tab.goto("about:blank")
            visit.tab.goto(default_page + written)
            visit.until("Boolean(window.preimage && preimage.app.learning)")
            assert visit.ask(read) == state
            visit.ask("location.hash = '#c1&n=5&k=3&t=1'")
            visit.until("preimage.app.state.spec.kind === 'conv' && preimage.app.state.spec.input_size.length === 1")


def test_copying_a_link_and_holding_a_number(browser: Any, default_page: str) -> None:
    with Visit(browser, default_page, has_touch=True) as visit:
        visit.tab.touchscreen.tap(*visit.centre("weight", 6))
        assert "stencil [1, 2]" in visit.text("#sum-title")
        assert visit.tab.locator("#cell-value").is_enabled()
        visit.tab.click("[data-mode=grad_weight]")
        visit.tab.click("#forward")
        visit.tab.click("#copy-link")
        visit.until("document.getElementById('copy-link').textContent !== 'Copy link'")
        assert visit.text("#copy-link") in ("Copied", "Link is in the address")
        assert visit.tab.url.endswith("mode=w&t=1")
        visit.tab.locator("#trio button >> nth=0").click()
        assert visit.ask("preimage.app.state.mode") == "slide"
        row = visit.ask("(({sum, term}) => [sum.rows[term].weight, sum.index])(preimage.app)")
        assert row[0] == 1, "the product stays the same"


@pytest.mark.parametrize(
    "link",
    [
        "#nonsense",
        "#t2",
        "#t9&n=4",
        "#t2&n=-4&k=0",
        "#t2&n=4&k=x&t=9e9&q=zz",
        "#c2&n=999&k=3",
        "#%E0%A4%A",
        "#t2&n=4&ei=5:abc,x:1&vi=__proto__&mode=q",
    ],
)
def test_bad_links_leave_a_working_page(browser: Any, default_page: str, link: str) -> None:
    with Visit(browser, default_page + link) as visit:
        visit.tab.click("#forward")
        assert visit.ask("preimage.app.layer.values.output.every(Number.isFinite)")


def test_controls_and_bad_sizes(browser: Any, default_page: str) -> None:
    with Visit(browser, default_page) as visit:
        visit.tab.click("[aria-label='kernel: one less']")
        assert visit.ask("preimage.app.layer.spec.kernel_size") == [3, 3]
        assert "Uneven" in visit.text("#coverage-text")
        assert "(4 − 1)·2 − 1 − 1 + 1·(3 − 1) + 1 + 0" in visit.text("#sizes")
        visit.tab.fill("input[aria-label='output padding']", "2")
        visit.tab.keyboard.press("Tab")
        assert "output padding 2 along the height must be below the larger of stride and dilation, 2" in visit.text("#problem")
        assert visit.ask("preimage.app.layer.spec.output_padding") == [0, 0], "the picture stays that of the last layer"
        visit.tab.click("#problem button")
        assert visit.ask("preimage.app.layer.spec.output_padding") == [1, 1]
        visit.tab.click("[data-key=conv]")
        visit.tab.fill("input[aria-label=kernel]", "")
        visit.tab.keyboard.press("Tab")
        assert "is empty" in visit.text("#problem")
        while visit.tab.locator("#problem button").count():
            visit.tab.click("#problem button")
        for kind in ("linear", "conv_transpose", "d1", "conv", "d2"):
            visit.tab.click(f"[data-key={kind}]")
        drawn = visit.ask(
            """() => {
                const press = query => document.querySelector(query).click(), options = [...document.querySelectorAll('[data-key=example] option')];
                let drawn = 0;
                for (const {value} of options.filter(option => option.value)) {
                    const select = document.querySelector('[data-key=example]');
                    select.value = value;
                    select.dispatchEvent(new Event('change'));
                    for (const mode of ['paint', 'slide', 'grad_input', 'grad_weight', 'grad_bias'])
                        for (const query of [`[data-mode=${mode}]`, '#forward', '#matrix-product', '#matrix-layer']) { press(query); drawn++; }
                }
                return drawn;
            }"""
        )
        assert drawn == 11 * 5 * 4
        visit.tab.fill("input[aria-label=groups]", "2")
        visit.tab.keyboard.press("Tab")
        assert "must divide both channel counts" in visit.text("#problem")


def test_every_problem_has_a_cure(browser: Any, default_page: str) -> None:
    """Random layers, valid or not: after at most a few of the page's own cures each is one that the library accepts."""
    rng = np.random.default_rng(5)
    specs = []
    for _ in range(300):
        ndim = int(rng.integers(1, 3))
        row = lambda low, high, n=ndim: [int(v) for v in rng.integers(low, high, n)]  # noqa: E731
        specs.append({
            "kind": ("conv", "conv_transpose", "linear")[rng.integers(3)], "in_channels": row(0, 7)[0],
            "out_channels": row(1, 7)[0], "groups": row(0, 5)[0],
            "input_size": row(-1, 80), "output_size": row(0, 6), "kernel_size": row(0, 12), "stride": row(0, 5), "dilation": row(0, 5),
            "padding": [row(-5, 9, 2) for _ in range(ndim)], "output_padding": row(-1, 7), "bias": False,
        })  # fmt: skip
    with Visit(browser, default_page) as visit:
        cured = visit.ask(
            """specs => specs.map(spec => {
                for (let n = 0; n < 40; n++) {
                    const problems = preimage.problems(spec);
                    if (!problems.length) return [spec, n, preimage.sizes(spec)];
                    problems[0].fix.change(spec);
                }
                return null;
            })""",
            specs,
        )
    assert all(cured)
    assert sum(n > 0 for _, n, _ in cured) > 100
    for spec, _, size in cured:
        spec["padding"] = [list(p) for p in spec["padding"]]
        if spec["kind"] == "linear":
            spec["groups"] = 1
        if spec["kind"] != "conv_transpose":
            spec["output_padding"] = [0] * len(size)
        ours = checked_layer(
            {**spec, **({"padding": 0, "kernel_size": 1, "stride": 1, "dilation": 1} if spec["kind"] == "linear" else {})},
            False,
            None,
        )
        assert ours["output_size"] == size, spec


def test_the_users_own_numbers(browser: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    w = rng.standard_normal((3, 2, 3, 4)).astype(np.float32)
    x = rng.standard_normal((1, 3, 5, 6)).astype(np.float32)
    layer = {
        "kind": "conv_transpose",
        "in_channels": 3,
        "out_channels": 2,
        "input_size": (5, 6),
        "kernel_size": (3, 4),
        "stride": 2,
        "padding": ((1, 0), (0, 2)),
    }
    address = write(tmp_path / "own.html", layer, {"weight": w, "input": x}, title="up3 <b>", mode="slide", step=7).as_uri()
    with Visit(browser, address) as visit:
        assert (visit.text("h1"), visit.step, visit.ask("preimage.app.state.mode")) == ("up3 <b>", 7, "slide")
        got = decoded(visit.ask("preimage.encode(preimage.app.layer.values.output)"), "output", (1, 2, 10, 12))
        want = pre.conv_transpose(x, w, stride=2, padding=((1, 0), (0, 2)))
        assert want.shape == got.shape
        assert np.array_equal(got.view(np.uint32), want.view(np.uint32))
        visit.tab.locator("#tables summary").click()
        visit.until(f"document.querySelectorAll('#tables-body table').length === {2 * (3 + 6 + 2)}")


def test_a_part_of_a_large_layer(browser: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    """The page shows a window of a real layer, says which, and its numbers are those of the whole layer at that place."""
    w, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 32, 3, 3), (1, 32, 96, 80)))
    layer = {"in_channels": 32, "out_channels": 16, "input_size": (96, 80), "kernel_size": 3, "padding": 1}
    address = write(tmp_path / "large.html", layer, {"weight": w, "input": x}, at=(3, 95, 0), mode="slide").as_uri()
    with Visit(browser, address) as visit:
        found = re.search(
            r"outputs (\d+) to (\d+) x (\d+) to (\d+) of 96 x 80, channels (\d+) to (\d+) of 16", visit.text("#note")
        )
        assert found
        top, bottom, left, right, first, last = map(int, found.groups())
        whole = pre.conv(x, w, padding=1)[0]
        want = np.ascontiguousarray(whole[first : last + 1, top : bottom + 1, left : right + 1])
        got = decoded(visit.ask("preimage.encode(preimage.app.layer.values.output)"), "output", want.shape)
        assert (bottom, left) == (95, 0)
        assert np.array_equal(got.view(np.uint32), want.view(np.uint32))
        for mode in ("paint", "slide", "grad_input", "grad_weight"):
            visit.ask("mode => { preimage.app.setMode(mode, 40); document.querySelector('#matrix-product').click(); }", mode)
            visit.ask("document.querySelector('#matrix-layer').click()")
            assert "its block from input channel" in visit.text("#matrix-text")


def test_a_slice_of_a_layer_over_three_axes(browser: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    """Its outputs are those of the layer at that depth; its planes say which depth and tap they are, while they are."""
    x, w = rng.integers(-3, 4, (1, 2, 4, 5, 6)).astype(np.float32), rng.integers(-3, 4, (2, 3, 3, 3, 2)).astype(np.float32)
    layer = {
        "kind": "conv_transpose",
        "in_channels": 2,
        "out_channels": 3,
        "input_size": (4, 5, 6),
        "kernel_size": (3, 3, 2),
        "stride": 2,
    }
    address = write(tmp_path / "deep.html", layer, {"weight": w, "input": x}, at=(0, 4, 0, 0), mode="slide").as_uri()
    with Visit(browser, address) as visit:
        assert "outputs at depth 4 of 9" in visit.text("#note")
        got = decoded(visit.ask("preimage.encode(preimage.app.layer.values.output)"), "output", (3, 11, 12))
        assert np.array_equal(got, pre.conv_transpose(x, w, stride=2)[0, :, 4])
        names = "['input', 'weight', 'output'].map(name => preimage.app.stage.planeName(name, 3))"
        assert visit.ask(names) == ["1 d2 k0", "0 k0 ↔ 0", "channel 3"]
        visit.ask("{ preimage.app.layer.spec.in_channels = 9; }")
        assert visit.ask(names) == ["channel 3", "1 ↔ 0", "channel 3"]


def test_learning(browser: Any, default_page: str) -> None:
    with Visit(browser, default_page) as visit:
        first = visit.ask("preimage.app.learning.conv.errors.error[0]")
        visit.tab.click("#learn-step")
        assert visit.ask("preimage.app.learning.conv.errors.error[1]") < first
        visit.tab.click("#learn-run")
        visit.until("preimage.app.learning.count > 3")
        visit.tab.click("#learn-run")
        for task in ("conv", "conv_transpose"):
            visit.tab.select_option("#learn-task", task)
            assert visit.ask("preimage.app.learning.count") == 0
            ends = visit.ask(
                """() => { const l = preimage.app.learning; for (let i = 0; i < 150; i++) l.advance(); l.draw();
                const ends = [l.conv, l.fc].flatMap(learner => [learner.errors.error.at(-1), learner.errors.test.at(-1)]);
                return [...ends, l.fc.weight.length, l.conv.weight.length]; }"""
            )
            stencil, stencil_moved, dense, dense_moved, many, few = ends
            assert stencil < 0.01 > stencil_moved
            assert dense < 0.5 < 0.9 < dense_moved, "the fully connected layer learns its pairs and nothing else"
            assert many > 100 * few
        assert "meets 144 products" in visit.text(".learn-text")


def test_an_address_is_followed_though_the_former_state_is_written_over_it(browser: Any, default_page: str) -> None:
    """The state is written into the address a moment after each step; the event of a new address may come after that."""
    with Visit(browser, default_page) as visit:
        visit.ask("() => { location.hash = '#c2&n=9&k=3'; history.replaceState(null, '', preimage.link()); }")
        visit.until("preimage.link().startsWith('#c2')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1440])
def test_fits_every_window_without_moving(browser: Any, default_page: str, width: int, scheme: str) -> None:
    """No sideways scrolling; nothing jumps while stepping; small targets are large enough; the scheme follows the system."""
    links = (
        "",
        "#t2&n=32&k=4&s=2&p=1&vi=photo",
        "#c2&n=9&k=3&p=1&c=4-6&g=2&b=1&mode=s",
        "#t1&n=14&k=4&s=3&mode=w",
        "#l2&n=5&m=4",
    )
    with Visit(
        browser, default_page, viewport={"width": width, "height": 844}, color_scheme=scheme, has_touch=width < 500
    ) as visit:
        for link in links:
            visit.ask(
                """link => link && new Promise(done => {
                    addEventListener('hashchange', () => setTimeout(done, 0), {once: true});
                    location.hash = link;
                })""",
                link,
            )
            visit.until(f"preimage.link().startsWith({link[:3]!r})")  # the page follows an address a moment later
            shape = """[document.documentElement.scrollWidth, document.documentElement.scrollHeight,
                ...[...document.querySelectorAll('.card')].map(card => card.getBoundingClientRect().height)]"""
            before = visit.ask(shape)
            assert before[0] <= width
            visit.ask("() => { for (const s of [1, 2, 5, 8]) preimage.app.setStep(s); }")
            assert visit.ask(shape) == before, link
            overflowing = visit.ask(
                """[...document.querySelectorAll('#stage canvas')].map(canvas => canvas.getBoundingClientRect())
                    .filter(box => box.right > innerWidth || box.left < 0).length"""
            )
            assert overflowing == 0, link
        paper = visit.ask("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper))) > 380) == (scheme == "light")
        small = visit.ask(
            "[...document.querySelectorAll('button:not(.term)')].filter(b => b.offsetParent && b.getBoundingClientRect().height < 24).length"
        )
        assert small == 0


def test_scheme_switch(browser: Any, default_page: str) -> None:
    with Visit(browser, default_page, color_scheme="light") as visit:
        seen = []
        for _ in range(3):
            visit.tab.click("#theme")
            seen.append((visit.text("#theme"), visit.ask("document.documentElement.dataset.scheme")))
        assert seen == [("Theme: light", "light"), ("Theme: dark", "dark"), ("Theme: auto", "light")]


def test_names_for_everything_that_can_be_operated(browser: Any, default_page: str) -> None:
    """What a screen reader meets: every control has a name, headings go down by one, the summary speaks."""
    with Visit(browser, default_page) as visit:
        nameless = visit.ask(
            """() => [...document.querySelectorAll('button, input, select, canvas:not([aria-hidden])')]
                .filter(n => !(n.getAttribute('aria-label') || n.getAttribute('aria-labelledby') || n.textContent.trim() || n.closest('label')))
                .map(n => n.outerHTML.slice(0, 120))"""
        )
        assert nameless == []
        levels = visit.ask("[...document.querySelectorAll('main h1, main h2, main h3')].map(h => +h.tagName[1])")
        assert levels[0] == 1
        assert all(b - a <= 1 for a, b in pairwise(levels))
        assert visit.tab.locator("#summary").get_attribute("aria-live") == "polite"
        assert visit.ask("document.documentElement.lang") == "en"


def test_stepping_draws_little(browser: Any, default_page: str) -> None:
    """On a 32 x 32 deconvolution a step adds no node, asks for no layout, and stays within one frame's worth of drawing calls."""
    with Visit(browser, default_page + "#t2&n=32&k=4&s=2&p=1&vi=photo&vw=bilinear") as visit:
        calls, nodes = visit.ask(
            """() => {
                let calls = 0; const original = CanvasRenderingContext2D.prototype.fillRect;
                CanvasRenderingContext2D.prototype.fillRect = function (...a) { calls++; return original.apply(this, a); };
                preimage.app.setStep(3); calls = 0; const before = document.getElementsByTagName('*').length;
                for (let s = 4; s < 14; s++) preimage.app.setStep(s);
                CanvasRenderingContext2D.prototype.fillRect = original;
                return [calls / 10, document.getElementsByTagName('*').length - before];
            }"""
        )
        assert nodes == 0
        assert calls < 25_000


# -- with the library behind it --------------------------------------------------------------------------------------------


def test_live_page_takes_the_librarys_numbers(browser: Any) -> None:
    server = ExplainServer(
        {"kind": "conv_transpose", "input_size": (4, 5), "kernel_size": 3, "stride": 2, "in_channels": 2, "out_channels": 2}
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with Visit(browser, server.address) as visit:
            visit.requests = []
            visit.until("document.getElementById('live').textContent.includes('the same bits')")
            visit.tab.mouse.dblclick(*visit.centre("input", 5))
            visit.ask("document.getElementById('live').textContent = ''")
            visit.tab.keyboard.type("0.3")
            visit.tab.keyboard.press("Enter")
            visit.until("document.getElementById('live').textContent.includes('the same bits')")
            assert set(visit.requests) == {f"{server.address}compute"}
            assert "engine, algorithm" in visit.tab.locator("#sizes").text_content()
            visit.requests = []
    finally:
        server.close()
        thread.join()


def test_page_needs_nothing_that_another_browser_lacks() -> None:
    """No API that only Chromium has (a short list of those that such pages are tempted by)."""
    text = page()
    for word in (
        "document.startViewTransition",
        "OffscreenCanvas",
        "showOpenFilePicker",
        "requestIdleCallback",
        ":has(",
        "roundRect(",
        "scheduler.",
        "@scope",
        "anchor(",
    ):
        assert word not in text, word
