"""The calls of an actor with checkpoints: numbered, logged by their callers, replayed after a restart (pure).

    restoring   the file of the last checkpoint is not here yet, or its state is being read
    gathering   waits for what each registered caller offers (OfferCalls); pushed calls are held
    running     replays what the offers have after the checkpoint, then runs the calls that were held, then new ones
                --a checkpoint is due--> CheckpointMark in the queue --begin--> the executor writes the state --saved-->
                SaveCheckpoint to the home --CheckpointSaved--> CallsCovered to the callers

A call gets its *start*, the number of calls that the actor has started over all its lives, when it enters the queue:
one thread runs the queue in order, so this is the order of starts.  A reply carries its start, and the starts before it
of other callers that its receiver does not know.  So a caller that has seen an effect can say which calls made it.
A caller keeps its calls until a checkpoint covers them.

A caller is registered with the home before its first call starts.  So the home knows whose offers the next life needs.
All methods are called under the loop's lock.  docs/internals/checkpoints.md has the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from zray.wire import messages as m
from zray.worker.queue import Entry, ServedLease, TaskQueue
from zray.worker.run.results import failure_in

# A request to the home is sent again after so long: an adopted actor may have a new home, which did not get it.
HOME_AGAIN_S = 1.0
# A checkpoint that could not be written (a full disk) is tried again after so long.
WRITE_AGAIN_S = 1.0
# Starts that no checkpoint covers, at most: some 10 MB here and in each caller that sees all of them.
UNCOVERED_MAX = 65_536


class CheckpointMark:
    """In the queue: take a checkpoint between two calls."""

    __slots__ = ()


class Replayed:
    """In the queue: a call of an earlier life runs again.

    Without ``wanted`` its result is dropped.  ``push``: its caller has pushed it again, as that (lease, sequence).
    """

    __slots__ = ("caller", "number", "push", "start", "task", "wanted")

    def __init__(self, caller: bytes, number: int, start: int, task: list[Any], wanted: bool):
        self.caller, self.number, self.start, self.task, self.wanted = caller, number, start, task, wanted
        self.push: tuple[ServedLease, int] | None = None


class Taken(NamedTuple):
    """The part of a checkpoint that the machine needs again; the rest is the user's state."""

    start: int  # it covers the starts up to this one
    callers: list[list[Any]]  # [caller, ended, [[number, start, result], ...]]


class _Caller:
    """One caller: what it has pushed in this life, and results that it may not have."""

    __slots__ = ("answers", "ended", "gone", "early", "id", "known", "pushed", "replaying", "told")

    def __init__(self, caller: bytes):
        self.id = caller
        self.ended = 0  # it waits for no reply up to this number
        self.told = 0  # it knows the order of starts up to this one
        self.known = False  # the home has registered it
        self.pushed: dict[int, tuple[int, int]] = {}  # sequence -> (start, number): in the queue, or not answered yet
        self.answers: dict[int, tuple[int, Any]] = {}  # number -> (start, result)
        self.replaying: dict[int, Replayed] = {}
        self.early: list[m.PushLogged] = []  # calls until the home knows the caller
        self.gone = False  # its process has ended


