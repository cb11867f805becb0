"""The table of installed environments, step by step against the obvious rules: who waits, what is tried, what goes."""

from __future__ import annotations

import json

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zray.node.effects import InstallEnvironment, RemoveInstalled, StopInstall
from zray.node.environments.table import SETUP_RETRY_S, EnvironmentTable, Step

ENVS = [{"working_dir": f"zray://{name}.zip", "config": {"setup_timeout_seconds": 30}} for name in "abc"]
SETUPS = [json.dumps({"working_dir": env["working_dir"]}) for env in ENVS]
KEPT = 250


class Table(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.leases = 0
        self.waiting = {}  # lease -> setup
        self.job_of = {}  # lease -> job
        self.asked = {}  # setup -> jobs whose packages were asked for, in the installation under way
        self.running = {}  # number -> setup, of installations that the shell performs
        self.folders = set()  # on the disk
        self.users = []  # setups that workers use
        self.effects = []
        self.table = EnvironmentTable(self.effects.append, kept_bytes_max=KEPT, used=lambda: self.users)

    def perform(self):
        for effect in self.effects:
            if type(effect) is InstallEnvironment:
                assert effect.setup not in self.running.values(), "one at a time"
                self.running[effect.number] = effect.setup
                self.asked.setdefault(effect.setup, set()).add(effect.job)
            elif type(effect) is StopInstall:
                del self.running[effect.number]
            elif type(effect) is RemoveInstalled:
                assert not self.running, "an installation may use what is there"
                for folder in effect.folders:
                    assert folder not in {f"/{setup}" for setup in self.users}
                    self.folders.remove(folder)
        self.effects.clear()

    @rule(which=st.integers(0, 2), job=st.integers(1, 3))
    def ask(self, which, job):
        self.leases += 1
        self.job_of[self.leases] = job
        if SETUPS[which] not in self.running.values():
            self.asked.pop(SETUPS[which], None)
        setup = SETUPS[which]
        before = self.table.installations.get(setup)
        failed_before = before is not None and before.step is Step.FAILED
        found = self.table.ask(setup, ENVS[which], job, self.leases, self.now)
        self.perform()
        if found is None:
            self.waiting[self.leases] = setup
            assert setup in self.running.values()
            assert not failed_before or before.retry_at <= self.now, "a failure holds for its pause"
        elif found.step is Step.READY:
            self.users.append(setup)
            assert f"/{setup}" in self.folders
        else:
            assert failed_before and before.retry_at > self.now
            assert "tries to set it up again" in found.equipment["error"]

    @precondition(lambda self: self.running)
    @rule(data=st.data(), works=st.booleans(), size=st.integers(1, 200))
    def end(self, data, works, size):
        number = data.draw(st.sampled_from(sorted(self.running)))
        setup = self.running.pop(number)
        wanted = {lease for lease, asked in self.waiting.items() if asked == setup}
        if works:
            self.folders.add(f"/{setup}")
            self.users.append(setup)
            leases = self.table.installed(number, {}, {f"/{setup}": size}, self.now)
        else:
            leases = self.table.failed(number, "no network", self.now)
        assert set(leases) == wanted, "all that waited, and no others"
        for lease in leases:
            del self.waiting[lease]
        self.perform()
        if works and not self.running:
            ready = [each for each in self.table.installations.values() if each.step is Step.READY]
            if sum(bytes_ for each in ready for bytes_ in each.sizes.values()) > KEPT:
                assert all(each.setup in self.users for each in ready), "all that is not used makes room"

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def job_is_gone(self, data):
        """The packages of the job that was asked are gone: those of another job that waits are tried, each once."""
        number = data.draw(st.sampled_from(sorted(self.running)))
        setup = self.running.pop(number)
        wanted = {lease for lease, asked in self.waiting.items() if asked == setup}
        others = {self.job_of[lease] for lease in wanted} - self.asked[setup]
        leases = self.table.failed(number, "not there", self.now, lost=True)
        self.perform()
        assert set(leases) == (set() if others else wanted)
        assert (setup in self.running.values()) == bool(others)
        for lease in leases:
            del self.waiting[lease]

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data):
        lease = data.draw(st.sampled_from(sorted(self.waiting)))
        setup = self.waiting.pop(lease)
        assert self.table.cancel(lease) and not self.table.cancel(lease)
        self.perform()
        assert (setup in self.running.values()) == (setup in self.waiting.values()), "stopped when nobody waits"

    @rule()
    def workers_end(self):
        self.users.clear()

    @rule(seconds=st.sampled_from([1.0, SETUP_RETRY_S, 40.0]))
    def time_passes(self, seconds):
        self.now += seconds
        due = self.table.next_deadline()
        for number, error in self.table.overdue(self.now):
            assert due <= self.now and "setup_timeout_seconds, 30 s" in error
            setup = self.running[number]
            for lease in self.table.failed(number, error, self.now):
                assert self.waiting.pop(lease) == setup
        self.perform()

    @invariant()
    def holds(self):
        self.table.check()
        assert all(self.table.waits(lease) for lease in self.waiting)
        ready = {f"/{each.setup}": each for each in self.table.installations.values() if each.step is Step.READY}
        assert set(ready) <= self.folders


TestTable = Table.TestCase
