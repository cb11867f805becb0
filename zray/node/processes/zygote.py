"""The zygote: a process with every import done that forks workers.

The daemon forks it before it has threads or ZeroMQ contexts.  It then imports what workers need (numpy with one BLAS
thread, cloudpickle, zray.worker), freezes the heap so that the collector does not touch shared pages, and serves
requests on a socket: 4 bytes of length, then msgpack.

    daemon -> zygote   {"base": {...}}                          common settings of all workers of this node
    daemon -> zygote   {"spawn": [{"worker_id": ..., ["start": {...}]}, ...]}
    daemon -> zygote   {"began": [pid, ...], "ended": [pid, ...]}   workers of an earlier zygote; workers that ended
    zygote -> daemon   {"spawned": [[worker id, pid], ...]}      pid 0: the fork failed, for the reason {"error": text}

A spec with "start" asks for a worker whose variables count only at the start of a process.  Its
fork executes Python again, with that environment, and reads the spec from descriptor 3.  Session,
output and parent are the same.  "start" has the variables ("env"), "threads", the "drivers" numbers of
threads, the command line of "python" if it is another one, and the "folder" to start it in.

The end of the socket is the end of the daemon.  Its workers end by themselves then; the processes that they started do
not.  So the zygote kills the process groups of the workers that live, and ends.

Workers are forked twice.  An intermediate process exits at once, so that the daemon, a subreaper,
becomes the parent and can wait for the worker by pidfd; one such process serves a whole batch.  The
answer leaves only after it was collected: from then on the daemon *is* the parent.

    the intermediate process is killed    the workers that it forked end, and the answer says that the fork failed
    the zygote is killed or fails         the daemon ends forks without a report, and starts another; workers go on
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import msgpack

from zray.base import env_vars
from zray.node.processes import linux

# In this order: modules that every worker uses come first, so that they lie together.  A worker
# that writes to them (a count of references is a write) then copies few pages.  Never numba: 92 MB
# a process that few tasks need.
IMPORTS = ("zray.core.joining", "zray.worker.actors.calls", "zray.worker.main", "zray.values.pickler",
           "zray.values.definitions", "cloudpickle", "concurrent.futures", "asyncio", "numpy", "numpy.random")
BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
SAVED_BLAS = "ZRAY_SAVED_BLAS"  # the user's values of the above, as JSON, for workers to restore
# Above the daemon's niceness, which keeps the daemons at work.  No more than this, since it counts
# against all other programs of the machine: on a crowded one an owner of 500 tasks got a hundredth
# of a CPU at 10, and a synchronous call took 0.4 to 4 ms at 3, 0.3 to 0.4 at 0.
WORKER_NICE = 1
WORKER_OOM_SCORE = 500  # of 1000: when memory runs out, a worker ends before its daemon, which would end all workers
LENGTH = struct.Struct("<I")


def one_blas_thread() -> None:
    """Before numpy is imported: one BLAS thread, so that no thread exists when we fork."""
    if SAVED_BLAS not in os.environ:
        os.environ[SAVED_BLAS] = json.dumps({name: os.environ.get(name) for name in BLAS_VARIABLES})
    for name in BLAS_VARIABLES:
        os.environ[name] = "1"


def restore_blas_variables() -> None:
    for name, value in json.loads(os.environ.pop(SAVED_BLAS, "{}")).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def workers_environ() -> dict[str, str]:
    """The environment of forked workers; call it in the daemon."""
    out = dict(os.environ)
    for name, value in json.loads(out.pop(SAVED_BLAS, "{}")).items():
        out.pop(name, None)
        if value is not None:
            out[name] = value
    return out


# ---------------------------------------------------------------- the daemon's end


class ZygoteLink:
    """The daemon's end of the socket: never blocks."""

    def __init__(self, sock: socket.socket, pid: int):
        sock.setblocking(False)
        self.sock = sock
        self.pid = pid
        self._out = bytearray()
        self._in = bytearray()

    @classmethod
    def fork(cls, soft_limit: int, log: str) -> ZygoteLink:
        """Fork this process into a zygote that logs to file ``log``.  Only with one thread and no ZeroMQ context."""
        ours, theirs = socket.socketpair()
        daemon = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                # The daemon's other descriptors are not ours: the pipe to its starter would never end.
                os.closerange(3, theirs.fileno())
                os.closerange(theirs.fileno() + 1, 1 << 30)
                Zygote(theirs, daemon, soft_limit).serve()
                code = 0
            except BaseException:  # this is the last frame of the process: report the error that ended it, then end
                traceback.print_exc()
            finally:
                os._exit(code)
        theirs.close()
        return cls(ours, pid)

    @classmethod
    def execute(cls, soft_limit: int) -> ZygoteLink:
        """A zygote of a daemon that already has threads: a fresh interpreter."""
        ours, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        program = f"import sys; sys.path[:] = {sys.path!r}; from zray.node.processes.zygote import main; main()"
        command = [sys.executable, "-P", "-c", program, str(theirs.fileno()), str(os.getpid()), str(soft_limit)]
        pid = os.posix_spawn(sys.executable, command, os.environ)
        theirs.close()
        return cls(ours, pid)

    def send(self, message: dict[str, Any]) -> None:
        body = msgpack.packb(message)
        self._out += LENGTH.pack(len(body)) + body
        self.flush()

    def flush(self) -> bool:
        """Write as much as the socket takes; True when nothing is left."""
        while self._out:
            try:
                count = self.sock.send(self._out)
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                self._out.clear()  # its pidfd reports that to the daemon
                return True
            del self._out[:count]
        return True

    def read(self) -> list[tuple[bytes, int, str]]:
        """Workers started since: (worker id, pid, error)."""
        while True:
            try:
                piece = self.sock.recv(1 << 16)
            except BlockingIOError:
                break
            except ConnectionResetError:
                break
            if not piece:
                break
            self._in += piece
        started = []
        for message in _messages(self._in):
            error = message.get("error", "")
            started += [(worker, pid, error) for worker, pid in message["spawned"]]
        return started

    def close(self) -> None:
        self.sock.close()


