"""``zray doctor``: checks this machine for the needs of zray."""

from __future__ import annotations

import os
import sys

import click

from zray.cli.commands import main
from zray.node.running import session as sessions


@main.command()
def doctor() -> None:
    """Check what zray needs from this machine."""
    import resource

    from zray.node.processes import linux
    from zray.node.running.options import shm_bytes

    failed = []

    def line(good: bool, text: str) -> None:
        failed.extend([] if good else [text])
        click.echo(f"{'ok  ' if good else 'FAIL'}  {text}")

    try:
        linux.require()
        line(True, f"Linux, Python {sys.version.split()[0]}")
    except RuntimeError as error:
        line(False, str(error))
    import zmq

    line(zmq.zmq_version_info() >= (4, 3, 3), f"libzmq {zmq.zmq_version()} (4.3.3 or newer)")
    line(bool(zmq.has("curve")), "libzmq has CURVE")
    free = shm_bytes()
    line(free >= 64 << 20, f"/dev/shm has {free >> 20} MiB free (64 or more for an object store)")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    line(hard >= 4096, f"hard limit of open files is {hard} (4096 or more for thousands of actors)")
    for base in sessions.base_dirs():
        parent = os.path.dirname(base)
        line(os.access(parent, os.W_OK), f"{parent} is writable (sessions go to {base})")
    live = sessions.live_sessions()
    line(True, f"{len(live)} live sessions of this user")
    for session in live:
        click.echo(f"      {session.session_dir} (pid {session.pid})")
    sys.exit(bool(failed))
