"""How a process becomes a core process of a running node: as a driver, or as a worker that the zygote forked."""

from __future__ import annotations

import os
import time
from typing import Any

from zray.base import ids
from zray.base.config import Config
from zray.core.runtime import Runtime
from zray.core.waits.replies import Reply
from zray.core.witness import Witness
from zray.handles import refs
from zray.handles.refs import dropped
from zray.values import serialization
from zray.wire import messages as m


def for_driver(*, session_dir: str, node: bytes, node_endpoint: str, config: dict[str, Any],
               overrides: dict[str, Any]) -> Runtime:
    """Connect to a running node as a driver.

    ``config`` describes the job (RegisterDriver.config).  ConnectionError when the node does not answer.
    """
    incarnation = ids.driver_incarnation(node)
    endpoint = f"ipc://{session_dir}/d-{incarnation.hex()}.sock"
    runtime = Runtime("driver", incarnation, node, node_endpoint, endpoint, 0, Config.load(overrides))
    timeout_s = runtime.process.config.connect_wait_s
    accepted = runtime.accepted = Reply()

    def on_accepted(peer: bytes, message: m.DriverAccepted) -> None:
        accepted.message = message
        runtime.loop.notify(accepted)

    def on_node_lost() -> None:
        if runtime.accepted is not None:
            runtime.refused(node, "its daemon has ended")

    runtime.when_node_lost(on_node_lost)
    with runtime.loop.lock:
        runtime.machine.take({m.DriverAccepted.CODE: on_accepted})
        config = {**config, "namespace": config.get("namespace") or f"anonymous-{incarnation.hex()}"}
        runtime.send(node, m.RegisterDriver(config))
    if not runtime.loop.wait(accepted, time.monotonic() + timeout_s) or type(accepted.message) is not m.DriverAccepted:
        runtime.process.closed = True
        runtime.loop.stop()
        runtime.mesh.close(0)
        why = accepted.message or f"no answer within {timeout_s:g} s"
        raise ConnectionError(f"the node at {node_endpoint} did not accept this driver: {why}")
    answer, runtime.accepted = accepted.message, None
    runtime.set_job(answer.job)
    runtime.witness = Witness(answer.node["pid"], os.path.join(session_dir, "logs", "node.log"))
    process = runtime.process
    process.node_info = answer.node
    process.namespace = config["namespace"]
    process.detached = bool(config.get("detached"))
    process.config = Config.of_session(answer.settings, overrides)
    runtime.attach_store(answer.store)
    _install(runtime)
    runtime.loop.install_sigint()
    return runtime


def for_worker(spec: dict[str, Any], config: Config | None = None) -> Runtime:
    """The Runtime of a worker process, from the specification that the zygote passed on (docs/internals.md).

    ``config``: that of the specification, if it was loaded already.
    """
    incarnation = spec["worker_id"][:ids.INCARNATION_SIZE]
    endpoint = f"ipc://{spec['session_dir']}/w-{incarnation.hex()}.sock"
    runtime = Runtime("worker", incarnation, spec["node"], spec["node_endpoint"], endpoint, 0,
                      config or Config.load(spec.get("config")))
    runtime.process.node_info = spec.get("node_info") or {}
    runtime.process.worker_id = spec["worker_id"]
    runtime.attach_store({**spec["store"], "slot": spec["slot"]})
    runtime.marks = runtime.store.slot.marks
    _install(runtime)
    return runtime


def _install(runtime: Runtime) -> None:
    if runtime.process.config.record_ref_creation_sites:
        from zray.core import creation_sites

        creation_sites.record(runtime)
    if runtime.process.config.timeline_details:
        from zray.core import spans

        spans.record(runtime)
    dropped.clear()
    serialization.set_out_of_band_hook(runtime.pin_for_good)
    refs._hooks["runtime"] = runtime
    refs.wake.call = runtime.loop.wake
