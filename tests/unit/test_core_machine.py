"""A core process's machine through its ports: connections, refusals, answers, and the end of its node."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from zray.base import ids
from zray.base.config import Config
from zray.base.ids import node_of
from zray.core.machine import CoreMachine
from zray.core.process import ProcessRecord
from zray.owner.records import Entry, Function, Task
from zray.wire import messages as m

NODE, ME, PEER, FAR = b"nod1\0\0\0\0", b"nod1\xffr01", b"nod1\0\0\0\7", b"nod2\0\0\0\7"


class Ports:
    """Transport, Dialling, Store, Columns and Shell in one: they record."""

    def __init__(self) -> None:
        self.lasting: set[bytes] = set()
        self.job = 0
        self.sent: list[tuple[bytes, Any]] = []
        self.did: list[tuple[Any, ...]] = []
        self.up: set[bytes] = set()

    # Transport
    def send(self, peer: bytes, code: int, message: Any) -> None:
        assert code == message.CODE
        self.sent.append((peer, message))

    def connect(self, peer: bytes, endpoint: str) -> None:
        self.up.add(peer)

    def connected(self, peer: bytes) -> bool:
        return peer in self.up

    dialled = connected

    def peers(self) -> list[bytes]:
        return sorted(self.up)

    def note(self, what: str) -> Any:
        return lambda *args: self.did.append((what, *args))

    # Store
    def pinned(self) -> dict[bytes, int]:
        return {}

    # Shell
    def clock(self) -> float:
        return 0.0

    def node_lost(self, *failure: Any) -> dict[str, Any]:
        return {"reason": "its process ended"}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.note(name)

    def to(self, peer: bytes) -> list[Any]:
        return [message for other, message in self.sent if other == peer]


@pytest.fixture
def ports() -> Any:
    return Ports()


@pytest.fixture
def machine(ports) -> CoreMachine:
    process = ProcessRecord("driver", ME, NODE, "ipc:///tmp/s/d.sock", 7, "3.11.7", 3, Config())
    return CoreMachine(process, ports, ports, ports, ports, ports, deque())


def deliver(machine: CoreMachine, peer: bytes, message: Any) -> None:
    machine.handle(peer, message.CODE, message, 0.0)


@pytest.mark.parametrize("protocol, word", [(m.PROTOCOL, ""), (m.PROTOCOL + 1, f"protocol {m.PROTOCOL + 1}")])
def test_a_peer_of_another_protocol_is_refused(machine, ports, protocol, word):
    deliver(machine, PEER, m.Hello(protocol, "worker", "", 1, 3, "3.11.7", []))
    answer, = ports.to(PEER)
    assert bool(answer.refused) == bool(word) and word in answer.refused


def test_a_refusal_is_said_and_ends_the_connection(machine, ports):
    machine.connect(PEER, "ipc://peer")
    deliver(machine, PEER, m.HelloAck(m.PROTOCOL, "worker", [], "protocol 9"))
    assert [each for each in ports.did if each[0] != "later"] == [("refused", PEER, "protocol 9"), ("disconnect", PEER)]


def test_a_process_of_another_node_is_dialled_where_our_node_says(machine, ports):
    machine.connect(FAR, "ipc://there")
    assert ports.to(NODE) == [m.Dial(FAR)] and ("hold", FAR) in ports.did
    deliver(machine, NODE, m.DialAnswer(FAR, "tcp://there"))
    assert ("dial", FAR, "tcp://there") in ports.did


def test_a_process_that_we_dialled_counts_as_closed_only_when_its_connection_has_closed(machine, ports):
    """The notice of its end overtakes what it wrote before."""
    closed: list[bytes] = []
    machine.connections.ends = type("Ends", (), {
        "process_ended": lambda self, process: None, "process_closed": lambda self, peer: None,
        "peer_closed": lambda self, peer: closed.append(peer)})()
    machine.connect(PEER, "ipc://peer")
    deliver(machine, NODE, m.ProcessGone(PEER, "killed"))
    assert closed == []
    machine.closed(PEER, 0.0)
    assert closed == [PEER]


def test_only_what_our_node_says_is_an_end_and_a_closed_connection_is_none(machine):
    machine.connect(PEER, "ipc://peer")
    machine.closed(PEER, 0.0)
    assert not machine.ends.has_ended(PEER)
    deliver(machine, NODE, m.ProcessGone(PEER, "killed"))
    assert machine.ends.has_ended(PEER) and not machine.ends.has_ended(FAR)
    deliver(machine, NODE, m.NodeGone(node_of(FAR), "power cut"))
    assert machine.ends.has_ended(FAR) and list(machine.ends.processes) == [PEER]
    machine.check()


def test_answers_go_to_who_asked_and_end_with_the_node(machine, ports):
    answers: list[Any] = []
    first, second = machine.ask(answers.append), machine.ask(answers.append)
    deliver(machine, NODE, m.NodeAnswer(first, {"a": 1}))
    deliver(machine, NODE, m.NodeAnswer(first, {"a": 2}))
    assert [answer.answer for answer in answers] == [{"a": 1}] and machine.is_asking
    machine.closed(NODE, 1.0)
    assert answers[1:] == [None] and not machine.is_asking
    assert second != first
    machine.ask(answers.append)
    assert answers[1:] == [None, None] and not machine.is_asking, "a question after the end does not wait either"
    assert machine.submitter.lost[1:] == ["raylet_died", {
        "node": NODE.hex(), "log_file": "/tmp/s/logs/node.log", "reason": "its process ended"}]


def test_rows_of_objects_are_cut_at_the_limit_and_counted_and_one_is_found_by_its_id(machine, ports):
    oids = [bytes([n]) * ids.OBJECT_SIZE for n in range(5)]
    for oid in oids:
        machine.refs.owned[oid] = Entry(oid)
    for query in (m.ProcessQuery(1, "objects", 2), m.ProcessQuery(2, "objects", 2, oids[4])):
        deliver(machine, NODE, query)
    cut, one = ports.to(NODE)
    assert ([row["object_id"] for row in cut.rows], cut.total) == (oids[:2], 5)
    assert ([row["object_id"] for row in one.rows], one.total) == (oids[4:], 1)


def test_the_reason_that_the_node_gives_before_it_ends_stays_the_reason(machine, ports):
    pending = machine.refs.own(b"p" * 28)
    deliver(machine, NODE, m.NodeStanding(FAR[:4] + bytes(4), "fenced", "of another node"))
    assert machine.submitter.lost is None
    deliver(machine, NODE, m.NodeStanding(NODE, "fenced", "unheard of for 3 s"))
    answers: list[Any] = []
    machine.ask(answers.append)
    machine.closed(NODE, 1.0)
    assert pending.value is machine.submitter.lost and answers == [None]
    assert pending.value[2]["reason"] == "the cluster declared the node dead (unheard of for 3 s)"


def test_the_end_of_the_node_is_no_news_to_a_process_that_leaves(machine):
    machine.process.closed = True
    machine.closed(NODE, 1.0)
    assert machine.submitter.lost is None


def test_a_pending_object_fails_with_the_node_and_a_ready_one_stays(machine):
    pending, ready = machine.refs.own(b"p" * 28), machine.refs.own(b"r" * 28)
    machine.refs.complete(ready, b"value")
    machine.closed(NODE, 1.0)
    assert pending.value[1] == "raylet_died" and ready.value == b"value"


def test_dropped_references_are_released_once_a_turn(machine):
    entry = machine.refs.own(b"p" * 28)
    machine.refs.complete(entry, b"value")
    machine.dropped.append(entry)
    machine.turn(0.0)
    assert not machine.refs.owned
    machine.check()


def test_a_tick_is_due_only_while_something_is_timed(machine, ports):
    assert not machine.is_timed and machine.next_deadline() is None
    machine.submitter.timed = True
    assert machine.is_timed and machine.next_deadline() == machine.process.config.lease_idle_s
    assert not machine.is_timed


def test_a_borrower_that_cancels_a_call_by_force_only_cancels_it(machine):
    """It does not know that the object comes from a call.  The caller itself gets an error."""
    task = Task(b"c" * ids.TASK_SIZE, Function(b"", b"", "A.f"), b"", 1, None, 0)
    entry = task.entry = machine.refs.owned[ids.return_id(task.tid, 1)] = Entry(ids.return_id(task.tid, 1), task)
    machine.calls.submit(machine.calls.link_for(b"a" * 16, "A"), task)
    with pytest.raises(ValueError, match="force=True"):
        machine.cancel(entry, True, False)
    assert entry.value is None
    deliver(machine, PEER, m.CancelObject(entry.oid, True, False))
    assert entry.value[:2] == [m.FAILED, "cancelled"]


def created(machine, argument):
    """An actor whose constructor takes ``argument``."""
    spec = {"class_name": "A", "out_of_order": False, "detached": False, "name": "", "args": b"", "deps": [],
            "demand": {}, "strategy": {}, "env": {}, "namespace": ""}
    machine.creations.create(b"t" * ids.TASK_SIZE, b"a" * 16, spec, [argument], [argument])


def test_an_actor_whose_arguments_are_ready_is_created_and_then_watched(machine, ports):
    """Asked before, the node says after some seconds that there is no such actor."""
    argument = machine.refs.own(b"p" * 28)
    machine.refs.complete(argument, b"value")
    created(machine, argument)
    made, watch = ports.to(NODE)
    assert made.spec["deps"] == [b"value"] and "unready" not in made.spec and watch == m.WatchActor(b"a" * 16)


@pytest.mark.parametrize("value", [b"value", [m.FAILED, "task_error", {}]])
def test_the_node_knows_an_actor_whose_arguments_are_late(machine, ports, value):
    """Else the processes that have a handle hear that there is no such actor, however long the arguments take."""
    argument = machine.refs.own(b"p" * 28)
    created(machine, argument)
    made, watch = ports.to(NODE)
    assert made.spec["unready"] and "args" not in made.spec and type(watch) is m.WatchActor
    assert [row["state"] for row in machine.creations.rows()] == ["DEPENDENCIES_UNREADY"]
    machine.refs.complete(argument, value)
    *_, again = ports.to(NODE)
    assert type(again) is m.CreateActor and "unready" not in again.spec and len(ports.to(NODE)) == 3
    if value == b"value":
        assert again.spec["deps"] == [value]
    else:
        assert again.spec["failed"]["argument"][2]["failure"] == value
