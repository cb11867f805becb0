"""Session directories: their places, their files, and which are alive.

    <base>/zray-<uid>/            0700
        latest                    name of the newest session that ``zray start`` made
        <session>/                0700
            node.json             0600: the daemon's process and its endpoints
            join                  0600: the join string of a node of a cluster
            leaving               touched while a node that leaves hands its objects over
            node.sock  w-*.sock  d-*.sock  logs/  spill/
            state                 0600: rows of the state API, see zray.node.running.kept_state

After the end of a session only logs/ and state stay, until they are too old or of one of too many (settings logs_*).
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from dataclasses import dataclass, field, fields
from typing import Any

from zray.base import os_linux
from zray.base.addresses import is_here, is_loopback, is_wildcard
from zray.node.processes import linux
from zray.node.running import join_secret
from zray.store.node.reaper import LOGS, STATE

SOCKET_PATH_MAX = 107  # bytes: sockaddr_un has 108, with the final zero
LONGEST_NAME = "w-0123456789abcdef.sock"
LONGEST_SESSION = "20260101-000000-0123ab"
FALLBACK_BASE = "/tmp"
MAKING_S_MAX = 3600.0  # after this long a directory without owner.json belongs to a killed daemon


class SessionError(RuntimeError):
    """A session directory cannot be made or used; the message is one sentence for the user."""


def tmp_dir() -> str:
    """The directory in ZRAY_TMPDIR, RAY_TMPDIR or TMPDIR, else /tmp."""
    return os.environ.get("ZRAY_TMPDIR") or os.environ.get("RAY_TMPDIR") or os_linux.temporary_directory()


def resume_dir() -> str:
    """Where jobs of this user keep results for their next run, unless they name a directory.

    Not among the sessions: it outlives all of them.
    """
    return os.path.join(os.path.abspath(tmp_dir()), f"zray-resume-{os.getuid()}")


def sweep_results(kept_s: float) -> None:
    """Remove kept results that are too old, of jobs that no driver runs."""
    if os.path.isdir(resume_dir()):
        from zray.core import resume_folder

        resume_folder.sweep(resume_dir(), kept_s)


def base_dirs() -> list[str]:
    """Where sessions of this user may be, preferred first.  The second is for temporary directories with long names.

    Only for those: a user who sets a directory apart must not see, or stop, sessions elsewhere.
    """
    name = f"zray-{os.getuid()}"
    bases = [os.path.join(os.path.abspath(tmp_dir()), name), os.path.join(FALLBACK_BASE, name)]
    return bases[:1] if bases[0] == bases[1] or socket_fits(os.path.join(bases[0], LONGEST_SESSION)) else bases


def socket_fits(session_dir: str) -> bool:
    return len(os.fsencode(os.path.join(session_dir, LONGEST_NAME))) <= SOCKET_PATH_MAX


def create(session_dir: str = "") -> str:
    """Make a private session directory (a new name, or ``session_dir``) with its subdirectories."""
    if session_dir:
        session_dir = os.path.abspath(session_dir)
        if not socket_fits(session_dir):
            raise SessionError(f"the session directory {session_dir!r} is too long: sockets in it would have paths of "
                               f"more than {SOCKET_PATH_MAX} bytes")
        found = read(session_dir)
        if found is not None and found.alive() and found.pid != os.getpid():  # itself: it joins its cluster again
            raise SessionError(f"a node runs in the session directory {session_dir!r} already (pid {found.pid}): name "
                               "another one, or end that node with `zray stop --session-dir`")
        _private(session_dir)
    else:
        if os.path.exists(tmp_dir()) and not os.path.isdir(tmp_dir()):
            raise SessionError(f"sessions cannot be kept in {tmp_dir()!r}: it is not a directory (see ZRAY_TMPDIR)")
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}"
        session_dir = next((os.path.join(base, name) for base in base_dirs() if socket_fits(os.path.join(base, name))),
                           os.path.join(base_dirs()[-1], name))
        _private(os.path.dirname(session_dir))
        _private(session_dir)
    for part in ("spill", LOGS):  # in this order: a directory with only logs belongs to an ended session
        _private(os.path.join(session_dir, part))
    return session_dir


def _private(path: str) -> None:
    """A directory of ours that no other user can enter."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.stat(path)
    except OSError as error:
        raise SessionError(f"cannot make the session directory {path!r}: {error.strerror} "
                           "(set ZRAY_TMPDIR to a directory you can write to)") from None
    if found.st_uid != os.getuid():
        raise SessionError(f"the session directory {path!r} belongs to another user (uid {found.st_uid})")
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.chmod(path, 0o700)
    if not os.access(path, os.W_OK | os.X_OK):
        raise SessionError(f"the session directory {path!r} is not writable (set ZRAY_TMPDIR to one that is)")


def remove(session_dir: str) -> None:
    """Delete all of it, and a ``latest`` that names it."""
    os_linux.remove_tree(session_dir)
    _forget_latest(session_dir)


def retire(session_dir: str) -> None:
    """The session has ended: delete all but its logs and its state, and a ``latest`` that names it."""
    os_linux.strip(session_dir, LOGS, STATE)
    _forget_latest(session_dir)


def ended_sessions() -> list[str]:
    """Directories of this user's ended sessions, of which logs are left; the latest first."""
    found = []
    for base in base_dirs():
        with contextlib.suppress(OSError):
            for entry in os.scandir(base):
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False) and _has_ended(entry.path):
                        found.append((entry.stat().st_mtime, entry.path))
    return [path for _, path in sorted(found, reverse=True)]


def _has_ended(path: str) -> bool:
    """Whether only logs and state are left, or its daemon was killed before it wrote owner.json."""
    names = set(os.listdir(path))
    if os.lstat(path).st_uid != os.getuid() or "owner.json" in names or "node.json" in names:
        return False
    is_old = time.time() - os.stat(path).st_mtime > MAKING_S_MAX
    return bool(names) and names <= {LOGS, STATE} or (LOGS in names or not names) and is_old


def sweep_logs(sessions_max: int, kept_s: float) -> None:
    """Delete logs of ended sessions beyond a number and an age; running sessions are not counted."""
    now = time.time()
    for position, path in enumerate(ended_sessions()):
        with contextlib.suppress(OSError):
            if position >= sessions_max or now - os.stat(path).st_mtime > kept_s:
                os_linux.remove_tree(path)


def _forget_latest(session_dir: str) -> None:
    latest = os.path.join(os.path.dirname(session_dir), "latest")
    try:
        with open(latest, encoding="utf-8") as file:
            if file.read() == os.path.basename(session_dir):
                os.unlink(latest)
    except FileNotFoundError:
        pass


@dataclass(slots=True)
class NodeSession:
    """A running node, from its node.json."""

    session_dir: str
    node: bytes
    node_id: str
    endpoint: str
    pid: int
    start_time: int
    shares_fate: bool
    started: float
    cluster: str = ""  # id of the cluster, '' for a node that stays alone
    join: str = field(default="", repr=False)  # the join string of this node
    head: bool = False
    name: str = ""
    address: str = ""  # host:port of the node's TCP endpoint
    settings: dict[str, Any] = field(default_factory=dict)  # that it was started with, or its cluster
    rejoins: bool = False  # it was declared dead, and does not serve until it has joined again

    def alive(self) -> bool:
        """Whether exactly that process runs: (pid, start time) names it."""
        return self.start_time != 0 and linux.start_time(self.pid) == self.start_time

    def is_at(self, address: str) -> bool:
        """Whether the node listens at ``address``, host:port; a loopback port is at every address of this machine."""
        if not self.address or not address:
            return False
        if self.address == address:
            return True
        host, _, port = address.rpartition(":")
        own, _, own_port = self.address.rpartition(":")
        return port == own_port and (is_loopback(own) or is_wildcard(own)) and is_here(host)

    def place(self) -> str:
        """For people, when there are several."""
        where = f"at {self.address}, " if self.address else ""
        return f"{self.session_dir} ({where}pid {self.pid})"

    def introduction(self) -> str:
        """The message of a starter about a node of a cluster: its place and the next steps; it does
        not show the join string."""
        file = os.path.join(self.session_dir, join_secret.FILE_NAME)
        clusters = [session.cluster for session in started_clusters()]
        connect = f"zray.init({'auto' if clusters == [self.cluster] else self.session_dir!r})"
        note = f"\n{len(clusters)} clusters run here, so 'auto' means none of them." if len(clusters) > 1 else ""
        return (f"zray runs in {self.session_dir} (pid {self.pid}), at {self.address}.\n"
                f"Connect with {connect}; end it with `zray stop`.{note}\n"
                f"More nodes here:           zray start --address @{file}\n"
                f"More nodes on machine B:   ssh B zray start --address - < {file}\n"
                "That file is a secret: its reader may run code in this cluster as this user.")

    def to_json(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__} | {"node": self.node.hex()}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> NodeSession:
        found: dict[str, Any] = json.loads(text)
        found["node"] = bytes.fromhex(found["node"])
        return cls(**{field.name: found[field.name] for field in fields(cls)})


def leaving_mark(session_dir: str) -> str:
    """A file that a node touches while it leaves and its objects move: do not kill it then."""
    return os.path.join(session_dir, "leaving")


def read(session_dir: str) -> NodeSession | None:
    """The session in a directory, None when there is none or it is not ours."""
    path = os.path.join(session_dir, "node.json")
    try:
        with open(path, encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_uid != os.getuid():
                return None
            return NodeSession.from_json(file.read())
    except (OSError, ValueError, KeyError):
        return None


def why_none(path: str) -> str:
    """Why no node that we may ask runs in a directory, in one sentence."""
    try:
        found = os.stat(path)
        names = set(os.listdir(path)) if found.st_uid == os.getuid() else set()
    except OSError as error:
        return f"the session directory {path!r} cannot be read: {error.strerror}"
    if found.st_uid != os.getuid():
        return (f"the session in {path!r} belongs to another user (uid {found.st_uid}, you are {os.getuid()}): only "
                "that user can ask its node")
    session = read(path)
    if session is not None and not session.alive():
        return (f"no zray node of this user runs in {path!r}: its process {session.pid} has ended without cleaning up "
                f"(its logs: zray logs --address {path})")
    if names == {LOGS, STATE}:
        return (f"no zray node of this user runs in {path!r}: that session has ended (its rows: zray list tasks "
                f"--session {os.path.basename(path)}; its logs: zray logs --address {path})")
    if names == {LOGS}:
        return (f"no zray node of this user runs in {path!r}: that session has ended, and only its logs are left "
                f"(zray logs --address {path})")
    if LOGS in names:
        wrong = "its node.json cannot be read" if "node.json" in names else "it has no node.json"
        return (f"no zray node of this user runs in {path!r} as far as can be seen: {wrong}, so a node is just "
                "starting there, or it ended before it was up; try again, or see logs/node.log in it")
    return f"no zray node of this user runs in {path!r}: that is no session directory"


def live_sessions() -> list[NodeSession]:
    """This user's running sessions, newest first."""
    found = []
    for base in base_dirs():
        try:
            names = os.listdir(base)
        except OSError:
            continue
        sessions = (read(os.path.join(base, name)) for name in names)
        found += [session for session in sessions if session is not None and session.alive()]
    return sorted(found, key=lambda session: session.started, reverse=True)


def started_clusters() -> list[NodeSession]:
    """The newest running node of each cluster that ``zray start`` made here; newest first."""
    newest: dict[str, NodeSession] = {}
    for session in live_sessions():
        if not session.shares_fate:
            newest.setdefault(session.cluster or session.session_dir, session)
    return list(newest.values())


def of_ancestors() -> list[NodeSession]:
    """Nodes of clusters that this process, or one that it descends from, started for itself (zray.cluster_utils):
    one of each, the first one where it still runs; the newest cluster first."""
    ours = linux.ancestors()
    nodes = [session for session in live_sessions()
             if session.cluster and session.shares_fate and linux.parent(session.pid) in ours]
    chosen: dict[str, NodeSession] = {}
    for session in nodes:
        if session.head or session.cluster not in chosen:
            chosen[session.cluster] = session
    return list(chosen.values())


def of_programs() -> list[NodeSession]:
    """The running sessions that programs made by ``init()``, which end with them; newest first."""
    return [session for session in live_sessions() if session.shares_fate]


def refuse_second_cluster() -> None:
    """SessionError when a cluster runs here already: "auto" would be ambiguous."""
    if clusters := started_clusters():
        first = clusters[0]
        file = os.path.join(first.session_dir, join_secret.FILE_NAME)
        one_more = f"add a node to it with `zray start --address @{file}`, " if first.join else ""
        raise SessionError(f"a cluster of this user runs here already, in {first.place()}: {one_more}end it with "
                           "`zray stop`, or start one more beside it with --new-cluster (drivers must then name the "
                           "one they mean)")
