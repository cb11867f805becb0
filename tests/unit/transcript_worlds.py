"""The small worlds of tests/transcripts: pure machines, a network that a scenario can see, and commands.

A public method that returns lines is a command.  Its arguments are words; the scenario shows its lines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from zray.base.config import Config
from zray.base.ends import Ends
from zray.base.ids import RETURN_1
from zray.gcs.client.requests import Call
from zray.gcs.configuration.config import ChainConfig
from zray.gcs.replica.chain import ChainReplica
from zray.gcs.replica.tables import COMPARE_AND_SET, DELETE, GET, PUT
from zray.owner.adoption import Adoption
from zray.owner.eager_values import EagerValues
from zray.owner.ports import SubmitterPorts
from zray.owner.records import Entry, Function, Task
from zray.owner.references import References
from zray.owner.submitter import Submitter
from zray.transport.peers import Dialled, PeerTable
from zray.transport.session import Session
from zray.wire import messages as m

NAME_SIZE = 8  # of an incarnation


def incarnation(name: str) -> bytes:
    return name.encode().ljust(NAME_SIZE, b".")


def shown(value: Any) -> str:
    """Bytes as the name that they were made of; the rest as Python writes it."""
    if isinstance(value, bytes):
        word = value.rstrip(b".")
        return (word.decode() or "''") if word.isascii() and word.decode().isprintable() else value.hex()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{shown(key)}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value) if value != "" else "''"


def sent(source: str, target: bytes, message: Any) -> str:
    """``owner -> node  LeaseReturn lease=1``; fields that have their default are left out."""
    defaults = type(message)._field_defaults
    fields = [f"{name}={shown(value)}" for name, value in zip(message._fields, message, strict=True)
              if name not in defaults or defaults[name] != value]
    return "  ".join((f"{source} -> {shown(target)}", " ".join((type(message).__name__, *fields))))


# ---------------------------------------------------------------- leases


class LeaseWorld:
    """An owner's Submitter; the scenario is its node and its workers."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.refs = References(incarnation("owner"), self, lambda oid, value, escaped: None, Ends())
        unused: Any = None  # no maps, no exceptions that are retried, no lost results, nothing runs inline
        self.submitter = Submitter(incarnation("owner"), incarnation("node"), 1, self, self.refs, Config(),
                                   SubmitterPorts(SimpleNamespace(none=b""), unused, unused, unused))
        self.function = Function(b"f", b"", "f")
        self.tasks: dict[str, Task] = {}
        self.shown: set[str] = set()

    def send(self, peer: bytes, message: Any) -> None:
        self.sent.append((peer, message))

    def connect(self, peer: bytes, endpoint: str = "") -> None:
        """Every worker is reached."""

    disconnect = connect

    def submit(self, *words: str) -> list[str]:
        """Names of tasks, and ``retries=1``."""
        retries = next((int(word[8:]) for word in words if word.startswith("retries=")), 0)
        for name in words:
            if not name.startswith("retries="):
                key = self.submitter.key_for("f", {"CPU": 10_000}, {}, {}, "f")
                task = self.tasks[name] = Task(name.encode().ljust(24, b"."), self.function, b"", 1, key, retries)
                oid = task.tid + RETURN_1
                self.refs.owned[oid] = task.entry = Entry(oid, task)
                self.submitter.submit(task)
        return self._turn()

    def grant(self, lease: str, worker: str) -> list[str]:
        self.submitter.on_lease_grant(b"node", m.LeaseGrant(1, int(lease), incarnation(worker), "ipc", 7, {}))
        return self._turn()

    def recall(self, lease: str) -> list[str]:
        self.submitter.on_lease_recall(b"node", m.LeaseRecall(int(lease)))
        return self._turn()

    def done(self, lease: str, *names: str) -> list[str]:
        """These tasks return their name, after 1 ms each."""
        ends = [item for name in names for item in (self.tasks[name].seq, name.encode())]
        worker = self.submitter.leases[int(lease)].link.peer
        self.submitter.on_tasks_done(worker, m.TasksDone(int(lease), ends, 1_000_000))
        return self._turn()

    def hand_back(self, lease: str, *names: str) -> list[str]:
        worker = self.submitter.leases[int(lease)].link.peer
        self.submitter.on_hand_back(worker, m.HandBack(int(lease), [self.tasks[name].seq for name in names]))
        return self._turn()

    def died(self, lease: str, started: str, finished: str) -> list[str]:
        """The node's notice, with the marks ``started=`` and ``finished=``."""
        worker = self.submitter.leases[int(lease)].link.peer
        self.submitter.on_worker_died(incarnation("node"), m.WorkerDied(
            worker, int(lease), 7, 9, 0, int(started.removeprefix("started=")),
            int(finished.removeprefix("finished=")), "", ""))
        return self._turn()

    def closed(self, worker: str) -> list[str]:
        self.submitter.on_peer_closed(incarnation(worker))
        return self._turn()

    def wait(self, seconds: str) -> list[str]:
        self.submitter.tick(self.submitter.now + float(seconds))
        return self._turn()

    def _turn(self) -> list[str]:
        self.submitter.pump()
        self.submitter.check()
        lines = [sent("owner", *each) for each in self.sent]
        self.sent.clear()
        for name, task in self.tasks.items():
            value = task.entry.value
            if value is not None and name not in self.shown:
                self.shown.add(name)
                lines.append(f"{name} is ready" if type(value) is bytes else f"{name} fails: {value[1]}")
        return lines


