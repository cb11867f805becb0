"""The node's decisions, without processes: what it sends and starts for each event."""

from __future__ import annotations

import pytest

from tests.fakes.node_machine import CPU, NODE, MachineNode, only, spec
from zray.wire import messages as m


@pytest.fixture
def node():
    node = MachineNode()
    node.bring_up()
    node.driver()
    return node


def test_workers_are_started_before_a_driver_comes():
    node = MachineNode(cpus=3)
    assert len(node.spawned) == 3


def test_a_driver_is_accepted_with_a_job_of_its_own():
    node = MachineNode()
    jobs = [only(node.driver(peer), m.DriverAccepted)[0].job for peer in (b"driver00", b"driver01")]
    assert jobs == [1, 2]


def test_a_driver_of_another_python_is_refused_with_both_versions():
    node = MachineNode()
    node.driver(python="2.7.1")
    [ack] = only(node.sent, m.HelloAck)
    assert "2.7.1" in ack.refused and not only(node.sent, m.DriverAccepted)


def test_a_want_is_granted_with_the_job_configuration_first(node):
    sent = node.want()
    kinds = [type(message) for _, message in sent]
    assert kinds == [m.JobSettings, m.LeaseGrant]
    [grant] = only(sent, m.LeaseGrant)
    assert grant.worker == sent[0][0] and grant.assigned["resources"] == {"CPU": 1.0}


def test_a_grant_waits_for_a_worker_that_must_start_first(node):
    sent = node.want(env={"env_vars": {"A": "1"}}, want=2)
    assert len(only(sent, m.LeaseGrant)) == 2
    more = node.want(key=2, demand={}, want=1)
    assert not only(more, m.LeaseGrant) and len(node.spawned) == 1
    assert only(node.bring_up(), m.LeaseGrant)


def test_a_worker_that_is_still_starting_is_not_asked_what_it_holds(node):
    node.want(env={"env_vars": {"LD_PRELOAD": "x.so"}})
    (starting,) = node.spawned
    peers = []
    for again in (False, True):
        node.machine.unheld.on_ask(NODE, m.AskHeld(NODE, 1, again, [bytes(28)], [], []))
        peers.append([peer for peer, message in node.take() if isinstance(message, m.AskHeld)])
        if not again:
            node.bring_up()
    assert peers == [[b"driver00"], [b"driver00", starting[:8]]]  # it answers that it was not asked before


def test_objects_of_dead_owners_are_looked_into_after_the_time_in_which_another_dead_node_is_heard_of():
    for timeout_s in (3.0, 60.0):
        unheld = MachineNode(node_timeout_s=timeout_s).machine.unheld
        unheld.nodes_changed(100.0)
        assert unheld.next_deadline() > 100.0 + 3 * timeout_s


def test_a_returned_worker_serves_the_same_environment_and_job_only(node):
    [grant] = only(node.want(env={"env_vars": {"A": "1"}}), m.LeaseGrant)
    node.say(b"driver00", m.LeaseReturn(grant.lease))
    [other] = only(node.want(key=2, env={"env_vars": {"A": "2"}}), m.LeaseGrant)
    assert other.worker != grant.worker
    [again] = only(node.want(key=1, env={"env_vars": {"A": "1"}}, granted=1), m.LeaseGrant)
    assert again.worker == grant.worker


def test_a_worker_is_never_shared_between_jobs(node):
    [grant] = only(node.want(), m.LeaseGrant)
    node.say(b"driver00", m.LeaseReturn(grant.lease))
    node.driver(b"driver01")
    [first] = only(node.want(b"driver01"), m.LeaseGrant)
    assert first.worker != grant.worker


def test_a_worker_that_had_gpus_serves_only_the_same_ones(node):
    [a] = only(node.want(demand={"GPU": 10_000}), m.LeaseGrant)
    assert a.assigned["gpu_ids"] == [0]
    node.say(b"driver00", m.LeaseReturn(a.lease))
    [b] = only(node.want(key=2, demand=CPU), m.LeaseGrant)
    assert b.worker != a.worker
    [c] = only(node.want(key=3, demand={"GPU": 10_000}), m.LeaseGrant)
    assert c.assigned["gpu_ids"] == [0] and c.worker == a.worker


