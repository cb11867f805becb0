"""Constants that programs read, with zray's values."""

from __future__ import annotations

import os

from zray.sched.resources import GPU as GPU  # a resource has one name everywhere

ID_SIZE = 28  # bytes of a UniqueID
NODE_DEFAULT_IP = "127.0.0.1"
RAY_ADDRESS_ENVIRONMENT_VARIABLE = "RAY_ADDRESS"
RAY_NAMESPACE_ENVIRONMENT_VARIABLE = "RAY_NAMESPACE"
DEFAULT_OBJECT_STORE_MEMORY_PROPORTION = 0.3
OBJECT_STORE_MINIMUM_MEMORY_BYTES = 4 << 20
DEFAULT_MAX_CONCURRENCY_ASYNC = 1000
NUM_CPUS = "CPU"
RESOURCE_CONSTRAINT_PREFIX = "accelerator_type:"
CUDA_VISIBLE_DEVICES_ENV_VAR = "CUDA_VISIBLE_DEVICES"
LOGGER_FORMAT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"
LOGGER_LEVEL = "info"


def env_integer(key: str, default: int) -> int:
    value = os.environ.get(key)
    return default if value is None else int(value)


def env_float(key: str, default: float) -> float:
    value = os.environ.get(key)
    return default if value is None else float(value)


def env_bool(key: str, default: bool) -> bool:
    value = os.environ.get(key)
    return default if value is None else value.lower() in ("1", "true")
