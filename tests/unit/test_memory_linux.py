"""How much memory there is and is in use, read from the files of a machine."""

from __future__ import annotations

import os
import subprocess
import sys

from zray.base.memory_linux import memory_bytes
from zray.node.processes.memory import Reading
from zray.node.processes.memory_gauge import MemoryGauge

GIB = 1 << 30
V1 = """4:memory:/a/b
2:cpu,cpuacct:/
0::/
"""


def machine(root, groups, **files):
    """A machine of 16 GiB, 4 of them in use; ``groups`` is /proc/self/cgroup, ``files`` are below /sys/fs/cgroup."""
    write(root / "proc/meminfo", f"MemTotal: {16 << 20} kB\nMemFree: 1 kB\nMemAvailable:   {12 << 20} kB\nHuge: 0\n")
    write(root / "proc/self/cgroup", groups)
    for name, text in files.items():
        write(root / "sys/fs/cgroup" / name, text)
    return str(root)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read(root):
    return nearest(MemoryGauge(list, root=root))


def nearest(gauge):
    return max(gauge.read(), key=lambda reading: reading.share)


def test_without_a_control_group_the_machine_is_the_limit(tmp_path):
    root = machine(tmp_path, "0::/\n")
    assert memory_bytes(root) == 16 * GIB
    assert read(root) == Reading(4 * GIB, 16 * GIB, "memory of the machine")


def test_a_group_of_version_2_limits_and_pages_of_unused_files_count_as_free(tmp_path):
    root = machine(tmp_path, "0::/a\n", **{
        "a/memory.max": f"{2 * GIB}\n", "a/memory.current": f"{int(1.9 * GIB)}\n",
        "a/memory.stat": f"anon 5\ninactive_file {GIB // 2}\nactive_file 7\n"})
    assert memory_bytes(root) == 2 * GIB
    directory = tmp_path / "sys/fs/cgroup/a"
    assert read(root) == Reading(int(1.9 * GIB) - GIB // 2, 2 * GIB, f"limit of the control group {directory}")


def test_a_group_above_that_has_less_left_counts(tmp_path):
    root = machine(tmp_path, "0::/a/b\n", **{
        "a/b/memory.max": "max\n", "a/b/memory.current": "1\n", "a/memory.max": f"{GIB}\n",
        "a/memory.current": f"{GIB}\n", "a/memory.stat": "inactive_file 0\n"})
    assert memory_bytes(root) == GIB and read(root).share == 1.0


def test_a_group_of_version_1_limits_also_where_version_2_is_mounted_beside(tmp_path):
    (tmp_path / "sys/fs/cgroup/unified").mkdir(parents=True)
    root = machine(tmp_path, V1, **{
        "memory/a/b/memory.limit_in_bytes": "9223372036854771712\n", "memory/a/b/memory.usage_in_bytes": "1\n",
        "memory/a/memory.limit_in_bytes": f"{GIB}\n", "memory/a/memory.usage_in_bytes": f"{GIB}\n",
        "memory/a/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 4}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert memory_bytes(root) == GIB
    assert read(root) == Reading(GIB * 3 // 4, GIB, f"limit of the control group {tmp_path}/sys/fs/cgroup/memory/a")


def test_in_a_container_the_path_may_be_the_hosts_and_the_mount_shows_our_group_only(tmp_path):
    root = machine(tmp_path, "0::/../docker/123\n", **{
        "memory.max": f"{GIB}\n", "memory.current": f"{GIB // 4}\n"})
    assert memory_bytes(root) == GIB and read(root).limit == GIB * 16, "a quarter of each is in use; the first counts"
    assert max(1, read(root).share) == 1


def test_a_limit_of_the_workers_of_a_node_counts_what_only_they_hold(tmp_path):
    root = machine(tmp_path, "0::/\n")
    page = os.sysconf("SC_PAGE_SIZE")
    for pid, resident in ((7, 1000), (8, 2000)):
        write(tmp_path / f"proc/{pid}/statm", f"9999 {resident} 100 1 0 1 0\n")
    files = MemoryGauge(lambda: [7, 8, 9], 3000 * page, root)
    assert files.held(7) == 900 * page and files.held(9) == 0
    assert nearest(files) == Reading(2800 * page, 3000 * page, "memory_limit_bytes of the workers of this node")


def test_children_of_a_worker_count_and_pages_that_they_share_count_once(tmp_path):
    root = machine(tmp_path, "0::/\n")
    children = {(7, 7): "8 ", (7, 71): "9 10 ", (8, 8): "", (9, 9): "11", (11, 11): ""}  # 10 has ended meanwhile
    for (pid, thread), found in children.items():
        write(tmp_path / f"proc/{pid}/task/{thread}/children", found)
        text = f"0-1 ---p 0 00:00 0 [rollup]\nPss_Anon: {pid} kB\nPss_File: 9 kB\n"
        write(tmp_path / f"proc/{pid}/smaps_rollup", text)
    assert MemoryGauge(list, 0, root).held(7) == (7 + 8 + 9 + 11) * 1024


def test_a_real_child_counts():
    files = MemoryGauge(list)
    program = "import sys; held = bytearray(64 << 20); print(flush=True); sys.stdin.read()"
    alone = files.held(os.getpid())
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.read(1)
        assert files.held(os.getpid()) > alone // 2 + (64 << 20)
        child.stdin.close()


def test_this_machine_reads():
    files = MemoryGauge(list)
    assert all(0 < reading.used < reading.limit for reading in files.read())
    assert min(reading.limit for reading in files.read()) <= memory_bytes() * 2**20
    assert files.held(os.getpid()) > 1 << 20
