"""Random graphs: what the processes of a plan do together is what the graph says, errors included."""

from __future__ import annotations

import queue
import threading
from collections import defaultdict

from hypothesis import given, settings, strategies as st

from zray.base.errors import load_error
from zray.dag import InputNode, MultiOutputNode
from zray.dag.calls import ClassMethodNode
from zray.dag.loop import Failed, execute
from zray.dag.plan import DRIVER, INPUT, make_plan
from zray.handles.remote import ActorHandle

ACTORS = [ActorHandle(bytes([number]) * 16, b"", None) for number in range(3)]
WAIT_S = 20  # for a thread that another one should wake


class Bad(Exception):
    pass


def add(*args, **kwargs):
    total = sum(args) + sum(kwargs.values())
    if total % 7 == 3:
        raise Bad(total)
    return total + 1


def split(*args, **kwargs):
    return add(*args, **kwargs), -1


METHODS = {"add": add, "split": split}


@st.composite
def graphs(draw):
    """``(root, evaluate)``: a graph, and the oracle: the values of its outputs for an input, or Bad."""
    with InputNode() as value:
        nodes = [(value, lambda x: x)]
    for _ in range(draw(st.integers(1, 7))):
        method, actor = draw(st.sampled_from(sorted(METHODS))), draw(st.sampled_from(ACTORS))
        used = draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=3))
        constant = draw(st.integers(0, 3))
        named = {"more": used.pop()} if len(used) > 1 and draw(st.booleans()) else {}
        call = ClassMethodNode(actor, method, (*(node for node, _ in used), constant),
                               {name: node for name, (node, _) in named.items()}, {}, 2 if method == "split" else 1)

        def run(x, method=method, used=tuple(used), named=named, constant=constant):
            more = {name: of(x) for name, (_, of) in named.items()}
            return METHODS[method](*(of(x) for _, of in used), constant, **more)

        outputs = call.outputs()
        if method == "split":
            nodes += [(outputs[0], lambda x, run=run: run(x)[0]), (outputs[1], lambda x, run=run: run(x)[1])]
        else:
            nodes.append((outputs, run))
    results = draw(st.lists(st.sampled_from(nodes[1:]), min_size=1, max_size=3))

    def evaluate(x):
        found = []
        for _, of in results:
            try:
                found.append(of(x))
            except Bad:
                found.append(Bad)
        return found

    return MultiOutputNode([node for node, _ in results]), evaluate


class FakeChannels:
    """The channels of one process, as queues."""

    def __init__(self, queues, plan, process):
        self.queues, self.process, self.readers = queues, process, plan.channels
        self.writers = plan.writes(process)

    def read(self, number):
        return self.queues[number, self.process].get(timeout=WAIT_S)

    def write(self, number, value):
        for reader in self.writers[number]:
            self.queues[number, reader].put(value)


@settings(max_examples=150)
@given(graphs(), st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_processes_that_follow_a_plan_compute_the_graph(made, inputs):
    root, evaluate = made
    plan = make_plan(root)
    assert all(writer not in readers for writer, readers in plan.channels.values())
    queues = defaultdict(queue.Queue)
    for number, (_, readers) in plan.channels.items():
        for reader in readers:
            queues[number, reader] = queue.Queue()

    def follow(place):
        methods = [METHODS[operation.method] for operation in plan.operations[place]]
        for _ in inputs:
            execute(plan.operations[place], methods, FakeChannels(queues, plan, place))

    threads = [threading.Thread(target=follow, args=(place,)) for place in range(len(plan.actors))]
    for thread in threads:
        thread.start()
    driver = FakeChannels(queues, plan, DRIVER)
    for x in inputs:  # all of them are in flight
        driver.write(INPUT, ((x,), {}))
    for x in inputs:
        values = {number: driver.read(number) for number in dict.fromkeys(plan.outputs)}
        found = [Bad if isinstance(values[number], Failed) and isinstance(load_error(values[number].payload), Bad)
                 else values[number] for number in plan.outputs]
        assert found == evaluate(x)
    for thread in threads:
        thread.join(WAIT_S)
    assert not any(waiting.qsize() for waiting in queues.values()), "every message is read: slots may be used again"
