"""A session that has ended, or whose node was killed, still answers: from what it has kept in its folder."""

from __future__ import annotations

import json
import os
import zlib

import pytest

from tests.e2e.scripts import run_script
from tests.e2e.target import ray, until
from zray.store.node import reaper

pytest.importorskip("click")
pytestmark = pytest.mark.zray_only





def zray(*arguments: str, code: int = 0) -> str:
    from click.testing import CliRunner

    from zray.cli import main

    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result.stdout


def rows(*arguments: str):
    return json.loads(zray(*arguments, "--format", "json"))


def test_the_rows_of_an_ended_session_are_listed_by_its_name(fresh, tmp_path):
    import numpy as np

    ray.init(num_cpus=2, runtime_env={"env_vars": {"SECRET_TOKEN": "hush-hush"}})

    @ray.remote
    def works():
        return 1

    @ray.remote(max_retries=0)
    def fails():
        raise ValueError("on purpose")

    @ray.remote(num_cpus=0)
    class Keeps:
        def get(self):
            return 1

    actor = Keeps.options(name="keeps").remote()
    stored = ray.put(np.ones(100_000))
    assert ray.get([*(works.remote() for _ in range(5)), actor.get.remote()]) == [1] * 6
    with pytest.raises(ValueError):
        ray.get(fails.remote())
    folder = ray.get_runtime_context().get_temp_dir()
    oid = stored.hex()
    ray.shutdown()

    name = os.path.basename(folder)
    assert name in zray("sessions")
    (failed,) = rows("list", "tasks", "--session", name, "--filter", "state=FAILED", "--detail")
    assert "on purpose" in failed["error_message"] and failed["func_or_class_name"].endswith("fails")
    assert len(rows("list", "tasks", "--session", name[:-2], "--filter", "state=FINISHED")) >= 6
    assert {row["class_name"] for row in rows("list", "actors", "--session", "last")} == {"Keeps"}
    held = rows("get", "objects", oid, "--session", name)
    assert held["object_size"] > 800_000 and held["type"] == "DRIVER" and held["pid"] == os.getpid()
    assert any(row["func_or_class_name"].endswith("works") and row["count"] == 5
               for row in rows("summary", "tasks", "--session", name))
    trace = tmp_path / "trace.json"
    zray("timeline", "--session", name, "--output", str(trace))
    assert "works" in trace.read_text()
    for kind in ("nodes", "workers", "jobs", "cluster-events", "runtime-envs"):
        assert rows("list", kind, "--session", name), kind
    with open(os.path.join(folder, "state"), "rb") as file:
        assert b"hush-hush" not in zlib.decompress(file.read().split(b"\n", 1)[1])
    zray("list", "tasks", "--session", "no-such", code=1)


def test_a_run_that_hangs_and_is_ended_says_what_it_waited_for(fresh, tmp_path):
    ray.init(num_cpus=2)

    @ray.remote(resources={"nothing has this": 1})
    def nowhere():
        return 1

    ref = nowhere.remote()
    until(lambda: rows("list", "tasks", "--detail", "--address", ray.get_runtime_context().get_temp_dir()
                       )[0]["pending_reason"], "the node says why it waits")
    task = ref.task_id().hex()
    folder = ray.get_runtime_context().get_temp_dir()
    ray.shutdown()
    row = rows("get", "tasks", task, "--session", folder)
    assert row["state"] == "PENDING_NODE_ASSIGNMENT" and "nothing has this" in row["pending_reason"]
    zray("report", str(tmp_path / "page.html"), "--session", folder)
    assert "nothing has this" in (tmp_path / "page.html").read_text()


KILLED = """
import json, os, signal, time
import zray as ray
from zray.state.kept import KeptNode, NothingKept

ray.init(num_cpus=2, _system_config={"session_state_s": 0.05})

@ray.remote
def works():
    return 1

assert ray.get(works.remote()) == 1
folder = ray.get_runtime_context().get_temp_dir()

def kept():
    try:
        return len(KeptNode(folder).events.ended)
    except NothingKept:
        return 0

while not kept():
    time.sleep(0.02)
with open(os.path.join(folder, "node.json")) as file:
    daemon = json.load(file)["pid"]
os.kill(daemon, signal.SIGKILL)
os.waitpid(daemon, 0)
print(folder, flush=True)
os._exit(0)
"""


def test_a_session_whose_node_was_killed_has_the_rows_of_its_last_refresh(fresh, tmp_path):
    folder = run_script(tmp_path, KILLED).stdout.strip()
    for _ in range(2):  # before and after its remains are removed
        (row,) = rows("list", "tasks", "--session", os.path.basename(folder))
        assert row["state"] == "FINISHED" and "was killed" in zray("sessions")
        reaper.sweep(os.path.dirname(folder))
    assert sorted(os.listdir(folder)) == ["logs", "state"]


def test_nodes_of_one_cluster_are_read_together(grow):
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1, "resources": {"far": 1}})

    @ray.remote
    def where():
        return ray.get_runtime_context().get_node_id()

    ran_on = set(ray.get([where.remote(), where.options(resources={"far": 1}).remote()]))
    folder = ray.get_runtime_context().get_temp_dir()
    ray.shutdown()
    cluster.shutdown()
    found = rows("list", "tasks", "--session", os.path.basename(folder))
    assert {row["node_id"] for row in found} == ran_on and len(found) == 2


def test_a_report_is_about_the_run_that_goes_on_and_about_the_one_that_ended(fresh, tmp_path):
    ray.init(num_cpus=2, runtime_env={"env_vars": {"SECRET_TOKEN": "hush-hush"}})

    @ray.remote(max_retries=0)
    def fails():
        raise ValueError("on <purpose>")

    with pytest.raises(ValueError):
        ray.get(fails.remote())
    folder = ray.get_runtime_context().get_temp_dir()
    page = tmp_path / "page.html"
    until(lambda: zray("report", str(page), "--address", folder) and "on &lt;purpose&gt;" in page.read_text(),
          "the failure is in the page")
    assert "runs, at" in page.read_text() and "hush-hush" not in page.read_text()
    ray.shutdown()
    assert os.path.basename(folder) in zray("report", str(page), "--session", "last")
    text = page.read_text()
    assert "ended at" in text and "on &lt;purpose&gt;" in text and "<svg" in text and "hush-hush" not in text
    zray("report", str(tmp_path / "none" / "page.html"), "--session", "last", code=1)
    assert os.listdir(tmp_path) == ["page.html"]