# ---------------------------------------------------------------- references and adoption


class _Process:
    """The References and the Adoption of one process; ``send`` takes what it sends."""

    def __init__(self, world: ObjectWorld, name: str) -> None:
        self.world, self.name = world, name
        self.ends = Ends()
        self.refs = References(incarnation(name), self, self._free, self.ends)
        self.refs.eager = EagerValues(self.refs, incarnation(name), "", 1 << 20)
        self.adoption = Adoption(self.refs, self, "", lambda: world.now)

    def send(self, peer: bytes, message: Any) -> None:
        self.world.sent.append((self.name, peer, message))

    def connect(self, peer: bytes, endpoint: str) -> None:
        """Every process reaches every other."""

    disconnect = connect

    def _free(self, oid: bytes, value: Any, escaped: bool) -> None:
        self.world.lines.append(f"{self.name} frees {shown(oid)} in the store")

    # the rows of the control store

    def swap_owner(self, oid: bytes, old: bytes | None, new: bytes | None, done: Callable[[Any], None]) -> None:
        rows = self.world.rows
        won = rows.get(oid) == old
        if won and new is None:
            del rows[oid]
        elif won and new is not None:
            rows[oid] = new
        what = "claims" if new is not None else "deletes"
        self.world.lines.append(f"{self.name} {what} the row of {shown(oid)}: {'won' if won else 'lost'}")
        self._answer((won, rows.get(oid)), done)

    def read_owner(self, oid: bytes, done: Callable[[Any], None]) -> None:
        self.world.lines.append(f"{self.name} reads the row of {shown(oid)}")
        self._answer(self.world.rows.get(oid), done)

    def _answer(self, value: Any, done: Callable[[Any], None]) -> None:
        call = Call([])
        call.complete("", value)
        self.world.answers.append((done, call))


class ObjectWorld:
    """Processes with references to each other's objects.  All messages arrive, in order, within the command."""

    def __init__(self) -> None:
        self.now = 0.0
        self.processes: dict[str, _Process] = {}
        self.rows: dict[bytes, bytes] = {}
        self.sent: deque[tuple[str, bytes, Any]] = deque()
        self.answers: deque[tuple[Callable[[Any], None], Call]] = deque()  # of the control store
        self.lines: list[str] = []

    def start(self, *names: str) -> list[str]:
        """Processes begin."""
        self.processes = {name: _Process(self, name) for name in names}
        return []

    def put(self, process: str, name: str) -> list[str]:
        refs = self.processes[process].refs
        refs.complete(refs.own(self._oid(name)), b"value")
        return self._settle()

    def pass_on(self, sender: str, receiver: str, name: str) -> list[str]:
        """The reference travels inside a value."""
        refs = self.processes[sender].refs
        record = self._record(sender, name)
        token = refs.transits.send(incarnation(receiver), [record])
        triple = [record.oid, record.owner or incarnation(sender), ""]
        assert refs.eager is not None
        refs.eager.attach_values([triple], [record], incarnation(receiver), 1000)
        self.lines.append(f"{sender} -> {receiver}  a value with {name}, token {token}")
        self.processes[receiver].refs.transits.receive(incarnation(sender), [triple], token)
        return self._settle()

    def drop(self, process: str, name: str) -> list[str]:
        self.processes[process].refs.unpin(self._record(process, name))
        return self._settle()

    def die(self, process: str) -> list[str]:
        """It ends, and the node tells all others."""
        del self.processes[process]
        for other in self.processes.values():
            other.ends.process_ended(incarnation(process))
            other.refs.process_ended(incarnation(process))
        return self._settle()

    def wait(self, seconds: str) -> list[str]:
        self.now += float(seconds)
        return self._settle()

    def who(self, name: str) -> list[str]:
        """What each process knows of the object."""
        lines = []
        for process in self.processes:
            refs, oid = self.processes[process].refs, self._oid(name)
            if (entry := refs.owned.get(oid)) is not None:
                lines.append(f"{process} owns it; holders: {', '.join(map(shown, entry.holders or ())) or 'none'}")
            elif (borrowed := refs.borrowed.get(oid)) is not None:
                lines.append(f"{process} borrows it from {shown(borrowed.owner)}")
        return lines or ["it is nowhere"]

    def _oid(self, name: str) -> bytes:
        return name.encode().ljust(28, b".")

    def _record(self, process: str, name: str) -> Any:
        """What a reference there counts in; an adopter has an Entry beside it."""
        refs = self.processes[process].refs
        return refs.borrowed.get(self._oid(name)) or refs.owned.get(self._oid(name))

    def _settle(self) -> list[str]:
        while True:
            for process in self.processes.values():
                process.adoption.pump()
                process.refs.flush()
                process.refs.check()
                process.adoption.check()
            if self.answers:
                done, call = self.answers.popleft()
                done(call)
                continue
            if not self.sent:
                break
            source, target, message = self.sent.popleft()
            self.lines.append(sent(source, target, message))
            receiver = self.processes.get(shown(target))
            if receiver is not None:
                refs = receiver.refs
                {m.HoldAdd: refs.on_hold_add, m.HoldAck: refs.on_hold_ack, m.HoldDrop: refs.on_hold_drop,
                 m.Locate: refs.on_locate, m.Resolved: refs.on_resolved, m.TransitDone: refs.transits.on_transit_done,
                 }[type(message)](incarnation(source), message)
        lines, self.lines = self.lines, []
        return lines


