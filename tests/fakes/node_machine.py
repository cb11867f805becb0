"""A NodeMachine with a shell and a control store that act at once."""

from __future__ import annotations

from zray.base.config import Config
from zray.base.ends import Ends
from zray.node.effects import DropJob, EndJob, Kill, Send, Spawn
from zray.node.machine import Death, NodeMachine, NodePorts, NoHost, no_logs
from zray.node.processes.memory import Reading
from zray.sched.node.local import LocalScheduler
from zray.sim.files import MemoryFiles
from zray.wire import messages as m

CPU = {"CPU": 10_000}
NODE = b"driv\0\0\0\0"  # its drivers are driver00, driver01, ...


class FakeNames:
    """The names table of a control store that answers at once."""

    def __init__(self):
        self.names = {}
        self.actors = {}
        self.functions = {}
        self.groups = {}
        self.ended_jobs = set()
        self.used_jobs = set()  # by actors whose home is elsewhere

    def claim(self, namespace, name, actor, then):
        then(self.names.setdefault((namespace, name), actor))

    def release(self, namespace, name, actor):
        if self.names.get((namespace, name)) == actor:
            del self.names[namespace, name]

    def find(self, namespace, name, then):
        then(self.names.get((namespace, name), b""))

    def function(self, key):
        return self.functions.get(key)

    def record_actor(self, actor, row, then=None):
        if row is None:
            del self.actors[actor]
        else:
            self.actors[actor] = row["state"]
        if then is not None:
            then()

    def fence(self, nodes, then):
        then()

    def actors_of(self, home, then):
        then([])

    def find_node(self, node, then):
        then(None)

    def record_job(self, job, row):
        pass

    def job_ended(self, job, then):
        then(job in self.ended_jobs)

    def job_is_used(self, job, but_home, then):
        then(job in self.used_jobs)

    def claim_group(self, namespace, name, group, then):
        then(self.names.setdefault(("group", namespace, name), group))

    def release_group(self, namespace, name, group):
        if self.names.get(("group", namespace, name)) == group:
            del self.names["group", namespace, name]

    def record_group(self, group, row):
        if row is None:
            del self.groups[group]
        else:
            self.groups[group] = row

    def find_group(self, group, then):
        then(self.groups.get(group))

    def list_groups(self, then):
        then(list(self.groups.items()))

    def swap_group(self, group, old, new, then):
        self.groups[group] = new
        then(True, new)


class MachineNode:
    """A NodeMachine with a shell that forks and connects at once when told to."""

    def __init__(self, cpus=2, **settings):
        self.count = 0
        self.now = 100.0
        self.names = FakeNames()
        self.killed = []
        self.sent = []
        self.dropped = []  # jobs whose objects and functions are gone
        self.ended = []
        self.spawned = []
        self.memory, self.held = Reading(0, 1 << 30, "a test"), {}  # pid -> bytes
        self.machine = NodeMachine(
            incarnation=NODE, node={"NodeID": "n"}, names=self.names,
            scheduler=LocalScheduler({"CPU": cpus * 10_000, "GPU": 20_000, "memory": 10_000 << 30}, node=NODE),
            config=Config(**{"memory_monitor_s": 0.0, **settings}), keep=cpus, ports=NodePorts(
                ends=Ends(), new_worker_id=self.new_id, attach=lambda peer, pid: {"arena": "x"}, environ={},
                store_report=dict, stored_bytes=int, gcs_report=dict, ownerless=lambda has_ended: [],
                free_unheld=lambda objects: None, epoch_s=0.0, logs=no_logs, checkpoints=MemoryFiles(),
                host=NoHost(), send_output=lambda: None, stops=list,
                read_memory=lambda: [self.memory], memory_of=lambda pid: self.held.get(pid, 0)))
        self.machine.start(self.now)
        self.take()

    def new_id(self):
        self.count += 1
        return NODE[:4] + self.count.to_bytes(4, "big") + bytes(20)

    def take(self):
        """Perform the effects; returns the messages sent."""
        sent = []
        effects = self.machine.effects
        while effects:
            effect = effects.pop(0)
            if isinstance(effect, Send):
                sent.append((effect.peer, effect.message))
            elif isinstance(effect, Spawn):
                self.spawned.append(effect.worker)
            elif isinstance(effect, Kill):
                self.killed.append(effect.incarnation)
            elif isinstance(effect, EndJob):
                self.ended.append(effect)
            elif isinstance(effect, DropJob):
                self.dropped.append(effect.job)
        self.machine.check()
        self.sent += sent
        return sent

    def say(self, peer, message):
        self.machine.handle(peer, message.CODE, message, self.now)
        return self.take()

    def bring_up(self):
        """Every spawned worker connects."""
        sent = []
        while self.spawned:
            worker = self.spawned.pop(0)
            self.machine.worker_spawned(worker, 1000 + worker[7], "", self.now)
            peer = worker[:8]
            self.say(peer, m.Hello(m.PROTOCOL, "worker", "ipc://w", 1000 + worker[7], 0, "3.11.1", []))
            sent += self.say(peer, m.WorkerReady(1000 + worker[7]))
        return sent

    def driver(self, peer=b"driver00", python=None):
        import sys
        text = python or ".".join(map(str, sys.version_info[:3]))
        self.say(peer, m.Hello(m.PROTOCOL, "driver", "ipc://d", 7, 0, text, []))
        return self.say(peer, m.RegisterDriver({"sys_path": ["p"]}))

    def die(self, peer, **how):
        self.machine.worker_exited(peer, Death(**how), self.now)
        return self.take()

    def want(self, peer=b"driver00", key=1, want=1, granted=0, demand=CPU, env=None, strategy=None):
        self.say(peer, m.LeaseKey(key, demand, env or {}, strategy or {}, "f"))
        return self.say(peer, m.LeaseWant(key, want, granted))


def only(sent, kind):
    return [message for _, message in sent if isinstance(message, kind)]


def spec(**more):
    return {"class_key": b"k", "args": b"", "demand": CPU, "running": {}, "class_name": "A", "meta": b"meta", **more}
