"""Headless Chromium for tests: Debian's, driven by Debian's chromedriver through Selenium."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

WAIT_S = 20.0
T = TypeVar("T")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1280,800", "--lang=en",
)  # fmt: skip


def missing() -> str:
    """What of the browser is not installed; '' when all is there."""
    return ", ".join(name for name in ("chromium", "chromedriver") if shutil.which(name) is None)


class Tab:
    """One browser with the page in it."""

    def __init__(self) -> None:
        options = Options()
        for argument in QUIET:
            options.add_argument(argument)
        options.binary_location = shutil.which("chromium") or ""
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = Service(shutil.which("chromedriver"))
        self.driver: Any = webdriver.Chrome(options=options, service=service)  # Any: selenium's, loosely typed

    def sign_in(self, page: str, name: str) -> None:
        """Open the page and sign in."""
        self.driver.get(page)
        self.one("#name").send_keys(name)
        self.one("#sign-in button").click()
        self.wait(lambda: self.one("#me").text == name)
        self.wait(lambda: "lobby" in self.one("#title").text)

    def one(self, css: str) -> Any:  # Any: as above
        """The element that matches."""
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def texts(self, css: str) -> list[str]:
        """The texts of all that match."""
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)"
        return list(self.driver.execute_script(script, css))

    def say(self, text: str) -> None:
        """Write into the talk that is open."""
        self.one("#text").send_keys(text + "\n")

    def said(self) -> list[str]:
        """What the open talk shows, without notes."""
        return self.texts("#messages li:not(.note) .text")

    def wait(self, condition: Callable[[], bool], seconds: float = WAIT_S) -> None:
        """Until ``condition``; fails after ``seconds``."""
        WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(lambda _: condition())

    def complaints(self) -> list[str]:
        """Warnings and errors on the page's console."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()


class Loop:
    """An asyncio loop in a thread, for what must go on while the browser's driver blocks."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:  # Any: what a coroutine yields is the loop's business
        """Its result, waited for."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S)

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> None:  # Any: as above
        """Let it run."""
        asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """End the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()
