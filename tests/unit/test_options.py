"""Options: Ray's names, types, ranges and words; normalised once."""

from __future__ import annotations

import pickle

import pytest

import zray as ray
from zray.cluster_utils import Cluster
from zray.handles.keywords import ActorKeywords, MethodKeywords, RemoteKeywords, TaskKeywords
from zray.handles.options import DYNAMIC, STREAMING, ActorOptions, CallOptions, TaskOptions
from zray.runtime_env import RuntimeEnv
from zray.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)


@pytest.mark.parametrize("cls", [TaskOptions, ActorOptions, CallOptions])
def test_an_unknown_keyword_is_named_with_the_valid_ones(cls):
    with pytest.raises(ValueError, match=r"^Invalid option keyword num_cpu for .*Valid ones are \[.*'name'"):
        cls.build({"num_cpu": 1})


@pytest.mark.parametrize(("cls", "raw"), [
    (TaskOptions, {"num_cpus": "1"}), (TaskOptions, {"num_cpus": True}), (TaskOptions, {"resources": [1]}),
    (TaskOptions, {"max_retries": 1.5}), (TaskOptions, {"name": 3}), (TaskOptions, {"retry_exceptions": "all"}),
    (ActorOptions, {"max_concurrency": "2"}), (ActorOptions, {"get_if_exists": 1}), (CallOptions, {"num_returns": 1.0}),
])
def test_wrong_types_are_type_errors_that_name_the_keyword(cls, raw):
    with pytest.raises(TypeError, match=f"The type of keyword '{next(iter(raw))}'"):
        cls.build(raw)


@pytest.mark.parametrize(("cls", "raw", "words"), [
    (TaskOptions, {"num_cpus": -1}, "cannot be negative"),
    (TaskOptions, {"num_cpus": 0.00001}, "cannot go beyond 0.0001"),
    (TaskOptions, {"num_cpus": float("nan")}, "num_cpus"),
    (TaskOptions, {"num_cpus": float("inf")}, "num_cpus"),
    (TaskOptions, {"resources": {"CPU": 1}}, "Use the 'num_cpus'"),
    (TaskOptions, {"resources": {"x": "1"}}, "'resources' maps names to numbers"),
    (TaskOptions, {"num_returns": -1}, "num_returns"),
    (TaskOptions, {"num_returns": "all"}, "num_returns"),
    (TaskOptions, {"max_retries": -2}, "max_retries"),
    (TaskOptions, {"max_calls": -1}, "max_calls"),
    (TaskOptions, {"retry_exceptions": [int]}, "retry_exceptions must be"),
    (TaskOptions, {"_generator_backpressure_num_objects": 0}, "must be positive"),
    (TaskOptions, {"scheduling_strategy": "ANYWHERE"}, "Invalid scheduling_strategy value"),
    (TaskOptions, {"runtime_env": {"env_vars": {"A=B": "1"}}}, "neither '='"),
    (TaskOptions, {"runtime_env": {"env_vars": {"A": "a\0b"}}}, "null character"),
    (TaskOptions, {"runtime_env": {"conda": "x"}}, "not supported"),
    (TaskOptions, {"label_selector": {"zone": 1}}, "Dict"),
    (ActorOptions, {"lifetime": "long"}, "lifetime"),
    (ActorOptions, {"max_concurrency": 0}, "max_concurrency"),
    (ActorOptions, {"max_restarts": -2}, "max_restarts"),
    (ActorOptions, {"get_if_exists": True}, "name must be specified"),
    (ActorOptions, {"name": ""}, "empty string"),
    (ActorOptions, {"namespace": ""}, "valid namespace"),
    (ActorOptions, {"concurrency_groups": {"io": 0}}, "concurrency_groups"),
])
def test_wrong_values_are_value_errors_that_say_why(cls, raw, words):
    with pytest.raises(ValueError, match=words):
        cls.build(raw)


