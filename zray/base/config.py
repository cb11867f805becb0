"""Every setting in one place: typed, validated, with its unit last in the name.

A setting is read, first match wins, from ``init(_system_config={name: value})``, the environment
``ZRAY_<NAME>``, and the default below.  Nodes send theirs to the core processes of their session,
so a session has one Config. An unknown name is refused, with the nearest one.  docs/limits.md lists
all settings; a test compares both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from zray.base.hooks import check_hook
from zray.base.plain_numbers import plain

STORE_BYTES_MIN = 4 * 1024 * 1024  # the smallest object store that a node accepts
LOG_BYTES_MIN = 64 * 1024  # one line of output may be as long
# Variables of zray that are no settings.
_OTHER_VARIABLES = frozenset((
    "ADDRESS", "DEBUG", "DEBUG_POST_MORTEM", "DEDUP_LOGS", "FULL_TRACEBACKS", "IGNORE_UNHANDLED_ERRORS",
    "JOB_SUBMISSION_ID", "JOIN", "NOSET_CUDA_VISIBLE_DEVICES", "PYTHON", "RAY_VERSION", "RECORD_BY",
    "RUNTIME_ENV", "SAVED_BLAS", "TMPDIR"))
_ADDRESS = re.compile(r"[^\s/]*:\d{1,5}")
# how like a setting an unknown variable is: "node_timeout" is a slip, "log_level" belongs to
# another program
SLIP = 0.8


@dataclass(slots=True)
class Config:
    """Settings of a session, each with the reason for its number."""

    # Results and arguments up to this size travel inside messages: below it a copy is cheaper than a store round trip.
    inline_bytes_max: int = 64 * 1024
    # Inline bytes the owner's table may hold before further values go to the store.
    inline_table_bytes_max: int = 1024 * 1024 * 1024
    # Inline bytes of other processes' objects that a process keeps in case their owners die: the most common size of an
    # L3 slice, and a thousand of the largest inline values.
    kept_bytes_max: int = 64 * 1024 * 1024
    # An idle lease is kept this long for the next task of its key (a synchronous loop never gives it back).
    lease_idle_s: float = 0.2
    # Ways through shared memory to other processes of the node, which a process has at most; 132 KiB each; 0 for none.
    channels_max: int = 16
    # A wait looks at shared memory for so long before it blocks, while that has lately been of use; 0 for never.
    spin_s: float = 100e-6
    # Tasks in flight on one lease, at most, when they are short.
    run_ahead_max: int = 256
    # Tasks are pushed ahead only while (run time * tasks pushed) stays below this.
    run_ahead_s: float = 0.002
    # A get or wait without progress reports the reason after this long; 0 or -1 for never.
    warn_wait_s: float = 5.0
    # A caller-less process polls by itself after this long.
    service_after_s: float = 0.005
    # Worker processes kept idle for reuse (beyond the number of CPUs), and for how long.
    worker_idle_s: float = 60.0
    # Worker processes on one node, at most (2,000 actors plus blocked workers).
    workers_max: int = 4096
    # Object store, bytes; 0 means 30 % of memory, at most what /dev/shm offers.
    object_store_bytes: int = 0
    # Arena growth step.
    arena_step_bytes: int = 64 * 1024 * 1024
    # Extent handed to a client at its first put.
    extent_bytes: int = 8 * 1024 * 1024
    # A value waits this long for memory, then it goes to a file: measured, an object spills in 0.1 s for 100 MB.
    store_full_wait_s: float = 0.5
    # Unacknowledged frames and bytes a session keeps for one peer.
    session_frames_max: int = 1024
    session_bytes_max: int = 256 * 1024 * 1024
    # Bytes a frame gathers at most before it is sent.
    frame_bytes_max: int = 4 * 1024 * 1024
    # Messages for one process whose endpoint is looked up; with more of them it is given up.
    held_messages_max: int = 65_536
    # Connections from other machines that a process accepts, and at most half of its descriptors.
    tcp_connections_max: int = 8192
    # A dialled machine proves its key within this time.  User code that holds the GIL longer makes a dial fail.
    tcp_handshake_s: float = 5.0
    # How long a driver waits for its node to accept it: a starting node serves within a second.
    connect_wait_s: float = 15.0
    # Lines of worker output that a node reads in one turn, each 0.05 s; the rest waits in the log files.
    log_lines_max: int = 10_000
    # Bytes of a log file, also of a submitted job's.  Beyond it the oldest half of a worker's goes; the node's begins
    # anew beside the full one.
    log_bytes_max: int = 64 * 1024 * 1024
    # Tasks a second that a worker reports one by one for timeline and `list tasks`; 0 for none.  At 0.15 us each, plus
    # 2 us for sending and keeping, this is 0.2 % of a CPU.
    task_events_per_s_max: int = 1000
    # Task events kept by a node for timeline and state queries.
    events_max: int = 100_000
    # The same in bytes: 100,000 events of short tasks take some 30 MB, and an event with a traceback some 4 KB.
    events_bytes_max: int = 64 * 1024 * 1024
    # Ended attempts are listed for this long, failed ones seven times as long; 0: for ever.
    events_kept_s: float = 24 * 3600.0
    # What a session keeps of its rows in its folder after its end, for `zray report` and --session; 0: nothing.
    session_state_bytes_max: int = 8 * 1024 * 1024
    # A running node refreshes that at most this often, in case it is killed, and with at most a thousandth of a CPU; 0:
    # only at its end.
    session_state_s: float = 10.0
    # Processes note when they submit, get and collect garbage, for arrows and rows in the timeline.  Each call takes
    # 2 us more.
    timeline_details: bool = False
    # Record where references, tasks and actors are made, for call_site in the state API.  Each call takes 5 us more.
    record_ref_creation_sites: bool = False
    # The folder in which a driver and the workers of its job record what they do, for `zray replay`; "" for nowhere.
    record: str = ""
    # A recorded value is kept whole up to this size; of a larger one its digest is.
    record_value_bytes_max: int = 1024 * 1024
    # A process records no more than this: some 500,000 tasks with small arguments.
    record_bytes_max: int = 256 * 1024 * 1024
    # Ended workers that a node lists, with why they ended.  A row takes about 1 KB.
    ended_workers_max: int = 10_000
    # Series of metrics that a node keeps, of all its processes together; more are counted and left out.
    metric_series_max: int = 10_000
    # "module:function" that sets up OpenTelemetry in each driver and worker of the session; "" for no traces.  A driver
    # may have its own: init(_tracing_startup_hook=).
    tracing_startup_hook: str = ""
    # Where the node serves metrics to Prometheus, as host:port; ":9090" means this machine only, "" nowhere.
    metrics_address: str = ""
    # The node loads the compiled scheduling kernels before it serves; else it decides with their plain-Python twin,
    # which serves a lone node as well, and saves the 100 MB and 0.2 to 2 s of loading Numba.
    kernels_at_start: bool = False
    # A node sends the others its free resources at most this often (a change from idle to full at
    # once).  Ten messages a second and peer cost 0.1 % of a CPU, and a tenth of a second is the
    # longest wait of a want beside an idle node.
    gossip_s: float = 0.1
    # After this long without an answer, a lease is asked for at another node: ten round trips.
    spill_patience_s: float = 0.05
    # The directory of spilled objects; "" means the session directory.
    spill_dir: str = ""
    # An owner's records of finished tasks, for making results again that are lost with a node:
    # arguments and a record each, of at least 1 KiB: 64 MiB are some 50,000 results in the stores.
    # Without results there it costs nothing.
    lineage_bytes_max: int = 64 * 1024 * 1024
    # The arguments of finished calls to one actor with checkpoints that a caller keeps for a replay.  Beyond half of it
    # the caller asks for a checkpoint; beyond all of it further calls wait for that.
    call_log_bytes_max: int = 64 * 1024 * 1024
    # A package of local code (runtime_env's working_dir and py_modules), zipped.  The control store
    # has it in memory on up to three nodes while the job runs: code is megabytes, data belongs elsewhere.
    package_bytes_max: int = 256 * 1024 * 1024
    # Unpacked packages and virtual environments that a node keeps while no worker uses them.
    environments_kept_bytes_max: int = 10 * 1024 * 1024 * 1024
    # A node without messages for this long, whose process does not answer heartbeats either, is
    # declared dead.  It must start anew if it was not dead (at once, when its endpoint refuses
    # connections).
    node_timeout_s: float = 3.0
    # How often a node whose workers run something looks how much memory is left, at least; 0: never.  Ray's number.
    # 0.1 ms a look.  With much room left it looks once a second.
    memory_monitor_s: float = 0.25
    # From this share of the memory on, a node ends workers, before the kernel chooses a process.  Ray's number.
    memory_share_max: float = 0.95
    # Bytes that the workers of a node may hold together, beside what the machine and its control groups allow; 0: none.
    memory_limit_bytes: int = 0
    # A task or actor that holds more than its memory= is ended.  Off, as in Ray: there the number only places work.
    memory_enforced: bool = False
    # A daemon of `zray start` that was declared dead, and is not, ends its work and tries this long to join the cluster
    # again, as a new node; 0: it ends.  It has just been reached, so that a link that flaps is what takes long.
    rejoin_s: float = 60.0
    # How many logs of ended sessions of this user stay, the newest first, and for how long: a
    # program that fails over a weekend, run again and again.
    logs_sessions_max: int = 20
    logs_kept_s: float = 7 * 24 * 3600.0
    # Results that a job with resume=True keeps on disk for its next run, and for how long: a program that fails over a
    # weekend. Beyond the bytes the oldest go.
    resume_bytes_max: int = 4 * 1024 * 1024 * 1024
    resume_kept_s: float = 7 * 24 * 3600.0
    # A submitted job that is stopped gets SIGTERM, and SIGKILL after this long; Ray's number.
    job_stop_grace_s: float = 3.0
    # With ZRAY_DEBUG_POST_MORTEM=1 a task that raises waits so long for a debugger: a person reads the line, and a
    # program that runs alone over night still ends.
    post_mortem_wait_s: float = 600.0
    # Attempts of a task whose worker process died.
    task_max_retries: int = 3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kind: Any = {"int": int, "float": (int, float), "bool": bool, "str": str}[str(field.type)]
            if not isinstance(value, kind) or (field.type == "int" and isinstance(value, bool)):
                raise ValueError(f"setting {field.name} takes {field.type}, not {value!r}")
            if field.type in ("int", "float") and value < 0 and field.name != "warn_wait_s":
                raise ValueError(f"setting {field.name} must not be negative, got {value!r}")
        if not 0 < self.memory_share_max <= 1:
            raise ValueError("setting memory_share_max takes a share of the memory from 0 to 1, not "
                             f"{self.memory_share_max!r}")
        check_hook(self.tracing_startup_hook)
        if self.log_bytes_max < LOG_BYTES_MIN:
            raise ValueError(f"setting log_bytes_max takes at least {LOG_BYTES_MIN} bytes, not {self.log_bytes_max}")
        if self.metrics_address and not _ADDRESS.fullmatch(self.metrics_address):
            raise ValueError(f"setting metrics_address takes host:port or :port, not {self.metrics_address!r}")

    @classmethod
    def load(cls, overrides: dict[str, Any] | None = None) -> Config:
        """Defaults, then the environment, then ``overrides``.  ValueError for a name that is no setting."""
        refuse_unknown(overrides or ())
        chosen: dict[str, Any] = {}
        for field in fields(cls):
            text = os.environ.get(f"ZRAY_{field.name.upper()}")
            if text is not None:
                chosen[field.name] = _parse(field.name, str(field.type), text)
        chosen.update((name, plain(value)) for name, value in (overrides or {}).items())
        return cls(**chosen)

    @classmethod
    def of_session(cls, settings: dict[str, Any], overrides: dict[str, Any]) -> Config:
        """The settings of a node, under ``overrides``; a node of another version may have settings
        that are unknown here."""
        known = {name: value for name, value in settings.items() if name in cls.__dataclass_fields__}
        return cls.load({**known, **overrides})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def refuse_unknown(names: Iterable[Any]) -> None:
    """ValueError for names that are no settings; it names them and the nearest setting of each."""
    wrong = sorted(str(name) for name in set(names) - set(Config.__dataclass_fields__))
    if wrong:
        mistakes = ", ".join(name + _suggestion(nearest(name)) for name in wrong)
        raise ValueError(f"zray has no setting {mistakes}; docs/limits.md lists all settings")


def refuse_slips(environment: Mapping[str, str]) -> None:
    """ValueError for a variable ``ZRAY_<NAME>`` that is no setting and differs from one by a slip.

    Others are ignored: they may be zray's other variables, or a program's own.
    """
    for variable in sorted(environment):
        name = variable.removeprefix("ZRAY_")
        if name == variable or name in _OTHER_VARIABLES or name.lower() in Config.__dataclass_fields__:
            continue
        name = name.lower()
        setting = nearest(name, SLIP)
        if setting:
            raise ValueError(f"zray has no setting for the environment variable {variable}"
                             + _suggestion(f"ZRAY_{setting.upper()}"))


def nearest(name: str, likeness: float = 0.6) -> str:
    """The setting that is most like ``name``, '' when none is."""
    from difflib import get_close_matches  # for errors, and for variables that are no settings

    return "".join(get_close_matches(name, Config.__dataclass_fields__, 1, likeness))


def _suggestion(name: str) -> str:
    return f" (did you mean {name!r}?)" if name else ""


def _parse(name: str, kind: str, text: str) -> Any:
    try:
        if kind == "bool":
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
        return {"int": int, "float": float, "str": str}[kind](text)
    except (ValueError, KeyError):
        raise ValueError(f"environment variable ZRAY_{name.upper()}={text!r} is not a {kind}") from None


DEFAULTS = Config()  # for tests, the simulator, and other uses without a session
