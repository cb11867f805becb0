"""Runs recorded runs again, one after the other in this process, and compares what they do with what they did.

    tasks, items of maps     each by itself, in the order of their starts: arguments and all answers are in the record
    actors                   a life as a whole: its constructor, then its calls
        sync                 in the order of their starts
        async, threaded      started and awaited in the order of the recorded starts and ends

One process, so that the order is the recorded one and a debugger sees everything.  Values that were too large for the
recording are made again by the runs that made them.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import random
import re
import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial
from types import AsyncGeneratorType, GeneratorType
from typing import Any, NoReturn

from zray.base.errors import AsyncioActorExit, ExitActor, from_failure
from zray.base.ids import DYNAMIC_FIRST, return_id
from zray.base.plain_text import REPR_MAX, representation
from zray.base.task_errors import RayTaskError, TaskErrorRecord
from zray.handles.options import DYNAMIC, STREAMING
from zray.recording.records import CONSTRUCTOR, ITEM_OF_MAP, Piece, RunEnded, digest_of
from zray.replay.reading import CannotReplay, RecordedRun, Recording, is_call
from zray.replay.runtime import (
    Diverged,
    Divergence,
    RecordEnds,
    ReplayRuntime,
    Scope,
    Unanswered,
    enter,
    leave,
    present,
    same_value,
    shown_value,
)
from zray.values import serialization
from zray.worker.run import invoke

# A call that ran beside others has ended in its record, so it must end here: in so many times its recorded time, and
# this much for a busy machine.
CALL_TIMES_MAX = 10
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")  # in texts of errors: each process has its own
CALL_ENDS_WITHIN_S = 20.0
_END = object()
Call = Callable[[Any, tuple, dict[str, Any]], Any]  # (function, args, kwargs) -> its value


def plainly(function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


class Replayer:
    """Replays runs of one recording; ``say(text)`` is called with what a user should know."""

    def __init__(self, recording: Recording, say: Callable[[str], None]):
        self.recording = recording
        self.say = say
        self.count = 0  # replayed runs
        self._functions: dict[bytes, Any] = {}
        self._states: dict[tuple[str, int], Any] = {}
        self._quiet = False  # a run is run for its values
        self.runtime = ReplayRuntime(recording, self._remake)

    def __enter__(self) -> Replayer:
        self.runtime.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.runtime.uninstall()

    # ------------------------------------------------------------ what to replay

    def all(self, until: RecordedRun | None = None) -> Iterator[Divergence]:
        """Replay everything, in the order of starts, up to ``until``: the divergences, as they are found."""
        for run in self.recording.runs:
            if run.started.kind == CONSTRUCTOR:
                last = until if until is not None and self._in_life(until, run) else None
                found = self._unit(run, partial(self.life, run, last))
            elif is_call(run):
                continue
            else:
                found = self._unit(run, partial(self.task, run))
            if found is not None:
                yield found
            if run is until or (until is not None and self._in_life(until, run)):
                return

    def _in_life(self, call: RecordedRun, constructor: RecordedRun) -> bool:
        one, other = call.started, constructor.started
        return constructor.started.kind == CONSTRUCTOR and is_call(call) and (one.actor, one.life) == (
            other.actor, other.life)

    def _unit(self, run: RecordedRun, replay: Callable[[], Divergence | None]) -> Divergence | None:
        """One of many: what cannot be replayed is said, and left out."""
        why = self._why_not(run)
        if why:
            self.say(f"left out: {run}: {why}")
            return None
        try:
            return replay()
        except CannotReplay as error:
            self.say(f"left out: {run}: {error}")
            return None
        finally:
            self.runtime.forget()

    @staticmethod
    def _why_not(run: RecordedRun) -> str:
        if run.started.kind == CONSTRUCTOR:
            return ""
        if run.ended is None:
            return "its process ended during it; --task runs it here"
        if run.failure is not None and run.failure[1] != "task_error":
            return f"it ended with {run.failure[1]!r}"
        if run.failure is not None and TaskErrorRecord.from_bytes(run.failure[2]).type_name == "KeyboardInterrupt":
            return "it was interrupted"
        return ""

    def task(self, run: RecordedRun, call: Call = plainly) -> Divergence | None:
        """Replay one task, or one item of a map; ``call`` calls its function."""
        return self._checked(run, lambda: self._run(run, self._function(run.started.function), call))

    def life(self, constructor: RecordedRun, until: RecordedRun | None = None, call: Call = plainly
             ) -> Divergence | None:
        """Replay one life of an actor, up to the call ``until``, which ``call`` runs."""
        options = constructor.started.options
        if options["restored"]:
            raise CannotReplay(f"life {constructor.started.life} began from a checkpoint and calls of an earlier life, "
                               "which are not in the recording; the first life can be replayed")
        started = constructor.started
        runs = [run for run in self.recording.life(started.actor, started.life) if run is not constructor]
        life = _Life(self, constructor, runs, until, call)
        return self._checked(constructor, getattr(life, options["mode"]))

    def driver(self) -> Divergence | None:
        """Run the driver's script again, which gets its recorded answers; its own results cannot be compared."""
        run = self.recording.driver()
        facts = run.process.facts
        script = os.path.join(facts["cwd"], facts["script"])
        if not facts["script"] or not os.path.isfile(script):
            raise CannotReplay("the driver was no script, or its file is gone: replay its tasks and actors")

        def play() -> None:
            scope = self.begin(run, None)
            token, argv = enter(scope), sys.argv
            sys.argv = [script, *facts["argv"][1:]]
            try:
                with self.runtime.as_session():
                    runpy.run_path(script, run_name="__main__")
                scope.end()
            except SystemExit as error:
                self.say(f"the driver ends by sys.exit({error.code!r})")
            finally:
                leave(token)
                sys.argv = argv

        return self._checked(run, play)

    def _checked(self, run: RecordedRun, replay: Callable[[], None]) -> Divergence | None:
        try:
            replay()
        except Diverged as diverged:
            return diverged.divergence
        except RecordEnds:
            self.say(f"{run}: its record ends here, since its process ended")
        except Unanswered as error:
            raise CannotReplay(str(error)) from error.__cause__
        return None

    def _remake(self, run: RecordedRun) -> None:
        """Run a task for its values, which are too large for the recording."""
        if run.started.kind == CONSTRUCTOR or is_call(run):
            raise Unanswered(f"a value of {run} is too large for the recording, and is made again only by a replay of "
                             "its actor: record with a larger record_value_bytes_max")
        quiet, self._quiet = self._quiet, True
        try:
            self._run(run, self._function(run.started.function), plainly)
        finally:
            self._quiet = quiet

    # ------------------------------------------------------------ one run

    def _function(self, key: bytes) -> Any:
        found = self._functions.get(key)
        if found is None:
            definition = self.recording.definitions.get(key)
            if definition is None:
                raise Unanswered(f"the function {key.hex()} is not in the recording, which stopped before it")
            try:
                found = serialization.load_function(definition.blob)
            except Exception as error:
                raise Unanswered(
                    f"{definition.name or key.hex()} cannot be unpickled: {type(error).__name__}: {error}. Replay "
                    "where the modules that it imports are installed, of the same versions") from error
            self._functions[key] = found
        return found

    def arguments(self, run: RecordedRun) -> tuple[tuple, dict[str, Any]]:
        """``(args, kwargs)`` as the run got them."""
        started, runtime = run.started, self.runtime
        payload = runtime.restored(started.args, f"the arguments of {run}")
        values = [serialization.loads(runtime.restored(piece, f"argument {slot!r} of {run}"))
                  for slot, piece in zip(started.slots, started.deps, strict=True)]
        try:
            args, kwargs = serialization.load_args(payload, started.slots, values)
        except Exception as error:
            raise Unanswered(f"the arguments of {run} cannot be unpickled: {type(error).__name__}: {error}. Replay "
                             "where the modules that they need are installed") from error
        return tuple(args), kwargs

    def seed(self, run: RecordedRun) -> None:
        """Set the random generators to what the run found."""
        for source, number in zip(("random", "numpy"), run.started.random, strict=False):
            recorded = run.process.states.get(number)
            if recorded is None:
                continue
            state = pickle.loads(recorded.state)
            if source == "random":
                random.setstate(state)
            else:
                import numpy

                numpy.random.set_state(state)

    def begin(self, run: RecordedRun, function: Any) -> Scope:
        self.count += not self._quiet
        self.seed(run)
        self.runtime.latest, self.runtime.trouble = run, ""
        return Scope(run, function)

    def _run(self, run: RecordedRun, function: Any, call: Call) -> Any:
        if any(piece.failure is not None for piece in run.started.deps):
            return None  # it did not run: an argument was an error
        token = enter(self.begin(run, function))
        try:
            return self.compare(run, lambda: call(function, *self.arguments(run)))
        finally:
            leave(token)

    def compare(self, run: RecordedRun, made: Callable[[], Any]) -> Any:
        """Run ``made()`` and compare its returns or its error; returns its value."""
        count, text = 0, ""
        try:
            value = made()
            for each in self._returns(run, value):
                count += 1
                self._take(run, count, each)
                text = text or representation(each)
                del each  # a generator may look at what is held of its items
        except (Diverged, RecordEnds, Unanswered, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._check_threads()
            self.compare_error(run, error)
            return None
        self._check_threads()
        scope_of(run).end()
        if run.ended is not None and not self._quiet:
            self._compare_end(run, run.ended, count, text)
        return value

    def _check_threads(self) -> None:
        if self.runtime.trouble:
            raise Unanswered(self.runtime.trouble)

    def _returns(self, run: RecordedRun, value: Any) -> Iterator[Any]:
        """The objects that a value is, by the number of returns that were asked for."""
        count = run.started.returns
        several = isinstance(value, GeneratorType)
        if count == STREAMING:
            for index, item in enumerate(value, 1):
                payload = self._packed(run, item)
                self._compare_piece(run, f"item {index}", run.items.get(index), item, payload)
                if self._quiet:
                    self.runtime.made[return_id(run.started.task, index)] = payload
            yield None
        elif run.started.kind == CONSTRUCTOR or count == 0:
            return
        elif count == DYNAMIC:
            yield from value
        elif several and run.started.kind != ITEM_OF_MAP:  # as zray.worker.run.generators
            for made in range(1, count + 1):
                item = next(value, _END)
                if item is _END:
                    raise invoke.wrong_count(made - 1, count)
                yield item
                del item
            next(value, None)  # a worker takes one more, to see whether there are too many
            value.close()
        elif count == 1:
            yield value
        else:
            try:
                values = tuple(value)
            except TypeError:
                raise invoke.not_several(value, count) from None
            if len(values) != count:
                raise invoke.wrong_count(len(values), count)
            yield from values

    @staticmethod
    def _packed(run: RecordedRun, value: Any) -> bytes:
        """The serialised value.  One that cannot be pickled fails its task, as in a worker; of an item it is b""."""
        try:
            return serialization.to_bytes(serialization.dumps(value))
        except Exception:
            if run.started.kind != ITEM_OF_MAP:
                raise
            return b""

    def _take(self, run: RecordedRun, index: int, value: Any) -> None:
        """Compare one return, or keep it for the run that needs it."""
        started, payload = run.started, self._packed(run, value)
        if self._quiet:
            if started.returns != STREAMING:
                first = DYNAMIC_FIRST if started.returns == DYNAMIC else 1
                self.runtime.made[return_id(started.task, first + index - 1)] = payload
        elif run.ended is not None and index <= len(run.ended.pieces):
            piece = run.ended.pieces[index - 1]
            if piece.failure is None:
                what = "its result" if started.returns in (1, STREAMING) else f"return {index}"
                self._compare_piece(run, what, piece, value, payload)

    def _compare_end(self, run: RecordedRun, ended: RunEnded, count: int, text: str) -> None:
        """The run has returned ``count`` objects; ``text`` shows the first."""
        if ended.failure is not None and not ended.pieces:
            self._diverge(run, "its result", error_text(ended.failure), text or "nothing")
        if is_call(run) and not ended.pieces and count and self._is_async(run):
            self.say(f"{run}: its actor ended during it, and here it ends by itself")
        elif count != len(ended.pieces):
            self._diverge(run, "its result", f"{len(ended.pieces)} objects", f"{count} objects")

    def _is_async(self, call: RecordedRun) -> bool:
        return self.recording.constructor_of(call).started.options["mode"] == "coroutines"

    def compare_error(self, run: RecordedRun, error: BaseException) -> None:
        if self._quiet:
            raise Unanswered(f"{run} is run for a value that is too large for the recording, and raises "
                             f"{type(error).__name__}: {error}") from error
        scope_of(run).end()
        ended = run.ended
        now = _text_of(error)
        if ended is None:
            self.say(f"{run}: its process ended during it; here it raises {now}")
        elif isinstance(error, (SystemExit, ExitActor, AsyncioActorExit)) and is_call(run):
            if ended.pieces or ended.failure is not None:
                self._diverge(run, "how it ends", self._recorded(run), now)
        elif ended.failure is None:
            self._diverge(run, "its result", self._recorded(run), f"it raises {now}")
        elif not same_error(ended.failure, error):
            self._diverge(run, "its error", error_text(ended.failure), now)

    def _recorded(self, run: RecordedRun) -> str:
        assert run.ended is not None
        if run.ended.failure is not None:
            return error_text(run.ended.failure)
        shown = [shown_value(piece.payload, f"{piece.nbytes} bytes, digest {piece.digest.hex()}")
                 for piece in run.ended.pieces]
        return ", ".join(shown) or "no value: it ended its actor"

    def _compare_piece(self, run: RecordedRun, what: str, piece: Piece | None, value: Any, payload: bytes) -> None:
        if self._quiet:
            return
        if piece is None:
            if run.ended is not None:
                self._diverge(run, what, "nothing", representation(value))
            return
        digest = digest_of(payload) if payload else b""
        if not same_value(piece.digest, piece.payload, digest, payload):
            recorded = shown_value(piece.payload, f"{piece.nbytes} bytes, digest {piece.digest.hex()}")
            now = representation(value)
            if recorded == now or piece.payload is None:
                now += f" ({len(payload)} bytes, digest {digest.hex()})"
            self._diverge(run, what, recorded, now)

    @staticmethod
    def _diverge(run: RecordedRun, what: str, recorded: str, now: str) -> NoReturn:
        raise Diverged(Divergence(str(run), what, recorded, now))


class _Life:
    """One life of an actor."""

    def __init__(self, replayer: Replayer, constructor: RecordedRun, runs: list[RecordedRun],
                 until: RecordedRun | None, call: Call):
        self.replayer = replayer
        self.constructor = constructor
        self.until = until
        self.call = call
        self.instance: Any = None
        self.left_out: list[RecordedRun] = []
        self.runs = runs if until is None else runs[:runs.index(until) + 1]

    def _construct(self) -> bool:
        """Make the instance; False when its constructor raised, as recorded."""
        replayer, run = self.replayer, self.constructor
        cls = replayer._function(run.started.function)
        scope = replayer.begin(run, cls)
        self._describe(scope)
        token = enter(scope)
        try:
            self.instance = replayer.compare(run, lambda: cls(*replayer.arguments(run)[0],
                                                              **replayer.arguments(run)[1]))
        finally:
            leave(token)
        return self.instance is not None

    def _describe(self, scope: Scope) -> None:
        options = self.constructor.started.options
        scope.fields.update(actor_name=options["name"], meta=options["meta"])

    def _scope(self, run: RecordedRun, function: Any) -> Scope:
        scope = self.replayer.begin(run, function)
        self._describe(scope)
        return scope

    def _how(self, run: RecordedRun) -> Call:
        return self.call if run is self.until else plainly

    def _skipped(self, run: RecordedRun) -> bool:
        if any(piece.failure is not None for piece in run.started.deps):
            return True
        why = self.replayer._why_not(run)
        if not why or run is self.until:
            return False
        self.replayer.say(f"left out: {run}: {why}")
        self.left_out.append(run)
        return True

    def _method(self, run: RecordedRun) -> Any:
        return method_of(self.instance, run.started.function)

    def sync(self) -> None:
        if not self._construct():
            return
        for run in self.runs:
            if not self._skipped(run):
                self._one(run)

    def _one(self, run: RecordedRun) -> None:
        function = self._method(run)
        token = enter(self._scope(run, function))
        try:
            self.replayer.compare(run, lambda: self._how(run)(function, *self.replayer.arguments(run)))
        finally:
            leave(token)

    def _events(self) -> list[tuple[bool, RecordedRun]]:
        """(is it a start, run), in the order of the record."""
        found = [(run.place, True, run) for run in self.runs] + [
            (run.end_place, False, run) for run in self.runs if run.ended is not None and not run.ended_with_actor]
        return [(starts, run) for _, starts, run in sorted(found, key=lambda event: event[0])]

    def threads(self) -> None:
        """Calls of a threaded actor: each on a thread of its own, from its recorded start on."""
        if not self._construct():
            return
        running: dict[RecordedRun, threading.Thread] = {}
        failed: list[BaseException] = []

        def work(run: RecordedRun) -> None:
            try:
                self._one(run)
            except BaseException as error:
                failed.append(error)

        for starts, run in self._events():
            if starts and not self._skipped(run):
                if run is self.until:
                    self._one(run)  # on this thread, for a debugger
                    continue
                running[run] = threading.Thread(target=copy_context().run, args=(work, run), daemon=True)
                running[run].start()
            elif not starts and run in running:
                running[run].join(patience := self._patience(run))
                if running[run].is_alive():
                    self._late(run, patience)
            if failed:
                raise failed[0]

    def coroutines(self) -> None:
        if not self._construct():
            return
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        running: dict[RecordedRun, asyncio.Task[None]] = {}
        try:
            for starts, run in self._events():
                if starts and not self._skipped(run):
                    running[run] = asyncio.get_running_loop().create_task(self._one_async(run))
                elif not starts and run in running:
                    done, _ = await asyncio.wait((running[run],), timeout=(patience := self._patience(run)))
                    if not done:
                        self._late(run, patience)
                    running[run].result()
            if self.until is not None and self.until in running:
                await running[self.until]
        finally:
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)

    async def _one_async(self, run: RecordedRun) -> None:
        replayer = self.replayer
        function = self._method(run)
        enter(self._scope(run, function))  # of this asyncio task alone
        try:
            value = self._how(run)(function, *replayer.arguments(run))
            if inspect.isawaitable(value):
                value = await value
            if isinstance(value, AsyncGeneratorType):
                value = (item for item in [item async for item in value])
        except (Diverged, RecordEnds, Unanswered, KeyboardInterrupt, asyncio.CancelledError):
            raise
        except BaseException as error:
            replayer.compare_error(run, error)
            return
        replayer.compare(run, lambda: value)

    @staticmethod
    def _patience(run: RecordedRun) -> float:
        """How long to wait for a call that has ended in its record, in seconds."""
        return CALL_ENDS_WITHIN_S + CALL_TIMES_MAX * (run.ended.took_ns if run.ended is not None else 0) / 1e9

    def _late(self, run: RecordedRun, waited_s: float) -> NoReturn:
        now = f"it has not ended after {waited_s:.0f} s"
        if self.left_out:
            raise Unanswered(f"{run}: {now}; it may wait for {self.left_out[-1]}, which was left out")
        self.replayer._diverge(run, "how it ends", f"it {run.end()}", now)


