"""Names of Ray's core that programs import do what they say: logs, keys and values, this worker, tables, bars."""

from __future__ import annotations

import json
import logging
import warnings

import pytest

from tests.e2e.scripts import run_script
from tests.e2e.target import IS_ZRAY, ray, until

pytestmark = pytest.mark.zray_only
if IS_ZRAY:
    from zray._private import services, state, worker as ray_worker
    from zray.api import driver_log
    from zray.core.logging_config import LoggingConfig
    from zray.experimental import internal_kv, tqdm_ray
    from zray.util import accelerators, annotations, debug


def test_a_logging_config_holds_in_the_driver_and_in_every_worker(fresh, tmp_path):
    done = run_script(tmp_path, """
import logging
import zray as ray
ray.init(num_cpus=1, logging_config=ray.LoggingConfig(encoding="JSON", log_level="DEBUG",
                                                      additional_log_standard_attrs=["name"]))
@ray.remote
class Actor:
    def f(self):
        logging.getLogger("mine").debug("in the actor", extra={"step": 3})
logging.getLogger("mine").info("in the driver")
ray.get(Actor.remote().f.remote())
""")
    found = {}
    for line in done.stderr.splitlines():
        _, brace, rest = line.partition("{")
        if brace:
            record = json.loads(brace + rest)
            found[record["message"]] = record
    driver, actor = found["in the driver"], found["in the actor"]
    assert driver["levelname"] == "INFO" and driver["filename"] == "train.py" and driver["name"] == "mine"
    assert actor["levelname"] == "DEBUG" and actor["step"] == 3 and actor["task_name"] == "Actor.f"
    assert actor["job_id"] == driver["job_id"] and actor["worker_id"] != driver["worker_id"] and actor["actor_id"]


def test_text_logs_say_where_they_were_made_and_wrong_configs_are_refused(capsys):
    root = logging.getLogger()
    before, level, own = root.handlers[:], root.level, logging.getLogger("zray").level
    try:
        LoggingConfig(log_level="WARNING").apply()
        logging.getLogger("mine").info("too low")
        try:
            raise KeyError("lost")
        except KeyError:
            logging.getLogger("mine").exception("failed", extra={"step": 1})
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.getLogger("zray").setLevel(own)
    said = capsys.readouterr().err
    assert "ERROR test_ray_names.py" in said and "-- failed" in said and "step=1" in said and "KeyError: 'lost'" in said
    assert "too low" not in said
    for wrong, words in (({"encoding": "XML"}, "Invalid encoding type: XML"), ({"log_level": "LOUD"}, "log level"),
                         ({"additional_log_standard_attrs": ["nose"]}, "nose")):
        with pytest.raises(ValueError, match=words):
            LoggingConfig(**wrong)


def keys_work():
    put, get = internal_kv._internal_kv_put, internal_kv._internal_kv_get
    assert internal_kv._internal_kv_initialized()
    assert put(b"k/a", b"1") is False and put("k/a", "2", overwrite=False) is True and get(b"k/a") == b"1"
    assert put(b"k/a", b"3") is True and get("k/a") == b"3"
    put(b"k/b", b"", namespace="other")
    put(b"k/b", b"4")
    assert internal_kv._internal_kv_list(b"k/") == [b"k/a", b"k/b"]
    assert internal_kv._internal_kv_exists(b"k/b") and not internal_kv._internal_kv_exists(b"k/")
    assert get(b"none") is None and get(b"k/b", namespace=b"other") == b""
    assert internal_kv._internal_kv_del(b"none") == 0
    assert internal_kv._internal_kv_del(b"k/", del_by_prefix=True) == 2
    assert internal_kv._internal_kv_list(b"") == [] and internal_kv._internal_kv_del(b"k/b", namespace="other") == 1
    with pytest.raises(TypeError, match="bytes or str"):
        put(b"k", 3)


def test_keys_and_values_are_shared_by_all_processes(cluster):
    keys_work()

    @ray.remote
    def other():
        internal_kv._internal_kv_put(b"from a worker", b"w")
        return internal_kv._internal_kv_get(b"from the driver")

    internal_kv._internal_kv_put(b"from the driver", b"d")
    assert ray.get(other.remote()) == b"d" and internal_kv._internal_kv_get(b"from a worker") == b"w"


def test_keys_and_values_in_local_mode():
    ray.shutdown()
    ray.init(local_mode=True)
    try:
        keys_work()
        assert ray_worker.global_worker.mode == ray_worker.LOCAL_MODE
    finally:
        ray.shutdown()
    assert not internal_kv._internal_kv_initialized()


