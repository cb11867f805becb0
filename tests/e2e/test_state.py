"""The state API: what runs, waits, ran and ended, with Ray's names, from real processes."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys

import pytest

from tests.e2e.target import TARGET, exceptions, ray, until

state = importlib.import_module(f"{TARGET}.util.state")
MS_MIN = 1_700_000_000_000  # times are milliseconds since 1970


def tasks(**columns):
    return state.list_tasks(filters=[(key, "=", value) for key, value in columns.items()], detail=True, limit=1000)


def the(rows):
    (row,) = rows
    return row


def when(find, says=lambda row: True):
    """The row that ``find()`` comes to give and for which ``says`` holds; what it gives until then is in the error."""
    return until(lambda: next((row for row in find() if says(row)), None), lambda: f"rows: {find()}")


@ray.remote(num_cpus=0)
def one():
    return 1


@ray.remote(num_cpus=0)
def holds(gate):
    gate.wait()


@ray.remote(num_cpus=0)
class Plain:
    def __init__(self, error=None):
        if error:
            raise RuntimeError(error)

    def pid(self):
        return os.getpid()

    def exits(self, code):
        sys.exit(code)

    def leaves(self):
        ray.actor.exit_actor()


@ray.remote(num_cpus=0)
class Shown:
    def __init__(self, name):
        self.name = name

    async def wait(self, gate):
        await asyncio.to_thread(gate.wait)

    def __repr__(self):
        return f"Shown({self.name})"


# ---------------------------------------------------------------- tasks

def test_a_task_that_ended_is_listed_with_where_and_when_it_ran(cluster):
    ref = ray.remote(num_cpus=2)(lambda: ray.get_runtime_context().get_worker_id()).options(name="two.cpus").remote()
    worker = ray.get(ref)
    row = when(lambda: tasks(name="two.cpus"), lambda row: row.state == "FINISHED")
    assert row.task_id == ref.task_id().hex() and row.attempt_number == 0 and row.error_type is None
    assert row.worker_id == worker and row.node_id == ray.get_runtime_context().get_node_id()
    assert row.type == "NORMAL_TASK" and row.job_id == ray.get_runtime_context().get_job_id()
    assert row.required_resources == {"CPU": 2.0} and row.actor_id is None
    assert MS_MIN < row.creation_time_ms <= row.start_time_ms <= row.end_time_ms
    assert row["state"] == "FINISHED" and state.get_task(ref) == row == state.get_task(row.task_id)
    assert state.get_task("0" * 48) is None


def test_a_failed_task_says_why_and_a_retried_one_has_a_row_for_each_attempt(cluster):
    @ray.remote(max_retries=2, retry_exceptions=True, num_cpus=0)
    def fails():
        raise ValueError("on purpose")

    ref = fails.remote()
    with pytest.raises(ValueError):
        ray.get(ref)
    rows = until(lambda: len(found := tasks(name="fails")) == 3 and found, lambda: tasks(name="fails"))
    assert [row.attempt_number for row in rows] == [2, 1, 0] and {row.state for row in rows} == {"FAILED"}
    assert {row.error_type for row in rows} == {"TASK_EXECUTION_EXCEPTION"}
    assert all("on purpose" in row.error_message for row in rows)
    assert [row.attempt_number for row in state.get_task(ref)] == [2, 1, 0]


def test_tasks_that_wait_run_and_block_have_their_states(cluster, gate):
    @ray.remote(num_cpus=0)
    def gets(refs):
        return ray.get(refs[0])

    @ray.remote(num_cpus=0)
    def waits(refs):
        return ray.wait(refs)

    @ray.remote(num_cpus=0)
    def depends(value):
        return value

    @ray.remote(resources={"nothing has this": 1})
    def nowhere():
        return 1

    held = holds.options(name="held").remote(gate)
    gate.wait_arrived(1)
    refs = [gets.remote([held]), waits.remote([held]), depends.remote(held)]
    lost = nowhere.remote()
    running = when(lambda: tasks(name="held"), lambda row: row.state == "RUNNING" and row.start_time_ms)
    assert running.worker_pid and running.start_time_ms > MS_MIN and running.end_time_ms == 0
    when(lambda: tasks(name="gets"), lambda row: row.state == "RUNNING_IN_RAY_GET")
    when(lambda: tasks(name="waits"), lambda row: row.state == "RUNNING_IN_RAY_WAIT")
    when(lambda: tasks(name="depends"), lambda row: row.state == "PENDING_ARGS_AVAIL")
    pending = when(lambda: tasks(name="nowhere"), lambda row: row.state == "PENDING_NODE_ASSIGNMENT")
    assert pending.node_id is None and pending.worker_id is None and pending.required_resources["nothing has this"] == 1
    ray.cancel(lost)
    gate.open()
    ray.get(refs)
    cancelled = when(lambda: tasks(name="nowhere"), lambda row: row.state == "FAILED")
    assert cancelled.error_type == "TASK_CANCELLED"


def test_calls_beyond_the_concurrency_of_an_actor_wait_at_the_actor(cluster, gate):
    @ray.remote(max_concurrency=3, num_cpus=0)
    class Threaded:
        def hold(self, gate):
            gate.wait()

    actor = Threaded.remote()
    refs = [actor.hold.remote(gate) for _ in range(8)]
    gate.wait_arrived(3)

    def counts():
        rows = tasks(name="Threaded.hold")
        return sorted(row.state for row in rows)

    wanted = ["PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY"] * 5 + ["RUNNING"] * 3
    until(lambda: counts() == wanted, counts)
    assert {row.type for row in tasks(name="Threaded.hold")} == {"ACTOR_TASK"}
    gate.open()
    ray.get(refs)


def test_a_task_of_a_task_names_its_parent(cluster):
    @ray.remote(num_cpus=0)
    def parent():
        return ray.get_runtime_context().get_task_id(), ray.get(one.options(name="child").remote())

    task, _ = ray.get(parent.remote())
    row = when(lambda: tasks(name="child"), lambda row: row.state == "FINISHED")
    assert row.parent_task_id == task
    assert when(lambda: tasks(name="parent")).parent_task_id.startswith("ff" * 20)


def test_the_worker_and_the_argument_that_failed_a_task_are_named(cluster):
    @ray.remote(max_retries=0, num_cpus=0)
    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    @ray.remote(num_cpus=0)
    def needs(value):
        return value

    ref = dies.remote()
    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(ref)
    row = when(lambda: tasks(name="dies"), lambda row: row.state == "FAILED")
    assert row.error_type == "WORKER_DIED"
    with pytest.raises(exceptions.RayError):
        ray.get(needs.remote(ref))
    row = when(lambda: tasks(name="needs"), lambda row: row.state == "FAILED")
    assert row.error_type == "DEPENDENCY_RESOLUTION_FAILED"


def test_the_last_task_of_a_worker_with_max_calls_says_both_its_error_and_the_exit(cluster):
    @ray.remote(max_calls=1, max_retries=0, num_cpus=0)
    def last():
        raise ValueError("the last")

    with pytest.raises(ValueError):
        ray.get(last.remote())
    row = when(lambda: tasks(name="last"), lambda row: row.state == "FAILED")
    assert row.error_message.startswith("User exception:\n") and "the last" in row.error_message
    assert ("\n\nSystem error:\nIntentionalSystemExit: Worker exits with an exit code 0.\nExited because worker "
            "reached max_calls=1 for this method.") in row.error_message


# ---------------------------------------------------------------- actors and workers

def test_an_actor_has_its_state_repr_and_end(cluster, gate):
    actor = Shown.options(name="shown", max_concurrency=2).remote("me")
    ray.get(actor.__ray_ready__.remote())
    row = when(lambda: state.list_actors(filters=[("name", "=", "shown")], detail=True),
               lambda row: row.state == "ALIVE")
    assert row.class_name == "Shown" and row.repr_name == "Shown(me)" and row.actor_id == actor._actor.hex()
    assert row.death_cause is None and row.num_restarts == 0 and not row.is_detached
    assert state.get_actor(row.actor_id) == row
    ray.kill(actor)
    row = when(lambda: [state.get_actor(row.actor_id)], lambda row: row.state == "DEAD")
    assert "ray.kill" in row.death_cause["actor_died_error_context"]["error_message"]
    assert row.pid and row.repr_name == "Shown(me)"
    early = Plain.remote()
    ray.kill(early)
    when(lambda: [state.get_actor(early._actor.hex())], lambda row: row and row.state == "DEAD")


def test_an_actor_that_waits_is_listed_with_what_it_waits_for(cluster, gate):
    argument = holds.remote(gate)
    waits = Plain.remote(argument)
    nowhere = Plain.options(resources={"nothing has this": 1}).remote()

    def state_of(actor):
        row = state.get_actor(actor._actor.hex())
        return row and row.state

    until(lambda: state_of(waits) == "DEPENDENCIES_UNREADY" and state_of(nowhere) == "PENDING_CREATION")
    constructors = {row.actor_id: row.state for row in tasks(name="Plain.__init__")}
    assert constructors[waits._actor.hex()] == "PENDING_ARGS_AVAIL"
    assert constructors[nowhere._actor.hex()] == "PENDING_NODE_ASSIGNMENT"
    gate.open()
    ray.get(waits.pid.remote())
    assert state_of(waits) == "ALIVE"


@pytest.mark.parametrize(("end", "exit_type", "words"), [
    ("kill -9", "SYSTEM_ERROR", "OOM"), ("kill -15", "SYSTEM_ERROR", "SIGTERM"),
    ("exit 4", "SYSTEM_ERROR", "exit code 4"), ("exit 0", "INTENDED_USER_EXIT", ""),
    ("leave", "INTENDED_USER_EXIT", ""), ("group", "INTENDED_SYSTEM_EXIT", "placement group was removed")])
def test_an_ended_worker_stays_listed_with_how_it_ended(cluster, end, exit_type, words):
    options = {}
    group = None
    if end == "group":
        group = ray.util.placement_group([{"CPU": 1}])
        options["scheduling_strategy"] = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group)
    actor = Plain.options(**options).remote()
    pid = ray.get(actor.pid.remote())
    alive = when(lambda: state.list_workers(filters=[("pid", "=", pid)], detail=True), lambda row: row.is_alive)
    assert alive.worker_type == "WORKER" and alive.exit_type is None and alive.end_time_ms == 0
    if group is not None:
        ray.util.remove_placement_group(group)
    elif end.startswith("kill"):
        os.kill(pid, int(end.split("-")[1]))
    elif end == "leave":
        actor.leaves.remote()
    else:
        actor.exits.remote(int(end.split()[1]))
    row = when(lambda: state.list_workers(filters=[("worker_id", "=", alive.worker_id)], detail=True),
               lambda row: not row.is_alive)
    assert row.exit_type == exit_type and words in row.exit_detail, row
    assert row.end_time_ms >= row.start_time_ms > MS_MIN and state.get_worker(row.worker_id) == row


def test_a_constructor_that_raises_is_a_failed_task_and_a_user_error_of_its_worker(cluster):
    actor = Plain.remote("no good")
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(actor.pid.remote())
    task = when(lambda: tasks(name="Plain.__init__", actor_id=actor._actor.hex()), lambda row: row.state == "FAILED")
    assert task.error_type == "TASK_EXECUTION_EXCEPTION" and "no good" in task.error_message
    worker = when(lambda: state.list_workers(filters=[("worker_id", "=", task.worker_id)], detail=True),
                  lambda row: not row.is_alive)
    assert worker.exit_type == "USER_ERROR" and "no good" in worker.exit_detail
    cause = state.get_actor(actor._actor.hex()).death_cause["creation_task_failure_context"]
    assert "no good" in cause["formatted_exception_string"]


def test_a_call_that_its_actor_did_not_survive_says_how_the_actor_ended(cluster):
    actor = Plain.remote()
    with pytest.raises(exceptions.RayActorError):
        ray.get(actor.exits.remote(4))
    row = when(lambda: tasks(name="Plain.exits", actor_id=actor._actor.hex()), lambda row: row.state == "FAILED")
    assert row.error_type == "ACTOR_DIED" and "exit code 4" in row.error_message


# ---------------------------------------------------------------- the other kinds

def test_nodes_jobs_groups_and_objects_are_listed(cluster):
    node = the(state.list_nodes(detail=True))
    assert node.state == "ALIVE" and node.is_head_node and node.start_time_ms > MS_MIN and node.end_time_ms == 0
    assert node.node_id == ray.get_runtime_context().get_node_id() and node.resources_total["CPU"] == 4
    assert state.get_node(node.node_id) == node
    job = state.get_job(ray.get_runtime_context().get_job_id())
    assert job.status == "RUNNING" and job.type == "DRIVER" and job.driver_info["pid"] == str(os.getpid())
    driver = when(lambda: state.list_workers(filters=[("worker_type", "=", "driver")]))
    assert driver.pid == os.getpid() and driver.is_alive
    group = ray.util.placement_group([{"CPU": 1}], name="listed")
    assert group.wait(30)
    row = when(lambda: state.list_placement_groups(filters=[("name", "=", "listed")], detail=True))
    assert row.state == "CREATED" and row.bundles[0]["unit_resources"] == {"CPU": 1} and row.stats is not None
    ray.util.remove_placement_group(group)
    when(lambda: [state.get_placement_group(row.placement_group_id)], lambda row: row.state == "REMOVED")


def test_a_reference_is_listed_while_a_process_holds_it(cluster, gate):
    @ray.remote(num_cpus=0)
    def keeps(refs, gate):
        gate.wait()

    ref = ray.put(b"x" * 1000)
    name = ref.hex()
    row = the(state.get_objects(name))
    assert row.reference_type == "LOCAL_REFERENCE" and row.type == "DRIVER" and row.pid == os.getpid()
    assert row.object_size >= 1000
    kept = keeps.remote([ref], gate)
    gate.wait_arrived(1)
    until(lambda: {row.type for row in state.get_objects(name)} == {"DRIVER", "WORKER"})
    assert {row.reference_type for row in state.get_objects(name) if row.type == "DRIVER"} == {"USED_BY_PENDING_TASK"}
    gate.open()
    ray.get(kept)
    del ref
    until(lambda: not state.get_objects(name), lambda: str(state.get_objects(name)))


@pytest.mark.zray_only
def test_a_list_of_more_references_than_a_process_sends_says_so_and_each_is_found_by_its_id(cluster):
    refs = [ray.put(n) for n in range(10_001)]
    for ask in (state.list_objects, state.summarize_objects):
        with pytest.raises(Exception, match=r"only 10000 of 100\d\d objects of the processes were sent"):
            ask()
    with pytest.warns(UserWarning, match="only 10000 of"):
        assert len(state.list_objects(limit=10_000, raise_on_missing_output=False)) == 10_000
    for ref in (refs[0], refs[-1]):
        assert the(state.get_objects(ref.hex())).object_id == ref.hex()


def test_summaries_count_by_name_and_state(cluster):
    ray.get([one.options(name="counted").remote() for _ in range(3)])

    def counts():
        return state.summarize_tasks()["cluster"]["summary"].get("one", {}).get("state_counts", {}).get("FINISHED", 0)

    until(lambda: counts() >= 3, counts)
    actors = state.summarize_actors()["cluster"]
    assert actors["total_actors"] == sum(sum(about["state_counts"].values()) for about in actors["summary"].values())
    assert state.summarize_objects()["cluster"]["summary_by"] == "callsite"


def test_filters_limit_order_and_mistakes(cluster):
    ray.get([one.options(name=f"ordered{n}").remote() for n in range(3)])
    until(lambda: len(tasks(func_or_class_name="one", state="finished")) >= 3)
    whole = state.list_tasks(filters=[("STATE", "=", "finished")])
    assert state.list_tasks(filters=[("state", "=", "FINISHED")], limit=2) == whole[:2]
    assert all(row.events is None and row.creation_time_ms is None for row in whole)
    assert state.list_workers(filters=[("is_alive", "=", "False"), ("is_alive", "=", "True")]) == []
    with pytest.raises(ValueError, match="Available predicates"):
        state.list_tasks(filters=[("state", "<", "x")])
    with pytest.raises(Exception, match="Supported filter columns"):
        state.list_tasks(filters=[("bogus", "=", "x")])
    for wrong in (-1, 100_000):
        with pytest.raises(ValueError, match="limit"):
            state.list_tasks(limit=wrong)
    with pytest.raises(ValueError, match="timeout"):
        state.list_tasks(timeout=0)


@pytest.mark.zray_only
def test_logs_are_listed_and_read_by_file_actor_and_process(cluster):
    @ray.remote(num_cpus=0)
    class Speaks:
        def say(self, text):
            print(text, flush=True)
            return os.getpid()

    actor = Speaks.remote()
    pid = ray.get(actor.say.remote("one\ntwo\nthree"))
    node = ray.get_runtime_context().get_node_id()
    names = state.list_logs(node_id=node)
    assert names["worker_out"] and names["worker_err"] and names["raylet"] == ["node.log"]
    assert "".join(state.get_log(actor_id=actor._actor.hex())) == "one\ntwo\nthree\n"
    assert "".join(state.get_log(pid=pid, tail=2)) == "two\nthree\n"
    assert "starts" in "".join(state.get_log(node_id=node, filename="node.log"))
    with pytest.raises(Exception, match="no log file"):
        list(state.get_log(node_id=node, filename="../node.json"))
    with pytest.raises(ValueError, match="whose log"):
        list(state.get_log())
    followed = state.get_log(pid=pid, tail=1, follow=True, _interval=0.01)
    assert next(followed) == "three\n"
    ray.get(actor.say.remote("four"))
    assert next(followed) == "four\n"
    followed.close()


@pytest.mark.zray_only
def test_environments_and_events_are_listed(cluster):
    ray.get(one.options(runtime_env={"env_vars": {"LISTED": "1"}}).remote())
    row = when(lambda: [row for row in state.list_runtime_envs(detail=True)
                        if row.runtime_env["env_vars"] == {"LISTED": "1"}])
    assert row.success and row.ref_cnt >= 1 and row.node_id == ray.get_runtime_context().get_node_id()
    assert any("job 1 begins" in row.message for row in state.list_cluster_events(limit=1000))


@pytest.mark.zray_only
def test_a_program_without_init_asks_the_session_of_this_user(cluster):
    address = ray.get_runtime_context().get_temp_dir()
    program = ("from zray.experimental.state.api import list_nodes; import zray\n"
               "print([row.state for row in list_nodes()], zray.is_initialized())")
    said = subprocess.run([sys.executable, "-c", program], env={**os.environ, "ZRAY_ADDRESS": address}, text=True,
                          capture_output=True, check=False)
    assert said.stdout.strip() == "['ALIVE'] False", said.stderr


@pytest.mark.zray_only
def test_nodes_of_a_cluster_are_asked_together_and_an_ended_one_stays_listed(grow):
    ray.shutdown()  # the session of the other tests
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1, "resources": {"far": 1}})
    far = ray.remote(resources={"far": 1}, num_cpus=0)(lambda: ray.get_runtime_context().get_node_id())
    node = ray.get(far.options(name="far").remote())
    row = when(lambda: tasks(name="far"), lambda row: row.state == "FINISHED")
    assert row.node_id == node != ray.get_runtime_context().get_node_id()
    assert len(state.list_nodes()) == 2 and {row.node_id for row in state.list_workers() if row.worker_type ==
                                             "WORKER"} <= {row.node_id for row in state.list_nodes()}
    assert "starts" in "".join(state.get_log(node_id=node, filename="node.log", tail=1000))
    cluster.remove_node(cluster.list_all_nodes()[1])
    dead = when(lambda: [state.get_node(node)], lambda row: row.state == "DEAD")
    assert dead.end_time_ms >= dead.start_time_ms > MS_MIN and dead.state_message


@pytest.mark.zray_only
@pytest.mark.parametrize("end", ["kill", "exit"])
def test_the_processes_that_a_worker_started_end_with_it(cluster, end):
    from tests.e2e.nodes import ended

    @ray.remote(num_cpus=0)
    class Starts:
        def start(self):
            import multiprocessing

            child = multiprocessing.get_context("fork").Process(target=signal.pause, daemon=True)
            child.start()
            self.child = child
            return os.getpid(), child.pid

        def leave(self):
            ray.actor.exit_actor()

    actor = Starts.remote()
    worker, child = ray.get(actor.start.remote())
    assert not ended(child)
    if end == "kill":
        os.kill(worker, signal.SIGKILL)
    else:
        actor.leave.remote()
    until(lambda: ended(worker) and ended(child))
