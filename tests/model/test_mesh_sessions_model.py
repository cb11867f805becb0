"""Meshes that forget each other and dial anew, over a network that loses, doubles and reorders frames.

Whoever forgets loses what it had not sent; what is said once nobody forgets any more must arrive, whoever forgot whom
in which order, and each stream in its order.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings, strategies as st

from zray.sim.mesh import FrameNetwork, Wire
from zray.sim.network import Faults
from zray.sim.process import Process
from zray.wire.messages import Bye

NAMES = (b"aaaa\0\0\0\1", b"bbbb\0\0\0\1")
SECONDS = 60.0


class Speaker(Process):
    """A process that remembers what it hears."""

    def __init__(self, wire: Wire, name: bytes) -> None:
        self.heard: list[str] = []
        super().__init__(wire, name)
        self.mesh.on_error = _fail

    def on_message(self, peer: bytes, code: int, message: Any) -> None:
        self.heard.append(message.reason)

    def turn(self) -> None:
        pass

    def say(self, peer: bytes, word: str) -> None:
        self.mesh.send(peer, Bye.CODE, Bye(word))
        self.stir()


def _fail(error: Exception) -> None:
    raise error


what = st.tuples(st.sampled_from(("say", "say", "forget", "reset", "dial", "wait")), st.integers(0, 1))


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1 << 30), script=st.lists(what, max_size=25), drop=st.sampled_from((0.0, 0.2)))
def test_after_all_that_was_forgotten_they_hear_each_other_again(seed, script, drop):
    net = FrameNetwork(seed, Faults(0.001, 0.02, slow=0.1, drop=drop, duplicate=drop))
    wire = Wire(net)
    both = [Speaker(wire, name) for name in NAMES]
    endpoints = [speaker.mesh.serve_tcp() for speaker in both]

    def dial(one: int) -> None:
        both[one].mesh.connect(NAMES[1 - one], endpoints[1 - one])
        both[one].stir()

    dial(0)
    for number, (word, one) in enumerate(script):
        if word == "say":
            both[one].say(NAMES[1 - one], str(number))
        elif word == "forget":
            both[one].mesh.forget(NAMES[1 - one])
        elif word == "reset":
            wire.reset(*NAMES)
        elif word == "dial":
            dial(one)
        else:
            net.run_until(net.now + net.random.uniform(0, 0.5))
    net.run_until(net.now + 1.0)  # what was about to close has closed
    net.heal()
    dial(0)
    both[0].say(NAMES[1], "one")
    net.run_until(net.now + SECONDS, lambda: "one" in both[1].heard)
    both[1].say(NAMES[0], "two")
    net.run_until(net.now + SECONDS, lambda: "two" in both[0].heard)
    assert "one" in both[1].heard and "two" in both[0].heard
    for speaker in both:
        speaker.mesh.check()
