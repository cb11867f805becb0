"""Strangers and bad guests at a TCP port, while an honest peer keeps talking.

    python -m fuzz.hostile_peers --seed 1 --rounds 200 --silent 1000

One seed is one run.  None of it may crash the mesh, cost the honest peer its connection, or leave a descriptor behind,
and not one byte of a stranger may reach the decoder: theirs say so, and the decoder fails on them.
"""

from __future__ import annotations

import os
import resource
import socket
import tempfile
import time
from collections.abc import Callable
from random import Random
from typing import Any

import zmq

from fuzz.command import with_options
from zray.base.ids import new_incarnation
from zray.transport import curve, envelope
from zray.transport.mesh import Limits, Mesh
from zray.wire.codec import decode, encode
from zray.wire.messages import Bye

STRANGER = b"a stranger's bytes"
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\x00" + bytes(31)
LIMITS = Limits(handshake_s=0.5, session_frames_max=64, connections_max=4096)
PATIENCE_S = 20.0


class Victim:
    """A mesh with a TCP port, and an honest peer that talks to it."""

    def __init__(self, directory: str):
        self.keys, self.guest, self.revoked = curve.new_keys(), curve.new_keys(), curve.new_keys()
        self.errors: list[Exception] = []
        self.heard = self.answered = 0
        self.mesh = Mesh(new_incarnation(), 1, f"ipc://{directory}/victim", encode, self._decode, time.monotonic,
                         limits=LIMITS)
        self.mesh.keys, self.mesh.on_error = self.keys, self.errors.append
        listed = {self.guest.public: "guest", self.revoked.public: "revoked"}
        self.mesh.allowed = lambda key: listed.get(key, "")
        self.endpoint = self.mesh.serve_tcp()
        self.address = curve.parse_endpoint(self.endpoint).address
        self.port = int(self.address.rpartition(":")[2])
        self.honest = Mesh(new_incarnation(), 1, None, encode, decode, time.monotonic)
        self.honest.keys, self.honest.on_error = self.guest, self.errors.append
        self.honest.on_closed = lambda peer: self.errors.append(RuntimeError("the honest peer lost its connection"))
        self.honest.connect(self.mesh.incarnation, self.endpoint)
        once = dealer(self, self.revoked, self.keys.public, [[b"not a frame"]])
        self.until(lambda: self.mesh.counters["malformed"] == 1, "the key that is to be revoked was not let in")
        leave(once)
        del listed[self.revoked.public]

    def _decode(self, body: bytes | memoryview) -> list[tuple[int, Any]]:
        if STRANGER in bytes(body):
            self.errors.append(AssertionError("a stranger's bytes reached the decoder"))
        return decode(body)

    def _on_message(self, peer: bytes, code: int, message: Any) -> None:
        self.heard += 1
        if message == Bye("ping"):
            self.mesh.send(peer, Bye.CODE, Bye("pong"))

    def _on_answer(self, peer: bytes, code: int, message: Any) -> None:
        self.answered += 1

    def turn(self) -> None:
        for mesh, on_message in ((self.mesh, self._on_message), (self.honest, self._on_answer)):
            mesh.poll(0.001)
            mesh.clear_wake()
            mesh.flush()
            mesh.drain(on_message)
            mesh.tick(mesh.clock())
            mesh.flush()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > give_up:
                raise AssertionError(f"{what}: not within {PATIENCE_S} s; gate {dict(self.mesh.gate)}, "
                                     f"mesh {dict(self.mesh.counters)}")
            self.turn()

    def ping(self) -> None:
        """The honest peer asks and is answered."""
        before = self.answered
        self.honest.send(self.mesh.incarnation, Bye.CODE, Bye("ping"))
        self.until(lambda: self.answered > before, "the honest peer was not answered")
        self.mesh.check()
        if self.errors:
            raise self.errors[0]

    def close(self) -> None:
        self.honest.close()
        self.mesh.close()


# ---------------------------------------------------------------- who comes


