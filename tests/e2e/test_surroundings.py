"""Machines short of something, drivers that do something else: /dev/shm, permissions, computing, threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.e2e.scripts import environment, run_script
from tests.e2e.target import IS_ZRAY, exceptions, ray, until

NOBODY = 65534


def with_shm(directory, mounting, source):
    """Run a program in a mount namespace of its own, with another /dev/shm."""
    if not IS_ZRAY or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs zray, and root for a mount namespace")
    probe = subprocess.run(["unshare", "-m", "sh", "-c", mounting], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no mount namespaces here: {probe.stderr.strip()}")
    script = directory / "train.py"
    script.write_text(source)
    done = subprocess.run(["unshare", "-m", "sh", "-c", f"{mounting} && exec {sys.executable} {script}"], text=True,
                          capture_output=True, timeout=60, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_shared_memory_of_8_mib_works_and_spills(tmp_path, session_root):
    done = with_shm(tmp_path, "mount -t tmpfs -o size=8m tmpfs /dev/shm", """
import numpy as np
import zray as ray
ray.init(num_cpus=2)
f = ray.remote(lambda x: x.sum())
kept = ray.put(np.arange(100_000))
refs = [ray.put(np.full(1 << 20, i, dtype=np.uint8)) for i in range(20)]
assert [int(ray.get(ref)[7]) for ref in refs] == list(range(20))
assert ray.get(f.remote(refs[3])) == 3 << 20
large = ray.put(np.full(1 << 25, 7, dtype=np.uint8))
assert ray.get(f.remote(large)) == 7 << 25
assert int(ray.get(kept)[-1]) == 99_999
print("done")
""")
    assert "done" in done.stdout


def test_a_shared_memory_and_a_disk_that_fill_up_are_a_clear_error_and_what_was_stored_stays(tmp_path, session_root):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=48m tmpfs /dev/shm && mount -t tmpfs -o size=8m tmpfs {disk}"
    done = with_shm(tmp_path, mount, f"DISK = {str(disk)!r}" + """
import os
import numpy as np
import zray as ray
ray.init(num_cpus=2, object_store_memory=32 << 20, _system_config={"spill_dir": DISK})
kept = ray.put(np.arange(100_000))
held = ray.get(ray.put(np.zeros(2 << 20, dtype=np.uint8)))
add = ray.remote(lambda x: x + 1)
assert ray.get(add.remote(1)) == 2
with open("/dev/shm/fill", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(65536))
    except OSError:
        pass
try:
    ray.put(np.zeros(10 << 20, dtype=np.uint8))
except ray.exceptions.OutOfDiskError as error:
    print(error)
big = ray.remote(lambda: np.zeros(10 << 20, dtype=np.uint8))
try:
    ray.get(big.remote())
except ray.exceptions.OutOfDiskError as error:
    print("in the worker")
assert int(ray.get(kept)[-1]) == 99_999
assert ray.get(add.remote(2)) == 3
os.unlink("/dev/shm/fill")
while True:  # the store looks again every few seconds
    try:
        assert ray.get(big.remote()).nbytes == 10 << 20
        break
    except ray.exceptions.OutOfDiskError:
        pass
""")
    assert "held by driver " in done.stdout, "the error says which processes hold the store"
    assert "The disk for spilled objects is full" in done.stdout
    assert "in the worker" in done.stdout


@pytest.mark.zray_only
def test_a_user_without_write_permission_is_told_so_in_one_sentence(tmp_path, session_root):
    """Also where root runs the tests, who may write everywhere."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else; see test_bad_input for the others")
    done = run_script(tmp_path, f"""
        import os
        from zray.node.running import session
        os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
        try:
            session.create()
        except session.SessionError as error:
            print(error)
    """, ZRAY_TMPDIR=session_root)
    assert session_root in done.stdout
    assert "Permission denied" in done.stdout
    assert "ZRAY_TMPDIR" in done.stdout


@pytest.mark.skipif(not IS_ZRAY, reason="the script imports zray")
def test_a_program_with_thousands_of_open_files_starts_and_ends_a_session(tmp_path, session_root):
    done = run_script(tmp_path, """
import os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
if hard < 3000:
    print("skip")
    sys.exit()
resource.setrlimit(resource.RLIMIT_NOFILE, (3000, hard))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1500)]
import zray as ray
ray.init(num_cpus=1)
print(ray.get(ray.remote(lambda: 1).remote()))
ray.shutdown()
""")
    if done.stdout == "skip\n":
        pytest.skip("descriptors above 1023 are not allowed here")
    assert done.stdout == "1\n"


def test_tasks_run_and_references_are_freed_while_the_driver_computes(tmp_path, session_root):
    """Nothing here calls zray between the submission and the check: files say what happened."""
    done = run_script(tmp_path, """
        import os, time
        import zray as ray
        ray.init(num_cpus=2)

        @ray.remote
        def touch(path):
            open(path, "w").close()

        @ray.remote
        class Keeper:
            def pid(self):
                return os.getpid()

        def compute_until(condition):
            end = time.monotonic() + 30
            while not condition():
                sum(range(1000))
                assert time.monotonic() < end

        for i in range(3):
            touch.remote(f"touched-{i}")
            compute_until(lambda: os.path.exists(f"touched-{i}"))
        keeper = Keeper.remote()
        pid = ray.get(keeper.pid.remote())
        del keeper
        compute_until(lambda: not os.path.exists(f"/proc/{pid}"))
        print("ok")
    """)
    assert done.stdout.strip() == "ok"


