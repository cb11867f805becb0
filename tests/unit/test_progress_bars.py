"""Progress bars of a driver do not wait for the lock that all bars of tqdm share."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from zray.api.progress_bars import BarManager

STATE = {"id": "1", "pid": 7, "desc": "loading", "total": 10, "unit": "it"}


def shows(bars):
    """Moves of a bar from begin to end, with a line of text in between, in a thread; whether it ends."""
    def run():
        for n, closed in ((1, False), (5, False), (10, True)):
            bars.move({**STATE, "n": n, "closed": closed})
            bars.hide_bars()
            bars.unhide_bars()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    return not thread.is_alive()


def test_a_lock_of_tqdm_that_somebody_keeps_is_not_waited_for(monkeypatch):
    """A thread that was interrupted, or a process that was forked and killed, keeps it for ever."""
    tqdm = pytest.importorskip("tqdm").tqdm
    bars = BarManager()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with tqdm.get_lock():
        assert shows(bars)
    assert "10/10" in sys.stderr.getvalue()
