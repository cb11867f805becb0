"""The worker pool against an obvious model: every event in any order, invariants after each."""

from __future__ import annotations

from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tests.fakes.room import roomy
from zray.node.effects import Kill, Send, Spawn
from zray.node.processes.pool import Kind, State, WorkerPool

KINDS = [Kind.of(job, env, gpus) for job in (1, 2) for env in ({}, {"A": "1"}, {"LD_PRELOAD": "x"})
         for gpus in ((), (0,))]
KINDS += [Kind.of(1, env, hook="m.hook") for env in ({}, {"LD_PRELOAD": "x"})]


class PoolMachine(RuleBasedStateMachine):
    """The model: which token got which worker, and what each worker has ever served."""

    tokens = Bundle("tokens")

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.count = 0
        self.out = []
        self.pool = WorkerPool(self.new_id, self.out.append, keep=2, workers_max=6, idle_s=10.0,
                               room=roomy(), may_retire=lambda worker: True, is_over=lambda job: False)
        self.waiting = {}
        self.using = {}
        self.served = {}
        self.starting = []
        self.leaving = []
        self.started_for = {}

    def new_id(self):
        self.count += 1
        return self.count.to_bytes(28, "little")

    def serve(self, pairs):
        for token, worker in pairs:
            kind = self.waiting.pop(token)
            self.take_on(token, worker, kind)

    def take_on(self, token, worker, kind):
        assert worker.incarnation not in self.using.values(), "one worker, two users"
        assert self.served.setdefault(worker.incarnation, kind) == kind, "a worker changed its kind"
        assert worker.incarnation not in self.leaving
        assert self.started_for[worker.incarnation] == (kind if kind.fresh else None), "not started under its variables"
        self.pool.use(worker, State.LEASED, 1, self.now)
        self.using[token] = worker.incarnation

    @rule(target=tokens, kind=st.sampled_from(KINDS))
    def take(self, kind):
        self.count += 1
        token = self.count
        worker = self.pool.take(kind, token, self.now)
        if worker is None:
            self.waiting[token] = kind
        else:
            self.take_on(token, worker, kind)
        return token

    @rule(token=consumes(tokens))
    def finish(self, token):
        if token in self.waiting:
            assert self.pool.cancel(token)
            del self.waiting[token]
        elif token in self.using:
            worker = self.pool.workers[self.using.pop(token)]
            self.serve(self.pool.release(worker, self.now))

    @rule(which=st.integers(0, 9))
    def becomes_ready(self, which):
        if self.starting:
            incarnation = self.starting.pop(which % len(self.starting))
            self.serve(self.pool.ready(incarnation, "ipc://x", self.now))

    @rule(which=st.integers(0, 9))
    def dies(self, which):
        alive = list(self.pool.workers)
        if alive:
            incarnation = alive[which % len(alive)]
            self.pool.workers[incarnation].pid = which
            self.pool.died(incarnation, self.now, "last words", equipping=which % 2 == 0)
            self.using = {t: w for t, w in self.using.items() if w != incarnation}
            self.starting = [w for w in self.starting if w != incarnation]
            self.leaving = [w for w in self.leaving if w != incarnation]

    @rule(which=st.integers(0, 9))
    def is_killed(self, which):
        alive = list(self.pool.workers)
        if alive:
            incarnation = alive[which % len(alive)]
            end = self.pool.dismiss if which % 2 else self.pool.kill
            end(self.pool.workers[incarnation], "test", self.now)
            self.starting = [w for w in self.starting if w != incarnation]

    @rule(seconds=st.sampled_from([0.1, 6.0, 11.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.pool.tick(self.now)

    @rule()
    def prestart(self):
        self.pool.prestart(self.now)

    @invariant()
    def holds(self):
        for effect in self.out:
            if isinstance(effect, Spawn):
                self.starting.append(effect.worker[:8])
                self.started_for[effect.worker[:8]] = effect.kind
            elif isinstance(effect, (Kill, Send)):
                self.leaving.append(effect.incarnation if isinstance(effect, Kill) else effect.peer)
        self.out.clear()
        self.pool.check()
        for token, kind in self.waiting.items():
            assert self.pool.waits(token), f"{kind} was forgotten"

    def teardown(self):
        """Progress: with time, and workers that start and die, every waiting request is served."""
        for _ in range(200):
            if not self.waiting:
                return
            self.now += 6.0
            self.pool.tick(self.now)
            self.holds()
            for incarnation in list(self.leaving):
                self.pool.died(incarnation, self.now)
                self.using = {t: w for t, w in self.using.items() if w != incarnation}
            self.leaving.clear()
            for token in list(self.using):
                self.serve(self.pool.release(self.pool.workers[self.using.pop(token)], self.now))
            while self.starting:
                self.serve(self.pool.ready(self.starting.pop(), "ipc://x", self.now))
                self.holds()
        raise AssertionError(f"never served: {self.waiting}")


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
