"""zray has the names of Ray's core, and takes their keywords; what it lacks is in zray.base.ray_missing.

``ray_surface.txt`` holds the names and signatures, as facts about one version of Ray:

    module
        name(parameter, keyword=, *args, **kwargs)      a function, or a class with the parameters of its constructor
        Class.method(...)
        Class.attribute                                 a property, or a name that is not called

``python tests/unit/test_ray_surface.py`` writes it, in an environment with that Ray.
"""

from __future__ import annotations

import contextlib
import enum
import importlib
import inspect
import re
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

try:  # Ray's environment, which writes the file, has neither
    import pytest

    from zray.base.ray_missing import MISSING, why_missing
except ImportError:
    pass

SURFACE = Path(__file__).with_name("ray_surface.txt")

# Names that are no part of what programs use although they are visible there.
NO_API = re.compile(r"^(T|R|V|F|DAGNode|T\d|RF|cpp_function)$")

# What zray does otherwise on purpose: the name, and why the keyword or name has no place.
OTHERWISE: dict[str, str] = {
    **dict.fromkeys(("actor.ActorClass", "actor.ActorHandle", "actor.ActorMethod", "remote_function.RemoteFunction",
                     "runtime_context.RuntimeContext", "ObjectRefGenerator", "_raylet.ObjectRefGenerator"),
                    "programs get instances of the runtime and make none"),
    **{f"{place}ObjectRefGenerator.{name}": "an iterator, and no generator: Ray's raise NotImplementedError"
       for place in ("", "_raylet.") for name in ("aclose", "asend", "athrow", "close", "send", "throw")},
    "runtime_env.RuntimeEnv.get": "that of a dict",
    **dict.fromkeys(("dag.ClassMethodNode", "dag.ClassNode", "dag.FunctionNode", "dag.InputAttributeNode",
                     "dag.MultiOutputNode"), "bind and InputNode make them"),
    **dict.fromkeys(("dag.DAGContext", "dag.DAGContext.overlap_gpu_communication",
                     "dag.DAGContext.read_iteration_timeout"), "settings that only graphs between GPUs have"),
    **dict.fromkeys(("util.iter.LocalIterator", "util.iter.ParallelIterator"), "the functions from_... make them"),
    **{f"util.multiprocessing.pool.{name}": "methods of a Pool make them"
       for name in ("AsyncResult", "IMapIterator", "OrderedIMapIterator", "UnorderedIMapIterator")},
    "util.state.common.PlacementGroupState": "rows of the state API make it",
    "client_builder.ClientContext": "the result of init",
    "exceptions.RayTaskError": "the text of the error has them",
}


# ---------------------------------------------------------------- the facts


@cache
def facts() -> dict[str, list[tuple[str, str | None]]]:
    """Module -> (dotted name in it, signature or None), in the order of the file."""
    found: dict[str, list[tuple[str, str | None]]] = {}
    for line in SURFACE.read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            rows = found[line.strip()] = []
        else:
            name, opened, rest = line.strip().partition("(")
            rows.append((name, rest.removesuffix(")") if opened else None))
    return found


def lacks(module: str, name: str, signature: str | None) -> str:
    """What zray lacks of it, '' when nothing."""
    thing: Any = importlib.import_module("z" + module)
    for part in name.split("."):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                thing = inspect.getattr_static(thing, part) if isinstance(thing, type) else getattr(thing, part)
        except AttributeError:
            return "the name"
    if signature is None or isinstance(thing, enum.EnumType):  # how to make one is Python's, and differs by version
        return ""
    taken = parameters(getattr(thing, "__func__", thing))
    if taken is None or "**" in {kind for _, kind in taken}:
        return ""
    names = [each for each, kind in taken]
    wanted = [each.strip() for each in signature.split(",") if each.strip()]
    missing = [each for each in wanted if not each.startswith("*") and each.rstrip("=") not in names]
    if missing:
        return f"the parameters {', '.join(missing)}"
    return ""


def parameters(thing: Any) -> list[tuple[str, str]] | None:
    try:
        found = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*",
             inspect.Parameter.POSITIONAL_ONLY: "/"}
    return [(each.name, kinds.get(each.kind, "")) for each in found]


