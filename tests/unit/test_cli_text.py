"""What commands print: tables, `zray status`, `zray top`, in windows of several widths, with hostile names.

The golden text is tests/unit/golden_cli.txt: ``python tests/unit/test_cli_text.py --write`` after a change, and read
the difference.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

click = pytest.importorskip("click")
pytest.importorskip("rich")
from zray.cli import columns, flame, memory, picture, stacks  # noqa: E402
from zray.cli.finding import matching, with_id  # noqa: E402
from zray.cli.live import Unfinished  # noqa: E402
from zray.cli.log_sources import functions_in, only_of  # noqa: E402
from zray.cli.processes import NamedProcess  # noqa: E402
from zray.cli.showing import cell, show, width_now  # noqa: E402
from zray.cli.tables import Column, columns_of, folded, record, table  # noqa: E402
from zray.cli.text import cut, duration, of_bytes, safe, width_of  # noqa: E402
from zray.cli.usage import Usage  # noqa: E402
from zray.state.common import ActorState, TaskState, WorkerState  # noqa: E402

GOLDEN_FILE = Path(__file__).with_name("golden_cli.txt")
NOW_S = 1_800_000_000.0
NODE, OTHER = "aa11bb2200000000" + "11" * 20, "cc33dd4400000000" + "22" * 20
HOSTILE = "evil\n\x1b[2J\u202e\"'<script>" + "x" * 10_000
HEBREW = "שלום עולם"


def ms(seconds_ago: float) -> int:
    return int((NOW_S - seconds_ago) * 1000)


def filled(row_class, **values):
    return {name: values.get(name) for name in row_class.list_columns()} | {"count": 1} | values


def worker_id(number: int, node: str = NODE) -> str:
    return f"{node[:8]}{number:08x}" + "ab" * 20


def task(number: int, name: str, state: str, **more):
    about = {"attempt_number": 0, "type": "NORMAL_TASK", "creation_time_ms": ms(700), **more}
    return filled(TaskState, task_id="00000001" + "beef0001" + "22" * 8 + number.to_bytes(8, "little").hex(),
                  name=name, state=state, job_id="00000001", **about)


def actor(number: int, name: str, class_name: str, state: str = "ALIVE", **more):
    about = {"num_restarts": 0, **more}
    return filled(ActorState, actor_id="00000001" + f"{number:08x}" + "33" * 8, name=name, class_name=class_name,
                  state=state, job_id="00000001", node_id=NODE, **about)


def world() -> picture.Picture:
    counter, hostile, dead = (actor(0xAC0001, "counter", "Counter", pid=102),
                              actor(0xAC0002, HOSTILE, "Hostile", pid=103),
                              actor(0xAC0003, "", "Crashed", "DEAD", num_restarts=2, death_cause={
                                  "actor_died_error_context": {"error_message": "its process died\nfor memory"}}))
    tasks = [
        task(1, "train", "RUNNING", worker_id=worker_id(1), worker_pid=101, start_time_ms=ms(3725), node_id=NODE),
        task(2, "Counter.add", "RUNNING_IN_RAY_GET", worker_id=worker_id(2), worker_pid=102, start_time_ms=ms(42),
             actor_id=counter["actor_id"], type="ACTOR_TASK", node_id=NODE),
        task(3, "Counter.add", "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY", actor_id=counter["actor_id"],
             type="ACTOR_TASK"),
        task(4, "load_" + HEBREW, "PENDING_NODE_ASSIGNMENT",
             pending_reason="the resources its task asks for are in use (it asks for GPU: 1, and 0 of 1 is free; "
                            "in use by train (1))"),
        task(5, "square", "PENDING_ARGS_AVAIL", count=1200),
        task(6, HOSTILE, "FAILED", worker_id=worker_id(1), worker_pid=101, start_time_ms=ms(65), end_time_ms=ms(60),
             error_type="TASK_EXECUTION_EXCEPTION", error_message="Traceback ...\nValueError: \x07no",
             attempt_number=2),
        task(7, "square", "FINISHED", worker_id=worker_id(1), worker_pid=101, start_time_ms=ms(60.25),
             end_time_ms=ms(60), node_id=NODE)]
    workers = [filled(WorkerState, worker_id=worker_id(number), is_alive=number != 4, worker_type="WORKER",
                      pid=100 + number, node_id=NODE, start_time_ms=ms(4000), worker_launched_time_ms=ms(4000),
                      exit_type="SYSTEM_ERROR" if number == 4 else None,
                      exit_detail="signal 9, while it ran train" if number == 4 else None) for number in (1, 2, 3, 4)]
    workers.append(filled(WorkerState, worker_id=worker_id(0x80000001), is_alive=True, worker_type="DRIVER", pid=100,
                          node_id=NODE, start_time_ms=ms(4100)))
    return picture.Picture(
        now_s=NOW_S, where="/tmp/zray-1000/20270115-080000-0123ab (pid 99, of train.py), up 1h10m", tasks=tasks,
        actors=[counter, hostile, dead], workers=[row for row in workers if row["is_alive"]],
        worker_rows={worker_id(2): {"actor_id": counter["actor_id"]}, worker_id(3): {"actor_id": hostile["actor_id"]}},
        nodes=[{"NodeID": NODE, "Alive": True, "ListenAddress": "10.0.0.1:7000", "NodeManagerAddress": "10.0.0.1"},
               {"NodeID": OTHER, "Alive": False, "NodeManagerAddress": "10.0.0.2"}],
        node_rows=[{"node_id": NODE, "node_ip": "10.0.0.1", "state": "ALIVE", "node_name": "head", "is_head_node": True,
                    "resources_total": {"CPU": 8.0, "memory": 16e9, "object_store_memory": 4e9, "GPU": 1.0},
                    "start_time_ms": ms(4200), "state_message": None},
                   {"node_id": OTHER, "node_ip": "10.0.0.2", "state": "DEAD", "node_name": "second",
                    "is_head_node": False, "resources_total": {}, "start_time_ms": ms(4200),
                    "state_message": "it has not been heard of for 10 s"}],
        resources={"CPU": 8.0, "GPU": 1.0, "memory": 16e9, "node:10.0.0.1": 1.0},
        available={"CPU": 2.5, "memory": 16e9, "node:10.0.0.1": 1.0}, stats={}, waiting=[],
        store={"used": 3 << 20, "capacity": 4 << 30, "spilled": 5 << 30, "waiting": 2},
        control_store={"chains": [{"members": [NODE, OTHER], "joining": "", "shard": shard} for shard in range(3)]
                       + [{"members": [NODE], "joining": OTHER, "shard": 3}], "voters": [NODE],
                       "trouble": "no majority of the voters answers"},
        usage={100: Usage(80 << 20, 3.0), 101: Usage(900 << 20, 99.6), 102: Usage(40 << 20, 0.0),
               103: Usage(38 << 20, None)},
        missing=["the nodes cc33dd44 did not answer"])


LEASES = [{"lease": 7, "pid": 101, "name": "train", "worker": worker_id(1)[:16], "resources": {"CPU": 1.0, "GPU": 1.0},
           "gpu_ids": [0], "blocked": False, "actor": "", "owner": worker_id(0x80000001)[:16], "job": 1}]
OBJECTS = [
    {"object_id": "00000001beef0001" + "22" * 8 + "0500000000000000" + "01000080", "object_size": 24_000_192,
     "task_status": "NIL", "reference_type": "LOCAL_REFERENCE", "pid": 100, "type": "DRIVER", "ip": "10.0.0.1",
     "call_site": "(put object) /home/me/train.py:load:21 | /home/me/train.py:<module>:90"},
    {"object_id": "00000001beef0001" + "22" * 8 + "0500000000000000" + "01000080", "object_size": 24_000_192,
     "task_status": "NIL", "reference_type": "PINNED_IN_MEMORY", "pid": 101, "type": "WORKER", "ip": "10.0.0.1",
     "call_site": ""},
    {"object_id": "00000001beef0001" + "22" * 8 + "0700000000000000" + "01000000", "object_size": -1,
     "task_status": "PENDING_NODE_ASSIGNMENT", "reference_type": "USED_BY_PENDING_TASK", "pid": 100, "type": "DRIVER",
     "ip": "10.0.0.1", "call_site": ""}]


def golden_lines() -> Iterator[str]:
    scenery = world()
    scene = scenery.scene
    every = {"tasks": scenery.tasks, "actors": scenery.actors, "workers": scenery.workers, "leases": LEASES,
             "nodes": scenery.node_rows, "objects": OBJECTS}
    for width in (80, 40):
        yield f"==== status, {width} columns"
        yield from picture.lines(scenery, width)
        for kind, rows in every.items():
            yield f"==== list {kind}, {width} columns"
            yield from table(columns.COLUMNS[kind](scene), rows, width)
        yield f"==== memory, {width} columns"
        yield from memory.table_of(memory.held(OBJECTS, {100: "driver", 101: "train"}), 10, width)
    for width, height in ((80, 24), (40, 20)):
        yield f"==== top, {width} x {height}"
        yield from picture.screen(scenery, width, height)


def test_what_commands_print_is_as_recorded():
    assert "\n".join(golden_lines()) + "\n" == GOLDEN_FILE.read_text(encoding="utf-8")


def test_no_line_is_wider_than_the_window_or_has_a_character_that_moves_the_cursor():
    scenery = world()
    for width in (20, 33, 40, 80, 132):
        lines = [*picture.lines(scenery, width), *picture.screen(scenery, width, 30)]
        for kind, rows in (("tasks", scenery.tasks), ("actors", scenery.actors), ("workers", scenery.workers)):
            lines += table(columns.COLUMNS[kind](scenery.scene), rows, width)
        assert max(map(width_of, lines)) <= width
        assert not any(one in line for line in lines for one in "\n\r\x1b\x07\u202e")
    assert len(picture.screen(scenery, 80, 12)) == 12, "the picture of a low window"


@pytest.mark.parametrize(("raw", "shown"), [
    ("plain name", "plain name"), ("two\nlines", "two\\nlines"), ("\x1b[31mred", "\\x1b[31mred"),
    ("a\u202eb", "a\\u202eb"), ("\ud800", "\\ud800"), ("tab\t", "tab\\t"), (HEBREW, HEBREW), ("", ""), (7, "7")],
                         ids=ascii)
def test_names_are_shown_on_one_line_without_control_characters(raw, shown):
    assert safe(raw) == shown
    assert safe(raw).encode().decode() == shown


def test_a_name_of_10_kb_is_cut_before_it_is_measured():
    assert len(safe("x" * 10_000)) == 1001 and safe("x" * 10_000).endswith("…")
    assert cut("ab" * 10, 5) == "abab…" and cut("日本語", 5) == "日本…" and cut("abc", 0) == ""


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0.0s"), (0.34, "0.3s"), (9.96, "10s"), (59.4, "59s"), (65, "1m05s"), (3600, "1h00m"), (7620, "2h07m"),
    (90_000, "1d01h"), (-3, "0.0s"), (None, "")])
def test_durations_have_two_units_at_most(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [
    (0, "0 B"), (999, "999 B"), (1024, "1.0 KiB"), (24_000_192, "22.9 MiB"), (17_693_241_754, "16.5 GiB"),
    (5 << 50, "5120 TiB"), (-1, ""), (None, "")])
def test_bytes_have_binary_units(count, text):
    assert of_bytes(count) == text


def test_columns_shrink_before_they_go_and_the_least_important_goes_first():
    kept = (Column("A", lambda row: row[0]), Column("B", lambda row: row[1], 0, 6), Column("C", lambda row: row[2], 1))
    rows = [("aaaa", "bbbbbbbbbbbb", "cccc")]
    assert table(kept, rows, 24)[1] == "aaaa  bbbbbbbbbbbb  cccc"
    assert table(kept, rows, 20)[1] == "aaaa  bbbbbbb…  cccc"
    assert table(kept, rows, 17)[1] == "aaaa  bbbbbbbbbb…"
    assert table(kept, rows, 8)[1] == "aaaa  b…", "at last the line is cut"
    assert table(kept, [("a", "", "c")], 80)[0] == "A  C", "an empty column is left out"


def test_long_texts_are_folded_at_blanks_and_indented():
    assert folded("one two three four", 9) == ["one two", "three", "four"]
    assert folded("  one two three", 10, "  ") == ["  one two", "    three"]
    assert folded("x" * 12, 5) == ["xxxxx", "xxxxx", "xx"] and folded("", 5) == [""]
    assert all(width_of(line) <= 10 for line in folded("  " + "y" * 50 + " z", 10, "    "))
    assert record([("key", "a value of several words"), ("longer", "")], 20) == [
        "key     a value of", "        several", "        words", "longer"]


def test_rows_of_any_keys_make_a_table_and_cells_are_one_line():
    rows = [{"a": 1.5, "b": None, "c": {"memory": 1024.0, "x\n": [1, "y"]}}]
    assert table(columns_of(rows, cell), rows, 80) == ["a    c", "1.5  memory=1.0 KiB, x\\n=1, y"]


def test_json_and_yaml_have_names_as_they_are(capsys):
    yaml = pytest.importorskip("yaml")
    value = [{"name": HOSTILE, "two words: yes": [], "nested": {"no": [1, {"on": None}]}}, {}]
    for form, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        show(value, form)
        assert read(capsys.readouterr().out) == value


def test_the_width_is_that_of_the_window_else_80(monkeypatch):
    monkeypatch.setenv("COLUMNS", "55")
    assert width_now() == 55 and width_now(wide=True) > 10_000
    monkeypatch.setenv("COLUMNS", "3")
    assert width_now() == 20
    monkeypatch.setenv("COLUMNS", "")
    monkeypatch.setattr("os.get_terminal_size", lambda *_: (_ for _ in ()).throw(OSError()))
    assert width_now() == 80


# ---------------------------------------------------------------- what a person types

def test_a_task_is_found_by_its_id_its_beginning_its_short_form_and_its_name():
    tasks = world().tasks
    first, twelve = tasks[0], dict(tasks[0], task_id=tasks[0]["task_id"][:32] + "0c00000000000000")
    both = [first, twelve]
    for wanted in (first["task_id"], "beef0001:1", first["task_id"][:34]):
        assert list(matching("tasks", both, wanted)) == [first["task_id"]], wanted
    assert len(matching("tasks", both, "train")) == 2 and len(matching("tasks", both, "beef")) == 2
    with pytest.raises(click.ClickException, match="'train' could be 2 tasks.*beef0001:1.*beef0001:12"):
        with_id("tasks", both, "train")
    with pytest.raises(click.ClickException, match="no task with id or name 'nobody'"):
        with_id("tasks", both, "nobody")
    attempts = [first, dict(first, attempt_number=1)]
    assert with_id("tasks", attempts, "beef0001:1") == attempts


def test_a_name_means_the_actor_that_lives():
    old, new = actor(1, "a", "A", "DEAD"), actor(2, "a", "A", pid=7)
    assert with_id("actors", [old, new], "a") == [new]
    assert with_id("actors", [old, new], "00000002") == [new], "the beginning of an id without its job"
    assert with_id("actors", [old, new], "7") == [new], "a pid"
    with pytest.raises(click.ClickException, match="could be 2 actors"):
        with_id("actors", [actor(1, "a", "A"), new], "A")
    assert matching("actors", [old, new], "") == {}


def test_calls_that_wait_are_counted_with_the_age_of_the_first():
    work = Unfinished([task(1, "A.f", "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY", actor_id="x") | {
        "type": "ACTOR_TASK", "creation_time_ms": at} for at in (300, 200, 0)])
    assert (work.queues["x"].count, work.queues["x"].oldest_ms, work.queues["x"].names) == (3, 200, {"A.f": 3})


# ---------------------------------------------------------------- stacks, profiles, logs

def test_identical_stacks_are_one_and_threads_of_zray_are_left_out():
    text = ('thread zray-service:\n  File "/x/t.py", line 1, in f\n\n'
            'thread MainThread:\n  File "/x/t.py", line 8, in slow\n    inner()\n\n'
            'coroutine Task-1:\n  File "/x/t.py", line 9, in g\n')
    shown = stacks.of_user(text)
    assert shown.startswith("thread MainThread:") and "zray-service" not in shown and "coroutine Task-1" in shown
    assert stacks.of_user(f'thread MainThread:\n  File "{stacks._PACKAGE}worker/main.py", line 1, in run\n') == (
        "no thread is in user code\n")
    one, two, three = (NamedProcess(worker_id(pid), pid, False, "slow", ("slow",), "", "") for pid in (1, 2, 3))
    assert stacks.folded([(one, "a"), (two, "b"), (three, "a")]) == [("slow", "a", [one, three]), ("slow", "b", [two])]


def test_a_profile_becomes_a_flame_graph_and_a_file_for_speedscope():
    found = flame.parsed("# samples 9 idle 1\nMainThread;f (a.py:1);g<x> (a.py:2) 6\nMainThread;f (a.py:1) 2\nno\n")
    assert flame.heaviest(found)[0] == ("g<x> (a.py:2)", 6, 6) and sum(found.values()) == 8
    picture_of = ElementTree.fromstring(flame.svg(found, "title & more"))
    titles = [node.text for node in picture_of.iter("{http://www.w3.org/2000/svg}title")]
    assert "g<x> (a.py:2): 6 samples, 75.0%" in titles and titles[0] == "title & more"
    profile = json.loads(flame.speedscope(found, "title"))
    assert profile["profiles"][0]["weights"] == [6, 2] and profile["profiles"][0]["endValue"] == 8
    names = [frame["name"] for frame in profile["shared"]["frames"]]
    assert [names[at] for at in profile["profiles"][0]["samples"][0]] == ["MainThread", "f (a.py:1)", "g<x> (a.py:2)"]


def test_of_stacks_from_outside_only_those_of_user_code_stay():
    found = flame.parsed("<module> (<string>:1);run (zray/worker/main.py:5);f (a.py:1);dot (blas.so) 7\n"
                         "_bootstrap (threading.py:9);poll (zray/transport/polling.py:45);epoll_wait (libc.so) 90\n")
    assert flame.of_user(found) == {("f (a.py:1)", "dot (blas.so)"): 7}
    assert flame.parsed(flame.written(found)) == found


def test_the_output_of_one_function_is_told_from_that_of_others():
    data = b"\x01zray-task:f\none\n\x01zray-task:g\ntwo\n\x01zray-task:f\nthree\n"
    assert functions_in(data) == {"f", "g"}
    assert only_of(data, "f", False) == (b"one\nthree\n", True)
    assert only_of(b"more\n", "f", True) == (b"more\n", True) and only_of(b"more\n", "f", False) == (b"", False)


def test_lines_of_memory_are_short_and_grouped_by_holder():
    [first, second, third] = memory.held(OBJECTS, {})
    assert (first.nbytes, second.nbytes, third.pending) == (24_000_192, 24_000_192, 1)
    assert {first.pid, second.pid} == {100, 101} and first.site == second.site, "the owner knows the line of both"
    assert memory.line_of(first.site) == "train.py:load:21 put object" and memory.line_of("") == ""


if __name__ == "__main__" and "--write" in sys.argv:
    GOLDEN_FILE.write_text("\n".join(golden_lines()) + "\n", encoding="utf-8")
