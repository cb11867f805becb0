"""Collective operations between actors, tasks and drivers, at Ray's names: on numpy arrays and tensors of the CPU."""

from __future__ import annotations

import sys
import time
from typing import Any, NoReturn

import numpy as np

from zray.api.calls import get, get_actor, remote
from zray.base.errors import RayActorError
from zray.base.plain_numbers import plain
from zray.core.runtime_context import get_runtime_context
from zray.handles.connection import current, has_ended
from zray.util.collective._group import CollectiveGroup
from zray.util.collective._hub import HUB_CALLS_MAX, CollectiveHub
from zray.util.collective.types import Backend, ReduceOp

RETRY_JOIN_S = 0.02
OLD_GROUP_S = 5.0  # for the actor of a destroyed group to end, also on a busy machine
OF_A_GPU = ("A tensor of a GPU cannot take part: copy it to the CPU (tensor.cpu()), or use torch.distributed in actors")

_groups: dict[str, CollectiveGroup] = {}  # of this process
_declared: dict[str, Any] = {}  # hubs of the groups that this process declared for its actors
_runtimes: list[Any] = []  # the one of the session of all these, if there are any


def nccl_available() -> bool:
    """False: arrays of GPUs do not travel between processes."""
    return False


def gloo_available() -> bool:
    """True: the operations on arrays of the CPU are there."""
    return True


def is_backend_available(backend: str) -> bool:
    """Whether ``init_collective_group`` takes this backend."""
    try:
        return Backend(backend) == Backend.GLOO
    except ValueError:
        return False


def is_group_initialized(group_name: str = "default") -> bool:
    """Whether this process is a rank of the group."""
    _forget_ended_session()
    return group_name in _groups


def init_collective_group(world_size: int, rank: int, backend: str = Backend.GLOO, group_name: str = "default",
                          gloo_timeout: int = 30000) -> None:
    """Make this process a rank of the group; waits until all ``world_size`` ranks have called it.

    ``gloo_timeout``: milliseconds that an operation waits for the other ranks.  RuntimeError when the process is a
    rank already, or when other ranks do not come in time; ValueError for a rank or backend that is not valid.
    """
    Backend(backend)
    world_size, rank = plain(world_size), plain(rank)
    _check_name(group_name)
    if group_name in _groups:
        raise RuntimeError("Trying to initialize a group twice.")
    if not isinstance(world_size, int) or world_size <= 0:
        raise ValueError(f"world_size must be a positive int, not {world_size!r}")
    if not isinstance(rank, int) or not 0 <= rank < world_size:
        raise ValueError(f"rank must be at least 0 and less than world_size {world_size}, not {rank!r}")
    timeout_s = _seconds(gloo_timeout)
    end = time.monotonic() + max(timeout_s, OLD_GROUP_S)
    while True:
        hub = _make_hub(group_name, world_size, {})
        holds = hub._life_ref is not None
        try:
            failure, found = get(hub.join.remote(rank, world_size, hub if holds else None, timeout_s))
        except RayActorError:  # it ends just now: a group of that name was destroyed
            failure = "ended"
        if not failure:
            break
        del hub
        if failure != "ended" or time.monotonic() > end:
            raise RuntimeError(failure if failure != "ended" else
                               f"an old group {group_name!r} is still there: not all of its ranks have destroyed it")
        time.sleep(RETRY_JOIN_S)
    handle, maker = found
    group = CollectiveGroup(group_name, handle or hub, world_size, rank, timeout_s, maker)
    group.show_presence()
    try:
        group.barrier()  # every rank holds the handle
    except BaseException:
        _leave(group.hub, rank)
        raise
    if holds:
        get(hub.release.remote())
    _groups[group_name] = group
    _runtimes[:] = [current()]


