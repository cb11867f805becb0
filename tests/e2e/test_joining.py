"""Which node init() connects to, what a job's configuration holds for, and nodes with Ray's keywords."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.e2e.nodes import clusters
from tests.e2e.scripts import environment, run_script
from tests.e2e.target import Counts, ray, until

pytestmark = pytest.mark.zray_only


@pytest.fixture(scope="module")
def alone(session_root):
    """A cluster of this process with one node, and no driver; its settings are Ray's keys."""
    with clusters(session_root) as start:
        yield start({"num_cpus": 1, "resources": {"head": 1}, "_system_config": {
            "max_direct_call_object_size": 1000, "lineage_pinning_enabled": False, "metrics_report_interval_ms": 10}},
            connect=None)


@pytest.fixture
def no_session(alone):
    ray.shutdown()
    yield
    ray.shutdown()


# ---------------------------------------------------------------- init


def test_init_joins_the_cluster_of_this_program(alone, no_session):
    ray.init()
    assert ray.cluster_resources()["head"] == 1
    ray.shutdown()
    for address in (alone.address, alone.head_node.address, "auto", alone.head_node.session_dir):
        with ray.init(address) as context:
            assert context["node_id"] == alone.head_node.node_id


def test_resources_are_for_nodes_that_start(alone, no_session, monkeypatch):
    words = "When connecting to an existing cluster, num_cpus and resources must not be provided."
    for address in (None, "auto", alone.address):
        with pytest.raises(ValueError, match=words):
            ray.init(address, num_cpus=2, resources={"a": 1})
    with pytest.raises(ValueError, match="_system_config must not be provided"):
        ray.init(_system_config={"gossip_s": 1.0})
    ray.init("local", num_cpus=3)
    assert ray.cluster_resources()["CPU"] == 3 and "head" not in ray.cluster_resources()
    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", "local")
    ray.init(num_cpus=2, _node_ip_address="10.1.2.3")
    assert ray.cluster_resources()["CPU"] == 2 and ray.util.get_node_ip_address() == "10.1.2.3"
    assert ray.cluster_resources()["node:10.1.2.3"] == 1


def test_programs_that_this_one_starts_join_its_cluster_too(alone, no_session, tmp_path):
    script = "import zray as ray; ray.init(); print(ray.cluster_resources()['head'])"
    assert run_script(tmp_path, script).stdout == "1.0\n"


def test_clients_of_ray_are_told_what_to_do(no_session):
    with pytest.raises(ConnectionError, match="names a server for clients of Ray, and zray has none"):
        ray.init("ray://10.0.0.1:10001")


def test_the_address_of_a_node_is_one_for_all_that_ask(alone, no_session):
    from zray._private import services, state

    before = ray.util.get_node_ip_address()
    with ray.init() as context:
        @ray.remote
        def seen():
            return ray.util.get_node_ip_address(), services.get_node_ip_address()

        (row,) = ray.nodes()
        assert {before, context["node_ip_address"], row["NodeManagerAddress"], *ray.get(seen.remote())} == {before}
        assert state.node_ids() == [state.current_node_id()] == [f"node:{before}"]
        assert row["Resources"][f"node:{before}"] == 1


# ---------------------------------------------------------------- JobConfig


def test_a_job_config_holds_for_the_whole_job(alone, no_session, tmp_path):
    from zray.job_config import JobConfig

    folder = tmp_path / "with a blank"
    folder.mkdir()
    (folder / "searched.py").write_text("VALUE = 7\n")
    config = JobConfig(code_search_path=[str(folder)], ray_namespace="ns", default_actor_lifetime="detached",
                       runtime_env={"env_vars": {"OF_THE_JOB": "1"}}, metadata={"a": 1}, jvm_options=["-X"])
    with ray.init({}, job_config=config):
        class Parent:
            def child(self):
                counts = ray.remote(Counts)
                self.children = [counts.remote(), counts.options(lifetime="non_detached").remote()]
                ray.get([child.add.remote() for child in self.children])
                return self.children

            def searched(self):
                import searched  # type: ignore[import-not-found]

                return searched.VALUE, os.environ["OF_THE_JOB"], ray.get_runtime_context().namespace

        parent = ray.remote(Parent).remote()
        assert ray.get(parent.searched.remote()) == (7, "1", "ns")
        stays, goes = ray.get(parent.child.remote())
        ray.kill(parent)
        with pytest.raises(ray.exceptions.RayActorError):
            while True:
                ray.get(goes.add.remote())
        assert ray.get(stays.add.remote()) == 2
        ray.kill(stays)
    with ray.init(namespace="of init", job_config=config):
        assert ray.get_runtime_context().namespace == "of init"


