"""Reconstruction: which tasks must run again to make lost objects, and which tasks wait for them.

    an object's value    what happened                              becomes
    STORED               a reader says that this value is lost      None, and its task runs again
                         ... but it is not the present value        unchanged: it was made again already
                         ... but it cannot be made again            unchanged; that reader gets the reason
    None                 its task ends                              the task's return: STORED, inline, FAILED

The death of a node alone starts nothing: another node may have a copy, and most objects are never read again.  An
object counts as lost in two cases.  A reader (a ``get``, a borrower, a worker that needs an argument) has found
that no copy is left.  Or a task is to be pushed, its argument lay on a dead node, and the control store knows no
copy.  The reader names the value, so that many readers cause one reconstruction.

The task runs again under its own id, as a further attempt.  Those of its inputs that were freed are made again
first, from their own recipes.  Inputs that still have a value are used as they are; if one proves lost too, the
task waits for it.

A task whose argument was lost starts again free of charge.  A reconstruction is charged to the retries of the task
that made the object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from zray.base.ids import PUT_FLAG, TASK_SIZE
from zray.owner.lineage import ACTOR_DEAD, ATTEMPTS, FAILED_AGAIN, Lineage, Recipe, Trace, Why, is_stored
from zray.owner.records import WAITING, Borrowed, Entry, Net, Record, Task
from zray.owner.references import References
from zray.wire.messages import FAILED, ObjectLost, Resolved

ANSWERED_MAX = 65_536
VALUES_ASKED = 1000  # in one question
RESTARTS_MAX = 100  # of one task for lost arguments: each costs another task a retry, unless a node is broken

Place = tuple[bytes, int]  # (node, generation)
# locate(values, then): then(nodes), for each value the nodes that have it, under the lock
Locate = Callable[[list[Any], Callable[[list[list[bytes]]], None]], None]

WAS_PUT: Why = ("reconstruction", "it was put into the store; only what tasks return can be made again")
INPUT_FREED: Why = ("reconstruction", "it was freed, and how it was made is not known")
FOREIGN: Why = ("reconstruction", "another process owned it, and nobody here refers to it any more")
HOW_UNKNOWN: Why = ("reconstruction", "how it was made is not known")
ADOPTED: Why = ("reconstruction", "its first owner died, and only that knew how it was made")


class _Submitter(Protocol):
    """Runs tasks again, or makes them wait."""

    net: Net
    waiting: int
    tasks: dict[bytes, Task]

    @property
    def streams(self) -> _Streams: ...
    def start(self, task: Task) -> None: ...
    def ready_or_wait(self, task: Task, record: Any) -> None: ...


class _Streams(Protocol):
    def lose(self, task: Task, oid: bytes) -> Why | None: ...


class _Calls(Protocol):
    """Runs calls of actors again."""

    def may_run_again(self, task: Task) -> bool: ...
    def run_again(self, task: Task) -> None: ...


class Reconstruction:
    """The lost objects of one owner, and the tasks that run again to make them.

    ``locate`` is a port (zray.owner.ports).
    """

    calls: _Calls  # set by these: they need the submitter, which needs this

    def __init__(self, submitter: _Submitter, refs: References, lineage: Lineage, locate: Locate):
        self.submitter = submitter
        self.refs = refs
        self.lineage = lineage
        self.locate = locate
        self.questions: list[Any] = []  # values to locate at the next call of ``ask``
        self.asked: dict[Place, tuple[Record, Any, list[Task]]] = {}  # -> tasks that wait for the answer
        self.answered: set[Place] = set()  # places on dead nodes whose objects may be pulled: no need to ask again
        self.running: dict[bytes, Task] = {}
        self.restarts: dict[bytes, int] = {}  # task -> how often it started again for a lost argument
        self.started = 0

    # ------------------------------------------------------------ losses

    def lost(self, record: Record, value: Any, reason: str) -> list[Any] | None:
        """A reader found no copy of ``value``.

        None: the record has, or will get, another value (wait for it with ``when_ready``).  Else the failure
        for that reader.
        """
        if not same_place(record.value, value):
            return None
        if type(record) is Borrowed:
            adopted = self.refs.owned.get(record.oid)
            if adopted is not None and same_place(adopted.value, value) and record.oid in self.refs.adopted:
                failed = self.lost(adopted, value, reason)
                if failed is None:
                    self._wait_for(record, adopted)
                return failed
            self.refs.report_lost(record, reason)
            return None
        assert type(record) is Entry
        if self.refs.owned.get(record.oid) is not record:
            return None  # no reference to the object is left
        task = self._running(record.oid)
        if task is None:
            return self._make(record, reason)
        if task.stream is not None:
            why = self.submitter.streams.lose(task, record.oid)
            if why is not None:
                return failure(record.oid, why, reason)
        self.refs.unpin_all(self.reset(record, task))
        return None

    def _wait_for(self, record: Borrowed, adopted: Entry) -> None:
        """A Borrowed record of an object that this process has adopted gets the next value of the Entry."""
        def ready(entry: Entry) -> None:
            if record.value is None and self.refs.borrowed.get(record.oid) is record:
                self.refs.unsettled.discard(record.oid)
                self.refs.complete(record, entry.value)

        record.value = None
        record.asked = True
        self.refs.unsettled.add(record.oid)
        if self.refs.when_ready(adopted, ready):
            ready(adopted)

    def _running(self, oid: bytes) -> Task | None:
        """The unfinished task that makes this object, if it runs again or is a generator."""
        tid = oid[:TASK_SIZE]
        return self.running.get(tid) or self.submitter.tasks.get(tid)

    def make(self, entry: Entry) -> None:
        """A pending object that no running task makes: run its task again, or give the object the failure."""
        failed = self._make(entry, "it was lost while its generator ran")
        if failed is not None:
            self.refs.unsettled.discard(entry.oid)
            self.refs.complete(entry, failed)

    def _make(self, record: Entry, reason: str) -> list[Any] | None:
        """Run the tasks that make this object again, or return its failure."""
        trace = self.lineage.traced.get(record.oid)
        recipe = trace.recipe if trace is not None else None
        if recipe is None:
            why = ADOPTED if record.oid in self.refs.adopted else trace.why if trace is not None else None
            return failure(record.oid, why, reason)
        order: list[Recipe] = []
        freed: list[Trace] = []
        blocked = self._plan(recipe, order, freed)
        if blocked is not None:
            oid, why = blocked
            return failure(record.oid, why, reason, oid)
        self._run_again(record, recipe.task, order, freed)
        return None

    def on_object_lost(self, peer: bytes, message: ObjectLost) -> None:
        """A borrower could not read an object of ours."""
        entry = self.refs.owned.get(message.oid)
        if entry is None:
            answer: Any = [FAILED, "freed", {"oid": message.oid}]
        else:
            answer = self.lost(entry, message.value, message.reason) or entry.value
            if answer is None:
                self.refs.when_ready(entry, self.refs.resolver(peer))
                return
        self.submitter.net.send(peer, Resolved([message.oid, answer]))

    def dependency_lost(self, task: Task, said: list[Any]) -> list[Any] | None:
        """A worker could not read arguments of this task.

        None: run the task again when its arguments are ready.  Else its failure.
        """
        count = self.restarts[task.tid] = self.restarts.get(task.tid, 0) + 1
        lost = said[2].get("lost") if type(said[2]) is dict else None
        if not lost or count > RESTARTS_MAX:
            return said
        pins = {record.oid: record for record in task.pins or ()}
        for oid, value, reason in lost:
            failed = self.lost(pins[oid], value, reason) if oid in pins else said
            if failed is not None:
                return failed
        return None

    # ------------------------------------------------------------ arguments on dead nodes

    def hold_back(self, task: Task) -> bool:
        """Whether this queued task must wait until copies of its arguments on dead nodes have been located.

        A worker would find out too, but it is blocked for one or two seconds meanwhile.  With many lost arguments
        that is long.
        """
        ended = self.refs.ends.nodes
        missing = [(record, record.value, place) for record in task.deps or () if is_stored(record.value)
                   and record.value[5] in ended and (place := place_of(record.value)) not in self.answered]
        if not missing:
            return False
        task.state = WAITING
        task.missing = len(missing)
        self.submitter.waiting += 1
        for record, value, place in missing:
            if place not in self.asked:
                self.asked[place] = record, value, []
                self.questions.append(value)
            self.asked[place][2].append(task)
        return True

    def ask(self) -> None:
        """Once a turn: send the questions that came up."""
        values, self.questions = self.questions, []
        for first in range(0, len(values), VALUES_ASKED):
            self._ask(values[first:first + VALUES_ASKED])

    def _ask(self, values: list[Any]) -> None:
        self.locate(values, lambda nodes: self._located(values, nodes))

    def _located(self, values: list[Any], nodes: list[list[bytes]]) -> None:
        for value, where in zip(values, nodes, strict=True):
            place = place_of(value)
            record, _, tasks = self.asked.pop(place)
            tried = where or self.lost(record, value, f"node {value[5].hex()} died, and no other has a copy")
            if tried:  # there is one; or it cannot be made again, and a pull looks more closely
                if len(self.answered) >= ANSWERED_MAX:
                    self.answered.clear()
                self.answered.add(place)
            for task in tasks:
                self.submitter.ready_or_wait(task, record)

    # ------------------------------------------------------------ what is to run

    def _plan(self, first: Recipe, order: list[Recipe], freed: list[Trace]) -> tuple[bytes, Why] | None:
        """Fill ``order`` with the recipes that must run, and ``freed`` with the inputs to restore; no other change.

        Returns the first object that cannot be made again, and why; None when all can.
        """
        recipes, seen = [first], {id(first)}
        met: set[int] = set()
        while recipes:
            recipe = recipes.pop()
            if recipe.task.retries == 0:
                return recipe.results[0].record.oid, ATTEMPTS
            if recipe.task.key is None and not self.calls.may_run_again(recipe.task):
                return recipe.results[0].record.oid, ACTOR_DEAD
            order.append(recipe)
            inputs = list(recipe.inputs)
            while inputs:
                trace = inputs.pop()
                if trace.live or id(trace) in met:
                    continue
                record = trace.record
                if type(record) is Borrowed:
                    # An argument itself needs the value only; a reference inside an argument needs the object.
                    if record.oid not in self.refs.borrowed and not (
                            type(record.value) is bytes and any(dep is trace for dep in recipe.deps or ())):
                        return record.oid, FOREIGN
                    continue
                met.add(id(trace))
                if record.oid in self.refs.owned:
                    return record.oid, INPUT_FREED  # a reference to it arrived after it was freed
                freed.append(trace)
                if trace.kept or (record.value is not None and not is_stored(record.value)):
                    inputs += trace.contained or ()
                elif (running := self._running(record.oid)) is not None:  # and will give it its value
                    if running.stream is not None and (why := self.submitter.streams.lose(running, record.oid)):
                        return record.oid, why
                elif trace.recipe is None:
                    return record.oid, trace.why if trace.why[0] else INPUT_FREED
                elif id(trace.recipe) not in seen:
                    seen.add(id(trace.recipe))
                    recipes.append(trace.recipe)
        return None

    def _run_again(self, lost: Entry, task: Task, order: list[Recipe], freed: list[Trace]) -> None:
        contained = self.reset(lost, task)
        for trace in freed:
            self._revive(trace)
        for trace in freed:
            if trace.contained:
                records = [self._present(inner) for inner in trace.contained]
                for record in records:
                    record.refs += 1
                trace.record.contained = records  # type: ignore[union-attr]
        for recipe in order:  # pin all before the first starts: if one ends at once, it must not free another's input
            again = recipe.task
            self.running[again.tid] = again
            self.started += 1
            again.attempt += 1
            if again.retries > 0:
                again.retries -= 1
            again.cancelling = None
            if again.key is not None:
                again.lease = None  # else it is the link to the actor
            if again.stream is not None:
                self.submitter.tasks[again.tid] = again
            again.pins = [self._present(trace) for trace in recipe.inputs]
            again.deps = [self._present(trace) for trace in recipe.deps] if recipe.deps else None
            if recipe.arguments is not None:
                again.pins.append(recipe.arguments)
            for record in again.pins:
                record.refs += 1
        for trace in freed:
            self.lineage.revived(trace)
        self.refs.unpin_all(contained)
        for recipe in order:
            if recipe.task.key is None:
                self.calls.run_again(recipe.task)
            else:
                self.submitter.start(recipe.task)

    def reset(self, entry: Entry, task: Task) -> list[Any]:
        """The value is lost, so the object is pending again.  Returns the records inside it, to be unpinned."""
        value, entry.value = entry.value, None
        entry.task = task
        contained, entry.contained = entry.contained, None
        self.refs.unsettled.add(entry.oid)
        if self.refs.eager is not None:
            for holder in entry.holders or ():
                self.refs.eager.add_holder(entry, holder)
        if value is not None:  # else it was pending: see ``make``
            self.refs.free_stored(entry.oid, value, True)
        return contained or []

    def _revive(self, trace: Trace) -> None:
        """A freed input is an object of this process again while the tasks that need it run."""
        entry = trace.record
        assert type(entry) is Entry and entry.refs == 0
        self.refs.owned[entry.oid] = entry
        trace.live = True
        if type(entry.value) is bytes:
            self.refs.inline_bytes += len(entry.value)
        elif trace.kept:
            trace.kept = False  # the entry keeps the value now
        elif entry.value is None or is_stored(entry.value):
            entry.value = None
            entry.task = trace.recipe.task if trace.recipe is not None else self._running(entry.oid)
            self.refs.unsettled.add(entry.oid)
            if entry.task.stream is not None:
                self.submitter.streams.lose(entry.task, entry.oid)

    def _present(self, trace: Trace) -> Record:
        """The present record of an input."""
        record = trace.record
        return self.refs.borrowed.get(record.oid, record) if type(record) is Borrowed else record

    # ------------------------------------------------------------ ends

    def ended(self, task: Task) -> None:
        """A task has ended or failed; its results are delivered next."""
        self.restarts.pop(task.tid, None)
        if self.running.pop(task.tid, None) is not None:
            for entry in task.entry if type(task.entry) is list else [task.entry]:
                self.refs.unsettled.discard(entry.oid)

    def failed(self, task: Task) -> None:
        recipe = self.lineage.recipes.get(task.tid)
        if recipe is not None:
            self.lineage.drop(recipe, FAILED_AGAIN)

    def check(self) -> None:
        for tid, task in self.running.items():
            assert task.tid == tid and task.pins is not None, "runs again, but has ended"
        for value in self.questions:
            assert place_of(value) in self.asked


def same_place(one: Any, other: Any) -> bool:
    """Whether two values are the same copy of an object: a restore from disk changes the offset only."""
    return is_stored(one) and type(other) is list and len(other) > 5 and one[3:6] == other[3:6]


def place_of(value: Any) -> Place:
    return value[5], value[3]


def failure(oid: bytes, why: Why | None, reason: str, needed: bytes = b"") -> list[Any]:
    """The error of an object that cannot be made again; ``needed`` is the input that cannot be made."""
    if why is None or not why[0]:
        index = int.from_bytes(oid[TASK_SIZE:], "little")
        why = WAS_PUT if index & PUT_FLAG else HOW_UNKNOWN
    kind, text = why
    detail: dict[str, Any] = {"oid": oid, "reason": text, "lost": reason}
    if needed and needed != oid:
        detail["needed"] = needed
    return [FAILED, kind, detail]


def waits_again(task: Task) -> bool:
    """Whether an argument that was ready has become pending again."""
    return task.deps is not None and any(record.value is None for record in task.deps)
