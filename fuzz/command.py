"""The command lines of this folder: a run a seed for as long as asked, or one long run with its parameters as options.

A seed is one run, the same every time.  Those that found something are kept in ``seeds/<name>.txt``, a line each with
what they found, and run first.
"""

from __future__ import annotations

import argparse
import inspect
import random
import time
import traceback
from collections.abc import Callable, Iterable
from itertools import chain, count
from pathlib import Path
from typing import Any

SEEDS = Path(__file__).parent / "seeds"


def past_failures(name: str) -> list[int]:
    """Seeds that failed once."""
    lines = (SEEDS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [int(words[0]) for line in lines if (words := line.split("#")[0].split())]


def by_seed(run: Callable[[int], Any], doc: str | None, failed: Iterable[int] = (), seconds: float = 30.0) -> int:
    """``run(seed)`` for seed after seed, those of ``failed`` first; the first that raises is printed and ends it: 1."""
    parser = _parser(doc)
    parser.add_argument("--seconds", type=float, default=seconds, help="how long, past failures not counted")
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--first", type=int, help="the first of the new seeds, one at random otherwise")
    options = parser.parse_args()
    first = random.SystemRandom().getrandbits(32) if options.first is None else options.first
    known, fresh = (list(failed), count(first)) if options.seed is None else ([options.seed], iter(()))
    end, runs = time.monotonic() + options.seconds, 0
    for seed in chain(known, fresh):
        if runs >= len(known) and time.monotonic() >= end:
            break
        try:
            run(seed)
        except Exception:  # the point of a fuzzer: report the seed of whatever went wrong
            traceback.print_exc()
            print(f"seed {seed} failed")
            return 1
        runs += 1
    print(f"{runs} seeds, no failure")
    return 0


def with_options(main: Callable[..., int], doc: str | None) -> int:
    """``main()`` with an option for each of its parameters, of the type of its default."""
    parser = _parser(doc)
    for name, parameter in inspect.signature(main).parameters.items():
        parser.add_argument(f"--{name}", type=type(parameter.default), default=parameter.default,
                            help=f"{parameter.default} if not given")
    return main(**vars(parser.parse_args()))


def _parser(doc: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
