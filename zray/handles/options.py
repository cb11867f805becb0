"""Options of tasks, actors and calls: checked against Ray's names, types and ranges, normalised once, immutable.

``TaskOptions.build({...})`` checks a user's keywords; ``merged(**updates)`` is ``.options(...)``.
The runtime reads the attributes; ``key`` (hashable) is the part of them that decides which leases
may run the task.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Self

from zray.base.errors import did_you_mean
from zray.base.named_tuples import NamedTuple
from zray.base.plain_numbers import plain
from zray.environments import spec
from zray.handles.connection import current
from zray.handles.label_selectors import expressions, problem as selector_problem
from zray.sched.resources import units

STREAMING = -1
DYNAMIC = -2
CPU_UNITS = 10_000
ASYNC_MAX_CONCURRENCY = 1000  # Ray's default for actors with coroutine methods

Check = Callable[[str, Any], "str | None"]


class Option(NamedTuple):
    """One keyword: its types, a check that returns the mistake, and the default."""

    types: tuple[type, ...]
    check: Check | None = None
    default: Any = None

    def validate(self, name: str, value: Any) -> None:
        if isinstance(value, bool) and bool not in self.types or not isinstance(value, self.types):
            wanted = " or ".join("None" if t is type(None) else t.__name__ for t in self.types)
            raise TypeError(f"The type of keyword '{name}' must be {wanted}, but received type {type(value).__name__}: "
                            f"{value!r}")
        problem = self.check(name, value) if self.check is not None and value is not None else None
        if problem:
            raise ValueError(problem)


_NONE = type(None)


def _at_least(low: int, allowed: str) -> Check:
    return lambda name, value: None if value >= low else f"The keyword '{name}' only accepts {allowed}, not {value!r}."


_infinite = _at_least(-1, "None, 0, -1 or a positive integer, where -1 represents infinity")
_finite = _at_least(0, "None, 0 or a positive integer")
_positive = _at_least(1, "None or a positive integer")


def _quantity(name: str, value: float) -> str | None:
    if value < 0:
        return f"The quantity of resource {name} cannot be negative"
    if 0 < value < 1e-4:
        return f"The precision of the fractional quantity of resource {name} cannot go beyond 0.0001"
    try:
        units(value, name)
    except ValueError as error:
        return str(error)
    return None


def _resources(_: str, value: dict[str, float]) -> str | None:
    if "CPU" in value or "GPU" in value:
        return "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and 'GPU' in 'resources' keyword"
    for name, quantity in value.items():
        if not isinstance(name, str) or isinstance(quantity, bool) or not isinstance(quantity, (int, float)):
            return f"'resources' maps names to numbers, not {name!r} to {quantity!r}"
        problem = _quantity(name, quantity)
        if problem:
            return problem
    return None


WHOLE = frozenset(("GPU", "TPU", "neuron_cores", "HPU", "NPU"))  # resources whose units are shared, but not split


def copies_asked(durability: Any) -> int:
    """The ``durability`` of a put; TypeError and ValueError say what is wrong with it."""
    if isinstance(durability, bool) or not isinstance(durability, int):
        raise TypeError(f"durability must be an int, the number of nodes that keep a copy, not a "
                        f"{type(durability).__name__}")
    if durability < 1:
        raise ValueError(f"durability must be 1 or more, the number of nodes that keep a copy, not {durability}")
    return durability


def check_whole(demand: dict[str, int]) -> None:
    """ValueError for a fraction above 1 of a resource that comes in whole units: found at ``.remote()``, as in Ray."""
    for name in WHOLE.intersection(demand):
        amount = demand[name]
        if amount > CPU_UNITS and amount % CPU_UNITS:
            raise ValueError(f"{name} resource quantities >1 must be whole numbers. The specified quantity "
                             f"{amount / CPU_UNITS:g} is invalid.")


def _num_returns(name: str, value: int | str) -> str | None:
    if value in ("dynamic", "streaming") or isinstance(value, int) and value >= 0:
        return None
    return f"The keyword '{name}' only accepts None, a non-negative integer, 'streaming' or 'dynamic', not {value!r}."


def _retry_exceptions(_: str, value: Any) -> str | None:
    if isinstance(value, bool) or all(isinstance(t, type) and issubclass(t, Exception) for t in value):
        return None
    return "retry_exceptions must be either a boolean or a list of exceptions"


def _backpressure(name: str, value: int) -> str | None:
    return None if value == -1 or value > 0 else f"{name} must be positive, or -1 for no limit, not {value!r}."


def _interval(_: str, value: Any) -> str | None:
    from zray.handles.checkpoints import interval

    interval(value)
    return None


def _folder(name: str, value: Any) -> str | None:
    if isinstance(value, str) and value or hasattr(value, "__fspath__"):
        return None
    return f"'{name}' is a folder or a URL for fsspec, not {value!r}"


def _lifetime(_: str, value: str) -> str | None:
    if value in ("detached", "non_detached"):
        return None
    return f"actor `lifetime` argument must be one of 'detached', 'non_detached' and 'None', not {value!r}."


def _runtime_env(_: str, value: dict[str, Any]) -> str | None:
    spec.check(value)
    return None


def _groups(name: str, value: dict[str, int]) -> str | None:
    if all(isinstance(k, str) and type(v) is int and v > 0 for k, v in value.items()):
        return None
    return f"'{name}' maps group names to a positive number of threads, not {value!r}"


def _selector(_: str, value: dict[str, str]) -> str | None:
    return selector_problem(value)


def _fallbacks(name: str, value: list[dict[str, Any]]) -> str | None:
    for one in value:
        if not isinstance(one, dict) or set(one) != {"label_selector"} or not isinstance(one["label_selector"], dict):
            return f"'{name}' is a list of {{'label_selector': {{...}}}}, not {value!r}"
        if wrong := selector_problem(one["label_selector"]):
            return wrong
    return None


def _labels(name: str, value: dict[str, str]) -> str | None:
    if all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        return None
    return f"'{name}' must be of type Dict[str, str], not {value!r}"


def _strategy(_: str, value: Any) -> str | None:
    try:
        strategy_map(value)
    except ValueError as error:
        return str(error)
    return None


_amount = Option((int, float, _NONE), _quantity)
_flag = Option((bool, _NONE))
_text = Option((str, _NONE))

_COMMON: dict[str, Option] = {
    "accelerator_type": _text,
    "fallback_strategy": Option((list, _NONE), _fallbacks),
    "label_selector": Option((dict, _NONE), _selector),
    "memory": _amount,
    "name": _text,
    "num_cpus": _amount,
    "num_gpus": _amount,
    "placement_group": Option((object,), None, "default"),  # deprecated by Ray, as the next two
    "placement_group_bundle_index": Option((int,), None, -1),
    "placement_group_capture_child_tasks": _flag,
    "resources": Option((dict, _NONE), _resources),
    "runtime_env": Option((dict, _NONE), _runtime_env),
    "scheduling_strategy": Option((object,), _strategy),
    "enable_task_events": Option((bool,), None, True),
    "_metadata": Option((dict, _NONE)),
    "_labels": Option((dict, _NONE), _labels),
}

_CALL: dict[str, Option] = {
    "num_returns": Option((int, str, _NONE), _num_returns),
    "retry_exceptions": Option((bool, list, tuple), _retry_exceptions, False),
    "_generator_backpressure_num_objects": Option((int, _NONE), _backpressure),
}

TASK_OPTIONS: dict[str, Option] = {
    **_COMMON,
    **_CALL,
    "durability": Option((int, _NONE), _positive, 1),
    "max_calls": Option((int, _NONE), _finite, 0),
    "max_retries": Option((int, _NONE), _infinite),
}

ACTOR_OPTIONS: dict[str, Option] = {
    **_COMMON,
    "allow_out_of_order_execution": _flag,
    "checkpoint_dir": Option((str, object, _NONE), _folder),
    "checkpoint_interval": Option((int, float, str, object, _NONE), _interval),
    "concurrency_groups": Option((dict, _NONE), _groups),
    "get_if_exists": Option((bool,), None, False),
    "lifetime": Option((str, _NONE), _lifetime),
    "max_concurrency": Option((int, _NONE), _positive),
    "max_pending_calls": Option((int, _NONE), _infinite, -1),
    "max_restarts": Option((int, _NONE), _infinite, 0),
    "max_task_retries": Option((int, _NONE), _infinite, 0),
    "namespace": _text,
    "object_store_memory": Option((int, float, _NONE), _finite),
}

METHOD_OPTIONS: dict[str, Option] = {
    **_CALL,
    "concurrency_group": _text,
    "enable_task_events": Option((bool,), None, True),
    "max_task_retries": Option((int, _NONE), _infinite),
    "name": _text,
}


def check_options(raw: dict[str, Any], table: dict[str, Option], what: str) -> dict[str, Any]:
    """``raw`` with plain numbers; the ValueError or TypeError names the wrong name, type or range."""
    checked = {}
    for name, value in raw.items():
        option = table.get(name)
        if option is None:
            raise ValueError(f"Invalid option keyword {name} for {what}{did_you_mean(name, table)}. "
                             f"Valid ones are {sorted(table)}.")
        checked[name] = plain(value)
        option.validate(name, checked[name])
    return checked


# ---------------------------------------------------------------- scheduling strategies


def strategy_map(strategy: Any) -> dict[str, Any]:
    """A scheduling strategy as a map for the wire: ``{}`` is the default."""
    if strategy is None or strategy == "DEFAULT":
        return {}
    if strategy == "SPREAD":
        return {"kind": "spread"}
    to_map = getattr(strategy, "to_map", None)  # zray.util.scheduling_strategies, and users' own
    if to_map is None:
        raise ValueError(f"Invalid scheduling_strategy value {strategy}. Valid values are 'DEFAULT', 'SPREAD', or a "
                         "strategy of zray.util.scheduling_strategies.")
    return to_map()


def _placed(raw: dict[str, Any]) -> dict[str, Any]:
    """The strategy of these options: ``scheduling_strategy``, or Ray's older ``placement_group`` keywords."""
    group = raw.get("placement_group", "default")
    if group is None or group == "default":
        return strategy_map(raw.get("scheduling_strategy"))
    if raw.get("scheduling_strategy") is not None:
        raise ValueError("Placement groups should be specified via the scheduling_strategy option. "
                         "The placement_group option is deprecated.")
    warnings.warn("The placement_group option is deprecated. Use "
                  "scheduling_strategy=PlacementGroupSchedulingStrategy(...).", DeprecationWarning, stacklevel=4)
    group_id: Any = getattr(group, "id", None)
    if not hasattr(group_id, "is_nil"):
        raise ValueError(f"placement_group must be a PlacementGroup, 'default' or None, not {group!r}")
    if group_id.is_nil():
        return {}
    return {"kind": "group", "group": group_id.binary(), "bundle": raw.get("placement_group_bundle_index", -1),
            "capture": bool(raw.get("placement_group_capture_child_tasks"))}


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(sorted((key, _freeze(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_freeze(item) for item in value)
    return value


# ---------------------------------------------------------------- the options objects


class _Options:
    """The keywords as written (``raw``) and their meaning (the other attributes); immutable by convention."""

    __slots__ = ("raw",)
    TABLE: ClassVar[dict[str, Option]]
    WHAT: ClassVar[str]
    raw: dict[str, Any]

    def __init__(self, raw: dict[str, Any]):
        raise NotImplementedError

    @classmethod
    def build(cls, raw: dict[str, Any] | None = None) -> Self:
        """From keywords of a user."""
        raw = check_options(raw or {}, cls.TABLE, cls.WHAT)
        return cls(raw)

    def merged(self, **updates: Any) -> Self:
        """These options with some replaced, as ``.options(...)`` does it."""
        updates = check_options(updates, self.TABLE, self.WHAT)
        return type(self)({**self.raw, **updates})

    def get(self, name: str) -> Any:
        """An option as written, or its default."""
        value = self.raw.get(name)
        return self.TABLE[name].default if value is None else value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.raw == self.raw  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.raw.items())})"

    def __reduce__(self):
        return type(self), (_travelling(self.raw),)


