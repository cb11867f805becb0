"""The objects of a leaving node that others need: zray.store.transfer.handover copies them.

    informed  the nodes that stay get the jobs first: with the end of a job they drop its objects
    done      all objects are kept elsewhere, and the control store has acknowledged the places
    mark      a file of the session that is touched while objects move: ``zray stop`` waits as long as it changes

Objects of jobs whose driver is on this node end with it, unless detached actors of theirs go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from zray.base.ids import JOB_SIZE, same_node
from zray.node.jobs.drivers import Drivers
from zray.node.jobs.table import Job
from zray.node.running.session import leaving_mark
from zray.store.transfer.exchange import HandoverProgress


class Objects(Protocol):
    """The part of the object store that this needs."""

    @property
    def holds_any(self) -> bool: ...

    def hand_over(self, heirs: set[bytes], needed: Callable[[bytes], bool]) -> HandoverProgress:
        """See zray.store.transfer.handover."""


class ObjectHandover:
    """See the module's docstring.  Called by zray.node.peers.leaving with the nodes that stay, until that is done."""

    def __init__(self, me: bytes, drivers: Drivers, store: Objects, written: Callable[[], bool], session_dir: str):
        self._me = me
        self._drivers = drivers
        self._store = store
        self._written = written  # whether all rows of locations are written
        self._mark = leaving_mark(session_dir)
        self._moved = -1
        self._informed: set[bytes] = set()

    def __call__(self, heirs: set[bytes]) -> HandoverProgress:
        for node in sorted(heirs - self._informed) if self._store.holds_any else ():
            self._informed.add(node)
            for job in list(self._drivers.jobs.jobs.values()):
                if self._outlives(job):
                    self._drivers.announce_job(job, node)
        handed = self._store.hand_over(heirs, self._needed)
        if handed.moved != self._moved:
            self._moved = handed.moved
            self._touch()
        return handed if self._written() else handed._replace(done=False)

    def announce(self, oid: bytes, node: bytes) -> None:
        """Tell that node of the object's job before it keeps a copy."""
        job = self._drivers.jobs.jobs.get(int.from_bytes(oid[:JOB_SIZE], "big"))
        if job is not None:
            self._drivers.announce_job(job, node)

    def _needed(self, oid: bytes) -> bool:
        job = self._drivers.jobs.jobs.get(int.from_bytes(oid[:JOB_SIZE], "big"))
        return job is not None and self._outlives(job)

    def _outlives(self, job: Job) -> bool:
        if job.is_over or same_node(job.driver, self._me):
            return self._drivers.is_used(job.number)
        return True

    def _touch(self) -> None:
        try:
            with open(self._mark, "ab"):
                os.utime(self._mark)
        except OSError:
            pass  # then ``zray stop`` waits no longer than usual