def test_defaults_are_rays():
    task, actor = TaskOptions.build(), ActorOptions.build()
    assert (task.demand, task.num_returns, task.max_retries, task.retry_exceptions) == ({"CPU": 10_000}, 1, None, False)
    assert (actor.placement, actor.running) == ({"CPU": 10_000}, {})
    assert (actor.max_restarts, actor.max_task_retries, actor.max_pending_calls, actor.lifetime) == (0, 0, -1, None)
    assert actor.concurrency(is_async=False) == 1 and actor.concurrency(is_async=True) == 1000


def test_bytes_of_memory_are_rounded_down():
    assert TaskOptions.build({"memory": 0.3 * 1e9 / 7}).demand["memory"] == 42_857_142 * 10_000


def test_demands_are_exact_units_without_zeros():
    options = TaskOptions.build({"num_cpus": 0, "num_gpus": 0.1, "memory": 100, "resources": {"disk": 0.3, "none": 0}})
    assert options.demand == {"GPU": 1000, "memory": 1_000_000, "disk": 3000}


@pytest.mark.parametrize(("raw", "placement", "running"), [
    ({"num_cpus": 2}, {"CPU": 20_000}, {"CPU": 20_000}),
    ({"num_cpus": 0}, {}, {}),
    ({"num_gpus": 1}, {"CPU": 10_000, "GPU": 10_000}, {"CPU": 10_000, "GPU": 10_000}),
    ({"memory": 5}, {"CPU": 10_000, "memory": 50_000}, {"memory": 50_000}),
])
def test_an_actor_with_no_resources_needs_a_cpu_to_be_placed_and_none_to_run(raw, placement, running):
    options = ActorOptions.build(raw)
    assert (options.placement, options.running) == (placement, running)


def test_generators_stream_unless_told_otherwise():
    assert TaskOptions.for_function({}, is_generator=True).num_returns == STREAMING
    assert TaskOptions.for_function({"num_returns": 2}, is_generator=True).num_returns == 2
    assert TaskOptions.for_function({}, is_generator=True).merged(name="x").num_returns == STREAMING
    with pytest.warns(DeprecationWarning):
        assert TaskOptions.for_function({"num_returns": "dynamic"}, is_generator=True).num_returns == DYNAMIC
    with pytest.raises(ValueError, match="can only be used with generator functions"):
        TaskOptions.for_function({"num_returns": "streaming"}, is_generator=False)


def test_merged_replaces_and_leaves_the_original():
    first = TaskOptions.build({"num_cpus": 2, "name": "a"})
    second = first.merged(num_cpus=3, max_retries=0)
    assert first.demand == {"CPU": 20_000} and second.demand == {"CPU": 30_000}
    assert second.name == "a" and second.max_retries == 0
    with pytest.raises(ValueError, match="max_calls"):
        first.merged(max_calls=1)
    with pytest.raises(ValueError, match="concurrency_groups"):
        ActorOptions.build().merged(concurrency_groups={"io": 1})
    with pytest.raises(ValueError, match="Invalid option keyword"):
        first.merged(cpus=1)


def test_the_key_depends_on_what_leases_depend_on_and_on_nothing_else():
    base = TaskOptions.build({"resources": {"a": 1, "b": 2}})
    same = TaskOptions.build({"resources": {"b": 2.0, "a": 1}, "name": "x", "max_retries": 7, "num_returns": 3})
    assert base.key == same.key and hash(base.key) == hash(same.key)
    for change in ({"num_cpus": 2}, {"runtime_env": {"env_vars": {"A": "1"}}}, {"scheduling_strategy": "SPREAD"},
                   {"label_selector": {"zone": "x"}}):
        assert base.merged(**change).key != base.key
    assert hash(base.merged(scheduling_strategy=NodeLabelSchedulingStrategy({"a": In("x", "y")})).key)


def test_options_pickle():
    for options in (TaskOptions.for_function({"num_cpus": 2, "retry_exceptions": [ValueError]}, True),
                    ActorOptions.build({"name": "n", "max_restarts": -1}), CallOptions.build({"num_returns": 2})):
        again = pickle.loads(pickle.dumps(options))
        assert again == options and getattr(again, "num_returns", 0) == getattr(options, "num_returns", 0)


