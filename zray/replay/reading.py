"""A recording as it is read: its processes, their runs, and how a user names one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from zray.base import ids
from zray.base.version import __version__
from zray.handles.options import DYNAMIC, STREAMING
from zray.recording.files import RECORDING_MARK
from zray.recording.records import (
    ACTOR_CALL,
    CONSTRUCTOR,
    RECORD_FORMAT,
    RECORD_SUFFIX,
    About,
    Asked,
    Definition,
    Frames,
    Item,
    LimitReached,
    NoRecord,
    Piece,
    Randomness,
    RunEnded,
    RunStarted,
    Seen,
)

LISTED_RUNS_MAX = 10  # runs that an error lists


class CannotReplay(ValueError):
    """The recording has not what is asked for; the message says what, and what to do."""


class RecordedRun:
    """One run: how it started, what it asked, how it ended (None: its process ended first)."""

    def __init__(self, process: RecordedProcess, started: RunStarted, place: int):
        self.process = process
        self.started = started
        self.ended: RunEnded | None = None
        self.asked: list[Asked] = []
        self.items: dict[int, Piece] = {}
        self.place = place  # among the records of its process
        self.end_place = sys.maxsize

    @property
    def key(self) -> tuple[int, int, int]:
        """Where it comes in the order of starts."""
        return self.started.time_ns, self.process.facts["pid"], self.started.number

    @property
    def failure(self) -> list[Any] | None:
        return self.ended.failure if self.ended is not None else None

    @property
    def ended_with_actor(self) -> bool:
        """It ended its actor, or the end of its actor ended it: it has no result."""
        ended = self.ended
        return ended is not None and not ended.pieces and ended.failure is None and self.started.returns != 0

    def __str__(self) -> str:
        started = self.started
        if not started.task:
            return started.name
        attempt = f", attempt {started.attempt}" if started.attempt and started.kind != CONSTRUCTOR else ""
        name = ids.short(started.task) if started.kind != CONSTRUCTOR else f"actor {started.actor.hex()}"
        return f"{started.name} ({name}{attempt})"

    def piece_of(self, oid: bytes) -> Piece | None:
        """The record of a return or an item of this run."""
        started = self.started
        index = int.from_bytes(oid[ids.TASK_SIZE:], "little")
        if oid[:ids.TASK_SIZE] != started.task or self.ended is None:
            return None
        if started.returns == STREAMING:
            return self.items.get(index)
        place = index - (ids.DYNAMIC_FIRST if started.returns == DYNAMIC else 1)
        return self.ended.pieces[place] if 0 <= place < len(self.ended.pieces) else None

    def end(self) -> str:
        """How it ended, in a word or two."""
        if self.ended is None:
            return "its process ended"
        if self.ended_with_actor and self.started.kind == ACTOR_CALL:
            return "ended with its actor"
        if self.failure is not None:
            return "failed" if self.failure[1] == "task_error" else str(self.failure[1])
        return "ended"


class RecordedProcess:
    """The records of one process."""

    def __init__(self, path: str, frames: Frames):
        self.path = path
        self.facts: dict[str, Any] = {}
        self.runs: dict[int, RecordedRun] = {}
        self.seen: dict[bytes, Piece] = {}
        self.states: dict[int, Randomness] = {}
        self.definitions: dict[bytes, Definition] = {}
        self.outside: list[Asked] = []  # by code outside of runs
        self.full = 0
        for place, record in enumerate(frames):
            self._take(place, record)
        self.damage = frames.damage

    def _take(self, place: int, record: Any) -> None:
        kind = type(record)
        if kind is Asked:
            run = self.runs.get(record.run)
            (run.asked if run is not None else self.outside).append(record)
        elif kind is RunStarted:
            self.runs[record.number] = RecordedRun(self, record, place)
        elif kind is RunEnded:
            run = self.runs[record.number]
            run.ended, run.end_place = record, place
        elif kind is Item:
            if record.run in self.runs:
                self.runs[record.run].items[record.position] = record.piece
        elif kind is Seen:
            self.seen[record.oid] = record.piece
        elif kind is Randomness:
            self.states[record.number] = record
        elif kind is Definition:
            self.definitions[record.key] = record
        elif kind is LimitReached:
            self.full = record.bytes_max
        else:
            assert kind is About
            self.facts = record.facts


class Recording:
    """All processes of a recording."""

    def __init__(self, processes: Iterable[RecordedProcess]):
        self.processes = sorted(processes, key=lambda process: (
            process.facts["kind"] != "driver", process.facts["started_ns"]))
        self.runs = sorted((run for process in self.processes for run in process.runs.values()),
                           key=lambda run: run.key)
        self.definitions = {key: each for process in self.processes for key, each in process.definitions.items()}
        self._by_task: dict[bytes, RecordedRun] = {}
        self._puts: dict[bytes, RecordedRun] = {}
        for run in self.runs:
            self._by_task[run.started.task] = run  # the last attempt
            for asked in run.asked:
                if asked.kind == "put" and asked.answer is not None:
                    self._puts[asked.answer[1]] = run

    @property
    def facts(self) -> dict[str, Any]:
        """Of the first process: the driver, where it is recorded."""
        return self.processes[0].facts

    def notes(self) -> list[str]:
        """What a user should know before he trusts a replay."""
        found = []
        if self.facts["zray"] != __version__:
            found.append(f"It was recorded by zray {self.facts['zray']}, and this is zray {__version__}.")
        for process in self.processes:
            where = f"The {process.facts['kind']} with process id {process.facts['pid']}"
            if process.full:
                found.append(f"{where} recorded no more than {process.full} bytes (record_bytes_max).")
            if process.damage:
                found.append(f"{process.path}: {process.damage}.")
        return found

    def maker(self, oid: bytes) -> RecordedRun | None:
        """The run that made an object: by its return, or by ``put``."""
        return self._puts.get(oid) or self._by_task.get(oid[:ids.TASK_SIZE])

    def life(self, actor: bytes, life: int) -> Iterator[RecordedRun]:
        """The constructor of a life of an actor, and its calls in the order of their starts."""
        return (run for run in self.runs if run.started.actor == actor and run.started.life == life)

    # ------------------------------------------------------------ how a user names a run

    def find(self, text: str) -> RecordedRun:
        """A run by its id (from ``--list``, or full, or the beginning), by its name, or as NAME#N, the N-th of a name.

        Of a task with several attempts, the last one.  CannotReplay when none or several are meant.
        """
        named, _, which = text.partition("#")
        runs = [run for run in self.runs if run.started.kind != CONSTRUCTOR]
        found = [run for run in runs if _is_called(run, named)]
        if which.isdecimal() and found:
            if not 1 <= int(which) <= len(found):
                raise CannotReplay(f"there is no {text}: {len(found)} runs of {named} are recorded")
            return found[int(which) - 1]
        found = found or [run for run in runs if text in (ids.short(run.started.task), run.started.task.hex())]
        found = found or [run for run in runs if _begins(run, text)]
        if len({run.started.task for run in found}) == 1:
            return found[-1]
        if found:
            raise CannotReplay(f"{len(found)} runs are meant by {text!r}: {_listed(found)}. Give an id, or {named}#N "
                               "for the N-th of them")
        raise CannotReplay(f"no run is called {text!r}. Recorded are {_listed(runs)}")

    def find_actor(self, text: str, life: int | None = None) -> RecordedRun:
        """The constructor of an actor: by the beginning of its id, its name or its class; its first life by default."""
        made = [run for run in self.runs if run.started.kind == CONSTRUCTOR]
        short = text.rpartition(".")[2]
        found = [run for run in made if run.started.options["name"] == text] or \
            [run for run in made if run.started.options["class_name"].rpartition(".")[2] == short] or \
            [run for run in made if run.started.actor.hex().startswith(text)]
        actors = dict.fromkeys(run.started.actor for run in found)
        if len(actors) > 1:
            raise CannotReplay(f"{len(actors)} actors are meant by {text!r}: {_listed(found)}. Give an id")
        if not found:
            raise CannotReplay(f"no actor is called {text!r}. Recorded are {_listed(made)}")
        lives = {run.started.life: run for run in found}
        wanted = min(lives) if life is None else life
        if wanted not in lives:
            raise CannotReplay(f"{found[0]} has no life {wanted}; recorded are {sorted(lives)}")
        return lives[wanted]

    def driver(self) -> RecordedRun:
        """All that the driver asked, as one run."""
        found = [process for process in self.processes if process.facts["kind"] == "driver"]
        if not found:
            raise CannotReplay("the driver is not in the recording")
        facts = found[0].facts
        run = RecordedRun(found[0], RunStarted(
            0, "driver", b"", 0, f"the driver {os.path.basename(facts['script'])}", b"", 0, Piece(b"", 0), [], [], b"",
            0, [], facts["started_ns"], {}), 0)
        run.asked = found[0].outside
        return run

    def constructor_of(self, run: RecordedRun) -> RecordedRun:
        for each in self.life(run.started.actor, run.started.life):
            if each.started.kind == CONSTRUCTOR:
                return each
        raise CannotReplay(f"{run} is a call of an actor whose constructor is not recorded")


def _is_called(run: RecordedRun, name: str) -> bool:
    called = run.started.name
    return name in (called, called.rpartition("<locals>.")[2], called.rpartition(".")[2])


def _begins(run: RecordedRun, text: str) -> bool:
    task = run.started.task
    return bool(text) and (task.hex().startswith(text) or ids.short(task).startswith(text))


def _listed(runs: list[RecordedRun]) -> str:
    if not runs:
        return "none"
    more = f" and {len(runs) - LISTED_RUNS_MAX} more" if len(runs) > LISTED_RUNS_MAX else ""
    return ", ".join(map(str, runs[:LISTED_RUNS_MAX])) + more


def read(folder: str) -> Recording:
    """Read a recording.  CannotReplay when ``folder`` has none, or one that this Python cannot run."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(RECORD_SUFFIX))
        marked = os.path.exists(os.path.join(folder, RECORDING_MARK))
    except OSError as error:
        raise CannotReplay(f"cannot read {folder}: {error.strerror}") from None
    if not names:
        raise CannotReplay(f"{folder} is no recording" if not marked else
                           f"the recording in {folder} is empty: the program has not called init()")
    processes = []
    for name in names:
        path = os.path.join(folder, name)
        try:
            with open(path, "rb") as file:
                process = RecordedProcess(path, Frames(file.read()))
        except (OSError, NoRecord) as error:
            raise CannotReplay(f"cannot read {path}: {error}") from None
        if not process.facts:
            continue  # killed before its first record was whole
        _check(path, process.facts)
        processes.append(process)
    if not processes:
        raise CannotReplay(f"the recording in {folder} is empty: its processes ended before they did anything")
    return Recording(processes)


def _check(path: str, facts: dict[str, Any]) -> None:
    if facts["format"] != RECORD_FORMAT:
        raise CannotReplay(f"{path} has format {facts['format']} of zray {facts['zray']}; this zray {__version__} "
                           f"reads format {RECORD_FORMAT}. Replay it with that version")
    mine = ".".join(map(str, sys.version_info[:2]))
    theirs = ".".join(facts["python"].split(".")[:2])
    if mine != theirs:
        raise CannotReplay(f"it was recorded with Python {facts['python']}, whose pickled functions Python {mine} "
                           f"cannot run: replay it with Python {theirs}")


def is_call(run: RecordedRun) -> bool:
    return run.started.kind == ACTOR_CALL
