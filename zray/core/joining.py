"""How a process becomes a core process of a running node: as a driver, or as a worker that the zygote forked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from zray import ids, messages as m, refs, serialization
from zray.config import Config
from zray.refs import dropped
from zray.core.replies import Reply
from zray.core.runtime import Runtime
from zray.core.witness import Witness
from zray.store.client import StoreClient
from zray.transport.loop import Waiter


def for_driver(*, session_dir: str, node: bytes, node_endpoint: str, config: dict[str, Any],
               overrides: dict[str, Any]) -> Runtime:
    """Connect to a running node as a driver.

    ``config`` describes the job (RegisterDriver.config).  ConnectionError when the node does not answer.
    """
    incarnation = ids.driver_incarnation(node)
    endpoint = f"ipc://{session_dir}/d-{incarnation.hex()}.sock"
    runtime = Runtime("driver", incarnation, node, node_endpoint, endpoint, 0, Config.load(overrides))
    timeout_s = runtime.config.connect_wait_s
    accepted = Reply()

    def on_accepted(peer: bytes, message: m.DriverAccepted) -> None:
        accepted.message = message
        runtime.loop.notify(accepted)

    runtime.handlers[m.DriverAccepted.CODE] = on_accepted
    runtime.handlers[m.HelloAck.CODE] = _refusal(runtime, accepted)
    with runtime.loop.lock:
        config = {**config, "namespace": config.get("namespace") or f"anonymous-{incarnation.hex()}"}
        runtime.send(node, m.RegisterDriver(config))
    if not runtime.loop.wait(accepted, time.monotonic() + timeout_s) or type(accepted.message) is not m.DriverAccepted:
        runtime.closed = True
        runtime.loop.stop()
        runtime.mesh.close(0)
        why = accepted.message.refused if accepted.message is not None else f"no answer within {timeout_s:g} s"
        raise ConnectionError(f"the node at {node_endpoint} did not accept this driver: {why}")
    answer = accepted.message
    runtime.set_job(answer.job)
    runtime.witness = Witness(answer.node["pid"], os.path.join(session_dir, "logs", "node.log"))
    runtime.node_info = answer.node
    runtime.namespace = config["namespace"]
    runtime.env = config.get("env") or {}
    runtime.config = Config.of_session(answer.settings, overrides)
    _attach_store(runtime, answer.store)
    _install(runtime)
    runtime.loop.install_sigint()
    return runtime


def _refusal(runtime: Runtime, accepted: Reply) -> Callable[[bytes, m.HelloAck], None]:
    def on_hello_ack(peer: bytes, message: m.HelloAck) -> None:
        if message.refused and peer == runtime.node:
            accepted.message = message
            runtime.loop.notify(accepted)

    return on_hello_ack


def for_worker(spec: dict[str, Any]) -> Runtime:
    """The Runtime of a worker process, from what the zygote passed on (docs/internals.md)."""
    incarnation = spec["worker_id"][:ids.INCARNATION_SIZE]
    endpoint = f"ipc://{spec['session_dir']}/w-{incarnation.hex()}.sock"
    runtime = Runtime("worker", incarnation, spec["node"], spec["node_endpoint"], endpoint, 0,
                      Config.load(spec.get("config")))
    runtime.node_info = spec.get("node_info") or {}
    _attach_store(runtime, {**spec["store"], "slot": spec["slot"]})
    runtime.marks = runtime.store.slot.marks
    _install(runtime)
    return runtime


def _attach_store(runtime: Runtime, attach: dict[str, Any]) -> None:
    with runtime.loop.lock:
        runtime.store = StoreClient(attach, attach["slot"], runtime.incarnation,
                                    lambda message: runtime.send(runtime.node, message), runtime.config,
                                    make_waiter=Waiter, notify=runtime.loop.notify)
        runtime.handlers.update(runtime.store.handlers)


def _install(runtime: Runtime) -> None:
    dropped.clear()
    serialization.set_out_of_band_hook(runtime.pin_for_good)
    refs._hooks["runtime"] = runtime
    refs.wake.call = runtime.loop.wake
