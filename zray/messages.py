"""Every message between processes, declared once.

A message is a NamedTuple with a ``CODE``; on the wire it is ``code, [fields...]`` (see zray.codec).  Fields are
append-only and new ones have defaults, so old and new peers understand each other.  Allowed field types are read
from the annotations: ``int float bool str bytes list dict None`` and unions of them.

Values (results, arguments) travel in one of these wire forms, which only workers and drivers look into:

    bytes                                      the serialised value itself (inline)
    [STORED, offset, nbytes, generation, oid]  the value lies in this node's object store
    [FAILED, kind, detail]                     an error: kind names it, detail is bytes or a map (zray.errors)
    [CARRYING, value, [[oid, owner, endpoint], ...], token]   a value whose pickle contains those references; the
                                               receiver names the token in TransitDone

Code ranges: 1-19 session, 20-49 leases and workers, 50-69 tasks, 70-79 references, 80-99 actors, 100-139 store,
140-159 control store, 160-189 node and jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

PROTOCOL = 1
FEATURES = ("batch", "map", "stream")

STORED = 1
FAILED = 2
CARRYING = 3

if TYPE_CHECKING:

    @dataclass_transform()
    class Message:
        """What a type checker sees: a NamedTuple cannot declare a class variable that its decorator sets."""

        CODE: ClassVar[int]
        _fields: ClassVar[tuple[str, ...]]

        def _replace(self, **fields: Any) -> Any: ...
        def __iter__(self) -> Iterator[Any]: ...
        def __len__(self) -> int: ...
        def __getitem__(self, index: int) -> Any: ...

else:
    Message = NamedTuple

M = TypeVar("M", bound=Message)

BY_CODE: dict[int, type[Message]] = {}
FIELD_TYPES: dict[int, tuple[frozenset[type], ...]] = {}
SIGNATURES: dict[int, tuple[type, ...]] = {}  # of messages whose fields have one type each: checked in one comparison


# What a field may hold on the wire, by the name of its annotation (typing.get_type_hints costs 15 ms at import).
_WIRE_TYPES: dict[str, frozenset[type]] = {
    "int": frozenset((int,)), "float": frozenset((float, int)), "bool": frozenset((bool,)), "str": frozenset((str,)),
    "bytes": frozenset((bytes,)), "list": frozenset((list,)), "dict": frozenset((dict,)),
    "None": frozenset((type(None),)),
    "Any": frozenset((int, float, bool, str, bytes, list, dict, type(None))),
}


def message(code: int) -> Callable[[type[M]], type[M]]:
    """Class decorator: give the NamedTuple its wire code and read its field types."""

    def register(cls: type[M]) -> type[M]:
        if code in BY_CODE:
            raise ValueError(f"code {code} is taken by {BY_CODE[code].__name__}")
        cls.CODE = code
        BY_CODE[code] = cls
        FIELD_TYPES[code] = tuple(_wire_types(cls.__annotations__[name].__forward_arg__) for name in cls._fields)
        single = [next(iter(types)) for types in FIELD_TYPES[code] if len(types) == 1]
        SIGNATURES[code] = tuple(single) if len(single) == len(FIELD_TYPES[code]) else ()
        return cls

    return register


def _wire_types(annotation: str) -> frozenset[type]:
    """``"list[int] | None"`` -> {list, NoneType}"""
    none: frozenset[type] = frozenset()
    return none.union(*(_WIRE_TYPES[part.split("[")[0].strip()] for part in annotation.split("|")))


# ---------------------------------------------------------------- session (1-19)

@message(1)
class Hello(Message):
    """First message of whoever dials: who I am, what I speak, where I can be dialled."""

    protocol: int
    kind: str  # "driver" | "worker" | "node"
    endpoint: str
    pid: int
    job: int
    python: str
    features: list[str]


@message(2)
class HelloAck(Message):
    """The answer to a Hello; ``refused`` says why the peer is not welcome ('' when it is)."""

    protocol: int
    kind: str
    features: list[str]
    refused: str = ""


@message(3)
class Bye(Message):
    """A planned exit: everything I sent before this is complete, expect no more."""

    reason: str


# ---------------------------------------------------------------- leases and workers (20-49)

@message(20)
class LeaseKey(Message):
    """Owner -> node: declares scheduling key ``key`` (an integer of this owner's)."""

    key: int
    demand: dict  # resource name -> units of 1/10000
    env: dict  # environment variables of the runtime environment
    strategy: dict
    name: str  # of the first function, for humans


@message(21)
class LeaseWant(Message):
    """Owner -> node: how many leases, beyond those held, this key could use now.  Absolute, so repeats are harmless."""

    key: int
    want: int
    granted: int  # how many grants of this key the owner has seen in its life; makes want unambiguous


@message(22)
class LeaseGrant(Message):
    """Node -> owner: worker ``worker`` (incarnation) is yours until you return lease ``lease``."""

    key: int
    lease: int
    worker: bytes
    endpoint: str
    pid: int
    assigned: dict  # {"gpu_ids": [...], "resources": {...}}


@message(23)
class LeaseReturn(Message):
    """Owner -> node: done with the lease.  ``exiting``: the worker is about to end itself (max_calls, exit)."""

    lease: int
    exiting: bool = False


@message(24)
class LeaseRecall(Message):
    """Node -> owner: somebody else waits; return the lease as soon as it has nothing in flight."""

    lease: int


@message(25)
class LeaseStatus(Message):
    """Node -> owner: why the wants of ``key`` are not granted.  ``cause`` is a zray.causes.Cause value."""

    key: int
    cause: int
    detail: str


@message(26)
class WorkerDied(Message):
    """Node -> every core process that may know the worker.  Marks say what ran (see worker progress marks)."""

    worker: bytes
    lease: int  # the lease it was on, 0 for none
    pid: int
    signal: int  # 0 when it exited by itself
    exit_code: int
    started: int  # sequence number of the last task started on this lease, 0 for none
    finished: int
    reason: str  # "" | "killed by zray: ..." | "out of memory" ...
    log_tail: str


@message(27)
class Blocked(Message):
    """Worker -> node: my task waits in get or wait (True: give its CPU to somebody) or runs on (False)."""

    blocked: bool


@message(28)
class LeaseKill(Message):
    """Owner -> node: kill -9 the worker of this lease (cancel with force=True)."""

    lease: int
    reason: str


@message(29)
class LeaseOpen(Message):
    """Owner -> worker, before the first push: the lease I hold on you and what it was assigned."""

    lease: int
    job: int
    assigned: dict
    env: dict


# ---------------------------------------------------------------- tasks (50-69)

@message(50)
class FunctionDef(Message):
    """Owner -> worker: a pickled function or class, sent before its first use on this worker."""

    key: bytes
    blob: bytes


@message(51)
class PushTasks(Message):
    """Owner -> worker: run these in order.  Task i has sequence number ``first + i`` on this lease.

    A task is ``[task id, attempt, function key, args value, number of returns, extra | None]``; number of returns is
    -1 for a streaming generator; extra is a map: ``slots`` (list of int | str: which arguments are references),
    ``deps`` (their values), ``name``, ``retry_exceptions``, ``backpressure``, ``max_calls``, ``last_attempt`` (no
    retries left), ``trace``.
    """

    lease: int
    first: int
    tasks: list


@message(52)
class TasksDone(Message):
    """Worker -> owner: ends of tasks, as ``[sequence, result, sequence, result, ...]``.

    A result is a wire value (task with one return) or ``[0, [value, ...], extra]``: several returns, and in extra
    ``held`` ([[oid, n], ...]: borrowed references this worker still holds), ``ns`` (run time), ``exiting``.
    ``ns_each`` is the mean run time in nanoseconds of the tasks in this batch.
    """

    lease: int
    ends: list
    ns_each: int


@message(53)
class HandBack(Message):
    """Worker -> owner: these sequence numbers were not started and will not be; push them elsewhere."""

    lease: int
    sequences: list[int]


@message(54)
class CancelTask(Message):
    """Owner -> worker: cancel the attempt if it is queued or running here; acts on no other attempt."""

    task: bytes
    attempt: int
    recursive: bool


@message(55)
class StreamItem(Message):
    """Worker -> owner: item ``index`` (from 1) of a streaming generator task."""

    task: bytes
    attempt: int
    index: int
    value: Any


@message(56)
class StreamAck(Message):
    """Owner -> worker: the consumer has taken this many items (back-pressure)."""

    task: bytes
    attempt: int
    consumed: int


@message(57)
class PushMap(Message):
    """Owner -> worker: one chunk of ``f.map``: ``count`` tasks with consecutive ids, arguments as one pickled list.

    ``star``: each item is a tuple of positional arguments.  Sequence numbers ``first .. first + count - 1``.
    """

    lease: int
    first: int
    task: bytes  # id of the first
    attempt: int
    function: bytes
    count: int
    items: Any  # wire value: bytes or [STORED, ...]
    star: bool


@message(58)
class MapDone(Message):
    """Worker -> owner: results ``first .. first + count - 1`` of a chunk, as one pickled list (wire value).

    ``failures``: [[position, wire value], ...] for items that raised; their place in the list is None.
    """

    lease: int
    first: int
    count: int
    results: Any
    failures: list
    ns_each: int


# ---------------------------------------------------------------- references (70-79)

@message(70)
class HoldAdd(Message):
    """Holder (or a sender on its behalf) -> owner: ``holder`` holds these objects; n orders adds and drops."""

    holds: list  # [[oid, n], ...]
    holder: bytes
    transit: list  # transit tokens this clears, [] for none


@message(71)
class HoldAck(Message):
    holds: list  # [[oid, n], ...] registered
    missing: list  # oids that no longer exist


@message(72)
class HoldDrop(Message):
    """Holder -> owner: its last reference went away (1 to 0)."""

    holds: list  # [[oid, n], ...]
    holder: bytes


@message(73)
class Locate(Message):
    """Borrower -> owner: send me the values of these when they are ready."""

    oids: list[bytes]


@message(74)
class Resolved(Message):
    """Owner -> borrower: ``[oid, value, oid, value, ...]``."""

    values: list


@message(75)
class TransitDone(Message):
    """Receiver of a reference -> its sender: the owner knows me now, drop the hold you kept for me."""

    tokens: list[int]


@message(76)
class CancelObject(Message):
    """Borrower -> owner: cancel the task that makes this object."""

    oid: bytes
    force: bool
    recursive: bool


@message(77)
class Why(Message):
    """Anyone -> the owner of an object, or the worker of a task (``what`` is its id): why is it not ready?"""

    request: int
    what: bytes


@message(78)
class Because(Message):
    """The answer to Why, in words; '' when the asked process knows no more."""

    request: int
    text: str


# ---------------------------------------------------------------- actors (80-99)

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
    """Core process -> node: send me ActorState now and at each change."""

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
    """Worker -> node: the constructor returned (error '') or raised (error is the pickled RayTaskError)."""

    actor: bytes
    life: int
    error: bytes


@message(88)
class ActorExit(Message):
    """Actor worker -> node: planned exit (exit_actor, __ray_terminate__, out of scope); no restart."""

    actor: bytes
    life: int
    reason: str


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


# ---------------------------------------------------------------- store (100-139)

@message(100)
class StoreWant(Message):
    """Client -> node: an extent of at least ``nbytes``, please.  Answered by StoreGrant or StoreRefused."""

    request: int
    nbytes: int


@message(101)
class StoreSurrender(Message):
    """Client -> node: these extents ([[offset, size], ...]) are yours, with the sealed objects in them."""

    recall: int  # number of the StoreRecall that this answers, 0 for unasked
    extents: list


@message(102)
class StoreFree(Message):
    """Owner -> node: no reference to these objects ([[oid, offset, generation], ...]) is left."""

    objects: list


@message(103)
class StoreRestore(Message):
    """Client -> node: the object is not where its value says; where is it now?  Answered by StoreRestored."""

    request: int
    oid: bytes
    offset: int
    generation: int


@message(110)
class StoreGrant(Message):
    """Node -> client: this range of the arena, formatted as one free block, is yours until recalled."""

    request: int
    offset: int
    size: int


@message(111)
class StoreRefused(Message):
    """Node -> client: no room.  ``report``: reason, capacity, used ... who holds what."""

    request: int
    report: dict


@message(112)
class StoreRecall(Message):
    """Node -> client: give back extents, ``nbytes`` of them if you can (0: only those idle since the last recall)."""

    recall: int
    nbytes: int


@message(113)
class StoreReclaimed(Message):
    """Node -> client: these blocks of your extents are free and unpinned, use them again."""

    offsets: list[int]


@message(114)
class StoreRestored(Message):
    """Node -> client: the object's wire value now; an empty list when it is gone, and ``error`` says why."""

    request: int
    value: list
    error: str = ""


# ---------------------------------------------------------------- control store (140-159)

@message(140)
class GcsRequest(Message):
    """Client -> head (updates) or tail (reads): request ``number`` of the sending incarnation; repeats are harmless.

    ``op``: an operation of zray.gcs.tables.  ``acked``: the client wants no more replies to numbers below this.
    """

    number: int
    acked: int
    op: list


@message(141)
class GcsReply(Message):
    """Replica -> client: the answer to a request; ``error`` is '' or starts with an error code of zray.gcs.tables."""

    number: int
    error: str
    result: Any


@message(142)
class GcsRedirect(Message):
    """Replica -> client: I do not play that role in epoch ``epoch``; ``members`` from head to tail do."""

    number: int  # of the request, 0 for a watch
    epoch: int
    members: list[bytes]


@message(143)
class GcsWatch(Message):
    """Client -> tail: send me the changes of keys with ``prefix`` after version ``seen`` (-1: the present state first).

    Sent to subscribe, to acknowledge (credit), and now and then to find out about a lost message or a new tail.
    """

    watch: int
    prefix: bytes
    seen: int


@message(144)
class GcsUnwatch(Message):
    watch: int


@message(145)
class GcsEvents(Message):
    """Tail -> client: all changes of the watch in ``(previous, version]``, as ``[[version, key, value | None], ...]``.

    ``reset``: the changes since ``previous`` are no longer known; the list is the whole state at ``version`` instead.
    """

    watch: int
    previous: int
    version: int
    reset: bool
    changes: list


@message(150)
class ChainUpdates(Message):
    """Predecessor -> successor: updates ``first ..`` as ``[[client, number, acked, op], ...]``; the sender has all
    up to ``last``."""

    epoch: int
    first: int
    entries: list
    last: int


@message(151)
class ChainAck(Message):
    """Successor -> predecessor, cumulative: I have all up to ``received``, the tail has processed up to ``committed``.

    ``sync``: answer this even if there is nothing new (sent until the successor has heard from you in this epoch).
    """

    epoch: int
    received: int
    committed: int
    sync: bool = False


@message(152)
class ChainSnapshot(Message):
    """Predecessor -> new successor: part ``index`` of ``count`` of the state after update ``sequence``."""

    epoch: int
    sequence: int
    index: int
    count: int
    chunk: bytes


@message(153)
class ChainFetch(Message):
    """New successor -> predecessor: send part ``index`` of that snapshot."""

    epoch: int
    sequence: int
    index: int


# ---------------------------------------------------------------- node and jobs (160-189)

@message(160)
class RegisterDriver(Message):
    """Driver -> node.  config: sys_path, cwd, script_dir, env, namespace, name, log_to_driver, entrypoint."""

    config: dict


@message(161)
class DriverAccepted(Message):
    """Node -> driver: your job number, and what the node is.  node: NodeInfo map as zray.nodes() shows it."""

    job: int
    node: dict
    store: dict  # how to attach: {"control": path, "arena": name, ...}; zray.store.client reads it
    settings: dict


@message(162)
class WorkerReady(Message):
    """Worker -> node, after its Hello: bound, attached, waiting for work."""

    pid: int


@message(163)
class WorkerExit(Message):
    """Node -> worker: finish what runs and exit (idle, job over)."""

    reason: str


@message(164)
class JobConfig(Message):
    """Node -> worker, when it is first assigned: the job's sys.path, working directory, environment."""

    job: int
    config: dict


@message(165)
class LogLines(Message):
    """Node -> driver: what its job's workers printed.  lines: [[name, pid, is_stderr, text], ...]; dropped: a count."""

    lines: list
    dropped: int


@message(166)
class NodeQuery(Message):
    """Core process -> node: ask for a view.  what: nodes | resources | available | actors | workers | leases | store |
    jobs | stats | explain ; answered by NodeAnswer."""

    request: int
    what: str
    args: dict


@message(167)
class NodeAnswer(Message):
    request: int
    answer: dict


@message(168)
class ProcessGone(Message):
    """Node -> core processes: this incarnation (driver or worker) ended; drop its holds, fail what it owned."""

    process: bytes
    reason: str


@message(169)
class Goodbye(Message):
    """Driver -> node: shutdown; the node flushes logs, ends the job, answers with Bye."""

    reason: str


@message(170)
class EventReport(Message):
    """Core process -> node: task events for timeline and state queries, dropped under load with a count."""

    events: list
    dropped: int
