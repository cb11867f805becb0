"""Columns and states of the state API that need a special moment or setting."""

from __future__ import annotations

import gc
import os
import warnings

import numpy as np
import pytest

import zray as ray
from tests.e2e.target import until
from zray.state.errors import NodesEnded
from zray.util import state
from zray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

pytestmark = pytest.mark.zray_only
HERE = __file__


def test_an_object_whose_value_is_read_is_pinned_in_memory(cluster):
    ref = ray.put(np.ones(1_000_000))
    name = ref.hex()

    def kinds():
        return [row.reference_type for row in state.get_objects(name)]

    assert kinds() == ["LOCAL_REFERENCE"]
    value = ray.get(ref)
    assert kinds() == ["PINNED_IN_MEMORY"]
    del ref
    gc.collect()
    (row,) = state.get_objects(name)
    assert row.reference_type == "PINNED_IN_MEMORY" and row.object_size >= value.nbytes, "no reference is left"
    del value
    gc.collect()
    until(lambda: not kinds(), lambda: str(kinds()))


def test_the_logs_of_its_worker_are_named_in_the_row_of_a_task(cluster):
    @ray.remote(num_cpus=0)
    def prints():
        print("a line", flush=True)
        return ray.get_runtime_context().get_task_id()

    task = ray.get(prints.remote())
    row = until(lambda: state.get_task(task))
    assert row.task_log_info["stdout_start"] == row.task_log_info["stderr_end"] == -1
    with open(row.task_log_info["stdout_file"]) as file:
        assert "a line" in file.read()
    name = os.path.basename(row.task_log_info["stdout_file"])
    assert "a line" in "".join(state.get_log(node_id=row.node_id, filename=name))


def test_without_the_setting_call_sites_are_disabled(cluster):
    ref = ray.put(1)
    (row,) = state.get_objects(ref.hex())
    assert row.call_site == "disabled" and ref.call_site() == ""
    assert not state.summarize_objects()["cluster"]["callsite_enabled"]


@pytest.mark.parametrize("how", [{"_system_config": {"record_ref_creation_sites": True}}, "RAY_", "ZRAY_"])
def test_with_the_setting_rows_say_where_objects_tasks_and_actors_were_made(fresh, monkeypatch, gate, how):
    if isinstance(how, str):
        monkeypatch.setenv(how + ("record_ref_creation_sites" if how == "RAY_" else "RECORD_REF_CREATION_SITES"), "1")
    ray.init(num_cpus=2, **(how if isinstance(how, dict) else {}))

    @ray.remote(num_cpus=0)
    class Actor:
        def call(self):
            return 1

    @ray.remote(num_cpus=0)
    def waits(gate):
        gate.wait()
        return ray.put(2).call_site()

    def site(how):
        return f"{how} {HERE}:test_with_the_setting_rows_say_where_objects_tasks_and_actors_were_made:"

    put = ray.put(1)
    task = waits.remote(gate)
    actor = Actor.remote()
    call = actor.call.remote()
    assert put.call_site().startswith(site("(put object)"))
    assert ray.get(call) == 1 and call.call_site().startswith(site("(actor call)"))
    gate.wait_arrived(1)
    found = {row.object_id: row.call_site for row in state.list_objects(limit=1000)}
    assert found[put.hex()] == put.call_site() and found[task.hex()].startswith(site("(task call)"))
    assert found[task.hex()] == task.call_site()
    assert state.summarize_objects()["cluster"]["callsite_enabled"]
    assert state.get_task(task).call_site == task.call_site(), "it runs"
    gate.open()
    assert ray.get(task).startswith(f"(put object) {HERE}:waits:"), "workers record, too"
    ended = until(lambda: [row for row in state.list_tasks(detail=True) if row.state == "FINISHED"
                           and row.task_id == task.task_id().hex()])
    assert ended[0].call_site == task.call_site(), "it has ended"
    (row,) = state.list_actors(detail=True)
    assert row.call_site.startswith(site("(actor creation)"))


def test_tasks_of_a_dead_node_are_known_by_their_owner_and_the_list_names_the_node(grow):
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1, "resources": {"far": 1}})

    @ray.remote(resources={"far": 1}, num_cpus=0)
    def large():
        return np.ones(1_000_000)

    ref = large.remote()
    far = ray.get(ray.remote(resources={"far": 0.1}, num_cpus=0)(
        lambda: ray.get_runtime_context().get_node_id()).remote())
    ray.wait([ref], fetch_local=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert state.list_tasks()
    cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)
    until(lambda: state.get_node(far).state == "DEAD")
    with pytest.warns(NodesEnded, match=f"nodes that have ended: {far}"):
        row = state.get_task(ref)
    assert row.name.endswith("large") and row.state in ("FINISHED", "PENDING_NODE_ASSIGNMENT")
    with pytest.warns(NodesEnded, match=far):
        assert state.list_workers()


def test_a_call_that_waits_for_an_argument_from_another_node_says_so(grow, monkeypatch):
    grow({"num_cpus": 1}, {"num_cpus": 1, "resources": {"far": 1}})
    far = next(row["NodeID"] for row in ray.nodes() if row["Resources"].get("far"))

    @ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(far, soft=False))
    class Reader:
        def slow(self):
            """Make reads of stored values wait until ``go``."""
            import threading

            from zray.core.stored import Stored

            self.may = threading.Event()
            read = Stored._read_copy

            def waits(stored, value):
                task = stored.context.task
                stored.machine.blocked[task] = lambda: None
                self.may.wait()
                stored.machine.blocked.pop(task)
                return read(stored, value)

            Stored._read_copy = waits

        def read(self, value):
            return value.sum()

        def go(self):
            self.may.set()

    reader = Reader.options(max_concurrency=2).remote()
    ray.get(reader.slow.remote())
    call = reader.read.remote(ray.put(np.ones(1_000_000)))
    until(lambda: [row.state for row in state.list_tasks() if row.task_id == call.task_id().hex()]
          == ["PENDING_ACTOR_TASK_ARGS_FETCH"], lambda: str(state.list_tasks()))
    reader.go.remote()
    assert ray.get(call) == 1_000_000
