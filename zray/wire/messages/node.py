"""Drivers, workers, jobs and their node.  Codes 160-189."""

from __future__ import annotations

from zray.wire.messages.base import Message, message


@message(160)
class RegisterDriver(Message):
    """Driver -> node.  config: sys_path, cwd, script, script_dir, threads, namespace, name, log_to_driver, ..."""

    config: dict


@message(161)
class DriverAccepted(Message):
    """Node -> driver: its job number, and facts about the node.  node: NodeInfo map as zray.nodes() shows it."""

    job: int
    node: dict
    store: dict  # how to attach: {"control": path, "arena": name, ...}; zray.store.client reads it
    settings: dict


@message(162)
class WorkerReady(Message):
    """Worker -> node, after its Hello: bound, attached, waiting for work."""

    pid: int


@message(163)
class WorkerExit(Message):
    """Node -> worker: finish running tasks and exit (idle, job over).  Also the answer to ActorExit: it may go now."""

    reason: str


@message(164)
class JobSettings(Message):
    """Node -> worker, when it is first assigned: the job's sys.path, working directory, environment."""

    job: int
    config: dict


@message(165)
class LogLines(Message):
    """Node -> driver: output of its job's workers.  lines: [[name, pid, is_stderr, text], ...]; dropped: a count.

    ``ip`` is the address of the node, '' when it is the driver's own.  ``unfinished`` has the same form: output since
    the last end of a line, to be shown until more of it comes.
    """

    lines: list
    dropped: int
    ip: str = ""
    unfinished: list = []


@message(166)
class NodeQuery(Message):
    """Core process -> node: ask for a view.  what: nodes | resources | available | actors | workers | leases | store |
    jobs | stats | explain ; answered by NodeAnswer."""

    request: int
    what: str
    args: dict


@message(167)
class NodeAnswer(Message):
    request: int
    answer: dict


@message(168)
class ProcessGone(Message):
    """Node -> core processes: this incarnation (driver or worker) ended; drop its holds, fail the objects it owned."""

    process: bytes
    reason: str


@message(169)
class Goodbye(Message):
    """Driver -> node: shutdown; the node flushes logs, ends the job, answers with Bye.

    ``rows``: what only the driver knows at its end, by the question ("tasks", "objects"): [rows, total] as in
    ProcessAnswer.
    """

    reason: str
    rows: dict = {}


@message(170)
class EventReport(Message):
    """Worker -> node: task events for timeline and state queries, dropped under load with a count.

    ``events``: see zray.node.jobs.task_events.
    ``queued``: [[name, count], ...] of the calls that wait in an actor; None when they have not changed.
    ``leases``: {lease: what it was granted} for the leases that events name.
    ``parents``: [[prefix, task], ...]: the ids that ``task`` has made begin with that prefix.
    """

    events: list
    dropped: int
    queued: list | None = None
    leases: dict = {}
    parents: list = []


@message(171)
class JobOver(Message):
    """Node -> worker: report the task events that you have, also if there are none; then you are ended."""

    job: int


@message(172)
class ProcessQuery(Message):
    """Node -> core process: ask for rows of what it owns or runs.  what: tasks | objects | actors.

    ``of``: the id of the task or object whose rows are wanted; b"" for all.
    """

    request: int
    what: str
    limit: int
    of: bytes = b""


@message(173)
class ProcessAnswer(Message):
    """``rows``: at most ``limit`` maps; ``total`` counts all of them.  A row with ``count`` stands for so many."""

    request: int
    rows: list
    total: int


@message(174)
class TaskFailures(Message):
    """Owner -> node: attempts that failed, by the decision of their owner: [[attempt's row], ...], and those left out.

    A row has the fields of an event, see zray.node.jobs.task_events.  ``stories``: what only the owner knows of tasks
    that took long, see zray.owner.stories.
    """

    rows: list
    dropped: int
    stories: list = []


@message(175)
class MetricsReport(Message):
    """Core process -> node: changes of its metrics, see zray.metrics.recorder; and how many records were left out."""

    rows: list
    dropped: int


@message(183)
class ResumeReport(Message):
    """Driver with kept results -> node: what became of its tasks so far.

    ``counts``: see zray.core.resuming.ResumeCounts.
    """

    counts: dict


@message(184)
class SpanReport(Message):
    """Core process -> node, with ``timeline_details``: ``[kind, name, start s, end s, [task, ...]]`` of submissions,
    gets and collections, see zray.node.jobs.spans; and how many were left out."""

    rows: list
    dropped: int