def test_the_global_worker_says_where_it_is(cluster):
    def seen():
        here = ray_worker.global_worker
        return (here.mode, here.worker_id.hex(), here.current_node_id.hex(), here.current_job_id.hex(),
                here.node.address_info["session_dir"], here.actor_id.is_nil(), here.current_task_id.is_nil())

    driver, task = seen(), ray.get(ray.remote(seen).remote())
    context = ray.get_runtime_context()
    assert driver == (ray_worker.SCRIPT_MODE, context.get_worker_id(), context.get_node_id(), context.get_job_id(),
                      context.get_temp_dir(), True, True)
    assert task[0] == ray_worker.WORKER_MODE and task[1] != driver[1] and task[2:5] == driver[2:5]
    assert task[5] and not task[6]
    assert services.get_node_ip_address() == ray.util.get_node_ip_address()
    ray_worker.global_worker.check_connected()


def test_without_a_session_the_global_worker_is_nobody(fresh):
    here = ray_worker.global_worker
    assert not here.connected and here.mode is None and here.node is None and here.current_job_id.is_nil()
    with pytest.raises(RuntimeError, match="has not been started"):
        here.check_connected()


def test_resources_of_each_node(grow):
    grow({"num_cpus": 1}, {"num_cpus": 2, "resources": {"disk": 1}})

    @ray.remote(num_cpus=0, resources={"disk": 1})
    class Takes:
        def node(self):
            return ray.get_runtime_context().get_node_id()

    actor = Takes.remote()
    there, here = ray.get(actor.node.remote()), ray.get_runtime_context().get_node_id()
    total = state.total_resources_per_node()
    assert set(total) == {here, there} and total[there]["disk"] == 1 and total[here]["CPU"] == 1
    until(lambda: "disk" not in state.available_resources_per_node()[there], "what is in use is not free")
    assert state.available_resources_per_node()[there]["CPU"] == 2
    assert {row["NodeID"] for row in state.state.node_table()} == set(total)
    (row,) = state.actors().values()
    assert row["class_name"].endswith("Takes") and state.state.actor_table(row["actor_id"]) == row
    assert len(state.jobs()) >= 1


def test_bars_of_workers_move_in_the_driver_while_they_work(cluster, gate, capfd):
    @ray.remote
    def work(gate):
        with tqdm_ray.tqdm(desc="loading", total=3, flush_interval_s=0) as bar:
            bar.update(2)
            gate.wait()
            bar.update()

    ref = work.remote(gate)
    seen: list[str] = []

    def shown() -> str:
        seen.append("".join(capfd.readouterr()))
        return "".join(seen)

    gate.wait_arrived(1)
    until(lambda: "2/3" in shown(), "the bar moves while the task runs")
    assert "loading" in shown() and "3/3" not in shown()
    gate.open()
    ray.get(ref)
    until(lambda: "3/3" in shown(), "the bar is full at the end")
    assert driver_log.BAR_MARK not in shown()


def test_once_is_once(monkeypatch):
    monkeypatch.setattr(debug, "_seen", set())
    monkeypatch.setattr(debug, "_state", dict(debug._state))
    assert ray.util.log_once("x") and not debug.log_once("x") and debug.log_once("y")
    debug.enable_periodic_logging()
    debug._state["since"] -= debug.PERIOD_S + 1
    assert debug.log_once("x") and not debug.log_once("x")
    debug.disable_log_once_globally()
    assert not debug.log_once("z")


def test_annotations_mark_and_do_not_change_what_they_decorate():
    @annotations.PublicAPI(stability="alpha")
    class A:
        """Words."""

        def f(self):
            return 1

    @annotations.DeveloperAPI
    def g():
        return 2

    @annotations.Deprecated(message="Use g.", warning=True)
    def h(x):
        return x

    assert A().f() == 1 and g() == 2 and A.__doc__.startswith("Words.") and "alpha" in A.__doc__
    assert A._annotated_type is annotations.AnnotationType.PUBLIC_API and g._annotated == "g"
    with pytest.warns(annotations.RayDeprecationWarning, match="h is deprecated. Use g."):
        assert h(3) == 3
    with warnings.catch_warnings(), pytest.raises(ValueError):
        annotations.PublicAPI(stability="odd")
    assert accelerators.NVIDIA_TESLA_V100 == "V100"
    assert isinstance(ray.logger, logging.Logger) and ray.UniqueID.from_random().hex() and ray.types.ObjectRef
