"""How the dashboard of a session starts and ends, and that nobody depends on it."""

from __future__ import annotations

import os
import re
import signal
import socket

import pytest

from tests.e2e.dashboards import page_of, served
from tests.e2e.nodes import ended
from tests.e2e.scripts import run_script, zray
from tests.e2e.target import ray, until

pytestmark = pytest.mark.zray_only
pytest.importorskip("uvicorn", reason="the extra zray[dashboard] is not installed")
pytest.importorskip("starlette", reason="the extra zray[dashboard] is not installed")


def test_none_starts_unless_it_is_asked_for(fresh):
    context = ray.init(num_cpus=1)
    assert context.dashboard_url == "" == context["webui_url"]
    assert not os.path.exists(os.path.join(context["session_dir"], "dashboard.json"))


def test_it_starts_with_the_node_and_ends_with_it(fresh):
    from zray._private.worker import get_dashboard_url

    context = ray.init(num_cpus=1, include_dashboard=True)
    assert re.fullmatch(r"127\.0\.0\.1:\d+", context.dashboard_url) and context["webui_url"] == context.dashboard_url
    page = page_of(context["session_dir"])
    assert page.address == context.dashboard_url == get_dashboard_url()
    assert ray.init(ignore_reinit_error=True).dashboard_url == page.address
    fresh.watch()
    with page.stream("overview") as events:
        assert next(events)[1]["phases"] == {}
        ray.shutdown()
        assert [name for name, _ in events][-1] == "ended"
    with pytest.raises(OSError):
        page.request("GET", "/api/session")


def test_a_port_that_is_taken_is_an_error_only_where_the_dashboard_must_be(fresh):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match=f"cannot listen at 127.0.0.1:{port}: Address already in use"):
            ray.init(num_cpus=1, include_dashboard=True, dashboard_port=port)
        assert ray.init(num_cpus=1, dashboard_port=port).dashboard_url == ""


def test_nobody_depends_on_it(fresh):
    context = ray.init(num_cpus=1, include_dashboard=True)
    page = page_of(context["session_dir"])
    from zray.node.running.dashboard import of_session

    pid = of_session(context["session_dir"]).pid
    fresh.watch()
    os.kill(pid, signal.SIGKILL)
    until(lambda: ended(pid))
    assert ray.get(ray.remote(lambda: 1).remote()) == 1
    assert of_session(context["session_dir"]) is None, "a file without its process counts for nothing"
    with served(context["session_dir"]) as (second, _):
        assert second.token != page.token
        assert second.request("GET", "/api/session", Authorization=f"Bearer {page.token}")[0] == 401


@pytest.mark.slow
def test_a_stopped_dashboard_does_not_hold_up_the_end_of_a_program(fresh):
    context = ray.init(num_cpus=1, include_dashboard=True)
    page_of(context["session_dir"])
    from zray.node.running.dashboard import of_session

    fresh.watch()
    os.kill(of_session(context["session_dir"]).pid, signal.SIGSTOP)


def test_it_ends_with_a_driver_that_is_killed(tmp_path, session_root):
    source = """
        import os, signal
        import zray as ray
        context = ray.init(num_cpus=1, include_dashboard=True)
        print(context["session_dir"], context.dashboard_url, flush=True)
        while not os.path.exists(os.path.join(context["session_dir"], "dashboard.json")):
            pass
        from zray.node.running.dashboard import of_session
        print(of_session(context["session_dir"]).pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_script(tmp_path, source, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout.split()[2])
    until(lambda: ended(pid), "the dashboard ends")


def test_after_the_end_of_the_session_the_command_says_so_and_goes_on(fresh):
    context = ray.init(num_cpus=1)
    with served(context["session_dir"]) as (page, process):
        fresh.watch()
        with page.stream("overview") as events:
            next(events)
            ray.shutdown()
            assert list(events)[-1] == ("ended", {"why": "The session has ended."})
        assert process.poll() is None
        assert page.request("GET", "/api/session")[1]["live"] is False
        status, found = page.request("GET", "/api/read?view=overview")
        assert status == 409 and found["error"]
        assert page.act("kill", "00" * 16)[0] == 409


def test_without_a_session_the_command_says_what_to_do(session_root, fresh):
    assert "Could not find any running zray instance" in zray("dashboard", code=1)
    assert "is neither" in zray("dashboard", "--address", "/nothing", code=1)


@pytest.mark.slow
def test_zray_start_includes_it(session_root, tmp_path):
    said = zray("start", "--head", "--num-cpus", "1", "--include-dashboard", "true", "--dashboard-port", "0")
    try:
        session_dir = re.search(r"runs in (\S+) ", said).group(1)
        page = page_of(session_dir)
        assert f"The dashboard is at http://{page.address};" in said and page.token not in said
        assert page.read("nodes")["nodes"][0]["state"] == "ALIVE"
    finally:
        zray("stop")
    until(lambda: not os.path.exists(os.path.join(session_dir, "dashboard.json")))


@pytest.mark.slow
def test_a_node_of_a_cluster_can_be_drained(grow, session_root):
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1})
    nodes = cluster.list_all_nodes()
    with served(nodes[0].session_dir) as (page, _):
        until(lambda: len(page.read("nodes")["nodes"]) == 2)
        assert page.act("drain", nodes[1].node_id)[0] == 200
        until(lambda: {row["node_id"]: row["state"] for row in page.read("nodes")["nodes"]} == {
            nodes[0].node_id: "ALIVE", nodes[1].node_id: "DEAD"})
