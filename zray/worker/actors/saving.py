"""The state of an actor with checkpoints: written, read, and brought forward by the calls of earlier lives.

    class has                              the checkpoint is               a later life begins with
    __zray_save__ and __zray_restore__     what __zray_save__() returns    the constructor, then __zray_restore__(state)
    neither                                the instance, pickled           the unpickled instance
    the methods of Checkpointable          in the user's hands             the constructor, then load_checkpoint(...)

A checkpoint is a file: the part that zray.worker.actors.logged needs again, then the state.  All of this runs on the
main thread, between two calls.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
import time
import traceback
from collections.abc import Callable
from types import GeneratorType
from typing import Any, BinaryIO

from zray.base.checkpoint_names import CHECKPOINT_FOLDER, PARTIAL, file_name
from zray.handles.options import STREAMING
from zray.values.pickler import Pickler
from zray.wire.messages import FAILED
from zray.worker.actors.life import ActorLife
from zray.worker.actors.logged import CheckpointMark, LoggedCalls, Replayed, Taken
from zray.worker.execution import Execution
from zray.worker.queue import FUNCTION, RETURNS, TASK_ATTEMPT, TASK_ID, ServedLease
from zray.worker.run import invoke
from zray.worker.run.cancel import NO_INTERRUPTS

_HEAD = struct.Struct("<Q")
_CLASS = "class"


class StatePickler(Pickler):
    """Pickles the state; the actor's class itself is in the functions table, and only named here."""

    def __init__(self, file: BinaryIO, cls: type):
        super().__init__(file, protocol=5)
        self._cls = cls

    def persistent_id(self, obj: Any) -> str | None:
        return _CLASS if obj is self._cls else None


class StateUnpickler(pickle.Unpickler):
    """See StatePickler."""

    def __init__(self, file: BinaryIO, cls: type):
        super().__init__(file)
        self._cls = cls

    def persistent_load(self, name: str) -> Any:
        return self._cls


