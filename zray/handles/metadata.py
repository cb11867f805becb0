"""Private attributes of decorated classes that programs written for Ray read: the plain class, and its options."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

__all__ = ["CLASS_ATTRIBUTES", "class_attribute"]

CLASS_ATTRIBUTES = frozenset(("__ray_metadata__", "__ray_actor_class__"))

# Options that the metadata shows as they were written, None where they were not.
_OPTIONS = ("num_cpus", "num_gpus", "memory", "object_store_memory", "resources", "label_selector",
            "fallback_strategy", "accelerator_type", "runtime_env", "scheduling_strategy")


def class_attribute(cls: type, raw: dict[str, Any], name: str) -> Any:
    """One of CLASS_ATTRIBUTES of the actor class that was made of ``cls`` with the options ``raw``."""
    if name == "__ray_actor_class__":
        return cls
    return SimpleNamespace(
        modified_class=cls, class_name=cls.__qualname__, is_cross_language=False,
        max_restarts=raw.get("max_restarts") or 0, max_task_retries=raw.get("max_task_retries") or 0,
        concurrency_groups=raw.get("concurrency_groups") or {},
        **{option: raw.get(option) for option in _OPTIONS})