def raw(victim: Victim, random: Random, said: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", victim.port))
    try:
        connection.sendall(said)
    except OSError:
        pass  # it was shut already
    return connection


def noise(victim: Victim, random: Random) -> Any:
    return raw(victim, random, random.randbytes(random.randrange(1, 5000)) + STRANGER)


def half_a_greeting(victim: Victim, random: Random) -> Any:
    return raw(victim, random, GREETING[:random.randrange(64)])


def bad_command(victim: Victim, random: Random) -> Any:
    flags, size = random.choice((0, 1, 2, 4, 6, 255)), random.randrange(256)
    name = random.choice((b"\x05HELLO", b"\x08INITIATE", b"\x05READY", b"\x07MESSAGE", b"\x04PING", b""))
    rest = random.randbytes(random.randrange(300)) + STRANGER
    return raw(victim, random, GREETING + bytes((flags, size)) + name + rest)


def huge_command(victim: Victim, random: Random) -> Any:
    size = random.choice((2**63, 2**40, LIMITS.tcp_message_bytes_max + 1, LIMITS.tcp_message_bytes_max))
    return raw(victim, random, GREETING + b"\x06" + size.to_bytes(8, "big") + random.randbytes(10_000) + STRANGER)


def dealer(victim: Victim, keys: curve.Keys | None, server_key: bytes, frames: list[list[bytes]]) -> Any:
    context = zmq.Context()
    one = context.socket(zmq.DEALER)
    one.set_hwm(0)
    one.setsockopt(zmq.LINGER, 0)
    one.setsockopt(zmq.RECONNECT_IVL, -1)
    one.setsockopt(zmq.ROUTING_ID, new_incarnation() + b"\0\0\0\1")
    if keys is not None:
        one.setsockopt(zmq.CURVE_SERVERKEY, server_key)
        one.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        one.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    one.connect(victim.address)
    for frame in frames:
        try:
            one.send_multipart(frame, zmq.NOBLOCK)
        except zmq.Again:
            break  # it was turned away already
    return one


def hello(victim: Victim) -> list[list[bytes]]:
    body = encode([Bye.CODE, Bye(STRANGER.decode())])
    return [[envelope.pack(0, 1, new_incarnation(), victim.mesh.incarnation, 1 << 40 | 1, 0) + body]]


def without_curve(victim: Victim, random: Random) -> Any:
    return dealer(victim, None, b"", hello(victim))


def unlisted(victim: Victim, random: Random) -> Any:
    return dealer(victim, curve.new_keys(), victim.keys.public, hello(victim))


def revoked(victim: Victim, random: Random) -> Any:
    return dealer(victim, victim.revoked, victim.keys.public, hello(victim))


def wrong_server_key(victim: Victim, random: Random) -> Any:
    return dealer(victim, victim.guest, curve.new_keys().public, hello(victim))


def malformed_guest(victim: Victim, random: Random) -> Any:
    """A listed key whose frames are not ours: they are counted and dropped."""
    frames = [[random.randbytes(random.randrange(200)) for _ in range(random.randrange(1, 4))] for _ in range(20)]
    return dealer(victim, victim.guest, victim.keys.public, frames)


def slow_reader(victim: Victim, random: Random) -> Any:
    """A listed key that asks a lot and reads nothing: what is kept for it is bounded by the session's credit."""
    one = dealer(victim, victim.guest, victim.keys.public, [])
    me = one.getsockopt(zmq.ROUTING_ID)[:8]
    for number in range(1, 200):
        head = envelope.pack(0, 1, me, victim.mesh.incarnation, 1 << 40 | number, 0)
        one.send(head + encode([Bye.CODE, Bye("ping")]), zmq.NOBLOCK)
    return one


def silent(victim: Victim, random: Random) -> Any:
    return raw(victim, random, b"")


STRANGERS = (noise, half_a_greeting, bad_command, huge_command, without_curve, unlisted, revoked, wrong_server_key,
             silent)
GUESTS = (malformed_guest, slow_reader)


def leave(visitor: Any) -> None:
    if isinstance(visitor, zmq.Socket):
        context = visitor.context
        visitor.close(0)
        context.term()
    else:
        visitor.close()


def run(seed: int, rounds: int, silent_peers: int) -> dict[str, int]:
    """Returns what gate and mesh have counted; raises AssertionError, or what the mesh reported."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], min(2 * silent_peers + 500, limits[1])), limits[1]))
    try:
        return _run(Random(seed), rounds, silent_peers)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def _run(random: Random, rounds: int, silent_peers: int) -> dict[str, int]:
    before = len(os.listdir("/proc/self/fd"))
    with tempfile.TemporaryDirectory() as directory:
        victim = Victim(directory)
        victim.ping()
        visitors = [silent(victim, random) for _ in range(silent_peers)]
        if silent_peers:
            victim.until(lambda: victim.mesh.gate["accepted"] >= silent_peers, "the silent peers were not accepted")
        for number in range(rounds):
            visitors.append(random.choice(STRANGERS if number % 5 else GUESTS)(victim, random))
            victim.ping()
            if len(visitors) > silent_peers + 20:
                leave(visitors.pop(random.randrange(len(visitors))))
        for visitor in visitors:
            leave(visitor)
        gate = victim.mesh._tcp.gate  # type: ignore[union-attr]
        victim.until(lambda: gate.connections() == 1, "connections of those who left stay open")
        victim.ping()
        counts = {**victim.mesh.gate, **victim.mesh.counters}
        victim.close()
    after = len(os.listdir("/proc/self/fd"))
    assert after <= before, f"{after - before} descriptors leaked"
    return counts


def main(seed: int = 1, rounds: int = 200, silent: int = 1000) -> int:
    began = time.monotonic()
    print(run(seed, rounds, silent))
    print(f"{rounds} visitors and {silent} silent ones in {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(with_options(main, __doc__))
