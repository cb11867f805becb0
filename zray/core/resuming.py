"""A driver that keeps the results of its tasks, and finds those of an earlier run: ``init(resume=True)``.

    submit     a key for the task; a result kept under it is the task's; else the task runs
    ready      the results of a task that has run go to the recorder, which writes them into the folder

A key is a digest of the function's code, the arguments, the number of returns, and how many equal tasks came before.
A reference in the arguments counts by the key of the task that makes it; the reference of a put by its value.

A job without ``resume`` has plain Tasks, and none of this.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import blake2b
from queue import Empty, SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary

from zray.base import errors, ids
from zray.core.resume_folder import ResumeFolder
from zray.core.runtime import Runtime
from zray.core.tasks import Tasks
from zray.handles.options import DYNAMIC, STREAMING
from zray.handles.refs import ObjectRef, ObjectRefGenerator
from zray.handles.remote import ActorClass, ActorHandle, RemoteFunction
from zray.owner.kept_results import BY_NAME, RESULT_KEY_BYTES
from zray.owner.records import DONE, Entry, Task
from zray.owner.streams import ItemStream
from zray.values import serialization
from zray.values.digests import NoDigest, of_function, of_value
from zray.wire import messages as m

logger = logging.getLogger("zray")

# Results that wait to be written, beyond which further ones are not kept: the disk does not follow.
WAITING_BYTES_MAX = 256 * 1024 * 1024
COUNTS_S = 1.0  # the node gets the counts at most this often
EXPIRE_S = 60.0
WRITTEN_S = 30.0  # the end of the job waits so long for results that are being written
REASONS_MAX = 20  # distinct reasons that are counted apart
MADE_MIN = 4096
# In a pickle: a class that travels by value, and would be another class than the program's in the next run.
_CLASS_BY_VALUE = b"_make_skeleton_"
_ACTOR = b"ActorHandle"


class ResumeCounts:
    """What became of the tasks of this run; ``found`` results were there at its start."""

    def __init__(self, found: int):
        self.found = found
        self.reused = 0
        self.kept = 0
        self.unreadable = 0
        self.unkept: dict[str, int] = {}  # reason -> number of tasks

    def not_kept(self, reason: str) -> None:
        if reason not in self.unkept and len(self.unkept) >= REASONS_MAX:
            reason = "other reasons"
        self.unkept[reason] = self.unkept.get(reason, 0) + 1

    def as_dict(self) -> dict[str, Any]:
        return {"found": self.found, "reused": self.reused, "kept": self.kept, "unreadable": self.unreadable,
                "not_kept": sum(self.unkept.values())}

    def __str__(self) -> str:
        text = f"{self.reused} of {self.found} kept results were used again, newly kept: {self.kept}"
        if self.unreadable:
            text += f", {self.unreadable} could not be read and ran again"
        for reason, count in sorted(self.unkept.items()):
            text += f"; {count} not kept: {reason}"
        return text


def say(text: str) -> None:
    """A note for the user, who has asked for it by ``resume``."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no terminal is left
        print(f"zray: {text}", file=sys.stderr, flush=True)


def begin(runtime: Runtime, folder: ResumeFolder, job_name: str) -> None:
    """Make ``runtime``, a driver that has submitted nothing, keep and find results."""
    runtime.tasks = tasks = ResumingTasks(runtime, folder, job_name)
    found = tasks.counts.found
    say(f"job {job_name!r}: " + (f"{found} kept results were found" if found else
                                 "no kept results were found, so all tasks run"))


