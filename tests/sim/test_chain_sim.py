"""Chains of production replicas under loss, duplication, reordering, crashes, false suspicions and catch-up."""

from __future__ import annotations

import pytest

from zray.sim.chain import SimChain, register_step
from zray.sim.linearizability import Operation, check
from zray.sim.network import Faults

HOSTILE = Faults(drop=0.05, duplicate=0.1, slow=0.05)
SEEDS_A_TEST = 10
STRIKES_END_S = 1.5


def drive(seed: int, *, expel: bool, faults: Faults = HOSTILE, rejoin: bool = False) -> SimChain:
    """Run one schedule: every so often something happens to a random member; then heal and demand progress."""
    chain = SimChain(seed, faults=faults)
    net = chain.net

    def strike() -> None:
        if net.now > STRIKES_END_S:
            return
        name = net.random.choice([*chain.config.members, chain.config.joining or chain.config.tail])
        kind = net.random.random()
        if kind < 0.6 and net.alive(name) and name not in cut and chain.survivable(name):
            others = [m for m in chain.config.members if m != name and net.alive(m) and m not in cut]
            if any(chain.replicas[m].established for m in others):
                cut.append(name)
                (chain.expel if expel and net.random.random() < 0.5 else chain.crash)(name)
        elif len(chain.config.members) < 4 and not chain.config.joining:
            back = [m for m in cut if rejoin and net.alive(m) and m not in chain.config.members]
            if back:
                for other in list(chain.replicas) + [c.name for c in chain.clients] + [b"decider"]:
                    net.join(back[0], other)
                cut.remove(back[0])
                chain.add(back[0])
            else:
                chain.add()
        net.call_at(net.now + net.random.uniform(0.05, 0.3), strike)

    def observe() -> None:
        chain.check()
        net.call_at(net.now + 0.01, observe)

    cut: list[bytes] = []
    net.call_at(0.1, strike)
    net.call_at(0, observe)
    net.run_until(STRIKES_END_S + 0.5)  # the decider has time to remove, after its lease, whoever is still cut off
    chain.settle()
    return chain


def assert_linearizable(chain: SimChain) -> None:
    history = [operation for client in chain.clients for operation in client.operations()]
    assert len(history) == 100
    end = chain.net.now + 1
    final = chain.final_state()
    keys = {operation.key for operation in history}
    history += [Operation(key, ("get",), final.get(key), end, end, b"final") for key in sorted(keys)]
    verdict = check(history, register_step)
    assert verdict, (chain.net.seed, verdict)


def assert_watches_complete(chain: SimChain) -> None:
    """Each watcher got one present state, then every later change once, in order."""
    truth = chain.committed_changes()
    for client in chain.clients:
        start, reset, state = client.seen[0]
        assert reset
        assert not any(later_reset for _, later_reset, _ in client.seen[1:])
        rows: dict[bytes, bytes] = {}
        for change in truth:
            if change.version <= start:
                rows.pop(change.key, None)
                if change.value is not None:
                    rows[change.key] = change.value
        assert {change.key: change.value for change in state} == rows, chain.net.seed
        received = [change for _, _, changes in client.seen[1:] for change in changes]
        assert received == [change for change in truth if change.version > start], chain.net.seed


@pytest.mark.parametrize("first", range(0, 100, SEEDS_A_TEST))
def test_no_acknowledged_write_is_lost_when_members_crash_and_new_ones_catch_up(first):
    for seed in range(first, first + SEEDS_A_TEST):
        chain = drive(seed, expel=False)
        assert_linearizable(chain)
        assert_watches_complete(chain)


@pytest.mark.parametrize("first", range(1000, 1040, SEEDS_A_TEST))
def test_a_member_cut_off_alive_serves_nothing_stale_and_may_come_back(first):
    for seed in range(first, first + SEEDS_A_TEST):
        chain = drive(seed, expel=True, rejoin=True)
        assert_linearizable(chain)
        assert_watches_complete(chain)


def test_one_seed_is_one_schedule():
    hashes = {drive(7, expel=True).net.trace_hash() for _ in range(2)}
    assert len(hashes) == 1
    assert drive(8, expel=True).net.trace_hash() not in hashes
