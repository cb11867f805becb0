"""Constants that programs read, with zray's values."""

from __future__ import annotations

from zray._common.utils import env_bool as env_bool, env_float as env_float, env_integer as env_integer
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
DEFAULT_PORT = 6379
DEFAULT_DASHBOARD_PORT = 8265
DEFAULT_TASK_MAX_RETRIES = 3
DEFAULT_RUNTIME_ENV_TIMEOUT_SECONDS = 600
MIN_RESOURCE_GRANULARITY = 0.0001
NEURON_CORES, HPU, NPU = "neuron_cores", "HPU", "NPU"
KV_NAMESPACE_PACKAGE: bytes | None = None
RAY_OVERRIDE_DASHBOARD_URL = "RAY_OVERRIDE_DASHBOARD_URL"
RAY_RUNTIME_ENV_ENVIRONMENT_VARIABLE = "RAY_RUNTIME_ENV"
