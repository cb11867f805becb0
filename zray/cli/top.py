"""The live view of `zray top`: draws in the terminal's second screen, and reads single keys."""

from __future__ import annotations

import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from zray.cli.asking import chosen
from zray.cli.gathering import asking, described_at
from zray.cli.picture import Picture, screen, take
from zray.cli.usage import Usages

QUIT = frozenset(b"qQ\x03\x04\x1b")  # also Escape, and Ctrl-C and Ctrl-D where they come as bytes
ALL_LINES = 10_000
RESIZE_LOOK_S = 0.2


def is_possible() -> bool:
    """Whether input and output are a terminal that can be redrawn."""
    return sys.stdout.isatty() and sys.stdin.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def whole(picture: Picture, width: int) -> list[str]:
    """One picture, however high."""
    return screen(picture, width, ALL_LINES)


def watch(address: str, interval_s: float) -> None:
    """Draw until a key of QUIT comes, or Ctrl-C, or the session ends."""
    address = chosen(address)  # once: a session that is newer by then is not meant
    try:
        ended = _watch(address, interval_s)
    except KeyboardInterrupt:
        return
    if ended:
        raise click.ClickException(ended)


def _watch(address: str, interval_s: float) -> str:
    """Why it ended; '' for a key."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    for name in ("COLUMNS", "LINES"):  # as a parent has set them; the window may change
        os.environ.pop(name, None)
    usages = Usages()
    with asking(address, must_run=True) as client:
        where = described_at(client)
        picture = take(client, usages, where)
    with _single_keys(), Live(console=Console(highlight=False), screen=True, auto_refresh=False) as live:
        while True:
            def draw(shown: Picture = picture) -> None:
                live.update(Text("\n".join(drawn(shown))), refresh=True)

            draw()
            if _quits(interval_s, draw):
                return ""
            try:
                with asking(address, must_run=True) as client:
                    picture = take(client, usages, where)
            except click.ClickException as error:
                return error.message


def drawn(picture: Picture) -> list[str]:
    size = shutil.get_terminal_size()
    return [*screen(picture, size.columns, size.lines - 1), "q quits"][:size.lines]


def _quits(seconds: float, resized: Callable[[], None]) -> bool:
    """Wait for a key; redraw when the window has another size."""
    until, size = time.monotonic() + seconds, shutil.get_terminal_size()
    while (left := until - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], min(left, RESIZE_LOOK_S))[0]:
            keys = os.read(sys.stdin.fileno(), 64)
            if not keys or QUIT & set(keys):
                return True
        if (now := shutil.get_terminal_size()) != size:
            size = now
            resized()
    return False


@contextmanager
def _single_keys() -> Iterator[None]:
    """Keys come at once and are not shown; the terminal is as before afterwards."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