def _travelling(raw: dict[str, Any]) -> dict[str, Any]:
    """Options for another process: local folders of the runtime environment may not exist where it runs."""
    if not raw.get("runtime_env"):
        return raw
    env, runtime = spec.normal(raw["runtime_env"]), current()
    if runtime is not None and spec.has_local_parts(env):
        env = runtime.travelling_env(env)
    return {**raw, "runtime_env": spec.written(env)}


def _demand(raw: dict[str, Any], default_cpus: float) -> dict[str, int]:
    """Resource name to units, without zeros."""
    amounts: dict[str, float] = {"CPU": default_cpus if raw.get("num_cpus") is None else raw["num_cpus"]}
    if raw.get("num_gpus") is not None:
        amounts["GPU"] = raw["num_gpus"]
    if raw.get("memory") is not None:
        amounts["memory"] = raw["memory"]
    amounts.update(raw.get("resources") or {})
    if raw.get("accelerator_type"):
        # Ray's amount: a label in the form of a resource
        amounts[f"accelerator_type:{raw['accelerator_type']}"] = 0.001
    demand = {name: units(value, name) for name, value in amounts.items()}
    return {name: amount for name, amount in sorted(demand.items()) if amount}


def _env(raw: dict[str, Any]) -> dict[str, Any]:
    return spec.normal(raw.get("runtime_env"))


