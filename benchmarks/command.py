"""Which parts of a benchmark a command line asks for."""

from __future__ import annotations

import argparse
from collections.abc import Iterable


def add_parts(parser: argparse.ArgumentParser, known: Iterable[str], name: str = "parts") -> None:
    """Positional arguments ``name``: any of ``known``, all of them when none is given."""
    known = list(known)
    listed = ", ".join(known)
    one = name.removesuffix("s")

    def part(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"no such {one}: {text}; there are {listed}")
        return text

    parser.add_argument(name, nargs="*", metavar=one, type=part, default=known, help=listed)
