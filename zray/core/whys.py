"""Why something waits, across processes: what this one is asked, and how it asks others (zray.core.explaining)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from zray import messages as m, stacks
from zray.causes import Cause
from zray.core.explaining import Reason, explain_record

if TYPE_CHECKING:
    from zray.core.runtime import Runtime


class Whys:
    """The questions and answers of one Runtime."""

    def __init__(self, runtime: Runtime):
        self.rt = runtime

    def ask_why(self, peer: bytes, what: bytes, endpoint: str, deadline: float) -> tuple[str, list[Reason]]:
        """What another process (or this one) knows about a wait: words and reasons, nothing when it does not answer."""
        rt = self.rt
        if peer == rt.incarnation:
            with rt.loop.lock:
                return "", self._reasons_for(what)

        def send(number: int) -> None:
            rt.connect(peer, endpoint)
            rt.send(peer, m.Why(number, what))

        message, _ = rt.exchange(send, deadline)
        return (message.text, message.found) if message is not None else ("", [])

    def ask_of_actor(self, actor: bytes, deadline: float) -> int | None:
        """Why an actor is not up, by the node's word: a Cause."""
        answer = self.rt.ask_node(lambda n: m.NodeQuery(n, "explain", {"actor": actor}), deadline - time.monotonic())
        return answer.answer.get("cause") if answer is not None else None

    def on_why(self, peer: bytes, message: m.Why) -> None:
        """From a process that waits for an object of ours, or for a task that is here; or from ``zray stack``."""
        if message.what == stacks.ASK:
            self.rt.send(peer, m.Because(message.request, stacks.text()))
        else:
            self.rt.send(peer, m.Because(message.request, "", self._reasons_for(message.what)))

    def _reasons_for(self, what: bytes) -> list[Reason]:
        """Why an object of ours is pending, or what a task that was pushed here does or waits for (under the lock)."""
        rt = self.rt
        entry = rt.refs.owned.get(what)
        if entry is not None:
            return [[what, *explain_record(rt, entry)]] if entry.value is None else []
        found = rt.executor.place_of(what) if rt.executor is not None else None
        if found is None:
            return []
        cause, about = found
        ahead: list[Reason] = [self._doing(*each) for each in about.pop("behind", ())]
        if ahead:
            return [[what, cause, about | {"because": ahead}]]
        return [self._doing(what, about["name"])]

    def _doing(self, task: bytes, name: str) -> Reason:
        """What a task that runs here does."""
        about: dict[str, Any] = {"name": name, "task": task.hex()}
        blocked = self.rt.blocked.get(task)
        if blocked is None:
            return [task, Cause.RUNNING, about]
        return [task, Cause.BLOCKED, about | {"because": blocked().found}]
