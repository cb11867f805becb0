"""Lineage: how results in the store were made, so that results lost with a node can be made again.

    Recipe   a finished task whose result lies in the store: the Task, and Traces of its inputs
    Trace    an object that lineage knows: such a result, or an input of a recipe

Inputs are remembered, not kept alive: when the last reference to an input goes, its value is freed as usual.
Lineage keeps its inline value (counted in bytes); or, if the value lay in the store, its recipe.  So a loop
``x = f.remote(x)`` over large arrays costs one record an iteration, and no array.  An input in the store that cannot
be made again (a put, the result of a task with max_retries=0) is the exception: it stays in the store.

    a recipe lives while      one of its results is referenced, or is an input of another recipe
    a trace lives while       it is an input of a recipe, or a referenced result in the store

``lineage_bytes_max`` bounds it: the oldest recipes are dropped first, and their results can then not be made
again.  Tasks with inline results, the common case, have no recipe.

After "Ownership: A Distributed Futures System for Fine-Grained Tasks" (Wang et al., NSDI 2021, section 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zray.owner.records import Borrowed, Entry, Record, Task
from zray.owner.references import References
from zray.wire.messages import STORED

# Memory of a Recipe, its Task, its Entry and their Traces, measured with tracemalloc.
RECIPE_BYTES = 1024

# Why an object cannot be made again: (kind of the failure, reason).
Why = tuple[str, str]
NO_RETRIES: Why = ("reconstruction", "its task must not run a second time (max_retries=0)")
ATTEMPTS: Why = ("reconstruction_attempts", "")
EVICTED: Why = ("reconstruction_evicted", "")
ACTOR: Why = ("reconstruction", "an actor call made it, and must not run a second time (max_task_retries=0)")
COUNTS_ONCE: Why = (
    "reconstruction", "a call of an actor with checkpoints made it, and each call counts once in the actor's state; "
                      "return a reference from put(x, durability=2) to keep a copy on a second node")
ACTOR_DEAD: Why = ("reconstruction", "a call of an actor made it, and the actor is dead")
UNFINISHED: Why = ("reconstruction", "its generator has not ended")
CANCELLED: Why = ("reconstruction", "its task was cancelled")
FAILED_AGAIN: Why = ("reconstruction", "its task failed when it was run again")
NO_REASON: Why = ("", "")


class Trace:
    """An object that lineage knows.

    ``live``: this process owns the object, and it is referenced.  ``uses``: how often recipes and values name
    it.  ``contained``: the objects inside a value that was freed but is kept as an input.  ``kept``: such a value is
    still in the store.
    """

    __slots__ = ("record", "recipe", "why", "uses", "live", "contained", "nbytes", "kept")

    def __init__(self, record: Record, live: bool):
        self.record = record
        self.recipe: Recipe | None = None
        self.why = NO_REASON  # of a result in the store without a recipe
        self.uses = 0
        self.live = live
        self.contained: list[Trace] | None = None
        self.nbytes = 0  # of an inline value that only lineage keeps
        self.kept = False


class Recipe:
    """How a task's results were made.  ``wanted``: how many of its results have a Trace with this recipe."""

    __slots__ = ("task", "inputs", "deps", "results", "arguments", "wanted", "nbytes")

    def __init__(self, task: Task):
        self.task = task
        self.inputs: Sequence[Trace] = ()
        self.deps: list[Trace] | None = None  # inputs that are arguments themselves, in slot order
        self.results: Sequence[Trace] = ()
        self.arguments: Entry | None = None  # arguments too large for a message: pinned, in this node's store
        self.wanted = 0
        self.nbytes = RECIPE_BYTES


