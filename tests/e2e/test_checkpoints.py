"""Actors with checkpoints, and real kill -9: the state is the sequential one, whatever dies when."""

from __future__ import annotations

import datetime
import os
import random
import signal
import threading

import pytest

from tests.e2e.target import exceptions, ray, until
from zray.base.checkpoint_names import PARTIAL

pytestmark = pytest.mark.zray_only


class Ledger:
    """The state is the list of all calls: a call that is lost, doubled or misplaced shows."""

    def __init__(self, log=None):
        self.entries = []
        self.log = log  # a file with a line for each run of a call, whatever becomes of its process
        self.lives = 1

    def add(self, entry):
        self.entries.append(entry)
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{entry}\n")
        return len(self.entries)

    def all(self):
        return self.entries

    def pid(self):
        return os.getpid()

    def node(self):
        return ray.get_runtime_context().get_node_id()

    def stream(self, n):
        for i in range(n):
            self.entries.append(("item", i))
            yield i


class Own(Ledger):
    """With methods of its own for the state, and a part that cannot be pickled."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.made = 1

    def __zray_save__(self):
        return self.entries

    def __zray_restore__(self, state):
        self.entries = state

    def has_lock(self):
        return self.lock is not None and self.made == 1


def saved(cls=Ledger, **options):
    return ray.remote(**{"max_restarts": -1, "checkpoint_interval": 10, "num_cpus": 0, **options})(cls)


def kill(actor):
    pid = ray.get(actor.pid.remote())
    os.kill(pid, signal.SIGKILL)
    return pid


def files():
    folder = os.path.join(ray._private.worker._global_node.get_session_dir_path(), "checkpoints")
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def replayed(log, calls):
    """Runs of calls beyond the first of each."""
    return len(log.read_text().splitlines()) - calls


# ------------------------------------------------------------ one node


@pytest.fixture
def one(cluster):
    pass


@pytest.mark.parametrize("interval", [1, 10, 1000, 0.05, "50ms", datetime.timedelta(seconds=0.05)])
def test_a_killed_actor_comes_back_with_its_state(one, interval):
    actor = saved(checkpoint_interval=interval).remote()
    assert ray.get([actor.add.remote(i) for i in range(25)]) == list(range(1, 26))
    killed = kill(actor)
    assert ray.get([actor.add.remote(i) for i in range(25, 50)]) == list(range(26, 51))
    assert ray.get(actor.all.remote()) == list(range(50)) and ray.get(actor.pid.remote()) != killed


def test_a_checkpoint_saves_replays(one, tmp_path):
    log, every = tmp_path / "log", tmp_path / "every"
    with_checkpoints = saved().remote(str(log))
    without = saved(checkpoint_interval=10_000).remote(str(every))
    for actor in (with_checkpoints, without):
        for i in range(200):
            ray.get(actor.add.remote(i))
        if actor is with_checkpoints:
            until(lambda: any(int(name.rpartition("-")[2]) >= 190 for name in files() if not name.endswith(PARTIAL)))
        kill(actor)
        assert ray.get(actor.all.remote()) == list(range(200))
    assert replayed(every, 200) == 200
    assert replayed(log, 200) * 20 <= 200  # at most what came after the last checkpoint that was stored


def test_methods_of_the_class_save_and_restore_what_it_says(one):
    actor = saved(Own, checkpoint_interval=3).remote()
    ray.get([actor.add.remote(i) for i in range(10)])
    kill(actor)
    assert ray.get(actor.all.remote()) == list(range(10)) and ray.get(actor.has_lock.remote())


def test_several_callers_see_one_order(one):
    @ray.remote(num_cpus=0)
    def call(actor, me, count):
        return [(ray.get(actor.add.remote((me, i))), me, i) for i in range(count)]

    actor = saved(checkpoint_interval=7).remote()
    tasks = [call.remote(actor, me, 30) for me in range(3)]
    kills = 0
    while kills < 3:
        kill(actor)
        kills += 1
        ray.get(actor.add.remote(("driver", kills)))
    seen = [one for task in ray.get(tasks) for one in task]
    entries = ray.get(actor.all.remote())
    assert len(entries) == len(set(entries)) == 93
    assert all(entries[place - 1] == (me, i) for place, me, i in seen)


def test_a_call_that_ends_its_process_ends_as_its_retries_say(one):
    class Fragile(Ledger):
        def crash(self):
            self.entries.append("crash")
            os._exit(3)

    actor = saved(Fragile).remote()
    ray.get([actor.add.remote(i) for i in range(5)])
    with pytest.raises(exceptions.ActorUnavailableError):
        ray.get(actor.crash.options(max_task_retries=0).remote())
    until(lambda: ray.get(actor.pid.remote()))
    assert ray.get(actor.all.remote()) == list(range(5))


def test_exceptions_generators_and_large_values_are_replayed_for_their_effect(one):
    import numpy as np

    class Wide(Ledger):
        def fail(self):
            self.entries.append("failed")
            raise ValueError("on purpose")

        def large(self, array):
            self.entries.append(float(array.sum()))
            return array + 1

        def touch(self):
            self.array = np.zeros(10)
            self.array[3] = 7  # arrays of a restored state can be written

        def write(self):
            self.array[4] = 8
            return self.array.sum()

    actor = saved(Wide, checkpoint_interval=100).remote()
    with pytest.raises(ValueError):
        ray.get(actor.fail.remote())
    assert [ray.get(item) for item in actor.stream.remote(3)] == [0, 1, 2]
    first = actor.large.remote(np.ones(200_000))
    assert ray.get(first).sum() == 400_000
    ray.get(actor.touch.remote())
    kill(actor)
    assert ray.get(actor.all.remote()) == ["failed", ("item", 0), ("item", 1), ("item", 2), 200_000.0]
    assert ray.get(actor.write.remote()) == 15 and ray.get(first).sum() == 400_000


def test_a_caller_that_ends_has_its_calls_in_a_checkpoint(one):
    @ray.remote(num_cpus=0, max_retries=0)
    def call(actor):
        for i in range(5):
            ray.get(actor.add.remote(i))
        os._exit(1)

    actor = saved(checkpoint_interval=1000).remote()
    ray.get(actor.add.remote("first"))
    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(call.remote(actor))
    until(lambda: files())  # the checkpoint that the end of the caller asks for
    kill(actor)
    assert ray.get(actor.all.remote()) == ["first", *range(5)]


def test_a_full_log_asks_for_a_checkpoint_and_calls_wait_for_it(fresh):
    ray.init(num_cpus=2, _system_config={"call_log_bytes_max": 20_000})
    actor = saved(checkpoint_interval=10**6).remote()
    refs = [actor.add.remote("x" * 1000) for _ in range(300)]
    assert ray.get(refs[-1]) == 300  # all may have left before the first answer: answered calls fill the log
    assert ray.get(actor.add.remote("waits")) == 301
    assert files()
    kill(actor)
    assert len(ray.get(actor.all.remote())) == 301


def test_a_named_detached_actor_keeps_its_state_too(fresh):
    ray.init(num_cpus=2, namespace="here")
    actor = saved().options(name="kept", lifetime="detached").remote()
    ray.get([actor.add.remote(i) for i in range(15)])
    kill(actor)
    found = ray.get_actor("kept")
    assert ray.get(found.all.remote()) == list(range(15))
    ray.kill(actor, no_restart=False)
    until(lambda: ray.get(found.add.remote(15)) == 16)
    ray.kill(actor)
    until(lambda: not files())


def test_nothing_is_left_of_an_actor_that_has_ended(one):
    before = files()
    actor = saved(checkpoint_interval=1).remote()
    ray.get([actor.add.remote(i) for i in range(5)])
    until(lambda: files() != before)
    del actor
    until(lambda: files() == before)


def test_a_folder_of_the_user_has_the_checkpoints(one, tmp_path):
    folder = tmp_path / "deep" / "er"
    actor = saved(checkpoint_dir=folder).remote()
    ray.get([actor.add.remote(i) for i in range(35)])
    kill(actor)
    assert ray.get(actor.all.remote()) == list(range(35))
    assert 1 <= len(list(folder.iterdir())) <= 3 and not list(folder.glob("*.part"))


def test_an_address_for_fsspec_has_the_checkpoints(one, tmp_path):
    pytest.importorskip("fsspec")
    actor = saved(checkpoint_dir=f"file://{tmp_path}/remote", checkpoint_interval=1).remote()
    (tmp_path / "remote").mkdir()
    ray.get([actor.add.remote(i) for i in range(12)])
    kill(actor)
    assert ray.get(actor.all.remote()) == list(range(12))
    assert list((tmp_path / "remote").iterdir())


def test_a_state_that_cannot_be_saved_ends_the_actor_and_says_why(one):
    class Locked(Ledger):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

    actor = saved(Locked, checkpoint_interval=1).remote()
    with pytest.raises(exceptions.ActorDiedError, match=r"checkpoint cannot be made.*pickle"):
        for i in range(100):
            ray.get(actor.add.remote(i))


def test_a_state_that_cannot_be_restored_ends_the_actor_and_says_why(one):
    class Forgetful(Ledger):
        def __zray_save__(self):
            return 1

        def __zray_restore__(self, state):
            raise KeyError("what was it")

    actor = saved(Forgetful, checkpoint_interval=1).remote()
    ray.get(actor.add.remote(1))
    until(lambda: files())
    with pytest.raises(exceptions.ActorDiedError, match="what was it"):
        kill(actor)
        ray.get(actor.all.remote())


def test_checkpointable_of_old_programs(one, tmp_path):
    import pickle

    class Old(ray.actor.Checkpointable, Ledger):
        def __init__(self):
            Ledger.__init__(self)
            self.loaded = None

        def should_checkpoint(self, context):
            return len(self.entries) >= 3

        def save_checkpoint(self, actor_id, checkpoint_id):
            (tmp_path / checkpoint_id).write_bytes(pickle.dumps(self.entries))

        def load_checkpoint(self, actor_id, available_checkpoints):
            self.loaded = available_checkpoints[0].checkpoint_id
            self.entries = pickle.loads((tmp_path / self.loaded).read_bytes())
            return self.loaded

        def checkpoint_expired(self, actor_id, checkpoint_id):
            (tmp_path / checkpoint_id).unlink()

        def which(self):
            return self.loaded

    actor = ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)(Old).remote()
    for i in range(6):
        ray.get(actor.add.remote(i))
    kill(actor)
    assert ray.get(actor.all.remote()) == list(range(6)) and ray.get(actor.which.remote())
    assert 1 <= len(list(tmp_path.iterdir())) <= 3


@pytest.mark.parametrize("cls, options, said", [
    (Ledger, {"max_concurrency": 2}, "max_concurrency=2"),
    (Ledger, {"concurrency_groups": {"io": 2}}, "concurrency_groups"),
    (Ledger, {"max_restarts": 0}, "max_restarts=0"),
    (Ledger, {"checkpoint_interval": None, "checkpoint_dir": "/tmp"}, "checkpoint_dir"),
    (type("Half", (Ledger,), {"__zray_save__": Ledger.all}), {}, "__zray_restore__")])
def test_what_checkpoints_do_not_go_with_is_refused_by_name(one, cls, options, said):
    with pytest.raises(ValueError, match=said) as refused:
        saved(cls, **options).remote()
    assert cls.__name__ in str(refused.value)


def test_async_actors_are_refused(one):
    class Async:
        async def go(self):
            pass

    with pytest.raises(ValueError, match=r"Async.*is an async actor"):
        saved(Async).remote()


@pytest.mark.parametrize("interval, error", [(0, ValueError), (-1, ValueError), (True, TypeError), ("soon", ValueError),
                                             (0.0, ValueError), (float("inf"), ValueError), ([], TypeError)])
def test_an_interval_is_calls_or_a_time(interval, error):
    with pytest.raises(error, match="checkpoint_interval"):
        saved(checkpoint_interval=interval)


# ------------------------------------------------------------ kills


def kills(count, seed):
    """Kill an actor again and again while several processes call it; compare with the sequential answer."""
    rng = random.Random(seed)

    @ray.remote(num_cpus=0)
    def call(actor, me, stop):
        mine = []
        while not os.path.exists(stop):
            mine.append((ray.get(actor.add.remote((me, len(mine)))), me, len(mine)))
        return mine

    stop = os.path.join(os.environ["ZRAY_TMPDIR"], f"stop-{os.getpid()}-{seed}")
    actor = saved(checkpoint_interval=rng.choice((1, 5, 20))).remote()
    tasks = [call.remote(actor, me, stop) for me in range(2)]
    for number in range(count):
        refs = [actor.add.remote(("driver", number, i)) for i in range(rng.randint(1, 40))]
        ready, _ = ray.wait(refs, num_returns=rng.randint(1, len(refs)))
        kill(actor)
        assert ray.get(refs) == sorted(ray.get(refs))
    with open(stop, "w"):
        pass
    seen = [one for task in ray.get(tasks) for one in task]
    entries = ray.get(actor.all.remote())
    os.unlink(stop)
    assert len(entries) == len(set(entries))
    assert all(entries[place - 1] == (me, i) for place, me, i in seen)
    for me in range(2):
        mine = [i for who, i, *_ in entries if who == me]
        assert mine == list(range(len(mine)))
    ray.kill(actor)


def test_the_state_is_the_sequential_one_whatever_is_killed(one):
    kills(12, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_the_state_is_the_sequential_one_after_two_hundred_kills(one, seed):
    kills(20, seed=seed)