def create_collective_group(actors: list[Any], world_size: int, ranks: list[int], backend: str = Backend.GLOO,
                            group_name: str = "default", gloo_timeout: int = 30000) -> None:
    """Declare that ``actors`` are the ranks ``ranks`` of a group; they join it at their first operation.

    The group lives until this process ends or calls :func:`destroy_collective_group`.
    """
    Backend(backend)
    _check_name(group_name)
    world_size, ranks = plain(world_size), [plain(rank) for rank in ranks]
    if len(ranks) != len(actors):
        raise RuntimeError(f"Each actor should correspond to one rank. Got '{len(ranks)}' ranks but '{len(actors)}' "
                           "actors")
    if world_size != len(actors) or sorted(ranks) != list(range(world_size)):
        raise RuntimeError(f"Ranks must be a permutation from 0 to {len(actors) - 1}, and world_size {len(actors)}. "
                           f"Got '{ranks}' and world_size {world_size}")
    if group_name in _declared:
        raise RuntimeError("Trying to initialize a group twice.")
    hub = _make_hub(group_name, world_size, {actor._actor_id.hex(): rank for actor, rank in zip(actors, ranks)},
                    must_be_new=True, timeout_ms=gloo_timeout)
    get(hub.__ray_ready__.remote())
    # Each actor joins when it is idle.  Until then the hub knows from these calls whether it lives.
    get([hub.watch.remote(rank, [actor.__ray_call__.remote(_join_declared, group_name)])
         for actor, rank in zip(actors, ranks)])
    _declared[group_name] = hub
    _runtimes[:] = [current()]


def destroy_collective_group(group_name: str = "default") -> None:
    """End the group for this process; no error where there is none.  Other ranks that wait in it get an error."""
    _check_name(group_name)
    hub = _declared.pop(group_name, None)
    group = _groups.pop(group_name, None)
    for left, rank in ((hub, -1), (group.hub if group is not None else None, group.rank if group is not None else -1)):
        if left is not None:
            _leave(left, rank)


def _leave(hub: Any, rank: int) -> None:
    try:
        get(hub.leave.remote(rank))
    except RayActorError:
        pass  # it has ended already


def get_rank(group_name: str = "default") -> int:
    """The rank of this process; -1 where it is in no such group."""
    group = _find(group_name)
    return -1 if group is None else group.rank


def get_collective_group_size(group_name: str = "default") -> int:
    """How many ranks the group has; -1 where this process is in no such group."""
    group = _find(group_name)
    return -1 if group is None else group.world_size


