"""What a session has kept of its rows after its end: found by its name, read, and asked like a running node.

The rows are those of the moment when the file was written (zray.node.running.kept_state): at the planned end, or at
the last refresh before the session was killed.  The nodes of one cluster that ran on this machine are read together.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import Any

import msgpack

from zray.base.ids import PUT_FLAG, TASK_SIZE
from zray.node import views
from zray.node.jobs.spans import SpanLog
from zray.node.jobs.task_events import TaskEventLog
from zray.node.peers.queries import EVERYWHERE, add
from zray.node.running import session as sessions
from zray.node.running.kept_state import STATE_FORMAT, STATE_MAGIC
from zray.node.running.logs import answer as answer_logs
from zray.state.errors import RayStateApiException, ServerUnavailable

ROWS_NAMED = {"tasks": "tasks", "objects": "references"}
NOT_HERE = "it has kept nothing on this machine"
LAST = "last"  # instead of a name: the session that ended last
SESSIONS_NAMED_MAX = 5  # sessions that an error names
FILE_BYTES_MAX = 256 << 20  # of the file unpacked: no session writes more, whatever its settings


class NothingKept(ServerUnavailable):
    """There is no such session, or it has kept nothing that can be read."""


class KeptNode:
    """What one node has kept."""

    def __init__(self, session_dir: str):
        found = _read(session_dir)
        self.session_dir = session_dir
        try:
            self.about: dict[str, Any] = found["about"]
            self.answers: dict[str, dict[str, Any]] = found["answers"]
            self.store: dict[str, Any] = found["store"]
            self.last: dict[str, dict[str, Any]] = found["last"]
            self.events = TaskEventLog.loaded(found["events"])
            self.spans = SpanLog.loaded(found["spans"])
            self.incarnation = bytes.fromhex(self.about["node_id"])[:8]
            self._address: str = self.answers["nodes"]["nodes"][0]["NodeManagerAddress"]
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise NothingKept(f"the state of the session {session_dir} is damaged ({error!r})") from None

    def ask(self, what: str, args: dict[str, Any]) -> dict[str, Any]:
        """The answer of the node to a question."""
        if what == "tasks":
            wanted = views.id_of(args).hex()
            last, cut = self._last("tasks")
            live = [row for row in last if not wanted or row.get("task_id") == wanted]
            return {**views.tasks(self.events, args, lambda worker: False), "live": live, "cut": cut}
        if what == "timeline":
            return views.timeline(self.events, args, self._address)
        if what == "spans":
            return views.spans(self.spans, self.events, args, self.about["written_s"])
        if what == "functions":
            return views.functions(self.events, args)
        if what == "parents":
            return views.parents(self.events, args)
        if what == "logs":
            return answer_logs(os.path.join(self.session_dir, sessions.LOGS), args)
        if what == "store":
            return {"store": views.shown(self.store)}
        if what == "objects":
            return self._objects()
        answer = self.answers.get(what)
        if answer is None:
            return {"error": f"a session that has ended keeps no {what!r}"}
        given, total = len(answer.get(what, ())), answer.get("total", 0)
        cut = [f"{given} of {total} {what} were kept"] if total > given else []
        return {**answer, "live": [], "cut": cut}

    def _last(self, what: str) -> tuple[list[dict[str, Any]], list[str]]:
        """``(rows of the driver that left last, what they lack, in words)``."""
        answer = self.last.get(what, {})
        rows, total = list(answer.get(what, ())), answer.get("total", 0)
        cut = [f"the last driver kept {len(rows)} of its {total} {ROWS_NAMED[what]}"] if total > len(rows) else []
        return rows, cut

    def _objects(self) -> dict[str, Any]:
        """References of the driver that left last, and objects in the store that it did not refer to, with the
        processes in whose memory they lay."""
        pids = self.store.get("pids", {})
        drivers = {job.get("driver") for job in self.answers.get("jobs", {}).get("jobs", ())}
        live, cut = self._last("objects")
        referred = {row.get("object_id") for row in live}
        for row in self.store.get("objects", ()):
            holder = row["holder"].hex()
            if row["oid"].hex() in referred:
                continue
            is_put = int.from_bytes(row["oid"][TASK_SIZE:], "little") & PUT_FLAG
            live.append({
                "object_id": row["oid"].hex(), "nbytes": row["nbytes"], "reference_type": "PINNED_IN_MEMORY",
                "task_status": "NIL" if is_put else "FINISHED", "attempt": 0,
                "process": {"type": "DRIVER" if holder in drivers else "WORKER" if holder else "NODE",
                            "pid": pids.get(holder) or self._pid_of(holder), "worker_id": holder or
                            self.incarnation.hex()}})
        total = self.store.get("total", 0)
        kept = len(self.store.get("objects", ()))
        if total > kept:
            cut.append(f"the {kept} largest of {total} objects in the store were kept")
        return {"objects": [], "live": live, "cut": cut}

    def _pid_of(self, process: str) -> int:
        for row in self.answers.get("workers", {}).get("workers", ()):
            if process and row["worker_id"].startswith(process):
                return int(row["pid"])
        return 0


class KeptAsker:
    """Answers like a connection to a node (zray.state.client.Asker), from files."""

    def __init__(self, session_dir: str):
        first = KeptNode(session_dir)
        self.nodes = [first, *_others(first)]
        self.about = first.about

    def ask(self, what: str, timeout_s: float = 0.0, **args: Any) -> dict[str, Any]:
        """The answer; RayStateApiException for a question that only a running node answers."""
        on = args.pop("on", None)
        asked = self.nodes if on is None else [node for node in self.nodes if node.incarnation == on]
        if not asked:
            raise RayStateApiException(f"the node {on.hex() if isinstance(on, bytes) else on} has kept nothing here")
        whole = asked[0].ask(what, args)
        if "error" in whole:
            raise RayStateApiException(whole["error"])
        if what == "nodes":
            return {**whole, "nodes": [self._node(row) for row in whole["nodes"]]}
        if what in EVERYWHERE:
            whole = {**whole, EVERYWHERE[what]: list(whole.get(EVERYWHERE[what], ()))}
            for node in asked[1:]:
                answer = node.ask(what, args)
                add(whole, answer, EVERYWHERE[what])
                whole["cut"] = [*whole.get("cut", ()), *answer.get("cut", ())]
        return whole

    def ask_all(self, questions: Sequence[tuple[str, dict[str, Any]]], timeout_s: float) -> list[dict[str, Any] | None]:
        """The answers to several questions."""
        return [self.ask(what, timeout_s, **args) for what, args in questions]

    def _node(self, row: dict[str, Any]) -> dict[str, Any]:
        """A node as it saw itself at its own end; one that has kept nothing here cannot be asked, like a dead one."""
        for node in self.nodes:
            own: dict[str, Any] = node.answers["nodes"]["nodes"][0]
            if own["NodeID"] == row["NodeID"]:
                return own
        return {**row, "Alive": False, "State": row.get("State", "") if not row["Alive"] else NOT_HERE}

    def close(self) -> None:
        """Nothing is open."""


def is_ended(address: str) -> bool:
    """Whether ``address`` is the folder of a session that has kept something, and whose node does not run."""
    if not os.path.isfile(os.path.join(address, sessions.STATE)):
        return False
    running = sessions.read(address)
    return running is None or not running.alive()


def directory_of(name: str) -> str:
    """The folder of a session by its name, the beginning of its name, its path, or "last"; it may run.  NothingKept."""
    if os.sep in name:
        if os.path.isdir(name):
            return name
        raise NothingKept(f"there is no folder {name!r} of a session")
    past = ended()
    if name == LAST:
        if not past:
            raise NothingKept("no session that ended has kept its state here")
        return past[0]
    known = {os.path.basename(path): path for path in past}
    known |= {os.path.basename(session.session_dir): session.session_dir for session in sessions.live_sessions()}
    found = [name] if name in known else [each for each in known if name and each.startswith(name)]
    if len(found) == 1:
        return known[found[0]]
    if found:
        raise NothingKept(f"{len(found)} sessions have names that begin with {name!r}: "
                          f"{', '.join(sorted(found)[-SESSIONS_NAMED_MAX:])}")
    latest = sorted(known)[-SESSIONS_NAMED_MAX:]
    raise NothingKept(f"no session {name!r}; the latest are {', '.join(latest)}" if latest else
                      f"no session {name!r}: none runs here, and none has kept its state")


def ended() -> list[str]:
    """Folders of this user's sessions that have kept their state and do not run, the latest first."""
    found = []
    for base in sessions.base_dirs():
        if os.path.isdir(base):
            found += [entry.path for entry in os.scandir(base)
                      if entry.is_dir(follow_symlinks=False) and is_ended(entry.path)]
    return sorted(found, key=lambda path: os.stat(os.path.join(path, sessions.STATE)).st_mtime, reverse=True)


