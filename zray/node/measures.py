"""What a node measures of itself, as families of metrics.  Names and labels are Ray's where it has a counterpart.

Nothing is measured until somebody asks: a family is made from the tables of the node at the question.  Ray's metrics
without a counterpart here: those of its dashboard, its GCS server and its gRPC servers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zray.metrics.recorder import COUNTER, GAUGE
from zray.node.jobs.ended_events import EVENT_ATTEMPT, EVENT_NAME
from zray.sched.resources import amounts

if TYPE_CHECKING:
    from zray.node.views import Viewed

Series = list[list[Any]]


def families(viewed: Viewed) -> list[dict[str, Any]]:
    """All of them: of user code, of the node, of its machine."""
    labels = {"NodeAddress": viewed.node.get("NodeManagerAddress", ""), "NodeId": viewed.node.get("NodeID", ""),
              "SessionName": viewed.host.session_name}
    own = [*_work(viewed), *_processes(viewed), *_resources(viewed), *_store(viewed), *_host(viewed)]
    for one in own:
        one["series"] = [[{**series, **labels}, value] for series, value in one["series"]]
    return viewed.metrics.rows(labels) + own


def family(name: str, kind: str, description: str, series: Series) -> dict[str, Any]:
    return {"name": name, "kind": kind, "description": description, "boundaries": [], "series": series}


def _work(viewed: Viewed) -> list[dict[str, Any]]:
    """Tasks, actors, placement groups and jobs."""
    ends = [[{"Name": name, "State": "FINISHED" if finished else "FAILED", "JobId": _job(job),
              "IsRetry": str(int(retry))}, count] for (name, job, finished, retry), count in viewed.events.counts]
    running: dict[tuple[str, str, int, bool], int] = {}
    for source, event in viewed.events.running.values():
        worker = viewed.pool.workers.get(source.worker)
        state = "RUNNING_IN_RAY_GET" if worker is not None and worker.blocked else "RUNNING"
        key = event[EVENT_NAME], state, source.job, event[EVENT_ATTEMPT] > 0
        running[key] = running.get(key, 0) + 1
    ends += [[{"Name": name, "State": state, "JobId": _job(job), "IsRetry": str(int(retry))}, count]
             for (name, state, job, retry), count in running.items()]
    waiting: dict[tuple[str, int], int] = {}
    declared = viewed.leases.declared()
    for row in viewed.scheduler.report()["waiting"]:
        known = declared.get((row["owner"], row["key"]))
        key_ = (row["name"] if known is None or row["actor"] else known.name), row["job"]
        waiting[key_] = waiting.get(key_, 0) + row["want"]
    actors = _counted((actor.state, actor.spec.get("class_name", ""), actor.spec.get("job", 0))
                      for actor in viewed.actors.actors.values())
    jobs = list(viewed.jobs.jobs.values())
    return [
        family("ray_tasks", GAUGE, "Attempts of tasks by state: those that run now, and those that have ended", ends),
        family("zray_leases_wanted", GAUGE, "Workers that owners wait for, by the function that waits first", [
            [{"Name": name, "JobId": _job(job)}, count] for (name, job), count in waiting.items()]),
        family("ray_actors", GAUGE, "Actors whose home is this node, by state", [
            [{"State": state, "Name": name, "JobId": _job(job)}, count] for (state, name, job), count in actors]),
        family("ray_placement_groups", GAUGE, "Placement groups whose home is this node, by state", [
            [{"State": state}, count] for (state,), count in _counted(
                (row["state"],) for row in viewed.groups.table.rows())]),
        family("ray_running_jobs", GAUGE, "Jobs that run, of drivers on this node", [
            [{}, sum(not job.is_over and viewed.context.is_mine(job.driver) for job in jobs)]]),
        family("zray_task_events", COUNTER, "Ended tasks that were reported one by one", [[{}, viewed.events.seen]]),
        family("zray_tasks_not_reported", COUNTER, "Ended tasks that were only counted", [[{}, viewed.events.dropped]]),
        family("zray_task_events_forgotten", COUNTER, "Reported tasks that are too old or too many to be listed", [
            [{}, viewed.events.ended.forgotten]]),
        family("zray_metrics_dropped", COUNTER, "Records of metrics beyond metric_series_max, or of another kind", [
            [{}, viewed.metrics.dropped]])]


def _processes(viewed: Viewed) -> list[dict[str, Any]]:
    states = _counted((worker.state.name,) for worker in viewed.pool.workers.values())
    counts = viewed.context.counts
    return [
        family("zray_workers", GAUGE, "Worker processes", [[{"State": state}, n] for (state,), n in states]),
        family("zray_leases", GAUGE, "Leases of workers, and places of actors", [[{}, len(viewed.placements)]]),
        family("zray_worker_deaths", COUNTER, "Worker processes that ended unasked", [[{}, counts["worker_deaths"]]]),
        family("ray_memory_manager_worker_eviction", COUNTER, "Workers that were ended for lack of memory", [
            [{"Type": "MemoryManager.Eviction.Total"}, counts["memory_ends"]]])]


def _resources(viewed: Viewed) -> list[dict[str, Any]]:
    total, free = amounts(viewed.scheduler.total()), amounts(viewed.scheduler.available())
    series = []
    for name, amount in total.items():
        left = max(0.0, free.get(name, 0.0))
        series += [[{"Name": name, "State": "USED"}, max(0.0, amount - left)],
                   [{"Name": name, "State": "AVAILABLE"}, left]]
    return [family("ray_resources", GAUGE, "Logical resources of this node by state", series)]


def _store(viewed: Viewed) -> list[dict[str, Any]]:
    store = viewed.store_report()
    if "capacity" not in store:
        return []
    return [
        family("ray_object_store_memory", GAUGE, "Bytes of objects by where they are", [
            [{"Location": "MMAP_SHM"}, store["used"]], [{"Location": "MMAP_DISK"}, store["overflow"]],
            [{"Location": "SPILLED"}, store["spilled"]]]),
        family("ray_object_store_available_memory", GAUGE, "Bytes of the object store that are free", [
            [{}, max(0, store["capacity"] - store["used"])]]),
        family("ray_object_store_used_memory", GAUGE, "Bytes of the object store in use", [[{}, store["used"]]]),
        family("zray_object_store_capacity", GAUGE, "Bytes of the object store", [[{}, store["capacity"]]]),
        family("ray_object_store_num_local_objects", GAUGE, "Objects in the object store and on its disk", [
            [{}, len(store["objects"])]])]


def _host(viewed: Viewed) -> list[dict[str, Any]]:
    running = viewed.events.running_on()
    processes = [(worker.pid, f"ray::{running.get(incarnation, 'IDLE' if not worker.lease else worker.state.name)}")
                 for incarnation, worker in viewed.pool.workers.items() if worker.pid]
    ip = viewed.node.get("NodeManagerAddress", "")
    return [family(name, GAUGE, description, [[{"ip": ip, **labels}, value] for labels, value in series])
            for name, description, series in viewed.host.read(processes)]


def _counted(keys: Any) -> list[tuple[Any, int]]:
    found: dict[Any, int] = {}
    for key in keys:
        found[key] = found.get(key, 0) + 1
    return sorted(found.items())


def _job(number: int) -> str:
    return f"{number:08x}"  # as job ids are shown
