"""Every message between processes, declared once.

A message is a named tuple with a ``CODE``; on the wire it is ``code, [fields...]`` (see zray.wire.codec).  Fields are
append-only and new ones have defaults, so old and new peers understand each other.  Allowed field types are read
from the annotations: ``int float bool str bytes list dict None`` and unions of them.

Values (results, arguments) travel in one of these wire forms, which only workers and drivers look into:

    bytes                                      the serialised value itself (inline)
    [STORED, offset, nbytes, generation, oid, node]   the value lies in the object store of that node (an incarnation)
    [FAILED, kind, detail]                     an error: kind names it, detail is bytes or a map (zray.base.errors)
    [CARRYING, value, [[oid, owner, endpoint], ...], token]   a value whose pickle contains those references; the
                                               receiver names the token in TransitDone.  A fourth item is the
                                               value of that object, see zray/owner/eager_values.py
    [UNMADE, recipe, references, token]        in the place of that value: how to make it, see zray/owner/recipes.py

One file a subject.  Code ranges: 1-19 session, 20-49 leases and workers, 50-69 tasks, 70-79 references, 80-99 actors,
100-139 store, 140-159 control store, 160-189 node and jobs, 190-219 between nodes, 220-229 configuration register,
230-239 cluster view, 240-249 placement groups.
"""

from __future__ import annotations

from zray.wire.messages.actors import (
    ActorExit,
    ActorInit,
    ActorReply,
    ActorState,
    ActorUp,
    CallsDone,
    CreateActor,
    KillActor,
    LookupActor,
    PushCalls,
    WatchActor,
)
from zray.wire.messages.base import (
    BY_CODE,
    CARRYING,
    FAILED,
    FEATURES,
    FIELD_TYPES,
    PROTOCOL,
    SIGNATURES,
    STORED,
    UNMADE,
    Message,
    message,
)
from zray.wire.messages.checkpoints import (
    AskCheckpoint,
    CallerNews,
    CallerSeen,
    CallsCovered,
    CheckpointHere,
    CheckpointKept,
    CheckpointPart,
    CheckpointSaved,
    DropCheckpoints,
    FetchCheckpoint,
    LoggedDone,
    OfferCalls,
    PushLogged,
    ReadCheckpoint,
    SaveCheckpoint,
    StateLost,
)
from zray.wire.messages.cluster import (
    ActorNotPlaced,
    ActorPlaced,
    ActorWorkerDied,
    AdoptActor,
    BindTcp,
    Bound,
    Dial,
    DialAnswer,
    EndWorker,
    JobEnd,
    JobStart,
    NodeGone,
    NodeJoin,
    NodeJoined,
    NodeLeave,
    NodeRows,
    NodeTicket,
    PlaceActor,
    Relay,
    ResizeLease,
    UnplaceActor,
)
from zray.wire.messages.gcs import (
    ChainAck,
    ChainFetch,
    ChainSnapshot,
    ChainUpdates,
    GcsEvents,
    GcsRedirect,
    GcsReply,
    GcsRequest,
    GcsUnwatch,
    GcsWatch,
)
from zray.wire.messages.groups import (
    BundleAck,
    BundleCommit,
    BundleReserve,
    BundleReserved,
    BundleReturn,
    CreateGroup,
    GroupReply,
    GroupState,
    RemoveGroup,
    WatchGroup,
)
from zray.wire.messages.leases import (
    Blocked,
    FenceOwner,
    LeaseGrant,
    LeaseKey,
    LeaseKill,
    LeaseOpen,
    LeaseRecall,
    LeaseReturn,
    LeaseStatus,
    LeaseWant,
    OwnerFenced,
    WorkerDied,
)
from zray.wire.messages.node import (
    DriverAccepted,
    EventReport,
    Goodbye,
    JobOver,
    JobSettings,
    LogLines,
    MetricsReport,
    NodeAnswer,
    NodeQuery,
    ProcessAnswer,
    ProcessGone,
    ProcessQuery,
    RegisterDriver,
    ResumeReport,
    SpanReport,
    TaskFailures,
    WorkerExit,
    WorkerReady,
)
from zray.wire.messages.references import (
    Because,
    CancelObject,
    HoldAck,
    HoldAdd,
    HoldDrop,
    Locate,
    ObjectLost,
    Resolved,
    TransitDone,
    Why,
)
from zray.wire.messages.register import (
    ConfigIs,
    Heartbeat,
    LeaseAsk,
    LeasePromise,
    NodeStanding,
    RegisterAccept,
    RegisterAccepted,
    RegisterPrepare,
    RegisterPromise,
    RegisterRefused,
)
from zray.wire.messages.schedule import PlaceAnswer, PlaceAsk, ViewRows
from zray.wire.messages.session import Bye, Hello, HelloAck
from zray.wire.messages.store import (
    AskHeld,
    Chunk,
    CopyGone,
    CopyMade,
    DropCopies,
    Held,
    KeepCopies,
    PullChunk,
    PullElsewhere,
    PullEnd,
    PullObject,
    PullRefused,
    PullWait,
    StoreCollect,
    StoreFree,
    StoreGrant,
    StoreKeep,
    StoreKept,
    StoreLocate,
    StoreLocated,
    StorePull,
    StorePulling,
    StoreRecall,
    StoreReclaimed,
    StoreRefused,
    StoreRestore,
    StoreRestored,
    StoreSurrender,
    StoreWant,
)
from zray.wire.messages.tasks import (
    CancelTask,
    FunctionDef,
    HandBack,
    MapDone,
    PushMap,
    PushTasks,
    StreamAck,
    StreamItem,
    TasksDone,
)

