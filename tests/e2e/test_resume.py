"""``init(job_name=..., resume=True)``: a driver that was killed finds its finished tasks.  Real drivers, kill -9."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import numpy as np
import pytest

from tests.e2e.scripts import environment
from tests.e2e.target import ray, until

pytestmark = pytest.mark.zray_only

# Every task notes its run in ``ran``.  The first run waits in ``gate``; the next finds the file ``go``.
PROGRAM = """
import json, os, random, sys, time
import numpy as np
import zray as ray
from zray.util.state import list_jobs

folder = sys.argv[1]

def note(name):
    with open(os.path.join(folder, "ran"), "a") as file:
        file.write(name + "\\n")

ray.init(address=sys.argv[2] if len(sys.argv) > 2 else "local", job_name="sweep", resume=True, resume_dir=folder)

class Point:
    def __init__(self, x):
        self.x = x

@ray.remote
def square(x):
    note(f"square {x}")
    return x * x

@ray.remote
def draw():
    note("draw")
    return random.random()

@ray.remote
def table(x):
    note("table")
    return np.full(100_000, x)

@ray.remote
def point(x):
    note("point")
    return Point(x)

@ray.remote(num_returns=2)
def two(array, p, options):
    note("two")
    return float(array.sum()), [p.x, sorted(options)]

@ray.remote(num_returns="streaming")
def items(n):
    note("items")
    yield from range(n)

@ray.remote
def plus(x, boxed):
    note("plus")
    return x + ray.get(boxed[0])

@ray.remote
def fails():
    note("fails")
    raise ValueError("as always")

@ray.remote
def references():
    note("references")
    return [ray.put(5)]

@ray.remote
class Counter:
    def next(self):
        return 1

@ray.remote
def after_actor(x):
    note("after_actor")
    return x

@ray.remote
def gate():
    note("gate")
    while not os.path.exists(os.path.join(folder, "go")):
        time.sleep(0.01)
    return "open"

if len(sys.argv) > 2:
    table = table.options(resources={"other": 1}, max_retries=0)
big = ray.put(np.arange(200_000))
squares = square.map(range(5)) + [square.remote(2)]
streamed = list(items.remote(3))
p, t = point.remote(4), table.remote(3)
refs = squares + [draw.remote(), draw.remote()] + two.remote(t, p, {"b", "a"}) + [
    two.remote(big, p, set())[0],
    plus.remote(squares[3], [streamed[1]]), plus.remote(1, [ray.put(6)]),
    after_actor.remote(Counter.remote().next.remote())]
values = ray.get(refs + streamed)
values.append([type(ray.get(p)) is Point, int(ray.get(t).sum()), ray.get(ray.get(references.remote())[0])])
try:
    ray.get(fails.remote())
except ValueError as error:
    assert "as always" in str(error)

def counts():
    return [job.resume for job in list_jobs(detail=True) if job.job_name == "sweep" and job.status == "RUNNING"][0]

until = time.monotonic() + 30
while sum(counts().get(name, 0) for name in ("reused", "kept")) < 15 and time.monotonic() < until:
    time.sleep(0.01)
