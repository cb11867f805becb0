"""The choice of a worker that ends when memory runs out, against the rules written out."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from zray.node.processes.memory import Candidate, MemoryMonitor, MemoryPorts, Reading, choose

WORKERS = st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.integers(0, 4)), min_size=1, max_size=8)


def candidates(drawn, idle=False):
    return [Candidate(b"%d" % number, number, job, "f", idle, again, float(since))
            for number, (job, again, since) in enumerate(drawn)]


@given(WORKERS)
def test_the_last_worker_of_a_job_stays_while_another_job_can_give_then_retriable_ones_go_then_the_youngest(drawn):
    workers = candidates(drawn)
    chosen, why = choose(workers)

    def is_last(one):
        return sum(other.job == one.job for other in workers) == 1

    for other in workers:
        if is_last(chosen) and not is_last(other):
            raise AssertionError("a job lost its last worker though another could give")
        if is_last(chosen) == is_last(other) and not chosen.may_run_again:
            assert not other.may_run_again, "work was lost though other work could run again"
        if (is_last(chosen), chosen.may_run_again) == (is_last(other), other.may_run_again):
            assert (other.since, other.worker) <= (chosen.since, chosen.worker), "an older one went first"
    assert why


@settings(max_examples=200)
@given(WORKERS, st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 100), st.booleans()), max_size=30))
def test_at_most_one_worker_is_on_its_way_out_and_nobody_ends_while_there_is_room(drawn, events):
    """Each event: time passes, so much of 100 is in use, and the process that ends may be gone."""
    alive = {one.worker: one for one in candidates(drawn)}
    ended, now, used = [], 0.0, 0

    def end(verdict):
        assert used >= 95, "there was room"
        ended.append((now, verdict.worker))
        del alive[verdict.worker]

    monitor = MemoryMonitor(0.25, 0.95, False, MemoryPorts(
        lambda: [Reading(used, 100, "x")], lambda pid: 1 << 20, lambda: list(alive.values()), lambda held: None,
        lambda: 1 << 40, end))
    gone = set()
    for seconds, percent, goes in events:
        now, used = now + seconds, percent
        before = len(ended)
        monitor.settle(bool(alive), now)
        monitor.tick(now)
        monitor.check()
        assert len(ended) - before <= 1
        if len(ended) > max(1, before) and ended[-2][1] not in gone:
            assert ended[-1][0] - ended[-2][0] >= 2.0, "the one before had no time to go"
        if goes and ended:
            monitor.gone(ended[-1][1])
            gone.add(ended[-1][1])
