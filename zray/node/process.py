"""The process of a daemon from its arguments to its exit code; it may be one node after another."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from zray.base.config import Config, refuse_slips
from zray.base.os_linux import write_private
from zray.node.daemon import Daemon
from zray.node.processes import linux
from zray.node.running import join_secret, session as sessions, supervision
from zray.node.running.options import BadOption, json_map, membership, offer, parser
from zray.node.running.session import SessionError

if TYPE_CHECKING:
    from zray.node.running.rejoining import Rejoin


def run(argv: list[str] | None = None) -> None:
    """The whole life of ``zray-node``.  It exits with 0 after a request to end, else with 1 (2: unknown arguments).

    A daemon that was declared dead becomes another node of its cluster: see zray.node.running.rejoining.
    """
    arguments = parser().parse_args(argv)
    daemon: Daemon | None = None
    end_signal = ""
    signals = supervision.end_signals()
    try:
        with supervision.ends_early():
            daemon = _start_or_try_again(arguments, signals)
    except supervision.EndSignal as signal_name:
        end_signal = str(signal_name)
    # the message of each is a sentence for the user
    except (BadOption, SessionError, ValueError, RuntimeError, OSError) as error:
        print(f"zray-node: {join_secret.hide(str(error))}", file=sys.stderr, flush=True)
    if daemon is None:
        if end_signal:
            print(f"zray-node: {end_signal} came before the node served", file=sys.stderr, flush=True)
        os._exit(0 if end_signal else 1)  # a half-composed daemon has open sockets; they end with the process
    _serve(daemon, arguments.ready_fd)
    if daemon.core.ways_back:
        from zray.node.running import rejoining

        rejoining.again(arguments, daemon.session(), daemon.rejoin(), signals)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed by who started it
            stream.flush()
    os._exit(1 if daemon.failed else 0)  # all is closed: to take 400 modules apart would cost its driver 40 ms more


def _start_or_try_again(arguments: argparse.Namespace, signals: list[signal.Signals]) -> Daemon:
    if arguments.rejoin_fd < 0:
        return _start(arguments)
    from zray.node.peers.entry import JoinRefused
    from zray.node.running import rejoining

    state = rejoining.Rejoin.read(arguments.rejoin_fd)
    session = sessions.read(arguments.session_dir)
    try:
        join = rejoining.reachable(state)
        try:
            return _start(arguments, state, join)
        except JoinRefused as error:
            state = rejoining.next_attempt(state, join, str(error))
    except BaseException:
        sessions.retire(arguments.session_dir)
        raise
    assert session is not None, "the daemon before this one wrote it"
    rejoining.again(arguments, session, state, signals)


def _start(arguments: argparse.Namespace, state: Rejoin | None = None, join: str = "") -> Daemon:
    session_dir = ""
    try:
        linux.require()
        refuse_slips(os.environ)
        config = Config.load(json_map(arguments.config, "--config"))
        offered = offer(arguments, config)
        cluster = membership(arguments)
        if state is not None:
            cluster = replace(cluster, address=join, was_head=state.was_head)
        join_secret.forget_own()  # before the first fork
        if cluster.head and arguments.fate_fd < 0 and not (arguments.new_cluster or arguments.session_dir):
            sessions.refuse_second_cluster()
        session_dir = sessions.create(arguments.session_dir)
        return Daemon(arguments, config, offered, cluster, session_dir, state)
    except BaseException:
        if session_dir and state is None:
            sessions.remove(session_dir)
        raise


def _serve(daemon: Daemon, ready_fd: int) -> None:
    session = daemon.session()
    in_background = daemon.in_background
    code = 0
    try:
        if session.join:
            write_private(os.path.join(daemon.session_dir, join_secret.FILE_NAME), session.join)
        write_private(os.path.join(daemon.session_dir, "node.json"), session.to_json())
        if not daemon.shares_fate:
            write_private(os.path.join(os.path.dirname(daemon.session_dir), "latest"),
                          os.path.basename(daemon.session_dir))
        if ready_fd >= 0:
            os.write(ready_fd, session.to_json().encode() + b"\n\n")
            os.close(ready_fd)
        elif not in_background:
            supervision.survive_closed_output()
            print(session.introduction() if session.join else
                  f"zray-node serves {daemon.session_dir} (pid {os.getpid()}); stop it with SIGTERM or `zray stop`",
                  flush=True)
        daemon.journal.open(take_output=in_background)  # its reader, our parent, has closed
        sessions.sweep_logs(daemon.config.logs_sessions_max, daemon.config.logs_kept_s)
        sessions.sweep_results(daemon.config.resume_kept_s)
        daemon.run()
    except Exception as error:  # reported before anything is removed: drivers quote it
        code = 1
        daemon.core.stopping = "an error in zray itself"
        daemon.core.ways_back = []
        daemon.journal.note(f"the node ends with an error: {error!r}", error)
    finally:
        if daemon.core.ways_back:
            from zray.node.running import rejoining

            rejoining.hold_signals()
            daemon.watcher.run()  # one that came just before: then it does not join again
        daemon.close()
    if code:
        sys.exit(code)