class Saving:
    """The checkpoints of the actor of this process."""

    def __init__(self, life: ActorLife, settings: dict[str, Any], executor: Execution, logged: LoggedCalls,
                 session_dir: str, instance: Callable[[], Any], end_by: Callable[[BaseException, str], None]):
        self._life = life
        self._settings = settings
        self._executor = executor
        self._logged = logged
        self._instance = instance
        self._end_by = end_by
        self._session_dir = session_dir
        self._written: list[str] = []  # files in the user's folder that a later checkpoint replaces
        self._restored: Taken | None = None
        self._ids: list[str] = []  # of the checkpoints of an old-style class
        self._last_s = 0.0  # when such a class made its last one

    # ------------------------------------------------------------ the begin of a life

    def instance(self, cls: Any, construct: Callable[[], Any]) -> Any:
        """The instance of this life; may run user code, and raises what that raises."""
        place = self._logged.checkpoint
        if place is None:
            return construct()
        try:
            with self._open(place, "rb") as file:
                size, = _HEAD.unpack(file.read(_HEAD.size))
                taken = pickle.loads(file.read(size))
                state = StateUnpickler(file, cls).load()
        except (OSError, EOFError, pickle.UnpicklingError, struct.error) as error:
            raise RuntimeError(f"the checkpoint {self._name_of(place)} of {self._life.class_name} cannot be read: "
                               f"{error}") from error
        if "url" in place:
            self._written.append(place["url"])
        self._restored = Taken(*taken)
        if hasattr(cls, "__zray_restore__"):
            found = construct()
            found.__zray_restore__(state)
        elif self._settings.get("old_style"):
            found = construct()
            self._load_old_style(found, state)
        else:
            found = state
        return found

    def begin(self) -> None:
        """The instance is there (under the lock): gather the calls of earlier lives."""
        self._logged.restore(self._restored)
        self._restored = None

    def _load_old_style(self, instance: Any, state: Any) -> None:
        from zray.handles.checkpoints import Checkpoint, actor_id_of

        self._ids.append(state[0])
        loaded = instance.load_checkpoint(actor_id_of(self._life.id), [Checkpoint(*state)])
        if loaded != state[0]:
            raise RuntimeError(f"{self._life.class_name}.load_checkpoint() returned {loaded!r}, not the id of the "
                               f"checkpoint that it was given: the calls since then have no state to run on")

    # ------------------------------------------------------------ work in the queue

    def run(self, lease: ServedLease, work: CheckpointMark | Replayed) -> None:
        if type(work) is Replayed:
            self._replay(work)
        else:
            self._checkpoint()

    def _checkpoint(self) -> None:
        executor, logged = self._executor, self._logged
        with executor.loop.lock:
            executor.flush()
            taken = logged.begin()
        if taken is None:
            return
        try:
            place = self._save(taken)
        except OSError as error:  # a full disk: again later; meanwhile callers keep their calls
            print(f"zray: a checkpoint of {self._life.class_name} could not be written, and is tried again: "
                  f"{error}", file=sys.stderr)
            with executor.loop.lock:
                logged.not_saved()
            return
        except Exception as error:
            traceback.print_exc()
            with executor.loop.lock:
                logged.lose(f"its checkpoint cannot be made: {type(error).__name__}: {error}. Give its class "
                            "__zray_save__(), which returns what to keep, and __zray_restore__(state)")
                executor.loop.kick()
            return
        with executor.loop.lock:
            if place is None:
                logged.skipped()
            else:
                logged.saved(place)
            executor.loop.kick()

    def _save(self, taken: Taken) -> dict[str, Any] | None:
        """Write a checkpoint; None when the class wants none now."""
        instance = self._instance()
        cls = type(instance)
        state = instance
        if hasattr(cls, "__zray_save__"):
            state = instance.__zray_save__()
        elif self._settings.get("old_style"):
            state = self._save_old_style(instance)
            if state is None:
                return None
        name = file_name(self._life.id, self._life.number, taken.start)
        folder = self._settings.get("dir")
        place: dict[str, Any] = {"url": f"{folder.rstrip('/')}/{name}"} if folder else {"file": name}
        unfinished = {key: value + PARTIAL for key, value in place.items()}
        if "file" in place:
            os.makedirs(os.path.join(self._session_dir, CHECKPOINT_FOLDER), mode=0o700, exist_ok=True)
        try:
            with self._open(unfinished, "wb") as file:
                head = pickle.dumps(tuple(taken), 5)
                file.write(_HEAD.pack(len(head)))
                file.write(head)
                StatePickler(file, cls).dump(state)
                if folder and hasattr(file, "fileno") and "://" not in folder:
                    file.flush()
                    os.fsync(file.fileno())
            self._rename(unfinished, place)
        except BaseException:
            self._remove(unfinished)
            raise
        if folder:
            for url in self._written[:-1]:  # the last one may be what the home knows
                self._remove({"url": url})
            self._written = [*self._written[-1:], place["url"]]
        else:
            place["bytes"] = os.stat(self._path(place)).st_size
        return place

    def _save_old_style(self, instance: Any) -> list[Any] | None:
        from zray.handles.checkpoints import CheckpointContext, actor_id_of, new_checkpoint_id

        actor = actor_id_of(self._life.id)
        context = CheckpointContext(actor, self._logged.started - self._logged.covered, self._since())
        if not instance.should_checkpoint(context):
            return None
        checkpoint = new_checkpoint_id()
        instance.save_checkpoint(actor, checkpoint)
        self._last_s = time.monotonic()
        for old in self._ids[:-1]:  # the last one may be what the home knows
            instance.checkpoint_expired(actor, old)
        self._ids = [*self._ids[-1:], checkpoint]
        return [checkpoint, time.time()]

    def _since(self) -> int:
        """Milliseconds since the last checkpoint of this life."""
        self._last_s = self._last_s or time.monotonic()
        return int((time.monotonic() - self._last_s) * 1000)

    # ------------------------------------------------------------ files

    def _path(self, place: dict[str, Any]) -> str:
        if "url" in place:
            return str(place["url"])
        return os.path.join(self._session_dir, CHECKPOINT_FOLDER, place["file"])

    _name_of = _path

    def _open(self, place: dict[str, Any], mode: str) -> Any:
        path = self._path(place)
        if "://" in path:
            return _fsspec().open(path, mode)
        if "url" in place and mode == "wb":
            os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, mode)

    def _rename(self, unfinished: dict[str, Any], place: dict[str, Any]) -> None:
        path = self._path(place)
        if "://" in path:
            files, target = _fsspec().core.url_to_fs(path)
            files.mv(target + PARTIAL, target)
        else:
            os.rename(self._path(unfinished), path)

    def _remove(self, place: dict[str, Any]) -> None:
        path = self._path(place)
        try:
            if "://" in path:
                files, target = _fsspec().core.url_to_fs(path)
                files.rm(target)
            else:
                os.unlink(path)
        except OSError:
            return  # it is gone, or cannot be removed: only its room is lost

    # ------------------------------------------------------------ calls of earlier lives

    def _replay(self, replayed: Replayed) -> None:
        executor, task = self._executor, replayed.task
        if replayed.wanted and task[RETURNS] != STREAMING:
            lease = ServedLease(replayed.caller, self._life.number)
            result = executor.run_one(task, lease, NO_INTERRUPTS)
        else:
            result = self._run_again(task)
            if replayed.wanted and result is None:  # its items went to the caller before the end of that life, or not
                result = [FAILED, "actor_unavailable", {
                    "actor": self._life.id, "class_name": self._life.class_name,
                    "reason": "its process ended while the items of this call were sent; the call itself has run"}]
        with executor.loop.lock:
            self._logged.replay_ended(replayed, result)
            executor.loop.kick()

    def _run_again(self, task: list[Any]) -> Any:
        """Run a call for its effect on the state; returns the failure that means it has not run, else None."""
        executor = self._executor
        rt = executor.rt
        context = rt.context
        context.task, context.attempt, context.task_name = task[TASK_ID], task[TASK_ATTEMPT], executor.name_of(task)
        borrowed: list[Any] = []
        try:
            function, _ = executor.table.get(task[FUNCTION]) or executor.load(task[FUNCTION])
            args, kwargs = invoke.arguments(rt, task, borrowed.append)
            value = function(*args, **kwargs)
            if isinstance(value, GeneratorType):
                for _ in value:
                    pass
        except invoke.DependencyFailed as failed:
            if failed.value[1] == "dependency_lost":
                return failed.value
        except SystemExit as raised:
            self._end_by(raised, context.task_name)
        except Exception:
            return None  # its caller had this error
        return None


def _fsspec() -> Any:
    try:
        import fsspec  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        raise RuntimeError("checkpoint_dir is read through fsspec, which the actor's environment does not have: "
                           "install zray[fsspec] there, and the package of fsspec for its scheme") from None
    return fsspec
