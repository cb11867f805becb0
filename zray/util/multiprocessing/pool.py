"""``multiprocessing.Pool`` on actors: the standard library's methods, on every machine of the cluster."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from zray.api.calls import cluster_resources, init, is_initialized, nodes, put, remote
from zray.base.plain_numbers import plain
from zray.util.debug import log_once
from zray.util.multiprocessing._processes import POOL_ENDED, Pace, PoolProcesses
from zray.util.multiprocessing._results import AsyncResult, IMapIterator, OrderedIMapIterator, UnorderedIMapIterator
from zray.util.multiprocessing._worker import PoolProcess
from zray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

__all__ = ["AsyncResult", "IMapIterator", "OrderedIMapIterator", "Pool", "UnorderedIMapIterator"]

logger = logging.getLogger(__name__)

# As in the standard library: a map makes so many chunks for each process, if it is not given a chunksize.
CHUNKS_A_PROCESS = 4


class Pool:
    """A pool of processes with the methods of ``multiprocessing.Pool``.

    processes: how many; None for the CPUs of the cluster.  ValueError for more than those.
    initializer, initargs: each process calls ``initializer(*initargs)`` before the constructor returns.
    maxtasksperchild: a process is replaced by a new one after so many chunks.
    context: accepted and ignored.
    ray_address: the cluster to connect to, if no session is running.  Without an address a session starts here.
    ray_remote_args: options of the actors that are the processes; without ``num_cpus`` they take none.

    A process that dies is replaced.  The calls that it was given raise ActorDiedError.
    """

    def __init__(self, processes: int | None = None, initializer: Callable[..., Any] | None = None,
                 initargs: Iterable[Any] = (), maxtasksperchild: int | None = None, context: Any = None,
                 ray_address: str | None = None, ray_remote_args: dict[str, Any] | None = None):
        processes, maxtasksperchild = plain(processes), plain(maxtasksperchild)
        if processes is not None and (not isinstance(processes, int) or isinstance(processes, bool)):
            raise TypeError(f"processes must be an int or None, not {processes!r}")
        if processes is not None and processes <= 0:
            raise ValueError("Processes in the pool must be >0.")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild < 1):
            raise ValueError(f"maxtasksperchild must be a positive int or None, not {maxtasksperchild!r}")
        if context is not None and log_once("pool_context"):
            logger.warning("Pool ignores context: its processes are actors")
        self._connect(processes, ray_address)
        count = _cpus_or(processes)
        options = {"num_cpus": 0, **(ray_remote_args or {})}
        places = _spread_over_nodes(count) if "scheduling_strategy" not in options else []
        create = _creator(options, places, initializer, tuple(initargs or ()))
        self._imaps: weakref.WeakSet[IMapIterator] = weakref.WeakSet()
        self._processes = PoolProcesses(count, create, maxtasksperchild)

    @staticmethod
    def _connect(processes: int | None, address: str | None) -> None:
        if is_initialized():
            return
        if address or os.environ.get("ZRAY_ADDRESS") or os.environ.get("RAY_ADDRESS"):
            init(address=address)
        else:
            init(num_cpus=processes)

    # ---------------------------------------------------------------- calls

    def apply(self, func: Callable[..., Any], args: Iterable[Any] | None = None,
              kwargs: dict[str, Any] | None = None, *, kwds: dict[str, Any] | None = None) -> Any:
        """``func(*args, **kwargs)`` in one of the processes.  The standard library's name is ``kwds``."""
        return self.apply_async(func, args, kwargs, kwds=kwds).get()

    def apply_async(self, func: Callable[..., Any], args: Iterable[Any] | None = None,
                    kwargs: dict[str, Any] | None = None, callback: Callable[[Any], Any] | None = None,
                    error_callback: Callable[[BaseException], Any] | None = None, *,
                    kwds: dict[str, Any] | None = None) -> AsyncResult:
        """:meth:`apply` without waiting.  One of the callbacks is called with the result or the exception."""
        self._check(func)
        call = (tuple(args or ()), {**(kwargs or {}), **(kwds or {})})
        return AsyncResult(self._processes, self._processes.pace_of(func), [[call]], "apply", callback, error_callback,
                           single=True)

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """``[func(item) for item in iterable]``, in chunks of ``chunksize`` items.

        Every item is tried; then the exception of the first item that failed is raised.
        """
        return self.map_async(func, iterable, chunksize).get()

    def map_async(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None,
                  callback: Callable[[list[Any]], Any] | None = None,
                  error_callback: Callable[[BaseException], Any] | None = None) -> AsyncResult:
        """:meth:`map` without waiting.  One of the callbacks is called, once: with the whole list, or the exception."""
        return self._map(func, iterable, chunksize, "map", callback, error_callback)

    def starmap(self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]],
                chunksize: int | None = None) -> list[Any]:
        """Like :meth:`map`; each item is a tuple of arguments."""
        return self.starmap_async(func, iterable, chunksize).get()

    def starmap_async(self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: Any = None,
                      callback: Any = None, error_callback: Any = None) -> AsyncResult:
        """:meth:`starmap` without waiting.

        Ray has no ``chunksize`` here, and ``callback`` in its place: a callable there is the callback.
        """
        if callable(chunksize):
            chunksize, callback, error_callback = None, chunksize, error_callback or callback
        return self._map(func, iterable, chunksize, "starmap", callback, error_callback)

    def _map(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None, kind: str,
             callback: Any, error_callback: Any) -> AsyncResult:
        self._check(func)
        items: Any = iterable if isinstance(iterable, (list, tuple, range)) else list(iterable)
        if chunksize is None:
            chunksize = max(1, -(-len(items) // (CHUNKS_A_PROCESS * len(self._processes))))
        size = _checked_chunksize(chunksize)
        chunks = [items[start:start + size] for start in range(0, len(items), size)]
        return AsyncResult(self._processes, self._shared(func, chunks), chunks, kind, callback, error_callback)

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1) -> IMapIterator:
        """An iterator over the results, in order.  An exception of a call is an item."""
        return self._imap(OrderedIMapIterator, func, iterable, chunksize)

    def imap_unordered(self, func: Callable[[Any], Any], iterable: Iterable[Any],
                       chunksize: int | None = 1) -> IMapIterator:
        """An iterator over the results, as they get ready.  An exception of a call is an item."""
        return self._imap(UnorderedIMapIterator, func, iterable, chunksize)

    def _imap(self, kind: type[IMapIterator], func: Callable[[Any], Any], iterable: Iterable[Any],
              chunksize: int | None) -> IMapIterator:
        self._check(func)
        size = _checked_chunksize(1 if chunksize is None else chunksize)
        iter(iterable)  # TypeError now, not at the first result
        made = kind(self._processes, put(func), iterable, size)
        self._imaps.add(made)
        return made

    def _check(self, func: Any) -> None:
        if self._processes.has_lost_session:
            raise ValueError(POOL_ENDED)
        if self._processes.is_closed:
            raise ValueError("Pool not running")
        if not callable(func):
            raise TypeError(f"{type(func).__name__!r} object is not callable")

    @staticmethod
    def _shared(func: Any, chunks: list[Any]) -> Pace:
        """The function as one object for all chunks; with the call itself where there is only one."""
        return Pace(put(func) if len(chunks) > 1 else func)

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Take no more work.  What was submitted is finished; then the processes end."""
        self._processes.close()

    def terminate(self) -> None:
        """End the processes now; results that are not there raise ActorDiedError."""
        self._processes.terminate()

    def join(self) -> None:
        """Wait until the processes have ended; ValueError before :meth:`close` or :meth:`terminate`."""
        if not self._processes.is_closed:
            raise ValueError("Pool is still running")
        for started in list(self._imaps):
            if not self._processes.is_terminated:
                started.draw(all_of_them=True)
        self._processes.join()

    def __enter__(self) -> Pool:
        self._check(print)
        return self

    def __exit__(self, *_: Any) -> None:
        self.terminate()

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        state = ("TERMINATED" if self._processes.is_terminated else "CLOSED" if self._processes.is_closed
                 else "RUNNING")
        return f"<Pool state={state} pool_size={len(self._processes)}>"


def _cpus_or(processes: int | None) -> int:
    """How many processes; ValueError for more than the CPUs of the cluster."""
    cpus = max(1, int(cluster_resources().get("CPU", 0)))
    if processes is not None and processes > cpus:
        raise ValueError(f"Tried to start a pool with {processes} processes on an existing ray cluster, but there are "
                         f"only {cpus} CPUs in the ray cluster.")
    return processes or cpus


def _creator(options: dict[str, Any], places: list[str], initializer: Any, initargs: tuple) -> Callable[[int], Any]:
    """The function that makes process ``number``; it does not hold the pool."""
    actors: Any = remote(PoolProcess)

    def create(number: int) -> Any:
        place = {"scheduling_strategy": NodeAffinitySchedulingStrategy(places[number], soft=True)} if places else {}
        return actors.options(**options, **place).remote(initializer, initargs)

    return create


def _spread_over_nodes(count: int) -> list[str]:
    """The node of each process, in proportion to CPUs; empty where there is only one node."""
    found = [(node["NodeID"], node["Resources"].get("CPU", 0)) for node in nodes() if node["Alive"]]
    shares = [(cpus, node_id) for node_id, cpus in found if cpus > 0]
    if len(shares) < 2:
        return []
    total = sum(cpus for cpus, _ in shares)
    # Each node's share, then the nodes in turns, so that the first few processes are on different nodes.
    counts = {node_id: int(count * cpus / total) for cpus, node_id in shares}
    for _, node_id in sorted(shares, reverse=True)[:count - sum(counts.values())]:
        counts[node_id] += 1
    rounds = max(counts.values())
    return list(chain.from_iterable([node for node, most in counts.items() if most > turn] for turn in range(rounds)))


def _checked_chunksize(chunksize: Any) -> int:
    chunksize = plain(chunksize)
    if not isinstance(chunksize, int) or isinstance(chunksize, bool) or chunksize < 1:
        raise ValueError(f"Chunksize must be a positive int, not {chunksize!r}")
    return chunksize
