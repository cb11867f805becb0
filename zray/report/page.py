"""The page of a report: one HTML file without scripts and without addresses, from the facts of a run.  Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from zray.report import chart, failures
from zray.report.gathering import RunFacts
from zray.report.hiding import Hider
from zray.state.attempts import ENDED

FUNCTIONS_SHOWN = 25
ATTEMPTS_SHOWN = 10
OBJECTS_SHOWN_MAX = 25
ROWS_SHOWN = 50  # of a table of nodes, actors or workers
EVENTS_SHOWN = 40  # lines of the nodes' logs
STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--bad:#c0392b}
body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:1.5rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid var(--line)}
table{border-collapse:collapse;width:100%;display:block;overflow-x:auto}
th,td{text-align:left;padding:.2rem .7rem .2rem 0;vertical-align:top;border-bottom:1px solid var(--soft)}
th{font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td{overflow-wrap:break-word;max-width:32rem}pre{background:var(--soft);padding:.6rem;overflow-x:auto;font-size:.85em}
summary{cursor:pointer}svg{width:100%;height:auto}svg .tick{font-size:10px;fill:currentColor}
svg .grid{stroke:var(--line)}svg .failed{fill:var(--bad)}.bad{color:var(--bad)}.note{opacity:.75}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem}dt{font-weight:600}dd{margin:0}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

Row = dict[str, Any]


def page(run: RunFacts, hider: Hider) -> str:
    """The whole file."""
    name = hider.name
    title = f"zray report: {name(run.about.get('session', ''))}"
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>",
        _gaps(run, hider), _summary(run, hider),
        _section("What failed", failures.html(run, hider)),
        _section("What ran or waited " + ("at the end" if run.ended else "now"), _unfinished(run, hider)),
        _section("Functions by time", _functions(run, hider)),
        _section("Longest attempts", _longest(run, hider)),
        _section("Timeline", chart.svg(run.events, name) or _none("No attempt that ended was reported.")),
        _section("Memory", _memory(run, hider)),
        _section("Actors", _actors(run, hider)),
        _section("Nodes and workers", _nodes(run, hider)),
        _section("Settings that differ from the default", _settings(run, hider)),
        _section("Versions", table(("", "version"), [(name(key), name(value)) for key, value in run.versions.items()])),
        _section("Last lines of the nodes' logs", _events(run, hider)),
        '<p class="note">Values of environment variables, and what looks like a secret, are left out. Names, paths '
        "and texts of errors of the program are in this page: read it before you publish it.</p></body></html>"]
    return "\n".join(parts)


# ---------------------------------------------------------------- pieces


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _none(text: str) -> str:
    return f'<p class="note">{text}</p>'


def table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table of cells that are HTML already; numbers stand at the right."""
    columns, lines = list(heads), [list(row) for row in rows]
    if not lines:
        return _none("None.")
    numeric = [all(isinstance(cells[i], (int, float)) or cells[i] == "" for cells in lines)
               for i in range(len(columns))]

    def line(cells: Iterable[Any], kind: str) -> str:
        return "<tr>" + "".join(f'<{kind} class="n">{number(cell)}</{kind}>' if numeric[i] else
                                f"<{kind}>{cell}</{kind}>" for i, cell in enumerate(cells)) + "</tr>"

    return f"<table>{line(columns, 'th')}{''.join(line(cells, 'td') for cells in lines)}</table>"


def number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "unknown"


def size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


# ---------------------------------------------------------------- sections


def _gaps(run: RunFacts, hider: Hider) -> str:
    if not run.gaps:
        return ""
    return "<p class=bad>This report is not complete:</p><ul>" + "".join(
        f"<li>{hider.name(gap)}</li>" for gap in run.gaps) + "</ul>"


