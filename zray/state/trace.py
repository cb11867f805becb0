"""Makes Chrome's trace of what nodes report: numbered processes and threads with names, spans, arrows.  Pure.

The form: "Trace Event Format" (Chrome), as ui.perfetto.dev reads it.

A process of the trace is a node.  Its threads are rows:

    the pid of a worker       its tasks.  Tasks that overlap without one inside the other (threads, coroutines) get
                              further rows, because a viewer draws only nested spans in one row
    ... waits                 its waits in get and wait
    ... calls                 its submissions, gets and collections (timeline_details)
    transfers, spilling       of the node

An arrow goes from the submission of a task to its start, and from its end to the get of its result.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zray.base.named_tuples import NamedTuple

FIRST_ROW = 10_000_000  # of threads that are no process: above all pids (4,194,304 on Linux)
ROWS_OF_KINDS = {"transfer": "transfers", "spill": "spilling", "restore": "spilling"}

Event = dict[str, Any]


class NodeTrace(NamedTuple):
    """What one node has: its row, the events of ended tasks and of running ones, and spans (zray.node.jobs.spans)."""

    node: dict[str, Any]
    tasks: list[Event]
    running: list[Event]
    spans: list[list[Any]]


class _Rows:
    """The threads of one node, by name."""

    def __init__(self, process: int):
        self.process = process
        self.names: dict[tuple[int, str], str] = {}  # (pid, row) -> shown name
        self._ids: dict[tuple[int, str, int], int] = {}
        self.spans: dict[tuple[int, str], list[Event]] = {}

    def add(self, pid: int, row: str, name: str, event: Event) -> None:
        key = pid, row
        if not self.names.get(key):
            self.names[key] = name
        self.spans.setdefault(key, []).append({**event, "pid": self.process})

    def events(self) -> list[Event]:
        """The spans with their threads, and the names of these."""
        found: list[Event] = []
        order = 0
        for key in sorted(self.spans):
            lanes: list[list[float]] = []  # of each lane the ends of the spans that are open
            for event in sorted(self.spans[key], key=lambda event: (event["ts"], -event["dur"])):
                lane = _lane(lanes, event["ts"], event["ts"] + event["dur"])
                event["tid"] = self._id(*key, lane)
                found.append(event)
            for lane in range(len(lanes)):
                name = self.names[key] + (f" ({lane + 1})" if lane else "")
                found += [_meta("thread_name", self.process, self._id(*key, lane), name=name),
                          _meta("thread_sort_index", self.process, self._id(*key, lane), sort_index=order)]
                order += 1
        return found

    def _id(self, pid: int, row: str, lane: int) -> int:
        if pid and not row and not lane:
            return pid
        return self._ids.setdefault((pid, row, lane), FIRST_ROW + len(self._ids))


def _lane(lanes: list[list[float]], start: float, end: float) -> int:
    """The first lane where the span begins after the others, or lies in the last of them."""
    for number, ends in enumerate(lanes):
        while ends and ends[-1] <= start:
            ends.pop()
        if not ends or end <= ends[-1]:
            ends.append(end)
            return number
    lanes.append([end])
    return len(lanes) - 1


def _meta(kind: str, pid: int, tid: int, **args: Any) -> Event:
    return {"ph": "M", "name": kind, "cat": "__metadata", "pid": pid, "tid": tid, "ts": 0, "args": args}


def trace_events(reports: Iterable[NodeTrace]) -> list[Event]:
    """The events of the whole trace."""
    found: list[Event] = []
    ran: dict[str, Event] = {}  # task -> its last run
    calls: list[Event] = []
    for process, report in enumerate(reports, 1):
        address = report.node.get("NodeManagerAddress", "")
        found += [_meta("process_name", process, 0, name=f"node {address} {report.node.get('NodeID', '')[:8]}".strip()),
                  _meta("process_sort_index", process, 0, sort_index=process)]
        rows = _Rows(process)
        for event in [*report.tasks, *report.running]:
            rows.add(event["args"]["pid"], "", _worker(event), event)
        for kind, name, pid, start_s, end_s, args in report.spans:
            role = "driver" if args.get("driver") else "worker"
            row = ROWS_OF_KINDS.get(kind) or ("waits" if kind == "wait" else "calls")
            shown = row if kind in ROWS_OF_KINDS else f"{role} {pid} {row}"
            rows.add(0 if kind in ROWS_OF_KINDS else pid, row, shown, {
                "cat": kind, "ph": "X", "name": f"submit {name}" if kind == "submit" else name, "ts": start_s * 1e6,
                "dur": max(0.0, end_s - start_s) * 1e6,
                "args": {key: value for key, value in args.items() if key != "driver"}})
        made = rows.events()
        found += made
        for event in made:
            if event["ph"] == "X" and event["cat"] == "task":
                ran[event["args"]["task_id"]] = event
            elif event["ph"] == "X" and event["cat"] in ("submit", "get"):
                calls.append(event)
    return found + _arrows(ran, calls)


def _worker(event: Event) -> str:
    args = event["args"]
    cls = event["name"].rpartition(".")[0] if args.get("actor_id") else ""
    return f"{cls or 'worker'} {args['pid']}"


def _arrows(ran: dict[str, Event], calls: list[Event]) -> list[Event]:
    """From submissions to starts, and from ends to gets."""
    found: list[Event] = []
    for call in calls:
        for task in call["args"].get("tasks", ()):
            run = ran.get(task)
            if run is None:
                continue
            if call["cat"] == "submit":
                found += _arrow(f"{task} submit", "submitted", (call, call["ts"]), (run, run["ts"]))
            elif not run["args"].get("running"):
                found += _arrow(f"{task} get {call['pid']} {call['tid']} {call['ts']}", "result",
                                (run, run["ts"] + run["dur"]), (call, call["ts"] + call["dur"]))
    return found


def _arrow(number: str, name: str, begin: tuple[Event, float], end: tuple[Event, float]) -> list[Event]:
    """An arrow never goes back in time, as clocks of two machines may: it would be drawn across the whole trace."""
    (source, at), (target, to) = begin, end
    common = {"cat": "flow", "name": name, "id": number}
    return [{**common, "ph": "s", "pid": source["pid"], "tid": source["tid"], "ts": at},
            {**common, "ph": "f", "bp": "e", "pid": target["pid"], "tid": target["tid"], "ts": max(at, to)}]
