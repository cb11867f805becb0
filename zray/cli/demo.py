"""``zray demo``: two real jobs with a live display, a worker killed on the way, and nothing lost.

1. A tree reduction: the product of many integer matrices, exact, checked against a plain loop in this process.  In the
   middle of it the process of a running task is killed with SIGKILL; the result must be the same.
2. Policy search on gymnasium's CartPole-v1: simulators are actors, each policy is a task over the futures of all
   rollouts; the last policy's mean return shows whether it learnt.
3. A table of tasks, objects, bytes and rates.

With ``--nodes 3`` the same runs on a cluster of three daemons, whose control store has three replicas.  In
the reduction one node is killed and another takes its place, during the search one that holds a replica; the results
are the same.

Works without a terminal, then as plain lines.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zray.base.named_tuples import NamedTuple

PRIME = 2_097_143  # below 2**21: a row of products stays far below 2**63
MATRICES = 96
PICTURE_SIZE = 160
LEARNT = 195.0  # mean return at which CartPole counts as solved


class Demo(NamedTuple):
    """The results of the demo."""

    reduction_equal: bool
    killed_pid: int
    return_before: float
    return_after: float
    seconds: float
    nodes: int = 1
    nodes_killed: int = 0

    @property
    def ok(self) -> bool:
        killed = self.nodes_killed == 2 if self.nodes >= 3 else True
        return self.reduction_equal and self.killed_pid > 0 and self.return_after > LEARNT and killed


@dataclass
class Tally:
    """Counts of the demo itself."""

    rows: list[tuple[str, int, int, int, float]] = field(default_factory=list)

    def add(self, what: str, tasks: int, objects: int, nbytes: int, seconds: float) -> None:
        self.rows.append((what, tasks, objects, nbytes, seconds))


class Display:
    """Progress bars on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Any]:
        """Yields ``advance(to, note)``."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("{task.fields[note]}"))
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda to, note="": bar.update(task, completed=to, note=note)
        if not self.console.is_terminal:
            self.say(f"{title}: {total}/{total}")

    def table(self, tally: Tally) -> None:
        from rich.table import Table

        table = Table(title="what ran")
        for column in ("job", "tasks", "tasks/s", "objects", "bytes", "MB/s", "seconds"):
            table.add_column(column, justify="left" if column == "job" else "right")
        for what, tasks, objects, nbytes, spent in tally.rows:
            table.add_row(what, f"{tasks:,}", f"{tasks / spent:,.0f}", f"{objects:,}", f"{nbytes:,}",
                          f"{nbytes / spent / 1e6:,.1f}", f"{spent:.2f}")
        self.console.print(table)


class Lone:
    """The demo's own node."""

    nodes = 1
    killed = 0

    def __init__(self, ray: Any, display: Display):
        ray.init(ignore_reinit_error=True, num_cpus=max(2, os.cpu_count() or 2))

    def harm(self) -> str:
        """A lone node can lose only its workers."""
        return ""

    def close(self) -> None:
        pass


class Several:
    """A cluster of daemons on this machine, which loses some."""

    def __init__(self, ray: Any, display: Display, nodes: int):
        from zray.cluster_utils import Cluster

        self.nodes = nodes
        self.killed = 0
        self.display = display
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        self.cluster.add_nodes([{"num_cpus": 1}] * (nodes - 1))
        self.cluster.wait_for_nodes()
        ray.init(address=self.cluster.address)
        display.say(f"{nodes} nodes; the control store: {self._replicas(min(3, nodes))}")

    def harm(self) -> str:
        """Kill a node, not the one that this driver is connected to; a new one takes its place."""
        victim = self.cluster.worker_nodes[-1]
        self.cluster.remove_node(victim, allow_graceful=False)
        self.killed += 1
        self.cluster.add_node(num_cpus=1)
        return f"node {victim.node_id[:8]} killed"

    def _replicas(self, wanted: int) -> str:
        """Wait until the chains are complete, and describe them."""
        from zray.node.running.ask import NodeClient

        asker = NodeClient(self.cluster.address)
        try:
            while True:
                found = asker.ask("gcs")
                if min(len(chain["members"]) for chain in found["chains"]) >= wanted:
                    break
                time.sleep(0.02)
        finally:
            asker.close()
        return f"{len(found['chains'])} shards of {wanted} replicas, {len(found['voters'])} voter(s)"

    def close(self) -> None:
        self.cluster.shutdown()


