"""Simulated tasks: small deterministic programs, and the value of each.

A program is a list ``[kind, x, seconds, parts]``.  ``x`` salts its value, ``parts`` are programs or numbers.  ``run``
is a generator; it yields its requests to the process:

    ("sleep", seconds)        time passes
    ("wait", [record, ...])   blocked in get until all are ready
    ("item", number)          the next item of a generator, which is sent
    ("return", value)         the next item of a generator whose items are the returns of its task
    ("crash",)                the process ends here, without a message
    ("exit", may_restart)     the actor ends, and no call gets a reply

``expected`` computes the value without a run: a number, a list of numbers (several returns, stream items), or FAILS
when it raises.  The oracle knows the errors that a fault may cause in its place (zray.sim.oracle).

    value   sleep, then a number of x and the arguments
    raise   sleep, then an exception
    flaky   an exception that is retried while attempt < parts[0], then a number as for value
    many    parts[0] returns                       stream   parts[0] items
    fixed   a generator of parts[1] items for parts[0] returns; then it raises while attempt < parts[2]
    dynamic the same with num_returns="dynamic", without parts[0]: its value is their count, with references to them
    nested  children, waited for                   depend   put, a child that takes it as its argument
    chain   parts[0] children, each the argument of the next, the last waited for
    give    a value with references inside: a put, a child's result, its arguments
    keep    keeps its arguments                    take     gets its borrowed references
    hand    passes its references on to a child    burst    parts[0] children at once
    crash   ends its process while attempt < parts[0], with what it has put
    exit    ends its actor; parts[0]: it may be restarted
    actor   creates an actor, calls it, drops it
    calls   calls the actor parts[1], whose handle is an argument
    apply   a call of an actor with checkpoints: changes its state (zray.sim.applied)
    applies makes parts[0] such calls of the actor parts[1], whose handle is an argument
    group   creates a placement group [bundles, strategy, resource], runs a task in each bundle, removes it
    groups  parts[0] groups at once; the rest of parts describes each
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from random import Random
from typing import Any

import msgpack

from zray.handles.options import DYNAMIC, STREAMING
from zray.sched.resources import UNIT
from zray.sim.failure import ValueLost
from zray.worker.queue import ARGS

FAILS = "fails"
ALWAYS = 99  # in the place of attempts: it raises in each
APPLIED = "applied"  # the value is a number of the actor's state
FRESH = {"LD_PRELOAD": "simulated"}
MODULUS = 1 << 40
LEAVES = ("value", "value", "value", "raise", "flaky", "crash", "many", "stream")
LINK = "link"  # the function of all tasks in chains
INNER = ("nested", "nested", "depend", "give", "keep", "take", "hand", "burst", "actor")


def mix(*numbers: int) -> int:
    total = 17
    for number in numbers:
        total = (total * 1_000_003 + number) % MODULUS
    return total


def make(random: Random, depth: int, seconds_max: float, *, refs: bool = False) -> list[Any]:
    """A random program; ``refs``: it gets references."""
    x = random.randrange(1 << 20)
    seconds = random.choice((0.0, random.uniform(0, 0.0005), random.uniform(0, seconds_max)))
    kinds: tuple[str, ...] = LEAVES if depth == 0 else LEAVES + INNER + INNER
    if refs and random.random() < 0.7:
        kinds = ("keep", "take", "give", "hand")
    kind = random.choice(kinds)
    return [kind, x, seconds, _parts(kind, random, depth, seconds_max)]


def _parts(kind: str, random: Random, depth: int, seconds_max: float) -> list[Any]:
    def child(refs: bool = False) -> list[Any]:
        inner = make(random, max(0, depth - 1), seconds_max, refs=refs)
        # Only drivers handle several returns and streams.
        return [*inner[:1], *inner[1:]] if inner[0] not in ("many", "stream") else ["value", *inner[1:3], []]

    if kind in ("many", "stream"):
        return [random.randint(1, 4)]
    if kind in ("crash", "flaky"):
        return [random.randint(1, 2)]
    if kind in ("nested", "burst"):
        return [child() for _ in range(random.randint(1, 3) if kind == "nested" else 6)]
    if kind == "depend":
        return [["value", random.randrange(1 << 20), 0.0, []]]
    if kind in ("give", "hand"):
        return [child(refs=kind == "hand")]
    if kind in ("actor", "calls"):
        return [random.randint(1, 4)]
    return []


def env_of(program: list[Any]) -> dict[str, Any]:
    """The runtime environment of a task: sometimes a variable that must be set when its worker starts, or a folder that
    its node must install."""
    sometimes: dict[int, dict[str, Any]] = {0: {"env_vars": FRESH}, 1: {"working_dir": "zray://simulated.zip"}}
    return sometimes.get(program[1] % 16, {})


def group_of(task: list[Any]) -> str:
    """The concurrency group of a call, as a method's decorator says it."""
    program, _ = msgpack.unpackb(task[ARGS])
    return "io" if program[1] % 2 else ""


