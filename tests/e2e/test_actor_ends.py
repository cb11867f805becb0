"""However an actor ends, there is one rule for it: what callers get, what counts as a restart, what still runs."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import threading

import pytest

from tests.e2e.target import exceptions, ray, until

pytestmark = pytest.mark.zray_only


@pytest.fixture(autouse=True)
def _cluster(cluster):
    pass


def lines(path):
    return path.read_text().split() if path.exists() else []


def note(path, word):
    with open(path, "a") as file:
        file.write(word + "\n")


class Witness:
    """Writes down what its process runs as it ends."""

    def __init__(self, path):
        self.path = path
        self.itself = self  # a cycle
        self.file = open(f"{path}.rows", "w")
        self.file.write("rows")  # stays in Python's buffer
        atexit.register(note, path, "atexit")

    def pid(self):
        return os.getpid()

    def leave(self, how):
        if how == "exit_actor":
            ray.actor.exit_actor()
        sys.exit(0)

    def __ray_shutdown__(self):
        note(self.path, "shutdown")

    def __del__(self):
        note(self.path, "del")


class AsyncWitness(Witness):
    async def pid(self):
        return os.getpid()

    async def leave(self, how):
        super().leave(how)


KINDS = {
    "sync": lambda: ray.remote(Witness), "async": lambda: ray.remote(AsyncWitness),
    "threaded": lambda: ray.remote(max_concurrency=3)(Witness),
    "groups": lambda: ray.remote(concurrency_groups={"io": 2})(Witness)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["last handle", "__ray_terminate__", "exit_actor", "sys.exit"])
def test_exit_handlers_run_at_every_graceful_end(kind, end, tmp_path):
    path = tmp_path / "ran"
    actor = KINDS[kind]().remote(str(path))
    pid = ray.get(actor.pid.remote())
    if end == "last handle":
        del actor
    elif end == "__ray_terminate__":
        actor.__ray_terminate__.remote()
    else:
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(actor.leave.remote(end), timeout=30)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert lines(path) == ["shutdown", "del", "atexit"]
    assert (tmp_path / "ran.rows").read_text() == "rows"


def test_a_killed_actor_runs_no_exit_handlers(tmp_path):
    path = tmp_path / "ran"
    actor = ray.remote(Witness).remote(str(path))
    pid = ray.get(actor.pid.remote())
    ray.kill(actor)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert lines(path) == []


def test_a_worker_of_tasks_runs_its_atexit_handlers_when_it_is_no_longer_needed(tmp_path):
    @ray.remote(max_calls=1)
    def register():
        atexit.register(note, tmp_path / "ran", "atexit")
        return os.getpid()

    pid = ray.get(register.remote())
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert lines(tmp_path / "ran") == ["atexit"]


def test_an_instance_that_a_global_keeps_is_finalised_as_well(tmp_path):
    @ray.remote
    class Kept:
        def __init__(self):
            threading.kept = self  # as a global of a module

        def pid(self):
            return os.getpid()

        def __del__(self):
            note(tmp_path / "ran", "del")

    actor = Kept.remote()
    pid = ray.get(actor.pid.remote())
    del actor
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert lines(tmp_path / "ran") == ["del"]


def test_exit_handlers_may_use_the_session_and_one_that_raises_does_not_stop_the_others(tmp_path):
    @ray.remote
    class Saver:
        def __init__(self, keeper):
            atexit.register(lambda: ray.get(keeper.keep.remote("saved")))
            atexit.register(lambda: 1 / 0)

        def pid(self):
            return os.getpid()

        def __ray_shutdown__(self):
            raise ValueError("on purpose")

    @ray.remote
    class Keeper:
        def __init__(self):
            self.kept = []

        def keep(self, word=None):
            self.kept += [word] if word else []
            return self.kept

    keeper = Keeper.remote()
    saver = Saver.remote(keeper)
    pid = ray.get(saver.pid.remote())
    del saver
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert ray.get(keeper.keep.remote()) == ["saved"]


def make_mixed():
    @ray.remote(max_restarts=-1)
    class Mixed:
        @ray.method(max_task_retries=2, retry_exceptions=[KeyError])
        def work(self, path, *ends):
            tries = len(lines(path))
            note(path, "try")
            end = ends[min(tries, len(ends) - 1)]
            if end == "raise":
                raise KeyError(tries)
            if end == "exit":
                sys.exit(1)
            return end

        def ping(self):
            return "pong"

    return Mixed


@pytest.mark.parametrize(("ends", "error"), [
    (("raise", "exit", "done"), None), (("exit", "raise", "raise"), KeyError),
    (("raise", "raise", "exit"), exceptions.ActorUnavailableError), (("exit",), exceptions.ActorUnavailableError)])
def test_raising_and_exiting_draw_on_the_same_attempts(ends, error, tmp_path):
    path = tmp_path / "tries"
    actor = make_mixed().remote()
    if error is None:
        assert ray.get(actor.work.remote(path, *ends), timeout=60) == "done"
    else:
        with pytest.raises(error):
            ray.get(actor.work.remote(path, *ends), timeout=60)
    assert lines(path) == ["try"] * 3
    assert ray.get(actor.ping.options(max_task_retries=-1).remote(), timeout=60) == "pong"


@pytest.mark.parametrize("kind", ["sync", "async", "threaded"])
def test_sys_exit_counts_as_one_restart(kind):
    class Plain:
        def stop(self):
            sys.exit(3)

    class Async:
        async def stop(self):
            await asyncio.sleep(0)
            sys.exit(3)

    options = {"max_restarts": 1, "max_concurrency": 2 if kind != "sync" else 1}
    actor = ray.remote(Async if kind == "async" else Plain).options(**options).remote()
    with pytest.raises(exceptions.ActorUnavailableError, match=r"sys.exit\(3\) was called in .*\.stop\(\)"):
        ray.get(actor.stop.remote(), timeout=30)
    ray.get(actor.__ray_ready__.options(max_task_retries=-1).remote(), timeout=30)
    with pytest.raises(exceptions.ActorDiedError, match=r"sys.exit\(3\) was called in .*exited with code 3"):
        ray.get(actor.stop.remote(), timeout=30)
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(actor.stop.remote(), timeout=30)


def test_a_call_on_a_killed_process_that_restarts_says_what_ended_it():
    @ray.remote(max_restarts=1)
    class Killed:
        def end(self):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(exceptions.ActorUnavailableError, match=r"its process \(pid=\d+\) was killed by SIGKILL"):
        ray.get(Killed.remote().end.remote(), timeout=30)


def test_sys_exit_of_a_constructor_ends_the_actor_too():
    @ray.remote
    class Leaves:
        def __init__(self):
            sys.exit("no reason to start")

        def ping(self):
            return "pong"

    with pytest.raises(exceptions.ActorDiedError, match="sys.exit"):
        ray.get(Leaves.remote().ping.remote(), timeout=30)


def test_a_task_that_exits_takes_its_worker_and_only_itself(tmp_path):
    @ray.remote(max_retries=1)
    def work(i):
        if i == 5:
            note(tmp_path / "tries", "try")
            sys.exit(4)
        return i

    refs = [work.remote(i) for i in range(10)]
    mapped = work.map(range(10))
    for several in (refs, list(mapped)):
        with pytest.raises(exceptions.WorkerCrashedError, match="exited with code 4"):
            ray.get(several[5], timeout=60)
        assert ray.get([ref for i, ref in enumerate(several) if i != 5], timeout=60) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert lines(tmp_path / "tries") == ["try"] * 4


def test_a_call_during_a_restart_fails_at_once_unless_it_may_be_retried(gate):
    @ray.remote(max_restarts=1)
    class Slow:
        def __init__(self, again):
            if os.path.exists(again):
                gate.wait()
            open(again, "w").close()

        def ping(self):
            return "pong"

    @ray.remote
    def call(actor):
        try:
            return ray.get(actor.ping.remote(), timeout=30)
        except exceptions.ActorUnavailableError as error:
            return str(error)

    actor = Slow.remote(gate.path + ".again")
    assert ray.get(actor.ping.remote()) == "pong"
    ray.kill(actor, no_restart=False)
    for _ in range(2):  # the first may be in flight at the end; later ones say as much
        with pytest.raises(exceptions.ActorUnavailableError, match=(
                r"The actor .* is unavailable: The actor is restarting \(it was killed by `ray.kill`; "
                r"its process \(pid=\d+\) was killed by SIGKILL")) as caught:
            ray.get(actor.ping.remote(), timeout=30)
        assert caught.value.cause is None and not caught.value.actor_init_failed
    retried = actor.ping.options(max_task_retries=1).remote()
    assert "The actor is restarting" in ray.get(call.remote(actor), timeout=60)
    gate.open()
    assert ray.get(retried, timeout=30) == "pong"
    assert ray.get(actor.ping.remote(), timeout=30) == "pong"


@pytest.mark.parametrize("kind", ["async", "threaded"])
def test_sigterm_lets_the_running_calls_of_an_async_or_threaded_actor_end(kind, tmp_path):
    @ray.remote
    def one():
        return 1

    class Base:
        def __init__(self):
            self.gate = threading.Event()
            atexit.register(note, tmp_path / "ran", "atexit")

        def pid(self):
            return os.getpid()

    class Threaded(Base):
        def work(self, started, go):
            note(started, "started")
            while not os.path.exists(go):
                self.gate.wait(0.01)
            return ray.get(one.remote())

    class Async(Base):
        async def work(self, started, go):
            note(started, "started")
            while not os.path.exists(go):
                await asyncio.sleep(0.01)
            return await one.remote()

    actor = ray.remote(max_concurrency=3)(Async if kind == "async" else Threaded).remote()
    pid = ray.get(actor.pid.remote())
    running = [actor.work.remote(tmp_path / "started", tmp_path / "go") for _ in range(2)]
    until(lambda: len(lines(tmp_path / "started")) == 2)
    os.kill(pid, signal.SIGTERM)
    (tmp_path / "go").touch()
    assert ray.get(running, timeout=30) == [1, 1]
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    with pytest.raises(exceptions.ActorDiedError, match="SIGTERM"):
        ray.get(actor.pid.remote(), timeout=30)
    assert lines(tmp_path / "ran") == ["atexit"]


def test_an_actor_dies_with_its_placement_group_which_the_error_names():
    from zray.util.placement_group import placement_group, remove_placement_group
    from zray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([{"CPU": 1}])
    actor = ray.remote(num_cpus=1)(Waiter).options(
        scheduling_strategy=PlacementGroupSchedulingStrategy(group)).remote()
    ray.get(actor.ready.remote(), timeout=30)
    running = actor.wait.remote()
    remove_placement_group(group)
    for call in (running, actor.ready.remote()):
        with pytest.raises(exceptions.ActorDiedError, match=group.id.hex()) as caught:
            ray.get(call, timeout=30)
        assert isinstance(caught.value, exceptions.ActorPlacementGroupRemoved)
        assert caught.value.actor_id == actor._actor_id.hex() and not caught.value.actor_init_failed


class Waiter:
    def ready(self):
        return True

    def wait(self):
        threading.Event().wait(60)


def test_the_error_of_a_named_actor_that_was_killed_before_it_ran_says_both():
    big = ray.remote(num_cpus=1000)(Waiter).options(name="big").remote()
    call = big.ready.remote()
    ray.kill(big)
    with pytest.raises(exceptions.ActorDiedError) as caught:
        ray.get(call, timeout=30)
    first, *rest = str(caught.value).splitlines()
    assert first == "The actor died unexpectedly before finishing this task."
    assert "\tclass_name: Waiter" in rest and "\tname: big" in rest and f"\tactor_id: {big._actor_id.hex()}" in rest
    assert "The actor is dead because it was killed by `ray.kill`." in rest
    assert "The actor never ran - it was cancelled before it started running." in rest


def test_a_failed_constructor_says_so_in_the_attributes_of_the_error():
    @ray.remote
    class Broken:
        def __init__(self):
            raise ValueError("no")

        def ping(self):
            return 1

    actor = Broken.remote()
    with pytest.raises(exceptions.ActorDiedError) as caught:
        ray.get(actor.ping.remote(), timeout=30)
    error = caught.value
    assert (error.actor_init_failed, error.preempted, error.actor_id) == (True, False, actor._actor_id.hex())
    assert error.error_msg == str(error) and "raised in its creation task" in str(error)


def test_a_handle_of_an_earlier_session_finds_no_actor():
    actor = ray.remote(Waiter).remote()
    ray.get(actor.ready.remote(), timeout=30)
    ray.shutdown()
    ray.init(num_cpus=4)
    with pytest.raises(exceptions.RayActorError, match=r"Can't find actor .*It might be dead or it's from a different"):
        ray.get(actor.ready.remote(), timeout=30)