# ---------------------------------------------------------------- the chain


class ChainWorld:
    """Replicas of one shard; messages wait until ``deliver`` brings them, in order, or ``lose`` drops them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.config = ChainConfig.first(b"r0", b"r1", b"r2")
        self.replicas = {name: ChainReplica(name, self.config) for name in self.config.members}
        self.bag: deque[tuple[bytes, bytes, Any]] = deque()
        self.numbers = 0

    def put(self, client: str, key: str, value: str) -> list[str]:
        return self._ask(client, [PUT, b"kv/" + key.encode(), value.encode()])

    def swap(self, client: str, key: str, old: str, new: str) -> list[str]:
        return self._ask(client, [COMPARE_AND_SET, b"kv/" + key.encode(), old.encode(), new.encode()])

    def lease(self) -> list[str]:
        """The voters let the tail read."""
        tail = self.replicas[self.config.tail]
        tail.grant_lease(self.config.epoch, 1e9)
        self._send(self.config.tail, tail.replay(self.now))
        return self._waiting()

    def delete(self, client: str, key: str) -> list[str]:
        return self._ask(client, [DELETE, b"kv/" + key.encode()])

    def get(self, client: str, key: str, replica: str) -> list[str]:
        self.bag.append((client.encode(), replica.encode(), m.GcsRequest(-1, 0, [GET, b"kv/" + key.encode()])))
        return self._waiting()

    def repeat(self, client: str, number: str, key: str, value: str) -> list[str]:
        """A client asks again what it has asked."""
        self.bag.append((client.encode(), self.config.head,
                         m.GcsRequest(int(number), 1, [PUT, b"kv/" + key.encode(), value.encode()])))
        return self._waiting()

    def deliver(self) -> list[str]:
        """Everything that is under way, until nothing is."""
        lines = []
        while self.bag:
            source, target, message = self.bag.popleft()
            lines.append(self._line(source, target, message))
            if target in self.replicas:
                self._send(target, self.replicas[target].on_message(source, message, self.now))
        return lines

    def lose(self) -> list[str]:
        source, target, message = self.bag.popleft()
        return ["lost: " + self._line(source, target, message)]

    def wait(self, seconds: str) -> list[str]:
        """Time passes; what falls due is under way then."""
        self.now += float(seconds)
        for name, replica in self.replicas.items():
            self._send(name, replica.tick(self.now))
        return self._waiting()

    def crash(self, name: str) -> list[str]:
        """Its messages under way are lost with it."""
        del self.replicas[name.encode()]
        self.bag = deque(each for each in self.bag if each[0] != name.encode())
        return []

    def remove(self, name: str) -> list[str]:
        return self._reconfigure(self.config.without(name.encode()))

    def join(self, name: str) -> list[str]:
        self.replicas[name.encode()] = ChainReplica(name.encode(), self.config)
        return self._reconfigure(self.config.join(name.encode()))

    def promote(self) -> list[str]:
        return self._reconfigure(self.config.promoted())

    def state(self) -> list[str]:
        return [f"{shown(name)}: {replica.applied} applied, {replica.committed} committed"
                + ("" if replica.established else ", not established")
                for name, replica in self.replicas.items()]

    def _ask(self, client: str, op: list[Any]) -> list[str]:
        self.numbers += 1
        self.bag.append((client.encode(), self.config.head, m.GcsRequest(self.numbers, 1, op)))
        return self._waiting()

    def _reconfigure(self, config: ChainConfig) -> list[str]:
        self.config = config
        for name, replica in self.replicas.items():
            self._send(name, replica.reconfigure(config, self.now))
        joins = f", {shown(config.joining)} joins" if config.joining else ""
        return [f"epoch {config.epoch}: {' -> '.join(map(shown, config.members))}{joins}", *self._waiting()]

    def _send(self, source: bytes, out: list[tuple[bytes, Any]]) -> None:
        self.replicas[source].check()
        self.bag += [(source, peer, message) for peer, message in out]

    def _waiting(self) -> list[str]:
        return [f"under way: {len(self.bag)}"] if self.bag else []

    @staticmethod
    def _line(source: bytes, target: bytes, message: Any) -> str:
        if type(message) is m.ChainSnapshot:
            message = message._replace(chunk=b"state")
        return sent(shown(source), target, message)


# ---------------------------------------------------------------- peers


class PeerWorld:
    """The peer table of one mesh; the scenario is the mesh."""

    def __init__(self) -> None:
        self.peers = PeerTable(ended_max=8)
        self.epoch = 0

    def dial(self, name: str) -> list[str]:
        self._deliver(self.peers.dialled(incarnation(name), Dialled("endpoint", "address", b"route")))
        return self._state(name)

    def route(self, name: str, hop: str) -> list[str]:
        self._deliver(self.peers.routed(incarnation(name), incarnation(hop)))
        return self._state(name)

    def frame(self, name: str, way: str) -> list[str]:
        """A frame of the peer comes by ``ipc`` or ``tcp``."""
        came = self.peers.came if way == "ipc" else self.peers.came_by_tcp
        self._deliver(came(incarnation(name), b"route"))
        return self._state(name)

    def session(self, name: str) -> list[str]:
        """The first message begins one."""
        self.epoch += 1
        self.peers.begin(incarnation(name), Session(self.epoch))
        return self._state(name)

    def hold(self, name: str) -> list[str]:
        """A message while the endpoint is looked up."""
        self.peers.hold(incarnation(name), [1, "message"])
        return self._state(name)

    def hang_up(self, name: str) -> list[str]:
        self.peers.hung_up(incarnation(name))
        return self._state(name)

    def drop_ipc(self, name: str) -> list[str]:
        self.peers.drop_ipc(incarnation(name))
        return self._state(name)

    def lose(self, name: str) -> list[str]:
        self.peers.lose(incarnation(name), 1.0)
        return self._state(name)

    def keep(self, name: str) -> list[str]:
        """Reported closed; its session lasts."""
        self._hang_up(incarnation(name))
        self.peers.keep(incarnation(name))
        return self._state(name)

    def forget(self, name: str) -> list[str]:
        self._hang_up(incarnation(name))
        self.peers.forget(incarnation(name))
        return self._state(name)

    def _hang_up(self, peer: bytes) -> None:
        """The mesh closes its own connection and that of TCP."""
        self.peers.drop_tcp(peer)
        if self.peers.is_dialled(peer):
            self.peers.hung_up(peer)

    @staticmethod
    def _deliver(record: Any) -> None:
        record.held = None  # the mesh sends what waited

    def _state(self, name: str) -> list[str]:
        self.peers.check()
        peer = incarnation(name)
        record = self.peers.records.get(peer)
        ways, facts = [], []
        if record is not None:
            ways = [way for way, there in (("dialled", record.dialled), ("ipc", record.inbound), ("tcp", record.tcp))
                    if there] + ([f"through {shown(record.hop)}"] if record.hop else [])
            facts = [fact for fact, there in (("a session", record.session), ("messages wait", record.held)) if there]
        end = "" if self.peers.is_connected(peer) else "; not connected"
        return [f"{name}: {self.peers.state(peer).name}; {', '.join(ways) or 'no way'}"
                + "".join(f"; {fact}" for fact in facts) + end]


WORLDS: dict[str, Callable[[], Any]] = {
    "adoption": ObjectWorld, "chain": ChainWorld, "leases": LeaseWorld, "peers": PeerWorld, "references": ObjectWorld}