@pytest.mark.parametrize(("given", "words"), [
    ({"code_search_path": "x"}, "code search path is incorrect"), ({"code_search_path": [1]}, "1 is none"),
    ({"default_actor_lifetime": "long"}, "`detached`, `non_detached`"), ({"ray_namespace": 3}, "ray_namespace")])
def test_a_wrong_job_config_is_refused(given, words):
    from zray.job_config import JobConfig

    with pytest.raises((TypeError, ValueError), match=words):
        JobConfig(**given)
    with pytest.raises(TypeError, match="takes a JobConfig"):
        ray.init(job_config=given)


def test_where_modules_of_workers_come_from(alone, no_session, tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "inner.py").write_text("")
    (tmp_path / "outer.py").write_text("")
    source = """
import zray as ray
ray.init()

@ray.remote
def found():
    import importlib.util
    return [name for name in ("inner", "outer") if importlib.util.find_spec(name)]

print(ray.get(found.remote()))
"""
    (tmp_path / "package" / "job.py").write_text(source)
    assert run_script(tmp_path, source, name="package/job.py").stdout == "['inner', 'outer']\n"
    said = subprocess.run([sys.executable, "-m", "package.job"], cwd=tmp_path, env=environment(), text=True,
                          capture_output=True, timeout=60)
    assert said.stdout == "['outer']\n", said.stderr


# ---------------------------------------------------------------- nodes


def test_settings_of_the_first_node_hold_for_all(alone, no_session):
    from zray.node.running import launch

    joined = launch.start_node(address=alone.join_string, num_cpus=1, config={"gossip_s": 0.2})
    try:
        with ray.init(joined.session_dir):
            def settings():
                from zray.handles.connection import connected

                config = connected().config
                return config.inline_bytes_max, config.lineage_bytes_max, config.gossip_s

            assert settings() == ray.get(ray.remote(settings).remote()) == (1000, 0, 0.2)
    finally:
        joined.stop()


def test_a_node_takes_rays_keywords_and_says_which_of_its_processes_live(alone, no_session, tmp_path):
    spill = {"type": "filesystem", "params": {"directory_path": [str(tmp_path / "spill")]}}
    node = alone.add_node(
        num_cpus=1, resources={"new": 1}, memory=np.float64(4.2), object_store_memory=3e7,
        env_vars={"OF_THE_NODE": "yes"}, node_ip_address="10.9.8.7", enable_object_reconstruction=True,
        node_manager_port=0, object_manager_port=0, dashboard_agent_listen_port=0, dashboard_host="0.0.0.0",
        of_another_version=1,
        _system_config={"object_spilling_config": json.dumps(spill)})
    alone.wait_for_nodes()
    assert node.remaining_processes_alive() and node.any_processes_alive() and alone.remaining_processes_alive()
    with ray.init(node.address) as context:
        assert context["node_id"] == node.node_id and context["node_ip_address"] == "10.9.8.7"

        @ray.remote(num_cpus=0, resources={"new": 0.1}, memory=4.9)
        def seen():
            return os.environ["OF_THE_NODE"], ray.get_runtime_context().get_assigned_resources()["memory"]

        assert ray.get(seen.remote()) == ("yes", 4)
        with pytest.raises(ray.exceptions.GetTimeoutError, match="memory"):
            ray.get(seen.options(memory=5.1).remote(), timeout=0.3)
        kept = [ray.put(np.zeros(10_000_000, np.uint8)) for _ in range(5)]
        assert any(files for _, _, files in os.walk(tmp_path / "spill")), "it spills there"
        assert len(kept) == 5
    alone.remove_node(node)
    assert not node.any_processes_alive() and not node.remaining_processes_alive()
    assert not any(files for _, _, files in os.walk(tmp_path / "spill"))
    killed = alone.add_node(num_cpus=1)
    assert killed.remaining_processes_alive()
    alone.remove_node(killed, allow_graceful=False)
    until(lambda: not killed.any_processes_alive(), "its processes end with it")


def test_every_kind_of_accelerator_has_a_key(no_session):
    with ray.init(local_mode=True):
        ids = ray.get_runtime_context().get_accelerator_ids()
    assert ids == dict.fromkeys(("GPU", "TPU", "NPU", "HPU", "neuron_cores", "RBLN", "FURIOSA", "MBLT", "TTNPU"), [])