def allreduce(tensor: Any, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """Combine the tensors of all ranks into each of them, in place."""
    _group(group_name).allreduce(_array(tensor, writes=True), _checked_op(op))


def reduce(tensor: Any, dst_rank: int = 0, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """Combine the tensors of all ranks into that of ``dst_rank``, in place."""
    group = _group(group_name)
    group.reduce(_array(tensor, writes=group.rank == dst_rank), dst_rank, _checked_op(op))


def broadcast(tensor: Any, src_rank: int = 0, group_name: str = "default") -> None:
    """Copy the tensor of ``src_rank`` into that of each other rank."""
    group = _group(group_name)
    group.broadcast(_array(tensor, writes=group.rank != src_rank), src_rank)


def allgather(tensor_list: list, tensor: Any, group_name: str = "default") -> None:
    """Copy the tensor of rank i into ``tensor_list[i]``, on each rank."""
    _group(group_name).allgather([_array(each, writes=True) for each in _checked_list(tensor_list)], _array(tensor))


def reducescatter(tensor: Any, tensor_list: list, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """Combine ``tensor_list[i]`` of all ranks into the ``tensor`` of rank i."""
    _group(group_name).reducescatter(_array(tensor, writes=True), [_array(each) for each in _checked_list(tensor_list)],
                                     _checked_op(op))


def barrier(group_name: str = "default") -> None:
    """Wait until every rank has called it."""
    _group(group_name).barrier()


def send(tensor: Any, dst_rank: int, group_name: str = "default") -> None:
    """Send a tensor to a rank; returns when its :func:`recv` has met this call."""
    _group(group_name).send(_array(tensor), dst_rank)


def recv(tensor: Any, src_rank: int, group_name: str = "default") -> None:
    """Receive a tensor of the same shape and type from a rank, in place."""
    _group(group_name).recv(_array(tensor, writes=True), src_rank)


def _several_gpus(*_: Any, **__: Any) -> NoReturn:
    """Refused: a process has one tensor of the CPU in an operation."""
    raise NotImplementedError("The operations for several GPUs are not supported: each process takes part with one "
                              "numpy array or tensor of the CPU. For tensors of GPUs use torch.distributed in actors")


allreduce_multigpu = reduce_multigpu = broadcast_multigpu = allgather_multigpu = _several_gpus
reducescatter_multigpu = send_multigpu = recv_multigpu = _several_gpus


# ---------------------------------------------------------------- groups of this process


def _make_hub(group_name: str, world_size: int, ranks: dict[str, int], must_be_new: bool = False,
              timeout_ms: int = 0) -> Any:
    hubs: Any = remote(CollectiveHub)
    hubs = hubs.options(name=_hub_name(group_name), get_if_exists=not must_be_new, num_cpus=0,
                        max_concurrency=max(HUB_CALLS_MAX, 4 * world_size))
    return hubs.remote(group_name, world_size, ranks, _seconds(timeout_ms) if timeout_ms else 0.0)


def _hub_name(group_name: str) -> str:
    return f"zray.collective.{get_runtime_context().get_job_id()}.{group_name}"


def _find(group_name: str) -> CollectiveGroup | None:
    """The group of this process; a declared one is joined now."""
    _check_name(group_name)
    found = _groups.get(group_name)
    actor = get_runtime_context().get_actor_id() if found is None and current() is not None else None
    if found is not None or actor is None:
        return found
    try:
        hub = get_actor(_hub_name(group_name))
        world_size, rank, timeout_s = get(hub.about.remote(actor))
    except (ValueError, RayActorError):
        return None
    if rank >= 0:
        made = CollectiveGroup(group_name, hub, world_size, rank, timeout_s)
        found = _groups.setdefault(group_name, made)  # another thread of the actor may join it, too
        if found is made:
            _runtimes[:] = [current()]
            found.show_presence()
    return found


def _join_declared(_: Any, group_name: str) -> None:
    _find(group_name)


def _group(group_name: str) -> CollectiveGroup:
    group = _find(group_name)
    if group is None:
        raise RuntimeError(f"The collective group '{group_name}' is not initialized in the process. Call "
                           "init_collective_group in each of its processes, or create_collective_group with their "
                           "actors")
    return group


def get_group_handle(group_name: str = "default") -> CollectiveGroup:
    """The group of this process, with the operations as methods; RuntimeError where there is none."""
    return _group(group_name)


# ---------------------------------------------------------------- checks


def _forget_ended_session() -> None:
    """Groups end with the session of their process; their names are free in the next."""
    if _runtimes and has_ended(_runtimes[0]):
        _groups.clear()
        _declared.clear()
        _runtimes.clear()


def _check_name(group_name: Any) -> None:
    _forget_ended_session()
    if not isinstance(group_name, str) or not group_name:
        raise ValueError(f"group_name '{group_name}' needs to be a string with at least one character.")


def _seconds(timeout_ms: Any) -> float:
    timeout_ms = plain(timeout_ms)
    if not isinstance(timeout_ms, (int, float)) or timeout_ms <= 0:
        raise ValueError(f"gloo_timeout must be a positive number of milliseconds, not {timeout_ms!r}")
    return timeout_ms / 1000


def _checked_op(op: Any) -> ReduceOp:
    if isinstance(op, ReduceOp):
        return op
    raise TypeError(f"op must be a ReduceOp, not {op!r}")


def _checked_list(tensors: Any) -> list:
    if not isinstance(tensors, list):
        raise RuntimeError(f"The input must be a list of tensors. Got '{type(tensors)}'.")
    return tensors


def _array(tensor: Any, writes: bool = False) -> np.ndarray:
    """The numpy array of a tensor: the same memory."""
    torch: Any = sys.modules.get("torch")  # a process with a tensor has imported it
    if isinstance(tensor, np.ndarray):
        array = tensor
    elif torch is not None and isinstance(tensor, torch.Tensor):
        array = _of_torch(tensor)
    elif getattr(tensor, "is_cuda", False) or type(tensor).__module__.partition(".")[0] == "cupy":
        raise ValueError(OF_A_GPU)
    else:
        raise ValueError("Unrecognized tensor type. Supported types are: np.ndarray, torch.Tensor. Got "
                         f"{type(tensor).__name__}")
    if array.dtype.hasobject:
        raise ValueError("An array of Python objects cannot take part in a collective operation")
    if writes and not array.flags.writeable:
        raise ValueError("The array is read-only, as those that get() returns: pass array.copy()")
    return array


def _of_torch(tensor: Any) -> np.ndarray:
    """The array that shares the memory of a torch tensor; ValueError where numpy has none that does."""
    if tensor.device.type != "cpu":
        raise ValueError(OF_A_GPU)
    try:
        return tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:  # bfloat16, a sparse tensor, a lazy conjugate
        raise ValueError(f"A tensor of {tensor.dtype} with the layout {tensor.layout} cannot share its memory with "
                         f"numpy, so it cannot take part: pass a plain one, as of tensor.float(). {error}") from error
