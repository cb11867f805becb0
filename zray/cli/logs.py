"""``zray logs``: list and print what a session and its processes have written, also after its end."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

import click

from zray.cli.asking import candidates, with_address
from zray.cli.commands import main
from zray.cli.finding import matching, short_node
from zray.cli.gathering import asking
from zray.cli.log_sources import SESSION_GONE, KeptFile, KeptLogs, LiveLogs, LogSource, only_of
from zray.cli.showing import is_human, show, with_format
from zray.cli.tables import Column
from zray.cli.text import of_bytes, safe
from zray.node.running import session as sessions
from zray.node.running.journal import NODE_LOG
from zray.state.client import LOG_LOOK_S, without_marks

STREAMS = ("out", "err")
LOOKS_BEFORE_NEW_FILES = 4  # at followed files, before new ones are looked for


@main.command()
@click.argument("wanted", required=False, metavar="[FILE|ID|NAME]")
@click.option("--actor", default="", metavar="ID|NAME", help="what an actor has written")
@click.option("--task", default="", metavar="ID|NAME", help="what a task or function has written")
@click.option("--worker", default="", metavar="PID|ID", help="what a worker has written")
@click.option("--node", default="", metavar="ID|NAME", help="files of this node only; alone: the node's own log")
@click.option("--stream", type=click.Choice(STREAMS), default=None, help="only standard output or error")
@click.option("--tail", type=click.IntRange(min=0), default=100, show_default=True, help="lines of each file")
@click.option("--follow", "-f", is_flag=True, help="also what is written from now on, until Ctrl-C")
@with_address
@with_format
def logs(wanted: str | None, actor: str, task: str, worker: str, node: str, stream: str | None, tail: int,
         follow: bool, address: str, form: str) -> None:
    """List the log files of a session, or print the end of some: of a file, actor, task, worker or node.

    Without --address: of the session that other commands ask, or of the one that ended last where none runs.
    --address takes the directory of a session that has ended, too.
    """
    with _source(address) as source:
        def files_now() -> list[KeptFile]:
            found = source.files()
            return _of_node(source, found, node) if node else found

        files = files_now()
        named = [(kind, name) for kind, name in (("actors", actor), ("tasks", task), ("workers", worker)) if name]
        if wanted is None and not named and not (node and isinstance(source, LiveLogs)):
            _list(source, files, form)
            return
        def chosen_now() -> tuple[list[KeptFile], str]:
            found, function = _chosen(source, files_now(), wanted, named)
            return [file for file in found if stream is None or file.name.endswith(f".{stream}")], function

        chosen_files, function = chosen_now()
        _Printer(source, function).run(chosen_files, tail, (lambda: chosen_now()[0]) if follow else None)


@contextlib.contextmanager
def _source(address: str) -> Iterator[LogSource]:
    ended = _ended(address)
    if ended:
        yield KeptLogs(ended)
        return
    with asking(address) as client:
        yield LiveLogs(client)


def _ended(address: str) -> str:
    """The directory of the session that is meant, where it has ended; '' where one runs, or the address is wrong."""
    if address == "auto":
        ended = [] if candidates() else sessions.ended_sessions()
        if ended:
            click.echo(f"No session runs; the one that ended last is {ended[0]}", err=True)
        return ended[0] if ended else ""
    if os.path.isdir(os.path.join(address, sessions.LOGS)):
        session = sessions.read(address)
        return address if session is None or not session.alive() else ""
    return ""


def _of_node(source: LogSource, files: list[KeptFile], wanted: str) -> list[KeptFile]:
    nodes = {file.node for file in files}
    if isinstance(source, LiveLogs):
        hits = matching("nodes", [{"node_id": row["NodeID"], "node_name": row["NodeName"]}
                                  for row in source.nodes.values()], wanted)
        nodes = set(hits)
    if len(nodes) != 1:
        raise click.ClickException(f"{len(nodes)} nodes with logs are meant by {safe(wanted)!r}; `zray list nodes` "
                                   "shows them")
    return [file for file in files if file.node in nodes]


def _list(source: LogSource, files: list[KeptFile], form: str) -> None:
    labels = source.labels()
    if not is_human(form):
        show([{"name": file.name, "node_id": file.node, "size": file.size, "process": labels.get(file.worker, "")}
              for file in files], form)
        return
    if isinstance(source, KeptLogs):
        click.echo(f"{source.directory}:", err=True)
    several = len({file.node for file in files}) > 1
    show(files, form, (
        Column("FILE", lambda file: file.name),
        Column("SIZE", lambda file: of_bytes(file.size), 1, 0, True),
        Column("NODE", lambda file: short_node(file.node) if several else "", 3),
        Column("PROCESS", lambda file: safe(labels.get(file.worker, "")), 2, 10)))


def _chosen(source: LogSource, files: list[KeptFile], wanted: str | None, named: list[tuple[str, str]]
            ) -> tuple[list[KeptFile], str]:
    """(files, the function whose output alone is meant)."""
    if wanted is not None:
        found = [file for file in files if file.name.startswith(wanted)]
        if found:
            return found, ""
        named = [*named, ("actors", wanted), ("workers", wanted), ("tasks", wanted)]
    for kind, name in named:
        choice = source.workers_of(kind, name)
        found = [file for file in files if file.worker and file.worker in choice.workers]
        if found:
            return found, choice.function
        if choice.workers and wanted is None:
            raise click.ClickException(f"{safe(name)!r} ran on the worker {', '.join(sorted(choice.workers)[:3])}, of "
                                       "which no log is kept: it has written nothing, or its node has ended")
    if named:
        what = "no file, actor, worker or task" if wanted is not None else f"no {named[0][0][:-1]}"
        raise click.ClickException(f"no log {safe(wanted or named[0][1])!r}: {what} of this name has written one; "
                                   "`zray logs` lists the files")
    return [file for file in files if file.name == NODE_LOG], ""


class _Printer:
    """Prints files one after the other, then what they get."""

    def __init__(self, source: LogSource, function: str):
        self._source = source
        self._function = function
        self._is_its: dict[KeptFile, bool] = {}
        self._shown: KeptFile | None = None
        self._several = False

    def run(self, files: list[KeptFile], tail: int, again: Callable[[], list[KeptFile]] | None) -> None:
        """``again()``: the files that are meant by then, to follow them: an actor that restarts has another one."""
        self._several = len([file for file in files if file.size or again]) > 1
        ends = {file: self._tail(file, tail) for file in files}
        if again is None:
            return
        if isinstance(self._source, KeptLogs):
            click.echo("that session has ended: nothing more comes", err=True)
            return
        try:
            while True:
                for _ in range(LOOKS_BEFORE_NEW_FILES):
                    time.sleep(LOG_LOOK_S)
                    for file, offset in ends.items():
                        piece = self._source.read(file, offset=offset)
                        ends[file] = piece.offset
                        self._print(file, piece.data)
                ends |= {file: 0 for file in again() if file not in ends}
                self._several = self._several or len(ends) > 1
        except SESSION_GONE:
            click.echo("the session, or the log, is gone", err=True)
        except KeyboardInterrupt:
            pass

    def _tail(self, file: KeptFile, lines: int) -> int:
        """Print the last lines; the offset of the end."""
        if not self._function:
            piece = self._source.read(file, lines=lines)
            while piece.offset < piece.size and piece.data:
                self._print(file, piece.data)
                piece = self._source.read(file, offset=piece.offset)
            self._print(file, piece.data)
            return piece.offset
        piece = self._source.read(file)  # which lines are the function's is known from the beginning on
        data = piece.data
        while piece.offset < piece.size and piece.data:
            piece = self._source.read(file, offset=piece.offset)
            data += piece.data
        kept, self._is_its[file] = only_of(data, self._function, False)
        shown = kept.split(b"\n")
        end = [b""] if shown and not shown[-1] else []
        self._write(file, b"\n".join([*shown[:len(shown) - len(end)][-lines:], *end]) if lines else b"")
        return piece.offset

    def _print(self, file: KeptFile, data: bytes) -> None:
        if self._function:
            data, self._is_its[file] = only_of(data, self._function, self._is_its.get(file, False))
        self._write(file, data)

    def _write(self, file: KeptFile, data: bytes) -> None:
        data, _ = without_marks(data)
        if not data:
            return
        if self._several and self._shown != file:
            click.echo(f"---- {file.name}")
            self._shown = file
        click.echo(data.decode(errors="replace"), nl=False)
        sys.stdout.flush()


