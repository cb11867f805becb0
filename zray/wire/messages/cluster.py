"""Between nodes, and between a node and its core processes about other nodes.  Codes 190-219."""

from __future__ import annotations

from zray.wire.messages.base import Message, message


@message(190)
class Relay(Message):
    """Node <-> node: message ``code, fields`` between ``process``, a core process of one of them, and the other one.

    From the process's own node it is a message of the process to the receiving node.  To that node it is a message for
    the process.
    """

    process: bytes
    code: int
    fields: list


@message(191)
class Dial(Message):
    """Core process -> its node -> the node of ``process``: at which TCP endpoint can it be dialled?"""

    process: bytes


RELAYED = "relay"  # the endpoint of a process that has none: its node relays frames


@message(192)
class DialAnswer(Message):
    """The answer, by the same way; ``endpoint`` '' when there is no such process, for the reason in ``error``."""

    process: bytes
    endpoint: str
    error: str = ""


@message(193)
class BindTcp(Message):
    """Node -> its core process: a process elsewhere needs a connection; bind a TCP endpoint, answer with Bound."""

    host: str
    insecure: bool = False
    ports: list = []  # [low, high] to choose from, [] for any


@message(194)
class Bound(Message):
    endpoint: str


@message(195)
class NodeGone(Message):
    """Node -> core processes: that node (an incarnation) is dead, and every process on it."""

    node: bytes
    reason: str


@message(200)
class NodeJoin(Message):
    """A new node -> any node of the cluster, which answers with NodeJoined."""

    protocol: int
    python: str
    version: str
    row: dict  # of the nodes table: node_id (28 bytes), endpoint, key, resources, labels, ...


@message(201)
class NodeJoined(Message):
    """``refused``: the reason against the new node, '' when it is admitted."""

    refused: str
    cluster: str  # id of the cluster
    ordinal: int  # number of this node: jobs and leases are numbered from it
    rows: list  # rows of the nodes table, as in NodeJoin, of all live nodes
    gcs: list  # hints for zray.gcs.service to find the control store
    settings: dict


@message(202)
class NodeLeave(Message):
    """A node -> the others: it drains, then leaves."""

    reason: str


@message(203)
class JobStart(Message):
    """Node -> node, before anything else about this job: its driver, configuration and home node."""

    job: int
    driver: bytes
    config: dict


@message(204)
class JobEnd(Message):
    """Node -> node: the job's driver is gone; ``last``: so is the last actor that outlived it, on any node.

    ``used``: an actor with its home at the sender outlives the driver; the sender reports its end by ``last``.
    """

    job: int
    reason: str
    last: bool = False
    used: bool = False


@message(205)
class PlaceActor(Message):
    """Home node of an actor -> the node that is to run one life of it; answered by ActorPlaced or ActorNotPlaced."""

    actor: bytes
    life: int
    job: int
    demand: dict
    strategy: dict
    env: dict
    name: str


@message(206)
class ActorPlaced(Message):
    actor: bytes
    life: int
    worker: bytes
    endpoint: str
    pid: int
    lease: int
    assigned: dict


@message(207)
class ActorNotPlaced(Message):
    """The node cannot run the life (now): the home looks for another node."""

    actor: bytes
    life: int
    cause: int
    detail: str


@message(208)
class UnplaceActor(Message):
    """Home -> node: stop looking for a place for that life, or give the place back."""

    actor: bytes
    life: int


@message(209)
class ActorWorkerDied(Message):
    """Node -> home of an actor: the worker that ran it has ended."""

    actor: bytes
    worker: bytes
    death: dict  # signal, exit_code, pid, log_tail, reason


@message(210)
class EndWorker(Message):
    """Home of an actor -> node: kill this worker."""

    worker: bytes
    reason: str


@message(211)
class ResizeLease(Message):
    """Home of an actor -> node: from now on its lease uses ``demand``."""

    lease: int
    demand: dict


@message(212)
class AdoptActor(Message):
    """New home of an actor -> the node where it lives: the sender is its home from now on."""

    actor: bytes
    worker: bytes


@message(213)
class NodeRows(Message):
    """Node -> node: rows of the nodes table that the other lacks; with ``asks``: send the rows that you have.

    A watch of the table brings them as well, but not to a node that has yet to learn how to reach the table's tail.
    """

    asks: bool
    rows: list


@message(214)
class NodeTicket(Message):
    """Node -> node: a join string of the sender, a secret.  A node that was declared dead joins again by it."""

    join: str
