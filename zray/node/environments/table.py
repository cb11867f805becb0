"""Which runtime environments this node has installed, and which leases wait for one.  Pure.

    (unknown) --ask--> INSTALLING --installed--> READY --not used, room is needed--> (unknown)
                          |--failed, timeout--> FAILED --ask after the pause--> INSTALLING
                          |--nobody waits any more--> (unknown)

One setup is installed once at a time, for the first job that asks.  All leases of the same setup wait for it.  A
failure is kept for SETUP_RETRY_S: leases that ask in the meantime get it at once, the next one after that tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any

from zray.environments import setup as setups
from zray.node.effects import InstallEnvironment, RemoveInstalled, StopInstall

# A failed set-up is tried again when it is asked for after this pause: an index or a network that is down comes back
# in seconds to minutes, and a build that cannot succeed must not keep a CPU busy.
SETUP_RETRY_S = 10.0
# Setups whose failures are remembered.
FAILED_KEPT_MAX = 100


class Step(IntEnum):
    INSTALLING = 0
    READY = 1
    FAILED = 2


class Installation:
    """One setup on this node."""

    __slots__ = ("deadline", "equipment", "jobs", "number", "retry_at", "setup", "sizes", "step", "timeout_s",
                 "used_at", "variables", "waiting")

    def __init__(self, setup: str, timeout_s: float, now: float):
        self.setup = setup
        self.number = 0
        self.variables: dict[str, str] = {}
        self.step = Step.INSTALLING
        self.waiting: dict[int, int] = {}  # lease -> its job
        self.jobs: set[int] = set()  # whose packages were asked for
        self.timeout_s = timeout_s
        self.deadline = now + timeout_s
        self.equipment: dict[str, Any] = {}  # what its workers take on; of a failure {"error": text}
        self.sizes: dict[str, int] = {}  # its folders, and their bytes
        self.retry_at = 0.0
        self.used_at = now


class EnvironmentTable:
    """See the module's docstring."""

    def __init__(self, emit: Callable[[Any], None], *, kept_bytes_max: int, used: Callable[[], Iterable[str]]):
        self._emit = emit
        self._kept_bytes_max = kept_bytes_max
        self._used = used  # setups of workers and placements
        self.installations: dict[str, Installation] = {}
        self._by_number: dict[int, Installation] = {}  # those that are INSTALLING
        self._waiting: dict[int, Installation] = {}  # by lease
        self._count = 0

    # ------------------------------------------------------------ leases

    def ask(self, setup: str, env: dict[str, Any], job: int, lease: int, now: float) -> Installation | None:
        """The installation, READY or FAILED; None while ``lease`` must wait for it."""
        found = self.installations.get(setup)
        if found is not None and found.step is Step.FAILED and found.retry_at <= now:
            del self.installations[setup]
            found = None
        if found is None:
            found = self.installations[setup] = Installation(setup, setups.timeout_s(env), now)
            self._begin(found, job, dict(setups.variables(env)))
        if found.step is not Step.INSTALLING:
            found.used_at = now
            return found
        found.waiting[lease] = job
        self._waiting[lease] = found
        return None

    def _begin(self, found: Installation, job: int, variables: dict[str, str]) -> None:
        self._count += 1
        found.number = self._count
        found.variables = variables
        found.jobs.add(job)
        self._by_number[found.number] = found
        self._emit(InstallEnvironment(found.number, found.setup, job, variables))

    def cancel(self, lease: int) -> bool:
        """``lease`` does not wait any more; False when it did not.  What nobody waits for is stopped."""
        found = self._waiting.pop(lease, None)
        if found is None:
            return False
        del found.waiting[lease]
        if not found.waiting:
            del self._by_number[found.number]
            del self.installations[found.setup]
            self._emit(StopInstall(found.number))
        return True

    def waits(self, lease: int) -> bool:
        return lease in self._waiting

    def waiting_leases(self) -> list[int]:
        """Leases that wait for an installation, in the order in which they asked."""
        return list(self._waiting)

    # ------------------------------------------------------------ outcomes; each returns the leases that waited

    def installed(self, number: int, equipment: dict[str, Any], sizes: dict[str, int], now: float) -> list[int]:
        """It is there; no effect when nobody waits for that attempt."""
        found = self._by_number.pop(number, None)
        if found is None:
            self._drop_folders(sizes)
            return []
        found.step = Step.READY
        found.equipment, found.sizes = equipment, sizes
        return self._settled(found, now)

    def failed(self, number: int, error: str, now: float, lost: bool = False) -> list[int]:
        """It could not be made, because of ``error``.  ``lost``: the job that asked first has no packages any more; so
        those of the other jobs that wait are tried."""
        found = self._by_number.pop(number, None)
        if found is None:
            return []
        others = set(found.waiting.values()) - found.jobs
        if lost and others:
            self._begin(found, min(others), found.variables)
            return []
        found.step = Step.FAILED
        found.retry_at = now + SETUP_RETRY_S
        found.equipment = {"error": f"{error}\nzray tries to set it up again when it is asked for after a pause of "
                                    f"{SETUP_RETRY_S:g} s."}
        leases = self._settled(found, now)
        failures = [each for each in self.installations.values() if each.step is Step.FAILED]
        for oldest in sorted(failures, key=lambda each: each.retry_at)[:-FAILED_KEPT_MAX]:
            del self.installations[oldest.setup]
        return leases

    def _settled(self, found: Installation, now: float) -> list[int]:
        leases = list(found.waiting)
        found.waiting.clear()
        found.used_at = now
        for lease in leases:
            del self._waiting[lease]
        self._make_room(found)
        return leases

    # ------------------------------------------------------------ room

    def _make_room(self, newest: Installation) -> None:
        """Forget those that were not used for longest, while all take more than they may."""
        if self._by_number:
            return  # an installation under way may be about to use a folder that is there
        ready = sorted((each for each in self.installations.values() if each.step is Step.READY),
                       key=lambda each: each.used_at)
        total = sum({folder: size for each in ready for folder, size in each.sizes.items()}.values())
        if total <= self._kept_bytes_max:
            return
        used = set(self._used())
        for each in ready:
            if total <= self._kept_bytes_max:
                break
            if each is not newest and each.setup not in used:
                del self.installations[each.setup]
                total -= self._drop_folders(each.sizes)

    def _drop_folders(self, sizes: dict[str, int]) -> int:
        """Delete the folders that no other installation shares; returns their bytes."""
        shared = {folder for each in self.installations.values() for folder in each.sizes}
        alone = {folder: size for folder, size in sizes.items() if folder not in shared}
        if alone and not self._by_number:
            self._emit(RemoveInstalled(tuple(alone)))
        return sum(alone.values())

    # ------------------------------------------------------------ time

    def overdue(self, now: float) -> list[tuple[int, str]]:
        """(number, error) of installations that took too long; they are stopped, and the caller fails them."""
        out = []
        for found in list(self._by_number.values()):
            if found.deadline <= now:
                self._emit(StopInstall(found.number))
                out.append((found.number, f"it took longer than its setup_timeout_seconds, {found.timeout_s:g} s "
                                          "(raise that in runtime_env['config'])"))
        return out

    def next_deadline(self) -> float | None:
        due = min((found.deadline for found in self._by_number.values()), default=None)
        return None if due == float("inf") else due

    def equipment(self, setup: str) -> dict[str, Any]:
        """What workers of a READY setup take on."""
        return self.installations[setup].equipment

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        for setup, found in self.installations.items():
            assert found.setup == setup
            assert (found.step is Step.INSTALLING) == (self._by_number.get(found.number) is found)
            assert bool(found.waiting) == (found.step is Step.INSTALLING), "somebody waits for an installation"
        for lease, found in self._waiting.items():
            assert lease in found.waiting and self.installations[found.setup] is found
        assert sum(len(found.waiting) for found in self.installations.values()) == len(self._waiting)
