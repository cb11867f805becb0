"""Rows of the state API: filters, and what becomes of the words of owners, workers and events about one attempt."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

import zray as ray
from zray.state import api, attempts, common, rows
from zray.state.client import without_marks
from zray.state.errors import RayStateApiException
from zray.state.filters import checked, equal, matcher
from zray.state.kinds import KINDS
from zray.state.places import Places, bare, job_hex

NODE = "aabbccdd" + "00000000" + "9" * 40
DRIVER = {"type": "DRIVER", "worker_id": "aabbccdd80000001".ljust(56, "0"), "pid": 1, "job": 1, "actor": ""}
WORKER = {"type": "WORKER", "worker_id": "aabbccdd00000001".ljust(56, "7"), "pid": 2, "job": 1, "actor": ""}
PLACES = Places([{"NodeID": NODE, "NodeManagerAddress": "10.0.0.1"}], [WORKER])


def task(n: int) -> str:
    return ("00000001" + "ab" * 12) + n.to_bytes(8, "little").hex()


def owned(n: int, state: str, attempt: int = 0, **more) -> dict:
    return {"task_id": task(n), "attempt": attempt, "name": "f", "function": "f", "type": "NORMAL_TASK", "actor": "",
            "resources": {"CPU": 10_000}, "labels": {}, "env": {}, "group": "", "state": state, "parent": "",
            "created_s": 5.0, "process": DRIVER, "waits_for": "", **more}


def here(n: int, state: str, attempt: int = 0) -> dict:
    return {"task_id": task(n), "attempt": attempt, "name": "f", "state": state, "here": True, "process": WORKER}


def event(n: int, state: str, attempt: int = 0, **more) -> dict:
    return {"task_id": task(n), "name": "f", "state": state, "job": 1, "pid": 2, "attempt": attempt, "count": 1,
            "start_s": 6.0, "end_s": 7.0 if state in attempts.ENDED else 0.0, "worker_id": WORKER["worker_id"],
            "actor": "", "error_type": "", "error_message": "", "type": "NORMAL_TASK", "resources": {"CPU": 1.0},
            "labels": {}, "group": "", **more}


def made(events=(), live=(), actors=(), parents=None, reasons=None) -> list[dict]:
    return attempts.rows(events, live, actors, parents or {}, reasons or {}, PLACES)


# ---------------------------------------------------------------- filters

def test_filters_match_text_in_any_case_and_numbers_and_booleans_as_text():
    row = {"state": "RUNNING", "pid": 7, "is_alive": False, "name": None}
    for passes in [("STATE", "=", "running"), ("pid", "=", "7"), ("pid", "=", 7.0), ("is_alive", "=", "False"),
                   ("is_alive", "!=", True), ("name", "=", None), ("pid", "!=", "seven")]:
        assert matcher(checked([passes], row, "rows"))(row), passes
    for fails in [("state", "=", "RUN"), ("pid", "=", 8), ("is_alive", "=", "true"), ("name", "=", "x")]:
        assert not matcher(checked([fails], row, "rows"))(row), fails


@pytest.mark.parametrize(("wrong", "words"), [
    ([("state", "<", "x")], "Unsupported filter predicate < is given. Available predicates: =, !=."),
    ([("stat", "=", "x")], "did you mean 'state'"), (["state=x"], "a filter is"), ([("state", "=")], "a filter is")])
def test_what_is_no_filter_is_a_value_error_that_says_so(wrong, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(".", r"\.")):
        checked(wrong, ["state", "name"], "tasks")


def test_an_unknown_column_is_named_with_those_that_there_are():
    with pytest.raises(RayStateApiException, match="Supported filter columns: name, state"):
        checked([("bogus", "=", 1)], ["state", "name"], "tasks")


@given(st.one_of(st.text(), st.integers(), st.booleans(), st.floats(allow_nan=False), st.none()))
def test_a_cell_equals_itself_and_its_text(value):
    assert equal(value, value)
    assert isinstance(value, float) or equal(value, str(value))


# ---------------------------------------------------------------- attempts

def test_an_attempt_has_the_state_that_the_best_informed_party_reports():
    known = [owned(1, "SUBMITTED_TO_WORKER"), here(1, "RUNNING_IN_RAY_GET")]
    assert made(live=known[:1])[0]["state"] == "SUBMITTED_TO_WORKER"
    assert made(live=known)[0]["state"] == "RUNNING_IN_RAY_GET"
    (row,) = made([event(1, "RUNNING")], known)
    assert (row["state"], row["start_time_ms"], row["creation_time_ms"]) == ("RUNNING_IN_RAY_GET", 6000, 5000)
    (row,) = made([event(1, "FINISHED")], known)
    assert (row["state"], row["end_time_ms"], row["worker_id"]) == ("FINISHED", 7000, WORKER["worker_id"])
    assert row["required_resources"] == {"CPU": 1.0} and row["node_id"] == NODE and row["worker_pid"] == 2


STATES = st.sampled_from(["PENDING_ARGS_AVAIL", "PENDING_NODE_ASSIGNMENT", "SUBMITTED_TO_WORKER"])


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2), STATES), max_size=8),
       st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2), st.sampled_from(["RUNNING", "FINISHED", "FAILED"])),
                max_size=8))
def test_there_is_one_row_for_each_attempt_and_what_has_ended_has_ended(live, events):
    found = made([event(n, state, attempt) for n, attempt, state in events],
                 [owned(n, state, attempt) for n, attempt, state in live])
    keys = [(row["task_id"], row["attempt_number"]) for row in found]
    assert sorted(keys) == sorted({(task(n), attempt) for n, attempt, _ in [*live, *events]})
    ended = {(task(n), attempt) for n, attempt, state in events if state in attempts.ENDED}
    for key, row in zip(keys, found, strict=True):
        if row["state"] in attempts.ENDED:
            assert key in ended
    order = [row["state"] in attempts.ENDED for row in found]
    assert order == sorted(order), "unfinished attempts come first"


def test_the_latest_attempt_of_a_task_comes_first():
    found = made([event(1, "FAILED", 0, end_s=7.0), event(1, "FAILED", 1, end_s=8.0), event(1, "FINISHED", 2,
                                                                                         end_s=9.0)])
    assert [row["attempt_number"] for row in found] == [2, 1, 0]
    assert made(live=[owned(2, "PENDING_NODE_ASSIGNMENT", 1)], events=[event(2, "FAILED")])[0]["attempt_number"] == 1


def test_a_parent_is_the_task_that_submitted_it_or_the_driver_of_the_job():
    (row,) = made([event(1, "FINISHED")], parents={task(1)[:32]: "parent"})
    assert row["parent_task_id"] == "parent"
    assert made([event(1, "FINISHED")])[0]["parent_task_id"] == "ff" * 20 + "00000001"
    assert made(live=[owned(1, "RUNNING", parent="its owner's task")])[0]["parent_task_id"] == "its owner's task"


def test_what_a_queued_task_waits_for_is_said_by_its_scheduler():
    (row,) = made(live=[owned(1, "PENDING_NODE_ASSIGNMENT", key=3)],
                  reasons={(DRIVER["worker_id"][:16], 3): "no CPU is free"})
    assert row["pending_reason"] == "no CPU is free" and row["node_id"] is None and row["worker_id"] is None


# ---------------------------------------------------------------- constructors and actors

def actor(state: str, **more) -> dict:
    return {"actor_id": "00000001" + "cd" * 12, "class_name": "test.<locals>.A", "state": state, "name": "",
            "ray_namespace": "", "job_id": 1, "pid": 0, "num_restarts": 0, "is_detached": False, "worker": "",
            "required_resources": {"CPU": 1.0}, "running_resources": {}, "node_id": "", "death_cause": {},
            "created_s": 1.0, "placed_s": 0.0, "up_s": 0.0, "owner": DRIVER["worker_id"][:16], **more}


@pytest.mark.parametrize(("row", "state", "error"), [
    (actor("PENDING"), "PENDING_NODE_ASSIGNMENT", None),
    (actor("PENDING", placed_s=2.0, node_id=NODE), "RUNNING", None),
    (actor("ALIVE", placed_s=2.0, up_s=3.0, node_id=NODE), "FINISHED", None),
    (actor("DEAD", placed_s=2.0, up_s=3.0, death_cause={"kind": "killed"}), "FINISHED", None),
    (actor("DEAD", placed_s=2.0, up_s=3.0, death_cause={"kind": "init", "message": "boo"}), "FAILED",
     "TASK_EXECUTION_EXCEPTION"),
    (actor("DEAD", death_cause={"kind": "killed"}), "FAILED", "ACTOR_DIED"),
    (actor("DEAD", death_cause={"kind": "pg_removed"}), "FAILED", "ACTOR_PLACEMENT_GROUP_REMOVED")])
def test_a_constructor_is_a_row_that_follows_its_actor(row, state, error):
    (found,) = made(actors=[row])
    assert (found["name"], found["type"], found["state"]) == ("A.__init__", "ACTOR_CREATION_TASK", state)
    assert found["error_type"] == error and found["actor_id"] == row["actor_id"]


def test_rows_of_actors_have_rays_states_and_reasons():
    waits = {"creation": True, "actor": "00000001" + "ee" * 12, "state": "DEPENDENCIES_UNREADY", "class_name": "B",
             "name": "", "ray_namespace": "", "is_detached": False, "resources": {"CPU": 20_000}}
    killed = actor("DEAD", death_cause={"kind": "killed", "reason": "killed by zray.kill()"}, placed_s=1.0)
    first, second = rows.actors([killed], [waits], PLACES)
    about = first["death_cause"]["actor_died_error_context"]
    assert about["error_message"] == "The actor is dead because it was killed by `ray.kill`."
    assert about["reason"] == "RAY_KILL" and first["class_name"] == "A"
    assert second["state"] == "DEPENDENCIES_UNREADY" and second["required_resources"] == {"CPU": 2.0}
    (pending,) = rows.actors([actor("PENDING")], [], PLACES)
    assert pending["state"] == "PENDING_CREATION" and pending["death_cause"] is None
    (failed,) = rows.actors([actor("DEAD", death_cause={"kind": "init", "message": "boo"})], [], PLACES)
    assert failed["death_cause"]["creation_task_failure_context"]["formatted_exception_string"] == "boo"


# ---------------------------------------------------------------- classes of rows

def test_a_row_is_read_by_attribute_and_by_key_and_hides_its_details():
    row = common.NodeState.of({"node_id": "a", "state": "ALIVE", "start_time_ms": 3}, detail=False)
    assert row.node_id == row["node_id"] == row.get("node_id") == "a" and row.start_time_ms is None
    assert "state" in row and "bogus" not in row
    with pytest.raises(KeyError):
        row["bogus"]
    assert common.NodeState.of({"start_time_ms": 3}, detail=True).asdict()["start_time_ms"] == 3


def test_every_kind_is_told_apart_by_a_column_of_its_own():
    for kind in KINDS.values():
        assert kind.identifier in kind.row.columns() and kind.row.filterable_columns()


def test_names_are_bare_and_jobs_are_ids():
    assert bare("test.<locals>.A") == bare("A") == "A" and job_hex(1) == "00000001" and job_hex(0) == ""


# ---------------------------------------------------------------- logs

@given(st.lists(st.integers(0, 40), max_size=6).map(sorted))
def test_a_log_is_read_without_zrays_own_lines_however_it_is_cut(cuts):
    log = b"\x01zray-task:f\none\n\0two\n\x01zray-warning:x\nthree"
    pieces = [log[start:end] for start, end in zip([0, *cuts], [*cuts, len(log)], strict=True)]
    read, rest = b"", b""
    for piece in pieces:
        found, rest = without_marks(rest + piece)
        read += found
    assert read + rest == b"one\ntwo\nthree"


# ---------------------------------------------------------------- local mode

def test_local_mode_lists_its_node_and_its_actors_and_nothing_else():
    ray.init(local_mode=True, num_cpus=2)
    try:
        class Named:
            pass

        ray.remote(Named).options(name="local").remote()
        assert [row.state for row in api.list_nodes()] == ["ALIVE"]
        assert [(row.name, row.class_name, row.state) for row in api.list_actors()] == [("local", "Named", "ALIVE")]
        for empty in (api.list_workers, api.list_objects, api.list_jobs, api.list_placement_groups,
                      api.list_runtime_envs):
            assert empty() == []
    finally:
        ray.shutdown()
