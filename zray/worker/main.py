"""The entry of a worker process: the zygote's child calls :func:`run`."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import sys
import time
from typing import Any, NoReturn

from zray.base.config import Config
from zray.base.errors import RayError
from zray.core.joining import for_worker
from zray.environments import spec
from zray.store.segment import HOOK_MARK
from zray.transport.sockets import Limits
from zray.wire.messages import ActorInit, Hello, HelloAck, JobSettings, WorkerReady
from zray.worker import equipment, process
from zray.worker.actors.ends import run_exit_handlers
from zray.worker.executor import TaskExecutor
from zray.worker.queue import ServedLease

# An exiting worker waits so long until its last replies are sent.
EXIT_DRAIN_S = 5.0
NODE_LOST_EXIT = 86
# A worker whose setup hook failed raises that in its tasks for so long, then it ends.
HOOK_RETRY_S = 10.0


class WorkerProcess:
    """The worker process: its Runtime, its TaskExecutor, its surroundings."""

    def __init__(self, start: dict[str, Any], config: Config | None):
        self.rt = for_worker(start, config)
        self.executor = TaskExecutor(self.rt, self)
        info = start.get("node_info") or {}
        resources = info.get("resources") or info.get("Resources") or {}
        self.node_has_gpus = bool(resources.get("GPU"))
        self.started_under = "start" in start  # the variables of its kind, by exec
        self.config: dict[str, Any] = {}  # of the job
        self.taken_on = False
        self.executor.functions.broken = start.get("broken", "")  # why no task can run here
        self.rt.when_node_lost(self.on_node_lost)

    def run(self) -> None:
        rt = self.rt
        self.executor.install()
        self.executor.debugger.install()
        process.mark_output(rt.context)
        os.register_at_fork(before=process.flush_output, after_in_child=self.forget)
        with rt.loop.lock:
            rt.send(rt.node, WorkerReady(os.getpid()))
        rt.loop.kick()
        # The objects of the start-up live as long as the process: exempt them from garbage collection.
        gc.collect()
        gc.freeze()
        self.executor.run_forever()

    # ------------------------------------------------------------ taking on a job

    def on_job(self, message: JobSettings) -> None:
        rt = self.rt
        rt.set_job(message.job)
        rt.context.job = message.job
        rt.namespace = message.config.get("namespace") or ""
        rt.process.detached = bool(message.config.get("detached"))
        self.config = message.config
        process.take_on_job(message.config)
        if (limits := message.config.get("record")) and self.executor.recorder is None:
            from zray.worker.recording import record_runs

            record_runs(rt, self.executor, limits)

    def on_lease(self, lease: ServedLease) -> None:
        if not self.taken_on:
            self.take_on(lease.env, lease.assigned)

    def on_actor(self, message: ActorInit) -> None:
        if not self.taken_on:
            self.take_on(message.spec.get("env") or {}, message.assigned)

    def take_on(self, env: dict[str, Any], assigned: dict[str, Any]) -> None:
        """The first lease or actor sets the environment of this process for ever: see zray.node.processes.pool.Kind."""
        self.taken_on = True
        self.rt.env = env
        process.take_on_environment(spec.variables(env), assigned, self.config, started_under=self.started_under,
                                    node_has_gpus=self.node_has_gpus)
        self.executor.debugger.take_on(self.config.get("debug") or {}, spec.variables(env),
                                       self.rt.config.post_mortem_wait_s)
        if self.config.get("equipment") or env.get("worker_process_setup_hook"):
            self.executor.functions.broken = self.executor.functions.broken or self.equip(env)
        if hook := self.config.get("tracing") or self.rt.process.config.tracing_startup_hook:
            from zray.worker.tracing import trace_runs

            trace_runs(self.rt, self.executor, hook)

    def equip(self, env: dict[str, Any]) -> str:
        """Take on what the node has installed, and run the setup hook; returns why that failed, or ''."""
        found = self.config.get("equipment") or {}
        if "error" in found:
            return str(found["error"])
        try:
            equipment.take_on(found)
        except OSError as error:
            return f"its folders are gone: {error}"
        self.rt.process.equipment = found
        hook = env.get("worker_process_setup_hook")
        if not hook:
            return ""
        self.rt.marks[HOOK_MARK] = 1  # the node reads it when the hook ends this process
        failure = equipment.run_hook(hook, self.rt.fetch_function)
        self.rt.marks[HOOK_MARK] = 0
        if failure:  # the next worker tries again
            with self.rt.loop.lock:
                self.executor.later(HOOK_RETRY_S, lambda: self.executor.machine.stop("its setup hook failed"))
            failure += f"\nzray runs the hook again in the next worker, after a pause of {HOOK_RETRY_S:g} s."
        return failure

    # ------------------------------------------------------------ ends

    def end(self, code: int) -> NoReturn:
        """A planned end: run the exit handlers of user code, then send the last messages."""
        executor = self.executor
        host = executor.actor
        if host is not None:
            code = host.life.code
        run_exit_handlers(host, f"the actor {host.life.class_name}" if host is not None else "a worker process")
        with self.rt.loop.lock:
            self.rt.flush_metrics()
            executor.events.flush()
        with contextlib.suppress(RayError):  # the node reads in order: with this it has read the last report
            self.rt.query("received", EXIT_DRAIN_S)
        if executor.release is not None:
            self.rt.loop.wait(executor.release, time.monotonic() + EXIT_DRAIN_S)
        self.rt.drain(EXIT_DRAIN_S)
        self.rt.shutdown()
        exit_now(code)

    def on_node_lost(self) -> None:
        """A worker ends with its node.  Runs on the thread that polls; user code may run on another thread."""
        process.flush_output()
        os._exit(NODE_LOST_EXIT)

    def forget(self) -> None:
        """In a child that user code forked: drop the worker's state, which the child must not use."""
        self.executor.forked = True
        self.executor.queue.entries.clear()
        self.executor.interrupts.uninstall()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from zray.handles import refs

        refs._hooks["runtime"] = None
        refs.wake.armed = False


def rehearse(base: dict[str, Any]) -> Config:
    """In the zygote: make what all workers would make alike, so that they share its memory.

    ``base`` are the common settings of the workers; returns their Config, for :func:`run`.  A record compiles its
    constructor at the first call (zray.base.named_tuples).
    """
    Limits(), Hello(0, "", "", 0, 0, "", []), HelloAck(0, "", [], ""), WorkerReady(0)
    return Config.load(base.get("config"))


def run(start: dict[str, Any], config: Config | None = None) -> None:
    """Serve until the node, the job or the last task ends the process; does not return."""
    try:
        faulthandler.enable()
        worker = WorkerProcess(start, config)
        worker.run()
        worker.end(0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        exit_now(1)


def exit_now(code: int) -> NoReturn:
    """End the process; a negative code is the signal that requested the end."""
    process.flush_output()
    sys.stdout = sys.stderr = None  # type: ignore[assignment]
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    # Not sys.exit: threads of user code would keep the process alive, and exit handlers would run twice after a fork.
    os._exit(code & 0xFF)