def _returns(raw: dict[str, Any]) -> int:
    wanted = raw.get("num_returns")
    if wanted == "dynamic":
        return DYNAMIC
    if wanted == "streaming" or wanted is None and raw.get("_is_generator"):
        return STREAMING
    return 1 if wanted is None else wanted


def _retryable(raw: dict[str, Any]) -> bool | tuple[type, ...]:
    wanted = raw.get("retry_exceptions", False)
    return wanted if isinstance(wanted, bool) else tuple(wanted)


def check_returns(raw: dict[str, Any], is_generator: bool) -> None:
    """``num_returns="streaming"`` and ``"dynamic"`` are only for generator functions."""
    wanted = raw.get("num_returns")
    if isinstance(wanted, str) and not is_generator:
        raise ValueError(f"num_returns='{wanted}' can only be used with generator functions (functions that use "
                         "'yield'). The decorated function is not a generator function.")
    if wanted == "dynamic":
        warnings.warn("num_returns='dynamic' is deprecated by Ray; use num_returns='streaming'.", DeprecationWarning,
                      stacklevel=4)


class TaskOptions(_Options):
    """Options of a remote function.

    ``demand`` units by resource; ``num_returns`` >= 0, STREAMING or DYNAMIC; ``max_retries`` None for the session's
    default, -1 for ever; ``durability`` nodes that keep each result; ``retry_exceptions`` bool or exception types;
    ``env`` the runtime environment; ``strategy`` {} or a map with ``kind``; ``backpressure``
    items a generator may be ahead, -1 for no limit.
    """

    __slots__ = ("backpressure", "demand", "durability", "env", "fallbacks", "key", "label_selector", "max_calls",
                 "max_retries", "name", "num_returns", "retry_exceptions", "strategy")
    TABLE = TASK_OPTIONS
    WHAT = "remote functions"

    def __init__(self, raw: dict[str, Any]):
        self.raw = raw
        self.demand = _demand(raw, default_cpus=1)
        self.num_returns = _returns(raw)
        self.max_retries: int | None = raw.get("max_retries")
        self.retry_exceptions = _retryable(raw)
        # A task with GPUs ends its worker, because only the end of a process surely frees the memory of a GPU.
        asked = raw.get("max_calls")
        self.max_calls: int = asked if asked is not None else int("GPU" in self.demand)
        self.durability: int = raw.get("durability") or 1
        self.env = _env(raw)
        self.strategy = _placed(raw)
        self.name: str | None = raw.get("name")
        self.backpressure: int = raw.get("_generator_backpressure_num_objects") or -1
        self.label_selector = expressions(raw.get("label_selector") or {})
        self.fallbacks = [expressions(one["label_selector"]) for one in raw.get("fallback_strategy") or ()]
        self.key = _freeze((self.demand, self.env, self.strategy, self.label_selector, self.fallbacks))

    @classmethod
    def for_function(cls, raw: dict[str, Any], is_generator: bool) -> TaskOptions:
        """Like ``build``; a generator function streams unless num_returns is set."""
        raw = check_options(raw, cls.TABLE, cls.WHAT)
        check_returns(raw, is_generator)
        return cls({**raw, "_is_generator": True} if is_generator else raw)

    def merged(self, **updates: Any) -> TaskOptions:
        if updates.get("max_calls") is not None:
            raise ValueError("Setting 'max_calls' is not supported in '.options()'.")
        updates = check_options(updates, self.TABLE, self.WHAT)
        check_returns(updates, bool(self.raw.get("_is_generator")))
        return TaskOptions({**self.raw, **updates})


