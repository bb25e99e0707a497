"""A headless Chromium for tests; skipped with the reason where there is none."""

from __future__ import annotations

import io
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-device-scale-factor=1", "--hide-scrollbars",
    "--force-color-profile=srgb",
]  # fmt: skip
CHROMIUM = os.environ.get("WSI_SEG_CHROMIUM") or next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


@contextmanager
def opened_browser() -> Iterator[Any]:
    """A browser of playwright's."""
    if not CHROMIUM:
        pytest.skip("no Chromium is installed: the page is not tried in a browser")
    from playwright.sync_api import sync_playwright

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # playwright's own pipes
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            yield browser
            browser.close()


class Page:
    """A page, and what it complained of."""

    def __init__(self, browser: Any, address: str, size: tuple[int, int] = (800, 1300)) -> None:
        self.context = browser.new_context(viewport={"height": size[0], "width": size[1]}, accept_downloads=True)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", lambda r: r.status >= 400 and self.complaints.append(f"{r.status} {r.url}"))
        self.page.goto(address)
        self.settled()

    def _said(self, message: Any) -> None:
        # What it says where a layer is replaced while its tiles are on their way.
        if message.type in ("error", "warning") and not message.text.startswith("Ignoring tile"):
            self.complaints.append(message.text)

    def settled(self) -> None:
        """Wait until every layer has loaded what is in sight."""
        self.page.wait_for_function(
            """() => { const w = window.wsiSeg?.osd?.world; if (!w || !w.getItemCount()) return false;
            for (let n = 0; n < w.getItemCount(); n++) { const i = w.getItemAt(n);
              if (i.getOpacity() > 0 && !i.getFullyLoaded()) return false; }
            return Object.keys(window.wsiSeg.layers.items).length > 0 && !window.wsiSeg.layers.changing; }""",
            timeout=60_000,
        )
        self.page.wait_for_timeout(900)  # animations, and tiles that fade in

    def looks(self, n: int) -> Iterator[int]:
        """Times to look again, half a second apart."""
        for number in range(n):
            self.page.wait_for_timeout(500)
            yield number

    def go(self, link: str) -> None:
        """Look at what a permalink says."""
        self.page.evaluate(f"location.hash = {link!r}")
        self.page.wait_for_timeout(200)
        self.settled()

    def canvas(self) -> NDArray[np.uint8]:
        """What is drawn in the left pane, (h, w, 3), without what lies over it."""
        self.page.evaluate(
            "document.querySelectorAll('.navigator, .scale, .cursor').forEach(e => e.style.visibility = 'hidden')"
        )
        content = self.page.locator("#left").screenshot()
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    def keep(self, name: str) -> None:
        """See `keep`."""
        keep(self.page, name)

    def close(self) -> None:
        """End it; nothing may have been complained of."""
        self.context.close()
        assert not self.complaints, str(self.complaints)


def keep(page: Any, name: str) -> None:
    """Keep a screenshot where CI collects such."""
    folder = Path(os.environ.get("WSI_SEG_ARTEFACTS") or Path(__file__).parents[2] / ".artefacts")
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(folder / f"{name}.png"))
