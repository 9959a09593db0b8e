"""Pictures of the HTML pages at 380 and 1280 px, light and dark, and what a look does not show: errors, contrast.

    python evaluation/screenshots.py PAGE.html [PAGE.html ...] [--out build/screenshots] [--chromium chromium]

Chromium is steered over a pipe, so that neither a driver nor a package is needed. The status is 1 if a page has an
error of JavaScript, scrolls sideways, or has text with less contrast than WCAG's AA asks for (4.5, 3 for large text).
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTHS, THEMES, HEIGHT = (380, 1280), ("light", "dark"), 900

# Names the text whose contrast with what lies behind it is too small.
CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
# Fulfilled when the page is loaded and has drawn itself.
READY = """
new Promise((done) => {
  const look = () => (document.readyState === "complete" ? setTimeout(done, 400) : setTimeout(look, 50));
  look();
})
"""


class Browser:
    """Chromium's DevTools over a pipe: messages of JSON that end in a zero byte."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._rest, self._count = write, read, b"", 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        """Send a command and return its result; events that come meanwhile are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError("the browser ended")
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)


@contextmanager
def browser(path: str) -> Iterator[Browser]:
    """Start Chromium, which reads from its file 3 and writes to its file 4."""
    (their_read, write), (read, their_write) = os.pipe(), os.pipe()

    def as_three_and_four() -> None:
        # From where neither of the two can be overwritten.
        spares = [fcntl.fcntl(each, fcntl.F_DUPFD, 20) for each in (their_read, their_write)]
        for spare, place in zip(spares, (3, 4), strict=True):
            os.dup2(spare, place)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            path,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
        ]
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=as_three_and_four, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield Browser(write, read)
        finally:
            process.kill()
            process.wait()


class Tab:
    """A page at a width in a theme."""

    def __init__(self, steered: Browser, page: Path, width: int, theme: str) -> None:
        self._steered = steered
        self._target = steered.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = steered.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        steered.events.clear()
        for domain in ("Runtime", "Page", "Log"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": width < 700}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.evaluate(READY)

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command to this page."""
        return self._steered.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript, which may be a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def errors(self) -> list[str]:
        """Return what JavaScript and the console complained of."""
        found = []
        for event in self._steered.events:
            if event["method"] == "Runtime.exceptionThrown":
                found.append(f"JavaScript: {event['params']['exceptionDetails'].get('text')}")
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(f"log: {event['params']['entry']['text']}")
        return found

    def close(self) -> None:
        """Close the page."""
        self._steered.call("Target.closeTarget", targetId=self._target)


def look(steered: Browser, page: Path, width: int, theme: str, picture: Path) -> list[str]:
    """Write a picture of a page, and return what is wrong with it."""
    tab = Tab(steered, page, width, theme)
    # Plots are drawn when they are opened.
    tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    tab.evaluate("new Promise((done) => setTimeout(done, 300))")
    wide = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
    weak = json.loads(tab.evaluate(CONTRAST))
    part = {"x": 0, "y": 0, "width": width, "height": 2 * HEIGHT, "scale": 1}
    shot = tab.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=part)
    picture.write_bytes(base64.b64decode(shot["data"]))
    faults = [f"{wide} px wider than the screen"] if wide > 0 else []
    faults += [f"contrast {ratio} of {name}" for name, ratio in weak]
    faults += tab.errors()
    tab.close()
    return faults


def main() -> int:
    """Look at every page at every width in every theme."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/screenshots"))
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome") or "chromium")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    status = 0
    with browser(options.chromium) as steered:
        for page in options.pages:
            for width in WIDTHS:
                for theme in THEMES:
                    picture = options.out / f"{page.parent.name}-{page.stem}-{width}-{theme}.png"
                    faults = look(steered, page, width, theme, picture)
                    print(f"{picture}: {'; '.join(faults) or 'nothing wrong'}")
                    status |= bool(faults)
    return status


if __name__ == "__main__":
    sys.exit(main())