def test_strategies_travel_as_maps():
    node = "ab" * 28
    assert TaskOptions.build({"scheduling_strategy": "DEFAULT"}).strategy == {}
    assert TaskOptions.build({"scheduling_strategy": "SPREAD"}).strategy == {"kind": "spread"}
    affinity = NodeAffinitySchedulingStrategy(node, soft=True)
    assert TaskOptions.build({"scheduling_strategy": affinity}).strategy == {
        "kind": "affinity", "node": bytes.fromhex(node), "soft": True}
    labels = NodeLabelSchedulingStrategy({"a": In("x"), "b": NotIn("y")}, soft={"c": Exists(), "d": DoesNotExist()})
    assert TaskOptions.build({"scheduling_strategy": labels}).strategy == {
        "kind": "labels", "hard": {"a": ["in", "x"], "b": ["not_in", "y"]},
        "soft": {"c": ["exists"], "d": ["does_not_exist"]}}


def test_strategies_are_what_the_scheduler_understands():
    from zray.sched.policies import policy_of

    for strategy in ("DEFAULT", "SPREAD", NodeAffinitySchedulingStrategy("ab" * 28),
                     NodeLabelSchedulingStrategy({"a": In("x")})):
        policy_of(TaskOptions.build({"scheduling_strategy": strategy}).strategy)


def test_strategies_refuse_nonsense():
    with pytest.raises(ValueError, match="node_id"):
        NodeAffinitySchedulingStrategy("not hex")
    with pytest.raises(ValueError, match="In, NotIn"):
        NodeLabelSchedulingStrategy({"a": "x"})


def test_a_runtime_env_is_a_checked_dict():
    env = RuntimeEnv(env_vars={"A": "1"})
    assert env == {"env_vars": {"A": "1"}} and pickle.loads(pickle.dumps(env)) == env
    assert TaskOptions.build({"runtime_env": env}).env == {"env_vars": {"A": "1"}}
    with pytest.raises(TypeError, match="Dict.*'A': 1 has a int; write 'A': '1'"):
        RuntimeEnv(env_vars={"A": 1})


@pytest.mark.parametrize(("call", "meant"), [
    (lambda: ray.remote(num_cpu=1)(print), "num_cpus"), (lambda: ray.remote(max_retry=1)(print), "max_retries"),
    (lambda: ray.remote(num_gpu=1)(type("A", (), {})), "num_gpus"),
    (lambda: ray.remote(len).options(num_return=2), "num_returns"),
    (lambda: ray.init(num_cpu=1), "num_cpus"), (lambda: ray.init(_system_confg={}), "_system_config"),
    (lambda: ray.method(num_return=2), "num_returns"),
    (lambda: Cluster().add_node(num_cpu=1), "num_cpus"),
])
def test_a_slip_in_the_name_of_an_option_is_answered_with_the_name_that_was_meant(call, meant):
    with pytest.raises((ValueError, TypeError, RuntimeError), match=rf"did you mean '{meant}'\?"):
        call()


def test_what_resembles_no_option_gets_no_suggestion():
    with pytest.raises(ValueError, match="Invalid option keyword zzz for remote functions. Valid ones are"):
        ray.remote(zzz=1)(print)


def test_a_slip_in_the_name_of_a_setting_is_refused_before_anything_starts():
    with pytest.raises(TypeError):
        ray.init(_system_config={"warn_wait": 1}, num_cpus="many")  # the first fault ends it
    with pytest.raises(ValueError, match=r"no setting warn_wait \(did you mean 'warn_wait_s'\?\)"):
        ray.init(_system_config={"warn_wait": 1})
    assert not ray.is_initialized()


def test_the_keywords_that_type_checkers_know_are_those_that_programs_may_write():
    for keywords, table in ((TaskKeywords, TaskOptions.TABLE), (ActorKeywords, ActorOptions.TABLE),
                            (MethodKeywords, CallOptions.TABLE)):
        assert set(keywords.__annotations__) == set(table) - {"num_returns"}
    assert set(RemoteKeywords.__annotations__) == set(TaskKeywords.__annotations__) | set(ActorKeywords.__annotations__)