class ResumingTasks(Tasks):
    """The tasks of a driver that keeps results."""

    def __init__(self, runtime: Runtime, folder: ResumeFolder, job_name: str):
        super().__init__(runtime.machine, runtime.loop, runtime.turns, runtime.context, runtime.ids, runtime.questions,
                         runtime.values, runtime.groups)
        self.folder = folder
        self.job_name = job_name
        self.counts = ResumeCounts(len(folder.log.places))
        self._guard = threading.Lock()
        self._earlier: dict[bytes, int] = {}  # digest of a call -> equal calls so far: some 100 bytes for each
        self._codes: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()
        self._made: dict[bytes, bytes] = {}  # object id -> its key; those of freed objects go sometimes
        self._look_at = MADE_MIN
        self.recorder = ResultRecorder(runtime, folder, self.counts)

    def end(self, succeeded: bool) -> None:
        """The job ends.  A job that succeeded needs its results no more."""
        self.recorder.end()
        if succeeded:
            self.folder.drop()
        else:
            self.folder.close()
        say(f"job {self.job_name!r}: {self.counts}" + ("; it has ended well, so nothing is kept" * succeeded))

    # ------------------------------------------------------------ submission

    def submit(self, fn: Any, args: tuple, kwargs: dict[str, Any], options: Any) -> Any:
        key = self._key(fn, args, kwargs, options)
        if key is None:
            return super().submit(fn, args, kwargs, options)
        found = self._find(key, fn, options)
        if found is not None:
            with self._guard:
                self.counts.reused += 1
            self.recorder.changed()
            self.loop.raise_pending()
            return found
        made = super().submit(fn, args, kwargs, options)
        if options.num_returns == STREAMING:
            self._keep_items(key, made._stream)
        else:
            self._keep(key, [made] if options.num_returns == 1 else made)
        return made

    def map(self, fn: Any, items: Iterable[Any], options: Any, star: bool) -> Any:
        """One task an item: each has its own key."""
        several: Any = items if star else [(item,) for item in items]
        return [self.submit(fn, tuple(item), {}, options) for item in several]

    def _key(self, fn: Any, args: tuple, kwargs: dict[str, Any], options: Any) -> bytes | None:
        returns = options.num_returns
        try:
            if returns == DYNAMIC or returns == 0:
                raise NoDigest("the tasks return nothing" if returns == 0 else 'num_returns="dynamic"')
            code = self._code_of(fn.function)
            inputs = of_value((args, sorted(kwargs.items())), self._special)
        except NoDigest as error:
            self.counts.not_kept(f"{fn.name}: {error}")
            self.recorder.changed()
            return None
        call = _mixed(code + inputs, returns)
        with self._guard:
            earlier = self._earlier.get(call, 0)
            self._earlier[call] = earlier + 1
        return _mixed(call, earlier)

    def _code_of(self, function: Any) -> bytes:
        """At its first call, as its pickle is made then."""
        try:
            code = self._codes.get(function)
        except TypeError:  # it takes no weak reference
            return of_function(function, self._special)
        if code is None:
            code = self._codes[function] = of_function(function, self._special)
        return code

    def _special(self, obj: Any) -> Any:
        """See zray.values.digests."""
        if isinstance(obj, ObjectRef):
            return "object", self._key_of(obj)
        if isinstance(obj, RemoteFunction):
            return "task", obj.function
        if isinstance(obj, ActorClass):
            return "actor class", obj._zray.cls
        if isinstance(obj, ActorHandle):
            raise NoDigest("it uses an actor, whose state is not kept")
        return None

    def _key_of(self, ref: ObjectRef) -> bytes:
        oid, record = ref._oid, ref._record
        key = self._made.get(oid)
        if key is None:
            if type(record) is not Entry or not int.from_bytes(oid[ids.TASK_SIZE:], "little") & ids.PUT_FLAG:
                raise NoDigest("an argument is the result of an actor, or of a task that is not kept")
            key = of_value(self.values.load(record), self._special)
            self._note(oid, key)
        return key

    def _note(self, oid: bytes, key: bytes) -> None:
        with self.loop.lock:
            self._made[oid] = key
            if len(self._made) >= self._look_at:
                owned = self.refs.owned
                self._made = {oid: key for oid, key in self._made.items() if oid in owned}
                self._look_at = max(MADE_MIN, 2 * len(self._made))

    # ------------------------------------------------------------ kept results

    def _find(self, key: bytes, fn: Any, options: Any) -> Any:
        """What ``submit`` returns, from a kept result; None when there is none that can be read."""
        if key not in self.folder.log.places:
            return None
        found = self.folder.read(key)
        try:
            if found is None:
                raise ValueError("its bytes have changed, or are not all there")
            if options.num_returns == STREAMING:
                return self._found_items(key, found[1], fn, options)
            refs = [self._object(found[0], value) for value in found[1]]
        except errors.RayError:  # there is no room for it
            raise
        except Exception as error:  # unpickling a user's object may raise anything
            logger.warning("a kept result of %s cannot be used, so the task runs again: %s", fn.name, error)
            self.folder.forget(key)
            self.counts.unreadable += 1
            return None
        for index, ref in enumerate(refs):
            self._note(ref._oid, _mixed(key, index))
        return refs[0] if options.num_returns == 1 else refs

    def _object(self, flags: int, value: memoryview) -> ObjectRef:
        """A kept value, as an object of this process."""
        if flags & BY_NAME:
            return self.values.put(serialization.loads(value))
        with self.loop.lock:
            oid = self.next_id(self.context) + ids.PUT_INDEX
        return ObjectRef(oid, self._entry(oid, value))

    def _entry(self, oid: bytes, value: memoryview) -> Entry:
        inline = value.nbytes <= self.values.inline_max
        wire: Any = bytes(value) if inline else self.values.store_bytes(value, oid, b"")
        with self.loop.lock:
            entry = self.refs.own(oid)
            entry.value = wire
            if inline:
                self.refs.inline_bytes += len(wire)
        return entry

    def _found_items(self, key: bytes, values: Sequence[memoryview], fn: Any, options: Any
                     ) -> ObjectRefGenerator | None:
        """A generator that has ended, with its kept items."""
        count = int.from_bytes(values[0], "little")
        objects = []
        for index in range(1, count + 1):
            found = self.folder.read(_mixed(key, index))
            if found is None:
                return None  # it was dropped for its age or for room: the whole generator runs again
            objects.append(self._object(found[0], found[1][0]))
        site = self.site(fn, options)
        with self.loop.lock:
            task = Task(self.next_id(self.context), site.fn, serialization.EMPTY_ARGS, STREAMING, site.key, 0)
            task.entry, task.state = [], DONE
            stream = task.stream = ItemStream(task, 0)
            stream.received, stream.ended, stream.outcome = count, True, serialization.NONE
            for ref in objects:
                ref._record.refs += 1
                stream.ready.append(ref._record)
        for index, ref in enumerate(objects, 1):
            self._note(ref._oid, _mixed(key, index))
        return ObjectRefGenerator(stream)

    # ------------------------------------------------------------ results of tasks that run

    def _keep(self, key: bytes, refs: Sequence[ObjectRef]) -> None:
        entries = [ref._record for ref in refs]
        left = len(entries)

        def arrived(_: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.recorder.take(key, entries)

        for index, ref in enumerate(refs):
            self._note(ref._oid, _mixed(key, index))
        with self.loop.lock:
            for entry in entries:
                entry.refs += 1  # until it is written
                if self.refs.when_ready(entry, arrived):
                    arrived(entry)

    def _keep_items(self, key: bytes, stream: ItemStream) -> None:
        """Keep each item as it arrives, and at the end their number."""
        with self.loop.lock:
            arriving = _Arriving(self, key)
            for entry in stream.ready:  # none as a rule
                arriving.append(entry)
            stream.ready = arriving
            ending = self.submitter.streams.completed(stream)
            if self.refs.when_ready(ending, partial(self._items_end, key, stream)):
                self._items_end(key, stream, ending)

    def _items_end(self, key: bytes, stream: ItemStream, ending: Entry) -> None:
        self.recorder.take(key, [ending], stream.received.to_bytes(8, "little"))


class _Arriving(deque[Entry]):
    """The items of a generator that have arrived and not been taken; keeps each."""

    def __init__(self, tasks: ResumingTasks, key: bytes):
        super().__init__()
        self._tasks = tasks
        self._key = key

    def append(self, entry: Entry) -> None:
        super().append(entry)
        key = _mixed(self._key, int.from_bytes(entry.oid[ids.TASK_SIZE:], "little"))
        self._tasks._note(entry.oid, key)
        entry.refs += 1
        self._tasks.recorder.take(key, [entry], is_task=False)


class ResultRecorder:
    """Writes results into the folder, on a thread of its own."""

    def __init__(self, runtime: Runtime, folder: ResumeFolder, counts: ResumeCounts):
        self._runtime = runtime
        self._folder = folder
        self._counts = counts
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._waiting = 0  # bytes in the queue
        self._changed = True
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="zray-resume", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """The counts have changed."""
        if not self._changed:
            self._changed = True
            self._queue.put(None)

    def take(self, key: bytes, entries: Sequence[Entry], value: bytes | None = None, is_task: bool = True) -> None:
        """These objects are ready; each has a count that is ours (under the loop's lock).

        ``value``: keep that in their place, if none has failed.
        """
        why = ""
        if any(type(entry.value) is list and entry.value[0] == m.FAILED for entry in entries):
            why = "failed"
        elif any(entry.contained for entry in entries):
            why = "the results contain references"
        nbytes = sum(len(entry.value) if type(entry.value) is bytes else 0 for entry in entries)
        if not why and self._waiting + nbytes > WAITING_BYTES_MAX:
            why = "the disk does not follow"
        self._waiting += nbytes
        self._queue.put((key, entries, value, why, nbytes, is_task))

    def end(self) -> None:
        """Write what waits, report, and end the thread."""
        self._queue.put(_END)
        self._thread.join(WRITTEN_S)
        if self._thread.is_alive():
            logger.warning("results are still being written after %g s: they are not kept", WRITTEN_S)

    def _run(self) -> None:
        report_at = time.monotonic()
        expire_at = report_at + EXPIRE_S
        while True:
            now = time.monotonic()
            if self._changed and now >= report_at:
                report_at = now + COUNTS_S
                self._report()
            if now >= expire_at:
                expire_at = now + EXPIRE_S
                self._folder.expire()
            try:
                work = self._queue.get(timeout=max(0.0, (report_at if self._changed else expire_at) - now))
            except Empty:
                continue
            if work is _END:
                break
            if work is not None:
                self._changed = True
                self._write(*work)
        self._report()

    def _write(self, key: bytes, entries: Sequence[Entry], value: bytes | None, why: str, nbytes: int,
               is_task: bool) -> None:
        try:
            if not why:
                why = self._keep(key, entries, value)
        except (OSError, MemoryError) as error:
            why = f"they cannot be written: {error}"
        except Exception as error:  # a lost object, or one whose classes cannot be found by name
            why = f"they cannot be read: {type(error).__name__}: {error}"
        runtime = self._runtime
        with runtime.loop.lock:
            self._waiting -= nbytes
            if not runtime.closed:
                runtime.refs.unpin_all(entries)
        if why and why != "failed":
            self._counts.not_kept(why)
            if why != self._trouble:
                self._trouble = why
                logger.warning("results of this job are not kept, and their tasks would run again: %s", why)
        elif not why and is_task:
            self._counts.kept += 1

    def _keep(self, key: bytes, entries: Sequence[Entry], value: bytes | None) -> str:
        """Write one result; why it is not kept, or ''."""
        if value is not None:
            return "" if self._folder.write(key, 0, [value]) else "too large"
        wires = [entry.value for entry in entries]
        if None in wires:
            return "they were lost with a node, and are made again"
        payloads: list[Any] = [self._runtime.values.payload(wire) for wire in wires]
        pickles = [serialization.pickle_of(payload) for payload in payloads]
        if any(_ACTOR in data for data in pickles):
            return "the results contain handles of actors"
        flags = 0
        if any(_CLASS_BY_VALUE in data for data in pickles):
            flags = BY_NAME
            try:
                payloads = [serialization.dumps_by_name(serialization.loads(payload)) for payload in payloads]
            except (pickle.PicklingError, AttributeError) as error:
                return f"the next run could not find their classes: {error}"
        return "" if self._folder.write(key, flags, payloads) else "larger than half of resume_bytes_max"

    def _report(self) -> None:
        self._changed = False  # before the counts are read: what changes now is in the next report
        runtime = self._runtime
        with runtime.loop.lock:
            if not runtime.closed:
                runtime.send(runtime.node, m.ResumeReport(self._counts.as_dict()))
        runtime.kick()


_END: Callable[[], None] = lambda: None  # noqa: E731  (a mark)


def _mixed(key: bytes, number: int) -> bytes:
    return blake2b(key + number.to_bytes(8, "little", signed=True), digest_size=RESULT_KEY_BYTES).digest()
