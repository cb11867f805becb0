"""Headless Chromium for the tests of the dashboard."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e.target import until

# Nothing that asks other machines.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage")


def why_none() -> str:
    """Why no browser can be tested here; "" where one can."""
    if importlib.util.find_spec("selenium") is None:
        return "selenium is not installed (extra zray[test])"
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(missing)} not found (Debian: apt-get install chromium chromium-driver)" if missing else ""


@contextlib.contextmanager
def browser(width: int = 1360, height: int = 900) -> Iterator[Any]:
    """A browser with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory(prefix="zt-chromium-", ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def see(driver: Any, words: str, within: str = "body") -> None:
    """The page comes to show the words."""
    shown: list[str] = [""]

    def is_there() -> bool:
        shown[0] = driver.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", within)
        return words in shown[0]

    until(is_there, lambda: f"{words!r} is shown: {shown[0][:2_000]!r}")


def go(driver: Any, address: str, title: str) -> None:
    """Open a page of the dashboard, and wait until its data has come."""
    base = driver.current_url.partition("#")[0]
    driver.get("about:blank")
    driver.get(f"{base}#/{address}")
    see(driver, title, "#title")
    until(lambda: driver.execute_script("return document.getElementById('page').dataset.fed === arguments[0]",
                                        address.partition("?")[0]), f"data of {address} comes")


def console(driver: Any) -> list[str]:
    """Errors and warnings of the console since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def broken_rules(driver: Any) -> list[str]:
    """What axe finds of the page as it is, each with the first element of which it is true."""
    spec = importlib.util.find_spec("axe_core_python")
    assert spec is not None and spec.origin is not None
    driver.execute_script((Path(os.path.dirname(spec.origin)) / "axe.min.js").read_text(encoding="utf-8"))
    found = driver.execute_async_script(
        "const done = arguments[arguments.length - 1]; axe.run(document, {}).then((result) => done(result.violations"
        ".map((rule) => `${rule.id}: ${rule.help}: ${rule.nodes[0].html.slice(0, 200)}`)))")
    return list(found)


def overflows(driver: Any) -> int:
    """Pixels by which the page is wider than its window."""
    return int(driver.execute_script("const page = document.documentElement; "
                                     "return page.scrollWidth - page.clientWidth"))
