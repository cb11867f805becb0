"""Runtime environments of what this process submits: local folders and functions become addresses that travel.

A folder is packed once a process, when an environment that names it is first used, and stored in the control store in
pieces under its job.  The piece without a number is written last: it says how many there are.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from zray.base.errors import RuntimeEnvSetupError
from zray.core.context import TaskIds
from zray.core.machine import CoreMachine
from zray.core.waits.replies import Questions
from zray.environments import spec

PIECE_BYTES = 4 * 1024 * 1024  # a piece delays other messages of the control store by milliseconds


class Environments:
    """What one Runtime knows of its local folders and hooks."""

    def __init__(self, machine: CoreMachine, ids: TaskIds, questions: Questions):
        self._machine = machine
        self._process = machine.process
        self._ids = ids
        self._questions = questions
        self._lock = threading.Lock()  # one thread packs, the others use its package
        self._addresses: dict[Any, str] = {}  # (path, excludes, field) or a hook -> address

    def of(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """The environment of a task or actor with ``own`` fields: over those of this process, ready to travel."""
        return spec.merged(self._process.env, self.travelling(own))

    def travelling(self, env: Mapping[str, Any]) -> dict[str, Any]:
        """``env`` with local parts stored.  RuntimeEnvSetupError names the part that cannot be."""
        if not spec.has_local_parts(env):
            return dict(env)
        out = dict(env)
        with self._lock:
            if isinstance(out.get("working_dir"), dict):
                out["working_dir"] = self._stored(out["working_dir"], "working_dir")
            if "py_modules" in out:
                out["py_modules"] = [self._stored(place, "py_modules") if isinstance(place, dict) else place
                                     for place in out["py_modules"]]
            if callable(out.get("worker_process_setup_hook")):
                out["worker_process_setup_hook"] = self._hook(out["worker_process_setup_hook"])
        return out

    def _stored(self, place: dict[str, Any], field: str) -> str:
        path, excludes = place["path"], place["excludes"]
        known = path, tuple(excludes), field
        if known not in self._addresses:
            from zray.environments import packages

            try:
                package = packages.pack(path, excludes, named=field == "py_modules",
                                        bytes_max=self._process.config.package_bytes_max)
            except (OSError, ValueError) as error:
                raise RuntimeEnvSetupError(f"The runtime environment could not be set up: its {field} {path} cannot "
                                           f"be packed: {error}") from error
            with package.file:
                self._upload(package)
            self._addresses[known] = package.address
        return self._addresses[known]

    def _upload(self, package: Any) -> None:
        gcs = self._machine.gcs
        key = self._ids.job_bytes + package.digest
        what = "a package of the runtime environment could not be stored"
        if self._questions.ask_control_store(what, lambda then: gcs.get_package(key, then)) is not None:
            return

        def put(name: bytes, piece: bytes) -> None:
            self._questions.ask_control_store(what, lambda then: gcs.put_package(name, piece, then))

        count = 0
        while piece := package.file.read(PIECE_BYTES):
            put(key + count.to_bytes(4, "big"), piece)
            count += 1
        put(key, count.to_bytes(4, "big"))

    def _hook(self, hook: Any) -> str:
        if hook not in self._addresses:
            from zray.values import serialization

            try:
                key, blob = serialization.dump_function(hook)
            except Exception as error:  # whatever a captured object's __reduce__ raises
                raise RuntimeEnvSetupError(f"Failed to export the setup function. {error}") from error
            gcs, name = self._machine.gcs, self._ids.job_bytes + key
            self._questions.ask_control_store("the setup hook could not be stored",
                                              lambda then: gcs.register_function(name, blob, then))
            shown = getattr(hook, "__qualname__", type(hook).__name__)
            self._addresses[hook] = f"{spec.HOOK_SCHEME}{key.hex()}:{shown}"
        return self._addresses[hook]