def main(nodes: int = 1) -> int:
    """Run the demo; the exit code is 0 when all its claims were seen."""
    try:
        import gymnasium  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        print(f"zray demo needs {error.name}: pip install 'zray[demo]'", file=sys.stderr)
        return 2
    demo = run(nodes)
    return 0 if demo.ok else 1


def run(nodes: int = 1) -> Demo:
    """Start the nodes, run both jobs, show the table, shut them down."""
    import zray as ray

    display, tally = Display(), Tally()
    begin = time.perf_counter()
    place = Several(ray, display, nodes) if nodes > 1 else Lone(ray, display)
    ray.get(ray.remote(_nothing).remote())
    display.say(f"node started, first task answered after {time.perf_counter() - begin:.2f} s")
    try:
        equal, killed = tree_reduction(ray, display, tally, place)
        before, after = policy_search(ray, display, tally, place)
        small_tasks(ray, display, tally)
        demo = Demo(equal, killed, before, after, time.perf_counter() - begin, place.nodes, place.killed)
        display.table(tally)
        if place.killed:
            display.say(f"{place.killed} nodes were killed, replicas of the control store with them")
        display.say(f"{'everything as it should be' if demo.ok else 'SOMETHING IS WRONG'}, {demo.seconds:.1f} s in all")
        return demo
    finally:
        ray.shutdown()
        place.close()


def _nothing() -> None:
    return None


# ---------------------------------------------------------------- a tree reduction that loses a worker


def _matrix(seed: int) -> Any:
    import numpy as np

    return np.random.default_rng(seed).integers(0, PRIME, (PICTURE_SIZE, PICTURE_SIZE), dtype=np.int64)


def _multiply(a: Any, b: Any, running: str) -> Any:
    """The product; while it runs, a file in ``running`` names this process."""
    mark = Path(running, str(os.getpid()))
    mark.touch()
    product = (a @ b) % PRIME
    mark.unlink(missing_ok=True)
    return product


def tree_reduction(ray: Any, display: Display, tally: Tally, place: Any) -> tuple[bool, int]:
    """Multiply ``MATRICES`` matrices as a tree and kill one worker, and a node where there are several.

    (equal to a plain loop, pid that was killed)
    """
    matrix, multiply = ray.remote(_matrix), ray.remote(max_retries=5)(_multiply)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="zray-demo-") as running:
        level = [matrix.remote(seed) for seed in range(MATRICES)]
        pending = []
        while len(level) > 1:
            pairs = [multiply.remote(level[i], level[i + 1], running) for i in range(0, len(level) - 1, 2)]
            pending += pairs
            level = pairs + level[len(level) & ~1:]
        killed = _watch(ray, display, pending, running, place)
        result = ray.get(level[0])
    spent = time.perf_counter() - start
    tasks = 2 * MATRICES - 1
    tally.add("tree reduction", tasks, tasks, tasks * PICTURE_SIZE * PICTURE_SIZE * 8, spent)
    expected = _matrix(0)
    for seed in range(1, MATRICES):
        expected = (expected @ _matrix(seed)) % PRIME
    equal = bool((expected == result).all())
    display.say(f"killed worker {killed} while it ran a task; the result is "
                f"{'equal to' if equal else 'DIFFERENT FROM'} that of a plain loop: nothing was lost")
    return equal, killed


def _watch(ray: Any, display: Display, pending: list, running: str, place: Any) -> int:
    """Show the progress of ``pending``; kill one worker at work once a fifth is done, and a node at two fifths.

    The killed pid, 0 for none.
    """
    total, killed, note = len(pending), 0, ""
    with display.progress("tree reduction", total) as advance:
        while pending:
            _, pending = ray.wait(pending, num_returns=1)
            done = total - len(pending)
            if not killed and done >= total // 5:
                killed = kill_a_worker(running)
                note = f"worker {killed} killed"
            if not place.killed and done >= 2 * total // 5 and (harm := place.harm()):
                note = f"{note}, {harm}"
            advance(done, note)
    return killed


