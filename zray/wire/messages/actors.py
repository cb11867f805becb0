"""Actors: between callers, nodes and the workers that are actors.  Codes 80-99."""

from __future__ import annotations

from zray.wire.messages.base import Message, message

PENDING, ALIVE, RESTARTING, DEAD = "PENDING", "ALIVE", "RESTARTING", "DEAD"  # states, on the wire and in rows


@message(80)
class CreateActor(Message):
    """Core process -> node: create, or with get_if_exists find, an actor.

    ``spec``: class_key, args (wire value), slots, deps, demand (placement), running (demand once alive), name,
    namespace, detached, max_restarts, max_task_retries, max_concurrency, concurrency_groups, is_async, env,
    class_name, method_names, get_if_exists, out_of_order, meta (opaque bytes for handles), job.
    """

    actor: bytes
    spec: dict
    request: int  # answered by ActorReply when not 0


@message(81)
class ActorReply(Message):
    """Node -> core process: answers CreateActor and LookupActor; error kind '' or 'name_taken' | 'no_such_actor'."""

    request: int
    error: str
    actor: bytes
    meta: bytes
    owner: bytes
    detail: str = ""


@message(82)
class LookupActor(Message):
    name: str
    namespace: str
    request: int


@message(83)
class WatchActor(Message):
    """Core process -> node: send it ActorState now and at each change."""

    actor: bytes


@message(84)
class ActorState(Message):
    """Node -> watcher.  state: PENDING ALIVE RESTARTING DEAD; life counts restarts from 0."""

    actor: bytes
    state: str
    life: int
    worker: bytes
    endpoint: str
    # DEAD: {"kind", "reason", "signal", "exit_code", "pid", "log_tail", "error": bytes}; PENDING: {"cause", "detail"};
    # ALIVE: {"pid"}
    cause: dict


@message(85)
class KillActor(Message):
    actor: bytes
    no_restart: bool
    graceful: bool = False  # out of scope: let queued calls finish first
    reason: str = ""


@message(86)
class ActorInit(Message):
    """Node -> worker: become this actor (spec as in CreateActor)."""

    actor: bytes
    life: int
    spec: dict
    assigned: dict


@message(87)
class ActorUp(Message):
    """Worker -> node: the constructor returned (error '') or raised (error is the pickled RayTaskError).

    ``message`` is the text of that error.  ``repr_name``: what the ``__repr__`` of the user's class gives, '' without.
    """

    actor: bytes
    life: int
    error: bytes
    message: str = ""
    repr_name: str = ""


@message(88)
class ActorExit(Message):
    """Actor worker -> node: planned exit (exit_actor, __ray_terminate__, out of scope); no restart.

    With ``may_restart`` (sys.exit, SIGTERM) it counts as a death of its process, which max_restarts covers.
    """

    actor: bytes
    life: int
    reason: str
    may_restart: bool = False


@message(89)
class PushCalls(Message):
    """Caller -> actor: calls in order.  Call i has sequence ``first + i`` per (caller, actor life).

    A call is ``[task id, attempt, method name, args value, number of returns, extra | None]``; extra as in PushTasks,
    and ``group`` (concurrency group).
    """

    actor: bytes
    life: int
    first: int
    calls: list


@message(90)
class CallsDone(Message):
    """Actor -> caller: ``[sequence, result, ...]`` as in TasksDone."""

    actor: bytes
    life: int
    ends: list