def _messages(buffer: bytearray) -> list[dict[str, Any]]:
    """Take whole messages off the front of ``buffer``."""
    out = []
    while len(buffer) >= LENGTH.size:
        end = LENGTH.size + LENGTH.unpack_from(buffer)[0]
        if len(buffer) < end:
            break
        out.append(msgpack.unpackb(bytes(buffer[LENGTH.size:end])))
        del buffer[:end]
    return out


# ---------------------------------------------------------------- the zygote


class Zygote:
    """Serves spawn requests until the daemon's end of the socket closes."""

    def __init__(self, sock: socket.socket, daemon: int, soft_limit: int):
        self.sock = sock
        self.daemon = daemon
        self.soft_limit = soft_limit
        self.base: dict[str, Any] = {}
        self.workers: set[int] = set()  # that live; each leads a process group
        self.forks = int.from_bytes(os.urandom(4), "little")  # counts workers, for their seeds
        self.run: Callable[[dict[str, Any], Any], Any] | None = None
        self.config: Any = None  # of all workers

    def prepare(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a terminal or supervisor means the daemon, and it ends us
        linux.name_process("zray-zygote")
        one_blas_thread()
        for name in IMPORTS:
            importlib.import_module(name)
        self.run = sys.modules["zray.worker.main"].run
        gc.collect()
        gc.disable()
        gc.freeze()
        if sys.version_info < (3, 12):
            # Its entries count references of names: each one that a worker replaces would cost it
            # two pages.  From 3.12 on names are immortal.
            sys._clear_type_cache()

    def serve(self) -> None:
        self.prepare()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the daemon died before our answer
            self._serve()
        for pid in self.workers:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def _serve(self) -> None:
        buffer = bytearray()
        more = True
        while more:
            more = self._receive(buffer)
            while more and select.select([self.sock], [], [], 0)[0]:  # requests that piled up go as one batch
                more = self._receive(buffer)
            specs = []
            for message in _messages(buffer):
                if "base" in message:
                    self.base = message["base"]
                    self.config = sys.modules["zray.worker.main"].rehearse(self.base)
                self.workers.update(message.get("began", ()))
                self.workers.difference_update(message.get("ended", ()))
                specs += message.get("spawn", ())
            if specs and more:
                self.spawn(specs)

    def _receive(self, buffer: bytearray) -> bool:
        """Whether the daemon sent more; not when it has died."""
        try:
            piece = self.sock.recv(1 << 20)
        except ConnectionResetError:  # it died before it read all answers
            return False
        buffer += piece
        return bool(piece)

    def spawn(self, specs: list[dict[str, Any]]) -> None:
        """Fork all of them through one intermediate process, and answer."""
        read, write = os.pipe()
        try:
            between = os.fork()
        except OSError as error:
            os.close(read)
            os.close(write)
            self._answer([[spec["worker_id"], 0] for spec in specs], f"cannot fork: {error}")
            return
        if between == 0:
            try:
                self._between(specs, write)
            finally:  # whatever happens in this copy, it must not go on as a zygote
                os._exit(1)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            body = pipe.read()
        _, status = os.waitpid(between, 0)
        self.forks += len(specs)
        if status:
            self._answer([[spec["worker_id"], 0] for spec in specs], "the process that forks workers was killed")
            return
        report = msgpack.unpackb(body)
        self.workers.update(pid for _, pid in report["spawned"] if pid)
        self._answer(report["spawned"], report["error"])

    def _answer(self, spawned: list[list[Any]], error: str) -> None:
        body = msgpack.packb({"spawned": spawned, "error": error})
        self.sock.sendall(LENGTH.pack(len(body)) + body)

    def _between(self, specs: list[dict[str, Any]], write: int) -> None:
        """In the intermediate process: fork each worker, report their pids, exit.  Never returns."""
        spawned: list[list[Any]] = []
        text = ""
        between = os.getpid()
        self._prepare_workers()
        gate, gate_write = os.pipe()  # closes when this process ends: the workers wait for that without spinning
        passes, passes_write = os.pipe()  # has a byte for each worker, once their pids are reported
        for serial, spec in enumerate(specs, self.forks):
            try:
                pid = os.fork()
            except OSError as error:
                text = f"cannot fork: {error}"
                pid = 0
            else:
                if pid == 0:
                    os.close(gate_write)
                    os.close(passes_write)
                    self._child({**self.base, **spec}, serial, (gate, passes), between)
            spawned.append([spec["worker_id"], pid])
        os.write(write, msgpack.packb({"spawned": spawned, "error": text}))
        os.write(passes_write, bytes(len(spawned)))
        os._exit(0)

    def _prepare_workers(self) -> None:
        """In the intermediate process: what the workers inherit.  Once for all of them, not in each.

        Their input is /dev/null.
        """
        linux.set_niceness(max(0, os.getpriority(os.PRIO_PROCESS, 0)) + WORKER_NICE)
        linux.end_before_others(WORKER_OOM_SCORE)
        linux.restore_descriptor_limit(self.soft_limit)
        restore_blas_variables()
        null = os.open(os.devnull, os.O_RDONLY)
        if null != 0:
            os.dup2(null, 0)
            os.close(null)
        sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]

    def _child(self, spec: dict[str, Any], serial: int, gates: tuple[int, int], between: int) -> None:
        """In the worker: become a clean process, then run.  Never returns."""
        code = 1
        try:
            os.setsid()
            linux.set_session_niceness(os.getpriority(os.PRIO_PROCESS, 0))
            for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _reseed(serial)
            self._join_daemon(*gates, between)
            _redirect(spec)  # after that: a worker whose node has ended makes no file in its session
            if "start" in spec:
                _execute(spec)
            os.closerange(3, 1 << 30)  # one close_range call; the zygote keeps nothing that a worker may use
            linux.name_process("zray-worker")
            gc.enable()
            assert self.run is not None
            code = self.run(spec, self.config) or 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:  # the last frame of the process: log the error that ended it
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except (OSError, ValueError):
                    pass  # a full disk, or user code closed it; no reader is left
            os._exit(code)

    def _join_daemon(self, gate: int, passes: int, between: int) -> None:
        """Wait until the daemon is the parent, then die with it (the signal is bound to the parent at that moment)."""
        os.read(gate, 1)
        if not os.read(passes, 1):
            os._exit(1)  # the intermediate process died before its report: nobody knows this worker
        while os.getppid() == between:  # the kernel closes descriptors a moment before it reparents children
            time.sleep(0.0002)
        linux.die_with_parent(self.daemon)


