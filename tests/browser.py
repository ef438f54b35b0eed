"""A headless Chromium for tests of pages."""

import shutil
import time
from contextlib import contextmanager

import pytest


CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@contextmanager
def headless_browser(width: int = 1300, height: int = 1000):
    """A browser with its console's and its network's log; skips where there is none."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium with its driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update",
                 "disable-sync", "no-first-run", "disable-quic", f"window-size={width},{height}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)) as driver:
        yield driver


def wait_until(holds, seconds=20):
    """Wait until a function returns a true value, and return it."""
    end = time.time() + seconds
    while not (found := holds()):
        assert time.time() < end, "the page did not get there"
        time.sleep(0.05)
    return found


def text_of(browser, selector) -> str:
    """The text that is visible in the first element of a selector."""
    return browser.execute_script(
        "const found = document.querySelector(arguments[0]); return found ? found.innerText : ''", selector
    )
