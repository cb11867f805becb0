"""The identity of a core process, its node and its job.  Data only."""

from __future__ import annotations

from typing import Any

from zray.base.config import Config
from zray.base.ids import WORKER_SIZE


class ProcessRecord:
    """``kind`` is "driver" or "worker"; ``node`` the incarnation of its node; ``python`` the version it runs."""

    def __init__(self, kind: str, incarnation: bytes, node: bytes, endpoint: str, pid: int, python: str, job: int,
                 config: Config):
        self.kind = kind
        self.incarnation = incarnation
        self.node = node
        self.endpoint = endpoint
        self.pid = pid
        self.python = python
        self.job = job
        self.config = config
        self.worker_id = incarnation.ljust(WORKER_SIZE, b"\0")  # as the API shows it; a worker's has more random bytes
        self.namespace = ""
        self.env: dict[str, Any] = {}  # the runtime environment that tasks and actors submitted here inherit
        self.equipment: dict[str, Any] = {}  # where this node has the packages of ``env``: zray.worker.equipment
        self.detached = False  # whether actors that do not say their lifetime outlive the job
        self.node_info: dict[str, Any] = {}
        self.epoch_s = 0.0  # the time of day, in seconds since 1970, less the clock of this process
        self.closed = False  # this process leaves: ignore the end of its node

    @property
    def session_dir(self) -> str:
        return self.endpoint.removeprefix("ipc://").rpartition("/")[0]

    @property
    def node_log(self) -> str:
        """The log file of this process's node."""
        return f"{self.session_dir}/logs/node.log"