def scope_of(run: RecordedRun) -> Scope:
    scope = present()
    assert scope is not None and scope.run is run
    return scope


def method_of(instance: Any, name: str) -> Any:
    """A method as a worker calls it: that of the class, even if the instance has an attribute of that name."""
    if name == "__ray_ready__":
        return lambda: True
    if name == "__ray_terminate__":
        return lambda: None  # it ends the actor, after the calls that it has
    if name == "__ray_call__":
        return lambda fn, *args, **kwargs: fn(instance, *args, **kwargs)
    found = inspect.getattr_static(type(instance), name, None)
    if found is None:
        return getattr(instance, name)
    return found.__get__(instance, type(instance)) if hasattr(found, "__get__") else found


def error_text(failure: list[Any]) -> str:
    if failure[1] != "task_error":
        return f"{failure[1]}: {from_failure(failure[1], failure[2])}"
    record = TaskErrorRecord.from_bytes(failure[2])
    cause = getattr(from_failure(failure[1], failure[2]), "cause", None)
    if cause is not None:
        return _text_of(cause)
    return record.traceback.rstrip().rpartition("\n")[2] or record.type_name


def _text_of(error: BaseException) -> str:
    text = f"{type(error).__qualname__}: {error}"
    return text if len(text) <= REPR_MAX else text[:REPR_MAX - 3] + "..."


def same_error(failure: list[Any], error: BaseException) -> bool:
    """Whether an exception is the recorded one: the same type, the same text where the record has the exception."""
    if failure[1] != "task_error":
        return False
    record = TaskErrorRecord.from_bytes(failure[2])
    if record.type_name != type(error).__qualname__:
        return False
    recorded = from_failure(failure[1], failure[2])
    cause = getattr(recorded, "cause", None)
    now = error.cause if isinstance(error, RayTaskError) else error
    return cause is None or now is None or ADDRESS.sub("", str(cause)) == ADDRESS.sub("", str(now))