def kill_a_worker(running: str, patience_s: float = 1.0) -> int:
    """SIGKILL to a process that marked itself as running a task; 0 when none did within ``patience_s``."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        for mark in Path(running).iterdir():
            try:
                os.kill(int(mark.name), signal.SIGKILL)
            except ProcessLookupError:
                continue
            return int(mark.name)
    return 0


# ---------------------------------------------------------------- policy search


class CartPolePolicy(NamedTuple):
    mean: Any
    spread: Any
    iteration: int


class _Simulator:
    """One CartPole, kept between rollouts."""

    def __init__(self, seed: int):
        import gymnasium

        self.seed = seed
        self.env = gymnasium.make("CartPole-v1")

    def rollout(self, policy: CartPolePolicy, candidates: int) -> tuple[Any, Any]:
        """Weights near the policy and the return of each, one episode a candidate."""
        import numpy as np

        rng = np.random.default_rng((self.seed, policy.iteration))
        weights = policy.mean + policy.spread * rng.normal(size=(candidates, len(policy.mean)))
        return weights, np.array([self.episode(w, int(rng.integers(2**31))) for w in weights])

    def evaluate(self, policy: CartPolePolicy, episodes: int) -> float:
        return sum(self.episode(policy.mean, 2**31 + self.seed * episodes + i) for i in range(episodes)) / episodes

    def episode(self, weights: Any, seed: int) -> float:
        observation, _ = self.env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            observation, reward, terminated, truncated, _ = self.env.step(int(observation @ weights > 0))
            total += float(reward)
            done = terminated or truncated
        return total


def _first_policy() -> CartPolePolicy:
    import numpy as np

    return CartPolePolicy(np.zeros(4), np.ones(4), 0)


def _update_policy(policy: CartPolePolicy, *rollouts: tuple[Any, Any]) -> CartPolePolicy:
    """The cross-entropy method: mean and spread of the best quarter of all candidates."""
    import numpy as np

    weights = np.concatenate([w for w, _ in rollouts])
    returns = np.concatenate([r for _, r in rollouts])
    best = weights[np.argsort(-returns, kind="stable")[: len(returns) // 4]]
    return CartPolePolicy(best.mean(axis=0), np.maximum(best.std(axis=0), 0.05), policy.iteration + 1)


def policy_search(ray: Any, display: Display, tally: Tally, place: Any, simulators: int = 4, iterations: int = 8,
                  candidates: int = 10) -> tuple[float, float]:
    """Mean returns before and after the search.  Simulators are restarted where their node was killed: a rollout
    depends on its arguments alone, so it may run again."""
    Simulator = ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)(_Simulator)
    update = ray.remote(_update_policy)
    start = time.perf_counter()
    actors = [Simulator.remote(seed) for seed in range(simulators)]

    def mean_return(policy: Any, episodes: int) -> float:
        return sum(ray.get([a.evaluate.remote(policy, episodes) for a in actors])) / simulators

    policy = ray.remote(_first_policy).remote()
    before = after = mean_return(policy, 5)
    with display.progress("policy search", iterations) as advance:
        for iteration in range(1, iterations + 1):
            policy = update.remote(policy, *[a.rollout.remote(policy, candidates) for a in actors])
            note = place.harm() if iteration == iterations // 2 and place.nodes > 1 else ""
            after = mean_return(policy, 1 if iteration < iterations else 5)
            advance(iteration, f"mean return {after:.0f} {note}")
    calls = simulators * (2 * iterations + 1) + iterations + 1
    per_rollout = candidates * 5 * 8
    tally.add("policy search", calls, calls, iterations * simulators * per_rollout, time.perf_counter() - start)
    display.say(f"CartPole: mean return {before:.1f} before, {after:.1f} after {iterations} policies "
                f"({'learnt' if after > LEARNT else 'NOT learnt'}; solved above {LEARNT:.0f})")
    return before, after


# ---------------------------------------------------------------- many small tasks


def _square(x: int) -> int:
    return x * x


def small_tasks(ray: Any, display: Display, tally: Tally, count: int = 50_000, batch: int = 5_000) -> None:
    """Squares, a batch at a time, all checked."""
    square = ray.remote(_square)
    start = time.perf_counter()
    with display.progress("small tasks", count) as advance:
        for first in range(0, count, batch):
            values = range(first, first + batch)
            if ray.get([square.remote(x) for x in values]) != [x * x for x in values]:
                raise AssertionError("a square is wrong")
            advance(first + batch)
    tally.add("small tasks", count, count, 8 * count, time.perf_counter() - start)


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
