"""Measures of a machine, from files that look like those of /proc."""

from __future__ import annotations

import os

import pytest

from zray.node.running import host_metrics
from zray.node.running.host_metrics import HostMetrics

TICK = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def host(tmp_path, monkeypatch):
    """``host(busy, idle, received, ticks)`` writes the files and reads; the clock goes on by 2 s each time."""
    proc = tmp_path / "proc"
    (proc / "net").mkdir(parents=True)
    for pid in (7, os.getpid()):
        (proc / str(pid)).mkdir()
    now = [100.0]
    monkeypatch.setattr(host_metrics.time, "monotonic", lambda: now[0])
    metrics = HostMetrics(str(tmp_path), str(tmp_path))

    def read(busy, idle, received, ticks):
        now[0] += 2.0
        (proc / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 0\n")
        (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\n")
        (proc / "net" / "dev").write_text(
            "head\nhead\n  lo: 999 0 0 0 0 0 0 0 999 0\n"
            f"eth0: {received} 0 0 0 0 0 0 0 {2 * received} 0\neth1:{received} 0 0 0 0 0 0 0 0 0\n")
        for pid in (7, os.getpid()):
            fields = ["S", *["0"] * 10, str(ticks), "0", *["0"] * 6, "0", "0", "50", "0"]
            (proc / str(pid) / "stat").write_text(f"{pid} (a name) b) {' '.join(fields)}")
        found = metrics.read([(7, "ray::f"), (8, "ray::gone")])
        return {(name, labels.get("Component", "")): value for name, _, series in found for labels, value in series}

    return read


def test_rates_are_means_since_the_last_question(host):
    host(100, 900, 1000, 10)
    found = host(150, 950, 3000, 10 + TICK)
    assert found["ray_node_cpu_utilization", ""] == 50
    assert found["ray_node_network_received", ""] == 6000 and found["ray_node_network_receive_speed", ""] == 2000
    assert found["ray_component_cpu_percentage", "ray::f"] == found["ray_component_cpu_percentage", "raylet"] == 50
    assert found["ray_component_rss_mb", "ray::f"] == 50 * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_amounts_are_those_of_the_files_and_an_ended_process_is_left_out(host):
    found = host(100, 900, 1000, 10)
    assert found["ray_node_mem_used", ""] == 600 * 1024 and found["ray_node_mem_total", ""] == 1000 * 1024
    assert found["ray_node_disk_free", ""] > 0 and ("ray_component_rss_mb", "ray::gone") not in found
    assert found["ray_node_cpu_utilization", ""] == 10  # since the machine started


def test_a_clock_that_stands_and_counters_that_fall_do_no_harm(host):
    host(100, 900, 1000, 10)
    found = host(50, 900, 10, 5)
    assert found["ray_node_network_receive_speed", ""] == 0 and found["ray_component_cpu_percentage", "ray::f"] == 0
    assert found["ray_node_cpu_utilization", ""] == 0
