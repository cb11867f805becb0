"""``zray kill``, ``cancel`` and ``drain-node``: what changes a running session."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import click

from zray.base.ids import RETURN_1
from zray.base.os_linux import readable
from zray.cli.asking import CommandAsker, chosen, with_address
from zray.cli.commands import main
from zray.cli.finding import matching, short_actor, short_node, short_task, with_id
from zray.cli.gathering import asking, nodes_here, rows
from zray.cli.text import plural, safe
from zray.node.running import session as sessions
from zray.state.attempts import ENDED
from zray.state.client import StateClient
from zray.wire.messages import CancelObject, KillActor

KILLED_BY = "it was killed by `zray kill`"
SEEN_S = 10.0  # how long to wait until the end of what was killed or cancelled is known
ACTION_LOOK_S = 0.1
Row = dict[str, Any]


@main.command()
@click.argument("wanted", metavar="ID|NAME|PID")
@click.option("--restart", is_flag=True, help="an actor with max_restarts left starts again")
@with_address
def kill(wanted: str, restart: bool, address: str) -> None:
    """End an actor, by its id or name, or a worker process, by its pid.

    The task of a killed worker fails or is retried as if the process had crashed.
    """
    with CommandAsker(chosen(address)) as node, asking(node.handle.session_dir) as client:
        actors = [row for row in rows(client, "actors") if row["state"] != "DEAD"]
        if matching("actors", actors, wanted):
            _kill_actor(node, with_id("actors", actors, wanted)[0], restart)
            return
        workers = [row for row in rows(client, "workers") if row["is_alive"] and row["worker_type"] == "WORKER"]
        if not matching("workers", workers, wanted):
            raise click.ClickException(f"no live actor and no worker with id, name or pid {safe(wanted)!r}: `zray list "
                                       "actors` and `zray list workers` show them; `zray cancel` ends tasks")
        _kill_worker(client, with_id("workers", workers, wanted)[0])


def _kill_actor(node: CommandAsker, row: Row, restart: bool) -> None:
    actor = bytes.fromhex(row["actor_id"])
    node.tell_node(KillActor(actor, not restart, False, KILLED_BY))
    before = row["num_restarts"], row["pid"]

    def has_ended() -> bool:
        found = node.ask("actors", actor=actor)["actors"] or node.ask("actors")["actors"]
        now = next((each for each in found if each["actor_id"] == row["actor_id"]), None)
        return now is None or now["state"] == "DEAD" or (now["num_restarts"], now["pid"]) != before

    named = f"actor {safe(row['class_name'])} {safe(row['name'])}".rstrip() + f" ({short_actor(row['actor_id'])})"
    _await(has_ended, f"{named} was told to end, and has not within {SEEN_S:g} s: `zray why "
                      f"{short_actor(row['actor_id'])}` says what it does")
    click.echo(f"killed {named}, pid {row['pid']}" + ("; it starts again if it has restarts left" if restart else ""))


def _kill_worker(client: StateClient, row: Row) -> None:
    pid = row["pid"]
    if row["node_id"] not in nodes_here():
        raise click.ClickException(f"worker {pid} runs on another machine (node {short_node(row['node_id'])}): kill it "
                                   "there")
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        raise click.ClickException(f"worker {pid} has just ended by itself") from None
    try:
        # The handle is of the worker only if the node still knows it now that the number cannot be used again.
        if not any(each["worker_id"] == row["worker_id"] and each["is_alive"] for each in rows(client, "workers")):
            raise click.ClickException(f"worker {pid} has just ended by itself")
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        readable(handle, SEEN_S)
    finally:
        os.close(handle)
    click.echo(f"killed worker {pid}")


@main.command()
@click.argument("wanted", metavar="ID|NAME")
@click.option("--all", "every", is_flag=True, help="all unfinished tasks of that function")
@click.option("--force", "-f", is_flag=True, help="end the process of a running task; not of an actor's call")
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="also the tasks that it has started")
@with_address
def cancel(wanted: str, every: bool, force: bool, recursive: bool, address: str) -> None:
    """Cancel a task that waits or runs, by its id or the name of its function.

    As ray.cancel: a waiting task never runs, a running one gets KeyboardInterrupt, and get raises TaskCancelledError.
    """
    with CommandAsker(chosen(address)) as node, asking(node.handle.session_dir) as client:
        tasks = [row for row in rows(client, "tasks") if row["state"] not in ENDED
                 and row["type"] != "ACTOR_CREATION_TASK"]
        found = matching("tasks", tasks, wanted)
        if not found:
            raise click.ClickException(f"no unfinished task with id or name {safe(wanted)!r}: `zray list tasks` shows "
                                       "them; `zray kill` ends actors")
        if len(found) > 1 and not every:
            shown = ", ".join(map(short_task, list(found)[:3]))
            raise click.ClickException(f"{safe(wanted)!r} means {len(found)} tasks: {shown}, ...; name one, or cancel "
                                       "all with --all")
        if force and any(row["actor_id"] for group in found.values() for row in group):
            raise click.ClickException("--force is for tasks, not for calls of actors: `zray kill` ends an actor")
        owners = _owners(client, set(found))
        left = {task for task in found if not _cancel_one(node, owners.get(task, ""), task, force, recursive)}
        if left:
            raise click.ClickException(f"the owners of {plural(len(left), 'task')} do not answer or are on another "
                                       f"machine, as of {short_task(min(left))}: cancel it there")

        def have_ended() -> bool:
            return not any(row["task_id"] in found and row["state"] not in ENDED for row in rows(client, "tasks"))

        names = sorted({safe(row["name"]) for group in found.values() for row in group})
        _await(have_ended, f"{plural(len(found), 'task')} were cancelled, and some still run after {SEEN_S:g} s: they "
                           "are in C code or catch KeyboardInterrupt; --force ends their process")
        click.echo(f"cancelled {plural(len(found), 'task')}: {', '.join(names)}")


def _owners(client: StateClient, tasks: set[str]) -> dict[str, str]:
    """The process that owns each task, as far as it says so."""
    return {live["task_id"]: live["process"]["worker_id"][:16] for live in client.ask("tasks", live=True)["live"]
            if not live.get("here") and live.get("task_id") in tasks}


def _cancel_one(node: CommandAsker, owner: str, task: str, force: bool, recursive: bool) -> bool:
    message = CancelObject(bytes.fromhex(task) + RETURN_1, force, recursive)
    for directory in node.directories():
        for socket in (f"w-{owner}.sock", f"d-{owner}.sock"):
            if owner and os.path.exists(os.path.join(directory, socket)):
                return node.tell_process(socket, message, directory)
    return False


@main.command("drain-node")
@click.argument("wanted", metavar="ID|NAME")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), default=120.0, show_default=True,
              metavar="SECONDS", help="how long to wait for its end; it goes on draining after that")
@with_address
def drain_node(wanted: str, timeout_s: float, address: str) -> None:
    """Take a node of this machine out of its cluster: nothing new runs there, its objects move, then it ends."""
    with asking(chosen(address)) as client:
        alive = [row for row in rows(client, "nodes") if row["state"] == "ALIVE"]
        row = with_id("nodes", alive, wanted)[0]
    if len(alive) == 1:
        raise click.ClickException(f"node {short_node(row['node_id'])} is the only one of its cluster, and has nowhere "
                                   "to leave its work: `zray stop` ends it")
    session = next((one for one in sessions.live_sessions() if one.node_id == row["node_id"]), None)
    if session is None:
        raise click.ClickException(f"node {short_node(row['node_id'])} runs on another machine ({row['node_ip']}): run "
                                   "`zray drain-node` there")
    handle = os.pidfd_open(session.pid)
    try:
        if session.alive():
            signal.pidfd_send_signal(handle, signal.SIGTERM)
        click.echo(f"node {short_node(row['node_id'])} drains ...", err=True)
        if not readable(handle, timeout_s):
            raise click.ClickException(f"it has not ended within {timeout_s:g} s and goes on draining: `zray list "
                                       "nodes` shows it, its log says what it waits for")
    finally:
        os.close(handle)
    click.echo(f"node {short_node(row['node_id'])} has left")


def _await(done: Callable[[], bool], otherwise: str) -> None:
    until = time.monotonic() + SEEN_S
    while not done():
        if time.monotonic() > until:
            raise click.ClickException(otherwise)
        time.sleep(ACTION_LOOK_S)