__all__ = [
    "ActorExit", "ActorInit", "ActorReply", "ActorState", "ActorUp", "CallsDone", "CreateActor", "KillActor",
    "LookupActor", "PushCalls", "WatchActor", "BY_CODE", "CARRYING", "FAILED", "FEATURES", "FIELD_TYPES", "Message",
    "PROTOCOL", "SIGNATURES", "STORED", "UNMADE", "message", "ActorNotPlaced", "ActorPlaced", "ActorWorkerDied",
    "AdoptActor", "BindTcp", "Bound", "Dial", "DialAnswer", "EndWorker", "JobEnd", "JobStart", "NodeGone",
    "NodeJoin", "NodeJoined", "NodeLeave", "NodeRows", "NodeTicket", "PlaceActor", "Relay", "ResizeLease",
    "UnplaceActor",
    "ChainAck", "ChainFetch", "ChainSnapshot", "ChainUpdates", "GcsEvents", "GcsRedirect", "GcsReply", "GcsRequest",
    "GcsUnwatch", "GcsWatch", "BundleAck", "BundleCommit", "BundleReserve", "BundleReserved", "BundleReturn",
    "CreateGroup", "GroupReply", "GroupState", "RemoveGroup", "WatchGroup", "Blocked", "LeaseGrant", "LeaseKey",
    "LeaseKill", "LeaseOpen", "LeaseRecall", "LeaseReturn", "LeaseStatus", "LeaseWant", "WorkerDied", "FenceOwner",
    "OwnerFenced", "DriverAccepted", "EventReport", "Goodbye", "JobSettings", "JobOver", "LogLines",
    "MetricsReport", "NodeAnswer", "ProcessAnswer", "ProcessQuery", "TaskFailures", "NodeQuery", "ProcessGone",
    "RegisterDriver", "ResumeReport", "SpanReport", "WorkerExit", "WorkerReady", "Because", "CancelObject", "HoldAck",
    "HoldAdd", "HoldDrop", "Locate", "ObjectLost", "Resolved", "TransitDone", "Why", "ConfigIs", "Heartbeat",
    "LeaseAsk", "LeasePromise", "NodeStanding",
    "RegisterAccept", "RegisterAccepted", "RegisterPrepare", "RegisterPromise", "RegisterRefused",
    "PlaceAnswer", "PlaceAsk", "ViewRows", "Bye", "Hello", "HelloAck", "Chunk", "CopyGone", "CopyMade",
    "DropCopies", "KeepCopies", "PullChunk", "PullElsewhere", "PullEnd", "PullObject", "PullRefused", "PullWait",
    "StoreCollect", "StoreFree", "StoreGrant", "StoreLocate", "StoreKeep", "StoreKept", "StoreLocated", "StorePull",
    "StorePulling", "StoreRecall", "StoreReclaimed", "StoreRefused", "StoreRestore", "StoreRestored",
    "StoreSurrender", "StoreWant", "CancelTask", "FunctionDef", "HandBack", "MapDone", "PushMap", "PushTasks",
    "StreamAck", "StreamItem", "TasksDone", "AskHeld", "Held",
    "AskCheckpoint", "CallerNews", "CallerSeen", "CallsCovered", "CheckpointHere", "CheckpointKept", "CheckpointPart",
    "CheckpointSaved", "DropCheckpoints", "FetchCheckpoint", "LoggedDone", "OfferCalls", "PushLogged", "ReadCheckpoint",
    "SaveCheckpoint", "StateLost",
]
