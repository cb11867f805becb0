"""``zray doctor``: checks this machine for the needs of zray, and the sessions of this user."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import click

from zray.cli.asking import described
from zray.cli.commands import main
from zray.cli.showing import is_human, show, width_now, with_format
from zray.cli.tables import folded
from zray.cli.text import duration, of_bytes, plural, safe
from zray.node.processes import linux
from zray.node.running import session as sessions
from zray.node.running.options import shm_bytes

OK, NOTE, FAIL = "ok", "note", "FAIL"
SHM_LEAST = 64 << 20
FILES_LEAST = 4096
PROCESSES_LEAST = 1024
LOGS_MANY = 1 << 30  # bytes of logs of ended sessions that are worth a note
CLOCK_SKEW_S = 5.0  # between the times of this process and of files that it writes
OPTIONAL = {"rich": "tables and zray top", "psutil": "memory and CPU of workers", "yaml": "YAML files of jobs"}
TOOLS = {"py-spy": "stacks with C frames, profiles from outside"}


class Finding(NamedTuple):
    level: str
    subject: str
    text: str


def _interpreter() -> Iterator[Finding]:
    try:
        linux.require()
        yield Finding(OK, "system", f"Linux {os.uname().release}, {os.uname().machine}")
    except RuntimeError as error:
        yield Finding(FAIL, "system", str(error))
    version = sys.version.split()[0]
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(OK if good else FAIL, "interpreter", f"Python {version}, {sys.executable}"
                  + ("" if good else "; zray needs 3.11 to 3.13"))
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found and os.path.realpath(found) != os.path.realpath(sys.executable) and not _same_environment(found):
            yield Finding(NOTE, "interpreter", f"{name} on the PATH is {found}: programs that it runs do not see this "
                                               f"zray; use {sys.executable}")
            break
    if getattr(sys, "_is_gil_enabled", lambda: True)() is False:
        yield Finding(NOTE, "interpreter", "the interpreter has no GIL, which zray is not tested with")


def _same_environment(path: str) -> bool:
    return os.path.dirname(os.path.abspath(path)) == os.path.join(sys.prefix, "bin")


def _libraries() -> Iterator[Finding]:
    import zmq

    good = zmq.zmq_version_info() >= (4, 3, 3)
    yield Finding(OK if good else FAIL, "libzmq", f"libzmq {zmq.zmq_version()} (4.3.3 or newer)")
    yield Finding(OK if zmq.has("curve") else FAIL, "libzmq", "libzmq has CURVE" if zmq.has("curve") else
                  "libzmq has no CURVE: nodes of several machines cannot authenticate each other")
    for module, use in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            yield Finding(NOTE, "extras", f"{module} is not installed ({use}): pip install 'zray[default]'")
    for tool, use in TOOLS.items():
        found = shutil.which(tool)
        yield Finding(OK if found else NOTE, "extras", f"{tool}: {found}" if found else
                      f"{tool} is not installed ({use}): pip install {tool}")


def _memory() -> Iterator[Finding]:
    free = shm_bytes()
    found = os.statvfs("/dev/shm")
    size = found.f_frsize * found.f_blocks
    yield Finding(OK if free >= SHM_LEAST else FAIL, "shm", f"/dev/shm has {of_bytes(free)} free of {of_bytes(size)} "
                  f"({of_bytes(SHM_LEAST)} or more for an object store)")
    if free >= SHM_LEAST and size < 1 << 30:
        yield Finding(NOTE, "shm", f"/dev/shm is small ({of_bytes(size)}): objects go to disk early; in Docker set "
                                   "--shm-size")
    for base in sessions.base_dirs():
        parent = os.path.dirname(base)
        good = os.access(parent, os.W_OK)
        room = os.statvfs(parent) if good else None
        disk = f", {of_bytes(room.f_bavail * room.f_frsize)} free" if room is not None else ""
        yield Finding(OK if good else FAIL, "disk", f"{parent} is {'' if good else 'not '}writable{disk} (sessions go "
                                                    f"to {base})")


def _limits() -> Iterator[Finding]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    enough = hard == resource.RLIM_INFINITY or hard >= FILES_LEAST
    yield Finding(OK if enough else FAIL, "limits", f"hard limit of open files is {_limit(hard)} ({FILES_LEAST} or "
                                                    "more for thousands of actors)")
    most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    enough = most == resource.RLIM_INFINITY or most >= PROCESSES_LEAST
    yield Finding(OK if enough else NOTE, "limits", f"limit of processes is {_limit(most)}"
                  + ("" if enough else f": a node with many actors needs more ({PROCESSES_LEAST})"))
    for path, what in (("/sys/fs/cgroup/pids.max", "processes"), ("/sys/fs/cgroup/memory.max", "memory")):
        try:
            with open(path, encoding="ascii") as file:
                value = file.read().strip()
        except OSError:
            continue
        if value.isdigit():
            shown = of_bytes(int(value)) if what == "memory" else value
            tight = what == "processes" and int(value) < PROCESSES_LEAST
            yield Finding(NOTE if tight else OK, "limits", f"the control group limits {what} to {shown}")


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _ports() -> Iterator[Finding]:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            probe.listen(1)
            with socket.create_connection(probe.getsockname(), timeout=2):
                pass
        yield Finding(OK, "ports", "a port on loopback can be bound and reached")
    except OSError as error:
        yield Finding(FAIL, "ports", f"no port on loopback can be bound and reached: {error.strerror or error}")
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        yield Finding(NOTE, "ports", f"the name of this machine, {safe(name)!r}, has no address ({error}): give nodes "
                                     "--node-ip-address")


def _clock() -> Iterator[Finding]:
    now = time.time()
    if now < 1_700_000_000:
        yield Finding(FAIL, "clock", f"the clock says {time.ctime(now)}: certificates and ages will be wrong")
        return
    try:
        with open("/proc/stat", encoding="ascii") as file:
            booted = next(int(line.split()[1]) for line in file if line.startswith("btime"))
        steps = abs(now - time.clock_gettime(time.CLOCK_BOOTTIME) - booted)
    except (OSError, StopIteration, ValueError):
        steps = 0.0
    good = steps <= CLOCK_SKEW_S
    yield Finding(OK if good else NOTE, "clock", time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(now)) + (
        "" if good else f"; the clock was set by {duration(steps)} since the machine started: times of a cluster's "
                        "machines may differ"))


def _sessions() -> Iterator[Finding]:
    live = sessions.live_sessions()
    yield Finding(OK, "sessions", f"{plural(len(live), 'live session')} of this user")
    for session in live:
        yield Finding(OK, "sessions", f"  {described(session)}, up {duration(time.time() - session.started)}")
    ended = sessions.ended_sessions()
    size = sum(_size(path) for path in ended)
    if ended:
        yield Finding(NOTE if size > LOGS_MANY else OK, "sessions",
                      f"{plural(len(ended), 'ended session')} with logs, {of_bytes(size)} (`zray logs --address DIR`)")
    for path in _broken({session.session_dir for session in live}, set(ended)):
        yield Finding(NOTE, "sessions", f"{sessions.why_none(path)}; the next start of a node cleans it up")


def _broken(live: set[str], ended: set[str]) -> list[str]:
    """Directories of sessions that neither run nor have ended in order."""
    found = []
    for base in sessions.base_dirs():
        try:
            found += [entry.path for entry in os.scandir(base) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
    return sorted(path for path in found if path not in live | ended)


def _size(path: str) -> int:
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except OSError:
                continue
    return total


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _interpreter, _libraries, _memory, _limits, _ports, _clock, _sessions)


@main.command()
@with_format
def doctor(form: str) -> None:
    """Check what zray needs from this machine: the exit code is 1 when something fails."""
    findings = [finding for check in CHECKS for finding in check()]
    if is_human(form):
        width = width_now()
        for finding in findings:
            click.echo("\n".join(folded(f"{finding.level:<4}  {safe(finding.text)}", width, "      ")))
    else:
        show([finding._asdict() for finding in findings], form)
    sys.exit(any(finding.level == FAIL for finding in findings))
