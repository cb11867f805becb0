"""``zray debug``: attach this terminal to a task that waits at a breakpoint, or after an error."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import asdict

import click

from zray.cli.commands import main
from zray.cli.showing import show, with_format
from zray.debugging import places
from zray.debugging.places import Stop
from zray.debugging.terminal import CannotAttach, Terminal, connect
from zray.node.running import launch, session as sessions
from zray.node.running.ask import NodeClient

Found = list[tuple[str, Stop]]  # with the session's folder; "" for one on another machine


@main.command()
@click.argument("stop", required=False, metavar="[ID]")
@click.option("--list", "only_list", is_flag=True, help="only list what waits")
@click.option("--address", default=lambda: os.environ.get("ZRAY_ADDRESS") or "auto",
              help="a session directory, or the host:port of a node here (default: all sessions of this user here)")
@with_format
def debug(stop: str | None, only_list: bool, address: str, form: str) -> None:
    """Attach to a task that waits at a breakpoint or after an error: by the ID that the driver has printed.

    Without ID: to the one that waits; of several, choose.  A worker of another machine is debugged there, with the
    same command (by ssh, for instance).
    """
    found = _stops(address)
    if stop is not None:
        _attach(*_with_id(found, stop))
    elif form != "default":
        show([_row(each) for _, each in found], form)
    elif not found:
        click.echo("nothing waits for a debugger")
    elif only_list or not sys.stdin.isatty():
        click.echo("\n".join(map(_line, found)))
    elif len(found) == 1:
        click.echo(_line(found[0]))
        _attach(*found[0])
    else:
        click.echo("\n".join(map(_line, found)))
        _attach(*_with_id(found, click.prompt("attach to", default=found[0][1].id)))


def _stops(address: str) -> Found:
    """What waits on the nodes of this machine that ``address`` means: of one node, with the others of its cluster."""
    live = sessions.live_sessions()
    if address != "auto":
        try:
            chosen = launch.find_session(address, asks=True).session
        except ConnectionError as error:
            raise click.ClickException(str(error)) from None
        live = [each for each in live if each.session_dir == chosen.session_dir
                or (chosen.cluster and each.cluster == chosen.cluster)] or [chosen]
    found = [(each.session_dir, stop) for each in live for stop in places.stops(each.session_dir)]
    here = {stop.id for _, stop in found}
    found += [("", stop) for stop in _elsewhere(live) if stop.id not in here]
    return sorted(found, key=lambda entry: entry[1].since_s)


def _elsewhere(live: list[sessions.NodeSession]) -> list[Stop]:
    """What waits on all nodes of the clusters that these nodes belong to; a node that does not answer has nothing."""
    found = []
    for node in {each.cluster: each for each in live if each.cluster}.values():
        with contextlib.suppress(ConnectionError, RuntimeError, TypeError):
            client = NodeClient(node.session_dir)
            try:
                found += [places.of_row(row) for row in client.ask("stops")["stops"]]
            finally:
                client.close()
    return found


def _with_id(found: Found, wanted: str) -> tuple[str, Stop]:
    chosen = [entry for entry in found if entry[1].id.startswith(wanted)]
    if len(chosen) == 1:
        return chosen[0]
    if len(chosen) > 1:
        raise click.ClickException(f"{len(chosen)} stops have ids that begin with {wanted!r}: "
                                   f"{', '.join(stop.id for _, stop in chosen)}")
    known = ", ".join(stop.id for _, stop in found) or "none"
    raise click.ClickException(f"no task waits for a debugger as {wanted!r}; these wait: {known}")


def _attach(session_dir: str, stop: Stop) -> None:
    if not session_dir:
        raise click.ClickException(f"{stop.id} waits on the machine {stop.host}: run there, as the same user: "
                                   f"zray debug {stop.id} (as in: ssh -t {stop.host} zray debug {stop.id})")
    if stop.kind == places.DEBUGPY:
        raise click.ClickException(f"{stop.id} waits for debugpy: attach an editor to 127.0.0.1:{stop.port}")
    try:
        wire = connect(session_dir, stop)
    except CannotAttach as error:
        raise click.ClickException(str(error)) from None
    Terminal(wire, stop.id).talk()


def _line(entry: tuple[str, Stop]) -> str:
    session_dir, stop = entry
    state = f"attached to pid {stop.attached}" if stop.attached else f"{_age(time.time() - stop.since_s)} ago"
    if stop.kind == places.DEBUGPY:
        state = f"debugpy at 127.0.0.1:{stop.port}"
    elif stop.until_s:
        state += f", {_age(stop.until_s - time.time())} left"
    what = f": {stop.error}" if stop.error else ""
    place = "" if session_dir else f" on {stop.host}"
    return f"{stop.id}  {stop.name}() pid {stop.pid}{place}  {stop.where()}  ({stop.kind}, {state}){what}"


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _row(stop: Stop) -> dict[str, object]:
    return {name: value for name, value in asdict(stop).items() if name not in ("start", "worker")}
