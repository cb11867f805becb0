"""Facts about this machine and process that programs ask, at Ray's module path."""

from __future__ import annotations

import getpass
import os
import sys
import threading

from zray._common.network_utils import parse_address
from zray._common.utils import binary_to_hex, get_or_create_event_loop, get_system_memory, hex_to_binary
from zray.node.running.options import available_cpus, shm_bytes

__all__ = [
    "binary_to_hex", "estimate_available_memory", "get_entrypoint_name", "get_num_cpus", "get_or_create_event_loop",
    "get_shared_memory_bytes", "get_system_memory", "get_used_memory", "get_user", "hex_to_binary", "is_main_thread",
    "split_address",
]


def get_num_cpus(override_docker_cpu_warning: bool = False, truncate: bool = True) -> int:
    """CPUs that this process may use: its affinity, and the quota of its control group."""
    return available_cpus()


def get_shared_memory_bytes() -> int:
    """Bytes that an object store may take in /dev/shm."""
    return shm_bytes()


def get_used_memory() -> int:
    """Bytes of memory in use on this machine."""
    total, free = _meminfo()
    return total - free


def estimate_available_memory() -> int:
    """Bytes of memory that programs may still take."""
    return _meminfo()[1]


def _meminfo() -> tuple[int, int]:
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    total, free = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return total, free


def get_user() -> str:
    """The name of the user, '' where there is none for its number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def get_entrypoint_name() -> str:
    """The command line of this program, join strings hidden."""
    from zray.node.running.join_secret import hide

    return hide(" ".join([os.path.basename(sys.executable), *sys.orig_argv[1:]]))


def is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def split_address(address: str) -> tuple[str, str]:
    """``"ray://host"`` -> ("ray", "host"); without a scheme, that of ``init``."""
    scheme, mark, rest = address.partition("://")
    if mark:
        return scheme, rest
    if parse_address(address) is None and address not in ("auto", "local"):
        raise ValueError(f"{address!r} is neither scheme://rest nor host:port")
    return "ray", address