def log_paths(session_dir: str, worker_id: bytes) -> tuple[str, str]:
    stem = os.path.join(session_dir, "logs", f"worker-{worker_id[:8].hex()}")
    return stem + ".out", stem + ".err"


SPEC_FD = 3


def _execute(spec: dict[str, Any]) -> NoReturn:
    """In a worker: start Python again under the environment in the spec; continues in :func:`fresh`.

    The parent's death signal outlives the call.  The spec goes through memory, not through arguments,
    which all users of the machine can read.
    """
    start = spec["start"]
    environ = env_vars.at_start(start["env"], start["threads"], start["drivers"], os.environ)
    handle = os.memfd_create("zray-worker-spec", 0)
    with open(handle, "wb", closefd=False) as file:
        file.write(msgpack.packb(spec))
    os.lseek(handle, 0, os.SEEK_SET)
    if handle != SPEC_FD:
        os.dup2(handle, SPEC_FD)
    os.set_inheritable(SPEC_FD, True)
    os.closerange(SPEC_FD + 1, 1 << 30)
    parent = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
    path = f"sys.path.append({parent!r})" if parent.endswith("-packages") else f"sys.path.insert(0, {parent!r})"
    program = f"import sys; {path}; from zray.node.processes.zygote import fresh; fresh()"
    if start.get("folder"):
        os.chdir(start["folder"])
    command = start.get("python") or [sys.executable]
    try:
        os.execvpe(command[0], [*command, "-P", "-c", program], environ)
    except OSError as error:  # an error of the user's: no traceback
        sys.stderr.write(f"the command {command[0]!r} cannot be started on this node: {error.strerror}\n")
        os._exit(127)


