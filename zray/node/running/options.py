"""The resources and labels that a node offers: command-line arguments, checked, and defaults from the machine."""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
from dataclasses import dataclass, field
from typing import Any, NoReturn

from zray.base.addresses import machine_address
from zray.base.config import STORE_BYTES_MIN, Config
from zray.base.memory_linux import memory_bytes
from zray.gcs.configuration.admission import NAME_CHARS_MAX
from zray.node.running import join_secret
from zray.sched.resources import CPU, GPU, MEMORY, NODE_PREFIX, OBJECT_STORE_MEMORY, UNIT, units

STORE_SHARE = 0.3  # of memory, when the size of the object store is not given
ADDRESS_HELP = (f"join the cluster of the join string in this file, - for the standard input (default: what "
                f"{join_secret.VARIABLE} says); the string itself works too, and other users may see it")
NEW_CLUSTER_HELP = "with --head: one more cluster beside the one that runs here"


class BadOption(ValueError):
    """An argument with a wrong value; the message is one sentence."""


@dataclass(slots=True)
class Offer:
    """The resources (units of 1/10000), labels, GPU ids and store size of this node."""

    total: dict[str, int]
    labels: dict[str, str]
    gpu_ids: list[int | str] | None
    store_bytes: int
    cpus: int

    def amounts(self) -> dict[str, float]:
        """The resources as users count them."""
        return {name: amount / UNIT for name, amount in self.total.items()}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(join_secret.hide(message))


def parser() -> argparse.ArgumentParser:
    out = _Parser(prog="zray-node", description="The node daemon of zray.", allow_abbrev=False)
    out.add_argument("--session-dir", default="", help="where to keep sockets, logs and spilled objects")
    out.add_argument("--num-cpus", type=float)
    out.add_argument("--num-gpus", type=float)
    out.add_argument("--resources", default="{}", metavar="JSON", help='such as {"disk": 2}')
    out.add_argument("--labels", default="{}", metavar="JSON", help='such as {"zone": "a"}')
    out.add_argument("--object-store-memory", type=float, metavar="BYTES")
    out.add_argument("--memory", type=float, metavar="BYTES", help="of tasks and actors (default: what there is)")
    out.add_argument("--config", default="{}", metavar="JSON", help="settings of zray.base.config by name")
    out.add_argument("--node-ip-address", default="", metavar="ADDRESS",
                     help="what the node shows as its address (default: that of this machine)")
    group = out.add_argument_group("cluster", "without --head or --address the node stays alone")
    group.add_argument("--head", action="store_true", help="start a cluster; prints the join string")
    group.add_argument("--address", default="", metavar="@FILE", help=ADDRESS_HELP)
    group.add_argument("--new-cluster", action="store_true", help=NEW_CLUSTER_HELP)
    group.add_argument("--host", default="127.0.0.1", help="address to bind, and to be dialled at (loopback)")
    group.add_argument("--port", type=int, default=0, help="the node's well-known TCP port (0: any free one)")
    group.add_argument("--port-range", default="", metavar="LOW-HIGH",
                       help="for endpoints of drivers and workers (default: any free ones)")
    group.add_argument("--one-port", action="store_true",
                       help="drivers and workers bind no ports: their nodes relay, several times slower")
    group.add_argument("--node-name", default="", help="a name that no other node of the cluster has")
    group.add_argument("--insecure", action="store_true", help="plain TCP: no encryption, no authentication")
    group.add_argument("--gcs-dir", default="", help="keep the control store in this directory over restarts")
    out.add_argument("--rejoin-fd", type=int, default=-1, help="join again, as the state in this descriptor says")
    out.add_argument("--address-fd", type=int, default=-1, help="read the join string from this descriptor")
    out.add_argument("--fate-fd", type=int, default=-1, help="end when this pipe or the parent process does")
    out.add_argument("--ready-fd", type=int, default=-1, help="where to write node.json when the node serves")
    return out


@dataclass(slots=True)
class ClusterOptions:
    """How this node takes part in a cluster."""

    head: bool
    address: str = field(repr=False)
    host: str
    port: int
    ports: tuple[int, int]
    name: str
    insecure: bool
    gcs_dir: str
    one_port: bool = False
    was_head: bool = False  # it joins again the cluster that it began

    @property
    def began(self) -> bool:
        """Whether the cluster began with this node."""
        return not self.address or self.was_head

    @property
    def alone(self) -> bool:
        return not self.head and not self.address


def membership(arguments: argparse.Namespace) -> ClusterOptions:
    """Check the arguments about the cluster; BadOption has the reason in one sentence."""
    if arguments.head and arguments.address:
        raise BadOption("--head starts a cluster and --address joins one: give one of them")
    address = join_secret.read_descriptor(arguments.address_fd) if arguments.address_fd >= 0 else \
        join_secret.join_string(arguments.address, head=arguments.head)
    if not 0 <= arguments.port < 65536:
        raise BadOption(f"--port takes a number from 0 (any free port) to 65535, not {arguments.port}")
    if len(arguments.node_name) > NAME_CHARS_MAX:
        raise BadOption(f"--node-name takes at most {NAME_CHARS_MAX} characters, not {len(arguments.node_name)}")
    return ClusterOptions(arguments.head, address, arguments.host, arguments.port,
                      port_range(arguments.port_range), arguments.node_name, arguments.insecure, arguments.gcs_dir,
                      arguments.one_port)


