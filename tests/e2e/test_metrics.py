"""Metrics of user code, from real processes to Prometheus' text."""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request

import pytest

from tests.e2e.target import ray, until
from tests.unit.test_metrics import samples
from zray.metrics.exposition import merged, text_of

pytestmark = pytest.mark.zray_only


WHERE = ("NodeId", "NodeAddress", "SessionName", "WorkerId", "ip")


def scraped() -> dict[tuple[str, frozenset], float]:
    """The metrics of all nodes, without the labels that name a node or a process."""
    from zray.handles.connection import connected

    found: dict[tuple[str, frozenset], float] = {}
    for (name, labels), value in samples(text_of(merged(connected().query("metrics")["metrics"]))).items():
        own = frozenset(label for label in labels if label[0] not in WHERE)
        found[name, own] = found.get((name, own), 0) + value
    return found


def test_tasks_actors_and_the_driver_record_and_the_node_adds_up(cluster):
    from zray.util.metrics import Counter, Gauge, Histogram

    counter = Counter("e2e_requests", "Requests", tag_keys=("route",)).set_default_tags({"route": "/"})
    histogram = Histogram("e2e_seconds", boundaries=[0.1, 1.0])
    gauge = Gauge("e2e_depth", tag_keys=("where",))

    @ray.remote(num_cpus=0)
    def serve(n):
        counter.inc(n)
        histogram.observe(0.5)

    @ray.remote(num_cpus=0)
    class Queue:
        def push(self, depth):
            gauge.set(depth, {"where": "actor"})
            return os.getpid()

    ray.get([serve.remote(n) for n in (1, 2, 3)])
    counter.inc(tags={"route": "/driver"})
    actor = Queue.remote()
    ray.get(actor.push.remote(7))

    def seen():
        found = scraped()
        return (found.get(("ray_e2e_requests_total", frozenset([("route", "/")]))),
                found.get(("ray_e2e_requests_total", frozenset([("route", "/driver")]))),
                found.get(("ray_e2e_seconds_count", frozenset())),
                found.get(("ray_e2e_depth", frozenset([("where", "actor")]))))

    until(lambda: seen() == (6, 1, 3, 7), lambda: str(seen()))
    ray.kill(actor)
    until(lambda: seen() == (6, 1, 3, None), lambda: str(seen()))


def test_a_node_measures_itself(cluster):
    found = scraped()
    states = (found["ray_resources", frozenset([("Name", "CPU"), ("State", state)])] for state in ("USED", "AVAILABLE"))
    assert sum(states) == 4
    assert found["zray_object_store_capacity", frozenset()] > 0
    assert any(name == "zray_workers" for name, _ in found)
    for name in ("ray_node_mem_used", "ray_node_disk_free", "ray_node_cpu_count"):
        assert next(value for (each, _), value in found.items() if each == name) > 0


def test_tasks_and_actors_are_counted_under_rays_names(cluster, gate):
    @ray.remote(num_cpus=0)
    def counted(fails):
        if fails:
            raise ValueError("on purpose")

    @ray.remote(num_cpus=0)
    def held(gate):
        gate.wait()

    @ray.remote(num_cpus=0)
    class Lives:
        def f(self):
            pass

    ray.get([counted.remote(False) for _ in range(3)])
    with pytest.raises(ValueError):
        ray.get(counted.remote(True))
    actor = Lives.remote()
    ray.get(actor.f.remote())
    running = held.remote(gate)
    gate.wait_arrived(1)

    def values():
        rows = {(name, *(dict(labels).get(label, "") for label in ("Name", "State"))): value
                for (name, labels), value in scraped().items()}
        wanted = [("ray_tasks", counted, "FINISHED"), ("ray_tasks", counted, "FAILED"), ("ray_tasks", held, "RUNNING"),
                  ("ray_actors", Lives, "ALIVE")]
        return [rows.get((name, {counted: "counted", held: "held", Lives: "Lives"}[what], state))
                for name, what, state in wanted]

    until(lambda: values() == [3, 1, 1, 1], lambda: str(values()))
    gate.open()
    ray.get(running)


def test_the_text_is_what_the_parser_of_prometheus_reads(cluster):
    parser = pytest.importorskip("prometheus_client.parser", reason="the extra 'test' is not installed")
    from zray.handles.connection import connected

    text = text_of(merged(connected().query("metrics")["metrics"]))
    found = {sample.name: sample for family in parser.text_string_to_metric_families(text) for sample in family.samples}
    assert {name for name, _ in samples(text)} == set(found)
    assert found["ray_node_mem_total"].labels["SessionName"] and found["ray_node_mem_total"].labels["NodeAddress"]


def test_the_command_prints_what_prometheus_reads(cluster):
    from click.testing import CliRunner

    from zray.cli import main

    result = CliRunner().invoke(main, ["metrics", "--address", ray.get_runtime_context().get_temp_dir()])
    assert result.exit_code == 0 and "# TYPE zray_workers gauge" in result.output and samples(result.output)


def test_the_command_prints_a_board_and_says_when_nothing_is_served(cluster):
    from click.testing import CliRunner

    from zray.cli import main

    result = CliRunner().invoke(main, ["metrics", "--grafana-board"])
    assert json.loads(result.output)["panels"] and result.exit_code == 0
    address = ray.get_runtime_context().get_temp_dir()
    refused = CliRunner().invoke(main, ["metrics", "--scrape-targets", "--address", address])
    assert refused.exit_code == 1 and "ZRAY_METRICS_ADDRESS" in refused.output
    assert CliRunner().invoke(main, ["metrics", "--scrape-targets", "--grafana-board"]).exit_code == 2


def test_prometheus_scrapes_a_node_where_the_setting_says(fresh):
    ray.init(num_cpus=1, _system_config={"metrics_address": ":0"})
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert any(name == "ray_resources" for name, _ in samples(answer.read().decode()))
    from click.testing import CliRunner

    from zray.cli import main

    result = CliRunner().invoke(main, ["metrics", "--scrape-targets", "--address",
                                       ray.get_runtime_context().get_temp_dir()])
    [group] = json.loads(result.output)
    assert [target.rpartition(":")[2] for target in group["targets"]] == [str(port)]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/else", timeout=30)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\n\r\n")
        assert b"405" in sock.recv(1000)
    idle = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(40)]  # they say nothing
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        assert answer.status == 200
    for sock in idle:
        sock.close()
    assert ray.get(ray.remote(lambda: 1).remote()) == 1


def test_no_port_is_open_unless_the_setting_asks_for_one(cluster):
    assert ray.nodes()[0]["MetricsExportPort"] == 0
