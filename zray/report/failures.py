"""What failed in a run, the same failures together: of tasks, with one traceback, of workers and of actors.  Pure."""

from __future__ import annotations

import re
from typing import Any

from zray.base.exits import INTENDED_SYSTEM_EXIT, INTENDED_USER_EXIT, exit_of
from zray.node.effects import JOB_OVER
from zray.report.gathering import RunFacts
from zray.report.hiding import Hider

FAILURE_KINDS_MAX = 40
JOB_ENDED = f"{INTENDED_SYSTEM_EXIT}: {exit_of(JOB_OVER, 0, 0)[1]}"
LOG_LINE = "Its log is "
_NUMBERS = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{16,}\b|\d+")
EXPECTED_EXITS = (None, INTENDED_USER_EXIT, INTENDED_SYSTEM_EXIT)

Row = dict[str, Any]


def html(run: RunFacts, hider: Hider) -> str:
    """The section of the page."""
    parts = [_of_tasks(run, hider), *(_of_workers(run, hider)), *(_of_actors(run, hider))]
    return "".join(parts) or '<p class="note">Nothing that is known here.</p>'


def is_unexpected(worker: Row) -> bool:
    """Whether a worker ended unasked."""
    return worker["exit_type"] not in EXPECTED_EXITS


def is_cut_off(task: Row) -> bool:
    """Whether an attempt has failed only because its job, or the session, ended while it ran."""
    return task["error_type"] in ("WORKER_DIED", "ACTOR_DIED") and (task["error_message"] or "").startswith(JOB_ENDED)


def last_line(text: str) -> str:
    """The line that names the error: in a traceback the last one; zray's own texts may add where the log is."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(LOG_LINE)]
    return lines[-1] if lines else ""


def likeness(line: str) -> str:
    """The line without numbers and addresses, which differ between failures of one kind."""
    return _NUMBERS.sub("#", line)


def groups(rows: list[Row]) -> list[tuple[tuple[str, str, str], list[Row]]]:
    """Failed attempts by function, type and the line that names the error; the most frequent first."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["state"] == "FAILED" and not is_cut_off(row):
            key = row["func_or_class_name"], row["error_type"] or "", likeness(last_line(row["error_message"] or ""))
            found.setdefault(key, []).append(row)
    return sorted(found.items(), key=lambda group: -len(group[1]))


def times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _of_tasks(run: RunFacts, hider: Hider) -> str:
    found = groups(run.rows["tasks"])
    parts = []
    for (function, kind, _), rows in found[:FAILURE_KINDS_MAX]:
        last = max(rows, key=lambda row: row["end_time_ms"])
        line = last_line(last["error_message"] or "")
        when = f" +{last['end_time_ms'] / 1000 - run.begin_s:.4g} s" if run.begin_s and last["end_time_ms"] else ""
        where = f", pid {last['worker_pid']}" if last["worker_pid"] else ""
        parts.append(
            f"<details><summary><b>{hider.name(function)}</b> failed {times(len(rows))}, {hider.name(kind)}: "
            f"{hider.name(line)}</summary><p>The last one: task {hider.name(last['task_id'])}, attempt "
            f"{last['attempt_number']}{where}{when}</p><pre>{hider.text(last['error_message'] or 'no text')}</pre>"
            "</details>")
    if len(found) > FAILURE_KINDS_MAX:
        parts.append(f'<p class="note">{len(found) - FAILURE_KINDS_MAX} more kinds of failures are left out.</p>')
    return "".join(parts)


def _of_workers(run: RunFacts, hider: Hider) -> list[str]:
    found: dict[str, list[Row]] = {}
    for row in filter(is_unexpected, run.rows["workers"]):
        found.setdefault(f"{row['exit_type']}: {(row['exit_detail'] or '').partition(chr(10))[0]}", []).append(row)
    largest = sorted(found.items(), key=lambda each: -len(each[1]))[:FAILURE_KINDS_MAX]
    return [f"<details><summary><b>{len(rows)} worker(s)</b> ended: {hider.name(why)}</summary><p>pid "
            f"{', '.join(str(row['pid']) for row in rows[:20])}</p><pre>{hider.text(rows[-1]['exit_detail'] or '')}"
            "</pre></details>" for why, rows in largest]


def death_of(actor: Row) -> str:
    """Why an actor ended, in one line; '' while it lives."""
    cause = actor["death_cause"] or {}
    died = cause.get("actor_died_error_context") or {}
    failed = cause.get("creation_task_failure_context") or {}
    return last_line(str(died.get("error_message") or failed.get("formatted_exception_string") or ""))


def _of_actors(run: RunFacts, hider: Hider) -> list[str]:
    parts: list[str] = []
    for row in run.rows["actors"]:
        text = ((row["death_cause"] or {}).get("creation_task_failure_context") or {}).get("formatted_exception_string")
        if text and len(parts) < FAILURE_KINDS_MAX:
            parts.append(f"<details><summary>The constructor of <b>{hider.name(row['class_name'])}</b> failed: "
                         f"{hider.name(last_line(text))}</summary><pre>{hider.text(text)}</pre></details>")
    return parts
