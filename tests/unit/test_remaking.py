"""Unfinished objects of dead owners: what holders are told, and the tasks that make the objects again."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from tests.fakes.owner_net import ChannelNet
from tests.unit.test_adoption import FakeOwners
from tests.unit.test_owner import ports
from zray.base.config import Config
from zray.base.ends import Ends
from zray.owner.adoption import LOOK_AGAIN_S, Adoption
from zray.owner.eager_values import CARRIED_BYTES, EagerValues
from zray.owner.maps import MapBatch
from zray.owner.recipes import Recipes
from zray.owner.records import WAITING, Function, Task
from zray.owner.references import NOT_ADOPTED, References
from zray.owner.remaking import LIFE_SHIFT, Remaking
from zray.owner.submitter import Submitter
from zray.owner.unmade import UnmadeTask
from zray.wire import messages as m

OWNER, HOLDER, OTHER, NODE = b"ownr\0\0\0\1", b"hldr\0\0\0\1", b"othr\0\0\0\1", b"node\0\0\0\0"


class World:
    """Processes whose messages arrive when the test says so."""

    def __init__(self, *names: bytes):
        self.channels: dict[tuple[bytes, bytes], deque[Any]] = {}
        self.rows = FakeOwners()
        self.now = 0.0
        self.processes = {name: Process(self, name) for name in names}

    def deliver(self) -> None:
        moved = True
        while moved:
            for process in self.processes.values():
                process.adoption.pump()
                process.refs.flush()
            moved = False
            for (source, target), queue in list(self.channels.items()):
                while queue:
                    message = queue.popleft()
                    if target in self.processes and source in self.processes:
                        moved = True
                        self.processes[target].hear(source, message)

    def kill(self, name: bytes) -> None:
        del self.processes[name]
        for process in self.processes.values():
            process.refs.process_ended(name)
        for _ in range(3):
            self.deliver()
            self.now += LOOK_AGAIN_S[0]
        self.deliver()
        for process in self.processes.values():
            process.check()


class Process:
    def __init__(self, world: World, name: bytes):
        self.world, self.name = world, name
        self.net = ChannelNet(world.channels, name)
        self.ends = Ends()
        self.refs = References(name, self.net, lambda oid, value, escaped: None, self.ends)
        self.refs.eager = EagerValues(self.refs, name, "", 1 << 20)
        self.submitter = Submitter(name, NODE, 1, self.net, self.refs, Config(), ports())
        self.adoption = Adoption(self.refs, world.rows, "", lambda: world.now)
        self.fences: list[tuple[bytes, Any]] = []
        self.remaking = Remaking(self.submitter, self.refs, lambda owner, then: self.fences.append((owner, then)))
        self.adoption.make = self.remaking.make
        self.refs.eager.recipe_of = Recipes(name, self.submitter.results.columns, self.remaking.before).of
        self.count = 0

    def hear(self, peer: bytes, message: Any) -> None:
        refs = self.refs
        if type(message) is tuple:
            self.held = refs.transits.receive(peer, *message)
            return
        {m.HoldAdd: refs.on_hold_add, m.HoldAck: refs.on_hold_ack, m.HoldDrop: refs.on_hold_drop,
         m.Locate: refs.on_locate, m.Resolved: refs.on_resolved,
         m.TransitDone: refs.transits.on_transit_done}[type(message)](peer, message)

    def submit(self, deps: list[Any] = (), nested: list[Any] = (), returns: int = 1, retries: int = 3,  # type: ignore
               args: bytes = b"arguments", call: bool = False) -> Any:
        self.count += 1
        key = None if call else self.submitter.key_for("key", {"CPU": 10_000}, {}, {"kind": "spread"}, "f")
        task = Task(self.name + self.count.to_bytes(16, "big"), Function(b"k" * 20, b"blob", "f"), args, returns, key,
                    retries)
        entries = [self.refs.own(task.tid + (i + 1).to_bytes(4, "little"), task) for i in range(returns)]
        task.entry = entries if returns > 1 else entries[0]
        if deps or nested:
            task.deps, task.pins = list(deps) or None, [*deps, *nested]
        if not call:
            self.submitter.submit(task)
        return entries if returns > 1 else entries[0]

    def give(self, receiver: bytes, *records: Any) -> None:
        """References in a result; the receiver has them as ``held``."""
        token = self.refs.transits.send(receiver, list(records))
        triples = [[record.oid, record.owner or self.name, ""] for record in records]
        assert self.refs.eager is not None
        self.refs.eager.attach_values(triples, list(records), receiver)
        self.net.send(receiver, (triples, token))
        self.world.deliver()

    def fenced(self) -> list[bytes]:
        """Answer the questions to the nodes; which owners they were about."""
        asked, self.fences = self.fences, []
        for _, then in asked:
            then()
        return [owner for owner, _ in asked]

    def finish(self, oid: bytes, value: bytes) -> None:
        task = self.remaking.tasks[oid[:24]]
        self.submitter.results.take(task, [value] * task.nret, {}, OTHER)

    def check(self) -> None:
        self.refs.check()
        self.submitter.check()
        self.adoption.check()
        self.remaking.check()


@pytest.fixture
def world():
    return World(OWNER, HOLDER, OTHER)


def test_a_holder_runs_the_unfinished_task_again_after_the_fence_with_one_retry_less(world):
    owner, holder = world.processes[OWNER], world.processes[HOLDER]
    owner.give(HOLDER, owner.submit(retries=3))
    record, = holder.held
    world.kill(OWNER)
    task = holder.refs.owned[record.oid].task
    assert record.value is None and task.state == WAITING and holder.submitter.waiting == 1
    assert holder.fenced() == [OWNER]
    assert task.key.queue[0] is task and task.key.demand == {"CPU": 10_000} and task.key.strategy == {"kind": "spread"}
    assert task.retries == 2 and task.attempt == (1 << LIFE_SHIFT) + 1 and task.fn.blob is None
    holder.finish(record.oid, b"value")
    assert record.value == b"value" and holder.remaking.started == 1
    holder.refs.unpin(record)
    world.now += 10.0
    world.deliver()
    assert not holder.refs.owned and not world.rows.rows
    holder.check()


def test_unfinished_arguments_are_made_first_and_ready_ones_are_adopted(world):
    owner, holder = world.processes[OWNER], world.processes[HOLDER]
    ready = owner.refs.own(b"r" * 28)
    owner.refs.complete(ready, b"ready")
    first = owner.submit(deps=[ready])
    last = owner.submit(deps=[first], nested=[ready])
    owner.give(HOLDER, last)
    record, = holder.held
    for entry in (ready, first, last):
        owner.refs.unpin(entry)
    world.kill(OWNER)
    assert holder.fenced() == [OWNER] and holder.remaking.started == 2
    holder.finish(first.oid, b"one")
    task = holder.remaking.tasks[last.oid[:24]]
    assert task.missing == 0 and [dep.value for dep in task.deps] == [b"one"]
    holder.finish(last.oid, b"two")
    assert record.value == b"two"
    world.now += 10.0
    world.deliver()
    assert set(holder.refs.owned) == {last.oid}  # the inputs are gone
    holder.check()


def test_returns_of_one_task_are_made_by_one_run(world):
    owner, holder = world.processes[OWNER], world.processes[HOLDER]
    owner.give(HOLDER, *owner.submit(returns=3)[:2])
    first, second = holder.held
    world.kill(OWNER)
    holder.fenced()
    assert holder.remaking.started == 1
    holder.finish(first.oid, b"each")
    assert first.value == second.value == b"each" and set(holder.refs.owned) == {first.oid, second.oid}
    holder.check()


def test_one_of_several_holders_makes_it_and_the_next_when_that_dies_too(world):
    owner = world.processes[OWNER]
    entry = owner.submit()
    for name in (HOLDER, OTHER):
        owner.give(name, entry)
    world.kill(OWNER)
    makers = [name for name in (HOLDER, OTHER) if entry.oid in world.processes[name].refs.owned]
    assert len(makers) == 1
    maker, = makers
    other = HOLDER if maker == OTHER else OTHER
    world.processes[maker].fenced()
    world.kill(maker)
    left = world.processes[other]
    assert set(left.fenced()) == {OWNER, maker}
    task = left.remaking.tasks[entry.oid[:24]]
    assert task.attempt >> LIFE_SHIFT == 2 and task.retries == 1
    left.finish(entry.oid, b"value")
    assert left.held[0].value == b"value"


@pytest.mark.parametrize(("how", "reason"), [
    ({"retries": 0}, "max_retries=0"), ({"call": True}, "calls are not run again"),
    ({"args": bytes(CARRIED_BYTES)}, "too large")])
def test_what_cannot_be_made_fails_and_says_why(world, how, reason):
    owner, holder = world.processes[OWNER], world.processes[HOLDER]
    owner.give(HOLDER, owner.submit(**how))
    record, = holder.held
    world.kill(OWNER)
    for _ in LOOK_AGAIN_S:
        world.now += 1.0
        world.deliver()
    assert record.value[1] == "owner_died" and reason in record.value[2]["recipe"] and not holder.refs.owned


def test_a_claim_that_the_control_store_cannot_carry_out_fails_at_last(world):
    owner, holder = world.processes[OWNER], world.processes[HOLDER]
    owner.give(HOLDER, owner.submit())
    record, = holder.held
    world.rows.error = "no majority"
    world.kill(OWNER)
    for _ in range(20):
        world.now += 1.0
        world.deliver()
    assert record.value[2]["recipe"] == NOT_ADOPTED
    holder.check()


def test_the_recipe_goes_when_the_value_comes_and_with_it_the_inputs(world):
    owner, holder = world.processes[OWNER], world.processes[HOLDER]
    dep = owner.submit()
    entry = owner.submit(deps=[dep])
    owner.give(HOLDER, entry)
    record, = holder.held
    assert UnmadeTask(*record.recipe).task == entry.oid[:24] and dep.oid in holder.refs.borrowed
    owner.refs.complete(entry, b"value")
    world.deliver()
    assert record.value == b"value" and record.recipe is None and set(holder.refs.borrowed) == {entry.oid}
    holder.check()


def test_a_holder_that_registers_late_gets_the_recipe_unasked_and_an_argument_none(world):
    owner, holder = world.processes[OWNER], world.processes[HOLDER]
    entry = owner.submit()
    lent = holder.refs.restore(entry.oid, OWNER, "", lent=True)
    world.deliver()
    assert lent.recipe is None
    kept = holder.refs.restore(entry.oid, OWNER, "")
    world.deliver()
    assert kept is lent and type(lent.recipe) is list


def test_an_item_of_a_map_is_a_task_of_its_own(world):
    owner = world.processes[OWNER]
    key = owner.submitter.key_for("key", {}, {}, {}, "f")
    batch = MapBatch(b"p" * 16, 5, Function(b"k" * 20, b"blob", "f"), key, [10, 20, 30], False, 2)
    owner.submitter.maps.submit(batch)
    entry = owner.submitter.maps.entry(batch, 1)
    owner.submitter.results.columns.pack_call = lambda item, star: (b"packed %d" % item, [])
    recipe, inputs = Recipes(OWNER, owner.submitter.results.columns, lambda task: []).of(entry)
    how = UnmadeTask(*recipe)
    assert (how.task, how.args, how.retries, how.returns) == (batch.task_id(1), b"packed 20", 2, 1) and not inputs
    batch.cancelled.add(1)
    assert "cancelled" in Recipes(OWNER, owner.submitter.results.columns, lambda task: []).of(entry)[0]
