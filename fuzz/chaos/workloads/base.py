"""What all workloads share: rounds with a known answer, and waits that end."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import zray as ray
from fuzz.chaos.verdict import FULL_STORE, LOST_NODE

PATIENCE_S = float(os.environ.get("CHAOS_PATIENCE_S", "60"))  # without progress of any kind
EXPLANATIONS = 4  # during that time
SURE = {"max_retries": -1}  # a task that must end with its value, whatever dies


class Wrong(Exception):
    """A result differs from the sequential answer."""


class Stalled(Exception):
    """A wait did not end; the text says what zray knows of it."""


class Workload:
    """Subclasses have ``name``, :meth:`start`, :meth:`round`, and ``errors``: error -> kinds of faults that excuse it.

    ``errors`` beside those of a lost node and of a full store, which any driver may see.
    """

    name = ""
    errors: Mapping[str, Iterable[str]] = {}

    def __init__(self, seed: int, scale: float, say: Callable[..., None]):
        """``say(event, **facts)`` is for the supervisor; ``scale`` 1 is the full size."""
        self.seed, self.scale, self.say = seed, scale, say
        self.rng = random.Random(f"{self.name} {seed}")

    @classmethod
    def allowed(cls) -> dict[str, Iterable[str]]:
        return {**LOST_NODE, **FULL_STORE, **cls.errors}

    def start(self) -> None:
        """After ``init``, and again after an error that was excused."""

    def round(self, number: int) -> None:
        """Some work with a known answer; Wrong when it differs."""
        raise NotImplementedError

    def step(self, **facts: Any) -> None:
        """Progress within a round."""
        self.say("step", **facts)

    def fetch(self, ref: Any) -> Any:
        """The value of one reference; Stalled when there is none for too long."""
        self.await_(ref)
        value = ray.get(ref, timeout=PATIENCE_S)  # it may be lost meanwhile, and made again
        self.step()
        return value

    def await_(self, waitable: Any) -> None:
        """Until ``ray.wait`` has it; Stalled, with all that was explained meanwhile, when that takes too long."""
        said: list[str] = []
        for _ in range(EXPLANATIONS):
            ready, _ = ray.wait([waitable], timeout=PATIENCE_S / EXPLANATIONS, fetch_local=False)
            if ready:
                return
            said.append(ray.explain(waitable))
            self.say("waits", text=said[-1])
        raise Stalled(f"{waitable} is not ready: {said[-1]}")


def expect(what: str, value: Any, wanted: Any) -> None:
    if value != wanted:
        raise Wrong(f"{what}: {_short(value)}, not {_short(wanted)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(text)} characters)"