def _others(first: KeptNode) -> list[KeptNode]:
    """The other nodes of the same cluster that have kept something here."""
    cluster = first.about.get("cluster")
    if not cluster:
        return []
    found = []
    for path in ended():
        if os.path.realpath(path) != os.path.realpath(first.session_dir):
            try:
                node = KeptNode(path)
            except NothingKept:
                continue
            if node.about.get("cluster") == cluster:
                found.append(node)
    return found


def _read(session_dir: str) -> dict[str, Any]:
    path = os.path.join(session_dir, sessions.STATE)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise NothingKept(f"the session {session_dir} has kept no state: it was killed within its first second, or the "
                          "setting session_state_bytes_max is 0") from None
    except OSError as error:
        raise NothingKept(f"the state of the session {session_dir} cannot be read: {error.strerror}") from None
    if not data.startswith(STATE_MAGIC):
        raise NothingKept(f"{path} is not the state of a session")
    try:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(data[len(STATE_MAGIC):], FILE_BYTES_MAX)
        if not unpacker.eof:
            raise ValueError("it is cut, or too long")
        found = msgpack.unpackb(content, unicode_errors="surrogatepass", strict_map_key=False)
        version = found["about"]["format"]
    except (zlib.error, ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
        raise NothingKept(f"the state of the session {session_dir} is damaged ({error!r})") from None
    if version != STATE_FORMAT:
        raise NothingKept(f"the session {session_dir} kept its state in format {version}, and this zray reads "
                          f"{STATE_FORMAT}")
    return found  # type: ignore[no-any-return]
