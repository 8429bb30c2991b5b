"""A real headless Chromium in a network namespace, seen through WebDriver. It fails, not skips, where it is missing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ARTEFACTS = Path(__file__).parents[2] / "build" / "artefacts"
_CHROMIUM, _DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root
    "--disable-dev-shm-usage",  # /dev/shm may be small in a container
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)


class Inside(Protocol):
    """Where a browser is."""

    def enter_thread(self) -> None:
        """The thread that calls this is inside from now on."""


class ThisMachine:
    """The network that the tests themselves are in, as somebody's own browser is."""

    def enter_thread(self) -> None:
        """The thread stays where it is."""


class Browser:
    """One page. Everything is done in a thread of the namespace, where the browser is, too."""

    def __init__(self, driver: webdriver.Chrome, inside: ThreadPoolExecutor) -> None:
        self._driver = driver
        self._inside = inside

    def open(self, url: str) -> None:
        """The page of `url` is loaded; what the console said before is forgotten."""
        self._call(lambda: self._driver.get(url))
        self.read_console()

    def run(self, script: str, *arguments: object) -> Any:
        """Returns what the script returns, run as the body of a function in the page."""
        return self._call(lambda: self._driver.execute_script(script, *arguments))

    def wait(self, expression: str, *arguments: object, timeout_s: float = 20.0) -> float:
        """The expression is true in the page; returns after how many seconds, or raises AssertionError."""
        started = time.monotonic()
        is_true = self._call(lambda: self._driver.execute_async_script(_WAIT % expression, timeout_s, *arguments))
        assert is_true, f"after {timeout_s:g} s still not: {expression}\n{self.run('return document.body.innerText')}"
        return time.monotonic() - started

    def press(self, *keys: str) -> None:
        """The keys are pressed, one after the other, wherever the focus is."""
        self._call(lambda: webdriver.ActionChains(self._driver).send_keys(*keys).perform())

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """The page has that size, in CSS pixels. scale: pixels of the screen for one of them."""
        size: dict[str, object] = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self._command("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, scheme: str, motion: str = "no-preference") -> None:
        """The reader's system prefers `light` or `dark` colours, and `no-preference` or `reduce` for motion."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self._command("Emulation.setEmulatedMedia", {"features": features})

    def keep_picture(self, name: str, width: int, height: int, scale: float = 1) -> Path:
        """Returns where a picture of the whole page is kept, at least of that size; the page has this size then."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        self.resize(width, height)
        self.resize(width, max(height, self.run("return document.documentElement.scrollHeight")), scale)
        path = ARTEFACTS / f"{name}.png"
        assert self._call(lambda: self._driver.save_screenshot(str(path)))
        print(f"picture: {path}")
        return path

    def read_console(self) -> list[str]:
        """Returns warnings and errors that the console got since it was read last."""
        answer = self._call(lambda: self._driver.execute("getLog", {"type": "browser"}))
        entries: Sequence[dict[str, str]] = answer["value"]
        return [f"{entry['level']} {entry['message']}" for entry in entries if entry["level"] in {"WARNING", "SEVERE"}]

    def _command(self, name: str, parameters: dict[str, object]) -> None:
        self._call(lambda: self._driver.execute_cdp_cmd(name, parameters))

    def _call(self, act: Callable[[], Any]) -> Any:
        return self._inside.submit(act).result()


_WAIT = """
const [timeout, ...args] = arguments;
const done = args.pop();
const ends = performance.now() + timeout * 1000;
const look = () => {
  let isTrue = false;
  try { isTrue = Boolean(%s); } catch { /* not there yet */ }
  if (isTrue || performance.now() > ends) done(isTrue);
  else setTimeout(look, 20);
};
look();
"""


@contextlib.contextmanager
def running_browser(namespace: Inside, profile: Path) -> Iterator[Browser]:
    """Yields a browser that is gone afterwards. profile: an empty folder for its files."""
    for program in (_CHROMIUM, _DRIVER):
        assert program.exists(), f"{program} is missing; `make setup` installs chromium and chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = str(_CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for option in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    with ThreadPoolExecutor(1, initializer=namespace.enter_thread) as inside:
        driver = inside.submit(lambda: webdriver.Chrome(options=options, service=Service(str(_DRIVER)))).result()
        try:
            inside.submit(lambda: driver.set_script_timeout(60)).result()
            yield Browser(driver, inside)
        finally:
            inside.submit(driver.quit).result()