def test_a_dead_worker_is_reported_to_its_owner_with_the_marks_of_that_lease(node):
    [grant] = only(node.want(), m.LeaseGrant)
    sent = node.die(grant.worker, signal=9, lease=grant.lease, started=5, finished=4, log_tail="boom")
    [died] = only(sent, m.WorkerDied)
    assert (died.signal, died.started, died.finished, died.log_tail) == (9, 5, 4, "boom")
    assert (b"driver00", m.ProcessGone(grant.worker, "its process ended")) in sent


def test_marks_of_an_earlier_lease_are_not_taken_for_this_one(node):
    [grant] = only(node.want(), m.LeaseGrant)
    [died] = only(node.die(grant.worker, signal=9, lease=grant.lease + 7, started=5), m.WorkerDied)
    assert died.started == 0


def test_a_blocked_worker_lends_its_cpu(node):
    grants = only(node.want(want=3), m.LeaseGrant)
    assert len(grants) == 2
    node.say(grants[0].worker, m.Blocked(True))
    assert only(node.bring_up(), m.LeaseGrant)


def test_cancel_by_force_kills_only_the_owners_own_worker(node):
    [grant] = only(node.want(), m.LeaseGrant)
    node.driver(b"driver01")
    node.say(b"driver01", m.LeaseKill(grant.lease, "no"))
    assert not node.killed
    node.say(b"driver00", m.LeaseKill(grant.lease, "killed by zray: cancel"))
    assert node.killed == [grant.worker]
    [died] = only(node.die(grant.worker, signal=9), m.WorkerDied)
    assert died.reason == "killed by zray: cancel"


def test_an_infeasible_want_says_what_is_missing(node):
    [status] = only(node.want(demand={"unicorn": 10_000}), m.LeaseStatus)
    assert "unicorn" in status.detail


def test_goodbye_ends_the_job_and_its_workers(node):
    grants = only(node.want(want=2), m.LeaseGrant)
    said = node.say(b"driver00", m.Goodbye(""))
    workers = sorted(grant.worker for grant in grants)
    assert sorted(peer for peer, message in said if isinstance(message, m.JobOver)) == workers and not node.killed
    for worker in workers:
        node.say(worker, m.EventReport([], 0))
    assert sorted(node.killed) == workers
    assert node.ended[0].driver == b"driver00" and isinstance(node.ended[0].reply, m.Bye)
    for grant in grants:
        node.die(grant.worker, signal=9)
    assert node.machine.scheduler.available()["CPU"] == 20_000


def test_a_worker_that_outlives_its_job_for_a_report_makes_no_placement_group(node):
    [grant] = only(node.want(), m.LeaseGrant)
    for number in (1, 2):
        node.say(grant.worker, m.CreateGroup(NODE + bytes((number,)) * 10, {"bundles": [CPU], "strategy": "PACK"}, 0))
        if number == 1:
            assert len(node.machine.groups.table.groups) == 1
            node.say(b"driver00", m.Goodbye(""))
    node.die(grant.worker, signal=9)
    assert all(group.state == "REMOVED" for group in node.machine.groups.table.groups.values())


def test_a_killed_driver_ends_its_job_too(node):
    [grant] = only(node.want(), m.LeaseGrant)
    node.machine.process_exited(b"driver00", node.now)
    node.take()
    assert node.ended[0].reply is None
    node.die(grant.worker)
    assert not node.killed and node.machine.pool.next_deadline() is None


def test_the_last_events_of_a_job_are_kept_and_a_worker_that_does_not_report_is_killed_all_the_same(node):
    one, other = only(node.want(want=2), m.LeaseGrant)
    node.say(b"driver00", m.Goodbye(""))
    node.say(one.worker, m.EventReport([["f", b"t" * 24, 7, 1.0, 2.0, True, 0, 1, None, 0, "f"]], 0))
    assert [row["name"] for row in node.machine.events.rows()] == ["f"] and node.killed == [one.worker]
    node.now = node.machine.pool.next_deadline()
    node.machine.tick(node.now)
    node.take()
    assert node.killed == [one.worker, other.worker]