class LoggedCalls:
    """See the module's docstring."""

    def __init__(self, message: m.ActorInit, queue: TaskQueue, *, to_node: Callable[[Any], None],
                 send: Callable[[bytes, Any], None], later: Callable[[float, Callable[[], None]], object],
                 wake: Callable[[], None]):
        settings: dict[str, Any] = message.spec["checkpoints"]
        self.actor, self.life = message.actor, message.life
        self.every: int = settings.get("calls") or 0
        self.every_s: float = settings.get("seconds") or 0.0
        self._queue = queue
        self._to_node, self._send, self._later, self._wake = to_node, send, later, wake
        recovery = message.spec.get("recovery") or {}
        self.checkpoint: dict[str, Any] | None = recovery.get("checkpoint")
        self.waiting: set[bytes] = set(recovery.get("callers") or ())  # callers whose offers are not here
        self.callers: dict[bytes, _Caller] = {}
        for caller in self.waiting:
            self._caller(caller).known = True
        self.started = 0
        self.covered = 0  # by a checkpoint that the home knows
        self.marked = 0  # the last start before the last mark in the queue
        self.order: dict[int, tuple[bytes, int]] = {}  # start -> (caller, number), after ``covered``
        self.gathering = False
        self.restored = False
        self.broken = ""  # why the state is lost
        self._bodies: dict[tuple[bytes, int], list[Any]] = {}  # (caller, number) -> an offered call
        self._early: list[tuple[bytes, Any]] = []  # messages of callers before the replay
        self._saving: dict[str, Any] | None = None  # the place of a checkpoint that the home does not know yet
        self._saving_start = 0
        self._taking = False  # a mark is in the queue, or runs
        self._timed = self._asking = False
        self._due = False  # a checkpoint was asked for while another was under way

    def _caller(self, caller: bytes) -> _Caller:
        known = self.callers.get(caller)
        if known is None:
            known = self.callers[caller] = _Caller(caller)
        return known

    # ------------------------------------------------------------ the begin of a life

    def restore(self, taken: Taken | None) -> None:
        """The constructor has run, or the checkpoint is read: gather the calls after it."""
        if taken is not None:
            self.started = self.covered = self.marked = taken.start
            for caller, ended, answers in taken.callers:
                known = self._caller(caller)
                known.ended = ended
                known.answers = {number: (start, result) for number, start, result in answers}
        self.restored = True
        self.gathering = True
        early, self._early = self._early, []
        for peer, message in early:
            (self.on_offer if type(message) is m.OfferCalls else self.on_push)(peer, message)
        self._gathered()

    def on_offer(self, peer: bytes, message: m.OfferCalls) -> None:
        """A caller offers calls of earlier lives, in one message or several."""
        if not self.restored:
            self._early.append((peer, message))
            return
        caller = self._caller(peer)
        self._forget_answers(caller, message.ended)
        known = caller.told
        for call in message.calls:
            number, start = call[:2]
            if start > self.covered:
                self.order[start] = peer, number
            self._bodies[peer, number] = call
            known = max(known, start)
        flat = iter(message.order)
        for start, other, number in zip(flat, flat, flat, strict=True):
            if start > self.covered:
                self.order[start] = other, number
            known = max(known, start)
        caller.told = known
        if message.more:
            return
        if not self.gathering:
            late = sorted(call[1] for call in message.calls if call[1] > self.covered)
            if late:  # its registration was lost with the home that had it
                self.lose(f"{len(late)} calls of a process that its home did not know came too late for the replay")
            self._bodies = {}
            return
        self.waiting.discard(peer)
        self._gathered()

    def _gathered(self) -> None:
        if not self.gathering or self.waiting:
            return
        self.gathering = False
        lost: dict[bytes, int] = {}
        replay: list[Replayed] = []
        for start in sorted(self.order):
            owner, number = self.order[start]
            call = self._bodies.get((owner, number))
            caller = self.callers.get(owner)
            if call is None:
                if caller is None or not caller.known or caller.gone:
                    lost[owner] = lost.get(owner, 0) + 1
                continue  # a living caller keeps all calls that started: this one was cancelled before
            assert caller is not None
            body = [call[2], call[3] + 1 + self.life, *call[4:]]
            replayed = Replayed(owner, number, start, body, call[1] == 0 and number > caller.ended)
            replay.append(replayed)
        if lost:
            self.lose(f"{sum(lost.values())} calls that it had run since its last checkpoint were made by "
                      f"{len(lost)} process(es) that have ended too, and nobody else has them")
            return
        for replayed in replay:
            self.callers[replayed.caller].replaying[replayed.number] = replayed
            self._queue.entries.append(self._own_entry(replayed))
        self.started = max([self.started, *self.order])
        self._bodies = {}
        if self.order:
            self._mark()
        early, self._early = self._early, []
        for peer, message in early:
            self.on_push(peer, message)
        self._wake()

    def _own_entry(self, work: Any) -> Entry:
        """An entry of no caller."""
        lease = ServedLease(b"", -1)
        lease.next = 2
        return lease, 1, work

    def lose(self, reason: str) -> None:
        """The state is lost: the home ends the actor."""
        if not self.broken:
            self.broken = reason
            self._to_node(m.StateLost(self.actor, self.life, reason))

    # ------------------------------------------------------------ calls

    def on_push(self, peer: bytes, message: m.PushLogged) -> None:
        if not self.restored or self.gathering:
            self._early.append((peer, message))
            return
        if self.broken:
            return
        caller = self._caller(peer)
        if not caller.known:  # no other caller may see an effect of a call whose caller a later life does not ask
            caller.early.append(message)
            if len(caller.early) == 1:
                self._register(caller)
            return
        lease = self._queue.open(peer, self.life)
        self._forget_answers(caller, message.ended)
        answers: list[tuple[int, int, Any]] = []
        entries = self._queue.entries
        for sequence, (number, call) in enumerate(zip(message.numbers, message.calls, strict=True), message.first):
            if sequence < lease.next:
                known = caller.answers.get(number)
                if known is not None and sequence not in caller.pushed:
                    answers.append((sequence, *known))
                continue
            lease.next = sequence + 1
            if number in caller.answers:
                answers.append((sequence, *caller.answers[number]))
            elif number in caller.replaying:
                caller.replaying[number].push = lease, sequence
            elif number > caller.ended:
                self.started = start = self.started + 1
                self.order[start] = peer, number
                caller.pushed[sequence] = start, number
                entries.append((lease, sequence, call))
                if self.every and start - self.marked >= self.every or len(self.order) >= UNCOVERED_MAX:
                    self._mark()
        if answers:
            self._reply(caller, answers)
        if self.every_s and not self._timed and self.started > self.covered:
            self._timed = True
            self._later(self.every_s, self._time)
        self._wake()

    def on_ask(self, peer: bytes, message: m.AskCheckpoint) -> None:
        """A caller keeps too many bytes: take a checkpoint before the queued calls."""
        caller = self.callers.get(peer)
        if caller is not None:
            self._forget_answers(caller, message.ended)
        self._mark(soon=True)

    def _forget_answers(self, caller: _Caller, ended: int) -> None:
        if ended > caller.ended:
            caller.ended = ended
            for number in [number for number in caller.answers if number <= ended]:
                del caller.answers[number]

    def not_started(self, lease: ServedLease, sequence: int) -> None:
        """That call was taken out of the queue, or did not begin: it is no start."""
        caller = self.callers.get(lease.owner)
        if caller is not None and sequence in caller.pushed:
            start, number = caller.pushed[sequence]
            caller.pushed[sequence] = 0, number
            self.order.pop(start, None)

    def flush(self, leases: list[ServedLease]) -> None:
        """Send the replies of these leases."""
        counts = [len(lease.ends) for lease in leases]
        for lease in leases:  # of all, also of those after the count: a reply must not tell an order that has them
            ends = lease.ends[:]
            for sequence, result in zip(ends[::2], ends[1::2], strict=False):
                failure = failure_in(result)
                if failure is not None and failure[1] in ("cancelled", "dependency_lost"):
                    self.not_started(lease, sequence)
        for lease, count in zip(leases, counts, strict=True):
            taken = lease.ends[:count]
            del lease.ends[:count]
            caller = self.callers.get(lease.owner)
            if caller is None or not taken or self.broken:
                continue
            answers = []
            for sequence, result in zip(taken[::2], taken[1::2], strict=True):
                start, number = caller.pushed.pop(sequence)
                if start and number > caller.ended and not caller.gone:
                    caller.answers[number] = start, self._kept(result)
                answers.append((sequence, start, result))
            self._reply(caller, answers)

    def _kept(self, result: Any) -> Any:
        """A result for a caller that asks again, perhaps in a later life."""
        if type(result) is not list or not result or result[0] != 0:
            return result
        if "stream_len" in result[2]:  # items that were under way are gone
            return [m.FAILED, "actor_unavailable", {
                "actor": self.actor, "reason": "its process ended while the items of this call were sent; the call "
                                               "itself has run"}]
        return [0, result[1], {name: value for name, value in result[2].items() if name != "held"}]

    def _reply(self, caller: _Caller, answers: list[tuple[int, int, Any]]) -> None:
        if caller.gone:
            return
        newest = max(start for _, start, _ in answers)
        order: list[Any] = []
        if newest > caller.told:
            for start in range(max(caller.told, self.covered) + 1, newest):
                known = self.order.get(start)
                if known is not None and known[0] != caller.id:
                    order += (start, *known)
            caller.told = newest
        ends: list[Any] = []
        for sequence, _, result in answers:
            ends += (sequence, result)
        self._send(caller.id, m.LoggedDone(self.actor, self.life, ends, [start for _, start, _ in answers], order))

    def replay_ended(self, replayed: Replayed, result: Any) -> None:
        """A call of an earlier life has run again."""
        caller = self.callers[replayed.caller]
        caller.replaying.pop(replayed.number, None)
        failure = failure_in(result)
        if failure is not None and failure[1] == "dependency_lost":
            self.lose(f"an argument of a call since its last checkpoint is lost: {failure[2].get('reason')}")
            return
        if not replayed.wanted or result is None or replayed.number <= caller.ended or caller.gone:
            return
        caller.answers[replayed.number] = replayed.start, result
        if replayed.push is not None:
            self._reply(caller, [(replayed.push[1], replayed.start, result)])

    # ------------------------------------------------------------ callers, as the home knows them

    def _register(self, caller: _Caller) -> None:
        self._to_node(m.CallerSeen(self.actor, self.life, caller.id))
        self._ask_again()

    def _ask_again(self) -> None:
        if not self._asking:
            self._asking = True
            self._later(HOME_AGAIN_S, self._again)

    def _again(self) -> None:
        self._asking = False
        for caller in self.callers.values():
            if caller.early and not caller.gone:
                self._register(caller)
        if self._saving is not None:
            self._announce()

    def on_caller_news(self, peer: bytes, message: m.CallerNews) -> None:
        if message.ended:
            self._caller_ended(message.caller)
            if self._saving is not None:  # the home may be a new one
                self._announce()
            return
        caller = self.callers.get(message.caller)
        if caller is not None and not caller.known:
            caller.known = True
            early, caller.early = caller.early, []
            for pushed in early:
                self.on_push(caller.id, pushed)

    def _caller_ended(self, process: bytes) -> None:
        """Its calls since the checkpoint are nowhere else: cover them soon."""
        caller = self.callers.get(process)
        if caller is None:
            return
        caller.gone = True
        caller.early, caller.answers = [], {}
        self.waiting.discard(process)
        if self.gathering or not self.restored:
            self._gathered()
        elif any(owner == process for owner, _ in self.order.values()):
            self._mark(soon=True)

    # ------------------------------------------------------------ checkpoints

    def _mark(self, *, soon: bool = False) -> None:
        """Put a mark into the queue: at its end, or before all calls that have not started."""
        if self.gathering or not self.restored or self.broken:
            return
        if self._taking or self._saving is not None:
            self._due = True
            return
        self._taking = True
        self.marked = self.started
        entry = self._own_entry(CheckpointMark())
        if soon and not any(caller.replaying for caller in self.callers.values()):
            self._queue.entries.appendleft(entry)
        else:
            self._queue.entries.append(entry)
        self._wake()

    def _time(self) -> None:
        self._timed = False
        if self.started > self.covered:
            self._mark(soon=True)

    def begin(self) -> Taken | None:
        """The mark runs: nothing else does.  None when there is nothing to save.  All replies were flushed before."""
        start = self._last_start()
        if start <= self.covered:
            self._taken()
            return None
        callers = []
        for caller in self.callers.values():
            if caller.gone:
                continue
            answers = [[number, at, result] for number, (at, result) in caller.answers.items() if at <= start]
            callers.append([caller.id, caller.ended, answers])
        self._saving_start = start
        return Taken(start, callers)

    def _last_start(self) -> int:
        """The start of the call that ran last."""
        for lease, sequence, work in list(self._queue.entries):
            if type(work) is list:
                caller = self.callers.get(lease.owner)
                known = caller.pushed.get(sequence) if caller is not None else None
                if known is not None and known[0]:
                    return known[0] - 1
            elif type(work) is Replayed:
                return work.start - 1
        return self.started

    def saved(self, place: dict[str, Any]) -> None:
        """The executor has written the checkpoint that began last."""
        self._taking = False
        self._saving = place
        self._announce()

    def skipped(self) -> None:
        """The class wants no checkpoint now."""
        self._taken()

    def not_saved(self) -> None:
        """The checkpoint could not be written now."""
        self._taken()
        self._later(WRITE_AGAIN_S, lambda: self._mark(soon=True))

    def _taken(self) -> None:
        self._taking = False
        if self._due:
            self._due = False
            self._mark(soon=True)

    def _announce(self) -> None:
        assert self._saving is not None
        self._to_node(m.SaveCheckpoint(self.actor, self.life, self._saving_start, self._saving))
        self._ask_again()

    def on_saved(self, peer: bytes, message: m.CheckpointSaved) -> None:
        if self._saving is None or message.start != self._saving_start:
            return
        self.covered = message.start
        self.checkpoint = self._saving
        self._saving = None
        for start in [start for start in self.order if start <= message.start]:
            del self.order[start]
        for caller in list(self.callers.values()):
            if not caller.gone:
                self._send(caller.id, m.CallsCovered(self.actor, self.life, message.start))
            elif not (caller.pushed or caller.replaying or any(one == caller.id for one, _ in self.order.values())):
                del self.callers[caller.id]
        if self.every_s and not self._timed and self.started > self.covered:
            self._timed = True
            self._later(self.every_s, self._time)
        self._taken()

    # ------------------------------------------------------------

    def waits_for(self) -> list[bytes]:
        """Callers whose offers the replay waits for."""
        return sorted(self.waiting) if self.gathering else []

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        assert self.covered <= self.started
        assert all(start > self.covered for start in self.order), "a covered start is still in the order"
        for caller in self.callers.values():
            assert all(number > caller.ended for number in caller.answers), "an answer that no caller waits for"
            assert not (caller.known and caller.early), "calls of a registered caller are held back"
