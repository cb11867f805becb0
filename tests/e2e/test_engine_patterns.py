"""The calls of programs that serve and train large models, in the order in which these programs make them.

Such programs reserve GPUs with placement groups, start one worker a bundle, tell the workers their ranks by environment
variables and by calls, let them find each other by an address and a free port, and reach them by name from elsewhere.
The GPUs are logical: the node is told that it has four.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading

import pytest

from tests.e2e.scripts import run_script
from tests.e2e.target import IS_ZRAY, TARGET, ray, until

if IS_ZRAY:
    import zray._private.services as services
    import zray._private.state as private_state
    from zray.actor import ActorClass, ActorHandle
    from zray.util.placement_group import PlacementGroup
    from zray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy
else:
    import ray._private.services as services
    import ray._private.state as private_state
    from ray.actor import ActorClass, ActorHandle
    from ray.util.placement_group import PlacementGroup
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

GPUS = 4
WAIT_S = 60


@pytest.fixture
def engine(module_footprint):
    """A node that says it has four GPUs, shared by the tests of this module."""
    if not ray.is_initialized():
        ray.init(num_cpus=8, num_gpus=GPUS, include_dashboard=False)
    yield ray
    if module_footprint:
        module_footprint.watch()


@contextlib.contextmanager
def reserved(bundles, **options):
    """A placement group that is ready; removed at the end."""
    before = ray.available_resources().get("GPU")
    group = ray.util.placement_group(bundles, **options)
    try:
        ready, _ = ray.wait([group.ready()], timeout=WAIT_S)
        assert ready, "the group is placed"
        yield group
    finally:
        ray.util.remove_placement_group(group)
        until(lambda: ray.available_resources().get("GPU") == before, "the GPUs are free again", WAIT_S)


class EngineWorker:
    """Runs methods of an engine by name, as a worker of a serving program does."""

    def __init__(self, rank: int = 0):
        self.rank = rank
        self.environment: dict[str, str] = {}

    def execute(self, method, *args, **kwargs):
        """``method`` is a name, or a pickled function of the worker."""
        if isinstance(method, bytes):
            return ray.cloudpickle.loads(method)(self, *args, **kwargs)
        return getattr(self, method)(*args, **kwargs)

    def node_and_gpus(self):
        context = ray.get_runtime_context()
        return context.get_node_id(), context.get_accelerator_ids()["GPU"]

    def node_ip(self):
        return ray.util.get_node_ip_address()

    def update_environment(self, variables):
        self.environment = variables
        os.environ.update(variables)

    def variable(self, name):
        return os.environ.get(name)

    def group(self):
        group = ray.util.get_current_placement_group()
        return None if group is None else group.id.hex()

    def adjust_rank(self, ranks):
        self.rank = ranks[self.rank]
        return self.rank


def in_bundle(group, index, capture=True):
    return PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=index,
                                            placement_group_capture_child_tasks=capture)


# ---- serving


def test_an_engine_reserves_gpus_and_starts_one_worker_in_each_bundle(engine):
    ip = ray.util.get_node_ip_address()
    bundles = [{"GPU": 1.0, "CPU": 1.0} for _ in range(3)]
    bundles[0][f"node:{ip}"] = 0.001  # the driver's node holds the first worker
    with reserved(bundles, strategy="PACK") as group:
        assert isinstance(group, PlacementGroup) and group.bundle_count == 3
        assert [spec["GPU"] for spec in group.bundle_specs] == [1, 1, 1]
        data = ray.util.placement_group_table(group)
        assert data["state"] == "CREATED" and data["strategy"] == "PACK"
        assert data["placement_group_id"] == group.id.hex()
        assert set(data["bundles_to_node_id"]) == {0, 1, 2} and data["bundles"][1]["GPU"] == 1

        # A program asks each bundle for its node first, then starts the workers.
        remote_class = ray.remote(num_cpus=0, num_gpus=1)(EngineWorker)
        workers = [remote_class.options(scheduling_strategy=in_bundle(group, index)).remote(rank=index)
                   for index, bundle in enumerate(group.bundle_specs) if bundle.get("GPU", 0)]
        ips = ray.get([worker.node_ip.remote() for worker in workers])
        assert set(ips) == {ip}
        places = ray.get([worker.execute.remote("node_and_gpus") for worker in workers])
        assert [data["bundles_to_node_id"][index] for index in range(3)] == [node for node, _ in places]
        gpus = [ids for _, ids in places]
        assert all(isinstance(ids, list) and len(ids) == 1 and isinstance(ids[0], str) for ids in gpus)
        assert len({ids[0] for ids in gpus}) == 3

        # All workers of a node see all of its GPUs.
        visible = ",".join(sorted(ids[0] for ids in gpus))
        ray.get([worker.update_environment.remote({"CUDA_VISIBLE_DEVICES": visible}) for worker in workers])
        assert ray.get([worker.variable.remote("CUDA_VISIBLE_DEVICES") for worker in workers]) == [visible] * 3
        assert ray.get([worker.group.remote() for worker in workers]) == [group.id.hex()] * 3
        assert ray.get([worker.adjust_rank.remote({0: 2, 1: 1, 2: 0}) for worker in workers]) == [2, 1, 0]
        sent = ray.cloudpickle.dumps(lambda worker, factor=1: worker.rank * factor)
        assert ray.get([worker.execute.remote(sent, factor=10) for worker in workers]) == [20, 10, 0]
        assert ray.get([worker.__ray_call__.remote(lambda self, more: self.rank + more, 5) for worker in workers]) == [
            7, 6, 5]


def test_a_group_that_does_not_fit_waits_and_says_so(engine):
    group = ray.util.placement_group([{"GPU": 1}] * (GPUS + 1), strategy="PACK", name="too large")
    try:
        ready = group.ready()
        assert ray.wait([ready], timeout=0.2) == ([], [ready])
        assert not group.wait(timeout_seconds=0.1)
        with pytest.raises(ray.exceptions.GetTimeoutError):
            ray.get(ready, timeout=0.1)
        tables = ray.util.placement_group_table()
        assert tables[group.id.hex()]["state"] == "PENDING" and tables[group.id.hex()]["name"] == "too large"
    finally:
        ray.util.remove_placement_group(group)
    until(lambda: ray.util.placement_group_table(group)["state"] == "REMOVED", "the group is removed")


def test_child_tasks_of_a_worker_stay_in_its_group_and_those_of_others_do_not(engine):
    @ray.remote(num_cpus=0)
    def child():
        group = ray.util.get_current_placement_group()
        return None if group is None else group.id.hex()

    @ray.remote(num_cpus=0)
    class Parent:
        def children(self):
            return ray.get([child.remote(), child.options(scheduling_strategy="DEFAULT").remote()])

    with reserved([{"CPU": 1, "GPU": 1}]) as group:
        captured = Parent.options(scheduling_strategy=in_bundle(group, 0)).remote()
        free = Parent.options(scheduling_strategy=in_bundle(group, 0, capture=False)).remote()
        assert ray.get(captured.children.remote()) == [group.id.hex(), None]
        assert ray.get(free.children.remote()) == [None, None]


def test_a_worker_can_be_told_to_keep_its_hands_off_cuda_visible_devices(engine):
    remote_class = ray.remote(EngineWorker)
    keeps = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "7,8"}}
    free = remote_class.options(num_gpus=1, runtime_env=keeps).remote()
    assert ray.get(free.variable.remote("CUDA_VISIBLE_DEVICES")) == "7,8"
    assert len(ray.get(free.node_and_gpus.remote())[1]) == 1
    bound = remote_class.options(num_gpus=2).remote()
    visible = ray.get(bound.variable.remote("CUDA_VISIBLE_DEVICES"))
    assert visible.split(",") == ray.get(bound.node_and_gpus.remote())[1] and len(visible.split(",")) == 2
    none = remote_class.options(num_gpus=0, num_cpus=1).remote()
    assert ray.get(none.node_and_gpus.remote())[1] == []
    for worker in (free, bound, none):
        ray.kill(worker)
    until(lambda: ray.available_resources().get("GPU") == GPUS, "the GPUs are free again")


def test_fractions_of_gpus_share_and_never_split_over_two(engine):
    remote_class = ray.remote(num_cpus=0, num_gpus=0.4)(EngineWorker)
    with reserved([{"GPU": 1}] * 2) as group:
        workers = [remote_class.options(scheduling_strategy=in_bundle(group, index // 2)).remote()
                   for index in range(4)]
        gpus = [ids for _, ids in ray.get([worker.node_and_gpus.remote() for worker in workers])]
        assert gpus[0] == gpus[1] and gpus[2] == gpus[3] and gpus[0] != gpus[2]
        assert ray.get(workers[0].variable.remote("CUDA_VISIBLE_DEVICES")) == gpus[0][0]


# ---- training


class Trainer(EngineWorker):
    """A worker of a group, named, which finds its master by the actor that rank 0 creates."""

    def __init__(self) -> None:
        super().__init__(int(os.environ["RANK"]))
        self.world = int(os.environ["WORLD_SIZE"])
        self.listener: socket.socket | None = None

    def free_address(self) -> tuple[str, int]:
        """An address of this node that is free, as a rendezvous of collective libraries."""
        self.listener = socket.create_server(("", 0))
        return services.get_node_ip_address().strip("[]"), self.listener.getsockname()[1]

    def register(self, prefix: str) -> tuple[str, int]:
        center = ray.remote(RegisterCenter).options(name=f"{prefix}_center", get_if_exists=True, num_cpus=0).remote()
        if self.rank == 0:
            ray.get(center.set_master.remote(*self.free_address()))
        self.center = center
        return until(lambda: ray.get(center.get_master.remote()), "rank 0 registers")

    def all_reduce(self, value: int, address: tuple[str, int]) -> int:
        """The sum over all ranks, by TCP through rank 0."""
        if self.rank:
            with socket.create_connection(address, timeout=WAIT_S) as connection:
                connection.sendall(value.to_bytes(8, "big"))
                return int.from_bytes(connection.recv(8), "big")
        connections = [self.listener.accept()[0] for _ in range(self.world - 1)]
        total = value + sum(int.from_bytes(connection.recv(8), "big") for connection in connections)
        for connection in connections:
            connection.sendall(total.to_bytes(8, "big"))
            connection.close()
        self.listener.close()
        return total


class RegisterCenter:
    def __init__(self) -> None:
        self.master: tuple[str, int] | None = None

    def set_master(self, address: str, port: int) -> None:
        self.master = (address, port)

    def get_master(self) -> tuple[str, int] | None:
        return self.master


def start_group(group, prefix, world, **more):
    remote_class = ray.remote(Trainer)
    workers = []
    for rank in range(world):
        variables = {"WORLD_SIZE": str(world), "RANK": str(rank), "WG_PREFIX": prefix,
                     "RAY_LOCAL_WORLD_SIZE": str(world)}
        workers.append(remote_class.options(
            runtime_env={"env_vars": variables}, name=f"{prefix}Trainer_0:{rank}", num_gpus=0.8, num_cpus=0,
            scheduling_strategy=in_bundle(group, rank), **more).remote())
    return workers


def test_workers_meet_at_the_address_and_port_of_rank_zero(engine):
    with reserved([{"CPU": 1, "GPU": 1}] * 3, strategy="STRICT_PACK", name="pool_0") as group:
        workers = start_group(group, "meet", 3)
        addresses = ray.get([worker.register.remote("meet") for worker in workers])
        assert len(set(addresses)) == 1 and addresses[0][0] == ray.util.get_node_ip_address()
        sums = [worker.all_reduce.remote(10 ** rank, addresses[0]) for rank, worker in enumerate(workers)]
        assert ray.get(sums, timeout=WAIT_S) == [111, 111, 111]
        named = {row["name"] for row in ray.util.list_named_actors(all_namespaces=True)}
        assert {"meetTrainer_0:0", "meetTrainer_0:1", "meetTrainer_0:2", "meet_center"} <= named
        again = ray.get_actor("meetTrainer_0:1")
        assert isinstance(again, ActorHandle) and again == workers[1] and again._actor_id == workers[1]._actor_id
        assert ray.get(again.variable.remote("RANK")) == "1"


def test_groups_are_sorted_by_the_address_of_their_node(engine):
    """As programs do that give neighbouring ranks to one node."""
    with reserved([{"GPU": 1}, {"GPU": 1}], name="pool_1") as one, reserved([{"GPU": 1}], name="pool_2") as two:
        address = {row["NodeID"]: row["NodeManagerAddress"] for row in ray.nodes() if row["Alive"]}
        found = {}
        for group in (one, two):
            specs = private_state.state.placement_group_table(group.id)
            found[group.id] = address[specs["bundles_to_node_id"][0]]
        assert sorted(found.values()) == [ray.util.get_node_ip_address()] * 2
        assert ray.util.get_placement_group("pool_2").id == two.id
        free = private_state.available_resources_per_node()
        assert {node: row.get("GPU", 0) for node, row in free.items()} == {next(iter(address)): 1}
        assert private_state.total_resources_per_node()[next(iter(address))]["GPU"] == GPUS


def test_roles_share_one_process_that_is_made_of_their_plain_classes(engine):
    """Programs place several roles into one worker: they take the plain classes out of decorated ones."""
    @ray.remote
    class Actor:
        def __init__(self, name):
            self.name = name

        def act(self):
            return f"{self.name} acts"

    @ray.remote(max_restarts=1)
    class Critic:
        def __init__(self, name):
            self.name = name

        def judge(self):
            return f"{self.name} judges in {os.getpid()}"

    assert isinstance(Actor, ActorClass) and hasattr(Actor, "__ray_actor_class__")
    roles = {"actor": Actor.__ray_actor_class__, "critic": Critic.__ray_metadata__.modified_class}
    assert Actor.__ray_actor_class__.__name__ == "Actor" and Critic.__ray_metadata__.class_name.endswith("Critic")
    assert Critic.__ray_metadata__.max_restarts == 1

    class Both:
        def __init__(self):
            self.roles = {name: cls(name) for name, cls in roles.items()}

    def forward(name, method):
        def call(self, *args, **kwargs):
            return getattr(self.roles[name], method)(*args, **kwargs)

        call.__name__ = f"{name}_{method}"
        return call

    for name, method in (("actor", "act"), ("critic", "judge")):
        setattr(Both, f"{name}_{method}", forward(name, method))
    worker = ray.remote(Both).options(num_cpus=0).remote()
    assert ray.get(worker.actor_act.remote()) == "actor acts"
    pid = ray.get(worker.__ray_call__.remote(lambda self: os.getpid()))
    assert ray.get(worker.critic_judge.remote()) == f"critic judges in {pid}" and pid != os.getpid()
    assert sorted(name for name in dir(worker) if name.startswith(("actor_", "critic_"))) == [
        "actor_act", "critic_judge"]


def test_the_end_of_one_worker_is_seen_and_the_group_starts_again_in_the_same_bundles(engine):
    with reserved([{"CPU": 1, "GPU": 1}] * 2, strategy="PACK") as group:
        workers = start_group(group, "first", 2)
        ray.get([worker.__ray_ready__.remote() for worker in workers], timeout=WAIT_S)
        dead = threading.Event()

        def watch():
            with contextlib.suppress(ray.exceptions.RayActorError):
                until(lambda: not ray.get(workers[1].variable.remote("RANK")), "the worker ends")
            dead.set()

        monitor = threading.Thread(target=watch)
        monitor.start()
        ray.kill(workers[1])
        assert dead.wait(WAIT_S)
        monitor.join()
        ray.kill(workers[0])
        again = start_group(group, "second", 2)
        assert ray.get([worker.variable.remote("WG_PREFIX") for worker in again], timeout=WAIT_S) == ["second"] * 2
        with pytest.raises(ValueError, match="Failed to look up actor with name 'firstTrainer_0:1'"):
            until(lambda: not ray.get_actor("firstTrainer_0:1"))


def test_a_runner_is_pinned_to_the_node_of_the_driver_and_sees_its_own_environment(engine):
    here = ray.get_runtime_context().get_node_id()
    runner = ray.remote(num_cpus=1)(EngineWorker).options(
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=here, soft=False),
        runtime_env={"env_vars": {"TOKENIZERS_PARALLELISM": "true", "NCCL_DEBUG": "WARN"}}).remote()
    assert ray.get(runner.node_and_gpus.remote())[0] == here
    assert ray.get(runner.variable.remote("NCCL_DEBUG")) == "WARN"
    seen = ray.get(runner.__ray_call__.remote(lambda self: dict(ray.get_runtime_context().runtime_env)))
    assert seen["env_vars"]["TOKENIZERS_PARALLELISM"] == "true"


def test_many_bundles_are_filled_by_many_workers_and_given_back(engine):
    """More bundles than most nodes have GPUs, in fractions; an actor and a task in each."""
    @ray.remote(num_cpus=0, num_gpus=0.125)
    def device():
        return ray.get_gpu_ids()

    with reserved([{"GPU": 0.25}] * 16) as group:
        remote_class = ray.remote(num_cpus=0, num_gpus=0.125)(EngineWorker)
        workers = [remote_class.options(scheduling_strategy=in_bundle(group, index)).remote() for index in range(16)]
        tasks = [device.options(scheduling_strategy=in_bundle(group, index)).remote() for index in range(16)]
        own = [ids for _, ids in ray.get([worker.node_and_gpus.remote() for worker in workers], timeout=2 * WAIT_S)]
        assert [[str(gpu) for gpu in ids] for ids in ray.get(tasks)] == own
        assert sorted(ids[0] for ids in own) == sorted(f"{gpu}" for gpu in range(GPUS) for _ in range(4))


FIRST_DRIVER = """
import RAY as ray
from RAY.util import placement_group
from RAY.util.scheduling_strategies import PlacementGroupSchedulingStrategy