def test_workers_of_a_dead_owner_are_killed(node):
    [outer] = only(node.want(), m.LeaseGrant)
    [inner] = only(node.want(outer.worker, key=9), m.LeaseGrant)
    node.die(outer.worker, signal=9)
    assert node.killed == [inner.worker]


def test_idle_workers_beyond_the_number_of_cpus_are_retired(node):
    node.machine.pool.keep = 1
    node.now += 61
    node.machine.tick(node.now)
    [(peer, message)] = node.take()
    assert isinstance(message, m.WorkerExit) and message.reason == "idle"
    assert node.machine.next_deadline() is None


def test_an_idle_node_has_no_deadline(node):
    assert node.machine.next_deadline() is None


def test_processes_that_die_at_start_are_not_started_without_end():
    node = MachineNode(cpus=1)
    node.driver()
    node.want()
    starts = 0
    while node.spawned:
        starts += 1
        worker = node.spawned.pop()
        node.machine.worker_spawned(worker, 5, "", node.now)
        node.die(worker[:8], exit_code=1)
    assert starts < 10
    node.now = node.machine.next_deadline()
    node.machine.tick(node.now)
    node.take()
    assert node.spawned


# ---------------------------------------------------------------- actors


def create(node, actor=b"a" * 16, peer=b"driver00", request=0, **more):
    sent = node.say(peer, m.CreateActor(actor, spec(**more), request))
    return sent + node.bring_up()


def up(node, actor=b"a" * 16, life=0, error=b""):
    worker = node.machine.actors.actors[actor].worker
    return node.say(worker, m.ActorUp(actor, life, error))


def state(node, actor=b"a" * 16):
    return node.machine.actors.actors[actor].state


def test_an_actor_is_placed_then_shrinks_to_its_running_demand(node):
    assert only(create(node), m.ActorInit)
    assert node.machine.scheduler.available()["CPU"] == 10_000
    node.say(b"driver00", m.WatchActor(b"a" * 16))
    [told] = only(up(node), m.ActorState)
    assert told.state == "ALIVE" and told.endpoint == "ipc://w"
    assert node.machine.scheduler.available()["CPU"] == 20_000


def test_a_constructor_that_raises_makes_a_dead_actor_with_the_error(node):
    create(node, max_restarts=5)
    node.say(b"driver00", m.WatchActor(b"a" * 16))
    told = only(up(node, error=b"pickled"), m.ActorState)[-1]
    assert told.state == "DEAD" and told.cause["kind"] == "init" and told.cause["error"] == b"pickled"
    assert node.killed


def test_dead_actors_are_forgotten_in_the_end_also_by_the_control_store(node, monkeypatch):
    monkeypatch.setattr("zray.node.actors.table.DEAD_KEPT_MAX", 2)
    ids = [bytes([65 + number]) * 16 for number in range(5)]
    for actor in ids:
        create(node, actor)
        node.say(b"driver00", m.KillActor(actor, True, False, "enough"))
    assert set(node.machine.actors.actors) == set(node.names.actors) == set(ids[-2:])


def test_an_actor_is_restarted_as_often_as_allowed(node):
    create(node, max_restarts=1)
    up(node)
    node.die(node.machine.actors.actors[b"a" * 16].worker, signal=9)
    assert state(node) == "RESTARTING"
    node.bring_up()
    up(node, life=1)
    assert state(node) == "ALIVE"
    node.die(node.machine.actors.actors[b"a" * 16].worker, signal=11, log_tail="x")
    assert state(node) == "DEAD"
    cause = node.machine.actors.actors[b"a" * 16].cause
    assert cause["signal"] == 11 and cause["log_tail"] == "x" and cause["kind"] == "died"


def test_the_class_of_an_actor_goes_to_its_worker_before_the_actor(node):
    node.names.functions[(1).to_bytes(4, "big") + b"k"] = b"pickled class"
    sent = create(node, max_restarts=1)
    kinds = [type(message) for _, message in sent]
    assert only(sent, m.FunctionDef) == [m.FunctionDef(b"k", b"pickled class", "A")]
    assert kinds.index(m.FunctionDef) < kinds.index(m.ActorInit)
    up(node)
    sent = node.die(node.machine.actors.actors[b"a" * 16].worker, signal=9) + node.bring_up()
    assert only(sent, m.FunctionDef) and only(sent, m.ActorInit)[0].life == 1


