"""Segments, slots and the reaper: nothing is left behind, nothing that lives is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from zray.base.ends import Ends
from zray.store import segment
from zray.store.node import reaper
from zray.store.node.service import StoreService, choose_capacity
from zray.store.segment import PAGE_BYTES, ControlSegment, Segment, control_name, process_identity


@pytest.fixture
def name():
    name = f"zray-test-{os.getpid()}-segment-control"
    yield name
    segment.remove(f"/dev/shm/{name}")


def test_a_segment_is_private_and_unknown_to_the_resource_tracker(name):
    made = Segment(name, create=True, size=1 << 20)
    assert os.stat(f"/dev/shm/{name}").st_mode & 0o777 == 0o600
    code = f"from zray.store.segment import Segment; s = Segment({name!r}); s.buf[0] = 7"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=30)
    assert os.path.exists(f"/dev/shm/{name}"), "the exit of a process that attached deleted the segment"
    assert made.buf[0] == 7
    made.close()
    made.unlink()
    made.unlink()


def test_closing_a_segment_leaves_live_views_valid(name):
    made = Segment(name, create=True, size=1 << 20)
    view = made.buf[:4]
    view[:] = b"view"
    made.close()
    assert bytes(view) == b"view"
    view.release()


def test_attaching_to_what_is_not_there_creates_nothing(name):
    with pytest.raises(FileNotFoundError):
        Segment(name)
    assert not os.path.exists(f"/dev/shm/{name}")


def test_slots_do_not_overlap_and_void_slots_pin_nothing(name):
    control = ControlSegment.create(name, 3)
    slots = [control.slot(index) for index in range(3)]
    for index, slot in enumerate(slots):
        slot.open(bytes([index + 1] * 8), os.getpid(), index)
        slot.marks[0] = index
        slot.pins[0] = 64 * index | 1
        slot.words[4] = 1
    assert [slot.pinned() for slot in slots] == [[1], [65], [129]]
    slots[1].void()
    assert [slot.pinned() for slot in slots] == [[1], [], [129]]
    with pytest.raises(IndexError):
        control.slot(3)
    for slot in slots:
        slot.release()
    control.close()


def _dead_identity():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    child.communicate(b"\n", timeout=30)
    return identity


def _fake_session(shm, session, identity):
    page = (segment._MAGIC + json.dumps(identity).encode()).ljust(PAGE_BYTES, b"\0")
    (shm / control_name(session)).write_bytes(page)
    (shm / segment.arena_name(session)).write_bytes(b"")


def test_the_reaper_removes_the_dead_and_leaves_the_living(tmp_path):
    shm, base = tmp_path / "shm", tmp_path / "base"
    shm.mkdir()
    base.mkdir()
    alive, dead = process_identity(os.getpid()), _dead_identity()
    cases = {"alive": alive, "dead": dead, "rebooted": {**alive, "boot": "another"},
             "elsewhere": {**dead, "namespace": 1}, "reused-pid": {**alive, "start": 1}}
    for session, identity in cases.items():
        _fake_session(shm, session, identity)
        (base / session).mkdir()
        (base / session / reaper.OWNER_FILE).write_text(json.dumps(identity))
    (shm / "zray-new-control").write_bytes(b"")
    (shm / "somebody-elses").write_bytes(b"")
    (base / "unnamed").mkdir()
    reaper.sweep(str(base), str(shm))
    assert {path.name for path in base.iterdir()} == {"alive", "elsewhere", "unnamed"}
    assert {path.name for path in shm.iterdir()} == {
        "zray-alive-arena", "zray-alive-control", "zray-elsewhere-arena", "zray-elsewhere-control",
        "zray-new-control", "somebody-elses"}


def test_a_service_killed_by_kill_9_is_swept(tmp_path):
    session = f"test-{os.getpid()}-killed"
    code = (
        "import sys\nfrom zray.base.ends import Ends\nfrom zray.store.node.service import StoreService\n"
        f"StoreService.create({str(tmp_path / 'base' / session)!r}, {session!r}, 2 << 20, print, print, ends=Ends())\n"
        "print('up', flush=True)\nsys.stdin.read()\n")
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"up\n"
    reaper.sweep(str(tmp_path / "base"))
    assert os.path.exists(f"/dev/shm/{control_name(session)}"), "a live session was swept"
    child.kill()
    child.communicate(timeout=30)
    reaper.sweep(str(tmp_path / "base"))
    assert not [name for name in os.listdir("/dev/shm") if session in name]
    assert not os.listdir(tmp_path / "base")


def test_capacity_follows_dev_shm_and_says_so_when_that_is_too_small(monkeypatch):
    monkeypatch.setattr("zray.base.os_linux.shm_free_bytes", lambda: 8 << 20)
    assert 6 << 20 < choose_capacity(0) <= 8 << 20
    assert choose_capacity(4 << 20) == 4 << 20
    monkeypatch.setattr("zray.base.os_linux.shm_free_bytes", lambda: 500_000)
    with pytest.raises(RuntimeError, match="/dev/shm has 500,000 bytes free"):
        choose_capacity(0)


def test_a_session_name_in_use_is_refused_and_its_segments_survive(tmp_path):
    session = f"test-{os.getpid()}-twice"
    first = StoreService.create(str(tmp_path), session, 2 << 20, lambda *a: None, lambda fn: None, ends=Ends())
    with pytest.raises(RuntimeError, match="cannot make shared memory"):
        StoreService.create(str(tmp_path), session, 2 << 20, lambda *a: None, lambda fn: None, ends=Ends())
    assert os.path.exists(f"/dev/shm/{control_name(session)}")
    first.close()
    assert not [name for name in os.listdir("/dev/shm") if session in name]
