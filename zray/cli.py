"""The ``zray`` command.  Needs click (extra ``default``); the daemon itself, ``zray-node``, does not."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

try:
    import click
except ImportError:  # the core installs without it
    print("the zray command needs click: pip install 'zray[default]' (zray-node works without)", file=sys.stderr)
    sys.exit(1)

from zray.causes import Cause
from zray.errors import did_you_mean
from zray.node import ask as ask_module, join_secret, launch, session as sessions
from zray.node.options import ADDRESS_HELP, NEW_CLUSTER_HELP, BadOption, json_map

CELL_MAX = 64  # characters of a table's cell, but for its last column
EXPLAIN_S = 2.0  # other processes are asked so long why something waits
FORMATS = ("default", "table", "json", "yaml")
# What a table shows without --detail.
COLUMNS = {
    "nodes": ("NodeID", "State", "NodeName", "NodeManagerAddress", "NodeManagerPort", "pid", "Resources",
              "DeathReason"),
    "tasks": ("task_id", "name", "state", "job_id", "pid", "attempt", "count", "seconds", "detail"),
    "actors": ("actor_id", "class_name", "state", "name", "ray_namespace", "job_id", "pid", "num_restarts",
               "required_resources", "death_cause"),
}
# What a filter may name when there is no row to tell.
KEYS = {
    "nodes": COLUMNS["nodes"], "tasks": (*COLUMNS["tasks"], "start_time", "end_time"), "actors": COLUMNS["actors"],
    "workers": ("worker_id", "pid", "state", "job_id", "actor_id", "lease", "blocked", "env", "gpu_ids", "node_id",
                "seconds_in_state"),
    "leases": ("lease", "job", "owner", "key", "name", "resources", "gpu_ids", "blocked", "recalled", "pid", "worker",
               "actor"),
    "jobs": ("job_id", "status", "driver_pid", "entrypoint", "namespace", "driver", "seconds"),
    "objects": ("oid", "nbytes", "state", "holder", "copy"),
    "placement-groups": ("placement_group_id", "name", "state", "strategy", "ray_namespace"),
}
IDENTIFIERS = {"actors": "actor_id", "workers": "worker_id", "nodes": "NodeID", "jobs": "job_id", "tasks": "task_id",
               "objects": "oid"}
LISTABLE = ("nodes", "actors", "workers", "leases", "jobs", "objects", "tasks", "placement-groups")


# ---------------------------------------------------------------- asking a node


class CommandAsker(ask_module.Asker):
    """Errors are those of a command."""

    def __init__(self, address: str):
        try:
            super().__init__(address)
        except ConnectionError as error:
            raise click.ClickException(str(error)) from None

    def ask(self, what: str, **args: Any) -> dict[str, Any]:
        try:
            return super().ask(what, **args)
        except RuntimeError as error:
            raise click.ClickException(str(error)) from None


def ask(address: str, what: str, **args: Any) -> dict[str, Any]:
    asker = CommandAsker(address)
    try:
        return asker.ask(what, **args)
    finally:
        asker.close()


# ---------------------------------------------------------------- showing


def show(value: Any, form: str) -> None:
    """Print rows or a map."""
    if form == "json":
        click.echo(json.dumps(value, indent=2, default=str))
    elif form == "yaml":
        click.echo("\n".join(_yaml(value)))
    elif isinstance(value, list):
        click.echo(_table(value))
    else:
        click.echo("\n".join(f"{key}: {_cell(item)}" for key, item in value.items()))


def _yaml(value: Any, indent: str = "") -> list[str]:
    """The part of YAML that wire types need; strings are quoted as in JSON, which YAML reads."""
    out: list[str] = []
    if isinstance(value, dict) and value:
        for key, item in value.items():
            if isinstance(item, (dict, list)) and item:
                out += [f"{indent}{key}:", *_yaml(item, indent + "  ")]
            else:
                out.append(f"{indent}{key}: {json.dumps(item, default=str)}")
    elif isinstance(value, list) and value:
        for item in value:
            lines = _yaml(item, indent + "  ")
            out += [f"{indent}- {lines[0].lstrip()}", *lines[1:]]
    else:
        out.append(f"{indent}{json.dumps(value, default=str)}")
    return out


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_cell(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return str(value)


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "(none)"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    last = columns[-1]
    cells = [[_cell(row.get(column, ""))[:None if column is last else CELL_MAX] for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    lines = [columns, ["-" * width for width in widths], *cells]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _filtered(what: str, rows: list[dict[str, Any]], filters: tuple[str, ...]) -> list[dict[str, Any]]:
    known = dict.fromkeys([*KEYS[what], *(key for row in rows for key in row)])
    for text in filters:
        name, equals, wanted = text.partition("=")
        unequal = name.endswith("!")
        if not equals:
            raise click.BadParameter(f"a filter is key=value or key!=value, not {text!r}")
        name = name.rstrip("!")
        if name not in known:
            raise click.BadParameter(f"{what} have no {name!r}{did_you_mean(name, known)}; they have "
                                     f"{', '.join(known)}")
        rows = [row for row in rows if (str(row.get(name, "")).lower() == wanted.lower()) != unequal]
    return rows


def with_address(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--address", default=lambda: os.environ.get("ZRAY_ADDRESS") or "auto",
                        help="a session directory or host:port of a node here, @FILE with a join string, or auto: "
                             "of the cluster that `zray start` made, else of the one program that runs")(command)


def with_format(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--format", "form", type=click.Choice(FORMATS), default="default")(command)


# ---------------------------------------------------------------- commands


class Commands(click.Group):
    """Says what a mistyped command may have meant.

    No error repeats a join string: what stands on a terminal or in a journal is read by others.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = join_secret.hide(error.message)  # type: ignore[misc]
            raise

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            meant = did_you_mean(args[0], self.list_commands(ctx))
            if not meant or meant in error.message:
                raise
            raise click.UsageError(f"{error.message}{meant}", ctx) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="zray")