def gaps() -> Iterator[tuple[str, str]]:
    """The full names that zray lacks, without "ray.", and what of them."""
    for module, rows in facts().items():
        inside = module.removeprefix("ray").removeprefix(".")
        if why_missing(inside):
            continue
        try:
            importlib.import_module("z" + module)
        except ModuleNotFoundError:
            yield inside, "the module"
            continue
        for name, signature in rows:
            full = f"{inside}.{name}".removeprefix(".")
            if full not in OTHERWISE and not why_missing(full) and (gap := lacks(module, name, signature)):
                yield full, gap


# ---------------------------------------------------------------- the tests


def test_zray_has_every_name_of_rays_core_with_its_keywords():
    assert dict(gaps()) == {}


def test_what_is_listed_as_missing_is_missing():
    """An entry of ray_missing that zray has must go, and so must an exception of this test."""
    def has(full: str) -> bool:
        thing: Any = importlib.import_module("zray")
        for part in full.split("."):
            found = getattr(thing, part, None)
            if found is None and inspect.ismodule(thing):
                with contextlib.suppress(ModuleNotFoundError):
                    found = importlib.import_module(f"{thing.__name__}.{part}")
            if found is None:
                return False
            thing = found
        return True

    assert not [full for full in MISSING if has(full)]


def test_every_exception_of_the_surface_is_a_name_of_ray():
    known = {f"{module}.{name}".removeprefix("ray.") for module, rows in facts().items() for name, _ in rows}
    assert not set(OTHERWISE) - known


def test_what_is_missing_says_so():
    import zray

    assert why_missing("data.context") == "ray.data is not in zray yet" and why_missing("get") == ""
    with pytest.raises(AttributeError, match="module 'zray' has no attribute 'data': ray.data is not in zray yet"):
        zray.data
    with pytest.raises(AttributeError, match="has no attribute 'spark': ray.util.spark is not in zray yet"):
        zray.util.spark
    assert not hasattr(zray, "tune") and not hasattr(zray.util, "no_such_name")


# ---------------------------------------------------------------- writing the file, with Ray

