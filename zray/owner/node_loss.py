"""The node of this process is gone, so all work under way here fails at once.  Pure.

    work                               without this
    a result that is pending           fails with the objects (CoreMachine.node_lost)
    a generator, items of a map        wait for a lease that no node gives
    what runs on another node          its worker ends with our job, but only our node could say so: a connection that
                                       closes may be dialled again, where the node says
"""

from __future__ import annotations

from typing import Any

from zray.owner.calls import ActorCalls
from zray.owner.maps import MapChunk
from zray.owner.records import DONE
from zray.owner.submitter import Submitter


def fail_all(submitter: Submitter, calls: ActorCalls, failure: list[Any]) -> None:
    """Fail what is in flight and queued; ``submitter.lost`` is ``failure`` by now, so later work fails too."""
    for lease in list(submitter.leases.values()):
        inflight = list(lease.inflight.values())
        lease.inflight.clear()
        for work in inflight:
            if type(work) is MapChunk:
                submitter.maps.fail_rest(work, failure)
            elif work.state != DONE:
                submitter.fail(work, failure)
        submitter.deaths.end_lease(lease)
    for key in submitter.by_number.values():
        submitter.touch(key)  # the pump fails the queue
    calls.node_lost(failure)