def main() -> None:
    """zray: Ray's programming model as a brokerless runtime."""
    join_secret.blank_own()


@main.command()
@click.option("--head", is_flag=True, help="start a cluster (what happens without --address, too)")
@click.option("--address", default="", metavar="@FILE", help=ADDRESS_HELP)
@click.option("--new-cluster", is_flag=True, help=NEW_CLUSTER_HELP)
@click.option("--host", default="", help="address to bind and to be dialled at (default: loopback)")
@click.option("--port", type=int, default=0, help="the node's well-known TCP port (default: any free one)")
@click.option("--port-range", default="", metavar="LOW-HIGH", help="for endpoints of drivers and workers")
@click.option("--one-port", is_flag=True, help="drivers and workers bind no ports: their nodes relay (slower)")
@click.option("--node-name", default="", help="a name that no other node of the cluster has")
@click.option("--insecure", is_flag=True, help="plain TCP: no encryption, no authentication")
@click.option("--gcs-dir", default="", metavar="DIR", help="keep the control store here over restarts")
@click.option("--num-cpus", type=float)
@click.option("--num-gpus", type=float)
@click.option("--resources", default="{}", metavar="JSON")
@click.option("--labels", default="{}", metavar="JSON")
@click.option("--object-store-memory", type=float, metavar="BYTES")
@click.option("--memory", type=float, metavar="BYTES", help="of tasks and actors (default: what the machine has)")
@click.option("--session-dir", default="", help="where to keep the session")
@click.option("--block", is_flag=True, help="be the node: SIGTERM, SIGINT (Ctrl-C) or SIGHUP end it, with exit code 0")
def start(head: bool, address: str, resources: str, labels: str, block: bool, **options: Any) -> None:
    """Start a node: the first of a cluster, or one more of the cluster whose join string is given."""
    if head and address:
        raise click.ClickException("--head starts a cluster and --address joins one: give one of them")
    try:
        address = join_secret.join_string(address, head=head)
        node_options = launch.NodeOptions(
            **options, head=not address, address=address, resources=json_map(resources, "--resources"),
            labels=json_map(labels, "--labels"), share_fate=False)
        if options["insecure"]:
            click.secho("INSECURE: whoever reaches this port controls the cluster and runs code as this user.",
                        fg="red", bold=True, err=True)
        if block:
            launch.become_node(node_options)
        node = launch.start_node(node_options)
    except (BadOption, join_secret.NoJoinString, launch.NodeStartError) as error:
        raise click.ClickException(str(error).removeprefix("zray-node: ")) from None
    click.echo(node.session.introduction())


@main.command()
@click.option("--all", "every", is_flag=True, help="also nodes that init() started")
@click.option("--session-dir", default="", help="only this one")
@click.option("--force", "-f", is_flag=True, help="accepted as in Ray")
def stop(every: bool, session_dir: str, force: bool) -> None:
    """End the nodes that `zray start` made for this user, and nobody else's."""
    stopped = launch.stop_sessions(every, session_dir)
    if session_dir and not stopped:
        raise click.ClickException(f"no zray node of this user runs in {session_dir!r}")
    for session in stopped:
        click.echo(f"stopped {session.session_dir} (pid {session.pid})")
    if not stopped:
        click.echo("no zray node of this user was running")