WHOLE = """
ray ray.actor ray.exceptions ray.runtime_context ray.runtime_env ray.job_config ray.cluster_utils ray.remote_function
ray.types ray.client_builder ray.cross_language ray.autoscaler.sdk ray.dag ray.job_submission
ray.util ray.util.accelerators ray.util.actor_pool ray.util.annotations ray.util.check_serialize ray.util.client
ray.util.collective ray.util.debug ray.util.debugpy ray.util.helpers ray.util.iter ray.util.joblib ray.util.metrics
ray.util.multiprocessing ray.util.multiprocessing.pool ray.util.placement_group ray.util.queue ray.util.rpdb
ray.util.scheduling_strategies ray.util.serialization ray.util.spark ray.util.state ray.util.state.exception
ray.util.tpu ray.experimental ray.experimental.channel ray.experimental.compiled_dag_ref
ray.experimental.dynamic_resources ray.experimental.locations ray.experimental.queue ray.experimental.shuffle
ray.experimental.tqdm_ray
""".split()
# Of modules that are private, or have more than users import: the names that programs use.
SOME: dict[str, str] = {
    "ray": "__version__ __commit__ ActorID JobID NodeID ObjectID PlacementGroupID TaskID UniqueID WorkerID logger",
    "ray._private.ray_constants": """
        DEFAULT_DASHBOARD_IP DEFAULT_DASHBOARD_PORT DEFAULT_MAX_CONCURRENCY_ASYNC DEFAULT_OBJECT_STORE_MEMORY_PROPORTION
        DEFAULT_PORT GPU ID_SIZE KV_NAMESPACE_PACKAGE LOGGER_FORMAT LOGGER_LEVEL NEURON_CORES NODE_DEFAULT_IP NUM_CPUS
        OBJECT_STORE_MINIMUM_MEMORY_BYTES RAY_ADDRESS_ENVIRONMENT_VARIABLE RAY_JOB_CONFIG_JSON_ENV_VAR
        RAY_NAMESPACE_ENVIRONMENT_VARIABLE RAY_OVERRIDE_DASHBOARD_URL RAY_RUNTIME_ENV_ENVIRONMENT_VARIABLE
        RESOURCE_CONSTRAINT_PREFIX env_bool env_float env_integer""",
    "ray._private.services": "get_node_ip_address canonicalize_bootstrap_address find_bootstrap_address",
    "ray._private.state": """
        GlobalState actors available_resources available_resources_per_node cluster_resources current_node_id jobs
        next_job_id node_ids nodes object_transfer_timeline state timeline total_resources_per_node workers""",
    "ray._private.test_utils": """
        SignalActor Semaphore wait_for_condition async_wait_for_condition wait_for_pid_to_exit run_string_as_driver
        get_other_nodes""",
    "ray._private.utils": """
        binary_to_hex hex_to_binary get_num_cpus get_system_memory get_used_memory get_ray_temp_dir get_user
        get_or_create_event_loop is_main_thread estimate_available_memory get_shared_memory_bytes split_address
        get_entrypoint_name""",
    "ray._private.worker": """
        BaseContext LOCAL_MODE RayContext SCRIPT_MODE WORKER_MODE Worker cancel get get_actor get_dashboard_url
        get_gpu_ids get_resource_ids global_worker init is_initialized kill nodes put remote shutdown wait
        _global_node""",
    "ray._common.network_utils": "find_free_port build_address parse_address is_localhost",
    "ray._common.test_utils": "SignalActor Semaphore wait_for_condition async_wait_for_condition",
    "ray._common.utils": """
        binary_to_hex hex_to_binary env_bool env_float env_integer get_or_create_event_loop get_system_memory
        import_attr load_class get_random_alphanumeric_string run_background_task""",
    "ray._raylet": """
        ActorID DynamicObjectRefGenerator JobID NodeID ObjectID ObjectRef ObjectRefGenerator PlacementGroupID TaskID
        UniqueID WorkerID""",
    "ray._version": "commit version",
    "ray.cloudpickle": "dump dumps dumps_debug load loads register_pickle_by_value unregister_pickle_by_value",
    "ray.experimental.internal_kv": """
        _internal_kv_del _internal_kv_exists _internal_kv_get _internal_kv_initialized _internal_kv_list
        _internal_kv_put""",
    "ray.experimental.state.api": """
        get_actor get_node get_task get_worker list_actors list_jobs list_nodes list_objects list_placement_groups
        list_tasks list_workers summarize_tasks""",
    "ray.util.state.common": """
        ActorState JobState NodeState ObjectState PlacementGroupState RuntimeEnvState StateResource TaskState
        WorkerState""",
    "ray.util.tracing.tracing_helper": "is_tracing_enabled",
}


def described(module: Any, name: str, full: str) -> Iterator[str]:
    thing = getattr(module, name)
    signature = written(thing) if callable(thing) else None
    yield name if signature is None else f"{name}({signature})"
    if not isinstance(thing, type):
        return
    for attribute in sorted(vars(thing)):
        if attribute.startswith("_"):
            continue
        value = inspect.getattr_static(thing, attribute)
        function = getattr(value, "__func__", value)
        if inspect.isroutine(function):
            signature = written(function)
            yield f"{name}.{attribute}" + ("" if signature is None else f"({signature})")
        else:
            yield f"{name}.{attribute}"


def written(thing: Any) -> str | None:
    try:
        found = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return None
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return ", ".join(stars.get(each.kind, "") + each.name + ("" if each.default is each.empty else "=")
                     for each in found if each.name not in ("self", "cls"))


def public(module: Any) -> list[str]:
    named = getattr(module, "__all__", None)
    if named:
        return sorted(set(named))
    return sorted(name for name, value in vars(module).items() if not name.startswith("_")
                  and str(getattr(value, "__module__", "")).startswith(module.__name__))


def main() -> None:
    lines = []
    for name in sorted({*WHOLE, *SOME}):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            print(f"{name}: {error}")
            continue
        names = set(SOME.get(name, "").split()) | (set(public(module)) if name in WHOLE else set())
        lines.append(name)
        for each in sorted(names):
            if NO_API.match(each):
                continue
            try:
                lines += [f"    {row}" for row in described(module, each, name)]
            except Exception as error:  # a module of Ray that needs what is not installed
                print(f"{name}.{each}: {error!r}")
    SURFACE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
