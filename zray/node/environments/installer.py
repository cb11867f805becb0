"""Performs the effects of the EnvironmentTable: packages come from the control store, a process installs.

    install: fetch each stored package into a file, piece by piece  ->  start the process  ->  read its answer
    stop:    forget the fetch, or ask the guard of the process to end it with all that it started
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from zray.base import env_vars
from zray.base.ports import Ports
from zray.environments.packages import digest_of
from zray.environments.setup import addresses, mask, parts_of, stored_packages
from zray.node.effects import InstallEnvironment, RemoveInstalled, StopInstall
from zray.node.processes import linux
from zray.node.processes.linux import Ended

FOLDER = "environments"  # in the session directory
# In the environment of what installs, to find what a guard that was killed left; the value is unique on the machine.
BUILD_MARK = "ZRAY_INSTALLATION"
LOG_TAIL = 4000  # characters of the log in the error of a process that left no answer


class InstallerPorts(Ports):
    """Ports of an installer to its daemon."""

    get_package: Callable[[bytes, Callable[[Any], None]], Any]  # (key, then): a piece from the control store
    watch: Callable[[int, Callable[[Ended], None]], None]  # call back when that child has ended
    installed: Callable[[int, dict[str, Any], dict[str, int]], None]  # (number, equipment, folders with their bytes)
    failed: Callable[[int, str, bool], None]  # (number, error, whether the job's packages are gone)
    note: Callable[[str], None]


class _Work:
    """An installation under way."""

    def __init__(self, effect: InstallEnvironment, parts: dict[str, Any]) -> None:
        self.effect = effect
        self.parts = parts
        self.stored: dict[str, str] = {}  # address -> file of a fetched package
        self.missing: list[str] = []  # addresses to be fetched
        self.pid = 0


class Installer:
    """See the module's docstring."""

    def __init__(self, session_dir: str, environ: Mapping[str, str], job_bytes: int, ports: InstallerPorts):
        self._root = os.path.join(session_dir, FOLDER)
        self._logs = os.path.join(session_dir, "logs")
        self._environ = environ
        self._job_bytes = job_bytes
        self._ports = ports
        self._works: dict[int, _Work] = {}
        self._running: dict[int, str] = {}  # guards by process id, with their marks
        self._count = 0
        self._removals = 0

    # ------------------------------------------------------------ effects

    def install(self, effect: InstallEnvironment) -> None:
        parts = parts_of(effect.setup)
        work = self._works[effect.number] = _Work(effect, parts)
        if not addresses(parts) and "pip" not in parts and "uv" not in parts:
            self._installed(work, {}, {})
            return
        with self._reporting(work):
            work.missing = stored_packages(parts)
            for folder in ("packages", "venvs", "incoming"):
                os.makedirs(os.path.join(self._root, folder), mode=0o700, exist_ok=True)
            self._fetch_next(work)

    @contextlib.contextmanager
    def _reporting(self, work: _Work) -> Iterator[None]:
        """What the disk or the kernel refuses is the error of that environment: nobody may wait for it for ever."""
        try:
            yield
        except (OSError, ValueError) as error:
            self._failed(work, f"{type(error).__name__}: {error}")

    def stop(self, effect: StopInstall) -> None:
        work = self._works.pop(effect.number, None)
        if work is None:
            return
        self._forget_files(work)
        if work.pid:
            self._end(work.pid)

    def remove(self, effect: RemoveInstalled) -> None:
        self._removals += 1
        answer = os.path.join(self._root, f"removed-{self._removals}")

        def ended(_: Ended) -> None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(answer)

        self._start({"remove": list(effect.folders), "answer": answer}, "removals", {}, ended)

    def close(self) -> None:
        """End all processes; the daemon waits for the guards."""
        for number in list(self._works):
            self.stop(StopInstall(number))
        for pid in self._running:
            self._end(pid)

    @staticmethod
    def _end(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)

    # ------------------------------------------------------------ fetching

    def _fetch_next(self, work: _Work) -> None:
        if self._works.get(work.effect.number) is not work:
            return
        if not work.missing:
            self._build(work)
            return
        address = work.missing[0]
        key = work.effect.job.to_bytes(self._job_bytes, "big") + digest_of(address)
        path = os.path.join(self._root, "incoming", f"{work.effect.number}-{len(work.stored)}.zip")

        def counted(call: Any) -> None:
            if call.error or call.value is None:
                self._fetch_failed(work, address, call)
                return
            with self._reporting(work):
                work.stored[address] = path
                with open(path, "wb"):
                    pass
                self._fetch_piece(work, address, key, 0, int.from_bytes(call.value, "big"))

        self._ports.get_package(key, counted)

    def _fetch_piece(self, work: _Work, address: str, key: bytes, number: int, count: int) -> None:
        if self._works.get(work.effect.number) is not work:
            return
        if number == count:
            work.missing.pop(0)
            self._fetch_next(work)
            return

        def arrived(call: Any) -> None:
            if call.error or call.value is None:
                self._fetch_failed(work, address, call)
            elif self._works.get(work.effect.number) is work:
                with self._reporting(work):
                    with open(work.stored[address], "ab") as file:
                        file.write(call.value)
                    self._fetch_piece(work, address, key, number + 1, count)

        self._ports.get_package(key + number.to_bytes(4, "big"), arrived)

    def _fetch_failed(self, work: _Work, address: str, call: Any) -> None:
        why = call.error or "it is not there (its job may be over)"
        self._failed(work, f"the package {address} could not be read from the control store: {why}",
                     lost=not call.error)

    def _failed(self, work: _Work, error: str, lost: bool = False) -> None:
        if self._works.pop(work.effect.number, None) is work:
            self._forget_files(work)
            self._ports.failed(work.effect.number, error, lost)

    def _installed(self, work: _Work, equipment: dict[str, Any], sizes: dict[str, int]) -> None:
        with self._reporting(work):
            equipment = _commanded(equipment, work.parts)
        if self._works.pop(work.effect.number, None) is work:
            self._ports.installed(work.effect.number, equipment, sizes)

    @staticmethod
    def _forget_files(work: _Work) -> None:
        for path in work.stored.values():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    # ------------------------------------------------------------ building

    def _build(self, work: _Work) -> None:
        number = work.effect.number
        answer = os.path.join(self._root, f"answer-{number}")
        parents = [path for path in sys.path if path.endswith("-packages")]
        task = {"parts": work.parts, "root": self._root, "stored": work.stored, "answer": answer, "parents": parents}
        work.pid = self._start(task, str(number), work.effect.variables,
                               lambda ended: self._ended(work, answer, ended))

    def _start(self, task: dict[str, Any], name: str, variables: Mapping[str, str], then: Callable[[Ended], None]
               ) -> int:
        """Start the process of zray.node.environments.build; ``then`` is called at its end."""
        self._count += 1
        mark = f"{os.getpid()}-{linux.start_time(os.getpid())}-{self._count}"
        pid = self._spawn(task, name, {**self._environ, **env_vars.expand(variables, self._environ), BUILD_MARK: mark})
        self._running[pid] = f"{BUILD_MARK}={mark}"

        def ended(how: Ended) -> None:
            mark = self._running.pop(pid)
            if how.signal:  # so it may have ended nothing else
                linux.end_marked(mark)
            then(how)

        self._ports.watch(pid, ended)
        return pid

    def _spawn(self, task: dict[str, Any], name: str, environ: Mapping[str, str]) -> int:
        """The process; its task goes through memory, not through arguments."""
        handle = os.memfd_create("zray-install-task")
        try:
            os.write(handle, json.dumps(task).encode())
            os.lseek(handle, 0, os.SEEK_SET)
            program = (f"import sys; sys.path[:] = {sys.path!r}; "
                       "from zray.node.environments.build import main; main()")
            log = os.path.join(self._logs, f"environment-{name}.log")
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            return os.posix_spawn(sys.executable, [sys.executable, "-P", "-c", program, str(os.getpid())], environ,
                                  file_actions=[(os.POSIX_SPAWN_DUP2, handle, 0),
                                                (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600),
                                                (os.POSIX_SPAWN_DUP2, 1, 2)],
                                  setsid=True, setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGCHLD])
        finally:
            os.close(handle)

    def _ended(self, work: _Work, answer: str, ended: Ended) -> None:
        number = work.effect.number
        found: dict[str, Any] = {}
        try:
            with open(answer, encoding="utf-8") as file:
                found = json.load(file)
            os.unlink(answer)
        except (OSError, ValueError):
            found = {"error": f"the process that installs it ended ({ended}):\n{self._log_tail(number)}"}
        self._forget_files(work)
        if self._works.get(number) is not work:
            return
        log = os.path.join(self._logs, f"environment-{number}.log")
        if "error" in found:
            self._ports.note(f"a runtime environment could not be set up; see {log}")
            self._failed(work, f"{mask(found['error'])}\nThe whole output is in {log} on the node.")
        else:
            self._installed(work, found["equipment"], found["sizes"])

    def _log_tail(self, number: int) -> str:
        try:
            with open(os.path.join(self._logs, f"environment-{number}.log"), encoding="utf-8", errors="replace") as log:
                return mask(log.read()[-LOG_TAIL:].strip())
        except OSError:
            return ""


def _commanded(equipment: dict[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """The equipment, with the command line of Python for workers that need a process of their own."""
    if "py_executable" in parts:
        return {**equipment, "python": shlex.split(parts["py_executable"]), "fresh": True}
    if equipment.get("fresh"):
        return {**equipment, "python": [os.path.join(equipment["venv"], "bin", "python")]}
    return equipment
