"""The command ``ray`` of programs that run on zray: Ray's arguments, for the command ``zray``.

Programs and scripts start it as a subprocess (``ray start --head``, ``ray status``, ``ray stop``).  An option of Ray
without a counterpart is accepted and ignored, as a keyword would be.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from zray.base import ray_names
from zray.base.formats import JOIN_SCHEME
from zray.node.running import dashboard

PORT = 6379  # of the first node, where Ray's is: other nodes and drivers are given HOST:6379
# Options of Ray that have no counterpart, by command; those in _FLAGS take no value.
_IGNORED = {
    "": ("--logging-level", "--logging-format"),
    "start": (
        "--object-manager-port", "--node-manager-port", "--worker-port-list", "--ray-client-server-port",
        "--dashboard-host", "--dashboard-agent-listen-port",
        "--dashboard-agent-grpc-port", "--dashboard-grpc-port", "--runtime-env-agent-port", "--plasma-directory",
        "--autoscaling-config", "--temp-dir", "--metrics-export-port", "--include-log-monitor", "--system-reserved-cpu",
        "--system-reserved-memory", "--cgroup-path", "--proxy-server-url", "--redis-password", "--redis-username",
        "--redis-shard-ports", "--storage", "--system-config", "--tracing-startup-hook", "--worker-setup-hook",
        "--labels-file", "--log-style", "--log-color"),
    "stop": ("--grace-period", "-g", "--log-style", "--log-color"),
}
_OF_DASHBOARDS = ("--include-dashboard", "--dashboard-port")  # where the extra is not installed
_FLAGS = {"start": ("--no-redirect-output", "--ray-debugger-external", "--disable-usage-stats", "-v", "--verbose",
                    "--enable-resource-isolation", "--no-monitor", "--enable-object-reconstruction"),
          "stop": ("-v", "--verbose"), "status": ("-v", "--verbose"), "debug": ("-v", "--verbose")}
_MISSING = ("attach", "check-open-ports", "cluster-dump", "cpp", "down", "exec", "get-auth-token",
            "get-head-ip", "get-worker-ips", "kill-actor", "kill-random-node", "metrics", "monitor", "rsync-down",
            "rsync-up", "submit", "symmetric-run", "up")
_NOTHING_TO_DO = ("disable-usage-stats", "enable-usage-stats")  # zray collects none


class NotInZray(ValueError):
    """An argument of the command ``ray`` that zray cannot follow; the message is one sentence."""


def translated(arguments: Sequence[str]) -> list[str]:
    """The arguments of ``zray`` for those of ``ray``."""
    left = _without("", list(arguments))
    if not left or left[0].startswith("-"):
        return left
    command, rest = left[0], left[1:]
    if command in _MISSING:
        raise NotInZray(f"`ray {command}` is not in zray; `zray --help` lists what is")
    rest = _without(command, rest)
    return ["start", *_start(rest)] if command == "start" else [command, *rest]


def _without(command: str, arguments: list[str]) -> list[str]:
    """Drop options without a counterpart, and their values; for the command "" those before the command."""
    kept: list[str] = []
    ignored = _IGNORED.get(command, ()) + (_OF_DASHBOARDS if command == "start" and dashboard.missing() else ())
    while arguments:
        option, equals, _ = arguments[0].partition("=")
        if option in ignored:
            del arguments[: 1 if equals else 2]
        elif option in _FLAGS.get(command, ()):
            del arguments[0]
        elif not command:  # the rest belongs to the command
            return arguments
        else:
            kept.append(arguments.pop(0))
    return kept


def _start(arguments: list[str]) -> list[str]:
    """Of ``ray start``: the address of a node becomes its join string, some options have other names."""
    kept: list[str] = []
    given: dict[str, str] = {}
    names = ("--address", "--node-ip-address", "--min-worker-port", "--max-worker-port", "--object-spilling-directory",
             "--labels", "--port")
    while arguments:
        option, equals, value = arguments.pop(0).partition("=")
        if option in names:
            if not equals:
                if not arguments:
                    raise NotInZray(f"ray start: {option} takes a value")
                value = arguments.pop(0)
            given[option] = value
        else:
            kept.append(option + equals + value)
    if "--help" in kept or "-h" in kept:
        return kept
    address = given.get("--address", "")
    if address:
        kept.append(f"--address={_join_address(address)}")
    if "--head" in kept or not address:
        kept.append(f"--port={given.get('--port', PORT)}")
    if "--node-ip-address" in given:
        kept.append(f"--host={given['--node-ip-address']}")
    if "--min-worker-port" in given and "--max-worker-port" in given:
        kept.append(f"--port-range={given['--min-worker-port']}-{given['--max-worker-port']}")
    if "--object-spilling-directory" in given:
        os.environ["ZRAY_SPILL_DIR"] = given["--object-spilling-directory"]
    if "--labels" in given:
        kept.append(f"--labels={_labels(given['--labels'])}")
    return kept


def _labels(text: str) -> str:
    """Ray takes "key=value,key=value", zray a JSON object."""
    if text.lstrip().startswith("{"):
        return text
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if not all(equals for _, equals, _ in pairs):
        raise NotInZray(f"ray start: --labels takes key=value,key=value, not {text!r}")
    return json.dumps({key.strip(): value.strip() for key, _, value in pairs})


def _join_address(address: str) -> str:
    """The file with the join string of the node at HOST:PORT, if it runs on this machine; else ``address`` itself."""
    if address.startswith((JOIN_SCHEME, "@")) or address == "-":
        return address
    from zray.node.running import join_secret, session as sessions

    for found in sessions.live_sessions():
        if found.join and (address == "auto" or found.is_at(address)):
            return "@" + os.path.join(found.session_dir, join_secret.FILE_NAME)
    if address == "auto":
        raise NotInZray("ray start: no cluster of this user runs on this machine")
    raise NotInZray(f"ray start: no node of this user on this machine listens at {address}. A node joins a cluster of "
                    "another machine with a secret, the join string: copy the file that `zray start --head` names, "
                    "and give --address=@FILE")


def main() -> int:
    """Entry point of the command ``ray``."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"ray, version {os.environ.get(ray_names.VERSION_VARIABLE) or ray_names.RAY_VERSION}")
        return 0
    if arguments[:1] and arguments[0] in _NOTHING_TO_DO:
        return 0
    try:
        sys.argv[1:] = translated(arguments)
    except NotInZray as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    address = os.environ.get("RAY_ADDRESS", "")
    if address and not address.startswith("http"):  # http: of Ray's dashboard, for jobs
        os.environ.setdefault("ZRAY_ADDRESS", address)
    from zray.cli import main as command

    command(prog_name="ray")
    return 0