def _summary(run: RunFacts, hider: Hider) -> str:
    about, name = run.about, hider.name
    finished = sum(row["finished"] for row in run.functions)
    failed = max(sum(row["failed"] for row in run.functions),
                 sum(row["count"] for row in run.rows["tasks"] if row["state"] == "FAILED"))
    facts = [("State", f"ended at {clock(run.end_s)}: {name(about['ended'])}" if about.get("ended") else
              f"its node was killed; this is what it had kept at {clock(run.end_s)}" if run.ended else
              f"runs, at {clock(run.end_s)}")]
    if run.begin_s:
        facts.append(("Time", f"from {clock(run.begin_s)}, {span(run.end_s - run.begin_s)}"))
    for job in run.rows["jobs"]:
        facts.append((f"Job {name(job['job_id'])}", f"{name(job['entrypoint'] or job['job_name'])} "
                      f"({name(job['status'])})"))
    cpus = sum(row["resources_total"].get("CPU", 0) for row in run.rows["nodes"] if row["state"] == "ALIVE")
    facts += [
        ("Nodes", f"{len(run.rows['nodes'])}, {cpus:g} CPUs"),
        ("Attempts that ended", f"{finished:,} finished, {failed:,} failed"),
        ("Actors", _counts(row["state"] for row in run.rows["actors"]) or "none"),
        ("Workers that ended by themselves", str(sum(map(failures.is_unexpected, run.rows["workers"]))))]
    if run.dropped:
        facts.append(("Only counted", f"{run.dropped:,} short attempts, which are in no table here"))
    if run.forgotten:
        facts.append(("In the sums only", f"{run.forgotten:,} attempts, which are too old for the other tables"))
    return "<dl>" + "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in facts) + "</dl>"


def _counts(words: Iterable[str]) -> str:
    found: dict[str, int] = {}
    for word in words:
        found[word] = found.get(word, 0) + 1
    return ", ".join(f"{count:,} {word.lower()}" for word, count in sorted(found.items()))


def _unfinished(run: RunFacts, hider: Hider) -> str:
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for row in run.rows["tasks"]:
        if row["state"] not in ENDED or failures.is_cut_off(row):
            state = "RUNNING" if failures.is_cut_off(row) else row["state"]
            key = row["func_or_class_name"], state, row["pending_reason"] or ""
            known = groups.setdefault(key, [0, 0.0])
            known[0] += row["count"]
            begun = (row["start_time_ms"] or row["creation_time_ms"]) / 1000
            known[1] = max(known[1], run.end_s - begun) if begun else known[1]
    rows = sorted(groups.items(), key=lambda group: -group[1][1])[:ROWS_SHOWN]
    content = table(("function", "state", "attempts", "longest, s", "why"), [
        (hider.name(name), hider.name(state), count, age, hider.text(why))
        for (name, state, why), (count, age) in rows])
    waiting = [row for row in run.waiting if row.get("detail")]
    if waiting:
        content += "<p>Queues of the schedulers:</p><ul>" + "".join(
            f"<li>{hider.name(row.get('name') or 'an actor')}: {hider.text(row['detail'])}</li>"
            for row in waiting[:ROWS_SHOWN]) + "</ul>"
    return content


def _functions(run: RunFacts, hider: Hider) -> str:
    total = sum(row["seconds"] for row in run.functions) or 1.0
    shown = run.functions[:FUNCTIONS_SHOWN]
    rest = len(run.functions) - len(shown)
    return table(("function", "finished", "failed", "seconds", "share, %", "mean, s", "longest, s"), [
        (hider.name(row["name"]), row["finished"], row["failed"], row["seconds"], 100 * row["seconds"] / total,
         row["seconds"] / max(1, row["finished"] + row["failed"]), row["longest_s"]) for row in shown]) + (
        _none(f"and {rest} more functions, each with less time") if rest > 0 else "")


def _longest(run: RunFacts, hider: Hider) -> str:
    def seconds(row: Row) -> float:
        return float((row["end_time_ms"] or run.end_s * 1000) - row["start_time_ms"]) / 1000

    rows = sorted((row for row in run.rows["tasks"] if row["start_time_ms"]), key=seconds, reverse=True)
    return table(("function", "task", "attempt", "state", "seconds", "its story"), [
        (hider.name(row["name"]), hider.name(row["task_id"]), row["attempt_number"], hider.name(row["state"]),
         seconds(row), hider.name(_story(row))) for row in rows[:ATTEMPTS_SHOWN]])


