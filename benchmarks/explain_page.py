"""How long the interactive page of one layer takes to appear and to step, in the Chromium of this machine.

Prints, for a few layers, the first contentful paint and the time of a step (all drawing calls issued), best, median and worst.
A frame at 60 Hz is 16.7 ms.

    python benchmarks/explain_page.py            # Debian's chromium; PREIMAGE_CHROMIUM names another one
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from preimage.report import explain

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
LAYERS = {
    "deconvolution 4 x 4 to 8 x 8, painting": "",
    "deconvolution 32 x 32 to 64 x 64, painting": "#t2&n=32&k=4&s=2&p=1&vi=photo&vw=bilinear",
    "the same, sliding": "#t2&n=32&k=4&s=2&p=1&vi=photo&vw=bilinear&mode=s",
    "the same, weight gradient": "#t2&n=32&k=4&s=2&p=1&vi=photo&vw=bilinear&mode=w",
    "convolution 32 x 32, painting": "#c2&n=32&k=3&p=1&vi=photo",
    "fully connected 16 x 16 to 16 x 16": "#l2&n=16&m=16&vi=photo",
}
STEPS = """() => {
    const {app} = preimage, times = [], paint = performance.getEntriesByName('first-contentful-paint')[0];
    for (let i = 0; i < Math.min(app.steps, 200); i++) { const start = performance.now(); app.setStep(i); times.push(performance.now() - start); }
    times.sort((a, b) => a - b);
    return [paint ? paint.startTime : NaN, times[0], times[times.length >> 1], times[times.length - 1]];
}"""


def main() -> None:
    chromium = os.environ.get("PREIMAGE_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        sys.exit("no Chromium: install Debian's package chromium, or name one in PREIMAGE_CHROMIUM")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        address = explain.write(Path(folder) / "layer.html").as_uri()
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        print(f"Chromium {browser.version}, 1440 x 900")
        print(f"{'':44}  first paint   step: best  median   worst   (ms)")
        for name, link in LAYERS.items():
            tab = browser.new_page(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
            tab.goto(address + link)
            while not tab.evaluate("Boolean(window.preimage && preimage.app.learning)"):
                tab.wait_for_timeout(50)
            tab.wait_for_timeout(200)
            paint, best, median, worst = tab.evaluate(STEPS)
            print(f"{name:44}  {paint:11.0f}  {best:10.1f}  {median:6.1f}  {worst:6.1f}")
            tab.close()
        browser.close()


if __name__ == "__main__":
    main()
