"""The dashboard of a session as other processes see it: its address, its file, and how it is started.

The dashboard is a process of its own (zray.dashboard.main).  Nobody waits for it: its starter binds the port, so
that the address is known at once, and hands the socket over.  The process makes the token and writes

    <session>/dashboard.json      0600: address, token, pid and start time of the process

and removes that file when it ends.  It ends with its node.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from zray.base.os_linux import write_private
from zray.node.processes import linux
from zray.node.running import join_secret

DASHBOARD_FILE = "dashboard.json"
HOST = "127.0.0.1"
DASHBOARD_PORT = 8265  # Ray's number
BACKLOG = 64  # connections that wait while the process starts
DASHBOARD_LIBRARIES = ("starlette", "uvicorn")
INSTALL_DASHBOARD = "pip install 'zray[dashboard]'"


class NoDashboard(RuntimeError):
    """The dashboard cannot be started; the message is one sentence for the user."""


@dataclass(frozen=True)
class DashboardFile:
    """A dashboard that runs, from its file."""

    address: str  # host:port
    token: str = field(repr=False)
    pid: int
    start_time: int

    @property
    def link(self) -> str:
        """Opens the page with the token, which browsers do not send to servers: it is behind the #."""
        return f"http://{self.address}/#token={self.token}"

    def write(self, session_dir: str) -> None:
        write_private(os.path.join(session_dir, DASHBOARD_FILE), json.dumps(asdict(self)))

    def alive(self) -> bool:
        return self.start_time != 0 and linux.start_time(self.pid) == self.start_time


def of_session(session_dir: str) -> DashboardFile | None:
    """The dashboard that runs for a session; None where none does."""
    try:
        with open(os.path.join(session_dir, DASHBOARD_FILE), encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
        read = DashboardFile(**found)
    except (OSError, ValueError, TypeError):
        return None
    return read if read.alive() else None


def missing() -> list[str]:
    """The libraries of the page that are not installed."""
    return [name for name in DASHBOARD_LIBRARIES if importlib.util.find_spec(name) is None]


def require() -> None:
    """NoDashboard unless the libraries of the page are installed."""
    if lacks := missing():
        raise NoDashboard(f"the dashboard needs {' and '.join(lacks)}: {INSTALL_DASHBOARD}")


def asked(include: bool | None, port: int | None) -> socket.socket | None:
    """The socket of a dashboard that is to start with a node; None where nobody asks for one.  NoDashboard.

    It starts only when asked: it holds some 45 MB, and ``zray dashboard`` serves the same page of any session that
    runs.  A port asks for it, too, unless ``include`` is False.
    """
    if include is False or include is None and port is None:
        return None
    require()
    return bind(port)


def bind(port: int | None = None) -> socket.socket:
    """A listening socket: at ``port``, or (None) at 8265 when that is free, else at any free port.  NoDashboard."""
    if port is not None and not 0 <= port < 65536:
        raise NoDashboard(f"a port of the dashboard is a number from 0 to 65535, not {port}")
    for wanted in (DASHBOARD_PORT, 0) if port is None else (port,):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, wanted))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if port is not None:
                raise NoDashboard(f"the dashboard cannot listen at {HOST}:{wanted}: {error.strerror}. Name another "
                                  "port, or none for any free one") from None
            continue
        return listener
    raise NoDashboard(f"no port of {HOST} is free for the dashboard")


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{host}:{port}"


class DashboardProcess:
    """A dashboard that this process started."""

    def __init__(self, address: str, pid: int):
        self.address = address
        self.pid = pid
        self._owner = os.getpid()

    def collect(self, timeout_s: float) -> None:
        """Its node has ended: wait until it is gone, and kill it if it does not go."""
        if os.getpid() != self._owner:
            return
        import signal

        from zray.base.os_linux import readable

        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not readable(handle, timeout_s):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ChildProcessError, ProcessLookupError):
            pass  # another part of this process collected it
        finally:
            os.close(handle)


def spawn(listener: socket.socket, *, session_dir: str = "", node_pid: int = 0) -> DashboardProcess:
    """Start the dashboard of a session, or of the node that ``node_pid`` is about to be; closes ``listener``."""
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
    path = f"sys.path.append({root!r})" if root.endswith("-packages") else f"sys.path.insert(0, {root!r})"
    of = ["--session-dir", session_dir] if session_dir else ["--node-pid", str(node_pid)]
    command = [sys.executable, "-P", "-c", f"import sys; {path}; from zray.dashboard.main import main; main()",
               "--socket-fd", "3", *of]
    address = address_of(listener)
    import fcntl

    source = fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD_CLOEXEC, 64)  # out of the way of its target
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, source, 3)]
    try:
        pid = os.posix_spawn(sys.executable, command, join_secret.without_secrets(os.environ), file_actions=actions,
                             setsid=True)
    finally:
        os.close(source)
        listener.close()
    return DashboardProcess(address, pid)
