"""Removes the remains of killed sessions: segments in /dev/shm and session directories.

Every session names its node: the first page of its control segment, and ``owner.json`` in its directory, hold the boot,
the pid namespace, the pid and the start time of the node.  The remains are removed only when that process is certainly
gone: same boot and same namespace and no such process, or another boot.  In doubt they stay.
"""

from __future__ import annotations

import json
import os
import re
import time

from zray.base import os_linux
from zray.store.segment import arena_name, control_name, process_identity, read_identity, remove

OWNER_FILE = "owner.json"
LOGS = "logs"  # files of a session that stay, see zray.node.running.session
STATE = "state"  # and what stays of its rows
# A session without an identity is being made, unless it is older than this.
UNNAMED_S = 60.0
_NAME = re.compile(r"zray-(?P<session>.+)-(?P<kind>arena|control)")


def write_owner(session_dir: str) -> None:
    """Mark the session directory as this process's."""
    os.makedirs(session_dir, mode=0o700, exist_ok=True)
    path = os.path.join(session_dir, OWNER_FILE)
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        json.dump(process_identity(os.getpid()), file)
    os.replace(temporary, path)


def is_dead(identity: dict[str, str | int]) -> bool:
    """Whether the process is certainly gone."""
    if identity.get("boot") != os_linux.boot_id():
        return True
    if identity.get("namespace") != os_linux.pid_namespace():
        return False  # another container's: its pids mean nothing here
    pid, start = identity.get("pid"), identity.get("start")
    if type(pid) is not int or type(start) is not int:
        return False
    return os_linux.process_start(pid) != start


def sweep(base_dir: str, shm_dir: str = os_linux.SHM_DIR) -> list[str]:
    """Remove the remains of this user's dead sessions; the paths that were removed."""
    return _sweep_segments(shm_dir) + _sweep_directories(base_dir)


def _sweep_segments(shm_dir: str) -> list[str]:
    removed = []
    for name in sorted(_list(shm_dir)):
        match = _NAME.fullmatch(name)
        if match is None or not _is_mine(os.path.join(shm_dir, name)):
            continue
        session = match["session"]
        control = os.path.join(shm_dir, control_name(session))
        if not _is_dead_control(control, os.path.join(shm_dir, name)):
            continue
        for path in (os.path.join(shm_dir, arena_name(session)), control):  # in this order: see StoreService.close
            if os.path.lexists(path):
                remove(path)
                removed.append(path)
    return removed


def _is_dead_control(control: str, path: str) -> bool:
    try:
        identity = read_identity(control)
        if identity is not None:
            return is_dead(identity)
        age = os.stat(control)
    except FileNotFoundError:
        try:
            age = os.stat(path)  # an arena whose control segment is gone
        except FileNotFoundError:
            return False
    return time.time() - age.st_mtime > UNNAMED_S


def _sweep_directories(base_dir: str) -> list[str]:
    removed = []
    for name in sorted(_list(base_dir)):
        path = os.path.join(base_dir, name)
        if os.path.islink(path) or not os.path.isdir(path) or not _is_mine(path):
            continue
        try:
            with open(os.path.join(path, OWNER_FILE)) as file:
                identity = json.load(file)
        except (OSError, ValueError):
            continue  # not ours, or being made
        if isinstance(identity, dict) and is_dead(identity):
            os_linux.strip(path, LOGS, STATE)
            removed.append(path)
    return removed


def _list(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_mine(path: str) -> bool:
    try:
        return os.lstat(path).st_uid == os.getuid()
    except FileNotFoundError:
        return False
