"""Machines of a test: network namespaces on one switch, whose cables can be pulled."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import Any

from tests.e2e.target import until

NETWORK = "10.77.0."


def may_make_networks() -> bool:
    """Whether this user may make network namespaces with links between them."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    probe = "ip link add end0 type veth peer name end1 && ip link add switch type bridge"
    return subprocess.run(["unshare", "--net", "sh", "-c", probe], capture_output=True).returncode == 0


class Hosts:
    """``count`` network namespaces with the addresses ``address(0)``, ... on a switch.  Files are shared by all."""

    def __init__(self, count: int):
        self._keepers: list[subprocess.Popen[bytes]] = []
        self._switch = self._namespace()
        self._ip(self._switch, "link add switch type bridge")
        self._ip(self._switch, "link set switch up")
        self._hosts = [self._namespace() for _ in range(count)]
        for number, host in enumerate(self._hosts):
            self._ip(self._switch, f"link add host{number} type veth peer name eth0 netns {host}")
            self._ip(self._switch, f"link set host{number} up")
            self.plug(number)
            self._ip(host, f"addr add {self.address(number)}/24 dev eth0")
            self._ip(host, "link set eth0 up")
            self._ip(host, "link set lo up")

    @staticmethod
    def address(number: int) -> str:
        return f"{NETWORK}{number + 1}"

    def within(self, number: int) -> list[str]:
        """The beginning of a command line that runs on that host."""
        return ["nsenter", "--target", str(self._hosts[number]), "--net"]

    def pull(self, number: int) -> None:
        """Pull the cable of that host at the switch: from now on packets vanish."""
        self._ip(self._switch, f"link set host{number} nomaster")

    def plug(self, number: int) -> None:
        self._ip(self._switch, f"link set host{number} master switch")

    def close(self) -> None:
        for keeper in self._keepers:
            keeper.kill()
            keeper.wait()

    def _namespace(self) -> int:
        keeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._keepers.append(keeper)
        ours = os.readlink("/proc/self/ns/net")
        until(lambda: os.readlink(f"/proc/{keeper.pid}/ns/net") != ours, "the namespace exists")
        return keeper.pid

    @staticmethod
    def _ip(namespace: int, arguments: str) -> None:
        done: Any = subprocess.run(["nsenter", "--target", str(namespace), "--net", "ip", *arguments.split()],
                                   capture_output=True, text=True)
        assert done.returncode == 0, f"ip {arguments}: {done.stderr}"


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def go_on(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)