@main.command()
@with_address
@with_format
def status(address: str, form: str) -> None:
    """The nodes, what they have, what is in use, what waits and why, and where the control store is."""
    asker = CommandAsker(address)
    try:
        nodes = asker.ask("nodes")["nodes"]
        store = asker.ask("gcs")
        total = asker.ask("resources")["resources"]
        free = asker.ask("available")["resources"]
        stats = asker.ask("stats")["stats"]
        waiting = asker.ask("leases")["waiting"]
    finally:
        asker.close()
    if form != "default":
        show({"nodes": nodes, "resources": total, "available": free, "stats": stats, "waiting": waiting,
              "control_store": store}, form)
        return
    click.echo(f"session {asker.handle.session_dir} (pid {asker.handle.pid})")
    click.echo("\n".join(_node_lines(nodes)))
    click.echo("\n".join(_control_store_lines(store)))
    click.echo("resources of the cluster:")
    for name, amount in total.items():
        if name.startswith("node:") and free.get(name) == amount:
            continue
        click.echo(f"  {amount - free.get(name, 0):g}/{amount:g} {name} in use")
    workers = ", ".join(f"{count} {state.lower()}" for state, count in stats["workers"].items())
    click.echo(f"on this node: {stats['jobs']} jobs, {stats['actors']} actors, workers: {workers or 'none'}")
    for row in waiting:
        click.echo(f"  waits: {row['want']} x {row['name'] or 'an actor'}: {row['detail']}")


def _node_lines(nodes: list[dict[str, Any]]) -> list[str]:
    lines = [f"{sum(row['Alive'] for row in nodes)} nodes:"]
    for row in nodes:
        place = f"{row['NodeManagerAddress']}:{row['NodeManagerPort']}"
        has = ", ".join(f"{name}={amount:g}" for name, amount in row["Resources"].items()
                        if not name.endswith("memory") and not name.startswith("node:"))
        reason = row.get("DeathReason", "")
        note = "(the one that answers)" if row is nodes[0] else f"({reason})" if reason else ""
        words = row["NodeID"][:8], row["State"], place, row["NodeName"], has, note
        lines.append("  " + " ".join(filter(None, words)))
    return lines


def _control_store_lines(store: dict[str, Any]) -> list[str]:
    """The chains from head to tail, shards of one chain together, and the voters that decide about them."""
    shards: dict[str, list[int]] = {}
    for chain in store["chains"]:
        members = " -> ".join(name[:8] for name in chain["members"])
        joins = f", {chain['joining'][:8]} catches up" if chain["joining"] else ""
        shards.setdefault(members + joins, []).append(chain["shard"])
    lines = [f"control store, {len(store['chains'])} shards:"]
    lines += [f"  {_spans(numbers)}: {members}" for members, numbers in shards.items()]
    lines.append(f"  decided by {', '.join(name[:8] for name in store['voters'])}")
    if store.get("trouble"):
        lines.append(f"  {store['trouble']}")
    return lines


