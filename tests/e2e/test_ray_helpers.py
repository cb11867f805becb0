"""What Ray's private and smaller modules offer to programs and their tests works."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import subprocess
import sys

import pytest

from tests.e2e.target import IS_ZRAY, Counts, ray

pytestmark = pytest.mark.zray_only
if IS_ZRAY:
    from zray import exceptions
    from zray._common import network_utils, test_utils as common_test_utils, utils as common_utils
    from zray._private import services, state, test_utils, utils, worker as ray_worker
    from zray.autoscaler import sdk
    from zray.core.logging_config import LoggingConfig


def test_a_signal_holds_tasks_until_it_is_sent(cluster):
    signal = common_test_utils.SignalActor.remote()
    waits = [signal.wait.remote() for _ in range(3)]
    common_test_utils.wait_for_condition(lambda: ray.get(signal.cur_num_waiters.remote()) == 3)
    ray.get(signal.send.remote(clear=True))
    ray.get(waits)
    late = signal.wait.remote()
    assert ray.wait([late], timeout=0.05) == ([], [late])
    ray.get(signal.send.remote())
    ray.get([late, signal.wait.remote(), signal.wait.remote(should_wait=False)])


def test_a_semaphore_lets_so_many_pass(cluster):
    semaphore = common_test_utils.Semaphore.remote(2)
    first = [semaphore.acquire.remote() for _ in range(3)]
    ready, rest = ray.wait(first, num_returns=2)
    assert len(ready) == 2 and ray.get(semaphore.locked.remote()) and ray.wait(rest, timeout=0.05)[0] == []
    ray.get(semaphore.release.remote())
    ray.get(rest)


def test_conditions_are_awaited():
    calls = []

    def third(limit=3):
        calls.append(1)
        if len(calls) < limit:
            raise KeyError("not yet")
        return True

    test_utils.wait_for_condition(third, retry_interval_ms=1, limit=3)
    assert len(calls) == 3
    with pytest.raises(RuntimeError, match="wasn't met before the timeout") as caught:
        test_utils.wait_for_condition(third, timeout=0.02, retry_interval_ms=1, limit=10**9)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(KeyError):
        test_utils.wait_for_condition(third, raise_exceptions=True, limit=10**9)
    calls.clear()

    async def waits():
        async def holds():
            return third()

        await test_utils.async_wait_for_condition(holds, retry_interval_ms=1)
        await test_utils.async_wait_for_condition(lambda: True)
        with pytest.raises(RuntimeError, match="KeyError"):
            await test_utils.async_wait_for_condition(lambda: third(10**9), timeout=0.02, retry_interval_ms=1)

    asyncio.run(waits())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with pytest.raises(RuntimeError, match="still runs"):
        test_utils.wait_for_pid_to_exit(child.pid, timeout=0.01)
    child.communicate(b"\n")
    test_utils.wait_for_pid_to_exit(child.pid)


def test_small_functions_say_the_truth(cluster, monkeypatch):
    assert network_utils.build_address("::1", 5) == "[::1]:5" and network_utils.parse_address("[::1]:5") == ("::1", "5")
    assert network_utils.parse_address("10.0.0.1:5") == ("10.0.0.1", "5") and network_utils.parse_address("::1") is None
    assert network_utils.is_localhost("127.0.0.2") and not network_utils.is_localhost("10.0.0.1")
    assert 0 < network_utils.find_free_port() < 65536
    assert common_utils.import_attr("os.path.join") is os.path.join is common_utils.load_class("os.path:join")
    assert common_utils.hex_to_binary(common_utils.binary_to_hex(b"ab")) == b"ab"
    assert len(common_utils.get_random_alphanumeric_string(9)) == 9
    monkeypatch.setenv("RAY_x", "1")
    assert common_utils.env_bool("RAY_x", False) and common_utils.env_integer("RAY_y", 3) == 3
    assert 0 < utils.get_used_memory() and utils.estimate_available_memory() <= utils.get_system_memory() * 1.01
    assert utils.get_num_cpus() >= 1 and utils.is_main_thread() and utils.get_shared_memory_bytes() > 0
    assert utils.split_address("ray://h:1") == ("ray", "h:1")
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "script.py", "--fast"])
    assert utils.get_entrypoint_name().endswith(" script.py --fast")
    with pytest.raises(ValueError, match="neither scheme"):
        utils.split_address("nowhere")

    async def background():
        return await common_utils.run_background_task(asyncio.sleep(0, 7))

    assert asyncio.run(background()) == 7
    loop = common_utils.get_or_create_event_loop()
    assert loop is common_utils.get_or_create_event_loop()
    loop.close()
    asyncio.set_event_loop(None)


def test_tables_of_the_session(cluster):
    context = ray.get_runtime_context()
    actor = ray.remote(Counts).remote()
    ray.get(actor.add.remote())
    tables = state.state
    job = ray.JobID.from_hex(context.get_job_id())
    assert set(state.actors(job_id=job, actor_state_name="ALIVE")) <= set(state.actors())
    assert state.actors(job_id=type(job).from_int(job.int() + 1)) == {} and state.actors(actor_state_name="NEVER") == {}
    assert tables.workers() and tables.get_system_config()["workers_max"] > 0
    assert tables.chrome_tracing_dump() is not None
    assert tables.chrome_tracing_object_transfer_dump() == [] and tables.get_placement_group_by_name("none") is None
    node = ray_worker._global_node
    assert node.unique_id == context.get_node_id() and os.path.isdir(node.get_logs_dir_path())
    here = ray_worker.global_worker
    assert here.get_objects([here.put_object(3)]) == ([3], b"") and here.placement_group_id.is_nil()
    assert here.actor_name is None and here.current_task_name is None and not here.is_canceled
    assert ray_worker.get_dashboard_url() == "" and ray_worker.get_resource_ids()["GPU"] == []
    with pytest.raises(AttributeError):
        ray_worker.no_such_name


def test_references_and_ids_know_their_parts(cluster):
    ref = ray.put(1)
    assert ref.size() == len(ref.binary()) == ray.ObjectID.size() and ray.ObjectID is ray.ObjectRef
    assert ref.owner_address() and ref.call_site() == "" and ref.tensor_transport() is None
    assert ray.ObjectRef.from_random() != ray.ObjectRef.from_random()
    assert ray.JobID.from_int(value=7).int() == 7 and ray.JobID.size() == 4
    assert ray.NodeID.from_hex(hex_id="ab" * 28).hex() == "ab" * 28
    assert ray.get(object_refs=ref) == 1 and ray.wait(ray_waitables=[ref])[0] == [ref]
    assert LoggingConfig.from_dict(LoggingConfig(log_level="DEBUG").to_dict()).log_level == "DEBUG"


def test_older_ways_to_connect(fresh):
    with ray.client("local").namespace("of the client").env({"env_vars": {"A": "b"}}).connect():
        assert ray.get_runtime_context().namespace == "of the client"
        assert services.canonicalize_bootstrap_address("x:1") == "x:1"
    assert services.canonicalize_bootstrap_address("local") is None is services.find_bootstrap_address()
    assert logging.getLogger("zray") is ray.logger


@pytest.mark.parametrize("name", ["RayChannelTimeoutError", "RayCgraphCapacityExceeded", "RpcError",
                                  "UserCodeException", "CrossLanguageError", "ActorHandleNotFoundError"])
def test_exceptions_that_only_ray_raises_can_be_named_and_pickled(name):
    error = getattr(exceptions, name)("words")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and "words" in str(again) and isinstance(error, exceptions.RayError)
    assert issubclass(exceptions.RayChannelTimeoutError, TimeoutError)


@pytest.mark.parametrize("wrong", [{"num_cpus": "2"}, {"bundles": {"CPU": 1}},
                                   {"bundles": [{"CPU": 1}], "bundle_label_selectors": []}])
def test_requests_to_an_autoscaler_are_checked_and_have_no_effect(wrong):
    sdk.request_resources(num_cpus=3, bundles=[{"CPU": 1}])
    with pytest.raises((TypeError, ValueError)):
        sdk.request_resources(**wrong)