print(json.dumps([values, counts()]), flush=True)
print(ray.get(gate.remote()), flush=True)
ray.shutdown()
"""
# Their results are not kept: it fails, it did not end, an argument is of an actor, the result holds references.
ALWAYS = ["after_actor", "fails", "gate", "references"]


class Program:
    """A program in a folder, run several times."""

    def __init__(self, folder, address=()):
        self.folder = folder
        self.address = address

    @contextmanager
    def running(self, source=PROGRAM):
        (self.folder / "sweep.py").write_text(textwrap.dedent(source))
        process = subprocess.Popen([sys.executable, "sweep.py", self.folder, *self.address], cwd=self.folder, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def ran(self):
        """The tasks that have run since the last question, by name."""
        path = self.folder / "ran"
        names = path.read_text().split("\n")[:-1] if path.exists() else []
        path.unlink(missing_ok=True)
        return sorted(names)

    def first_run(self):
        """Its values and counts; it is killed while ``gate`` runs."""
        with self.running() as process:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            until(lambda: "gate" in (self.folder / "ran").read_text(), "gate runs")
        return json.loads(line)

    def next_run(self, source=PROGRAM):
        (self.folder / "go").touch()
        with self.running(source) as process:
            out, errors = process.communicate(timeout=60)
            assert process.returncode == 0, out + errors
        line, end = out.splitlines()
        assert end == "open"
        return json.loads(line), errors


def test_a_killed_driver_finds_what_had_finished_and_a_change_of_code_runs_anew(fresh, tmp_path):
    program = Program(tmp_path)
    values, counts = program.first_run()
    first = program.ran()
    assert {**counts, "not_kept": 0} == {"found": 0, "reused": 0, "kept": 15, "unreadable": 0, "not_kept": 0}
    assert len(first) == 15 + len(ALWAYS) and first.count("draw") == 2
    # The path and the lines of the program do not count, and the text of a class that is not used by a task.
    (again, counts), errors = program.next_run("\n# Another line\n" + PROGRAM.replace("return x * x", "return x ** 2"))
    # ``square`` is another function now, and so ``plus`` with its result has another argument.
    assert program.ran() == sorted([*ALWAYS, "plus", "square 0", "square 1", "square 2", "square 2", "square 3",
                                    "square 4"])
    assert again == values
    assert counts["reused"] == 8 and counts["kept"] == 7
    # 15 tasks, and 3 items of the generator
    assert "zray: job 'sweep': 18 kept results were found" in errors
    assert "zray: job 'sweep': 8 of 18 kept results were used again, newly kept: 8; " in errors
    assert "; 1 not kept: the results contain references; it has ended well, so nothing is kept" in errors
    assert not (tmp_path / "sweep").exists()  # it ended well


def test_on_a_cluster_that_lives_on_without_the_node_of_a_result_and_one_driver_at_a_time(grow, tmp_path):
    cluster = grow({"num_cpus": 4}, {"num_cpus": 1, "resources": {"other": 1}})
    program = Program(tmp_path, [cluster.head_node.session_dir])
    with program.running() as process:
        assert process.stdout.readline(), process.stderr.read()
        until(lambda: "gate" in (tmp_path / "ran").read_text(), "gate runs")
        with program.running() as second:
            _, errors = second.communicate(timeout=60)
            assert second.returncode == 1
            assert f"JobIsRunning: the job 'sweep' is run by another driver (pid {process.pid} on " in errors
        with pytest.raises(RuntimeError, match="is run by another driver"):
            ray.forget_job("sweep", resume_dir=tmp_path)
    first = program.ran()
    cluster.worker_nodes[0].kill()  # no node is left that could make ``table``
    (_, counts), _ = program.next_run()
    assert program.ran() == ALWAYS and len(first) == 15 + len(ALWAYS)
    assert counts["reused"] == 15 and counts["kept"] == 0
    from zray.util.state import list_jobs

    jobs = list_jobs(filters=[("job_name", "=", "sweep")], detail=True)
    assert [job.resume["reused"] for job in jobs] == [0, 15]


MANY = """
import os, sys, time
import numpy as np
import zray as ray

folder = sys.argv[1]
ray.init("local", num_cpus=2, job_name="sweep", resume=True, resume_dir=folder)

def note(name):  # each run in a file of its own: a worker may outlive its driver by a moment
    with open(os.environ["RAN"], "a") as file:
        file.write(name + "\\n")

@ray.remote
def row(number):
    note(f"row {number}")
    return np.full(20_000 if number % 10 == 0 else 3, number)

@ray.remote
def total(*rows):
    note(f"total {rows[0][0]}")
    while rows[0][0] == 290 and not os.path.exists(os.path.join(folder, "go")):
        time.sleep(0.01)
    return sum(int(row[0]) for row in rows)