ray.init(address=ADDRESS, namespace="training")
group = placement_group([{"GPU": 1, "CPU": 1}] * 2, name="lasting", lifetime="detached", strategy="PACK")
ray.get(group.ready())

@ray.remote(num_gpus=1)
class Worker:
    def __init__(self, rank):
        self.rank, self.steps = rank, 0

    def step(self):
        self.steps += 1
        return self.rank, self.steps

    def group(self):
        return ray.util.get_current_placement_group()

workers = [Worker.options(name=f"worker_{rank}", lifetime="detached", scheduling_strategy=
                          PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)).remote(rank)
           for rank in range(2)]
print(ray.get([worker.step.remote() for worker in workers]))
"""

SECOND_DRIVER = """
import RAY as ray

ray.init(address=ADDRESS, namespace="inference")
try:
    ray.get_actor("worker_0")
except ValueError as error:
    print(str(error).split(". ")[0])
names = sorted(row["name"] for row in ray.util.list_named_actors(all_namespaces=True) if row["namespace"] == "training")
workers = [ray.get_actor(name, namespace="training") for name in names]
print(names, ray.get([worker.step.remote() for worker in workers]))
try:
    ray.util.get_placement_group("lasting")  # names of groups are those of the namespace
except ValueError as error:
    print(error)
group = ray.get(workers[0].group.remote())
print(group.bundle_count, ray.util.placement_group_table(group)["state"])
for worker in workers:
    ray.kill(worker)
ray.util.remove_placement_group(group)
"""


def test_named_workers_outlive_their_driver_and_serve_another(engine, tmp_path):
    address = ray.get_runtime_context().gcs_address

    def run(source, name):
        text = source.replace("RAY", TARGET).replace("ADDRESS", repr(address))
        return run_script(tmp_path, text, name=name, PYTHONWARNINGS="default").stdout.splitlines()

    assert run(FIRST_DRIVER, "first.py")[-1] == "[(0, 1), (1, 1)]"
    assert [line for line in run(SECOND_DRIVER, "second.py") if not line.startswith(("(", "\x1b"))] == [
        "Failed to look up actor with name 'worker_0'", "['worker_0', 'worker_1'] [(0, 2), (1, 2)]",
        "Failed to look up placement group with name: lasting", "2 CREATED"]
    until(lambda: ray.available_resources().get("GPU") == GPUS, "the GPUs are free again", WAIT_S)