def test_what_an_earlier_life_says_is_ignored(node):
    create(node, max_restarts=-1)
    old = node.machine.actors.actors[b"a" * 16].worker
    node.die(old, signal=9)
    node.bring_up()
    node.say(old, m.ActorUp(b"a" * 16, 0, b""))
    assert state(node) == "RESTARTING"


def test_kill_without_no_restart_restarts(node):
    create(node, max_restarts=1)
    up(node)
    node.say(b"driver00", m.KillActor(b"a" * 16, False))
    node.die(node.killed.pop(), signal=9)
    assert state(node) == "RESTARTING"
    node.say(b"driver00", m.KillActor(b"a" * 16, True))
    assert state(node) == "DEAD"


def test_a_planned_exit_is_no_reason_to_restart(node):
    create(node, max_restarts=-1)
    up(node)
    worker = node.machine.actors.actors[b"a" * 16].worker
    node.say(worker, m.ActorExit(b"a" * 16, 0, "exit_actor"))
    node.die(worker)
    assert state(node) == "DEAD" and node.machine.actors.actors[b"a" * 16].cause["kind"] == "exited"


def test_sys_exit_of_an_actor_counts_as_a_death_that_max_restarts_covers_and_says_why(node):
    create(node, max_restarts=1)
    for life, after in ((0, "RESTARTING"), (1, "DEAD")):
        up(node, life=life)
        worker = node.machine.actors.actors[b"a" * 16].worker
        said = node.say(worker, m.ActorExit(b"a" * 16, life, "sys.exit(3) was called", True))
        assert only(said, m.WorkerExit), "the worker stays until the node has heard it"
        assert state(node) == "ALIVE"
        node.die(worker, exit_code=3)
        cause = node.machine.actors.actors[b"a" * 16].cause
        assert state(node) == after and cause["kind"] == "died"
        assert (cause["reason"], cause["exit_code"]) == ("sys.exit(3) was called", 3)


def test_the_last_handle_of_an_actor_that_exits_may_go_meanwhile(node):
    create(node, max_restarts=-1)
    up(node)
    worker = node.machine.actors.actors[b"a" * 16].worker
    node.say(b"driver00", m.KillActor(b"a" * 16, True, True))
    node.say(worker, m.ActorExit(b"a" * 16, 0, "it received SIGTERM", True))
    node.die(worker, signal=15)
    assert state(node) == "DEAD"


def test_an_actor_that_announces_its_exit_and_stays_is_killed(node):
    create(node)
    up(node)
    worker = node.machine.actors.actors[b"a" * 16].worker
    node.say(worker, m.ActorExit(b"a" * 16, 0, "exit_actor"))
    node.now = node.machine.next_deadline()
    node.machine.tick(node.now)
    node.take()
    assert node.killed == [worker]


def test_out_of_scope_before_it_is_up_ends_it_after_it_is_up(node):
    create(node)
    node.say(b"driver00", m.KillActor(b"a" * 16, True, True))
    sent = up(node)
    assert only(sent, m.WorkerExit) and state(node) == "ALIVE"
    node.die(node.machine.actors.actors[b"a" * 16].worker)
    assert node.machine.actors.actors[b"a" * 16].cause["kind"] == "out_of_scope"


def test_a_name_belongs_to_one_actor_until_it_dies(node):
    [reply] = only(create(node, request=5, name="n", namespace="s"), m.ActorReply)
    assert reply.error == "" and reply.actor == b"a" * 16
    [reply] = only(create(node, b"b" * 16, request=6, name="n", namespace="s"), m.ActorReply)
    assert reply.error == "name_taken"
    [reply] = only(create(node, b"c" * 16, request=7, name="n", namespace="s", get_if_exists=True), m.ActorReply)
    assert reply.error == "" and reply.actor == b"a" * 16 and reply.meta == b"meta"
    [reply] = only(node.say(b"driver00", m.LookupActor("n", "s", 8)), m.ActorReply)
    assert reply.actor == b"a" * 16
    node.say(b"driver00", m.KillActor(b"a" * 16, True))
    [reply] = only(node.say(b"driver00", m.LookupActor("n", "s", 9)), m.ActorReply)
    assert reply.error == "no_such_actor"
    [reply] = only(create(node, b"d" * 16, request=10, name="n", namespace="s"), m.ActorReply)
    assert reply.error == ""


