"""Drivers in processes of their own, so that several clusters can be measured in turn in one run.

    with Driver(address, place="remote") as driver:
        rows = driver.do("benchmarks.tasks", "_small")     # the function gets a module like zray whose work is placed

``place`` says where the tasks and actors of such a module go: "local" to the driver's own node, "remote" to the node
that ``target`` names, "" wherever the scheduler likes.
"""

from __future__ import annotations

import importlib
import multiprocessing
import traceback
from typing import Any

import zray
from zray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

START_S = 60.0


class Placed:
    """zray with every task and actor bound to one node; ``init`` and ``shutdown`` do nothing."""

    __name__ = "zray"

    def __init__(self, node_id: str = "") -> None:
        self._options = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id)} if node_id else {}

    def __getattr__(self, name: str) -> Any:
        return getattr(zray, name)

    def remote(self, *args: Any, **options: Any) -> Any:
        if args and not self._options:
            return zray.remote(args[0])
        placed = zray.remote(**{**self._options, **options})
        return placed(args[0]) if args else placed

    def init(self, **options: Any) -> None:
        pass

    def shutdown(self) -> None:
        pass


class Driver:
    """A driver process connected to ``address`` (None: it starts a node alone, with ``options``)."""

    def __init__(self, address: str | None, place: str = "", target: str = "", **options: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, address, place, target, options), daemon=True)
        self.process.start()
        other.close()
        self._answer(START_S)

    def do(self, module: str, function: str, *args: Any, timeout_s: float = 300.0) -> Any:
        """``function(placed, *args)`` of ``module``, in that process; RuntimeError with its traceback on failure."""
        self.begin(module, function, *args)
        return self._answer(timeout_s)

    def begin(self, module: str, function: str, *args: Any) -> None:
        """As :meth:`do`, but go on at once; :meth:`end` has the result."""
        self._pipe.send((module, function, args))

    def end(self, timeout_s: float = 300.0) -> Any:
        return self._answer(timeout_s)

    def _answer(self, timeout_s: float) -> Any:
        if not self._pipe.poll(timeout_s):
            raise TimeoutError(f"the driver did not answer within {timeout_s:g} s")
        ok, answer = self._pipe.recv()
        if not ok:
            raise RuntimeError(answer)
        return answer

    def close(self) -> None:
        """End it; harmless when it has died."""
        try:
            self._pipe.send(None)
        except OSError:
            pass
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._pipe.close()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _serve(pipe: Any, address: str | None, place: str, target: str, options: dict[str, Any]) -> None:
    try:
        zray.init(address=address or "local", **options)
        own = zray.get_runtime_context().get_node_id()
        placed = Placed({"local": own, "remote": target, "": ""}[place])
        pipe.send((True, own))
    except Exception:
        pipe.send((False, traceback.format_exc()))
        return
    try:
        while (order := pipe.recv()) is not None:
            module, function, args = order
            try:
                pipe.send((True, getattr(importlib.import_module(module), function)(placed, *args)))
            except Exception:
                pipe.send((False, traceback.format_exc()))
    except EOFError:
        pass
    finally:
        zray.shutdown()
