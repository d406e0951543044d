"""A real browser without a driver: Chromium's own command line.

Its window is never narrower than 500 pixels, so a page is shown in a frame of the wanted width,
to which the page's media queries answer.
"""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
SMALLEST = 500
FRAME = """<!doctype html><meta charset="utf-8">
<style>
:root {{ color-scheme: {scheme}; }}
body {{ margin: 0; }}
iframe {{ border: 0; display: block; }}
</style>
<iframe width="{width}" height="{height}" srcdoc="{page}"></iframe>
<pre id="probe" hidden></pre>
<script>
addEventListener("load", () => {{
  const inside = document.querySelector("iframe").contentWindow, page = inside.document;
  const all = (which) => [...page.querySelectorAll(which)];
  const wide = all("main *").filter((e) => !e.closest(".scroll, svg")
    && e.getBoundingClientRect().right > inside.innerWidth + 1);
  document.getElementById("probe").textContent = JSON.stringify({{
    inner: inside.innerWidth,
    scroll: page.documentElement.scrollWidth,
    height: page.documentElement.scrollHeight,
    wide: wide.map((e) => e.tagName + " " + e.textContent.trim().slice(0, 40)),
    scrolling: all(".scroll").filter((e) => e.scrollWidth > e.clientWidth + 1)
      .map((e) => e.getAttribute("aria-label")),
    background: inside.getComputedStyle(page.body).backgroundColor,
    reached: all("a, summary, .scroll").every((e) => e.tabIndex >= 0),
    resources: inside.performance.getEntriesByType("resource").map((e) => e.name)
      .filter((name) => !name.startsWith("data:")),
  }});
}});
</script>
"""


def find() -> str | None:
    """The browser's path; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Browser:
    """One browser with a folder of its own."""

    path: str
    scratch: Path

    def screenshot(self, page: Path, target: Path, *, width: int, dark: bool) -> None:
        """Write a picture of the whole page."""
        height = min(int(self.probe(page, width=width, dark=dark)["height"]), 16_000)
        self._run(page, width, height, dark, f"--screenshot={target}")
        with Image.open(target) as taken:
            taken.crop((0, 0, width, height)).save(target)

    def probe(self, page: Path, *, width: int, dark: bool) -> dict[str, Any]:
        """What the page looks like from inside: its size, what sticks out, its background."""
        dom = self._run(page, width, 900, dark, "--dump-dom")
        found = re.search(r'<pre id="probe".*?>(.*?)</pre>', dom, re.DOTALL)
        assert found is not None, dom[-500:]
        result: dict[str, Any] = json.loads(html.unescape(found[1]))
        return result

    def _run(self, page: Path, width: int, height: int, dark: bool, *wanted: str) -> str:
        framed = self.scratch / "framed.html"
        framed.write_text(
            FRAME.format(
                width=width,
                height=height,
                scheme="dark" if dark else "light",
                page=html.escape(page.read_text(encoding="utf-8")),
            ),
            encoding="utf-8",
        )
        done = subprocess.run(
            [
                self.path,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--force-device-scale-factor=1",
                f"--user-data-dir={self.scratch / 'profile'}",
                f"--window-size={max(width, SMALLEST)},{height}",
                *wanted,
                framed.as_uri(),
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout
