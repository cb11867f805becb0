"""Start, find and stop nodes: for ``init()`` and the commands.

Starting is on the critical path of every script, so this imports little.  The daemon is spawned
with posix_spawn, and reports over a pipe that it is ready, while the caller goes on importing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any, NoReturn

from zray.base.formats import JOIN_SCHEME
from zray.base.os_linux import readable
from zray.node.running import join_secret, session as sessions
from zray.node.running.session import NodeSession

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
SERVING_AGAIN_S = 0.05  # how often to look whether a node has joined its cluster again
ERROR_BYTES_MAX = 1 << 16


class NodeStartError(RuntimeError):
    """The node daemon did not start; the message has the daemon's own reason."""


@dataclass(slots=True)
class NodeOptions:
    """The options of a node to start; None means: find out."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    object_store_memory: float | None = None
    memory: float | None = None
    config: dict[str, Any] = field(default_factory=dict)
    session_dir: str = ""
    share_fate: bool = True  # the node ends when this process does
    head: bool = False  # the first node of a cluster
    address: str = field(default="", repr=False)  # join string of the cluster to join
    host: str = ""
    port: int = 0
    port_range: str = ""
    node_name: str = ""
    insecure: bool = False
    gcs_dir: str = ""
    one_port: bool = False
    node_ip_address: str = ""  # that it shows as its own; '' for the machine's
    env_vars: dict[str, str] = field(default_factory=dict)  # of the node and its workers, over the starter's
    new_cluster: bool = False  # a second cluster on this machine is intended
    rejoin: str = field(default="", repr=False)  # a state of zray.node.running.rejoining

    def arguments(self) -> list[str]:
        """As arguments of zray-node, without the join string: every user can read the arguments of a process."""
        out: list[str] = []
        for name in ("num_cpus", "num_gpus", "object_store_memory", "memory"):
            value = getattr(self, name)
            if value is not None:
                out += [f"--{name.replace('_', '-')}", str(value)]
        for name in ("resources", "labels", "config"):
            value = getattr(self, name)
            if value:
                out += [f"--{name}", json.dumps(value)]
        for name in ("session_dir", "host", "port_range", "node_name", "gcs_dir", "port",
                     "node_ip_address"):
            value = getattr(self, name)
            if value:
                out += [f"--{name.replace('_', '-')}", str(value)]
        for name in ("head", "insecure", "one_port", "new_cluster"):
            if getattr(self, name):
                out.append(f"--{name.replace('_', '-')}")
        return out


class Starting:
    """A daemon that starts: do other work, then call :meth:`wait`."""

    def __init__(self, pid: int, ready: int, errors: int, fate: int):
        self.pid = pid
        self._ready = ready
        self._errors = errors
        self._fate = fate

    def wait(self, timeout: float = START_TIMEOUT_S) -> NodeHandle:
        """The running node; else NodeStartError with the daemon's own message."""
        deadline = time.monotonic() + timeout
        text = b""
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not readable(self._ready, left):
                self._abandon()
                raise NodeStartError(f"the node daemon (pid {self.pid}) was not ready within {timeout:g} s")
            piece = os.read(self._ready, 1 << 16)
            if not piece:
                break
            text += piece
            if text.endswith(b"\n\n"):  # not the end of the file: that comes when every copy of the pipe is closed
                break
        os.close(self._ready)
        if not text.endswith(b"\n\n"):
            said = b""
            while len(said) < ERROR_BYTES_MAX and (piece := os.read(self._errors, 1 << 16)):
                said += piece
            self._abandon()
            raise NodeStartError(said.decode(errors="replace").strip() or "the node daemon ended without a word")
        os.close(self._errors)
        return NodeHandle(NodeSession.from_json(text.decode()), self._fate)

    def _abandon(self) -> None:
        if self._fate >= 0:
            os.close(self._fate)
        os.close(self._errors)
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


class NodeHandle:
    """A node that this process started or found."""

    def __init__(self, session: NodeSession, fate: int = -1, child: bool = True):
        self.session = session
        self.node = session.node
        self.node_id = session.node_id
        self.endpoint = session.endpoint
        self.session_dir = session.session_dir
        self.pid = session.pid
        self.is_child = child
        self._fate = fate
        self._owner = os.getpid()

    def stop(self, timeout: float = STOP_TIMEOUT_S) -> None:
        """End the node and wait until it is gone.  A forked child of the starter does nothing."""
        if os.getpid() != self._owner:
            return
        if self._fate >= 0:
            os.close(self._fate)
            self._fate = -1
        end_process(self.session, timeout)
        if self.is_child:
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:
                pass  # another part of this process collected it
        if os.path.isdir(self.session_dir):
            _sweep(self.session_dir)


def end_process(session: NodeSession, timeout: float = STOP_TIMEOUT_S) -> bool:
    """SIGTERM, then SIGKILL, to exactly that process; True when it was running."""
    pidfd = _send_sigterm(session)
    if pidfd is not None:
        _await_end(session, pidfd, timeout)
    return pidfd is not None


def _send_sigterm(session: NodeSession) -> int | None:
    """SIGTERM; a descriptor of the process, None when it does not run."""
    try:
        pidfd = os.pidfd_open(session.pid)
    except ProcessLookupError:
        return None
    if not session.alive():  # another process has the number by now, or it has just ended
        os.close(pidfd)
        return None
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    return pidfd


def _await_end(session: NodeSession, pidfd: int, timeout: float) -> None:
    """SIGKILL after ``timeout`` seconds in which it has not ended, nor moved any of its objects to other nodes."""
    try:
        moved = _moved_at(session)
        while not readable(pidfd, timeout):
            before, moved = moved, _moved_at(session)
            if moved == before:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                readable(pidfd, timeout)
                return
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _moved_at(session: NodeSession) -> int:
    try:
        return os.stat(sessions.leaving_mark(session.session_dir)).st_mtime_ns
    except OSError:
        return 0


def _sweep(session_dir: str) -> None:
    """Remove the files of a killed daemon."""
    from zray.store.node import reaper

    reaper.sweep(os.path.dirname(session_dir))
    sessions.retire(session_dir)


def _command() -> list[str]:
    """A Python that is the daemon of exactly this zray.  -P: a random.py in the working directory is no part of it."""
    parent = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
    path = f"sys.path.append({parent!r})" if parent.endswith("-packages") else f"sys.path.insert(0, {parent!r})"
    return [sys.executable, "-P", "-c", f"import sys; {path}; from zray.node.daemon import main; main()"]


def spawn_node(options: NodeOptions) -> Starting:
    """Start a daemon and return at once."""
    ready_read, ready_write = os.pipe()
    error_read, error_write = os.pipe()
    fate_read, fate_write = os.pipe() if options.share_fate else (-1, -1)
    arguments = ["--ready-fd", "3"]
    actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    # Move the sources out of the way of their targets first.
    sources = {3: _high(ready_write), 2: _high(error_write)}
    opened = [ready_write, error_write, fate_read]
    if options.share_fate:
        sources[4] = _high(fate_read)
        arguments += ["--fate-fd", "4"]
    if options.address:
        opened.append(join_secret.descriptor(options.address))
        sources[5] = _high(opened[-1])
        arguments += ["--address-fd", "5"]
    for target, source in sources.items():
        actions.append((os.POSIX_SPAWN_DUP2, source, target))
    actions.append((os.POSIX_SPAWN_DUP2, sources[2], 1))
    command = [*_command(), *arguments, *options.arguments()]
    try:
        environ = join_secret.without_secrets({**os.environ, **options.env_vars})
        pid = os.posix_spawn(sys.executable, command, environ, file_actions=actions, setsid=True)
    finally:
        for handle in (*sources.values(), *opened):
            if handle >= 0:
                os.close(handle)
    return Starting(pid, ready_read, error_read, fate_write)


def become_node(options: NodeOptions) -> NoReturn:
    """Replace this process by a daemon in the foreground: its signals, its exit code and its death are the node's."""
    arguments = []
    for option, secret in (("--address-fd", options.address), ("--rejoin-fd", options.rejoin)):
        if secret:
            handle = join_secret.descriptor(secret)
            os.set_inheritable(handle, True)
            arguments += [option, str(handle)]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [*_command(), *arguments, *options.arguments()], join_secret.without_secrets(os.environ))


def _high(handle: int) -> int:
    import fcntl

    return fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 64)


def start_node(options: NodeOptions | None = None, **fields: Any) -> NodeHandle:
    """Start a node and wait until it serves.  ``fields`` are those of NodeOptions."""
    return spawn_node(options or NodeOptions(**fields)).wait()


def find_session(address: str = "auto", *, asks: bool = False) -> NodeHandle:
    """The running node of this machine at ``address``.

    "auto" (of the one cluster that ``zray start`` made here, the newest node), a session directory, a join string,
    "@FILE" with one, or the host:port of a node: of the last three, a node of that cluster on this machine.
    With ``asks``, "auto" is the session of the one program that runs, where no cluster does.
    ConnectionError, in one sentence, when there is none, or more than one cluster that "auto" could mean.
    """
    if address.startswith("@"):
        try:
            address = join_secret.read_file(address[1:])
        except join_secret.NoJoinString as error:
            raise ConnectionError(str(error)) from None
    if address.startswith("ray://"):
        raise ConnectionError(f"{address!r} names a server for clients of Ray, and zray has none: run the program on a "
                              "machine with a node of the cluster, and connect with 'auto'")
    if address == "auto":
        found = next(iter(sessions.of_ancestors()), None) or _of_the_one_cluster(asks)
    elif address.startswith(JOIN_SCHEME):
        found = _member_of(address)
    elif _is_host_port(address):
        here = sessions.live_sessions()
        named = next((session for session in here if session.is_at(address)), None)
        if named is None:
            raise ConnectionError(f"no node of this user listens at {address} on this machine; a driver connects to a "
                                  "node of its own machine: join the cluster first (zray start --address @FILE)")
        found = named
    else:
        if not os.path.isdir(address):
            shown = address if len(address) <= 60 else address[:57] + "..."  # it may be a join string, mistyped
            raise ConnectionError(f"{shown!r} is neither 'auto', nor the directory of a session, nor a join string, "
                                  "nor @FILE with one, nor the host:port of a node")
        named = sessions.read(address)
        if named is None or not named.alive():
            raise ConnectionError(sessions.why_none(address))
        found = named
    return NodeHandle(_serving(found), child=False)


def running_cluster() -> NodeHandle | None:
    """A node of the cluster that a driver without an address joins, None where there is none.

    A Cluster of this process, or of one that it descends from, comes before the one that ``zray start`` made.
    ConnectionError when that could be several.
    """
    own = sessions.of_ancestors()
    found = own[0] if own else _of_the_one_cluster(False) if sessions.started_clusters() else None
    return NodeHandle(_serving(found), child=False) if found is not None else None


def _serving(session: NodeSession) -> NodeSession:
    """That session once it serves: its node may just join its cluster again.  ConnectionError when it does not."""
    deadline = time.monotonic() + START_TIMEOUT_S
    found: NodeSession | None = session
    while found is not None and found.rejoins and found.alive():
        if time.monotonic() > deadline:
            raise ConnectionError(f"the node in {session.place()} was declared dead by its cluster, and has not joined "
                                  f"it again within {START_TIMEOUT_S:g} s: see {session.session_dir}/logs/node.log")
        time.sleep(SERVING_AGAIN_S)
        found = sessions.read(session.session_dir)
    if found is None or found.rejoins:
        raise ConnectionError(f"the node in {session.session_dir} was declared dead by its cluster, and has ended")
    return found


def _of_the_one_cluster(asks: bool) -> NodeSession:
    clusters, programs = sessions.started_clusters(), sessions.of_programs()
    candidates, kind = (programs, "sessions of programs") if asks and not clusters else (clusters, "clusters")
    if not candidates:
        own = ("; programs with a session of their own run here, whose directories are addresses, too: "
               f"{_places(programs)}" if programs else "")
        raise ConnectionError("Could not find any running zray instance: start one with `zray start --head`, "
                              "or call init() without an address "
                              f"(looked in {', '.join(sessions.base_dirs())}{own})")
    if len(candidates) > 1:
        first = candidates[0].session_dir
        ways = f"--address {first}" if asks else f"init({first!r}) or --address {first}"
        raise ConnectionError(f"'auto' could mean {len(candidates)} {kind} that run here: {_places(candidates)}. "
                              f"Name one by its directory, {ways}, or set ZRAY_ADDRESS to it")
    return candidates[0]


def _places(some: list[NodeSession]) -> str:
    return "; ".join(session.place() for session in some)


def _is_host_port(address: str) -> bool:
    host, colon, port = address.rpartition(":")
    return bool(colon and host and port.isdigit() and "/" not in address)


def _member_of(join: str) -> NodeSession:
    """A live node on this machine of the cluster that the join string names."""
    from zray.transport.credentials import BadJoinString, decode_join

    try:
        cluster = decode_join(join).cluster.hex()
    except BadJoinString as error:
        raise ConnectionError(str(error)) from None
    found = next((session for session in sessions.live_sessions() if session.cluster == cluster), None)
    if found is None:
        raise ConnectionError("no node of that cluster runs on this machine: start one with `zray start --address "
                              "@FILE`, then connect")
    return found


def stop_sessions(every: bool = False, session_dir: str = "") -> list[NodeSession]:
    """End this user's nodes: those that ``zray start`` made, or with ``every`` also those of init(); returns them.

    ``session_dir`` names one node instead, wherever its directory is.  Each is one process named by (pid, start time)
    in its own session directory, so no other process is touched.
    """
    signalled = []
    if session_dir:
        named = sessions.read(os.path.abspath(session_dir))
        wanted = [named] if named is not None and named.alive() else []
    else:
        wanted = [session for session in sessions.live_sessions() if every or not session.shares_fate]
    for session in wanted:
        if (pidfd := _send_sigterm(session)) is not None:
            signalled.append((session, pidfd))
    for session, pidfd in signalled:  # all at once: nodes of one cluster need not hand over to each other
        _await_end(session, pidfd, STOP_TIMEOUT_S)
        if os.path.isdir(session.session_dir):
            _sweep(session.session_dir)
    return [session for session, _ in signalled]
