"""A plugin of pytest: what workers print is captured with the test that caused it.

pytest loads it by an entry point of the package.  ``-p no:zray`` switches it off.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any

try:
    from pytest import hookimpl
except ImportError:  # the module is listed among zray's own, and pytest is not installed
    def hookimpl(**_options: Any) -> Any:  # type: ignore[misc]
        return lambda hook: hook

__tracebackhide__ = True  # pytest leaves these frames out of its reports


def _shown() -> None:
    """Wait for the output, if the process is a driver: nothing is imported for tests that do not use zray."""
    output = sys.modules.get("zray.api.worker_output")
    if output is not None:
        output.drain()


@hookimpl(wrapper=True, trylast=True)  # inside the wrapper that captures
def pytest_runtest_setup() -> Generator[None, Any, Any]:
    """A fixture has started workers."""
    result = yield
    _shown()
    return result


@hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    """A test has run."""
    try:
        return (yield)
    finally:
        _shown()


@hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown() -> Generator[None, Any, Any]:
    """Fixtures have ended."""
    result = yield
    _shown()
    return result