rows = row.map(range(300))
totals = [total.remote(*rows[at:at + 10]) for at in range(0, 300, 10)]
print(sum(ray.get(totals)), flush=True)
ray.shutdown()
"""


@pytest.mark.parametrize("kills", [
    [(signal.SIGKILL, 1), (signal.SIGINT, 100)],
    pytest.param([(signal.SIGKILL, 7 * number) for number in range(1, 31)], marks=pytest.mark.slow)])
def test_killed_at_any_time_each_run_goes_on_where_the_last_one_was(kills, fresh, tmp_path, monkeypatch):
    program, finished = Program(tmp_path), set()
    for run, (number, tasks) in enumerate(kills):
        notes = tmp_path / f"ran-{run}"
        monkeypatch.setenv("RAN", str(notes))
        with program.running(MANY) as process:
            until(lambda notes=notes, tasks=tasks: notes.exists() and (
                len(notes.read_text().splitlines()) >= tasks or "total 290" in notes.read_text()), "tasks run", 60)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
            assert process.returncode, errors
        finished.update(notes.read_text().splitlines())
    (tmp_path / "go").touch()
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    with program.running(MANY) as process:
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, f"{sum(range(300))}\n"), errors
    reused = int(re.search(r"(\d+) of \d+ kept results were used again", errors)[1])
    ran = program.ran()
    assert len(ran) == len(set(ran)) == 330 - reused  # what is found does not run, and all else runs once
    assert len(finished | set(ran)) == 330 and 0 < reused < 330


# ---------------------------------------------------------------- within this process

def put_in(folder, word):
    with open(folder / "ran", "a") as file:
        file.write(word + "\n")


@ray.remote
def full(folder, number):
    put_in(folder, f"full {number}")
    return np.full(50_000, number)


def start(folder, **options):
    return ray.init(num_cpus=2, job_name="a/b", resume=True, resume_dir=folder, log_to_driver=False, **options)


def words(folder):
    path = folder / "ran"
    found = path.read_text().split("\n")[:-1] if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def test_a_result_that_cannot_be_read_runs_again_and_an_error_keeps_results_and_success_drops_them(fresh, tmp_path):
    def run():
        return [int(value.sum()) for value in ray.get([full.remote(tmp_path, number) for number in (1, 2)])]

    with pytest.raises(ZeroDivisionError), start(tmp_path):
        run()
        1 / 0  # noqa: B018
    assert sorted(words(tmp_path)) == ["full 1", "full 2"]
    log, = (tmp_path / "a%2Fb").glob("results-*.log")
    with open(log, "r+b") as file:
        file.seek(200_000)  # in the first of two records
        file.write(b"changed")
    with pytest.raises(KeyboardInterrupt), start(tmp_path):
        run()
        raise KeyboardInterrupt
    again = words(tmp_path)
    assert len(again) == 1 and again[0] in ("full 1", "full 2")
    with ray.resume("a/b", resume_dir=tmp_path, num_cpus=2):
        assert run() == [50_000, 100_000]
    assert words(tmp_path) == [] and not (tmp_path / "a%2Fb").exists()
    with pytest.raises(ValueError, match="no results of a job 'a/b' are kept in .*: there are none of any job. init"):
        ray.resume("a/b", resume_dir=tmp_path)


def test_old_results_go_and_the_oldest_go_for_room_and_forget_job_removes_all(fresh, tmp_path):
    def run(numbers, config):
        with pytest.raises(ZeroDivisionError), start(tmp_path, _system_config=config):
            for number in numbers:
                ray.get(full.remote(tmp_path, number))
            1 / 0  # noqa: B018
        return [int(word.split()[1]) for word in words(tmp_path)]

    room = {"resume_bytes_max": 1_000_000}  # for two of 400 kB
    assert run([1, 2, 3], room) == [1, 2, 3]
    assert 400_000 < sum(file.stat().st_size for file in (tmp_path / "a%2Fb").glob("results-*")) <= 1_000_000
    assert run([3], {**room, "resume_kept_s": 0.0}) == [3]
    assert ray.forget_job("a/b", resume_dir=tmp_path)
    assert not (tmp_path / "a%2Fb").exists() and not ray.forget_job("a/b", resume_dir=tmp_path)


@pytest.mark.filterwarnings("ignore:num_returns='dynamic':DeprecationWarning")
def test_what_is_not_kept_is_counted_with_its_reason(fresh, tmp_path, monkeypatch):
    from zray.core import resuming
    from zray.core.runtime import current

    @ray.remote
    class Actor:
        def one(self):
            return 1

    @ray.remote
    def give(*values):
        return 7

    @ray.remote
    def give_class():
        class Inner:
            pass

        return Inner()

    @ray.remote
    def reads_actor():
        return actor is not None

    @ray.remote
    def items():
        yield 1

    with pytest.raises(ZeroDivisionError), start(tmp_path):
        actor = Actor.remote()
        circle: list = []
        circle.append(circle)
        given = [give.remote(actor), give.remote(actor.one.remote()), reads_actor.remote(), give.remote(circle),
                 items.options(num_returns="dynamic").remote(), give_class.remote(), give.remote(np.zeros(3)),
                 give.remote(np.zeros(4))]
        ray.wait(given, num_returns=len(given), timeout=60)
        counts = current().tasks.counts
        until(lambda: counts.kept == 2 and sum(counts.unkept.values()) == 6, lambda: str(counts))
        monkeypatch.setattr(resuming, "WAITING_BYTES_MAX", 0)
        assert ray.get(give.remote(5)) == 7
        until(lambda: sum(counts.unkept.values()) == 7, lambda: str(counts))
        1 / 0  # noqa: B018
    reasons = sorted(counts.unkept)
    assert len(reasons) == 7
    for begin in ("give: a value cannot be pickled alike in every run: it contains itself",
                  "give: an argument is the result of an actor",
                  "give: it uses an actor", 'items: num_returns="dynamic"', "reads_actor: it uses an actor",
                  "the disk does not follow", "the next run could not find their classes"):
        assert sum(reason.startswith(begin) for reason in reasons) == 1, reasons
    assert current() is None


def test_jobs_that_did_not_ask_have_plain_tasks(cluster):
    from zray.core.runtime import current
    from zray.core.tasks import Tasks

    assert type(current().tasks) is Tasks


@pytest.mark.parametrize(("options", "error", "text"), [
    ({"resume": True}, ValueError, "resume=True needs a job_name"),
    ({"resume": True, "job_name": ""}, ValueError, "a job_name has 1 to 200 characters"),
    ({"resume": True, "job_name": "x" * 201}, ValueError, "a job_name has 1 to 200 characters"),
    ({"job_name": 7}, TypeError, "job_name takes a str, not 7"),
    ({"resume": "yes", "job_name": "x"}, TypeError, "resume takes True or False, not 'yes'"),
    ({"resume_dir": "/tmp", "job_name": "x"}, ValueError, "resume_dir is for a job with resume=True"),
    ({"resume": True, "job_name": "x", "resume_dir": 5}, TypeError, "resume_dir takes the path of a directory"),
    ({"resume": True, "job_name": "x", "resume_dir": "s3://b/c"}, ValueError, "Mount that storage"),
    ({"resume": True, "job_name": "x", "local_mode": True}, ValueError, "does not work with local_mode"),
    ({"resume": True, "job_name": "x", "resume_dir": "/proc/none"}, ValueError, "results cannot be kept in"),
])
def test_bad_options_say_what_is_wrong(options, error, text, fresh):
    with pytest.raises(error, match=text):
        ray.init(**options)
    assert not ray.is_initialized()


def test_a_folder_that_others_may_write_to_is_refused(fresh, tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    os.chmod(folder, 0o777)
    with pytest.raises(ValueError, match="other users may write there"):
        ray.init(job_name="x", resume=True, resume_dir=tmp_path)


def test_by_default_results_are_in_the_temporary_directory_and_a_starting_node_removes_old_ones(
        fresh, session_root, monkeypatch):
    folder = os.path.join(session_root, f"zray-resume-{os.getuid()}")
    with pytest.raises(ZeroDivisionError), ray.init(num_cpus=1, job_name="old", resume=True):
        ray.get(ray.remote(abs).remote(-1))
        1 / 0  # noqa: B018
    assert os.listdir(os.path.join(folder, "old")) and os.stat(folder).st_mode & 0o777 == 0o700
    monkeypatch.setenv("ZRAY_RESUME_KEPT_S", "0")
    ray.init(num_cpus=1)
    until(lambda: not os.path.exists(os.path.join(folder, "old")), "the node removes it")