def fresh() -> None:
    """In a worker that was executed: see :func:`_execute`."""
    with open(SPEC_FD, "rb") as file:
        spec = msgpack.unpackb(file.read())
    linux.name_process("zray-worker")
    if os.getsid(0) != os.getpid():  # below the user's command, which is what the daemon started
        linux.die_with_parent(os.getppid())
    importlib.import_module("zray.worker.main").run(spec)


def _redirect(spec: dict[str, Any]) -> None:
    """Output to the worker's two files: a pipe without a reader would stop the worker.

    The streams inherited from the zygote write to the same descriptors; zray.worker.process replaces them.
    """
    for target, path in zip((1, 2), log_paths(spec["session_dir"], spec["worker_id"]), strict=True):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(handle, target)


def _reseed(serial: int) -> None:
    """A fork copies numpy's generator: without this, all workers draw the same numbers (``random`` sees to itself).

    numpy takes four times as long to gather entropy as to spread a number; a count never repeats, and an odd factor
    modulo 2**32 keeps numbers apart that are.
    """
    sys.modules["numpy.random"].seed(serial * 2654435761 % 2**32)


def main() -> None:
    """With arguments FD DAEMON_PID SOFT_LIMIT: see :meth:`ZygoteLink.execute`."""
    handle, daemon, soft_limit = map(int, sys.argv[1:])
    Zygote(socket.socket(fileno=handle), daemon, soft_limit).serve()