class Lineage:
    """All recipes of one owner."""

    def __init__(self, refs: References, bytes_max: int):
        self.refs = refs
        self.bytes_max = bytes_max
        self.bytes = 0
        self.recipes: dict[bytes, Recipe] = {}  # by task, the oldest first
        self.traced: dict[bytes, Trace] = {}  # by object
        self.evicted = 0
        refs.traced = self.traced
        refs.on_traced_freed = self.freed

    # ------------------------------------------------------------ a task has ended

    def keep(self, task: Task, pins: list[Any] | None, deps: list[Any] | None, entries: Sequence[Entry]) -> None:
        """The results of ``task`` are delivered.  Its ``pins`` still hold; ``deps`` of these are arguments, by slot.

        An item of a generator may have been lost since, and be pending.
        """
        stored = [entry for entry in entries if (entry.value is None or is_stored(entry.value))
                  and self._matters(entry)]
        before = self.recipes.pop(task.tid, None)
        why = why_not(task)
        if why is NO_REASON and stored:
            self._add(task, stored, pins, deps)
        if before is not None:
            self.drop(before, why)  # only now: the new recipe has the same inputs, and keeps their traces
        if why is not NO_REASON:
            for entry in stored:
                self.note(entry, why)
        if self.bytes > self.bytes_max:
            self._evict()

    def _matters(self, entry: Entry) -> bool:
        """Whether the object is referenced, or is an input of some recipe."""
        if self.refs.owned.get(entry.oid) is entry:
            return True
        trace = self.traced.get(entry.oid)
        return trace is not None and trace.uses > 0

    def _add(self, task: Task, stored: list[Entry], pins: list[Any] | None, deps: list[Any] | None) -> None:
        recipe = self.recipes[task.tid] = Recipe(task)
        args = task.args
        if type(args) is bytes:
            recipe.nbytes += len(args)
        if pins:
            inputs: list[Trace] = []
            for record in pins:
                if type(args) is list and record.oid == args[4]:
                    record.refs += 1
                    recipe.arguments = record
                    recipe.nbytes += args[2]
                else:
                    inputs.append(self._use(record))
            recipe.inputs = inputs
        if deps:
            recipe.deps = [self.traced[record.oid] for record in deps]
        recipe.results = results = [self._trace(entry) for entry in stored]
        recipe.wanted = len(results)
        for trace in results:
            if trace.recipe is not None:
                trace.recipe.wanted -= 1
            trace.recipe, trace.why = recipe, NO_REASON
        self.bytes += recipe.nbytes

    def note(self, entry: Entry, why: Why) -> None:
        """Note the reason, for a later error, why a result in the store has no recipe."""
        trace = self._trace(entry)
        if trace.recipe is None:
            trace.why = why

    def _trace(self, record: Record) -> Trace:
        trace = self.traced.get(record.oid)
        if trace is None:
            trace = self.traced[record.oid] = Trace(record, type(record) is Entry)
            if type(record) is Borrowed and type(record.value) is bytes:
                trace.nbytes = len(record.value)
                self.bytes += trace.nbytes
        return trace

    def _use(self, record: Record) -> Trace:
        trace = self._trace(record)
        trace.uses += 1
        return trace

    # ------------------------------------------------------------ the end of objects and of recipes

    def freed(self, entry: Entry) -> bool:
        """The last reference to this object is gone.  True: its value must stay in the store.  Else free it."""
        trace = self.traced[entry.oid]
        if trace.record is not entry:
            return False  # it was borrowed when it became an input, and has been adopted since
        trace.live = False
        if trace.uses == 0:
            self._release([trace])
            return False
        kept = trace.kept = is_stored(entry.value) and trace.recipe is None and trace.why is not UNFINISHED
        if kept or type(entry.value) is bytes:
            if not kept:
                trace.nbytes = len(entry.value)
                self.bytes += trace.nbytes
            if entry.contained:
                trace.contained = [self._use(record) for record in entry.contained]
            self._evict()
        return kept

    def revived(self, trace: Trace) -> None:
        """A freed input is an object of this process again: its value counts there, and pins the objects inside."""
        self.bytes -= trace.nbytes
        trace.nbytes = 0
        contained, trace.contained = trace.contained, None
        for inner in contained or ():
            inner.uses -= 1
        self._release(contained or [])

    def drop(self, recipe: Recipe, why: Why) -> None:
        """Forget a recipe; from now on its results cannot be made again, for the reason ``why``."""
        work = []
        for trace in recipe.results:
            if trace.recipe is recipe:
                trace.recipe, trace.why = None, why
                work.append(trace)
        recipe.wanted = 0
        self._forget(recipe, work)
        self._release(work)

    def _evict(self) -> None:
        while self.bytes > self.bytes_max and self.recipes:
            self.evicted += 1
            self.drop(next(iter(self.recipes.values())), EVICTED)

    def _forget(self, recipe: Recipe, work: list[Trace]) -> None:
        if self.recipes.get(recipe.task.tid) is recipe:
            del self.recipes[recipe.task.tid]
        self.bytes -= recipe.nbytes
        inputs, recipe.inputs, recipe.deps = recipe.inputs, (), None
        for trace in inputs:
            trace.uses -= 1
            work.append(trace)
        arguments, recipe.arguments = recipe.arguments, None
        if arguments is not None:
            self.refs.unpin(arguments)

    def _release(self, work: list[Trace]) -> None:
        """Drop those traces that are not needed any more.  A worklist, because chains of recipes grow long."""
        while work:
            trace = work.pop()
            if trace.uses or (trace.live and (trace.recipe is not None or trace.why is not NO_REASON)):
                continue
            if self.traced.get(trace.record.oid) is not trace:
                continue
            del self.traced[trace.record.oid]
            self.bytes -= trace.nbytes
            trace.nbytes = 0
            if trace.kept:
                trace.kept = False
                self.refs.free_stored(trace.record.oid, trace.record.value, True)
            contained, trace.contained = trace.contained, None
            for inner in contained or ():
                inner.uses -= 1
                work.append(inner)
            recipe, trace.recipe = trace.recipe, None
            if recipe is not None:
                recipe.wanted -= 1
                if recipe.wanted == 0:
                    self._forget(recipe, work)

    # ------------------------------------------------------------ invariants

    def check(self) -> None:
        uses: dict[int, int] = {}
        wanted: dict[int, int] = {}
        total = 0
        for tid, recipe in self.recipes.items():
            assert recipe.task.tid == tid
            total += recipe.nbytes
            for trace in recipe.inputs:
                uses[id(trace)] = uses.get(id(trace), 0) + 1
        for oid, trace in self.traced.items():
            assert trace.record.oid == oid
            assert not (trace.kept and trace.live), f"{oid.hex()}: its entry keeps the value"
            assert trace.live == (self.refs.owned.get(oid) is trace.record), f"{oid.hex()}: live or not"
            assert trace.uses or (trace.live and (trace.recipe or trace.why[0])), f"{oid.hex()}: traced for nothing"
            total += trace.nbytes
            for inner in trace.contained or ():
                uses[id(inner)] = uses.get(id(inner), 0) + 1
            if trace.recipe is not None:
                assert self.recipes.get(trace.recipe.task.tid) is trace.recipe
                wanted[id(trace.recipe)] = wanted.get(id(trace.recipe), 0) + 1
        for trace in self.traced.values():
            assert trace.uses == uses.pop(id(trace), 0), "uses are counted wrongly"
        assert not uses, "an input without trace"
        for recipe in self.recipes.values():
            assert recipe.wanted == wanted.get(id(recipe), 0) > 0, "a recipe without a wanted result"
        assert self.bytes == total, f"lineage bytes {self.bytes}, counted {total}"
        assert self.bytes <= self.bytes_max or not self.recipes


def is_stored(value: Any) -> bool:
    return type(value) is list and value[0] == STORED


def why_not(task: Task) -> Why:
    """Why this task, whose result was delivered, cannot run again; NO_REASON when it can."""
    if task.key is None and task.lease is not None and task.lease.log is not None:
        return COUNTS_ONCE  # the actor's state has the call, however many retries it has left
    if task.retries == 0:
        return ATTEMPTS if task.attempt else NO_RETRIES if task.key is not None else ACTOR
    if task.cancelling and task.stream is not None:  # any other task that was cancelled has no result, or a whole one
        return CANCELLED
    return NO_REASON