class ActorOptions(_Options):
    """Options of an actor class.

    ``placement`` is the demand while it is placed and constructed, ``running`` the demand of its
    life.  Without resources an actor needs 1 CPU to be placed and none to run, as in Ray.
    ``max_concurrency`` is None where not given: 1, or ASYNC_MAX_CONCURRENCY for async actors.
    """

    __slots__ = ("checkpoint_dir", "checkpoint_interval", "concurrency_groups", "env", "fallbacks", "get_if_exists",
                 "key", "label_selector", "lifetime", "max_concurrency", "max_pending_calls", "max_restarts",
                 "max_task_retries", "name", "namespace", "placement", "running", "strategy")
    TABLE = ACTOR_OPTIONS
    WHAT = "actors"

    def __init__(self, raw: dict[str, Any]):
        self.raw = raw
        asked = raw.get("num_cpus") is not None or any(map(raw.get, ("num_gpus", "resources", "accelerator_type")))
        self.running = _demand(raw, default_cpus=1 if asked else 0)
        self.placement = self.running if asked else {"CPU": CPU_UNITS, **self.running}
        self.name: str | None = raw.get("name")
        self.namespace: str | None = raw.get("namespace")
        self.lifetime: str | None = raw.get("lifetime")
        self.get_if_exists: bool = raw.get("get_if_exists") or False
        self.max_restarts: int = raw.get("max_restarts") or 0
        self.checkpoint_interval: Any = raw.get("checkpoint_interval")
        self.checkpoint_dir: Any = raw.get("checkpoint_dir")
        # The state of an actor with checkpoints has each call once, so that a call may be repeated without harm.
        retries = -1 if self.checkpoint_interval is not None else 0
        self.max_task_retries: int = retries if raw.get("max_task_retries") is None else raw["max_task_retries"]
        self.max_concurrency: int | None = raw.get("max_concurrency")
        self.max_pending_calls: int = self.get("max_pending_calls")
        self.concurrency_groups: dict[str, int] = raw.get("concurrency_groups") or {}
        self.env = _env(raw)
        self.strategy = _placed(raw)
        self.label_selector = expressions(raw.get("label_selector") or {})
        self.fallbacks = [expressions(one["label_selector"]) for one in raw.get("fallback_strategy") or ()]
        self.key = _freeze((self.placement, self.env, self.strategy, self.label_selector, self.fallbacks))

    @property
    def demand(self) -> dict[str, int]:
        return self.placement

    @classmethod
    def build(cls, raw: dict[str, Any] | None = None) -> ActorOptions:
        raw = check_options(raw or {}, cls.TABLE, cls.WHAT)
        _check_actor(raw)
        return cls(raw)

    def merged(self, **updates: Any) -> ActorOptions:
        if updates.get("concurrency_groups") is not None:
            raise ValueError("Setting 'concurrency_groups' is not supported in '.options()'.")
        updates = check_options(updates, self.TABLE, self.WHAT)
        raw = {**self.raw, **updates}
        _check_actor(raw)
        return ActorOptions(raw)

    def concurrency(self, is_async: bool) -> int:
        """How many calls may run at once."""
        if self.max_concurrency is not None:
            return self.max_concurrency
        return ASYNC_MAX_CONCURRENCY if is_async else 1

    def any_order(self, is_async: bool) -> bool:
        """Whether a call whose argument is not ready lets later calls of its caller pass."""
        asked = self.raw.get("allow_out_of_order_execution")
        return is_async or self.concurrency(is_async) > 1 if asked is None else asked