def _spans(numbers: list[int]) -> str:
    """Ascending numbers for people: "0-3, 5"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in spans)


@main.command("list")
@click.argument("what", type=click.Choice(LISTABLE))
@click.option("--filter", "-f", "filters", multiple=True, metavar="KEY=VALUE")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--detail", is_flag=True, help="every column (json and yaml always have all)")
@with_address
@with_format
def list_(what: str, filters: tuple[str, ...], limit: int, detail: bool, address: str, form: str) -> None:
    """Rows of one kind, such as `zray list actors`."""
    if what == "objects":
        rows = ask(address, "store")["store"].get("objects", [])
    elif what == "tasks":
        rows = ask(address, "tasks")["tasks"]
    else:
        rows = ask(address, what)[what]
    rows = _filtered(what, list(rows), filters)
    if len(rows) > limit and form in ("default", "table"):
        click.echo(f"the first {limit} of {len(rows)}; --limit shows more", err=True)
    rows = rows[:limit]
    if what in COLUMNS and not detail and form in ("default", "table"):
        rows = [{column: row[column] for column in COLUMNS[what] if column in row} for row in rows]
    show(rows, form)


@main.command()
@click.argument("what", type=click.Choice(("actors", "workers", "nodes", "jobs", "tasks", "objects")))
@click.argument("identifier")
@with_address
@with_format
def get(what: str, identifier: str, address: str, form: str) -> None:
    """One row by its id."""
    every = ask(address, "store")["store"].get("objects", []) if what == "objects" else ask(address, what)[what]
    show(_one(what, every, identifier), form)


def _one(what: str, rows: list[dict[str, Any]], identifier: str) -> dict[str, Any]:
    """The row with that id, or the only one whose id begins so."""
    key = IDENTIFIERS[what]
    found = {str(row[key]): row for row in rows if identifier and str(row[key]).startswith(identifier)}
    if identifier in found:
        return found[identifier]
    if len(found) > 1:
        raise click.ClickException(f"{len(found)} {what} have ids that begin with {identifier}: "
                                   f"{', '.join(sorted(found)[:3])} ...")
    if not found:
        raise click.ClickException(f"no {what[:-1]} with id {identifier!r}")
    return next(iter(found.values()))


@main.command()
@click.argument("what", type=click.Choice(("actors", "workers", "tasks", "objects")))
@with_address
@with_format
def summary(what: str, address: str, form: str) -> None:
    """Counts by state and name."""
    key = {"actors": "class_name", "workers": "job_id", "tasks": "name", "objects": "holder"}[what]
    rows = ask(address, "store")["store"].get("objects", []) if what == "objects" else ask(address, what)[what]
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        group = str(row.get(key, "")), str(row.get("state", "FINISHED"))
        counts[group] = counts.get(group, 0) + row.get("count", 1)
    show([{key: name, "state": state, "count": count} for (name, state), count in sorted(counts.items())], form)


@main.command()
@with_address
@with_format
def memory(address: str, form: str) -> None:
    """Who holds what in the object store."""
    store = ask(address, "store")["store"]
    if form != "default":
        show(store, form)
        return
    objects, pids = store.get("objects", []), store.get("pids", {})
    mib = {name: store.get(name, 0) / 2**20 for name in ("capacity", "used", "spilled")}
    click.echo(f"object store: {mib['used']:.1f} of {mib['capacity']:.0f} MiB in use, "
               f"{mib['spilled']:.1f} MiB on disk, {len(objects)} objects, "
               f"{store.get('waiting', 0)} requests wait for room")
    for error in filter(None, (store.get("growth_error"), store.get("spill_error"))):
        click.echo(f"  {error}")
    largest = sorted(objects, key=lambda row: -row["nbytes"])
    click.echo(_table([{**row, "pid": pids.get(row["holder"], "")} for row in largest]))


@main.command()
@click.option("--output", "-o", default="timeline.json", show_default=True)
@with_address
def timeline(output: str, address: str) -> None:
    """Write what ran when, as Chrome trace events."""
    asker = CommandAsker(address)
    events: list[Any] = []
    try:
        page = asker.ask("timeline")
        while page["events"]:
            events += page["events"]
            page = asker.ask("timeline", start=page["next"])
    finally:
        asker.close()
    try:
        with open(output, "w", encoding="utf-8") as file:
            json.dump(events, file)
    except OSError as error:
        raise click.ClickException(f"cannot write {output}: {error.strerror}") from None
    click.echo(f"{len(events)} events in {output}; open it in chrome://tracing or ui.perfetto.dev")


@main.command()
@click.argument("actor", required=False)
@with_address
@with_format
def explain(actor: str | None, address: str, form: str) -> None:
    """Why an actor (by id) or everything that waits does: for a worker, for its turn in an actor, in get or wait."""
    asker = CommandAsker(address)
    try:
        if actor is not None:
            row = _one("actors", asker.ask("actors")["actors"], actor)
            found = asker.ask("explain", actor=bytes.fromhex(row["actor_id"]))
            if form != "default":
                show(found, form)
            else:
                detail = f" ({found['detail']})" if found["detail"] else ""
                what = f"actor {row['class_name']} ({row['actor_id'][:8]}) is {found['state']}"
                click.echo(f"{what}: {Cause(found['cause']).text}{detail}")
            return
        found = asker.ask("leases")
        if form != "default":
            show(found["waiting"], form)
            return
        lines = _waiting_lines(found) + [line for row in found["blocked"] for line in _blocked_lines(asker, row)]
    finally:
        asker.close()
    click.echo("\n".join(lines) or "no task waits: neither for a worker, nor in an actor, nor in get or wait")


def _waiting_lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for row in found["waiting"]:
        what = f"actor {row['name']}" if row["actor"] else f"{row['want']} x {row['name']}()"
        lines.append(f"{what} of job {row['job']}: {Cause(row['cause']).text} ({row['detail']})")
    for row in found["queued"]:
        behind = f"; {row['behind']}() runs" if row["behind"] else ""
        lines.append(f"{row['count']} x {row['name']}() of job {row['job']}: {Cause.ACTOR_BUSY.text} "
                     f"(actor {row['actor'][:8]}, pid {row['pid']}{behind})")
    return lines


def _blocked_lines(asker: CommandAsker, row: dict[str, Any]) -> list[str]:
    """A task that waits in get or wait, in the words of its worker."""
    from zray.core.explaining import Asking, sentence

    task = bytes.fromhex(row["task_id"])
    about = {"task": row["task_id"], "name": row["name"], "ask": [bytes.fromhex(row["worker"]), task, ""]}
    found: list[Any] = [[task, Cause.RUNNING, about]]
    Asking(asker, EXPLAIN_S).follow(found)
    return [f"{row['name']}() of job {row['job']}, pid {row['pid']}, waits in get or wait",
            *(sentence(oid, cause, about, "  ") for oid, cause, about in found[0][2].get("because", ()))]


@main.command()
@click.argument("pid", type=int, required=False)
@with_address
def stack(pid: int | None, address: str) -> None:
    """Python stacks of the drivers and workers of a session, or of one process."""
    asker = CommandAsker(address)
    try:
        sockets = sorted(name for name in os.listdir(asker.handle.session_dir)
                         if name.endswith(".sock") and name[:2] in ("d-", "w-"))
        pids = {row["worker_id"][:16]: row["pid"] for row in asker.ask("workers")["workers"]}
        pids |= {row["driver"]: row["driver_pid"] for row in asker.ask("jobs")["jobs"] if row["status"] == "RUNNING"}
        sockets = [name for name in sockets if pid is None or pids.get(name[2:18]) == pid]
        if pid is not None and not sockets:
            known = ", ".join(map(str, sorted(filter(None, pids.values())))) or "none"
            raise click.ClickException(f"no driver or worker of this node has pid {pid}; these run: {known}")
        for name in sockets:
            answer = asker.ask_process(name)
            kind = f"{'driver' if name.startswith('d-') else 'worker'}, pid {pids.get(name[2:18], '?')}"
            text = answer.text if answer else "no answer: it is gone, or C code holds its interpreter lock"
            click.echo(f"---- {name} ({kind})\n{text}")
    finally:
        asker.close()


@main.group()
def job() -> None:
    """Jobs of a session."""


@job.command("list")
@with_address
@with_format
def job_list(address: str, form: str) -> None:
    """Every job, as `zray list jobs` shows them."""
    show(ask(address, "jobs")["jobs"], form)


@main.command()
@click.argument("name", required=False)
@click.option("--tail", type=click.IntRange(min=0), default=100, show_default=True, help="lines of each file")
@with_address
def logs(name: str | None, tail: int, address: str) -> None:
    """List the log files of a session, or print the end of those whose names begin with NAME.

    Without --address: of the newest that runs, or else of the one that ended last.  --address takes the directory of a
    session that has ended, too.
    """
    directory = os.path.join(_log_session(address), sessions.LOGS)
    names = sorted(os.listdir(directory))
    if name is None:
        click.echo(f"{directory}:", err=True)
        click.echo("\n".join(names))
        return
    chosen = [one for one in names if one.startswith(name)]
    if not chosen:
        raise click.ClickException(f"no log {name!r} in {directory}")
    for one in chosen:
        with open(os.path.join(directory, one), encoding="utf-8", errors="replace") as file:
            lines = deque((line.lstrip("\0") for line in file), tail)
        if len(chosen) > 1:
            click.echo(f"---- {one}")
        click.echo("".join(lines), nl=False)


def _log_session(address: str) -> str:
    """The directory of the session that is meant, which may have ended."""
    if os.path.isdir(os.path.join(address, sessions.LOGS)):
        return address
    try:
        return launch.find_session(address).session_dir
    except ConnectionError as error:
        running, ended = sessions.live_sessions(), sessions.ended_sessions()
        if address != "auto" or not (running or ended):
            raise click.ClickException(str(error)) from None
        return running[0].session_dir if running else ended[0]


@main.command()
def doctor() -> None:
    """Check what zray needs from this machine."""
    import resource

    from zray.node import linux
    from zray.node.options import shm_bytes

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


@main.command()
@click.option("--nodes", type=click.IntRange(1, 8), default=1, help="daemons of the cluster; from 3 on, two are killed")
def demo(nodes: int) -> None:
    """Tree reduction and a learning agent, with a worker killed on the way."""
    from zray import demo as module

    sys.exit(module.main(nodes))


@main.command()
@click.option("--num-cpus", type=click.IntRange(min=1), help="of the node it starts; as many as there are by default")
def microbenchmark(num_cpus: int | None) -> None:
    """The benchmark table, in short."""
    from zray import microbenchmark as module

    sys.exit(module.main(num_cpus))


if __name__ == "__main__":
    main()