def test_detached_actors_outlive_their_driver_and_can_be_restarted_after(node):
    create(node, detached=True, max_restarts=1, name="d")
    create(node, b"b" * 16)
    up(node)
    up(node, b"b" * 16)
    node.say(b"driver00", m.Goodbye(""))
    assert state(node) == "ALIVE" and state(node, b"b" * 16) == "DEAD"
    for worker in set(node.killed):
        node.die(worker, signal=9)
    node.die(node.machine.actors.actors[b"a" * 16].worker, signal=9)
    sent = node.bring_up()
    assert only(sent, m.JobSettings)[0].config == {"sys_path": ["p"]} and only(sent, m.ActorInit)


def test_an_actor_ends_with_the_worker_that_created_it(node):
    [grant] = only(node.want(), m.LeaseGrant)
    create(node, peer=grant.worker)
    node.die(grant.worker, signal=9)
    assert state(node) == "DEAD" and node.machine.actors.actors[b"a" * 16].cause["kind"] == "owner_died"


def test_a_watch_may_overtake_the_creation(node):
    assert not node.say(b"driver00", m.WatchActor(b"a" * 16))
    assert only(create(node), m.ActorState)[0].state == "PENDING"


def test_a_watch_of_an_actor_that_never_comes_is_answered(node):
    node.say(b"driver00", m.WatchActor(b"z" * 16))
    node.now = node.machine.next_deadline()
    node.machine.tick(node.now)
    [told] = only(node.take(), m.ActorState)
    assert told.state == "DEAD" and told.cause["kind"] == "unknown"


def test_a_pending_actor_says_why_it_waits(node):
    node.say(b"driver00", m.WatchActor(b"a" * 16))
    sent = create(node, demand={"unicorn": 10_000})
    assert any("unicorn" in told.cause.get("detail", "") for told in only(sent, m.ActorState))


def test_an_owner_of_live_actors_is_not_retired_for_being_idle(node):
    [grant] = only(node.want(), m.LeaseGrant)
    create(node, peer=grant.worker)
    up(node)
    node.say(b"driver00", m.LeaseReturn(grant.lease))
    node.machine.pool.keep = 0
    node.now += 61
    node.machine.tick(node.now)
    assert grant.worker not in [peer for peer, _ in node.take()]
    assert state(node) == "ALIVE"


# ---------------------------------------------------------------- views and bad input


@pytest.mark.parametrize("what", ["nodes", "resources", "available", "actors", "workers", "leases", "store", "jobs",
                                  "tasks", "timeline", "stats", "explain", "nonsense"])
def test_every_view_answers(node, what):
    from zray.wire.codec import decode, encode
    create(node)
    node.want()
    [answer] = only(node.say(b"driver00", m.NodeQuery(3, what, {"key": 1})), m.NodeAnswer)
    assert decode(encode([answer.CODE, answer])) and answer.request == 3
    assert ("error" in answer.answer) == (what == "nonsense")


@pytest.mark.parametrize("message", [
    m.LeaseWant(77, 1, 0), m.LeaseReturn(99), m.LeaseKill(99, ""), m.ActorUp(b"x" * 16, 0, b""), m.WorkerReady(1),
    m.CreateActor(b"x" * 16, {}, 1), m.LeaseKey(1, {"CPU": -5}, {}, {}, ""), m.RegisterDriver({}), m.Goodbye(""),
    m.ActorExit(b"x" * 16, 0, ""), m.Blocked(True), m.KillActor(b"x" * 16, True), m.HandBack(1, [1]),
])
def test_messages_out_of_place_change_nothing(node, message):
    before = node.machine.scheduler.report()
    node.say(b"stranger", message)
    assert node.machine.scheduler.report() == before and len(node.machine.placements) == 0