def test_ctrl_c_while_the_driver_computes_is_python_s_own_and_leaves_all_usable(tmp_path, session_root):
    done = run_script(tmp_path, """
        import os, signal, threading
        import zray as ray
        ray.init(num_cpus=1)
        f = ray.remote(lambda x: x + 1)
        ray.get(f.remote(0))
        refs = [f.remote(i) for i in range(100)]
        try:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            while True:
                sum(range(1000))
        except KeyboardInterrupt:
            print("interrupted", sum(ray.get(refs)))
    """)
    assert done.stdout.strip() == "interrupted 5050"


@pytest.fixture
def four(cluster):
    return cluster


def test_a_thread_that_waits_does_not_hold_back_what_other_threads_submit(four, gate):
    @ray.remote
    def hold():
        gate.wait()
        return "held"

    @ray.remote
    def quick(x):
        return x

    answers = []
    thread = threading.Thread(target=lambda: answers.append(ray.get(hold.remote())))
    thread.start()
    gate.wait_arrived()
    for i in range(20):
        assert ray.get(quick.remote(i)) == i  # while the other thread polls
    assert not answers
    gate.open()
    thread.join()
    assert answers == ["held"]


def test_what_one_thread_submits_runs_while_only_another_waits(four, gate, tmp_path):
    @ray.remote
    def hold():
        gate.wait()

    @ray.remote
    def touch(path):
        open(path, "w").close()

    thread = threading.Thread(target=lambda: ray.get(hold.remote()))
    thread.start()
    gate.wait_arrived()
    for i in range(5):
        path = tmp_path / f"touched-{i}"
        touch.remote(str(path))
        until(path.exists, "the task runs although nobody asks for its result")
    gate.open()
    thread.join()


def test_threads_of_an_actor_submit_and_get_while_its_main_thread_waits(four):
    @ray.remote
    def double(x):
        return 2 * x

    @ray.remote(max_concurrency=4)
    class Many:
        def ask(self, x):
            return ray.get(double.remote(x))

    many = Many.remote()
    assert ray.get([many.ask.remote(i) for i in range(40)]) == [2 * i for i in range(40)]


def test_an_out_of_memory_kill_is_named_as_what_it_probably_was(four):
    """The kernel's OOM killer sends SIGKILL; from outside that is all there is to see."""

    @ray.remote(max_retries=0)
    def eaten():
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(exceptions.WorkerCrashedError, match="(?i)signal 9|SIGKILL") as caught:
        ray.get(eaten.remote())
    if IS_ZRAY:
        assert "out-of-memory killer" in str(caught.value)


def test_a_wait_on_a_generator_is_ready_when_its_next_item_is(four, gate):
    @ray.remote
    def items():
        yield 1
        gate.wait()
        yield 2

    stream = items.remote()
    assert ray.wait([stream], timeout=30) == ([stream], [])
    assert ray.get(next(stream)) == 1
    gate.wait_arrived()
    assert ray.wait([stream], timeout=0) == ([], [stream])
    gate.open()
    assert ray.wait([stream], timeout=30) == ([stream], [])
    assert ray.get(next(stream)) == 2


def test_references_captured_by_a_function_or_pickled_by_hand_stay(four):
    import pickle

    def reader():
        captured = ray.put(np.arange(50_000))

        @ray.remote
        def read():
            return int(ray.get(captured)[-1])

        return read

    read = reader()
    pickled = pickle.dumps(ray.put(np.arange(50_000)))
    assert ray.get([read.remote(), read.remote()]) == [49_999] * 2
    assert int(ray.get(pickle.loads(pickled))[-1]) == 49_999


@pytest.mark.zray_only
def test_whoever_waits_when_the_session_ends_is_told_so(fresh, gate):
    ray.init(num_cpus=1)

    @ray.remote
    def hold(x):
        gate.wait()

    @ray.remote
    def items():
        yield gate.wait()

    running, stream, many = hold.remote(0), items.remote(), hold.map(range(10))
    told = []

    def wait_for(get):
        try:
            get()
        except exceptions.ObjectLostError as error:
            told.append(str(error))

    waits = [lambda: ray.get(running), lambda: ray.get(many), running.future().result]
    threads = [threading.Thread(target=wait_for, args=(get,)) for get in waits]
    for thread in threads:
        thread.start()
    gate.wait_arrived()
    ray.shutdown()
    for thread in threads:
        thread.join()
    ray.init(num_cpus=1)
    later = [lambda: ray.get(running), lambda: ray.get(many), lambda: ray.get(many[3]), lambda: ray.get(next(stream))]
    for get in later:
        wait_for(get)
    assert len(told) == len(waits) + len(later)
    assert all("session that has ended" in text for text in told)


@pytest.mark.zray_only
def test_a_task_sees_the_logical_gpus_it_asked_for_and_no_others(fresh):
    ray.init(num_cpus=2, num_gpus=2)

    @ray.remote
    def seen():
        return ray.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES")

    assert ray.get(seen.remote()) == ([], os.environ.get("CUDA_VISIBLE_DEVICES"))
    assert ray.get(seen.options(num_gpus=2).remote()) == ([0, 1], "0,1")


def test_threads_that_put_and_get_at_once_are_all_woken(fresh):
    ray.init(num_cpus=2, _system_config={"warn_wait_s": 3600.0})  # the warning's clock would wake who was forgotten

    @ray.remote
    def echo(x):
        return x

    ended = []

    def work(thread):
        for i in range(10):
            array = np.full(100_000, thread * 1000 + i)
            assert ray.get(ray.put(array))[-1] == array[-1]
            assert ray.get(echo.remote(array))[-1] == array[-1]
        ended.append(thread)

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(ended) == list(range(8))