def check_namespace(namespace: Any) -> None:
    """TypeError or ValueError when it cannot name a namespace; None stands for the program's own."""
    if namespace is not None and not isinstance(namespace, str):
        raise TypeError(f"namespace must be None or a string, not {type(namespace).__name__}.")
    if namespace == "":
        raise ValueError('"" is not a valid namespace. Pass None to not specify a namespace.')


def _check_actor(raw: dict[str, Any]) -> None:
    if raw.get("get_if_exists") and not raw.get("name"):
        raise ValueError("The actor name must be specified to use `get_if_exists`.")
    if raw.get("name") == "":
        raise ValueError("Actor name cannot be an empty string.")
    if raw.get("namespace") == "":
        check_namespace("")


class CallOptions(_Options):
    """Options of one actor method: ``max_task_retries`` None means the actor's."""

    __slots__ = ("backpressure", "group", "max_task_retries", "name", "num_returns", "retry_exceptions")
    TABLE = METHOD_OPTIONS
    WHAT = "actor methods"

    def __init__(self, raw: dict[str, Any]):
        self.raw = raw
        self.num_returns = _returns(raw)
        self.max_task_retries: int | None = raw.get("max_task_retries")
        self.retry_exceptions = _retryable(raw)
        self.name: str | None = raw.get("name")
        self.group: str = raw.get("concurrency_group") or ""
        self.backpressure: int = raw.get("_generator_backpressure_num_objects") or -1

    @classmethod
    def for_method(cls, raw: dict[str, Any], is_generator: bool) -> CallOptions:
        raw = check_options(raw, cls.TABLE, cls.WHAT)
        check_returns(raw, is_generator)
        return cls({**raw, "_is_generator": True} if is_generator else raw)
