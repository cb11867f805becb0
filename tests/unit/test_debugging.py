"""Records of tasks that wait for a debugger, the messages of terminals, and what pdb shows of a stack."""

from __future__ import annotations

import os
import socket
import stat
import sys
import threading

import pytest

from zray.base.os_linux import process_start
from zray.debugging import places
from zray.debugging.debugger import Debugger
from zray.debugging.places import Stop
from zray.debugging.terminal import CannotAttach, connect
from zray.debugging.waiting import Desk, TimeLimit
from zray.debugging.wire import DebugLine, Disconnected, peer_of


def stop_of(name: str = "f", **fields: object) -> Stop:
    pid = os.getpid()
    return Stop(places.new_id("/nowhere"), places.BREAKPOINT, name, pid=pid, start=process_start(pid), **fields)


def desk_of(directory, stop: Stop, announced=lambda stop: None) -> Desk:
    return Desk(str(directory), stop, announced, lambda stop, whether: None)


def test_records_are_private_and_those_of_ended_processes_are_removed(tmp_path):
    directory = str(tmp_path)
    assert places.stops(directory) == []
    lives, ended = stop_of(since_s=2.0), stop_of(since_s=1.0)
    ended.start += 1  # the number was used again
    other = stop_of(since_s=3.0, worker="aa")
    for stop in (lives, ended, other):
        places.write(directory, stop)
    (tmp_path / "debug" / "ffffff.json").write_text('{"id": "fff')
    (tmp_path / "debug" / "eeeeee.json").write_text("[]")
    assert stat.S_IMODE(os.stat(places.record_path(directory, lives.id)).st_mode) == 0o600
    assert places.stops(directory) == [lives, other]
    assert not os.path.exists(places.record_path(directory, ended.id))
    places.forget_process(directory, "aa")
    assert places.stops(directory) == [lives]


def test_the_socket_is_private_and_exists_only_while_the_stop_waits(tmp_path):
    stop = stop_of()
    modes = []

    def announced(stop):
        modes.append(stat.S_IMODE(os.stat(places.socket_path(str(tmp_path), stop.id)).st_mode))
        threading.Thread(target=lambda: wires.append(connect(str(tmp_path), stop))).start()

    wires: list[DebugLine] = []
    desk = desk_of(tmp_path, stop, announced)
    desk.wait()
    assert modes == [0o600] and desk.is_attached and stop.attached == os.getpid()
    assert os.listdir(tmp_path / "debug") == [f"{stop.id}.json"]
    with pytest.raises(CannotAttach, match=f"a terminal is attached to {stop.id} already"):
        connect(str(tmp_path), stop)
    desk.end("over")
    assert wires[0].receive() == ["end", "over"] and os.listdir(tmp_path / "debug") == []
    with pytest.raises(CannotAttach, match="does not wait any more"):
        stop.attached = 0
        connect(str(tmp_path), stop)
    wires[0].close()


def test_a_stop_with_a_limit_ends_without_a_terminal(tmp_path):
    desk = desk_of(tmp_path, stop_of(until_s=1.0))  # long ago
    with pytest.raises(TimeLimit):
        desk.wait()
    desk.end("")
    assert os.listdir(tmp_path / "debug") == []


@pytest.mark.parametrize("sent", [b"", b"no json\n", b"{}\n", b"[]\n", b'["line"'])
def test_what_is_no_message_ends_the_connection(sent):
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(sent)
        theirs.close()
        with pytest.raises(Disconnected):
            DebugLine(ours).receive()


def test_the_kernel_names_the_other_side():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours) == (os.getpid(), os.getuid())


def test_zrays_own_frames_are_hidden(tmp_path):
    from zray.worker.run.functions import FunctionCache

    debugger = Debugger(desk_of(tmp_path, stop_of()))

    def of_the_user(key):
        debugger.reset()
        stack, at = debugger.get_stack(sys._getframe(), None)
        return lambda: (stack, at)

    stack, at = FunctionCache(of_the_user).load(b"key")[0]()
    assert [frame.f_code for frame, _ in stack[at - 1:]] == [sys._getframe().f_code, of_the_user.__code__]