def returns(program: list[Any]) -> int:
    """num_returns, as on the wire."""
    kind, parts = program[0], program[3]
    return parts[0] if kind in ("many", "fixed") else {"stream": STREAMING, "dynamic": DYNAMIC}.get(kind, 1)


def make_generator(random: Random, seconds_max: float) -> list[Any]:
    """A generator whose items are the returns of its task."""
    kind, x = random.choice(("fixed", "dynamic", "dynamic")), random.randrange(1 << 20)
    count, until = random.randint(1, 4), random.choice((0, 0, 0, 1, 2, ALWAYS))
    made = random.randint(0, 5) if random.random() < 0.4 else count
    parts = [count, made, until] if kind == "fixed" else [made, until]
    return [kind, x, random.choice((0.0, random.uniform(0, seconds_max))), parts]


def items(program: list[Any], deps: list[Any]) -> list[Any]:
    """The values of a generator's items, and FAILS at the end if it raises in each attempt."""
    _, x, _, (*_, made, until) = program
    return [*(mix(x, i, *deps) for i in range(made)), *[FAILS] * (until == ALWAYS)]


def always_raises(program: list[Any]) -> bool:
    """Whether each attempt raises; a generator with fewer items than returns does."""
    kind, parts = program[0], program[3]
    return kind == "raise" or kind == "fixed" and parts[1] < parts[0]


def retried_errors(program: list[Any]) -> bool | list[str]:
    """The retry_exceptions of a task: some that raise are retried in vain, some retry another exception only."""
    kind, x = program[:2]
    if kind == "map":
        return bool(program[3][0])
    if kind == "flaky" or kind in ("fixed", "dynamic") and 0 < program[3][-1] < ALWAYS:
        return True if x % 2 else ["raised"]
    return (False, True, ["raised"], ["another"])[x % 4] if kind == "raise" else False


def expected(program: list[Any], deps: list[Any], nested: list[Any]) -> Any:
    """The value that ``program`` has with these values of arguments and of references inside them."""
    kind, x, _, parts = program
    if FAILS in deps:
        return FAILS
    if kind == "raise":
        return FAILS
    if kind == "apply":
        return APPLIED
    if kind == "applies":
        return mix(x)
    if kind in ("many", "stream"):
        return [mix(x, i, *deps) for i in range(parts[0])]
    if kind == "fixed":
        return [*items(program, deps), *[FAILS] * parts[0]][:parts[0]]
    if kind == "dynamic":
        return len(items(program, deps))
    if kind == "chain":
        number = 0
        for program in links(x, parts[0]):
            number = expected(program, [number] if number else [], [])
        return mix(x, number)
    if kind in ("nested", "burst"):
        return _of(x, [expected(part, [], []) for part in parts])
    if kind == "depend":
        return _of(x, [expected(parts[0], [mix(x)], [])])
    if kind == "take":
        return _of(x, nested)
    if kind == "hand":
        return _of(x, [expected(parts[0], [], nested)])
    if kind in ("actor", "calls"):
        return mix(x, *(mix(mix(x, i)) for i in range(parts[0])))
    if kind in ("group", "groups"):
        count, bundles = (1, parts[0]) if kind == "group" else (parts[0], parts[1])
        return mix(x, *(mix(mix(x, i)) for _ in range(count) for i in range(bundles)))
    return mix(x, *deps)


def _of(x: int, values: list[Any]) -> Any:
    return FAILS if FAILS in values else mix(x, *values)


