"""``breakpoint()`` and errors in tasks and actors: a terminal attaches, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.e2e.debugged import Typist, answer, attached, one_stop, session_dir, stops
from tests.e2e.nodes import ended
from tests.e2e.scripts import environment
from tests.e2e.target import exceptions, ray, until, waits_because

pytestmark = pytest.mark.zray_only


@ray.remote
def doubled(x):
    y = x + 1
    breakpoint()
    z = y * 2
    return z


@ray.remote
def fails(x):
    share = 100
    return share / x


def nothing_waits() -> bool:
    folder = os.path.join(session_dir(), "debug")
    return not os.path.isdir(folder) or not os.listdir(folder)


def test_a_terminal_attaches_to_a_breakpoint_and_the_task_runs_on(cluster):
    ref = doubled.remote(1)
    stop = one_stop(name="doubled")
    assert os.path.basename(stop.file) == "test_debugging.py" and stop.function == "doubled" and stop.error == ""
    with attached(stop) as terminal:
        assert "z = y * 2" in terminal.greeting
        assert terminal.say("p y") == "2\n"
        assert "y = x + 1" in terminal.say("list")
        assert terminal.complete("sta", "p stop.sta") == [] and "next" in terminal.complete("ne", "ne")
        stack = terminal.say("where")
        assert "doubled()" in stack and "executor" not in stack
        assert "Oldest" in terminal.say("up")
        terminal.say("!y = 10")
        assert "return z" in terminal.say("next")
        assert "20" in terminal.say("interact") + terminal.say("z") and terminal.say("exit").strip() == ""
        assert "submit it again" in terminal.say("restart")
        assert "runs on" in terminal.say("continue") and terminal.is_over
    assert ray.get(ref) == 20
    assert nothing_waits()


def test_a_whole_session_in_a_terminal(session_root, tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import zray as ray\nray.init(num_cpus=1)\n@ray.remote\ndef step(n):\n    total = n * 7\n"
                      "    breakpoint()\n    return total\nprint('result', ray.get(step.remote(6)))\n")
    driver = subprocess.Popen([sys.executable, script], env=environment(), text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
    try:
        a_whole_session(driver, script)
    finally:
        driver.kill()
        driver.communicate()


def a_whole_session(driver, script):
    line = next(line for line in driver.stdout if "zray debug" in line)
    assert f"step() waits at a breakpoint, {script}:6" in line
    stop = line.split()[-1]
    assert stop in answer("debug", "--list") and f'"id": "{stop}"' in answer("debug", "--format", "json")
    terminal = Typist("debug")  # the only one: no id is needed
    terminal.wait(f"({stop}) ")
    terminal.type("p tot\t\n")
    terminal.wait("42")
    terminal.wait(f"({stop}) ")
    terminal.interrupt("Ctrl-D leaves it waiting")  # Ctrl-C drops a line, and nothing else
    terminal.wait(f"({stop}) ")  # before that, the terminal itself would take Ctrl-D
    terminal.type("\x04")
    assert "Left it waiting" in terminal.end()
    assert driver.poll() is None
    again = Typist("debug", stop[:4])
    again.wait(f"({stop}) ")
    again.type("c\n")
    assert "The task runs on." in again.end()
    assert "result 42" in driver.stdout.read() and driver.wait(30) == 0
    assert "nothing waits for a debugger" in answer("debug")
    assert "these wait: none" in answer("debug", stop, code=1)


def test_breakpoints_of_pdb_hold_to_the_end_of_the_call_and_no_longer(cluster):
    @ray.remote(num_cpus=0)
    class Summing:
        def sum(self, count, stops):
            total = 0
            if stops:
                breakpoint()
            for i in range(count):
                total += i
            return total

    actor = Summing.remote()
    ref = actor.sum.remote(3, True)
    with attached(one_stop(name="Summing.sum")) as terminal:
        assert "Breakpoint 1" in terminal.say(f"break {_line_of('total += i')}, i == 2")
        assert "total += i" in terminal.say("continue") and terminal.say("p total, i") == "(1, 2)\n"
        assert "--Return--" in terminal.say("return")
        assert "sum() has ended" in terminal.say("next") and terminal.is_over
    assert ray.get([ref, actor.sum.remote(4, False)]) == [3, 6]
    assert nothing_waits()
    ray.kill(actor)


def _line_of(text: str) -> int:
    with open(__file__) as file:
        return next(number for number, line in enumerate(file, 1) if line.strip() == text)


def test_async_actors_generators_and_threads_are_debugged(cluster):
    @ray.remote(num_cpus=0)
    class Asynchronous:
        async def twice(self, x):
            import asyncio

            breakpoint()
            await asyncio.sleep(0)
            y = 2 * x
            return y

    @ray.remote(num_cpus=0, max_concurrency=2)
    class Threaded:
        def twice(self, x):
            breakpoint()
            return 2 * x

    @ray.remote
    def counts(n):
        for i in range(n):
            breakpoint()
            yield i

    ref = Asynchronous.remote().twice.remote(4)
    with attached(one_stop(name="Asynchronous.twice")) as terminal:
        assert "sleep" in terminal.greeting
        assert "y = 2 * x" in terminal.say("next")
        assert "asyncio" not in terminal.say("where")
        assert "return y" in terminal.say("step")
        terminal.say("continue")
    assert ray.get(ref) == 8
    refs = [(threaded := Threaded.remote()).twice.remote(x) for x in (1, 2)]
    until(lambda: len(stops()) == 2, "both threads wait")
    for stop in stops():
        with attached(stop) as terminal:
            terminal.say("continue")
    assert ray.get(refs) == [2, 4]
    del threaded
    items = counts.options(num_returns="streaming").remote(2)
    for _ in range(2):
        with attached(one_stop(function="counts")) as terminal:
            assert "yield i" in terminal.greeting
            terminal.say("continue")
    assert [ray.get(item) for item in items] == [0, 1]
    assert nothing_waits()


def test_quit_ends_the_task_and_says_so(cluster):
    ref = doubled.remote(1)
    with attached(one_stop(name="doubled")) as terminal:
        assert "bdb.BdbQuit" in terminal.say("quit")
    with pytest.raises(exceptions.RayTaskError, match="BdbQuit"):
        ray.get(ref)
    assert nothing_waits()


def test_explanations_and_lists_say_that_a_task_waits_in_the_debugger(cluster):
    from zray.util.state import get_task, list_workers

    ref = doubled.remote(1)
    stop = one_stop(name="doubled")
    waits_because(ref, f"it has stopped for the debugger (attach with: zray debug {stop.id}")
    assert get_task(ref).is_debugger_paused
    paused = [row.pid for row in list_workers(detail=True) if row.num_paused_threads]
    assert paused == [stop.pid]
    with attached(stop) as terminal:
        waits_because(ref, f"zray debug {stop.id}")
        terminal.say("continue")
    assert ray.get(ref) == 4 and "ready" in ray.explain(ref)


def test_a_terminal_that_goes_leaves_the_task_waiting_where_it_is(cluster):
    ref = doubled.remote(1)
    stop = one_stop(name="doubled")
    with attached(stop) as terminal:
        (taken,) = stops()
        assert taken.attached == os.getpid() and f"attached to pid {os.getpid()}" in answer("debug", "--list")
        assert "a terminal is attached" in answer("debug", stop.id, code=1)
        terminal.say("next")
    again = one_stop(id=stop.id)
    assert again.line == stop.line + 2 and again.attached == 0
    with attached(again) as terminal:
        assert "return z" in terminal.greeting
        terminal.say("detach")
    assert ray.get(ref) == 4


@pytest.mark.parametrize("is_attached", [False, True])
def test_a_cancelled_task_leaves_the_debugger(cluster, is_attached):
    ref = doubled.remote(1)
    stop = one_stop(name="doubled")
    if is_attached:
        with attached(stop) as terminal:
            ray.cancel(ref)
            assert "was cancelled" in terminal._until_asked() and terminal.is_over
    else:
        ray.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref)
    until(nothing_waits, "record and socket are gone")


def test_nothing_stays_of_a_worker_that_is_killed(cluster):
    ref = doubled.options(max_retries=0).remote(1)
    stop = one_stop(name="doubled")
    os.kill(stop.pid, signal.SIGKILL)
    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(ref)
    until(nothing_waits, "the node removes the record and the socket")


def test_nothing_stays_when_the_driver_ends(fresh):
    ray.init(num_cpus=1)
    doubled.remote(1)
    stop = one_stop(name="doubled")
    ray.shutdown()
    until(lambda: ended(stop.pid), "the worker ends")


def test_the_python_variable_for_breakpoints_counts_first(cluster):
    ref = doubled.options(runtime_env={"env_vars": {"PYTHONBREAKPOINT": "0"}}).remote(1)
    other = doubled.options(runtime_env={"env_vars": {"RAY_DEBUG": "0"}}).remote(1)
    assert ray.get([ref, other]) == [4, 4]


def test_the_names_of_ray_stop_too(cluster):
    @ray.remote
    def names():
        import zray.util as util

        util.pdb.set_trace()
        from zray.util import rpdb

        rpdb.set_trace()
        return util.rpdb is rpdb

    ref = names.remote()
    with attached(one_stop(name="names")) as terminal:
        assert "import rpdb" in terminal.greeting
        terminal.say("continue")
    with attached(one_stop(name="names")) as terminal:
        assert "return util.rpdb is rpdb" in terminal.greeting
        terminal.say("continue")
    assert ray.get(ref)


POST_MORTEM = {"env_vars": {"ZRAY_DEBUG_POST_MORTEM": "1"}}


def test_a_task_that_raises_waits_at_the_raise(cluster):
    ref = fails.options(runtime_env=POST_MORTEM).remote(0)
    stop = one_stop(name="fails")
    assert stop.kind == "post-mortem" and stop.error == "ZeroDivisionError: division by zero"
    assert stop.until_s - stop.since_s == pytest.approx(600)
    with attached(stop) as terminal:
        assert "ZeroDivisionError" in terminal.greeting and "return share / x" in terminal.greeting
        assert "executor" not in terminal.greeting + terminal.say("where")
        assert terminal.say("p share, x") == "(100, 0)\n"
        assert "fails with its error" in terminal.say("quit")
    with pytest.raises(ZeroDivisionError):
        ray.get(ref)
    assert nothing_waits()


def test_a_constructor_and_an_item_of_a_map_wait_at_the_raise(cluster):
    @ray.remote(num_cpus=0, runtime_env=POST_MORTEM)
    class Broken:
        def __init__(self):
            raise LookupError("no such thing")

        def get(self):
            return 1

    called = Broken.remote().get.remote()
    results = fails.options(runtime_env=POST_MORTEM).map([0])
    until(lambda: len(stops()) == 2, "both wait")
    assert sorted(stop.error.split(":")[0] for stop in stops()) == ["LookupError", "ZeroDivisionError"]
    for stop in stops():
        with attached(stop) as terminal:
            terminal.say("continue")
    with pytest.raises(exceptions.RayActorError, match="no such thing"):
        ray.get(called)
    with pytest.raises(ZeroDivisionError):
        ray.get(results)


def test_a_cancelled_task_does_not_wait_after_its_error(cluster):
    ref = fails.options(runtime_env=POST_MORTEM).remote(0)
    one_stop(name="fails")
    ray.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref)
    until(nothing_waits, "record and socket are gone")


def test_the_wait_after_an_error_has_a_limit_and_argument_errors_do_not_wait(fresh, monkeypatch):
    monkeypatch.setenv("RAY_DEBUG_POST_MORTEM", "1")  # of the driver, as in Ray
    ray.init(num_cpus=1, _system_config={"post_mortem_wait_s": 0.2})
    ref = fails.remote(0)
    with pytest.raises(ZeroDivisionError):
        ray.get(ref)
    ray.shutdown()
    ray.init(num_cpus=1)
    ref = fails.remote(ref_that_failed := fails.remote(0))
    with attached(one_stop(name="fails")) as terminal:
        terminal.say("quit")
    with pytest.raises(ZeroDivisionError):
        ray.get(ref)
    assert nothing_waits() and ref_that_failed is not ref


@pytest.mark.slow  # debugpy reads the metadata of all installed packages, and starts a process
@pytest.mark.timeout(300)
def test_an_editor_attaches_with_debugpy(cluster):
    pytest.importorskip("debugpy")
    from tests.e2e.editor import Editor
    from zray.util.state import list_workers

    ref = doubled.options(runtime_env={"env_vars": {"RAY_DEBUG": "1"}}).remote(1)
    stop = until(lambda: next((each for each in stops() if each.kind == "debugpy"), None), "it listens", 120)
    assert f"127.0.0.1:{stop.port}" in answer("debug", "--list")
    assert f"attach an editor to 127.0.0.1:{stop.port}" in answer("debug", stop.id, code=1)
    assert [row.debugger_port for row in list_workers(detail=True) if row.pid == stop.pid] == [stop.port]
    editor = Editor(stop.port)
    name, line = editor.stopped()
    assert name == "doubled" and line >= stop.line
    editor.run_on()
    assert ray.get(ref) == 4
    until(nothing_waits, "the record is gone")


@pytest.mark.slow
def test_stops_of_all_nodes_are_listed_and_one_of_another_machine_says_where(grow, monkeypatch):
    from zray.node.running import session

    ray.shutdown()  # of the tests before this one
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1, "resources": {"far": 1}})
    head, far = cluster.list_all_nodes()
    ref = doubled.options(resources={"far": 1}).remote(1)
    stop = one_stop(far.session_dir, name="doubled")
    live = session.live_sessions()

    def run(*arguments: str) -> str:
        return answer("debug", *arguments, "--address", head.session_dir, code=None)

    assert stop.id in run("--list") and f" on {stop.host}" not in run("--list")
    monkeypatch.setattr(session, "live_sessions", lambda: [one for one in live if one.session_dir == head.session_dir])
    assert f"pid {stop.pid} on {stop.host}" in run("--list")  # as if the node were on a machine of its own
    assert f"ssh -t {stop.host} zray debug {stop.id}" in run(stop.id)
    with attached(stop, far.session_dir) as terminal:
        terminal.say("continue")
    assert ray.get(ref) == 4