def port_range(text: str) -> tuple[int, int]:
    """``"20000-20100"`` -> (20000, 20100); (0, 0), any, for ''."""
    if not text:
        return 0, 0
    low, dash, high = text.partition("-")
    if dash and low.isdigit() and high.isdigit() and 0 < int(low) <= int(high) < 65536:
        return int(low), int(high)
    raise BadOption(f"--port-range takes two ports such as 20000-20100, not {text!r}")


def json_map(text: str, option: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadOption(f"{option} takes a JSON object, and {text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadOption(f'{option} takes a JSON object such as {{"name": 1}}, not {text!r}')
    return value


def offer(arguments: argparse.Namespace, config: Config) -> Offer:
    """Check the arguments and look at the machine; BadOption has the reason in one sentence."""
    cpus = available_cpus() if arguments.num_cpus is None else arguments.num_cpus
    memory = memory_bytes()
    gpu_ids, gpus = _gpus(arguments.num_gpus)
    store = _bytes(arguments.object_store_memory, "--object-store-memory") or config.object_store_bytes
    if store < 0 or 0 < store < STORE_BYTES_MIN:
        raise BadOption(f"--object-store-memory takes at least {STORE_BYTES_MIN} bytes, not {store}")
    if not store:
        store = min(int(memory * STORE_SHARE), shm_bytes())
    memory = max(0, memory - store) if arguments.memory is None else _bytes(arguments.memory, "--memory")
    memory = min(memory, config.memory_limit_bytes or memory)
    amounts: dict[str, Any] = {CPU: cpus, GPU: gpus, MEMORY: memory, OBJECT_STORE_MEMORY: store}
    for name, amount in json_map(arguments.resources, "--resources").items():
        if name in (CPU, GPU):
            raise BadOption(f"--resources may not set {name}: use --num-{name.lower()}s")
        amounts[name] = amount
    total = {}
    for name, amount in amounts.items():
        try:
            value = units(amount, name)
        except (TypeError, ValueError) as error:
            raise BadOption(str(error)) from None
        if value:
            total[name] = value
    labels = json_map(arguments.labels, "--labels")
    for key, value in labels.items():
        if not isinstance(value, str):
            raise BadOption(f"--labels: label {key!r} takes a string, not {value!r}")
    return Offer(total, labels, gpu_ids, store, max(1, int(cpus)))


def _bytes(value: float | None, option: str) -> int:
    """A size may be a float, such as 0.3 * total; fractions of a byte are dropped."""
    if value is None:
        return 0
    if not math.isfinite(value):
        raise BadOption(f"{option} takes a number of bytes, not {value}")
    return int(value)


def _gpus(wanted: float | None) -> tuple[list[int | str] | None, float]:
    """Ids and number of GPUs: those in CUDA_VISIBLE_DEVICES; ``wanted`` may ask for fewer."""
    named = named_gpus()
    if wanted is None:
        found = visible_gpus(named)
        return found, len(found)
    if named is not None and wanted > len(named):
        raise BadOption(f"--num-gpus takes at most {len(named)} here, not {wanted:g}: CUDA_VISIBLE_DEVICES is "
                        f"{os.environ['CUDA_VISIBLE_DEVICES']!r}")
    return named, wanted


def name_node(offered: Offer, address: str, first: bool) -> None:
    """The resources that name the node itself: work that asks for a little of one runs only there."""
    offered.total.setdefault(f"{NODE_PREFIX}{address}", UNIT)
    if first:
        offered.total.setdefault(f"{NODE_PREFIX}__internal_head__", UNIT)


def available_cpus() -> int:
    """CPUs this process may use: its affinity, and the quota of its control group."""
    count = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no control group version 2 here
    return count


def shm_bytes() -> int:
    """Free bytes of /dev/shm, less a tenth for others."""
    found = os.statvfs("/dev/shm")
    return max(STORE_BYTES_MIN, int(found.f_bavail * found.f_frsize * 0.9))


def named_gpus() -> list[int | str] | None:
    """The ids in CUDA_VISIBLE_DEVICES, up to the first that hides the rest (-1); None where it is not set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return None
    names = [name.strip() for name in visible.split(",") if name.strip()]
    names = names[:names.index("-1")] if "-1" in names else names
    return [int(name) if name.isdigit() else name for name in names if name != "NoDevFiles"]


def visible_gpus(named: list[int | str] | None) -> list[int | str]:
    """Ids of NVIDIA GPUs: the named ones, else those that the driver library reports (nvidia-ml-py)."""
    if not os.path.exists("/proc/driver/nvidia/version") and not os.path.exists("/dev/nvidiactl"):
        return []
    if named is not None:
        return named
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return []
    return list(range(count))


def node_row(node_id: bytes, endpoint: str, pid: int, labels: dict[str, str], address: str = "", started_ms: int = 0
             ) -> dict[str, Any]:
    """The node as ``zray.nodes()`` shows it (resources are added when asked); by default at the machine's address."""
    host = socket.gethostname()
    return {"NodeID": node_id.hex(), "Alive": True, "NodeManagerAddress": address or machine_address(),
            "NodeManagerHostname": host,
            "NodeManagerPort": 0, "RayletSocketName": endpoint, "ObjectStoreSocketName": endpoint, "NodeName": host,
            "MetricsExportPort": 0, "alive": True,
            "StartTimeMs": started_ms, "IsHead": False,
            "DeathReason": 0, "DeathReasonMessage": "", "ObjectManagerPort": 0, "RuntimeEnvAgentPort": 0,
            "DashboardAgentListenPort": -1, "MetricsAgentPort": -1,
            "Labels": {"ray.io/node-id": node_id.hex(), **labels}, "pid": pid}
