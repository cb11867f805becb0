"""A daemon that was declared dead, and is not, begins again: the same process, another node.

    declared dead     all work of the node ends, as with its process; its workers are killed, its memory and its keys
                      are removed (Daemon.close)
    again()           the process executes a new daemon: its supervisor, `zray stop` and --session-dir find it as before
    reachable()       the new daemon looks for a node that the old one knew, until ``deadline``
    joins             as any new node does: another node id, other keys.  The old id is never admitted again

A join that fails is tried again by a new daemon, because an incarnation can ask only once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import socket
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NoReturn

from zray.base.os_linux import write_private
from zray.node.processes import linux
from zray.node.running import join_secret, launch
from zray.node.running.options import json_map
from zray.node.running.session import NodeSession
from zray.node.running.supervision import end_signals
from zray.store.node import reaper
from zray.transport.credentials import BadJoinString, decode_join

REACH_S = 1.0  # for one attempt to connect to a node
CHILDREN_S = 1.5  # for killed children to end; the kernel needs milliseconds
RETRY_ROUND_S, RETRY_ROUND_S_MAX = 0.1, 1.0  # between two rounds of attempts; doubled each time

# The options of zray-node that the new daemon gets as they are.  The way into the cluster is in its state.
OPTIONS = ("num_cpus", "num_gpus", "object_store_memory", "memory", "host", "port", "port_range", "node_name",
           "insecure", "gcs_dir", "one_port", "node_ip_address")
JSON_OPTIONS = ("resources", "labels", "config")


class RejoinFailed(RuntimeError):
    """The node cannot join again; the message is one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Rejoin:
    """What a daemon passes to the one that it becomes."""

    node: str  # hex id of the node that was declared dead
    reason: str
    joins: list[str] = field(repr=False)  # join strings of nodes that it knew; the next to try first
    within_s: float
    deadline: float  # on the monotonic clock, which goes on when a program is executed
    was_head: bool
    in_background: bool  # its output goes to its log
    niceness: int  # of the process before it became a daemon
    descriptors: int  # its soft limit

    @classmethod
    def read(cls, handle: int) -> Rejoin:
        return cls(**json.loads(join_secret.read_descriptor(handle)))

    def failed(self, why: str) -> RejoinFailed:
        return RejoinFailed(f"this node was declared dead ({self.reason}), and could not join its cluster again within "
                            f"{self.within_s:g} s: {why}; start it again with a join string of a node that runs")


def reachable(state: Rejoin) -> str:
    """The join string of the first node that can be connected to; RejoinFailed at the deadline."""
    pause_s = RETRY_ROUND_S
    while True:
        tried = []
        for join in state.joins:
            try:
                node = decode_join(join)
                with socket.create_connection((node.host, node.port), timeout=REACH_S):
                    return join
            except (OSError, BadJoinString) as error:
                tried.append(f"{join_secret.hide(join)} ({error})")
        if time.monotonic() + pause_s > state.deadline:
            raise state.failed("none of the nodes that it knew can be reached: " + ", ".join(tried))
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, RETRY_ROUND_S_MAX)


def next_attempt(state: Rejoin, tried: str, why: str) -> Rejoin:
    """The state after a join through ``tried`` has failed; RejoinFailed when there is no time for another."""
    if time.monotonic() + RETRY_ROUND_S_MAX > state.deadline:
        raise state.failed(why)
    time.sleep(RETRY_ROUND_S_MAX)
    return replace(state, joins=[*(join for join in state.joins if join != tried), tried])


def hold_signals() -> None:
    """A signal to end stays pending from here until the next daemon can handle it (supervision.ends_early)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, end_signals())


def again(arguments: argparse.Namespace, session: NodeSession, state: Rejoin,
          signals: list[signal.Signals]) -> NoReturn:
    """Replace this daemon, which has closed everything, by a new one with the same options; ``signals`` end it."""
    hold_signals()
    session.join, session.rejoins = "", True  # its ticket is void; the file is for `zray stop`
    reaper.write_owner(session.session_dir)
    write_private(os.path.join(session.session_dir, "node.json"), session.to_json())
    for number in signals:
        signal.signal(number, signal.SIG_DFL)  # what is ignored would stay ignored
    _end_children()
    linux.set_niceness(state.niceness)
    linux.restore_descriptor_limit(min(state.descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    options: dict[str, Any] = {name: getattr(arguments, name) for name in OPTIONS}
    options |= {name: json_map(getattr(arguments, name), f"--{name}") for name in JSON_OPTIONS}
    launch.become_node(launch.NodeOptions(
        **options, session_dir=session.session_dir, rejoin=json.dumps(asdict(state))))


def _end_children() -> None:
    """End workers that were forked so late that the daemon does not know them.

    They die with their parent, which goes on.  Processes that user code left behind are not ours to end.
    """
    deadline = time.monotonic() + CHILDREN_S
    while ours := [pid for pid in linux.children(os.getpid()) if linux.name_of(pid).startswith("zray-")]:
        for pid in ours:
            os.kill(pid, signal.SIGKILL)  # not collected yet, so the number is still its own
        for pid in ours:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        if time.monotonic() > deadline:
            return
