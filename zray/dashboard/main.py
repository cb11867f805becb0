"""The process of the dashboard: serves one session until its node ends, or until it is told to end.

    spawned      with a node: the starter has bound the socket; the process ends with the node
    foreground   by ``zray dashboard``: ends by Ctrl-C; after the end of the node the page says so
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable

import uvicorn

from zray.base.version import __version__
from zray.dashboard.app import Dashboard, application
from zray.dashboard.source import LiveSource
from zray.node.processes import linux
from zray.node.running import dashboard as places, session as sessions
from zray.node.running.launch import START_TIMEOUT_S
from zray.node.running.session import NodeSession

NODE_LOOK_S = 0.1  # for the session of a node that starts
FAREWELL_S = 0.5  # for the streams to say that the session has ended
LOG_FILE = "dashboard.log"


def session_of(pid: int) -> NodeSession | None:
    """The session of the node that process ``pid`` becomes; None when it becomes none."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and linux.start_time(pid):
        for found in sessions.live_sessions():
            if found.pid == pid:
                return found
        time.sleep(NODE_LOOK_S)
    return None


async def serve(session: NodeSession, listener: socket.socket, *, ends_with_node: bool,
                ready: Callable[[places.DashboardFile], None] = lambda file: None) -> None:
    """Serve the page of a session.  Returns when the node has ended (``ends_with_node``), or on SIGTERM or SIGINT."""
    token = secrets.token_urlsafe(24)
    about = {"session_dir": session.session_dir, "node_id": session.node_id, "name": session.name, "pid": session.pid,
             "started": session.started, "version": __version__, "cluster": session.cluster}
    dashboard = Dashboard(LiveSource(session.session_dir), LiveSource(session.session_dir), about)
    server = uvicorn.Server(uvicorn.Config(
        application(dashboard, token), log_config=None, access_log=False, server_header=False, lifespan="off",
        timeout_graceful_shutdown=2, timeout_keep_alive=30, h11_max_incomplete_event_size=32_768, ws="none",
        http="h11", loop="asyncio"))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)

    def node_ended() -> None:
        loop.remove_reader(node)
        dashboard.ended.set()
        if ends_with_node:
            loop.call_later(FAREWELL_S if dashboard.streams else 0, stop.set)

    try:
        node = os.pidfd_open(session.pid)
    except ProcessLookupError:
        return
    file = places.DashboardFile(places.address_of(listener), token, os.getpid(), linux.start_time(os.getpid()))
    try:
        loop.add_reader(node, node_ended)
        await server.startup(sockets=[listener])
        with contextlib.suppress(OSError):  # the session directory is gone: the node ends
            file.write(session.session_dir)
        ready(file)
        await stop.wait()  # not server.main_loop(), which looks ten times a second
        dashboard.stop()
        await server.shutdown(sockets=[listener])
        await dashboard.close()
    finally:
        loop.remove_reader(node)
        os.close(node)
        _forget(session.session_dir)


def _forget(session_dir: str) -> None:
    """Remove our file, and nobody else's."""
    path = os.path.join(session_dir, places.DASHBOARD_FILE)
    found = places.of_session(session_dir)
    if found is not None and found.pid == os.getpid():
        with contextlib.suppress(OSError):
            os.unlink(path)


def main() -> None:
    """Entry point of a spawned dashboard."""
    parser = argparse.ArgumentParser(prog="zray-dashboard")
    parser.add_argument("--socket-fd", type=int, required=True)
    parser.add_argument("--session-dir", default="")
    parser.add_argument("--node-pid", type=int, default=0)
    given = parser.parse_args()
    linux.name_process("zray-dashboard")
    listener = socket.socket(fileno=given.socket_fd)
    os.set_inheritable(given.socket_fd, False)
    session = sessions.read(given.session_dir) if given.session_dir else session_of(given.node_pid)
    if session is None:
        return
    handler = logging.FileHandler(os.path.join(session.session_dir, sessions.LOGS, LOG_FILE), delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    asyncio.run(serve(session, listener, ends_with_node=True))
