"""Effects of the node's pure machines: the daemon performs them, tests and the simulator read them."""

from __future__ import annotations

from typing import Any

from zray.base.named_tuples import NamedTuple

JOB_OVER = "its job is over"  # end reason of workers and actors that may still report finished tasks


class Send(NamedTuple):
    """Put ``message`` into the outbox of ``peer`` (an incarnation); see zray.node.peers.cluster.routed."""

    peer: bytes
    message: Any


class Spawn(NamedTuple):
    """Fork a worker process with this 28-byte worker id; its incarnation is the first 8 bytes.

    With ``kind`` (a zray.node.processes.pool.Kind) the process executes Python afresh, under the variables of that
    kind.  With ``broken``, why such a process could not start, the process only raises that in the tasks that it gets.
    """

    worker: bytes
    kind: Any = None
    broken: str = ""


class Watch(NamedTuple):
    """Call :meth:`NodeMachine.process_exited` when process ``pid``, known as ``incarnation``, ends."""

    incarnation: bytes
    pid: int


class Kill(NamedTuple):
    """SIGKILL the process of worker ``incarnation`` (if it has one yet; else as soon as it has)."""

    incarnation: bytes


class Forget(NamedTuple):
    """The process behind ``incarnation`` is gone: drop its session, connection, store slot and log files."""

    incarnation: bytes


class EndJob(NamedTuple):
    """Job ``job`` is over: read the rest of its output, then send ``reply`` (Bye) to ``driver`` unless it is gone."""

    job: int
    driver: bytes
    reply: Any


class DropJob(NamedTuple):
    """Every process of job ``job`` is gone: drop its objects."""

    job: int


class Note(NamedTuple):
    """An event for the log and the event table."""

    kind: str
    detail: dict


class Link(NamedTuple):
    """Another node has joined: dial it, and again whenever the connection breaks."""

    node: bytes
    endpoint: str


class Unlink(NamedTuple):
    """Another node is gone: hang up, and refuse further messages from it."""

    node: bytes


class InstallEnvironment(NamedTuple):
    """Fetch, unpack and build ``setup`` (zray.environments.setup) for ``job``; then call
    :meth:`NodeMachine.environment_installed` or :meth:`NodeMachine.environment_failed` with ``number``."""

    number: int
    setup: str
    job: int
    variables: dict  # of the environment


class StopInstall(NamedTuple):
    """Nobody waits for installation ``number`` any more."""

    number: int


class RemoveInstalled(NamedTuple):
    """Delete these folders, which no environment needs any more."""

    folders: tuple


Effect = (InstallEnvironment | StopInstall | RemoveInstalled | Link | Unlink | Send | Spawn | Watch | Kill | Forget
          | EndJob | DropJob | Note)