def links(x: int, count: int) -> list[list[Any]]:
    """The programs of a chain; all in the same environment, so with one scheduling key."""
    return [["value", mix(x, i) // 16 * 16 + 2, 0.0, []] for i in range(count)]


class Given:
    """A value with references inside; the receiver drops the references."""

    __slots__ = ("number", "refs")

    def __init__(self, number: int, refs: list[Any]) -> None:
        self.number, self.refs = number, refs


def run(program: list[Any], deps: list[int], nested: list[Any], core: Any, attempt: int) -> Generator[Any, Any, Any]:
    """The body of a task.  The caller drops ``nested``; everything made here is dropped here."""
    kind, x, seconds, parts = program
    scratch = core.put(mix(x, 9)) if x % 2 or kind == "crash" else None  # it may end before it drops this
    try:
        if seconds:
            yield "sleep", seconds
    except GeneratorExit:  # it was cancelled, before it could end its process
        if scratch is not None:
            scratch.drop()
        raise
    if scratch is not None and (kind != "crash" or attempt >= parts[0]):
        scratch.drop()
    if kind == "raise":
        raise core.failure("task_error", "raised")
    if kind == "flaky" and attempt < parts[0]:
        for ref in nested:
            core.keep(ref)
        raise core.failure("task_error", "raised")
    if kind == "crash" and attempt < parts[0]:
        yield ("crash",)
    if kind == "exit":
        yield "exit", parts[0]
    if kind == "many":
        return [mix(x, i, *deps) for i in range(parts[0])]
    if kind == "stream":
        for i in range(parts[0]):
            yield "item", mix(x, i, *deps)
            if seconds:
                yield "sleep", seconds / 4
        return None
    if kind in ("fixed", "dynamic"):
        for i in range(parts[-2]):
            number = mix(x, i, *deps)
            yield "return", number if number % 3 else Given(number, [core.put(mix(x, 7, i))])
            if seconds:
                yield "sleep", seconds / 4
        if attempt < parts[-1]:
            raise core.failure("task_error", "raised")
        return None
    if kind in ("nested", "burst"):
        return mix(x, *(yield from _children(core, [(part, [], []) for part in parts])))
    if kind == "chain":
        refs: list[Any] = []
        for link in links(x, parts[0]):
            before, refs = refs, core.submit(link, refs, measured=LINK)
            for ref in before:
                ref.drop()
        try:
            return mix(x, *(yield from _values(core, refs)))
        finally:
            for ref in refs:
                ref.drop()
    if kind == "depend":
        put = core.put(mix(x))
        return mix(x, *(yield from _children(core, [(parts[0], [put], [])], [put])))
    if kind == "hand":
        return mix(x, *(yield from _children(core, [(parts[0], [], nested)])))
    if kind == "take":
        return mix(x, *(yield from _values(core, nested)))
    if kind == "keep":
        for ref in nested:
            core.keep(ref)
        return mix(x, *deps)
    if kind == "give":
        return Given(mix(x, *deps), [core.put(mix(x, 7)), core.submit(parts[0])[0], *(ref.again() for ref in nested)])
    if kind == "actor":
        handle = core.create_actor(0)
        return mix(x, *(yield from _calls(core, handle, x, parts[0])))
    if kind in ("group", "groups"):
        return mix(x, *(yield from _in_groups(core, x, *((1, *parts) if kind == "group" else parts))))
    if kind == "apply":
        return core.apply(x)
    if kind == "applies":
        yield from _applies(core, core.handle_of(parts[1], nested[0]), parts[0])
        return mix(x)
    if kind == "calls":
        return mix(x, *(yield from _calls(core, core.handle_of(parts[1], nested[0]), x, parts[0])))
    return mix(x, *deps)


def _children(core: Any, calls: list[tuple[Any, list[Any], list[Any]]], drop: Sequence[Any] = ()
              ) -> Generator[Any, Any, Any]:
    refs = [core.submit(program, deps, nested)[0] for program, deps, nested in calls]
    for ref in drop:
        ref.drop()
    try:
        return (yield from _values(core, refs))
    finally:
        for ref in refs:
            ref.drop()


def _values(core: Any, refs: list[Any]) -> Generator[Any, Any, Any]:
    if any(not ref.ready for ref in refs):
        yield "wait", [ref.record for ref in refs]
    values = []
    for ref in refs:
        number, inner = yield from _value(core, ref)
        for part in inner:
            if number % 2:
                core.keep(part)
            part.drop()
        values.append(number)
    return values


def _value(core: Any, ref: Any) -> Generator[Any, Any, Any]:
    while True:
        while seconds := core.fetch(ref.record.value):
            yield "sleep", seconds
        try:
            return core.load(ref)
        except ValueLost:
            yield "wait", [ref.record]


def _calls(core: Any, handle: Any, x: int, count: int) -> Generator[Any, Any, Any]:
    refs = [core.call(handle, mix(x, i)) for i in range(count)]
    handle.drop()
    try:
        return (yield from _values(core, refs))
    finally:
        for ref in refs:
            ref.drop()


def _applies(core: Any, handle: Any, count: int) -> Generator[Any, Any, Any]:
    refs = [core.call_apply(handle) for _ in range(count)]
    handle.drop()
    try:
        yield from _values(core, refs)
    finally:
        for ref in refs:
            ref.drop()


def _in_groups(core: Any, x: int, count: int, bundles: int, strategy: str, resource: str) -> Generator[Any, Any, Any]:
    groups = [core.own_group(bundles, strategy, resource) for _ in range(count)]
    refs = [core.submit(["value", mix(x, i), 0.0, []], demand={resource: UNIT},
                        strategy={"kind": "group", "group": group, "bundle": i if (x + i) % 3 else -1})[0]
            for group in groups for i in range(bundles)]
    try:
        return (yield from _values(core, refs))
    finally:
        for ref in refs:
            ref.drop()
        for group in groups:
            core.end_group(group)