def _story(row: Row) -> str:
    events = row["events"] or []
    first = events[0]["created_ms"] if events else 0
    return ", ".join(f"{each['state']} +{(each['created_ms'] - first) / 1000:.3g} s" for each in events)


def _memory(run: RunFacts, hider: Hider) -> str:
    parts = [table(("node", "object store", "in use", "on disk", "objects", "requests that wait"), [
        (hider.name(store["node_id"][:8]), size(store.get("capacity", 0)), size(store.get("used", 0)),
         size(store.get("spilled", 0)), int(store.get("total", len(store.get("objects", ())))),
         int(store.get("waiting", 0))) for store in run.stores])]
    for store in run.stores:
        parts += [f"<p class=bad>{hider.name(store[key])}</p>" for key in ("growth_error", "spill_error")
                  if store.get(key)]
    holders: dict[tuple[Any, ...], list[int]] = {}
    for row in run.rows["objects"]:
        known = holders.setdefault((row["type"], row["pid"], row["reference_type"], row["call_site"]), [0, 0])
        known[0] += 1
        known[1] += max(0, row["object_size"])
    largest = sorted(holders.items(), key=lambda holder: -holder[1][1])[:OBJECTS_SHOWN_MAX]
    moment = "when the last driver left" if run.ended else "now"
    parts.append(f"<p>Who held objects {moment}, by process and line:</p>")
    parts.append(table(("process", "kind of reference", "objects", "size", "made at"), [
        (f"{hider.name(kind.lower())} {pid or ''}", hider.name(reference), count, size(total),
         "not recorded" if site == "disabled" else hider.name(site))
        for (kind, pid, reference, site), (count, total) in largest]))
    return "".join(parts)


def _cut(rows: list[Row], what: str) -> str:
    return _none(f"{len(rows) - ROWS_SHOWN} more {what} are left out") if len(rows) > ROWS_SHOWN else ""


def _actors(run: RunFacts, hider: Hider) -> str:
    rows = sorted(run.rows["actors"], key=lambda row: row["state"] == "DEAD")
    cells = [(*(hider.name(row[key] or "") for key in ("class_name", "name", "actor_id", "state", "pid")),
              row["num_restarts"], hider.text(failures.death_of(row))) for row in rows[:ROWS_SHOWN]]
    return table(("class", "name", "actor", "state", "pid", "restarts", "why it ended"), cells) + _cut(rows, "actors")


def _nodes(run: RunFacts, hider: Hider) -> str:
    def resources(row: Row) -> str:
        return ", ".join(f"{name} {size(amount) if name.endswith('memory') else f'{amount:g}'}"
                         for name, amount in row["resources_total"].items() if not name.startswith("node:"))

    nodes = run.rows["nodes"]
    alive = sum(row["is_alive"] for row in run.rows["workers"])
    return table(("node", "name", "state", "resources", "why it ended"), [
        (hider.name(row["node_id"][:8]), hider.name(row["node_name"]), hider.name(row["state"]),
         hider.name(resources(row)), hider.name(row["state_message"] or "")) for row in nodes[:ROWS_SHOWN]]
                 ) + _cut(nodes, "nodes") + f"<p>{alive} processes of workers and drivers lived at that time.</p>"


def _settings(run: RunFacts, hider: Hider) -> str:
    return table(("setting", "value"), [(hider.name(key), hider.name(value))
                                        for key, value in sorted((run.about.get("settings") or {}).items())])


def _events(run: RunFacts, hider: Hider) -> str:
    show: Callable[[object], str] = hider.text
    lines = [f"{row['time']} {row['custom_fields']['node_id'][:8]} {row['severity']} {row['message']}"
             for row in run.rows["cluster_events"][-EVENTS_SHOWN:]]
    return f"<pre>{show(chr(10).join(lines))}</pre>" if lines else _none("None.")


